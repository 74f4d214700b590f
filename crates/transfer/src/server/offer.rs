//! Offers to nodes that want a content.

use std::time::Instant;

use super::fair_queue::{FairQueue, QueuedRequest};
use super::opened::Source;
use super::{Server, ServerLimits};
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_proto::wire::native::udp::{OFFER_RANGES_MAX, OfferSummary};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Maximum concurrent lookups on the disk, besides stuck ones.
const LOOKS_MAX: usize = 16;

/// Returns the queue of the lookups. A lookup that would have to wait in it is not done, since the
/// asker repeats its `Get`.
pub(super) fn looks(limits: &ServerLimits) -> FairQueue {
    FairQueue::new(ServerLimits {
        makers_max: LOOKS_MAX,
        ..limits.clone()
    })
}

impl Server {
    /// Returns the offer for a node that broadcasts a `Get`, and records the node as an asker.
    /// Touches the disk only if some of the content is here. Returns `None` if the node may not get
    /// the content, if nothing of it is here, if its disk hangs, or if too many lookups are under
    /// way. Blocking.
    pub fn offer_for(&self, from: NodeId, hash: &ContentHash) -> Option<OfferSummary> {
        if !(self.inner.admits)(&from, hash) {
            return None;
        }
        let askers = self.askers(hash, &from);
        self.inner.askers.lock().record(Instant::now(), *hash, from);
        let source = self.look(from, hash)?;
        let (all, size_bytes) = (source.is_whole(), source.size_bytes());
        let ranges = if all {
            Vec::new()
        } else {
            source.ranges().longest(OFFER_RANGES_MAX)
        };
        if !all && ranges.is_empty() {
            return None;
        }
        Some(OfferSummary {
            hash: *hash,
            size_bytes,
            all,
            ranges,
            load: self.load(),
            askers,
        })
    }

    fn look(&self, from: NodeId, hash: &ContentHash) -> Option<Source> {
        let (inner, now) = (&self.inner, Instant::now());
        if inner.is_stuck(hash, now) {
            return None;
        }
        inner.looks.free_stuck_turns(now);
        let asked = QueuedRequest::of_range((Lane::Urgent, from), *hash, ByteRange::at(0, 0));
        let _turn = inner.looks.pass_at_once(asked)?;
        inner.find(hash).ok()
    }
}
