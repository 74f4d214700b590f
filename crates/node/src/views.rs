//! The schedule of views. A view is a state of the namespace that the event loop publishes.

use std::time::{Duration, Instant};

/// Minimum interval between two views, so that the files that a scan finds are published in
/// batches.
const PUBLISH_SPACING: Duration = Duration::from_millis(20);
/// How long views wait for a large change to end, so that no reader sees half of it. After this
/// time, views are taken between the steps of the change.
const SWEEP_HOLD: Duration = Duration::from_secs(2);

/// The time of the last view and the next one.
#[derive(Debug)]
pub(super) struct ViewClock {
    /// When the next view is due; `None` if nothing changed.
    due: Option<Instant>,
    last: Instant,
    /// Start of the large change that is being merged.
    sweeping_since: Option<Instant>,
}

impl ViewClock {
    /// Creates the schedule; no view is due.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            due: None,
            last: now,
            sweeping_since: None,
        }
    }

    /// Returns whether to take a view now.
    pub(crate) fn is_due(&mut self, now: Instant, has_changes: bool, is_sweeping: bool) -> bool {
        if has_changes {
            let soonest = (self.last + PUBLISH_SPACING).max(now);
            self.due.get_or_insert(soonest);
        }
        if !is_sweeping {
            self.sweeping_since = None;
        } else if now < *self.sweeping_since.get_or_insert(now) + SWEEP_HOLD {
            return false;
        }
        self.due.is_some_and(|due| due <= now)
    }

    /// Delays the view, because the receiver of changes is behind. The next view then has the
    /// changes of a longer time.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.due = Some(now + PUBLISH_SPACING);
    }

    /// Makes a view due at once, because a program waits for it.
    pub(crate) fn expedite(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// Records that a view was taken.
    pub(crate) fn mark_taken(&mut self, now: Instant) {
        self.due = None;
        self.last = now;
    }

    /// Returns when to check again, if nothing else happens.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_large_change_is_invisible_unless_it_takes_very_long() {
        let start = Instant::now();
        let mut views = ViewClock::new(start);
        let later = start + PUBLISH_SPACING;
        assert!(!views.is_due(later, true, true));
        assert!(views.is_due(later, true, false));
        views.mark_taken(later);
        let much_later = later + PUBLISH_SPACING;
        assert!(!views.is_due(much_later, true, true));
        assert!(views.is_due(much_later + SWEEP_HOLD, true, true));
    }

    #[test]
    fn views_are_published_at_intervals() {
        let start = Instant::now();
        let mut views = ViewClock::new(start);
        assert!(!views.is_due(start, false, false) && views.next_due().is_none());
        assert!(!views.is_due(start, true, false));
        assert_eq!(views.next_due(), Some(start + PUBLISH_SPACING));
        assert!(views.is_due(start + PUBLISH_SPACING, true, false));
    }
}
