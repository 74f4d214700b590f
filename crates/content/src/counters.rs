//! Counters of opens and reads: the versions that are open, the reads that wait, and whether the
//! cache had what readers opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use p2pfs_fs::FsError;

/// Maximum number of versions open at once; further opens fail with ENFILE. A quarter of the
/// largest descriptor limit that Linux allows a process by default (`fs.nr_open`: 1,048,576). Most
/// open versions need no descriptor.
pub const OPEN_VERSIONS_MAX: usize = 1_048_576 / 4;

/// The count of open versions. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct OpenVersions(Arc<AtomicUsize>);

/// One open version. It counts until it is dropped.
#[derive(Debug)]
pub struct OpenSlot(OpenVersions);

impl OpenVersions {
    /// Counts one more open version.
    ///
    /// # Errors
    /// [`FsError::TooManyHandles`] if the maximum number of versions is open.
    pub fn enter(&self) -> Result<OpenSlot, FsError> {
        let open = self.0.fetch_add(1, Ordering::Relaxed);
        // Beyond the limit, dropping the slot undoes the count.
        let slot = OpenSlot(self.clone());
        if open < OPEN_VERSIONS_MAX {
            Ok(slot)
        } else {
            Err(FsError::TooManyHandles)
        }
    }

    /// Returns the number of open versions.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many opened versions of other nodes' files the cache had. Each open counts once, by its
/// first read. The kernel may read a file that is whole in the cache by itself, so such a file
/// counts at its open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheOpens {
    /// Opens with the first bytes in the cache.
    pub hits: u64,
    /// Opens with the first bytes fetched from other nodes.
    pub misses: u64,
}

/// The counters of reads.
#[derive(Default)]
pub(super) struct ReadCounters {
    waiting: Arc<AtomicU64>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl ReadCounters {
    /// Counts a read as waiting until the returned value is dropped.
    pub(super) fn begin_waiting(&self) -> WaitingRead {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        WaitingRead(Arc::clone(&self.waiting))
    }

    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn cache_opens(&self) -> CacheOpens {
        CacheOpens {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

/// Counts a waiting read until it is dropped.
pub(super) struct WaitingRead(Arc<AtomicU64>);

impl Drop for WaitingRead {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an open was counted.
#[derive(Debug, Default)]
pub(super) struct OpenCount(AtomicBool);

impl OpenCount {
    /// Counts the open as found in the cache, unless it was counted.
    pub(super) fn hit(&self, counters: &ReadCounters) {
        self.count(&counters.hits);
    }

    /// Counts the open as fetched from other nodes, unless it was counted.
    pub(super) fn miss(&self, counters: &ReadCounters) {
        self.count(&counters.misses);
    }

    /// Leaves the open out of the counters.
    pub(super) fn leave_out(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn count(&self, counter: &AtomicU64) {
        // This load comes first, so that only the first read of an open writes to shared memory.
        if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
