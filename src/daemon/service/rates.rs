//! Rates in bytes per second, computed from monotonic counters.
//!
//! All rates share one window, so that the rates of the node, its transfers, its peers and its
//! readers at one time can be compared and added.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Period of a rate: long enough to be steady, short enough to be current.
const SPAN: Duration = Duration::from_secs(5);
/// Maximum samples: one a second over the period, and a few more.
const SAMPLES_MAX: usize = 8;

/// A counter of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Counter {
    /// File bytes that this node received from all others.
    Received,
    /// File bytes that this node sent to all others.
    Sent,
    /// Bytes that arrived of one file since its fetch began.
    File(ContentHash),
    /// File bytes that arrived from one node.
    Peer(NodeId),
    /// Bytes that the daemon served to one process in the mount, without those that the kernel read
    /// by itself.
    Reader {
        /// The process.
        pid: u32,
        /// Its user.
        uid: u32,
    },
}

/// The counters at one time.
#[derive(Debug)]
struct Sample {
    at: Instant,
    bytes: HashMap<Counter, u64>,
}

/// The rates of this node over the last seconds. The code that supplies the counters limits their
/// number.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: Mutex<VecDeque<Arc<Sample>>>,
}

/// The rates at one time. All of them cover the same seconds, so that the same number of bytes has
/// the same rate for each counter.
#[derive(Debug, Clone)]
pub(super) struct CurrentRates {
    now: Instant,
    /// The oldest sample; `None` without a sample.
    since: Option<Arc<Sample>>,
}

impl Rates {
    /// Records all counters at the time `at`. Call it about once a second, with ascending times.
    pub(super) fn record(&self, at: Instant, bytes: impl Iterator<Item = (Counter, u64)>) {
        let bytes = bytes.collect();
        let mut samples = self.samples.lock();
        samples.push_back(Arc::new(Sample { at, bytes }));
        while samples.len() > SAMPLES_MAX
            || samples
                .front()
                .is_some_and(|first| at.duration_since(first.at) > SPAN)
        {
            samples.pop_front();
        }
    }

    /// Returns the rates from the oldest sample to `now`.
    pub(super) fn at(&self, now: Instant) -> CurrentRates {
        let since = self.samples.lock().front().cloned();
        CurrentRates { now, since }
    }
}

impl CurrentRates {
    /// Returns the rate of a counter that is at `bytes` now; 0 without a sample. If the oldest
    /// sample lacks the counter or has a higher value, the counter started at zero after that
    /// sample.
    pub(super) fn per_second(&self, counter: Counter, bytes: u64) -> u64 {
        let Some(since) = &self.since else {
            return 0;
        };
        let before = since.bytes.get(&counter).copied();
        let before = before.filter(|before| *before <= bytes).unwrap_or(0);
        let seconds = self.now.saturating_duration_since(since.at).as_secs_f64();
        if seconds <= 0.0 {
            return 0;
        }
        ((bytes - before) as f64 / seconds) as u64
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
        for second in 0..=20 {
            let received = if second <= 10 { 1000 * second } else { 10_000 };
            let counters = [(Counter::Received, received), (Counter::Sent, 7 * second)];
            rates.record(start + Duration::from_secs(second), counters.into_iter());
        }
        let end = start + 20 * SECOND;
        assert_eq!(rates.at(end).per_second(Counter::Received, 10_000), 0);
        assert_eq!(rates.at(end).per_second(Counter::Sent, 140), 7);
    }

    #[test]
    fn a_transfer_has_one_rate_for_its_node_file_peer_and_reader() {
        let (rates, start) = (Rates::default(), Instant::now());
        let file = Counter::File(ContentHash::of(b"a"));
        let peer = Counter::Peer(NodeId::new([1; 32]));
        let reader = Counter::Reader { pid: 7, uid: 0 };
        // The peer has sent something before; the file and its reader are new.
        let before = [(Counter::Received, 50), (peer, 50)];
        rates.record(start, before.into_iter());
        let now = start + 2 * SECOND;
        let seen = [
            (Counter::Received, 450),
            (peer, 450),
            (file, 400),
            (reader, 400),
        ];
        for (counter, bytes) in seen {
            assert_eq!(rates.at(now).per_second(counter, bytes), 200, "{counter:?}");
        }
        rates.record(now, seen.into_iter());
        // A fetch of the same file that began again counts from zero.
        assert_eq!(rates.at(start + 4 * SECOND).per_second(file, 100), 25);
    }

    #[test]
    fn rates_of_one_time_stay_the_same_while_samples_are_recorded() {
        let (rates, start) = (Rates::default(), Instant::now());
        let counters = |bytes| [(Counter::Received, bytes)].into_iter();
        rates.record(start, counters(0));
        let current = rates.at(start + 2 * SECOND);
        let before = current.per_second(Counter::Received, 300);
        rates.record(start + 7 * SECOND, counters(500));
        assert_eq!(current.per_second(Counter::Received, 300), before);
        assert_eq!(before, 150);
    }

    #[test]
    fn without_samples_or_time_there_is_no_rate() {
        let (rates, now) = (Rates::default(), Instant::now());
        assert_eq!(rates.at(now).per_second(Counter::Sent, 5), 0);
        rates.record(now, std::iter::empty());
        assert_eq!(rates.at(now).per_second(Counter::Sent, 5), 0);
        assert_eq!(rates.at(now + SECOND).per_second(Counter::Sent, 5), 5);
    }
}
