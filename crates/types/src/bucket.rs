//! A token bucket that limits how many events may happen on average and at once. Pure.
//!
//! Bytes per second are limited elsewhere, each with its own rule of precedence: `transfer::pace`
//! for a node, `fuse::budget` for reading programs.

use std::time::{Duration, Instant};

/// A bucket that is refilled at a steady rate up to its capacity. Reads no clock.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_token: Duration,
    capacity: u32,
    tokens: u32,
    counted_from: Instant,
}

impl TokenBucket {
    /// Creates a full bucket of `capacity` tokens that gains `per_s` tokens (at least 1) per
    /// second.
    pub fn per_second(per_s: u32, capacity: u32, now: Instant) -> Self {
        Self::one_in(Duration::from_secs(1) / per_s.max(1), capacity, now)
    }

    /// Creates a full bucket of `capacity` tokens that gains one token per `per_token`.
    pub fn one_in(per_token: Duration, capacity: u32, now: Instant) -> Self {
        Self {
            per_token,
            capacity,
            tokens: capacity,
            counted_from: now,
        }
    }

    /// Takes `count` tokens, or none if there are fewer. Returns whether they were taken.
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        self.refill(now);
        let enough = self.tokens >= count;
        if enough {
            self.tokens -= count;
        }
        enough
    }

    /// Returns the earliest time at which there is a token, if none is taken until then.
    pub fn ready_at(&self) -> Instant {
        match self.tokens {
            0 => self.counted_from + self.per_token,
            _ => self.counted_from,
        }
    }

    /// Returns whether every token that was taken has been replaced.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens == self.capacity
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted_from);
        let gained = passed.as_nanos() / self.per_token.as_nanos().max(1);
        if gained >= u128::from(self.capacity - self.tokens) {
            self.tokens = self.capacity;
            self.counted_from = self.counted_from.max(now);
        } else {
            self.tokens += gained as u32;
            self.counted_from += self.per_token * gained as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_capacity_at_once_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::per_second(10, 5, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((0..9).filter(|_| bucket.take(1, start)).count(), 5);
        assert!(!bucket.take(1, at(99)));
        assert!(bucket.take(1, at(100)));
        assert!(!bucket.take(2, at(299)));
        assert!(bucket.take(2, at(300)));
        assert_eq!((0..9).filter(|_| bucket.take(1, at(60_000))).count(), 5);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bucket = TokenBucket::per_second(10, 1, start);
        assert!(bucket.take(1, start));
        assert!(!bucket.take(1, start));
        assert!(!bucket.take(1, start - Duration::from_secs(5)));
        assert!(bucket.take(1, start + Duration::from_millis(100)));
    }
}
