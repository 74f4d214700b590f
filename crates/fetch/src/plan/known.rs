//! Of which peers figures are kept: of all that are in use, and of others as long as there is room.

use std::collections::BTreeSet;

use super::Plan;
use super::peer::Peer;
use p2pfs_types::id::NodeId;

/// Peers of which figures are kept.
pub const PEERS_MAX: usize = 2048;
/// Where there are so many, one in this number goes at once, those first that were not heard of for
/// the longest: to find them is work for all.
const GO_AT_ONCE_PART: usize = 8;

impl Plan {
    /// A peer's figures, made where there are none yet; nothing where as many are kept as may be
    /// and all of them are in use.
    pub(super) fn peer_or_new(&mut self, node: NodeId) -> Option<&mut Peer> {
        if !self.peers.contains_key(&node) && self.peers.len() >= PEERS_MAX {
            self.forget_some_peers();
            if self.peers.len() >= PEERS_MAX {
                return None;
            }
        }
        Some(self.peers.entry(node).or_default())
    }

    fn forget_some_peers(&mut self) {
        let fetches = self.fetches.values();
        let holders: BTreeSet<_> = fetches.flat_map(|fetch| fetch.holders().keys()).collect();
        let spare = self.peers.iter().filter(|(node, peer)| {
            self.step();
            peer.is_spare() && !holders.contains(node)
        });
        let mut spare: Vec<_> = spare.map(|(node, peer)| (peer.heard_at, *node)).collect();
        spare.sort_unstable();
        for (_, node) in spare.into_iter().take(PEERS_MAX / GO_AT_ONCE_PART) {
            self.peers.remove(&node);
            self.awake.remove(&node);
        }
    }
}
