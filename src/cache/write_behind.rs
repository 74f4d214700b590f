//! What is written behind the stores: maps a little after them, and files to be synced that were
//! completed or closed.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::digest::ContentHash;

/// How long a stored page may wait for its map: what a kill can lose of a slow stream.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// How many files wait to be synced; further ones are not, which costs a check of them after a
/// power cut.
const SYNCS_MAX: usize = 1024;

/// What there is to do.
#[derive(Default)]
pub(super) struct WriteBehind {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Default)]
struct List {
    flush: bool,
    sync: VecDeque<ContentHash>,
    stop: bool,
}

impl WriteBehind {
    /// Some file has pages that its map does not claim yet.
    pub(super) fn wake_to_flush(&self) {
        let mut list = self.list.lock();
        if !list.flush {
            list.flush = true;
            self.changed.notify_one();
        }
    }

    /// The file should be synced when there is time.
    pub(super) fn sync_later(&self, hash: ContentHash) {
        let mut list = self.list.lock();
        if list.sync.len() < SYNCS_MAX && !list.sync.contains(&hash) {
            list.sync.push_back(hash);
            self.changed.notify_one();
        }
    }

    /// Waits for work; gives whether to flush and what to sync. `None` is the end.
    pub(super) fn next(&self) -> Option<(bool, Option<ContentHash>)> {
        let mut list = self.list.lock();
        while !list.stop && !list.flush && list.sync.is_empty() {
            self.changed.wait(&mut list);
        }
        if !list.stop && list.flush && list.sync.is_empty() {
            let idle = |list: &mut List| !list.stop && list.sync.is_empty();
            self.changed.wait_while_for(&mut list, idle, FLUSH_AFTER);
        }
        let work = (std::mem::take(&mut list.flush), list.sync.pop_front());
        (!list.stop).then_some(work)
    }

    /// The thread is to end.
    pub(super) fn stop(&self) {
        self.list.lock().stop = true;
        self.changed.notify_one();
    }
}
