//! How many bytes of files went to whom, or came from whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::id::NodeId;

/// Peers counted apart; what is of further ones is only in the sum. As many as members.
pub const PEERS_COUNTED_MAX: usize = 4096;

/// The counters. Clones are the same counters.
#[derive(Clone, Default)]
pub struct PeerBytes {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    total: u64,
    by_peer: BTreeMap<NodeId, u64>,
}

/// Both ways.
#[derive(Clone, Default)]
pub struct Traffic {
    /// What others had of this node, fetched or pushed.
    pub sent: PeerBytes,
    /// What others pushed to it; what it fetched itself the fetcher counts.
    pub taken: PeerBytes,
}

impl PeerBytes {
    /// So many bytes of files went to `peer`, or came from it.
    pub fn add(&self, peer: NodeId, bytes: u64) {
        let mut counts = self.counts.lock();
        counts.total += bytes;
        if counts.by_peer.len() < PEERS_COUNTED_MAX || counts.by_peer.contains_key(&peer) {
            *counts.by_peer.entry(peer).or_default() += bytes;
        }
    }

    /// Since the start, of all.
    pub fn total(&self) -> u64 {
        self.counts.lock().total
    }

    /// Since the start, of one peer.
    pub fn of(&self, peer: &NodeId) -> u64 {
        let counts = self.counts.lock();
        counts.by_peer.get(peer).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_counts_what_the_table_has_no_room_for() {
        let sent = PeerBytes::default();
        for number in 0..PEERS_COUNTED_MAX as u64 + 10 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            sent.add(NodeId::new(key), 2);
        }
        assert_eq!(sent.total(), 2 * (PEERS_COUNTED_MAX as u64 + 10));
        assert_eq!(sent.of(&NodeId::new([0; 32])), 2);
        assert_eq!(sent.of(&NodeId::new([255; 32])), 0);
    }
}
