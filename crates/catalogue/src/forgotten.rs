//! Nodes that this node forgot by order of the user. Other nodes still have the logs of forgotten
//! nodes, and would bring them back with the next heads that they announce.

use super::Catalogue;
use p2pfs_proto::wire::native::record::Head;
use p2pfs_types::id::NodeId;

/// Maximum number of forgotten nodes with a remembered rank. Above it, one other node's rank is
/// dropped. The log of that node is then applied again if another node has it.
pub const FORGOTTEN_MAX: usize = 1024;

/// The epoch and the sequence of a head ([`Head::rank`]).
pub type Rank = (u64, u64);

impl Catalogue {
    /// Forgets a node as [`forget`](Self::forget) does, and refuses its log up to the newest head
    /// heard so far. The log is applied again once the node is live or has a newer head.
    pub fn forget_until_back(&mut self, node: &NodeId) {
        let index = self.index_of(node).filter(|index| *index != self.me);
        let log = index.and_then(|index| self.logs.get(&index));
        let verified = log
            .and_then(|log| log.head.as_ref())
            .map(|it| it.head.rank());
        let wanted = log.and_then(|log| log.pull.wanted.as_ref()).map(Head::rank);
        if let Some(rank) = verified.max(wanted) {
            self.remember_forgotten(*node, rank);
        }
        self.forget(node);
    }

    /// Restores the ranks up to which nodes were forgotten before the restart.
    pub fn restore_forgotten(&mut self, all: impl IntoIterator<Item = (NodeId, Rank)>) {
        for (node, rank) in all {
            self.remember_forgotten(node, rank);
        }
    }

    fn remember_forgotten(&mut self, node: NodeId, rank: Rank) {
        self.forgetting.forgotten_to.insert(node, rank);
        if self.forgetting.forgotten_to.len() > FORGOTTEN_MAX {
            let other = self
                .forgetting
                .forgotten_to
                .keys()
                .find(|other| **other != node);
            if let Some(other) = other.copied() {
                self.forgetting.forgotten_to.remove(&other);
                // The next write deletes everything that the store has of `other`. That is only the
                // rank, because the store has no log of a node with a remembered rank.
                self.forgetting.forgotten.push(other);
            }
        }
    }

    /// Returns whether a head is not newer than the rank up to which its author was forgotten.
    pub(super) fn is_forgotten(&self, head: &Head) -> bool {
        let to = self.forgetting.forgotten_to.get(&head.author);
        to.is_some_and(|to| head.rank() <= *to)
    }
}
