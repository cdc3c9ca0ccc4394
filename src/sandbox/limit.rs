//! One token bucket an account, as the reference's 3.6 describes Lever's.

use std::time::Duration;

/// What an account may ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Requests a second that the bucket gains; more than zero.
    pub per_second: f64,
    /// Requests that a full bucket holds; at least one.
    pub burst: u32,
}

/// Full at the start; a request takes one, or is refused and takes nothing.
pub(super) struct Bucket {
    limit: Limit,
    filled: f64,
    at: Duration,
}

impl Bucket {
    pub(super) fn new(limit: Limit, now: Duration) -> Self {
        Self { limit, filled: f64::from(limit.burst), at: now }
    }

    pub(super) fn take(&mut self, now: Duration) -> bool {
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.limit.per_second;
        self.filled = (self.filled + gained).min(f64::from(self.limit.burst));
        self.at = self.at.max(now);
        // A client that waits exactly as long as it must may arrive a rounding error early.
        let enough = self.filled > 1.0 - 1e-6;
        if enough {
            self.filled = (self.filled - 1.0).max(0.0);
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_steady_rate() {
        let mut bucket = Bucket::new(Limit { per_second: 10.0, burst: 20 }, Duration::ZERO);
        let granted = (0..50).filter(|_| bucket.take(Duration::ZERO)).count();
        assert_eq!(granted, 20);
        let granted = (1..=1000u64).filter(|ms| bucket.take(Duration::from_millis(*ms))).count();
        assert_eq!(granted, 10);
        let granted = (0..50).filter(|_| bucket.take(Duration::from_secs(3600))).count();
        assert_eq!(granted, 20);
    }
}
