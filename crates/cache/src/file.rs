//! An open file: its files on disk, its pages and its map, and the changes that keep them
//! consistent.
//!
//! This module does not know other files, the budget, or the holders of handles.
//!
//! Doubtful pages are checked against the hash at their first read, ranges when they are proven to
//! peers, and all pages on demand. Damaged pages are removed. Only complete chunks can be checked,
//! because an outboard has no hash for less. Single pages of a chunk are trusted because their
//! record states that they were written in this boot or synced.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;

use super::content_files::ContentFiles;
use super::context::CacheContext;
use super::file_pages::FilePages;
use super::flush::MapState;
use super::layout;
use super::map::{self, LoadedMap};
use super::pages::{Counts, bytes_of, chunks_of, page_count, pages_around};
use super::summary::FileSummary;
use super::{CacheError, CacheEvent};
use p2pfs_types::digest::{self, AppendAt, DigestError, Grain, InMemory, OnDisk, ReadAt};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::is_want;
use p2pfs_types::pool::PiecePool;

/// An open file. Locks are taken in the order `writing`, `room` (in `charge`), `map`, `pages`.
pub(super) struct OpenFileState {
    pub(super) files: ContentFiles,
    pub(super) pages: FilePages,
    pub(super) charge: FileCharge,
    pub(super) map: Mutex<MapState>,
    /// Serializes the creation of the files and the writes to the data file. Taken before the other
    /// locks.
    pub(super) writing: Mutex<()>,
    /// Whether a user requested the file since it was opened. Maintenance does not count as use.
    pub(super) is_used: AtomicBool,
}

/// The space that the index counts for a file.
pub(super) struct FileCharge {
    /// Upper bound of the pages that stores in flight will add. Locked during every change of the
    /// charge.
    pub(super) room: Mutex<Counts>,
    charged_bytes: AtomicU64,
}

impl FileCharge {
    /// Returns the bytes that the file takes of the budget.
    pub(super) fn bytes(&self) -> u64 {
        self.charged_bytes.load(Ordering::Relaxed)
    }

    /// Sets the bytes that the file takes of the budget. The caller holds `room`.
    pub(super) fn set_bytes(&self, bytes: u64) {
        self.charged_bytes.store(bytes, Ordering::Relaxed);
    }
}

impl OpenFileState {
    pub(super) fn new(
        files: ContentFiles,
        loaded: LoadedMap,
        map: MapState,
        charged_bytes: u64,
    ) -> Self {
        debug_assert_eq!(files.size_bytes, loaded.size_bytes);
        Self {
            files,
            pages: FilePages::of(loaded),
            charge: FileCharge {
                room: Mutex::default(),
                charged_bytes: AtomicU64::new(charged_bytes),
            },
            map: Mutex::new(map),
            writing: Mutex::default(),
            is_used: AtomicBool::new(false),
        }
    }

    /// Queues a complete or closed file for syncing. Small files are skipped: a check after a power
    /// cut costs less than a sync.
    pub(super) fn sync_later(&self, context: &CacheContext) {
        if !map::is_small(self.files.size_bytes) {
            context.write_behind.sync_later(self.files.hash);
        }
    }

    /// Writes the pending changes.
    pub(super) fn flush(&self, context: &CacheContext) -> io::Result<()> {
        self.flush_locked(context, &mut self.map.lock(), false)
    }

    /// Writes the pending changes, unless another thread is writing them.
    pub(super) fn flush_unless_busy(&self, context: &CacheContext) {
        if let Some(mut map) = self.map.try_lock() {
            // A failed flush is counted, and its data stays pending.
            let _ = self.flush_locked(context, &mut map, false);
        }
    }

    /// Syncs everything to the disk and marks it as durable.
    pub(super) fn sync(&self, context: &CacheContext) -> io::Result<()> {
        if !self.pages.lock().unsynced {
            return Ok(());
        }
        self.flush_locked(context, &mut self.map.lock(), true)
    }

    /// Rewrites the map after pages were removed. If the rewrite fails, removes the map, with the
    /// data file if the map is its attribute: losing the file is better than trusting a damaged
    /// page.
    pub(super) fn rewrite(&self, context: &CacheContext, map: &mut MapState) {
        map.must_rewrite = true;
        if self.flush_locked(context, map, false).is_err() {
            let _ = context.disk.remove(&self.files.paths.map);
            if map.in_attribute {
                let _ = context.disk.remove(&self.files.paths.data);
            }
        }
    }

