//! Whether a tenant's provider is out, and how long that is waited for: what would else be asked by every request for itself.
//!
//! When many requests in a row come to nothing, only one at a time still asks, ever more rarely; all others wait for what it
//! meets, without using up their attempts. One answer ends it. When nothing was answered for too long, whoever waits is told
//! so, and the run ends in minutes, not in as many times its patience as there is work. Pure: time comes in as an argument.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Cause, LONGEST_PAUSE};

/// Failures in a row, without an answer, that are an outage: more than one request can have alone (its eight attempts), so a
/// single resource that is broken fails by itself and with its own words.
const ROW: u32 = 12;
/// Failures that are enough where they took all the patience, or where each came with a pause that is too long to wait for.
const FEW: u32 = 3;
/// Pause before the first request that asks whether it is over; each next one is twice as long,
const FIRST: Duration = Duration::from_secs(1);
/// up to this: an outage of minutes is asked after twice a minute.
const LONGEST: Duration = Duration::from_secs(30);
/// How long an outage is waited for: a deployment or a failover takes minutes. What takes longer is the next run's business.
const PATIENCE: Duration = Duration::from_secs(300);
/// The same once another tenant of this run waited so long in vain, and nobody was answered since.
const SHORT: Duration = Duration::from_secs(30);

/// What the tenants of one run know of the provider together: a fleet does not wait once for each.
#[derive(Debug, Default)]
pub struct Weather {
    out: AtomicBool,
    /// Tenants that wait more than they work, because nothing is answered to them.
    troubled: AtomicUsize,
    changed: Notify,
}

impl Weather {
    /// How many of the tenants at work wait more than they work, because nothing is answered to them: they take nobody's place.
    #[must_use]
    pub fn troubled(&self) -> usize {
        self.troubled.load(Ordering::Acquire)
    }

    /// Ends when there is one more of them.
    pub async fn worsens(&self) {
        self.changed.notified().await;
    }
}

/// What one tenant's gate has seen.
#[derive(Debug)]
pub(super) struct Outage {
    /// Failures since the last answer.
    row: u32,
    /// When the first and the last of them came.
    since: Duration,
    last: Duration,
    /// What the last one met.
    met: Option<Cause>,
    /// Since it is an outage: when the next may ask, and how long the one after it waits.
    open: Option<Probe>,
    /// Whoever comes is sent away.
    given_up: bool,
    patience: Duration,
    /// Whether it counts among the troubled.
    troubled: bool,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    at: Duration,
    then: Duration,
}

/// Whether the next request may be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum May {
    Go,
    /// Look again then.
    Wait(Duration),
    /// Not in this run.
    No(Cause),
}

impl Outage {
    /// A gate that is opened at `now`. Where others of this run found the provider out, it begins with one request alone.
    pub(super) fn new(weather: &Weather, now: Duration) -> Self {
        let out = weather.out.load(Ordering::Acquire);
        let open = out.then_some(Probe { at: now, then: FIRST });
        let patience = if out { SHORT } else { PATIENCE };
        Self { row: 0, since: now, last: now, met: None, open, given_up: false, patience, troubled: false }
    }

    /// Whether a request may be sent at `now`.
    pub(super) fn may(&mut self, weather: &Weather, now: Duration) -> May {
        let end = self.since + self.patience;
        // Failures long ago, with nothing asked since, say nothing of now.
        let fresh = now.saturating_sub(self.last) < PATIENCE;
        if !self.given_up && self.row >= FEW && now >= end && fresh {
            self.given_up = true;
            weather.out.store(true, Ordering::Release);
            // Those who wait now are all told the same.
            self.open = Some(Probe { at: now + LONGEST, then: LONGEST });
        }
        match self.open {
            None => May::Go,
            Some(probe) if now >= probe.at => May::Go,
            Some(_) if self.given_up => May::No(self.cause(now)),
            Some(probe) if now < end => May::Wait(probe.at.min(end)),
            Some(probe) => May::Wait(probe.at),
        }
    }

