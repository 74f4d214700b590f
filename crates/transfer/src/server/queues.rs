//! The queues of the server, and the contents that must not be started.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::fair_queue::{FairQueue, QueuedRequest, STANDS_STILL, ServeTurn};
use super::standing::is_on_hung_disk;
use super::{ServerLimits, refused};
use p2pfs_content::ContentStore;
use p2pfs_proto::wire::native::tcp::{Lane, Response};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Maximum concurrent lookups for offers on the disk, besides stuck ones.
const LOOKUPS_MAX: usize = 16;

/// The queues of the server. They know which contents are being read or looked up, and since when.
pub(super) struct ServeQueues {
    pub answers: FairQueue,
    /// Queue of the lookups for offers. A lookup that would have to wait in it is not done, since
    /// the asker repeats its `Get`.
    lookups: FairQueue,
}

impl ServeQueues {
    pub(super) fn new(limits: ServerLimits) -> Self {
        Self {
            lookups: FairQueue::new(ServerLimits {
                makers_max: LOOKUPS_MAX,
                ..limits.clone()
            }),
            answers: FairQueue::new(limits),
        }
    }

    /// Returns a turn to look up a content for an offer, if the lookup need not wait.
    pub(super) fn lookup_turn(
        &self,
        contents: &ContentStore,
        of: (Lane, NodeId),
        hash: ContentHash,
    ) -> Option<ServeTurn> {
        let now = Instant::now();
        if self.is_stuck(contents, &hash, now) {
            return None;
        }
        self.lookups.free_stuck_turns(now);
        let asked = QueuedRequest::of_range(of, hash, ByteRange::at(0, 0));
        self.lookups.pass_at_once(asked)
    }

    /// Waits for a turn to make an answer. Returns `None` if this node is too busy, or if the
    /// content must not be started by then ([`Self::is_stuck`]).
    pub(super) async fn turn(
        &self,
        contents: &ContentStore,
        asked: QueuedRequest,
    ) -> Option<ServeTurn> {
        let turn = self.answers.pass(asked).await?;
        let stands_still = |hash| self.is_stuck(contents, &hash, Instant::now());
        (!asked.hash.is_some_and(stands_still)).then_some(turn)
    }

    /// Returns the answer for a request that got no turn: a refusal if the content is stuck or its
    /// whole disk hangs, otherwise `Busy`, because this node is at work for other requests and the
    /// asker may try again.
    pub(super) fn without_turn(&self, contents: &ContentStore, asked: &QueuedRequest) -> Response {
        let stands_still = |hash| self.is_stuck(contents, &hash, Instant::now());
        if asked.hash.is_some_and(stands_still) {
            refused("the disk that it is on does not answer")
        } else {
            Response::Busy
        }
    }

    /// Returns whether a content must not be started: it is stuck, or its whole disk hangs. Never
    /// blocks.
    pub(super) fn is_stuck(
        &self,
        contents: &ContentStore,
        hash: &ContentHash,
        now: Instant,
    ) -> bool {
        let stuck = self.stuck_for(STANDS_STILL, now);
        stuck.contains(hash) || is_on_hung_disk(contents, &stuck, hash)
    }

    /// Returns the contents that have been read or looked up for at least `time`.
    pub(super) fn stuck_for(&self, time: Duration, now: Instant) -> BTreeSet<ContentHash> {
        let all = [&self.answers, &self.lookups].map(|it| it.stuck_for(time, now));
        all.into_iter().flatten().collect()
    }
}
