//! The engine's timers, on a clock that stands still while this node does not run.
//!
//! This module owns their order and does not know their purpose.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Minimum delay of a timer that shows that this node did not run meanwhile: it was stopped, or
/// other programs had the processors. It far exceeds the delays of a busy loop, and is below the
/// default time for an answer ([`super::ClusterConfig::probe_round_trip`]).
const PAUSE: Duration = Duration::from_millis(100);

/// Timers by their due time.
pub(super) struct Timers<T> {
    queue: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Self {
            queue: BTreeMap::new(),
            count: 0,
        }
    }

    pub(super) fn insert(&mut self, at: Instant, timer: T) {
        self.count += 1;
        self.queue.insert((at, self.count), timer);
    }

    /// Returns whether the timer is scheduled.
    pub(super) fn holds(&self, timer: &T) -> bool
    where
        T: PartialEq,
    {
        self.queue.values().any(|it| it == timer)
    }

    /// Removes the timer.
    pub(super) fn remove(&mut self, timer: &T)
    where
        T: PartialEq,
    {
        self.queue.retain(|_, it| it != timer);
    }

    /// Schedules the timer for now, and removes its other due times.
    pub(super) fn hasten(&mut self, now: Instant, timer: T)
    where
        T: PartialEq,
    {
        self.remove(&timer);
        self.insert(now, timer);
    }

    /// Returns when the first timer is due.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// If the first timer is late by at least [`PAUSE`], postpones all timers by that delay.
    /// Answers could not be received meanwhile, so they must not count as missing (the local health
    /// of Lifeguard, Dadgar et al. 2018, by the simplest of its measures).
    pub(super) fn excuse_pause(&mut self, now: Instant) {
        let late = self
            .first_due()
            .map(|due| now.saturating_duration_since(due));
        let Some(pause) = late.filter(|late| *late >= PAUSE) else {
            return;
        };
        let queue = std::mem::take(&mut self.queue).into_iter();
        self.queue = queue
            .map(|((at, count), timer)| ((at + pause, count), timer))
            .collect();
    }

    /// Returns the next timer that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn timers_expire_in_order() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.insert(start + SECOND, "b");
        timers.insert(start + SECOND, "c");
        timers.insert(start, "a");
        timers.insert(start + 2 * SECOND, "d");
        let now = start + SECOND;
        let due: Vec<_> = std::iter::from_fn(|| timers.take_due(now)).collect();
        assert_eq!(due, ["a", "b", "c"]);
        assert_eq!(timers.first_due(), Some(start + 2 * SECOND));
    }

    #[test]
    fn a_hastened_timer_fires_once() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.insert(start + SECOND, "end");
        timers.insert(start + SECOND, "other");
        timers.hasten(start, "end");
        assert_eq!(timers.take_due(start), Some("end"));
        assert!(!timers.holds(&"end") && timers.holds(&"other"));
    }

    #[test]
    fn time_in_which_this_node_was_suspended_counts_for_no_member() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.insert(start, "probe");
        timers.insert(start + SECOND, "declare it dead");
        timers.excuse_pause(start + PAUSE / 2);
        assert_eq!(timers.first_due(), Some(start), "a little late is no pause");
        let woken = start + 60 * SECOND;
        timers.excuse_pause(woken);
        assert_eq!(timers.take_due(woken), Some("probe"));
        assert_eq!(timers.take_due(woken), None);
        assert_eq!(timers.first_due(), Some(woken + SECOND));
    }
}
