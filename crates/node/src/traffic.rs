//! Counters of file bytes to and from peers, and the rate limit for foreign peers.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use p2pfs_transfer::{Pace, PassedBytes};
use p2pfs_types::id::NodeId;

/// Maximum number of peers with counters of their own, as many as members. Further ones count only
/// in the total.
pub(crate) const PEERS_COUNTED_MAX: usize = 4096;

/// Byte counters by peer. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct PeerBytes {
    counts: Arc<Mutex<ByteCounts>>,
}

#[derive(Debug, Default)]
struct ByteCounts {
    total: u64,
    by_peer: BTreeMap<NodeId, u64>,
}

/// The counters of both directions.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    /// Bytes of files that this node sent to other nodes and to foreign peers.
    pub sent: PeerBytes,
    /// Bytes of files that other nodes pushed to this node, and all bytes of files from foreign
    /// peers. Excludes what this node fetches from other nodes, because the fetcher counts that.
    pub taken: PeerBytes,
}

impl PeerBytes {
    /// Counts bytes of files sent to `peer` or received from it. Beyond `PEERS_COUNTED_MAX`
    /// peers, the bytes of a further peer count only in the total.
    pub fn add(&self, peer: NodeId, bytes: u64) {
        let mut counts = self.counts.lock();
        counts.total += bytes;
        if counts.by_peer.len() < PEERS_COUNTED_MAX || counts.by_peer.contains_key(&peer) {
            *counts.by_peer.entry(peer).or_default() += bytes;
        }
    }

    /// Counts bytes sent to a foreign peer or received from one, which has no key.
    fn add_keyless(&self, bytes: u64) {
        self.counts.lock().total += bytes;
    }

    /// Returns the bytes since the start, of all peers.
    pub fn total(&self) -> u64 {
        self.counts.lock().total
    }

    /// Returns the bytes since the start, of one peer.
    pub fn of(&self, peer: &NodeId) -> u64 {
        let counts = self.counts.lock();
        counts.by_peer.get(peer).copied().unwrap_or(0)
    }
}

/// One direction of traffic between this node and foreign peers. Its bytes are counted, and share
/// one rate limit with the bytes that go the same way between nodes. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct ForeignThrottle {
    pace: Pace,
    /// Queue in front of the rate limit. Only the first transfer in it waits for the limit itself,
    /// so that many foreign peers leave native nodes their part of the limit.
    line: Arc<AsyncMutex<()>>,
    bytes: PeerBytes,
}

impl ForeignThrottle {
    /// Creates a throttle with this rate limit and counter.
    pub fn new(pace: &Pace, bytes: &PeerBytes) -> Self {
        Self {
            pace: pace.clone(),
            line: Arc::default(),
            bytes: bytes.clone(),
        }
    }

    /// Returns whether a rate limit is set.
    pub fn is_limited(&self) -> bool {
        self.pace.bytes_per_s().is_some()
    }

    /// Waits until these bytes may pass. Bytes that a program waits for bypass the queue. If the
    /// future or the returned guard is dropped, the limit is not charged for the bytes.
    pub async fn pass(&self, bytes: u64, is_waited_for: bool) -> PassedBytes {
        let _in_line = if is_waited_for {
            None
        } else {
            Some(self.line.lock().await)
        };
        self.pace.charge(bytes, is_waited_for).await
    }

    /// Counts bytes that have passed.
    pub fn count(&self, bytes: u64) {
        self.bytes.add_keyless(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_types::extent::CHUNK_BYTES;

    #[test]
    fn the_sum_includes_peers_that_did_not_fit_the_table() {
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
    async fn who_waits_for_the_limit_stands_behind_one_of_many_foreign_peers() {
        let (pace, sent) = (Pace::default(), PeerBytes::default());
        let passage = ForeignThrottle::new(&pace, &sent);
        pace.set(Some(16 * CHUNK_BYTES));
        // everything waits from now on
        pace.pass(16 * CHUNK_BYTES, false).await;
        for _ in 0..64 {
            let passage = passage.clone();
            tokio::spawn(async move {
                let passed = passage.pass(CHUNK_BYTES, false).await;
                passed.mark_transferred();
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
