//! Rate limits by key, for example by address: a token bucket for each key, for a limited number of
//! keys. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bucket::{TokenBucket, TokenRate};

/// A token bucket for each key. A key with a full bucket is like a new one, so it is forgotten.
#[derive(Debug)]
pub struct KeyedBuckets<Key> {
    buckets: BTreeMap<Key, TokenBucket>,
    rate: TokenRate,
    capacity: u32,
    keys_max: usize,
    /// Time before which full buckets are not searched for again. Without it, a flood from ever new
    /// keys would cost a scan of all buckets for each key.
    swept_until: Option<Instant>,
}

impl<Key: Ord> KeyedBuckets<Key> {
    /// Creates the table for `keys_max` keys. Each bucket has `capacity` tokens and gains `per_s`
    /// tokens per second.
    pub fn per_second(per_s: u32, capacity: u32, keys_max: usize) -> Self {
        Self::new(TokenRate::per_second(per_s.into()), capacity, keys_max)
    }

    /// Creates the table for `keys_max` keys. Each bucket has `capacity` tokens and gains one token
    /// per `per_token`.
    pub fn one_in(per_token: Duration, capacity: u32, keys_max: usize) -> Self {
        Self::new(TokenRate::one_in(per_token), capacity, keys_max)
    }

    fn new(rate: TokenRate, capacity: u32, keys_max: usize) -> Self {
        Self {
            buckets: BTreeMap::new(),
            rate,
            capacity,
            keys_max,
            swept_until: None,
        }
    }

    /// Returns the key's bucket. Returns `None` for a new key if the table is full.
    pub fn of(&mut self, key: Key, now: Instant) -> Option<&mut TokenBucket> {
        self.sweep(now);
        if self.buckets.len() >= self.keys_max && !self.buckets.contains_key(&key) {
            return None;
        }
        let full = || TokenBucket::full(self.rate, self.capacity, now);
        Some(self.buckets.entry(key).or_insert_with(full))
    }

    /// Takes `count` tokens of the key's bucket, or none. Returns whether they were taken. A new
    /// key gets no tokens while the table is full.
    pub fn take(&mut self, key: Key, count: u32, now: Instant) -> bool {
        let bucket = self.of(key, now);
        bucket.is_some_and(|bucket| bucket.take(count, now))
    }

    /// Returns whether the key's bucket has a token. The bucket of an unknown key is full.
    pub fn has_token(&self, key: &Key, now: Instant) -> bool {
        let bucket = self.buckets.get(key);
        bucket.is_none_or(|bucket| bucket.ready_at() <= now)
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Returns whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Forgets keys with a full bucket, at most once in the time of one token.
    fn sweep(&mut self, now: Instant) {
        if self.swept_until.is_none_or(|until| until <= now) {
            self.swept_until = now.checked_add(self.rate.time_of(1));
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_key_has_its_own_bucket() {
        let (mut buckets, now) = (KeyedBuckets::per_second(2, 3, 10), Instant::now());
        for key in 0..10 {
            let taken = (0..9).filter(|_| buckets.take(key, 1, now)).count();
            assert_eq!(taken, 3);
            assert!(!buckets.has_token(&key, now));
        }
        let later = now + Duration::from_millis(500);
        assert!(buckets.has_token(&0, later) && buckets.has_token(&11, now));
        assert!(buckets.take(0, 1, later) && !buckets.take(0, 1, later));
    }

    #[test]
    fn new_keys_beyond_the_limit_wait_for_a_full_bucket() {
        let (mut buckets, now) = (KeyedBuckets::per_second(1, 3, 10), Instant::now());
        for key in 0..100 {
            assert_eq!(buckets.take(key, 3, now), key < 10);
        }
        let later = now + Duration::from_secs(3);
        assert!(buckets.take(100, 1, later));
        assert_eq!(buckets.len(), 1);
    }

    #[test]
    fn a_flood_of_new_keys_scans_the_table_once_in_the_time_of_a_token() {
        let (mut buckets, begun) = (KeyedBuckets::per_second(32, 256, 4096), Instant::now());
        let mut sweeps = BTreeSet::new();
        for key in 0..100_000u32 {
            let now = begun + Duration::from_micros(u64::from(key) * 10);
            // Each key in the table has taken too much to be forgotten soon.
            buckets.take(key, 64, now);
            sweeps.extend(buckets.swept_until);
        }
        assert_eq!(buckets.len(), 4096);
        // In one second.
        assert!(sweeps.len() <= 33, "{} times", sweeps.len());
    }
}
