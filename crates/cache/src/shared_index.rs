//! The index of all files, shared by all threads.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::core::OpenFileHandle;
use super::file::OpenFileState;
use super::index::{CacheIndex, IndexEntry, Presence};
use p2pfs_types::digest::ContentHash;

/// The index, and the signal for threads that wait for a change of it.
pub(super) struct SharedIndex {
    index: Mutex<CacheIndex<OpenFileHandle>>,
    /// Signalled when a hash becomes free or a file is closed.
    settled: Condvar,
}

impl SharedIndex {
    pub(super) fn new(index: CacheIndex<OpenFileHandle>) -> Self {
        Self {
            index: Mutex::new(index),
            settled: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, CacheIndex<OpenFileHandle>> {
        self.index.lock()
    }

    /// Locks the index once no file is open only because its map is being written.
    pub(super) fn lock_idle(&self) -> MutexGuard<'_, CacheIndex<OpenFileHandle>> {
        let mut index = self.index.lock();
        while index.is_open_for_map {
            self.wait(&mut index);
        }
        index
    }

    /// Unlocks the index, waits until [`Self::notify_settled`] is called, and locks it again. The
    /// caller then checks its condition again.
    pub(super) fn wait(&self, index: &mut MutexGuard<'_, CacheIndex<OpenFileHandle>>) {
        self.settled.wait(index);
    }

    /// Wakes all waiting threads. Called after a hash becomes free or a file is closed.
    pub(super) fn notify_settled(&self) {
        self.settled.notify_all();
    }

    /// Returns how many bytes of a file are cached.
    pub(super) fn cached_bytes(&self, hash: &ContentHash) -> u64 {
        self.index
            .lock()
            .get(hash)
            .map_or(0, IndexEntry::cached_bytes)
    }

    pub(super) fn open_files(&self) -> Vec<Arc<OpenFileState>> {
        let index = self.index.lock();
        let open = index.open().filter_map(|entry| match &entry.presence {
            Presence::Open(_, shared) => Some(shared.clone()),
            Presence::Closed => None,
        });
        open.collect()
    }
}
