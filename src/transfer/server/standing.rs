//! What stands still of what is asked for: it is refused, and it is known of which share it is.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::fair_queue::Asked;
use super::{Server, refused};
use crate::wire::native::tcp::Response;

/// A disk that gives nothing for so long is worth a word: one that was at rest turns by then.
const WORTH_A_WORD: Duration = Duration::from_secs(10);

impl Server {
    /// Why there is no turn: this node is at work for others, which is worth waiting for, or what
    /// is asked for stands still, which is not.
    pub(super) fn without_turn(&self, asked: &Asked) -> Response {
        match self.inner.fair_queue.stands_still(asked) {
            true => refused("the disk that it is on does not answer"),
            false => Response::Busy,
        }
    }

    /// The shares whose disks gave nothing for long though others wait for it.
    pub fn standing_shares(&self) -> BTreeSet<PathBuf> {
        let now = Instant::now();
        let standing = self.inner.fair_queue.standing_for(WORTH_A_WORD, now);
        let dirs_of = |hash| self.inner.shares.dirs_with(&hash);
        standing.into_iter().flat_map(dirs_of).collect()
    }
}
