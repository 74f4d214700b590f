//! When the namespace is published anew.

use std::time::{Duration, Instant};

/// The shortest time between two views: a scan publishes its files in batches.
const PUBLISH_SPACING: Duration = Duration::from_millis(20);
/// How long views wait for a large change to be worked in whole, so that nobody sees the half of
/// it; one that takes longer is shown as it comes.
const SWEEP_HOLD: Duration = Duration::from_secs(2);

/// What is known of the last view and the next.
#[derive(Debug)]
pub(super) struct ViewClock {
    /// A view is due then; nothing changed where there is none.
    due: Option<Instant>,
    last: Instant,
    /// Since when a large change is being worked in.
    sweeping_since: Option<Instant>,
}

impl ViewClock {
    /// No view is due.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            due: None,
            last: now,
            sweeping_since: None,
        }
    }

    /// Whether a view is to be taken now.
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

    /// Whoever is told of changes is behind: later, with more in one batch.
    pub(crate) fn put_off(&mut self, now: Instant) {
        self.due = Some(now + PUBLISH_SPACING);
    }

    /// A view was taken.
    pub(crate) fn note_taken(&mut self, now: Instant) {
        self.due = None;
        self.last = now;
    }

    /// When to ask again, if nothing else happens.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_the_half_of_a_large_change_unless_it_takes_very_long() {
        let start = Instant::now();
        let mut views = ViewClock::new(start);
        let later = start + PUBLISH_SPACING;
        assert!(!views.is_due(later, true, true));
        assert!(views.is_due(later, true, false));
        views.note_taken(later);
        let much_later = later + PUBLISH_SPACING;
        assert!(!views.is_due(much_later, true, true));
        assert!(views.is_due(much_later + SWEEP_HOLD, true, true));
    }

    #[test]
    fn views_keep_their_distance() {
        let start = Instant::now();
        let mut views = ViewClock::new(start);
        assert!(!views.is_due(start, false, false) && views.next_due().is_none());
        assert!(!views.is_due(start, true, false));
        assert_eq!(views.next_due(), Some(start + PUBLISH_SPACING));
        assert!(views.is_due(start + PUBLISH_SPACING, true, false));
    }
}
