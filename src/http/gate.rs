//! The gate of one tenant: a token bucket, a pause, and a queue that serves the most urgent first.
//!
//! `governor` decides when a permit is free; we sleep on tokio's time (its own waiting runs on another timer). Whoever
//! waits longest leads: the leader waits for the next permit and hands it to the most urgent of all who wait, itself or
//! another, so that chains of pages with most left to read go first and all end together.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::Cause;
use super::outage::{May, Outage, Weather};
use crate::catalog::Rate;
use crate::clock::Clock;

/// Each doubling halves the pace; 16 is below one request a second at Lever's rate.
const MOST_CELLS: u32 = 16;
/// How long without a refusal until the pace doubles again.
const RECOVER: Duration = Duration::from_secs(30);

/// Who goes first; larger is more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Priority(pub u32);

/// By what part the shortest round trip rises with each longer one.
const LEAST_RISES: u64 = 4096;

/// What a gate has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// Permits handed out: requests made, retries included.
    pub requests: u64,
    /// Answers 429.
    pub refused: u64,
    /// Tasks that wait for a permit now.
    pub waiting: usize,
    /// A smoothed round trip.
    pub latency: Duration,
    /// About the shortest one: what is left of the latency when nothing waits for a core.
    pub least: Duration,
}

/// How many requests a run may make, over all its tenants. Who asks for one more stops the run.
#[derive(Debug)]
pub struct Allowance {
    left: AtomicU64,
    used_up: CancellationToken,
    stop: CancellationToken,
}

impl Allowance {
    /// An allowance of `requests`; `stop` is set when one more is asked for.
    #[must_use]
    pub fn new(requests: u64, stop: CancellationToken) -> Self {
        Self { left: AtomicU64::new(requests), used_up: CancellationToken::new(), stop }
    }

    /// Whether more was asked for than there was.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.used_up.is_cancelled()
    }

    fn take(&self) -> bool {
        let taken = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok();
        if !taken {
            self.used_up.cancel();
            self.stop.cancel();
        }
        taken
    }
}

/// What a gate has seen of the provider, among those of its run.
#[derive(Debug)]
struct Watched {
    weather: Arc<Weather>,
    outage: Mutex<Outage>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.outage.get_mut().unwrap_or_else(PoisonError::into_inner).ends(&self.weather);
    }
}

/// A request that is not waiting for another try.
pub(super) struct UnderWay<'g>(&'g Gate);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.look_whether_all_rest();
    }
}

/// A request that waits for another try.
pub(super) struct Resting<'g>(&'g Gate);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.resting.fetch_sub(1, Ordering::AcqRel);
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Duration>>;

/// The permits of one tenant.
#[derive(Debug)]
pub struct Gate {
    clock: Clock,
    rate: Rate,
    limiter: Limiter,
    /// Milliseconds of the clock before which nobody gets a permit.
    not_before: AtomicU64,
    /// Cells that one request takes: 1 at full pace.
    cells: AtomicU32,
    /// Milliseconds of the clock at which the pace was last changed.
    paced_at: AtomicU64,
    queue: Mutex<Queue>,
    leader: tokio::sync::Mutex<()>,
    requests: AtomicU64,
    refused: AtomicU64,
    latency_us: AtomicU64,
    least_ns: AtomicU64,
    allowance: Option<Arc<Allowance>>,
    outage: Option<Watched>,
    /// Requests that wait for a permit or an answer, and not for another try.
    under_way: AtomicUsize,
    /// Requests that wait for another try.
    resting: AtomicUsize,
    /// Told when an outage ends.
    over: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Most urgent last; of equals, the first comer last.
    waiting: BTreeMap<(Priority, std::cmp::Reverse<u64>), oneshot::Sender<()>>,
    comers: u64,
}

