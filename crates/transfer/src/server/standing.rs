//! Refusal of contents on hung disks.
//!
//! If many contents of one disk are stuck, the whole disk counts as hung. No other request for its
//! contents is started until some of the stuck ones end, since each would block a thread for as
//! long as the disk hangs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::contents::ServedContents;
use super::fair_queue::{FairQueue, QueuedRequest, STANDS_STILL, ServeTurn};
use super::{ServerLimits, offer, refused};
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::ContentHash;

/// How long a disk may deliver nothing before it is reported. A disk that was spun down is usually
/// ready within this time.
pub(super) const WORTH_A_WORD: Duration = Duration::from_secs(10);
/// Number of stuck contents of one disk from which the disk counts as hung. More contents may be
/// started before the first one counts as stuck.
const STANDING_OF_DISK_MAX: usize = 16;

/// The queues of the server. They know which contents are being read or looked up, and since when.
pub(super) struct ServeQueues {
    pub answers: FairQueue,
    /// Queue of the lookups for offers.
    pub looks: FairQueue,
}

impl ServeQueues {
    pub(super) fn new(limits: ServerLimits) -> Self {
        Self {
            looks: offer::looks(&limits),
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
        let standing = self.stuck_for(STANDS_STILL, now);
        if standing.contains(hash) {
            return true;
        }
        if standing.len() < STANDING_OF_DISK_MAX {
            return false;
        }
        let disk = contents.disk_of(hash);
        let mut of_disk = standing.iter().filter(|it| contents.disk_of(it) == disk);
        of_disk.nth(STANDING_OF_DISK_MAX - 1).is_some()
    }

    /// Returns the contents that have been read or looked up for at least `time`.
    pub(super) fn stuck_for(&self, time: Duration, now: Instant) -> BTreeSet<ContentHash> {
        let all = [&self.answers, &self.looks].map(|it| it.stuck_for(time, now));
        all.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
