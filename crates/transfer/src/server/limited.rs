//! Serving within a limit of bytes a second.
//!
//! Whoever has to wait for the limit does so in a line of its own, before it has a turn: an answer
//! that is begun and waits would be taken for one over a disk that hangs.

use std::time::Duration;

use tokio::time::timeout;

use super::fair_queue::{Asked, FairQueue, Turn};
use super::{Server, ServerLimits};
use crate::pace::Pace;
use p2pfs_proto::wire::native::tcp::Lane;

/// How long a question waits to be allowed; then it is put again. Well within the patience of who
/// reads, and of a read that waits for it.
const UPLOAD_WAIT_MAX: Duration = Duration::from_secs(4);

/// A limit, and who waits for it: each peer in its turn, what a reader waits for apart from the
/// rest, one of each at a time. What is small stands in neither line, within its share.
pub(super) struct Limited {
    pub pace: Pace,
    urgent: FairQueue,
    bulk: FairQueue,
}

impl Limited {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let line = || {
            FairQueue::new(ServerLimits {
                makers_max: 1,
                // nothing is made of what waits here
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

    /// Waits until an answer is allowed. Whether it is: not where too many wait already, nor where
    /// it is too large; who asks for that asks for less then.
    async fn pass(&self, asked: Asked) -> bool {
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

impl Server {
    /// A turn to make an answer, once the limit allows it; nothing where this node is too busy.
    pub(super) async fn turn_within_limit(&self, asked: Asked) -> Option<Turn> {
        if !self.inner.upload.pass(asked).await {
            return None;
        }
        let turn = self.turn(asked).await;
        if turn.is_none() {
            self.inner.upload.pace.give_back(asked.bytes);
        }
        turn
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

    /// As much at one time as takes longer than an answer may take that does not stand still.
    #[tokio::test]
    async fn what_waits_for_the_limit_is_not_taken_for_what_a_disk_holds_up() {
        let limits = ServerLimits::default();
        let limited = Arc::new(Limited::new(&limits));
        let turns = FairQueue::new(limits);
        limited.pace.set(Some(2 * CHUNK_BYTES));
        let hash = ContentHash::of(b"one content");
        let asked = |at, bytes| {
            let of = (Lane::Bulk, NodeId::new([1; 32]));
            Asked::of_range(of, hash, ByteRange::at(at, bytes))
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
