//! Serving within a limit of bytes per second.
//!
//! A request delayed by the rate limit waits in a queue of its own before it takes a turn
//! (`fair_queue`), the right to make an answer. If it held a turn while waiting, it would count as
//! an answer stuck on a hung disk.

use std::time::Duration;

use tokio::time::timeout;

use super::ServerLimits;
use super::fair_queue::{FairQueue, QueuedRequest};
use crate::pace::Pace;
use p2pfs_proto::wire::native::tcp::Lane;

/// Maximum wait of a request for the limit, after which it is answered `Busy`. This is well within
/// the patience of the asker and of its reader.
const UPLOAD_WAIT_MAX: Duration = Duration::from_secs(4);

/// Upload limit and the requests that wait for it, in one queue for urgent and one for bulk
/// requests. In each queue the peers take turns, and one request at a time waits for its bytes.
/// Small urgent requests bypass both queues within their share of the limit.
pub(super) struct UploadLimit {
    pub pace: Pace,
    urgent: FairQueue,
    bulk: FairQueue,
}

impl UploadLimit {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let line = || {
            FairQueue::new(ServerLimits {
                makers_max: 1,
                // waiting requests hold no memory here
                held_max_bytes: u64::MAX,
                held_of_peer_max_bytes: u64::MAX,
                held_of_bulk_max_bytes: u64::MAX,
                ..limits.clone()
            })
        };
        Self {
            pace: Pace::default(),
            urgent: line(),
            bulk: line(),
        }
    }

    /// Waits until the limit allows an answer. Returns false if too many requests wait, if this one
    /// has waited for [`UPLOAD_WAIT_MAX`], or if a bulk answer is too large for one transfer.
    pub(super) async fn pass(&self, asked: QueuedRequest) -> bool {
        if self.pace.bytes_per_s().is_none() {
            return true;
        }
        let (line, is_urgent) = match asked.of.0 {
            Lane::Urgent => (&self.urgent, true),
            Lane::Bulk => (&self.bulk, false),
        };
        if !is_urgent && self.pace.is_too_much(asked.bytes) {
            return false;
        }
        if is_urgent && self.pace.pass_small(asked.bytes) {
            return true;
        }
        let allowed = async {
            let _first = line.line_up(asked).await?;
            self.pace.pass(asked.bytes, is_urgent).await;
            Some(())
        };
        matches!(timeout(UPLOAD_WAIT_MAX, allowed).await, Ok(Some(())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;
    use p2pfs_types::digest::ContentHash;
    use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};
    use p2pfs_types::id::NodeId;

    /// Sends so much at once that it takes longer than the age at which an answer counts as stuck.
    #[tokio::test]
    async fn a_throttled_answer_is_not_mistaken_for_one_blocked_by_a_disk() {
        let limits = ServerLimits::default();
        let limited = Arc::new(UploadLimit::new(&limits));
        let turns = FairQueue::new(limits);
        limited.pace.set(Some(2 * CHUNK_BYTES));
        let hash = ContentHash::of(b"one content");
        let asked = |at, bytes| {
            let of = (Lane::Bulk, NodeId::new([1; 32]));
            QueuedRequest::of_range(of, hash, ByteRange::at(at, bytes))
        };
        let answers = (0..5).map(|number| {
            let asked = asked(number * CHUNK_BYTES, CHUNK_BYTES);
            let (limited, turns) = (limited.clone(), turns.clone());
            async move { limited.pass(asked).await && turns.pass(asked).await.is_some() }
        });
        let answered = answers.collect::<JoinSet<bool>>().join_all().await;
        assert_eq!(answered, [true; 5]);
        let large = asked(0, 3 * CHUNK_BYTES);
        assert!(
            !limited.pass(large).await,
            "nobody else would pass for long"
        );
    }
}
