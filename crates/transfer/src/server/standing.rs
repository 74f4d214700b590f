//! Refusal of contents on hung disks, and report of the shares there.
//!
//! If many contents of one disk are stuck, the whole disk counts as hung. No other request for its
//! contents is started until some of the stuck ones end, since each would block a thread for as
//! long as the disk hangs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::fair_queue::{QueuedRequest, STANDS_STILL, ServeTurn};
use super::{Server, ServerInner, refused};
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::ContentHash;

/// How long a disk may deliver nothing before it is reported. A disk that was spun down is usually
/// ready within this time.
const WORTH_A_WORD: Duration = Duration::from_secs(10);
/// Number of stuck contents of one disk from which the disk counts as hung. More contents may be
/// started before the first one counts as stuck.
const STANDING_OF_DISK_MAX: usize = 16;

impl Server {
    /// Waits for a turn to make an answer. Returns `None` if this node is too busy, or if the
    /// content must not be started by then ([`ServerInner::is_stuck`]).
    pub(super) async fn turn(&self, asked: QueuedRequest) -> Option<ServeTurn> {
        let turn = self.inner.fair_queue.pass(asked).await?;
        let stands_still = |hash| self.inner.is_stuck(&hash, Instant::now());
        (!asked.hash.is_some_and(stands_still)).then_some(turn)
    }

    /// Returns the answer for a request that got no turn: a refusal if the content is stuck or its
    /// whole disk hangs, otherwise `Busy`, because this node is at work for other requests and the
    /// asker may try again.
    pub(super) fn without_turn(&self, asked: &QueuedRequest) -> Response {
        let stands_still = |hash| self.inner.is_stuck(&hash, Instant::now());
        if asked.hash.is_some_and(stands_still) {
            refused("the disk that it is on does not answer")
        } else {
            Response::Busy
        }
    }

    /// Returns the folders of the shares with a content that has been read or looked up for ten
    /// seconds.
    pub fn standing_shares(&self) -> BTreeSet<PathBuf> {
        let standing = self.inner.stuck_for(WORTH_A_WORD, Instant::now());
        let dirs_of = |hash| self.inner.shares.dirs_with(&hash);
        standing.into_iter().flat_map(dirs_of).collect()
    }
}

impl ServerInner {
    /// Returns whether a content must not be started: it is stuck, or its whole disk hangs. Never
    /// blocks.
    pub(super) fn is_stuck(&self, hash: &ContentHash, now: Instant) -> bool {
        let standing = self.stuck_for(STANDS_STILL, now);
        if standing.contains(hash) {
            return true;
        }
        if standing.len() < STANDING_OF_DISK_MAX {
            return false;
        }
        let disk = self.disk_of(hash);
        let mut of_disk = standing.iter().filter(|it| self.disk_of(it) == disk);
        of_disk.nth(STANDING_OF_DISK_MAX - 1).is_some()
    }

    /// Returns the contents that have been read or looked up for at least `time`.
    fn stuck_for(&self, time: Duration, now: Instant) -> BTreeSet<ContentHash> {
        let all = [&self.fair_queue, &self.looks].map(|it| it.stuck_for(time, now));
        all.into_iter().flatten().collect()
    }

    /// Returns the location of a content: the first share that has it, or `None` for the cache.
    fn disk_of(&self, hash: &ContentHash) -> Option<PathBuf> {
        let is_cached = self.cache.is_complete(hash);
        let dirs = (!is_cached).then(|| self.shares.dirs_with(hash));
        dirs.into_iter().flatten().next()
    }
}

#[cfg(test)]
mod tests;