impl Gate {
    /// A full bucket of `rate`. A rate that is not above zero, or a burst of zero, count as 1.
    #[must_use]
    pub fn new(clock: Clock, rate: Rate) -> Self {
        let per_second = if rate.per_second > 0.0 { rate.per_second } else { 1.0 };
        let period = Duration::from_secs_f64(1.0 / per_second).max(Duration::from_nanos(1));
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst);
        Self {
            clock,
            rate,
            limiter: RateLimiter::direct_with_clock(quota, clock),
            not_before: AtomicU64::new(0),
            cells: AtomicU32::new(1),
            paced_at: AtomicU64::new(0),
            queue: Mutex::default(),
            leader: tokio::sync::Mutex::new(()),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            latency_us: AtomicU64::new(0),
            least_ns: AtomicU64::new(0),
            allowance: None,
            outage: None,
            under_way: AtomicUsize::new(0),
            resting: AtomicUsize::new(0),
            over: Notify::new(),
        }
    }

    /// The same of a run that gives up in an outage of the provider, about which its tenants know together. Others answer each
    /// request for itself.
    #[must_use]
    pub fn watching(self, weather: Option<Arc<Weather>>) -> Self {
        let now = self.clock.elapsed();
        let outage = weather.map(|weather| Watched { outage: Mutex::new(Outage::new(&weather, now)), weather });
        Self { outage, ..self }
    }

    fn with_outage<T>(&self, look: impl FnOnce(&mut Outage, &Weather, Duration) -> T) -> Option<T> {
        let Watched { weather, outage } = self.outage.as_ref()?;
        Some(look(&mut outage.lock().unwrap_or_else(PoisonError::into_inner), weather, self.clock.elapsed()))
    }

    /// A request was answered.
    pub(super) fn lives(&self) {
        if self.with_outage(|outage, weather, _| outage.answered(weather)) == Some(true) {
            self.over.notify_waiters();
        }
    }

    /// A request came to nothing.
    pub(super) fn failed(&self, cause: &Cause) {
        let _ = self.with_outage(|outage, weather, now| outage.failed(weather, now, cause));
    }

    fn look_whether_all_rest(&self) {
        if self.under_way.load(Ordering::Acquire) == 0 && self.resting.load(Ordering::Acquire) > 0 {
            let _ = self.with_outage(|outage, weather, _| outage.stalls(weather));
        }
    }

    /// A request waits for its permit or its answer, until what is given back is dropped.
    pub(super) fn under_way(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(self)
    }

    /// A request waits for another try, until what is given back is dropped.
    pub(super) fn resting(&self) -> Resting<'_> {
        self.resting.fetch_add(1, Ordering::AcqRel);
        self.look_whether_all_rest();
        Resting(self)
    }

    /// The same within a run's allowance.
    #[must_use]
    pub fn within(self, allowance: Option<Arc<Allowance>>) -> Self {
        Self { allowance, ..self }
    }

    /// Whether more was asked for than the run may ask.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.allowance.as_ref().is_some_and(|allowance| allowance.is_used_up())
    }

    /// Waits until the run's allowance is used up; for ever without one. Whoever waits for a permit then waits in vain.
    pub async fn used_up(&self) {
        match &self.allowance {
            Some(allowance) => allowance.used_up.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The rate that it keeps.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// What it has seen so far.
    #[must_use]
    pub fn pace(&self) -> Pace {
        Pace {
            requests: self.requests.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            waiting: self.queue().waiting.len(),
            latency: Duration::from_micros(self.latency_us.load(Ordering::Relaxed)),
            least: Duration::from_nanos(self.least_ns.load(Ordering::Relaxed)),
        }
    }

    /// How many requests must be under way at once for the bucket to be the bottleneck at the latency seen, and one more.
    /// Before anything was seen: 4, enough for 300 ms at 10 requests/s.
    #[must_use]
    pub fn chains(&self) -> usize {
        let latency = self.pace().latency;
        if latency.is_zero() {
            return 4;
        }
        let needed = (latency.as_secs_f64() * self.rate.per_second).ceil();
        // 32 pages in flight are 64 MB at the very worst; a provider that needs more is slower than its own limit.
        (needed as usize + 1).clamp(2, 32)
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the most urgent of those who wait out of the queue.
    fn next_comer(&self) -> Option<oneshot::Sender<()>> {
        self.queue().waiting.pop_last().map(|(_, sender)| sender)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for a permit. Dropping the future gives up the place. Never comes back once the allowance is used up: race it
    /// with [`Gate::used_up`].
    ///
    /// # Errors
    ///
    /// When the provider is out and that is no longer waited for; never of a gate that does not watch for it.
    pub async fn permit(&self, priority: Priority) -> Result<(), Cause> {
        let (sender, mut mine) = oneshot::channel();
        {
            let mut queue = self.queue();
            queue.comers += 1;
            let comer = queue.comers;
            queue.waiting.insert((priority, std::cmp::Reverse(comer)), sender);
        }
        tokio::select! {
            biased;
            _ = &mut mine => {}
            _lead = self.leader.lock() => {
                while mine.try_recv().is_err() {
                    self.free().await?;
                    // Someone who gave up is passed over, and the permit goes to the next.
                    while let Some(next) = self.next_comer() {
                        if next.send(()).is_ok() {
                            break;
                        }
                    }
                }
            }
        }
        if self.allowance.as_ref().is_some_and(|a| !a.take()) {
            return std::future::pending().await;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the bucket, the pause and an outage let one request through, and takes it.
    async fn free(&self) -> Result<(), Cause> {
        loop {
            let over = self.over.notified();
            let now = self.now_ms();
            let until = self.not_before.load(Ordering::Acquire);
            if now < until {
                tokio::time::sleep(Duration::from_millis(until - now)).await;
                continue;
            }
            match self.with_outage(|outage, weather, now| outage.may(weather, now)) {
                None | Some(May::Go) => {}
                Some(May::No(cause)) => return Err(cause),
                Some(May::Wait(until)) => {
                    let wait = until.saturating_sub(self.clock.elapsed()).max(Duration::from_millis(1));
                    tokio::select! {
                        () = over => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                    continue;
                }
            }
            self.recover(now);
            let cells = NonZeroU32::new(self.cells.load(Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN);
            match self.limiter.check_n(cells) {
                Ok(Ok(())) if self.now_ms() >= self.not_before.load(Ordering::Acquire) => {
                    let _ = self.with_outage(|outage, _, now| outage.sent(now));
                    return Ok(());
                }
                // A pause came in between.
                Ok(Ok(())) => {}
                Ok(Err(not_yet)) => {
                    let wait = not_yet.wait_time_from(self.clock.elapsed());
                    tokio::time::sleep(wait.max(Duration::from_micros(100))).await;
                }
                // More cells than the bucket holds: one is always held.
                Err(_) => self.cells.store(1, Ordering::Relaxed),
            }
        }
    }

    /// Nobody gets a permit for `pause` from now.
    pub fn pause(&self, pause: Duration) {
        let until = self.now_ms().saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        self.not_before.fetch_max(until, Ordering::AcqRel);
    }

    /// The provider said 429: the pace is halved. A burst of refusals within a second counts once.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let now = self.now_ms();
        if now.saturating_sub(self.paced_at.swap(now, Ordering::AcqRel)) < 1000
            && self.cells.load(Ordering::Relaxed) > 1
        {
            return;
        }
        let most = MOST_CELLS.min(self.rate.burst.max(1));
        let cells = self.cells.load(Ordering::Relaxed).saturating_mul(2).min(most);
        self.cells.store(cells, Ordering::Relaxed);
    }

    fn recover(&self, now: u64) {
        let cells = self.cells.load(Ordering::Relaxed);
        let calm = now.saturating_sub(self.paced_at.load(Ordering::Acquire));
        if cells > 1 && u128::from(calm) >= RECOVER.as_millis() {
            self.paced_at.store(now, Ordering::Release);
            self.cells.store(cells / 2, Ordering::Relaxed);
        }
    }

    /// An answer was complete `latency` after its permit. A lower reading counts more than a higher one, so that one slow
    /// answer does not multiply the chains.
    pub fn answered(&self, latency: Duration) {
        let seen_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        let least = match self.least_ns.load(Ordering::Relaxed) {
            0 => seen_ns,
            // A network that has become slower is believed in the end.
            old => seen_ns.min(old + old / LEAST_RISES),
        };
        self.least_ns.store(least, Ordering::Relaxed);
        let seen = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.latency_us.load(Ordering::Relaxed);
        let new = match old {
            0 => seen,
            _ if seen < old => (old + seen * 3) / 4,
            _ => (old * 15 + seen) / 16,
        };
        self.latency_us.store(new, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(per_second: f64, burst: u32) -> Arc<Gate> {
        Arc::new(Gate::new(Clock::system(), Rate { per_second, burst }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_reached() {
        let gate = gate(10.0, 5);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let gate = gate.clone();
            tasks.spawn(async move {
                let mut at = Vec::new();
                for _ in 0..25 {
                    gate.permit(Priority(0)).await.unwrap();
                    at.push(gate.clock.elapsed().as_millis());
                }
                at
            });
        }
        let mut at: Vec<u128> = tasks.join_all().await.into_iter().flatten().collect();
        at.sort_unstable();
        for (i, t) in at.iter().enumerate() {
            let within = at[i..].iter().take_while(|u| *u - t < 1000).count();
            assert!(within <= 15, "{within} permits within a second of {t} ms");
        }
        let ideal = (200 - 5) * 100;
        assert!((ideal..ideal + 100).contains(at.last().unwrap()), "the last of 200 came at {} ms", at.last().unwrap());
        assert_eq!(gate.pace().requests, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everybody_and_a_refusal_halves_the_pace_until_calm() {
        let gate = gate(10.0, 10);
        gate.permit(Priority(0)).await.unwrap();
        gate.pause(Duration::from_secs(7));
        gate.refused();
        gate.refused();
        let began = gate.clock.elapsed();
        gate.permit(Priority(0)).await.unwrap();
        assert!(gate.clock.elapsed() - began >= Duration::from_secs(7));
        for _ in 0..10 {
            gate.permit(Priority(0)).await.unwrap();
        }
        let slow = gate.clock.elapsed();
        for _ in 0..10 {
            gate.permit(Priority(0)).await.unwrap();
        }
        assert_eq!((gate.clock.elapsed() - slow).as_millis().div_ceil(100), 20);
        tokio::time::advance(RECOVER).await;
        for _ in 0..20 {
            gate.permit(Priority(0)).await.unwrap();
        }
        let fast = gate.clock.elapsed();
        for _ in 0..10 {
            gate.permit(Priority(0)).await.unwrap();
        }
        assert_eq!((gate.clock.elapsed() - fast).as_millis().div_ceil(100), 10);
        assert_eq!(gate.pace().refused, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_goes_first_and_one_who_gives_up_costs_nothing() {
        let gate = gate(1.0, 1);
        gate.permit(Priority(0)).await.unwrap();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        for priority in [1, 5, 3] {
            let (gate, sender) = (gate.clone(), sender.clone());
            tasks.spawn(async move {
                gate.permit(Priority(priority)).await.unwrap();
                sender.send(priority).unwrap();
            });
            tokio::task::yield_now().await;
        }
        let quitter = tokio::time::timeout(Duration::from_millis(10), gate.permit(Priority(9))).await;
        assert!(quitter.is_err());
        tasks.join_all().await;
        let seen: Vec<u32> = std::iter::from_fn(|| order.try_recv().ok()).collect();
        assert_eq!(seen, [5, 3, 1]);
        assert!(gate.clock.elapsed() <= Duration::from_millis(3100), "{:?}", gate.clock.elapsed());
    }
}
