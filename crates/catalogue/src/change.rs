//! Changes of the merged namespace since the last poll, for the kernel's caches.
//!
//! Changes are returned in the order in which they were last recorded. If each of two names changed
//! once, a reader that invalidates names in this order does not show the later change without the
//! earlier.

use std::collections::{BTreeMap, HashMap};

use super::CHANGES_MAX;
use super::merged::Merged;
use super::row::DirId;
use p2pfs_types::path::SharedPath;

/// One change of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A name appeared in this directory or left it, or the directory's own attributes changed.
    Listing(SharedPath),
    /// This name appeared, vanished, or may show other content, attributes or an own file.
    Entry(SharedPath),
    /// More changed than was recorded, or everything may have changed.
    Everything,
}

/// The pending changes, each once, at most [`CHANGES_MAX`].
#[derive(Default)]
pub(super) struct Changes {
    kept: HashMap<Change, u64>,
    order: BTreeMap<u64, Change>,
    noted: u64,
    overflown: bool,
    /// The directory that was recorded last, and its path. After a name is settled, the directories
    /// above it follow one after the other. The path of each directory is then a prefix of the path
    /// recorded before.
    last: Option<(DirId, SharedPath)>,
}

impl Changes {
    /// Records a change of a name in a directory, or of the directory itself if the name is empty.
    pub(crate) fn record_in(
        &mut self,
        state: &Merged,
        dir: DirId,
        name: &[u8],
        change: fn(SharedPath) -> Change,
    ) {
        if self.overflown {
            return;
        }
        let directory = self.path_of(state, dir);
        let path = match name {
            b"" => directory.clone(),
            _ => directory
                .join(name)
                .expect("what is known came by shared paths"),
        };
        self.record(change(path));
    }

    fn path_of(&mut self, state: &Merged, dir: DirId) -> &SharedPath {
        let path = match self.last.take() {
            Some((last, path)) if last == dir => path,
            Some((last, path)) if state.dir(last).parent == dir => {
                path.parent().unwrap_or_default()
            }
            _ => state.path_of(dir, &[]),
        };
        &self.last.insert((dir, path)).1
    }

    /// Forgets the cached path of a directory, because its number can be reused.
    pub(crate) fn directory_ended(&mut self, dir: DirId) {
        self.last.take_if(|last| last.0 == dir);
    }

    pub(crate) fn record(&mut self, change: Change) {
        if self.overflown {
            return;
        }
        self.noted += 1;
        if let Some(before) = self.kept.insert(change.clone(), self.noted) {
            self.order.remove(&before);
        }
        self.order.insert(self.noted, change);
        if self.kept.len() > CHANGES_MAX {
            self.kept.clear();
            self.order.clear();
            self.overflown = true;
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Change> {
        if std::mem::take(&mut self.overflown) {
            return Some(Change::Everything);
        }
        let (_, change) = self.order.pop_first()?;
        self.kept.remove(&change);
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> Change {
        Change::Entry(SharedPath::new(number.to_string().into_bytes()).unwrap())
    }

    #[test]
    fn a_change_recorded_twice_is_kept_once() {
        let mut changes = Changes::default();
        changes.record(entry(1));
        changes.record(entry(1));
        assert_eq!(changes.poll(), Some(entry(1)));
        assert_eq!(changes.poll(), None);
    }

    #[test]
    fn changes_are_reported_in_the_order_of_their_last_occurrence() {
        let mut changes = Changes::default();
        [5, 1, 3, 5]
            .into_iter()
            .for_each(|n| changes.record(entry(n)));
        let told: Vec<Change> = std::iter::from_fn(|| changes.poll()).collect();
        assert_eq!(told, [entry(1), entry(3), entry(5)]);
    }

    #[test]
    fn changes_beyond_the_limit_become_one_change_of_everything() {
        let mut changes = Changes::default();
        (0..=CHANGES_MAX + 5).for_each(|n| changes.record(entry(n)));
        assert!(changes.overflown);
        assert_eq!(changes.poll(), Some(Change::Everything));
        assert_eq!(changes.poll(), None);
        changes.record(entry(7));
        assert_eq!(changes.poll(), Some(entry(7)));
    }
}
