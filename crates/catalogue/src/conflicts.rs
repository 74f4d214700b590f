//! Contested names, the names that need a reassignment of conflict names, and renames of nodes.

use std::collections::BTreeMap;

use super::orders::Alias;
use super::row::{DirId, NodeIndex};
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::id::NodeName;

/// A name in a directory.
pub(super) type ContestedName = (DirId, Box<[u8]>);

/// The contested names of each directory, each with the conflict names assigned for it.
pub(super) type Conflicts = BTreeMap<DirId, BTreeMap<Box<[u8]>, Vec<Alias>>>;

/// Names that were changed, or that became contested or free. The conflict names that depend on
/// each of them must be reassigned (`ConflictNaming::refresh_aliases`).
#[derive(Default)]
pub(super) struct StaleConflictNames {
    /// Each place with the estimated steps of its reassignment.
    places: BTreeMap<ContestedName, usize>,
    steps: usize,
}

impl StaleConflictNames {
    pub(crate) fn insert(&mut self, dir: DirId, name: &[u8], steps: usize) {
        let before = self.places.insert((dir, name.into()), steps);
        self.steps = self.steps + steps - before.unwrap_or(0);
    }

    /// Removes and returns the next place.
    pub(crate) fn pop(&mut self) -> Option<ContestedName> {
        let (place, steps) = self.places.pop_first()?;
        self.steps -= steps;
        Some(place)
    }

    /// Returns the estimated steps of all places.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }
}

/// Progress and throttling of node renames.
#[derive(Default)]
pub(super) struct Renames {
    /// Place up to which conflict names were reassigned after a change of labels. `None` if no pass
    /// is running.
    pub at: Option<ContestedName>,
    /// Whether a label changed during the current pass, so that another pass must follow.
    pub is_due_again: bool,
    /// Time of the last name change of each node.
    pub changed: BTreeMap<NodeIndex, Timestamp>,
    /// Names that nodes take when their pause ends.
    pub waiting: BTreeMap<NodeIndex, NodeName>,
}

impl Renames {
    /// Returns whether a reassignment of conflict names is in progress.
    pub(crate) fn is_amid(&self) -> bool {
        self.at.is_some()
    }

    /// Removes a forgotten node, because its number can be reused.
    pub(crate) fn forget(&mut self, node: NodeIndex) {
        self.changed.remove(&node);
        self.waiting.remove(&node);
    }
}
