//! Lookups for offers to nodes that want a content.

use std::time::Instant;

use super::fair_queue::{FairQueue, QueuedRequest};
use super::opened::Source;
use super::{ServerInner, ServerLimits};
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Maximum concurrent lookups on the disk, besides stuck ones.
const LOOKUPS_MAX: usize = 16;

/// Returns the queue of the lookups. A lookup that would have to wait in it is not done, since the
/// asker repeats its `Get`.
pub(super) fn lookup_queue(limits: &ServerLimits) -> FairQueue {
    FairQueue::new(ServerLimits {
        makers_max: LOOKUPS_MAX,
        ..limits.clone()
    })
}

/// Returns the source of a content for an offer, if the lookup need not wait. Blocking.
pub(super) fn find_for_offer(
    inner: &ServerInner,
    from: NodeId,
    hash: &ContentHash,
) -> Option<Source> {
    let (queues, contents) = (&inner.queues, &inner.contents);
    let now = Instant::now();
    if queues.is_stuck(contents, hash, now) {
        return None;
    }
    queues.lookups.free_stuck_turns(now);
    let asked = QueuedRequest::of_range((Lane::Urgent, from), *hash, ByteRange::at(0, 0));
    let _turn = queues.lookups.pass_at_once(asked)?;
    contents.find(hash).ok()
}
