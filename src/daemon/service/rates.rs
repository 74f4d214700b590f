//! Rates in bytes per second, computed from monotonic counters.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use p2pfs_types::digest::ContentHash;

/// Period of a rate: long enough to be steady, short enough to be current.
const SPAN: Duration = Duration::from_secs(5);
/// Maximum samples: one a second over the period, and a few more.
const SAMPLES_MAX: usize = 8;

/// The counters at one time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    received_bytes: u64,
    sent_bytes: u64,
}

/// The send and receive rates of this node over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: Mutex<VecDeque<Sample>>,
}

impl Rates {
    /// Records both counters, in bytes since the start, at the time `at`. Call it about once a
    /// second, in the order of time.
    pub(super) fn record(&self, at: Instant, received_bytes: u64, sent_bytes: u64) {
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

    /// Returns the receive rate and the send rate, in this order, from the oldest sample up to the
    /// given counters. Both are 0 without a sample.
    pub(super) fn per_second(
        &self,
        now: Instant,
        received_bytes: u64,
        sent_bytes: u64,
    ) -> (u64, u64) {
        let samples = self.samples.lock();
        let Some(first) = samples.front() else {
            return (0, 0);
        };
        let rate = |from, to| rate(first.at, now, from, to);
        (
            rate(first.received_bytes, received_bytes),
            rate(first.sent_bytes, sent_bytes),
        )
    }
}

/// Returns the growth of a counter in bytes per second between two times; 0 if no time has passed.
fn rate(since: Instant, now: Instant, from: u64, to: u64) -> u64 {
    let seconds = now.saturating_duration_since(since).as_secs_f64();
    if seconds <= 0.0 {
        return 0;
    }
    (to.saturating_sub(from) as f64 / seconds) as u64
}

/// The receive rate of each file in transfer. Holds the files of the last sample; the fetching code
/// limits their number.
#[derive(Debug, Default)]
pub(super) struct FetchRates {
    looks: Mutex<Looks>,
}

#[derive(Debug, Default)]
struct Looks {
    /// The time of the last sample. A file that is not in it began afterwards, from zero.
    last: Option<Instant>,
    of: HashMap<ContentHash, Rates>,
}

impl FetchRates {
    /// Records how many bytes of each file have arrived by `at` since its fetch began. Forgets all
    /// other files.
    pub(super) fn record(&self, at: Instant, received: impl Iterator<Item = (ContentHash, u64)>) {
        let mut looks = self.looks.lock();
        let before = looks.last.replace(at);
        let mut known = std::mem::take(&mut looks.of);
        let now = received.map(|(hash, received_bytes)| {
            let rates = known.remove(&hash).unwrap_or_else(|| {
                let new = Rates::default();
                before.iter().for_each(|before| new.record(*before, 0, 0));
                new
            });
            rates.record(at, received_bytes, 0);
            (hash, rates)
        });
        looks.of = now.collect();
    }

    /// Returns the receive rate of a file; 0 before the first sample. `received_bytes` have arrived
    /// since its fetch began.
    pub(super) fn per_second(&self, now: Instant, hash: &ContentHash, received_bytes: u64) -> u64 {
        let looks = self.looks.lock();
        match (looks.of.get(hash), looks.last) {
            (Some(rates), _) => rates.per_second(now, received_bytes, 0).0,
            (None, Some(last)) => rate(last, now, 0, received_bytes),
            (None, None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_covers_only_the_last_seconds() {
        let rates = Rates::default();
        let start = Instant::now();
        rates.record(start, 0, 0);
        for second in 1..=20 {
            let received = if second <= 10 { 1000 * second } else { 10_000 };
            rates.record(start + Duration::from_secs(second), received, 7 * second);
        }
        let end = start + 20 * SECOND;
        assert_eq!(rates.per_second(end, 10_000, 140), (0, 7));
    }

    #[test]
    fn each_file_has_its_own_rate_while_it_is_in_transfer() {
        let (rates, start) = (FetchRates::default(), Instant::now());
        let (a, b) = (ContentHash::of(b"a"), ContentHash::of(b"b"));
        rates.record(start, [(a, 0), (b, 0)].into_iter());
        let later = start + SECOND;
        rates.record(later, [(a, 500), (b, 7)].into_iter());
        let rate = |hash, received| rates.per_second(later, hash, received);
        assert_eq!((rate(&a, 500), rate(&b, 7)), (500, 7));
        rates.record(later, [(b, 7)].into_iter());
        assert_eq!((rate(&a, 0), rate(&b, 7)), (0, 7));
    }

    #[test]
    fn a_new_transfer_has_a_rate_at_once() {
        let (rates, start) = (FetchRates::default(), Instant::now());
        let new = ContentHash::of(b"new");
        assert_eq!(rates.per_second(start, &new, 100), 0, "nobody looked yet");
        rates.record(start, std::iter::empty());
        let soon = start + SECOND / 2;
        assert_eq!(rates.per_second(soon, &new, 100), 200);
        rates.record(start + SECOND, [(new, 150)].into_iter());
        assert_eq!(rates.per_second(start + SECOND, &new, 150), 150);
        assert_eq!(rates.per_second(start + 2 * SECOND, &new, 900), 450);
    }

    #[test]
    fn without_samples_or_time_there_is_no_rate() {
        let (rates, now) = (Rates::default(), Instant::now());
        assert_eq!(rates.per_second(now, 5, 5), (0, 0));
        rates.record(now, 0, 0);
        assert_eq!(rates.per_second(now, 5, 5), (0, 0));
        assert_eq!(rates.per_second(now + SECOND, 5, 6), (5, 6));
    }
}
