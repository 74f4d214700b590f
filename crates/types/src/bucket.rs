//! The rate limiter of all crates: a token bucket for events and for bytes. Pure.
//!
//! A bucket is stored as the time at which all taken tokens will be replaced. It is full from that
//! time on. An event takes whole tokens, and never more than the bucket has
//! ([`TokenBucket::take`]). A transfer of bytes may overdraw the bucket if it is not overdrawn much
//! already ([`TokenBucket::pass`]), so that one large transfer is possible at a small rate.

use std::time::{Duration, Instant};

const NANOS_PER_S: u128 = 1_000_000_000;

/// A bucket that is refilled at a steady rate up to its capacity. Reads no clock.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: TokenRate,
    /// Time in which an empty bucket becomes full.
    burst: Duration,
    /// Time from which the bucket is full.
    paid_at: Instant,
}

/// Number of tokens that a period adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenRate {
    tokens: u64,
    period: Duration,
}

impl TokenRate {
    pub(crate) fn per_second(per_s: u64) -> Self {
        Self {
            tokens: per_s.max(1),
            period: Duration::from_secs(1),
        }
    }

    pub(crate) fn one_in(per_token: Duration) -> Self {
        Self {
            tokens: 1,
            period: per_token,
        }
    }

    /// Returns the time that adds `count` tokens.
    pub(crate) fn time_of(self, count: u64) -> Duration {
        let nanos = self.period.as_nanos().saturating_mul(count.into()) / u128::from(self.tokens);
        let seconds = u64::try_from(nanos / NANOS_PER_S).unwrap_or(u64::MAX);
        Duration::new(seconds, (nanos % NANOS_PER_S) as u32)
    }
}

impl TokenBucket {
    /// Creates a full bucket of `capacity` tokens that gains `per_s` tokens (at least 1) per
    /// second.
    pub fn per_second(per_s: u32, capacity: u32, now: Instant) -> Self {
        Self::full(TokenRate::per_second(per_s.into()), capacity, now)
    }

    /// Creates a full bucket of `capacity` tokens that gains one token per `per_token`.
    pub fn one_in(per_token: Duration, capacity: u32, now: Instant) -> Self {
        Self::full(TokenRate::one_in(per_token), capacity, now)
    }

    /// Creates a full bucket for a limit in bytes per second (at least 1). A full bucket holds the
    /// bytes of the time `burst`.
    pub fn bytes_per_second(bytes_per_s: u64, burst: Duration, now: Instant) -> Self {
        Self {
            rate: TokenRate::per_second(bytes_per_s),
            burst,
            paid_at: now,
        }
    }

    pub(crate) fn full(rate: TokenRate, capacity: u32, now: Instant) -> Self {
        Self {
            rate,
            burst: rate.time_of(capacity.into()),
            paid_at: now,
        }
    }

