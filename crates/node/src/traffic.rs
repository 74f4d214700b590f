//! How many bytes of files went to whom, or came from whom, and how fast those of legacy peers may.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use p2pfs_transfer::Pace;
use p2pfs_types::id::NodeId;

/// Peers counted apart; what is of further ones is only in the sum. As many as members.
pub(crate) const PEERS_COUNTED_MAX: usize = 4096;

/// The counters. Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub struct PeerBytes {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    total: u64,
    by_peer: BTreeMap<NodeId, u64>,
}

/// Both ways.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    /// What others had of this node, fetched or pushed.
    pub sent: PeerBytes,
    /// What others pushed to it, and what legacy peers gave; what it fetched from nodes the fetcher
    /// counts.
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

    /// So many went to a legacy peer, or came from one: it has no key to be counted by.
    fn add_keyless(&self, bytes: u64) {
        self.counts.lock().total += bytes;
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

/// One way between this node and the legacy peers of one plane: what goes it keeps to the limit
/// that holds between nodes, and is counted. Clones are the same way.
#[derive(Clone, Debug, Default)]
pub struct Passage {
    pace: Pace,
    /// However many wait here, one of them at a time stands among those who wait for the limit:
    /// strangers are many, and nodes are to have their part.
    line: Arc<AsyncMutex<()>>,
    bytes: PeerBytes,
}

impl Passage {
    /// By this limit, into this sum.
    pub fn new(pace: &Pace, bytes: &PeerBytes) -> Self {
        Self {
            pace: pace.clone(),
            line: Arc::default(),
            bytes: bytes.clone(),
        }
    }

    /// Whether there is a limit now.
    pub fn is_limited(&self) -> bool {
        self.pace.bytes_per_s().is_some()
    }

    /// Waits until so many bytes may pass; what a program waits for does not stand in line with the
    /// rest. Dropping it passes nothing.
    pub async fn pass(&self, bytes: u64, is_waited_for: bool) {
        let _in_line = if is_waited_for {
            None
        } else {
            Some(self.line.lock().await)
        };
        self.pace.pass(bytes, is_waited_for).await;
    }

    /// So many have passed.
    pub fn count(&self, bytes: u64) {
        self.bytes.add_keyless(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_types::extent::CHUNK_BYTES;

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

    #[tokio::test]
    async fn who_waits_for_the_limit_stands_behind_one_of_many_legacy_peers() {
        let (pace, sent) = (Pace::default(), PeerBytes::default());
        let passage = Passage::new(&pace, &sent);
        pace.set(Some(16 * CHUNK_BYTES));
        // all waits from now on
        pace.pass(16 * CHUNK_BYTES, false).await;
        for _ in 0..64 {
            let passage = passage.clone();
            tokio::spawn(async move {
                passage.pass(CHUNK_BYTES, false).await;
                passage.count(CHUNK_BYTES);
            });
        }
        tokio::task::yield_now().await;
        pace.pass(CHUNK_BYTES, false).await;
        let before = sent.total();
        assert!(before <= 4 * CHUNK_BYTES, "{before} bytes went first");
        pace.set(None);
        while sent.total() < 64 * CHUNK_BYTES {
            tokio::task::yield_now().await;
        }
    }
}
