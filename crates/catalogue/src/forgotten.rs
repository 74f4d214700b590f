//! What a person had this node forget: others still have it, and would give it back with the next
//! heads that they tell of.

use super::Catalogue;
use p2pfs_proto::wire::native::record::Head;
use p2pfs_types::id::NodeId;

/// The most nodes of which it is remembered up to where they were forgotten; beyond it that ends
/// for one of them, whose log is then taken again where another node has it.
pub const FORGOTTEN_MAX: usize = 1024;

/// The epoch and the sequence of a head ([`Head::rank`]).
pub type Rank = (u64, u64);

impl Catalogue {
    /// Forgets a node as [`forget`](Self::forget) does, and takes nobody's word for what was heard
    /// of its log so far: it is taken again once the node is live, or has said more.
    pub fn forget_until_back(&mut self, node: &NodeId) {
        let index = self.index_of(node).filter(|index| *index != self.me);
        let log = index.and_then(|index| self.logs.get(&index));
        let verified = log
            .and_then(|log| log.head.as_ref())
            .map(|it| it.head.rank());
        let wanted = log.and_then(|log| log.wanted.as_ref()).map(Head::rank);
        if let Some(rank) = verified.max(wanted) {
            self.note_forgotten(*node, rank);
        }
        self.forget(node);
    }

    /// Takes in up to where a node was forgotten before the start.
    pub fn restore_forgotten(&mut self, all: impl IntoIterator<Item = (NodeId, Rank)>) {
        for (node, rank) in all {
            self.note_forgotten(node, rank);
        }
    }

    fn note_forgotten(&mut self, node: NodeId, rank: Rank) {
        self.forgotten_to.insert(node, rank);
        if self.forgotten_to.len() > FORGOTTEN_MAX {
            let other = self.forgotten_to.keys().find(|other| **other != node);
            if let Some(other) = other.copied() {
                self.forgotten_to.remove(&other);
                // so that the store forgets it too: no log is stored of one that is remembered so
                self.forgotten.push(other);
            }
        }
    }

    /// Whether a head says no more than what was forgotten.
    pub(super) fn is_forgotten(&self, head: &Head) -> bool {
        let to = self.forgotten_to.get(&head.author);
        to.is_some_and(|to| head.rank() <= *to)
    }
}
