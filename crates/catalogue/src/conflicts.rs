//! Names that some version cannot have: what was given instead, and what of it is to be given anew.

use std::collections::BTreeMap;

use super::orders::Alias;
use super::row::{DirId, NodeIndex};
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::id::NodeName;

/// A name in a directory.
pub(super) type Place = (DirId, Box<[u8]>);

/// Of each directory the names that some version cannot have, with the conflict names that were
/// given for each.
pub(super) type Conflicts = BTreeMap<DirId, BTreeMap<Box<[u8]>, Vec<Alias>>>;

/// Places whose conflict names are to be given anew: those of the name, and those that want it.
#[derive(Default)]
pub(super) struct Stale {
    /// With the steps that each is reckoned to take.
    places: BTreeMap<Place, usize>,
    steps: usize,
}

impl Stale {
    pub(crate) fn insert(&mut self, dir: DirId, name: &[u8], steps: usize) {
        let before = self.places.insert((dir, name.into()), steps);
        self.steps = self.steps + steps - before.unwrap_or(0);
    }

    /// The next of them.
    pub(crate) fn pop(&mut self) -> Option<Place> {
        let (place, steps) = self.places.pop_first()?;
        self.steps -= steps;
        Some(place)
    }

    /// How many steps all of them are reckoned to take.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }
}

/// Changes of nodes' names.
#[derive(Default)]
pub(super) struct Renames {
    /// How far conflict names were given anew since somebody is called otherwise.
    pub at: Option<Place>,
    /// Somebody is called otherwise again since that began.
    pub is_due_again: bool,
    /// When each node's name changed last.
    pub changed: BTreeMap<NodeIndex, Timestamp>,
    /// What nodes are called from the end of their pause on.
    pub waiting: BTreeMap<NodeIndex, NodeName>,
}

impl Renames {
    /// Whether conflict names are still to be given anew.
    pub(crate) fn is_amid(&self) -> bool {
        self.at.is_some()
    }

    /// A node is forgotten, and its number may be another's next.
    pub(crate) fn forget(&mut self, node: NodeIndex) {
        self.changed.remove(&node);
        self.waiting.remove(&node);
    }
}
