//! Nodes that this node forgot by order of the user. Other nodes still have the logs of forgotten
//! nodes and announce their heads. Without this module, these logs would be pulled again.

use std::collections::BTreeMap;

use p2pfs_proto::wire::native::record::Head;
use p2pfs_types::id::NodeId;

/// Maximum number of forgotten nodes with a remembered rank. Above it, one other node's rank is
/// dropped. The log of that node is then applied again if another node has it.
pub const FORGOTTEN_MAX: usize = 1024;

/// The epoch and the sequence of a head ([`Head::rank`]).
pub type Rank = (u64, u64);

/// The nodes that this node was told to forget.
#[derive(Default)]
pub(super) struct ForgottenNodes {
    /// Nodes with stored logs that the next writes delete.
    pub to_delete: Vec<NodeId>,
    /// Rank up to which a forgotten node's heads are refused.
    pub refused_to: BTreeMap<NodeId, Rank>,
}

impl ForgottenNodes {
    /// Refuses the heads of a node up to a rank.
    pub(crate) fn refuse_to(&mut self, node: NodeId, rank: Rank) {
        self.refused_to.insert(node, rank);
        if self.refused_to.len() > FORGOTTEN_MAX {
            let other = self.refused_to.keys().find(|other| **other != node);
            if let Some(other) = other.copied() {
                self.refused_to.remove(&other);
                // The next write deletes what the store has of `other`: its rank, and its log if
                // that is still there.
                self.to_delete.push(other);
            }
        }
    }

    /// Returns whether a head is not newer than the rank up to which its author was forgotten.
    pub(crate) fn refuses(&self, head: &Head) -> bool {
        let to = self.refused_to.get(&head.author);
        to.is_some_and(|to| head.rank() <= *to)
    }
}