    /// Takes `count` tokens, or none if there are fewer. Returns whether they were taken.
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        let debt = self
            .debt(now)
            .saturating_add(self.rate.time_of(count.into()));
        let enough = debt <= self.burst;
        if enough {
            self.owe(debt, now);
        }
        enough
    }

    /// Takes `count` tokens, however many, if the bucket is overdrawn for at most `overdraft`
    /// ([`Self::overdrawn_for`]). Otherwise takes nothing.
    ///
    /// # Errors
    /// The time until the bucket is overdrawn for only `overdraft`.
    pub fn pass(&mut self, count: u64, overdraft: Duration, now: Instant) -> Result<(), Duration> {
        let debt = self.debt(now);
        match debt.checked_sub(self.burst.saturating_add(overdraft)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.charge(count, now);
                Ok(())
            }
        }
    }

    /// Takes `count` tokens in any case.
    pub fn charge(&mut self, count: u64, now: Instant) {
        let debt = self.debt(now);
        self.owe(debt.saturating_add(self.rate.time_of(count)), now);
    }

    /// Puts back tokens that were taken recently and not used after all.
    pub fn refund(&mut self, count: u64) {
        let paid_at = self.paid_at.checked_sub(self.rate.time_of(count));
        self.paid_at = paid_at.unwrap_or(self.paid_at);
    }

    /// Returns how long the bucket takes to become full.
    pub fn debt(&self, now: Instant) -> Duration {
        self.paid_at.saturating_duration_since(now)
    }

    /// Returns how long the bucket stays overdrawn.
    pub fn overdrawn_for(&self, now: Instant) -> Duration {
        self.debt(now).saturating_sub(self.burst)
    }

    /// Returns the earliest time, possibly past, at which there is a token, if none is taken until
    /// then.
    pub fn ready_at(&self) -> Instant {
        let before_full = self.burst.saturating_sub(self.rate.time_of(1));
        self.paid_at
            .checked_sub(before_full)
            .unwrap_or(self.paid_at)
    }

    /// Returns whether every token that was taken has been replaced.
    pub fn is_full(&self, now: Instant) -> bool {
        self.debt(now).is_zero()
    }

    fn owe(&mut self, debt: Duration, now: Instant) {
        // If the time exceeds the range of `Instant`, the new debt is not recorded.
        self.paid_at = now.checked_add(debt).unwrap_or(self.paid_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

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
    fn a_stopped_or_reversed_clock_grants_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bucket = TokenBucket::per_second(10, 1, start);
        assert!(bucket.take(1, start));
        assert!(!bucket.take(1, start));
        assert!(!bucket.take(1, start - Duration::from_secs(5)));
        assert!(bucket.take(1, start + Duration::from_millis(100)));
    }

    #[test]
    fn a_rate_that_divides_no_second_loses_and_gives_no_token() {
        let start = Instant::now();
        for per_s in [3, 7, 999, 1_000_003] {
            let mut bucket = TokenBucket::per_second(per_s, 100, start);
            assert_eq!((0..200).filter(|_| bucket.take(1, start)).count(), 100);
            let later = start + Duration::from_secs(1000);
            assert!(bucket.is_full(later));
            assert_eq!((0..200).filter(|_| bucket.take(1, later)).count(), 100);
        }
    }

    #[test]
    fn a_bucket_names_the_time_of_its_next_token() {
        let start = Instant::now();
        let mut bucket = TokenBucket::one_in(Duration::from_secs(2), 3, start);
        assert!(bucket.ready_at() <= start);
        for _ in 0..3 {
            assert!(bucket.ready_at() <= start && bucket.take(1, start));
        }
        assert_eq!(bucket.ready_at(), start + Duration::from_secs(2));
        assert!(!bucket.is_full(start + Duration::from_secs(5)));
        assert!(bucket.is_full(start + Duration::from_secs(6)));
    }

    #[test]
    fn bytes_over_time_keep_to_the_limit() {
        let begun = Instant::now();
        let burst = Duration::from_millis(500);
        let mut bucket = TokenBucket::bytes_per_second(MIB, burst, begun);
        let (mut now, mut passed) = (begun, 0);
        while now < begun + Duration::from_secs(10) {
            match bucket.pass(MIB / 4, Duration::ZERO, now) {
                Ok(()) => passed += MIB / 4,
                Err(wait) => now += wait,
            }
        }
        // The bytes of ten seconds, the burst, and the transfer that overdraws the bucket.
        assert!((10 * MIB..=11 * MIB).contains(&passed), "{passed}");
    }

    #[test]
    fn an_overdraft_is_paid_for_by_those_without_one() {
        let now = Instant::now();
        let (none, some) = (Duration::ZERO, Duration::from_secs(4));
        let mut bucket = TokenBucket::bytes_per_second(MIB, none, now);
        assert_eq!(bucket.pass(2 * MIB, none, now), Ok(()));
        assert_eq!(bucket.pass(1, none, now), Err(Duration::from_secs(2)));
        assert_eq!(bucket.pass(3 * MIB, some, now), Ok(()));
        assert_eq!(bucket.pass(1, some, now), Err(Duration::from_secs(1)));
        assert_eq!(bucket.overdrawn_for(now), Duration::from_secs(5));
        bucket.refund(5 * MIB);
        assert_eq!(bucket.pass(1, none, now), Ok(()));
    }

    #[test]
    fn no_number_is_too_large_to_count() {
        let now = Instant::now();
        let mut bucket = TokenBucket::bytes_per_second(0, Duration::MAX, now);
        for _ in 0..3 {
            bucket.charge(u64::MAX, now);
            let _passed = bucket.pass(u64::MAX, Duration::MAX, now);
            bucket.refund(u64::MAX);
            let _ready_at = bucket.ready_at();
        }
        let mut bucket = TokenBucket::one_in(Duration::MAX, u32::MAX, now);
        bucket.take(u32::MAX, now);
        bucket.charge(u64::MAX, now);
    }
}
