//! The queues of the server, and the contents that must not be started.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::contents::ServedContents;
use super::fair_queue::{FairQueue, QueuedRequest, STANDS_STILL, ServeTurn};
use super::standing::is_on_hung_disk;
use super::{ServerLimits, offer, refused};
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::ContentHash;

/// The queues of the server. They know which contents are being read or looked up, and since when.
pub(super) struct ServeQueues {
    pub answers: FairQueue,
    /// Queue of the lookups for offers.
    pub lookups: FairQueue,
}

impl ServeQueues {
    pub(super) fn new(limits: ServerLimits) -> Self {
        Self {
            lookups: offer::lookup_queue(&limits),
            answers: FairQueue::new(limits),
        }
    }

    /// Waits for a turn to make an answer. Returns `None` if this node is too busy, or if the
    /// content must not be started by then ([`Self::is_stuck`]).
    pub(super) async fn turn(
        &self,
        contents: &ServedContents,
        asked: QueuedRequest,
    ) -> Option<ServeTurn> {
        let turn = self.answers.pass(asked).await?;
        let stands_still = |hash| self.is_stuck(contents, &hash, Instant::now());
        (!asked.hash.is_some_and(stands_still)).then_some(turn)
    }

    /// Returns the answer for a request that got no turn: a refusal if the content is stuck or its
    /// whole disk hangs, otherwise `Busy`, because this node is at work for other requests and the
    /// asker may try again.
    pub(super) fn without_turn(
        &self,
        contents: &ServedContents,
        asked: &QueuedRequest,
    ) -> Response {
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
        contents: &ServedContents,
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