    /// Closes this open file. Returns the summary of what remains on disk, if anything, and whether
    /// to sync it: part of it was never synced, and the disk has not just refused its map.
    pub(super) fn retire(
        &self,
        context: &CacheContext,
        last_use: SystemTime,
    ) -> (Option<FileSummary>, bool) {
        let mut map = self.map.lock();
        let written = self.flush_locked(context, &mut map, false);
        let is_refused = written.is_err();
        map.retired = true;
        // No thread reads or writes the stale pages at this point.
        let stale = std::mem::take(&mut self.pages.lock().stale);
        self.files.free(context, &stale);
        let summary = match written {
            Ok(()) if map.on_disk => Some(self.pages.summary()),
            Ok(()) => None,
            Err(_) => self.files.read_summary(context),
        };
        let summary = summary.filter(|left| left.counts.pages > 0 || left.size_bytes == 0);
        let unsynced = self.pages.lock().unsynced;
        if summary.is_none() && self.files.exist() {
            let _ = context.record_result(layout::remove(&context.disk, &self.files.paths));
        }
        // The map stores the time of the last use. A failure only leaves an older time.
        match (summary.is_some(), map.in_attribute) {
            (true, false) => drop(context.disk.touch(&self.files.paths.map, last_use)),
            // Data stored recently already has its write time.
            (true, true) if !unsynced => drop(context.disk.touch(&self.files.paths.data, last_use)),
            _ => {}
        }
        // The disk would refuse the map of a sync as well, and its close would queue the next sync.
        (summary, unsynced && !is_refused)
    }

    fn flush_locked(
        &self,
        context: &CacheContext,
        map: &mut MapState,
        durable: bool,
    ) -> io::Result<()> {
        if map.retired {
            return Ok(());
        }
        let Some(batch) = self.pages.lock().take_batch(map, durable) else {
            return Ok(());
        };
        let result = context.record_result(map.write(context, &self.files, &batch, durable));
        let mut state = self.pages.lock();
        if result.is_ok() {
            state.flushing = Arc::default();
            map.on_disk = true;
            map.must_rewrite = false;
        } else {
            // The next flush rewrites the whole map, because its last record may be torn.
            map.must_rewrite = true;
            state.restore(&batch);
        }
        result
    }

    /// Returns the first missing pages of a range, after a check of its doubtful pages.
    pub(super) fn first_missing(
        &self,
        context: &CacheContext,
        range: ByteRange,
    ) -> Option<Range<u64>> {
        if self.pages.is_complete() {
            return None;
        }
        let pages = pages_around(range, self.files.size_bytes);
        let state = self.pages.lock();
        let missing = state.present.first_missing(pages.clone())?;
        if !state.doubt.touches(pages.clone()) {
            return Some(missing);
        }
        drop(state);
        self.settle(context, range);
        self.pages.lock().present.first_missing(pages)
    }

