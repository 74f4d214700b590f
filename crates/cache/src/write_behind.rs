//! Queue of write-behind work: maps that are written shortly after stores, and completed or closed
//! files that are synced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use p2pfs_types::digest::ContentHash;

/// Delay between a store and the write of its map, if the background thread is idle. A kill can
/// lose this much of a slow stream.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// Interval between checks of a disk that refused a write.
const DISK_CHECK_PERIOD: Duration = Duration::from_secs(2);
/// Maximum number of files that wait to be synced. Further files are not synced, which costs a
/// check of them after a power cut.
const SYNCS_MAX: usize = 1024;

/// Next work of the background thread.
pub(super) struct BackgroundWork {
    pub(super) flush: bool,
    pub(super) sync: Option<ContentHash>,
    /// Whether to check the disk.
    pub(super) check_disk: bool,
}

/// Pending work.
#[derive(Default)]
pub(super) struct WriteBehind {
    list: Mutex<PendingWork>,
    changed: Condvar,
}

#[derive(Default)]
struct PendingWork {
    flush: bool,
    sync: VecDeque<ContentHash>,
    /// Time of the next check of the disk.
    check_at: Option<Instant>,
    stop: bool,
}

impl WriteBehind {
    /// Requests a flush: a file has pages that its map does not claim yet.
    pub(super) fn wake_to_flush(&self) {
        let mut list = self.list.lock();
        if !list.flush {
            list.flush = true;
            self.changed.notify_one();
        }
    }

    /// Queues a file for syncing.
    pub(super) fn sync_later(&self, hash: ContentHash) {
        let mut list = self.list.lock();
        if list.sync.len() < SYNCS_MAX && !list.sync.contains(&hash) {
            list.sync.push_back(hash);
            self.changed.notify_one();
        }
    }

    /// Starts or stops the periodic checks of the disk.
    pub(super) fn schedule_disk_checks(&self, check_disk: bool) {
        self.list.lock().check_at = check_disk.then(|| Instant::now() + DISK_CHECK_PERIOD);
        self.changed.notify_one();
    }

    /// Waits for work. Returns `None` at the end.
    pub(super) fn next(&self) -> Option<BackgroundWork> {
        let mut list = self.list.lock();
        while !list.stop && !list.flush && list.sync.is_empty() && !list.is_check_due() {
            match list.check_at {
                Some(at) => drop(self.changed.wait_until(&mut list, at)),
                None => self.changed.wait(&mut list),
            }
        }
        if !list.stop && list.flush && list.sync.is_empty() {
            let idle = |list: &mut PendingWork| !list.stop && list.sync.is_empty();
            self.changed.wait_while_for(&mut list, idle, FLUSH_AFTER);
        }
        let check_disk = list.is_check_due();
        if check_disk {
            list.check_at = Some(Instant::now() + DISK_CHECK_PERIOD);
        }
        let work = BackgroundWork {
            flush: std::mem::take(&mut list.flush),
            sync: list.sync.pop_front(),
            check_disk,
        };
        (!list.stop).then_some(work)
    }

    /// Takes the next file to sync, without waiting for one.
    #[cfg(test)]
    pub(super) fn take_sync(&self) -> Option<ContentHash> {
        self.list.lock().sync.pop_front()
    }

    /// Ends the background thread.
    pub(super) fn stop(&self) {
        self.list.lock().stop = true;
        self.changed.notify_one();
    }
}

impl PendingWork {
    fn is_check_due(&self) -> bool {
        self.check_at.is_some_and(|at| at <= Instant::now())
    }
}
