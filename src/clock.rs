//! What time it is: one small concrete clock for everything that stamps or waits.
//!
//! A [`Clock`] is a wall-clock start and a tokio origin. It advances with tokio's time, so under a paused runtime an hour
//! of token life passes in milliseconds and everything that waits moves together. It implements the clock traits of
//! `governor` (here) and of `backoff` (in `http::retry`, the one file that names that crate).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A moment: milliseconds since 1970-01-01T00:00:00Z, the unit of the providers' own times. May be negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

impl Timestamp {
    /// From epoch milliseconds.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }
    /// Epoch milliseconds.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }
    /// Epoch microseconds, the lake's unit; saturates.
    #[must_use]
    pub const fn us(self) -> i64 {
        self.0.saturating_mul(1000)
    }
    /// From the operating system's time.
    #[must_use]
    pub fn from_system(t: SystemTime) -> Self {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Self(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
            Err(e) => Self(-i64::try_from(e.duration().as_millis()).unwrap_or(i64::MAX)),
        }
    }
    /// How long since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
    /// This moment moved on by `d`; saturates.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
    /// This moment moved back by `d`; saturates.
    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Timestamp> for String {
    fn from(t: Timestamp) -> Self {
        t.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = jiff::Error;
    fn try_from(text: String) -> Result<Self, jiff::Error> {
        if let Some(ms) = text.strip_suffix("ms").and_then(|n| n.parse().ok()) {
            return Ok(Self(ms));
        }
        text.parse::<jiff::Timestamp>().map(|t| Self(t.as_millisecond()))
    }
}

/// Tells the time and how much of it has passed. Cheap to clone; clones agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall_start: Timestamp,
    origin: Instant,
    /// The same moment by the machine's own clocks: of the time that it is awake, and of the time since it was started.
    awake: std::time::Instant,
    up: Option<Duration>,
}

/// The machine's own clocks differ by so much without its having slept: one of them counts hundredths of seconds.
const HARDLY_ASLEEP: Duration = Duration::from_secs(1);

/// Time since the machine was started, sleep included, where the system says (Linux: `/proc/uptime`).
fn up() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
thread_local! {
    /// How long a test wants the machine to have slept.
    pub(crate) static SLEPT: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

impl Clock {
    /// The machine's clock, read once; from then on it advances with tokio's time.
    #[must_use]
    pub fn system() -> Self {
        Self::starting_at(Timestamp::from_system(SystemTime::now()))
    }
    /// A clock that says `wall_start` now.
    #[must_use]
    pub fn starting_at(wall_start: Timestamp) -> Self {
        Self { wall_start, origin: Instant::now(), awake: std::time::Instant::now(), up: up() }
    }
    /// The wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall_start.plus(self.origin.elapsed())
    }
    /// Time since the clock was made; never goes back. While the machine sleeps it stands still.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
    /// The same with the time in which the machine was suspended, as others saw it pass.
    #[must_use]
    pub fn elapsed_for_others(&self) -> Duration {
        self.elapsed() + self.asleep()
    }

    fn asleep(&self) -> Duration {
        #[cfg(test)]
        let slept = SLEPT.get();
        #[cfg(not(test))]
        let slept = Duration::ZERO;
        let passed = self.up.zip(up()).map(|(then, now)| now.saturating_sub(then));
        let asleep = passed.unwrap_or_default().saturating_sub(self.awake.elapsed());
        slept + if asleep < HARDLY_ASLEEP { Duration::ZERO } else { asleep }
    }
}

impl governor::clock::Clock for Clock {
    type Instant = Duration;
    fn now(&self) -> Duration {
        self.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_moves_with_tokio_time() {
        let clock = Clock::starting_at(Timestamp::from_ms(1_700_000_000_000));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().ms(), 1_700_003_600_000);
        assert_eq!(clock.elapsed(), Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn others_see_the_time_pass_in_which_a_machine_sleeps() {
        let clock = Clock::system();
        tokio::time::advance(Duration::from_secs(60)).await;
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(clock.elapsed_for_others(), Duration::from_secs(60), "it was awake");
        let before = Clock { up: clock.up.map(|up| up.saturating_sub(Duration::from_secs(5))), ..clock };
        if before.up.is_some() {
            let passed = before.elapsed_for_others();
            assert!((63..67).contains(&passed.as_secs()), "{passed:?}");
        }
    }

    #[test]
    fn a_moment_survives_its_text() {
        for ms in [0, 1, -1, 1_719_073_600_001, -62_135_596_800_000, i64::MAX] {
            let t = Timestamp::from_ms(ms);
            assert_eq!(Timestamp::try_from(String::from(t)).unwrap(), t);
        }
    }
}
