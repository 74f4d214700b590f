//! So many at once, and so many a second.

use std::time::{Duration, Instant};

/// A bucket of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: f64,
    size: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(now: Instant, size: u32, per_second: f64) -> Self {
        Self {
            tokens: f64::from(size),
            size: f64::from(size),
            per_second,
            at: now,
        }
    }

    /// Takes one, where there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(self.size);
        self.at = self.at.max(now);
        let is_enough = self.tokens >= 1.0;
        if is_enough {
            self.tokens -= 1.0;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::full(now, 10, 2.0);
        assert_eq!((0..100).filter(|_| bucket.take(now)).count(), 10);
        let later = now + Duration::from_secs(3);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 6);
    }
}
