//! Bytes a second, from counters that only grow.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::digest::ContentHash;

/// Over how long a rate is taken: long enough to be steady, short enough to be now.
const SPAN: Duration = Duration::from_secs(5);
/// Samples that are kept: one a second over the span, and a few more.
const SAMPLES_MAX: usize = 8;

/// One look at the counters.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    received_bytes: u64,
    sent_bytes: u64,
}

/// The last looks.
#[derive(Debug, Default)]
pub struct Rates {
    samples: Mutex<VecDeque<Sample>>,
}

impl Rates {
    /// Remembers how the counters stand.
    pub fn record(&self, at: Instant, received_bytes: u64, sent_bytes: u64) {
        let mut samples = self.samples.lock();
        samples.push_back(Sample {
            at,
            received_bytes,
            sent_bytes,
        });
        while samples.len() > SAMPLES_MAX
            || samples
                .front()
                .is_some_and(|first| at.duration_since(first.at) > SPAN)
        {
            samples.pop_front();
        }
    }

    /// Bytes received and sent a second, over what is remembered.
    pub fn per_second(&self) -> (u64, u64) {
        let samples = self.samples.lock();
        let (Some(first), Some(last)) = (samples.front(), samples.back()) else {
            return (0, 0);
        };
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return (0, 0);
        }
        let rate = |from: u64, to: u64| (to.saturating_sub(from) as f64 / seconds) as u64;
        (
            rate(first.received_bytes, last.received_bytes),
            rate(first.sent_bytes, last.sent_bytes),
        )
    }
}

/// The same of each file that is on its way; what is on its way is bounded by whoever fetches.
#[derive(Debug, Default)]
pub struct FetchRates {
    of: Mutex<HashMap<ContentHash, Rates>>,
}

impl FetchRates {
    /// Remembers how much came of each; those that are not named are forgotten.
    pub fn record(&self, at: Instant, received: impl Iterator<Item = (ContentHash, u64)>) {
        let mut of = self.of.lock();
        let now = received.map(|(hash, received_bytes)| {
            let rates = of.remove(&hash).unwrap_or_default();
            rates.record(at, received_bytes, 0);
            (hash, rates)
        });
        let now = now.collect();
        *of = now;
    }

    /// Bytes of it received a second.
    pub fn per_second(&self, hash: &ContentHash) -> u64 {
        let of = self.of.lock();
        of.get(hash).map_or(0, |rates| rates.per_second().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds_only() {
        let rates = Rates::default();
        let start = Instant::now();
        rates.record(start, 0, 0);
        for second in 1..=20 {
            let received = if second <= 10 { 1000 * second } else { 10_000 };
            rates.record(start + Duration::from_secs(second), received, 7 * second);
        }
        assert_eq!(rates.per_second(), (0, 7));
    }

    #[test]
    fn each_file_has_a_rate_of_its_own_for_as_long_as_it_is_on_its_way() {
        let (rates, start) = (FetchRates::default(), Instant::now());
        let (a, b) = (ContentHash::of(b"a"), ContentHash::of(b"b"));
        rates.record(start, [(a, 0), (b, 0)].into_iter());
        let later = start + Duration::from_secs(1);
        rates.record(later, [(a, 500), (b, 7)].into_iter());
        assert_eq!((rates.per_second(&a), rates.per_second(&b)), (500, 7));
        rates.record(later, [(b, 7)].into_iter());
        assert_eq!((rates.per_second(&a), rates.per_second(&b)), (0, 7));
    }

    #[test]
    fn no_sample_and_one_sample_are_no_rate() {
        let rates = Rates::default();
        assert_eq!(rates.per_second(), (0, 0));
        rates.record(Instant::now(), 5, 5);
        assert_eq!(rates.per_second(), (0, 0));
    }
}
