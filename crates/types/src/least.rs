//! Minimum of recent measurements, such as the round-trip time to a node. Queues and a congested
//! network add to most samples, but rarely to the minimum. Pure.

use std::time::{Duration, Instant};

/// Shortest duration sampled in the current time span and in the one before it. Older samples
/// expire, so that a permanent increase is noticed. Reads no clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastLately {
    now: Option<Duration>,
    before: Option<Duration>,
    begun: Option<Instant>,
}

impl LeastLately {
    /// Creates a minimum from one sample.
    pub fn of(sample: Duration) -> Self {
        Self {
            now: Some(sample),
            ..Self::default()
        }
    }

    /// Adds a sample. It counts for at least `span`, and for up to about twice that if samples keep
    /// arriving.
    pub fn record(&mut self, now: Instant, span: Duration, sample: Duration) {
        let begun = *self.begun.get_or_insert(now);
        let passed = now.saturating_duration_since(begun);
        if passed >= span {
            let before = self.now.filter(|_| passed < span * 2);
            (self.before, self.now, self.begun) = (before, None, Some(now));
        }
        self.now = Some(self.now.map_or(sample, |least| least.min(sample)));
    }

    /// Returns the minimum, or none before the first sample.
    pub fn get(&self) -> Option<Duration> {
        self.now.into_iter().chain(self.before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    #[test]
    fn a_minimum_counts_for_one_span_and_is_forgotten_after_two() {
        let (start, mut least) = (Instant::now(), LeastLately::default());
        assert_eq!(least.get(), None);
        let mut after = |s: u64, ms: u64| {
            let now = start + Duration::from_secs(s);
            least.record(now, SPAN, Duration::from_millis(ms));
            least.get().unwrap().as_millis()
        };
        assert_eq!((after(0, 30), after(10, 20), after(59, 500)), (30, 20, 20));
        assert_eq!((after(60, 400), after(119, 500)), (20, 20));
        assert_eq!((after(121, 500), after(200, 450)), (400, 450));
    }

    #[test]
    fn after_a_pause_of_two_spans_earlier_values_do_not_count() {
        let (start, mut least) = (Instant::now(), LeastLately::of(SPAN / 60));
        least.record(start, SPAN, SPAN / 30);
        assert_eq!(least.get(), Some(SPAN / 60));
        least.record(start + SPAN * 2, SPAN, SPAN / 30);
        assert_eq!(least.get(), Some(SPAN / 30));
    }
}
