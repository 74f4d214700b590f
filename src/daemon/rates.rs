//! Bytes a second, from counters that only grow.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
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
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn no_sample_and_one_sample_are_no_rate() {
        let rates = Rates::default();
        assert_eq!(rates.per_second(), (0, 0));
        rates.record(Instant::now(), 5, 5);
        assert_eq!(rates.per_second(), (0, 0));
    }
}
