//! Room in memory for large requests of peers that wait or are answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use p2pfs_types::id::NodeId;

/// Bytes of the smallest request that counts as large. A thousand smaller ones need little memory.
const LARGE_MIN_BYTES: usize = 4096;
/// Maximum bytes of large requests of all peers.
pub(crate) const LARGE_REQUESTS_MAX_BYTES: usize = 32 << 20;
/// Maximum bytes of large requests of one peer: several lists of members of the largest size.
pub(crate) const LARGE_REQUESTS_PER_PEER_BYTES: usize = 8 << 20;

/// The room. Clones share it.
#[derive(Clone, Default)]
pub(super) struct RequestRoom {
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_peer: BTreeMap<NodeId, usize>,
}

/// The room that one request takes. It is given back when this is dropped.
pub(super) struct TakenRoom {
    room: RequestRoom,
    from: NodeId,
    bytes: usize,
}

impl RequestRoom {
    /// Takes room for a request of a peer. A small request takes none. Returns `None` if the large
    /// requests of this peer or of all peers fill their room.
    pub(super) fn take(&self, from: NodeId, bytes: usize) -> Option<TakenRoom> {
        let bytes = if bytes < LARGE_MIN_BYTES { 0 } else { bytes };
        if bytes > 0 {
            let mut held = self.held.lock();
            let of_peer = held.by_peer.get(&from).copied().unwrap_or(0) + bytes;
            let all = held.all + bytes;
            if all > LARGE_REQUESTS_MAX_BYTES || of_peer > LARGE_REQUESTS_PER_PEER_BYTES {
                return None;
            }
            held.all = all;
            held.by_peer.insert(from, of_peer);
        }
        let room = self.clone();
        Some(TakenRoom { room, from, bytes })
    }
}

impl Drop for TakenRoom {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.room.held.lock();
        held.all -= self.bytes;
        if let Some(of_peer) = held.by_peer.get_mut(&self.from) {
            *of_peer -= self.bytes;
            if *of_peer == 0 {
                held.by_peer.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn peer(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    #[test]
    fn room_is_bounded_for_one_peer_and_for_all_and_returns() {
        let room = RequestRoom::default();
        let take = |number| room.take(peer(number), MIB);
        let each = LARGE_REQUESTS_PER_PEER_BYTES / MIB;
        let mut taken: Vec<_> = (0..each).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none(), "its share is taken");
        let peers = (LARGE_REQUESTS_MAX_BYTES / LARGE_REQUESTS_PER_PEER_BYTES) as u8;
        taken.extend(
            (2..=peers)
                .flat_map(|it| (0..each).map(move |_| it))
                .map(|it| take(it).unwrap()),
        );
        assert!(take(peers + 1).is_none(), "all is taken");
        assert!(room.take(peer(1), LARGE_MIN_BYTES - 1).is_some());
        drop(taken.pop());
        assert!(take(peers + 1).is_some());
        taken.clear();
        let held = room.held.lock();
        assert!(held.all == 0 && held.by_peer.is_empty());
    }
}
