//! What stands still of what is asked for: it is refused, and it is known of which share it is.
//!
//! Where much of one disk stands still the whole disk does, and nothing more of it is begun until
//! some of that has ended: each would take a thread for as long as the disk hangs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::fair_queue::{Asked, STANDS_STILL, Turn};
use super::{Inner, Server, refused};
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::ContentHash;

/// A disk that gives nothing for so long is worth a word: one that was at rest turns by then.
const WORTH_A_WORD: Duration = Duration::from_secs(10);
/// So many contents of one disk may stand still. With those that are begun before the first of them
/// does, they leave turns enough for what is elsewhere.
const STANDING_OF_DISK_MAX: usize = 16;

impl Server {
    /// A turn to make an answer; none where this node is too busy, or what is asked for stands
    /// still, also since this waited.
    pub(super) async fn turn(&self, asked: Asked) -> Option<Turn> {
        let turn = self.inner.fair_queue.pass(asked).await?;
        let stands_still = |hash| self.inner.stands_still(&hash, Instant::now());
        (!asked.hash.is_some_and(stands_still)).then_some(turn)
    }

    /// Why there is no turn: this node is at work for others, which is worth waiting for, or what
    /// is asked for stands still, which is not.
    pub(super) fn without_turn(&self, asked: &Asked) -> Response {
        let stands_still = |hash| self.inner.stands_still(&hash, Instant::now());
        if asked.hash.is_some_and(stands_still) {
            refused("the disk that it is on does not answer")
        } else {
            Response::Busy
        }
    }

    /// The shares whose disks gave nothing for long though others wait for it.
    pub fn standing_shares(&self) -> BTreeSet<PathBuf> {
        let standing = self.inner.standing_for(WORTH_A_WORD, Instant::now());
        let dirs_of = |hash| self.inner.shares.dirs_with(&hash);
        standing.into_iter().flat_map(dirs_of).collect()
    }
}

impl Inner {
    /// Whether a content is not to be begun: it stands still itself, or its whole disk does. Never
    /// blocks.
    pub(super) fn stands_still(&self, hash: &ContentHash, now: Instant) -> bool {
        let standing = self.standing_for(STANDS_STILL, now);
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

    /// The contents that are read or looked at for as long as that, or longer.
    fn standing_for(&self, time: Duration, now: Instant) -> BTreeSet<ContentHash> {
        let all = [&self.fair_queue, &self.looks].map(|it| it.standing_for(time, now));
        all.into_iter().flatten().collect()
    }

    /// Where a content is read from: the first of the shares that have it, or the cache.
    fn disk_of(&self, hash: &ContentHash) -> Option<PathBuf> {
        let is_cached = self.cache.is_complete(hash);
        let dirs = (!is_cached).then(|| self.shares.dirs_with(hash));
        dirs.into_iter().flatten().next()
    }
}

#[cfg(test)]
mod tests;