    /// One was sent at `now`.
    pub(super) fn sent(&mut self, now: Duration) {
        if let Some(probe) = &mut self.open {
            *probe = Probe { at: now + super::retry::with_jitter(probe.then), then: (probe.then * 2).min(LONGEST) };
        }
    }

    /// One came to nothing.
    pub(super) fn failed(&mut self, weather: &Weather, now: Duration, cause: &Cause) {
        if !self.given_up && (self.row == 0 || now.saturating_sub(self.last) >= PATIENCE) {
            self.since = now;
            self.row = 0;
        }
        self.row += 1;
        self.last = now;
        self.met = Some(cause.clone());
        if self.row >= FEW {
            self.stalls(weather);
        }
        if self.row >= ROW && self.open.is_none() {
            self.open = Some(Probe { at: now + FIRST, then: FIRST * 2 });
        }
        if let Cause::PauseTooLong { seconds, .. } = cause
            && self.row >= FEW
        {
            // It said itself how long it takes.
            let pause = Duration::from_secs(*seconds).clamp(LONGEST_PAUSE, Duration::from_secs(86_400));
            (self.given_up, self.open) = (true, Some(Probe { at: now + pause, then: LONGEST }));
            weather.out.store(true, Ordering::Release);
        }
    }

    /// One was answered. Whether somebody may be waiting for that.
    pub(super) fn answered(&mut self, weather: &Weather) -> bool {
        weather.out.store(false, Ordering::Release);
        self.ends(weather);
        self.row = 0;
        self.patience = PATIENCE;
        self.given_up = false;
        self.open.take().is_some()
    }

    /// Everything waits for another try.
    pub(super) fn stalls(&mut self, weather: &Weather) {
        if !std::mem::replace(&mut self.troubled, true) {
            weather.troubled.fetch_add(1, Ordering::AcqRel);
            weather.changed.notify_one();
        }
    }

