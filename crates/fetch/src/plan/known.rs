//! Bound on the peers with recorded figures. Peers in use are kept, others while there is room.

use std::collections::BTreeSet;

use super::Plan;
use super::peer::Peer;
use p2pfs_types::id::NodeId;

/// Maximum peers with recorded figures.
pub const PEERS_MAX: usize = 2048;
/// Divisor of the number of peers removed together at the limit, those not heard from for the
/// longest first. The search examines all peers.
const GO_AT_ONCE_PART: usize = 8;

impl Plan {
    /// Returns the figures of a peer, and creates them if there are none. Returns `None` at the
    /// limit if all peers are in use.
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
            peer.is_spare() && !self.queue.has_parked(node) && !holders.contains(node)
        });
        let mut spare: Vec<_> = spare.map(|(node, peer)| (peer.heard_at, *node)).collect();
        spare.sort_unstable();
        for (_, node) in spare.into_iter().take(PEERS_MAX / GO_AT_ONCE_PART) {
            self.peers.remove(&node);
            self.queue.forget_peer(&node);
        }
    }
}