    fn pairs(&self) -> PairSource<'_> {
        PairSource {
            shared: self,
            in_memory: false,
        }
    }

    /// Encodes a range that is completely present, with its proof. `data` is the data file. Chunks
    /// that fail verification or cannot be read are dropped.
    pub(super) fn prove(
        &self,
        context: &CacheContext,
        range: ByteRange,
        data: impl AppendAt,
        pool: &PiecePool,
    ) -> Result<Bytes, CacheError> {
        let (hash, size_bytes, pairs) = (self.files.hash, self.files.size_bytes, self.pairs());
        let proof = digest::encode_in(pool, Grain::CHUNK, hash, size_bytes, range, data, pairs);
        match proof {
            Ok(proof) => Ok(proof),
            Err(error) if is_damage(&error) => {
                self.drop_unproven(context, range);
                Err(CacheError::Damaged { hash })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Marks all pages of a range of chunks as missing, in memory and then in the map on disk. Its
    /// bytes stay on disk and count against the budget until they are stored again or the file is
    /// closed. Returns how many bytes were present.
    pub(super) fn drop_range(&self, context: &CacheContext, range: ByteRange) -> u64 {
        let size_bytes = self.files.size_bytes;
        let mut map = self.map.lock();
        let pages = pages_around(range, size_bytes);
        let mut state = self.pages.lock();
        let Some(lost_bytes) = state.withdraw(pages, size_bytes) else {
            return 0;
        };
        let was_complete = self.pages.is_complete();
        self.pages.publish(&state);
        drop(state);
        self.rewrite(context, &mut map);
        drop(map);
        context.damage.drop_copies(&self.files.hash, range);
        if lost_bytes > 0 {
            context.send_event(CacheEvent::Dropped {
                hash: self.files.hash,
                range,
                was_complete,
            });
        }
        lost_bytes
    }

    /// Checks the complete chunks of a range. Returns the number of dropped bytes.
    pub(super) fn check(&self, context: &CacheContext, range: ByteRange) -> u64 {
        let before = self.pages.cached_bytes();
        let pages = pages_around(range, self.files.size_bytes);
        if self.pages.lock().present.contains(pages) {
            // Failed chunks are dropped by `prove`.
            let prove = |data| self.prove(context, range, OnDisk(data), &PiecePool::default());
            let _ = self.files.data().map(prove);
        } else {
            self.drop_unproven(context, range);
        }
        before.saturating_sub(self.pages.cached_bytes())
    }

    /// Drops the complete chunks of a range that fail verification.
    pub(super) fn drop_unproven(&self, context: &CacheContext, range: ByteRange) {
        for chunk in chunks_of(range, self.files.size_bytes) {
            let pages = pages_around(chunk, self.files.size_bytes);
            let whole = self.pages.lock().present.contains(pages);
            if whole && self.proves(chunk) == Some(false) {
                let lost_bytes = self.drop_range(context, chunk);
                context.damage.record(lost_bytes);
            }
        }
    }

    /// Checks the doubtful chunks of a range: they become present or stale. A chunk that cannot be
    /// read for a temporary reason stays doubtful. Returns the number of bytes that became stale.
    pub(super) fn settle(&self, context: &CacheContext, range: ByteRange) -> u64 {
        let (hash, size_bytes) = (self.files.hash, self.files.size_bytes);
        let mut lost_bytes = 0;
        for chunk in chunks_of(range, size_bytes) {
            let pages = pages_around(chunk, size_bytes);
            if !self.pages.lock().doubt.touches(pages.clone()) {
                continue;
            }
            let Some(proven) = self.proves(chunk) else {
                continue;
            };
            let mut state = self.pages.lock();
            lost_bytes += state.end_doubt(pages, proven, size_bytes);
            let completed = self.pages.publish(&state);
            drop(state);
            if !proven {
                // This process never gave these bytes to a read, but a previous one may have.
                context.damage.drop_copies(&hash, chunk);
            }
            if completed {
                let _ = self.flush(context);
                self.sync_later(context);
                context.send_event(CacheEvent::Completed { hash, size_bytes });
            }
        }
        lost_bytes
    }

    /// Checks all doubtful chunks while `goes_on` returns true.
    pub(super) fn settle_all(&self, context: &CacheContext, goes_on: impl Fn() -> bool) {
        let size_bytes = self.files.size_bytes;
        let all = 0..page_count(size_bytes);
        let doubtful: Vec<_> = self.pages.lock().doubt.runs(all).collect();
        for run in doubtful {
            for chunk in chunks_of(bytes_of(&run, size_bytes), size_bytes) {
                if !goes_on() {
                    return;
                }
                self.settle(context, chunk);
            }
        }
    }

    /// Returns whether a chunk on disk matches the hash. `None` if it could not be read for a
    /// temporary reason ([`is_want`]), which says nothing about the chunk.
    fn proves(&self, chunk: ByteRange) -> Option<bool> {
        let (hash, size_bytes, pairs) = (self.files.hash, self.files.size_bytes, self.pairs());
        let encode = |data| digest::encode(hash, size_bytes, chunk, OnDisk(data), pairs);
        match self.files.data().map_err(DigestError::Io).and_then(encode) {
            Ok(_) => Some(true),
            Err(DigestError::Io(error)) if is_want(&error) => None,
            Err(_) => Some(false),
        }
    }
}

/// The outboard including the pairs that are not written yet.
pub(super) struct PairSource<'a> {
    pub(super) shared: &'a OpenFileState,
    /// Whether to return only pairs that need no disk access.
    pub(super) in_memory: bool,
}

impl ReadAt for PairSource<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.shared.pages.unwritten_pair(offset) {
            Some(pair) => pair.as_slice().read_at(0, buffer),
            None if self.in_memory => {
                InMemory(self.shared.files.outboard()?).read_at(offset, buffer)
            }
            None => OnDisk(self.shared.files.outboard()?).read_at(offset, buffer),
        }
    }
}

/// Returns whether the bytes on disk are the cause: they are wrong or unreadable.
fn is_damage(error: &DigestError) -> bool {
    match error {
        DigestError::LocalMismatch => true,
        DigestError::Io(error) => !is_want(error),
        _ => false,
    }
}
