//! What changed in the merged namespace since it was last asked, for the kernel's caches.

use std::collections::BTreeSet;

use super::MAX_CHANGES;
use crate::path::SharedPath;

/// One thing that somebody who looked before would now see differently. Told after the view that
/// shows it was taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A name appeared in this directory or left it, or its own attributes changed.
    Listing(SharedPath),
    /// This name appeared, vanished, or shows other content or attributes.
    Entry(SharedPath),
    /// More changed than was kept, or everything may have.
    Everything,
}

/// Changes, each once, at most [`MAX_CHANGES`].
#[derive(Default)]
pub(super) struct Changes {
    kept: BTreeSet<Change>,
    overflown: bool,
}

impl Changes {
    /// Whether a further change would be kept; who makes paths for them may save the work.
    pub fn is_open(&self) -> bool {
        !self.overflown
    }

    pub fn note(&mut self, change: Change) {
        if self.overflown {
            return;
        }
        self.kept.insert(change);
        if self.kept.len() > MAX_CHANGES {
            self.kept.clear();
            self.overflown = true;
        }
    }

    pub fn poll(&mut self) -> Option<Change> {
        if std::mem::take(&mut self.overflown) {
            return Some(Change::Everything);
        }
        self.kept.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> Change {
        Change::Entry(SharedPath::new(number.to_string().into_bytes()).unwrap())
    }

    #[test]
    fn a_change_told_twice_is_kept_once() {
        let mut changes = Changes::default();
        changes.note(entry(1));
        changes.note(entry(1));
        assert_eq!(changes.poll(), Some(entry(1)));
        assert_eq!(changes.poll(), None);
    }

    #[test]
    fn more_changes_than_are_kept_become_everything_once() {
        let mut changes = Changes::default();
        (0..=MAX_CHANGES + 5).for_each(|n| changes.note(entry(n)));
        assert!(!changes.is_open());
        assert_eq!(changes.poll(), Some(Change::Everything));
        assert_eq!(changes.poll(), None);
        changes.note(entry(7));
        assert_eq!(changes.poll(), Some(entry(7)));
    }
}