    /// It is over, or nobody asks any more.
    pub(super) fn ends(&mut self, weather: &Weather) {
        if std::mem::take(&mut self.troubled) {
            weather.troubled.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn cause(&self, now: Duration) -> Cause {
        match (&self.met, self.open) {
            (Some(Cause::PauseTooLong { status, .. }), Some(probe)) => {
                Cause::PauseTooLong { status: *status, seconds: probe.at.saturating_sub(now).as_secs().max(1) }
            }
            (met, _) => Cause::Outage {
                seconds: now.saturating_sub(self.since).as_secs(),
                met: met.as_ref().map(ToString::to_string).unwrap_or_default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Cause = Cause::Status(502);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Asks whenever it may until `end`, each request failing at once; when it asked.
    fn asked(outage: &mut Outage, weather: &Weather, mut now: Duration, end: Duration) -> (Vec<u64>, Option<Cause>) {
        let mut at = Vec::new();
        while now < end {
            match outage.may(weather, now) {
                May::Go => {
                    at.push(now.as_secs());
                    outage.sent(now);
                    outage.failed(weather, now, &BAD);
                    now += Duration::from_millis(100);
                }
                May::Wait(until) => {
                    assert!(until > now, "it waits for the past");
                    now = until;
                }
                May::No(cause) => return (at, Some(cause)),
            }
        }
        (at, None)
    }

    #[test]
    fn an_outage_is_asked_after_ever_more_rarely_and_then_given_up() {
        let weather = Weather::default();
        let mut outage = Outage::new(&weather, s(0));
        let (at, end) = asked(&mut outage, &weather, s(0), s(3600));
        assert!((20..=30).contains(&at.len()), "{} requests at {at:?}", at.len());
        let Some(Cause::Outage { seconds, met }) = end else { panic!("{end:?}") };
        assert!((300..=301).contains(&seconds), "given up after {seconds} s");
        assert_eq!(met, "status 502");
        // Once in half a minute it is tried again, and an answer ends it.
        assert_eq!(outage.may(&weather, s(340)), May::Go);
        outage.sent(s(340));
        assert!(matches!(outage.may(&weather, s(341)), May::No(_)));
        assert!(outage.answered(&weather));
        assert_eq!(outage.may(&weather, s(342)), May::Go);
    }

    #[test]
    fn an_answer_in_between_is_no_outage() {
        let weather = Weather::default();
        let mut outage = Outage::new(&weather, s(0));
        for i in 0..1000 {
            assert_eq!(outage.may(&weather, s(i)), May::Go, "at {i} s");
            if i % 11 == 10 {
                outage.answered(&weather);
            } else {
                outage.failed(&weather, s(i), &BAD);
            }
        }
        // One request's own attempts are none either, nor are failures that nobody was there to follow.
        outage.answered(&weather);
        (0..8).for_each(|i| outage.failed(&weather, s(2000 + i), &BAD));
        assert_eq!(outage.may(&weather, s(2010)), May::Go);
        assert_eq!(outage.may(&weather, s(5000)), May::Go);
    }

    #[test]
    fn who_comes_after_an_outage_of_others_asks_alone_and_not_for_long() {
        let weather = Weather::default();
        let mut first = Outage::new(&weather, s(0));
        asked(&mut first, &weather, s(0), s(3600));
        let mut second = Outage::new(&weather, s(400));
        let (at, end) = asked(&mut second, &weather, s(400), s(3600));
        assert!(at.len() <= 6 && matches!(end, Some(Cause::Outage { seconds: 30..=31, .. })), "{at:?} {end:?}");
        // Whoever is answered shows all others that it is over.
        let mut third = Outage::new(&weather, s(500));
        assert_eq!(third.may(&weather, s(500)), May::Go);
        third.sent(s(500));
        assert!(matches!(third.may(&weather, s(500)), May::Wait(_)));
        assert!(third.answered(&weather));
        assert!(Outage::new(&weather, s(501)).open.is_none());
    }

    #[test]
    fn who_is_not_answered_is_troubled_until_he_is_or_leaves() {
        let weather = Weather::default();
        let (mut first, mut second) = (Outage::new(&weather, s(0)), Outage::new(&weather, s(0)));
        for i in 0..2 {
            first.failed(&weather, s(i), &BAD);
        }
        assert_eq!(weather.troubled(), 0, "a request may fail");
        for i in 2..9 {
            first.failed(&weather, s(i), &BAD);
            second.failed(&weather, s(i), &BAD);
        }
        assert_eq!(weather.troubled(), 2);
        first.answered(&weather);
        assert_eq!(weather.troubled(), 1);
        second.ends(&weather);
        second.ends(&weather);
        assert_eq!(weather.troubled(), 0);
        first.stalls(&weather);
        assert_eq!(weather.troubled(), 1, "nothing else is under way");
    }

    #[test]
    fn a_pause_that_is_too_long_is_not_asked_after_by_everybody() {
        let weather = Weather::default();
        let mut outage = Outage::new(&weather, s(0));
        let hour = Cause::PauseTooLong { status: 503, seconds: 3600 };
        (0..3).for_each(|_| outage.failed(&weather, s(1), &hour));
        assert_eq!(outage.may(&weather, s(101)), May::No(Cause::PauseTooLong { status: 503, seconds: 3500 }));
        assert_eq!(outage.may(&weather, s(3602)), May::Go);
    }

    #[test]
    fn slow_failures_are_an_outage_too_when_they_took_all_the_patience() {
        let weather = Weather::default();
        let mut outage = Outage::new(&weather, s(0));
        for at in [0, 200, 400] {
            assert_eq!(outage.may(&weather, s(at)), May::Go);
            outage.failed(&weather, s(at), &Cause::Status(429));
        }
        assert!(matches!(outage.may(&weather, s(401)), May::No(Cause::Outage { .. })));
    }
}
