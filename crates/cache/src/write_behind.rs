//! Queue of write-behind work: maps that are written shortly after stores, and completed or closed
//! files that are synced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use p2pfs_types::digest::ContentHash;

/// Delay between a store and the write of its map, if the background thread is idle. A kill can
/// lose this much of a slow stream.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// Delay between the completion or the close of a file and its sync. A program that copied the file
/// often syncs its copy at the same moment (`p2pfs get` does), or reads the file again. A sync
/// beside it would delay both. A power cut within the delay costs a check of the file.
const SYNC_AFTER: Duration = Duration::from_secs(2);
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

/// Work with the time at which it is due.
#[derive(Default)]
struct PendingWork {
    flush_at: Option<Instant>,
    /// In the order of their times.
    syncs: VecDeque<(Instant, ContentHash)>,
    check_at: Option<Instant>,
    stop: bool,
}

impl WriteBehind {
    /// Requests a flush: a file has pages that its map does not claim yet.
    pub(super) fn wake_to_flush(&self) {
        let mut list = self.list.lock();
        if list.flush_at.is_none() {
            list.flush_at = Some(Instant::now() + FLUSH_AFTER);
            self.changed.notify_one();
        }
    }

    /// Queues a file for syncing.
    pub(super) fn sync_later(&self, hash: ContentHash) {
        let mut list = self.list.lock();
        let is_queued = list.syncs.iter().any(|(_, queued)| *queued == hash);
        if list.syncs.len() < SYNCS_MAX && !is_queued {
            list.syncs.push_back((Instant::now() + SYNC_AFTER, hash));
            self.changed.notify_one();
        }
    }

    /// Starts or stops the periodic checks of the disk.
    pub(super) fn schedule_disk_checks(&self, check_disk: bool) {
        self.list.lock().check_at = check_disk.then(|| Instant::now() + DISK_CHECK_PERIOD);
        self.changed.notify_one();
    }

    /// Waits until work is due. Returns `None` at the end.
    pub(super) fn next(&self) -> Option<BackgroundWork> {
        let mut list = self.list.lock();
        loop {
            if list.stop {
                return None;
            }
            match list.next_due() {
                None => self.changed.wait(&mut list),
                Some(at) if at > Instant::now() => drop(self.changed.wait_until(&mut list, at)),
                Some(_) => return Some(list.take_due(Instant::now())),
            }
        }
    }

    /// Takes the next file to sync, without waiting for one.
    #[cfg(test)]
    pub(super) fn take_sync(&self) -> Option<ContentHash> {
        self.list.lock().syncs.pop_front().map(|(_, hash)| hash)
    }

    /// Ends the background thread.
    pub(super) fn stop(&self) {
        self.list.lock().stop = true;
        self.changed.notify_one();
    }
}

impl PendingWork {
    fn next_due(&self) -> Option<Instant> {
        let sync_at = self.syncs.front().map(|(at, _)| *at);
        [self.flush_at, sync_at, self.check_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn take_due(&mut self, now: Instant) -> BackgroundWork {
        let is_due = |at: &mut Instant| *at <= now;
        let check_disk = self.check_at.take_if(is_due).is_some();
        if check_disk {
            self.check_at = Some(now + DISK_CHECK_PERIOD);
        }
        BackgroundWork {
            flush: self.flush_at.take_if(is_due).is_some(),
            sync: self
                .syncs
                .pop_front_if(|(at, _)| is_due(at))
                .map(|(_, hash)| hash),
            check_disk,
        }
    }
}
