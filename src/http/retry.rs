//! How long to wait before the next attempt. The one file that names `backoff`, and it only asks it for delays: the loop,
//! its budget and its clock are ours (`http`). Replacing the crate touches this file alone.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use rand::RngExt as _;

use super::Cause;
use crate::clock::Clock;

/// First delay: a gateway that lost one request has recovered by then.
const FIRST: Duration = Duration::from_millis(500);
/// Longest delay: an outage of minutes is asked after twice a minute.
const LONGEST: Duration = Duration::from_secs(30);
/// First delay after 503: the provider's maintenance asks for patience.
const MAINTENANCE: Duration = Duration::from_secs(4);

impl backoff::Clock for Clock {
    fn now(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// The delays of one request.
pub(super) struct Waits {
    delays: backoff::exponential::ExponentialBackoff<Clock>,
}

impl Waits {
    pub(super) fn new(clock: Clock) -> Self {
        let defaults = ExponentialBackoff::default();
        Self {
            delays: backoff::exponential::ExponentialBackoff {
                current_interval: FIRST,
                initial_interval: FIRST,
                randomization_factor: defaults.randomization_factor,
                multiplier: 2.0,
                max_interval: LONGEST,
                start_time: backoff::Clock::now(&clock),
                // The budget is the loop's.
                max_elapsed_time: None,
                clock,
            },
        }
    }

    /// The next delay, with jitter.
    pub(super) fn next(&mut self, cause: &Cause) -> Duration {
        let delay = self.delays.next_backoff().unwrap_or(LONGEST);
        if *cause == Cause::Status(503) { delay.max(with_jitter(MAINTENANCE)) } else { delay }
    }
}

/// `delay` and up to a tenth more, so that a fleet does not come back in one instant; never less than was asked for.
pub(super) fn with_jitter(delay: Duration) -> Duration {
    delay + delay.mul_f64(rand::rng().random_range(0.0..0.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_grow_to_a_limit_and_never_end() {
        let mut waits = Waits::new(Clock::system());
        let all: Vec<Duration> = (0..20).map(|_| waits.next(&Cause::Status(500))).collect();
        assert!(all[0] >= FIRST / 2 && all[0] <= FIRST * 3 / 2, "{all:?}");
        assert!(all[19] >= LONGEST / 2 && all[19] <= LONGEST * 3 / 2, "{all:?}");
        assert!(Waits::new(Clock::system()).next(&Cause::Status(503)) >= MAINTENANCE);
        let pause = Duration::from_secs(10);
        assert!((0..100).map(|_| with_jitter(pause)).all(|p| p >= pause && p <= pause.mul_f64(1.1)));
    }
}
