//! Handle to a cached file: stores and reads its bytes, and proves them to peers.
//!
//! Reading a complete file takes no lock. Bytes on disk are never removed while a handle lives, so
//! a read needs no lock after the check that its range is present.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::CacheError;
use super::core::OpenFileHandle;
use super::file::{OpenFileState, PairSource};
use super::pages::{bytes_of, pages_around};
use super::store::PageWrite;
use p2pfs_types::digest::{
    self, ContentHash, DigestError, Grain, InMemory, OnDisk, ReadAt, Verified,
};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use p2pfs_types::files::is_want;
use p2pfs_types::pool::PiecePool;

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Number of bytes read: all that were requested, up to the end of the file.
    Ready(usize),
    /// Missing range, in whole pages; nothing was read. It is the first gap, or the chunks that the
    /// disk could not read.
    Missing(ByteRange),
}

/// Result of storing verified bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The whole pages of the range are in the cache.
    Kept,
    /// The cache is full, or the disk refuses the write. No page was added, but other files may
    /// have been evicted. Use the bytes uncached.
    Full,
}

/// Handle to an open file of the cache. The file is not evicted while a clone lives.
#[derive(Clone)]
pub struct CacheFile {
    pub(super) handle: Arc<OpenFileHandle>,
}

impl CacheFile {
    /// Creates a handle for a user of the bytes and marks the file as used.
    pub(super) fn used(handle: Arc<OpenFileHandle>) -> Self {
        handle.shared.is_used.store(true, Ordering::Relaxed);
        Self { handle }
    }

    /// Returns the content hash.
    pub fn hash(&self) -> ContentHash {
        self.shared().files.hash
    }

    /// Returns the size of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.shared().files.size_bytes
    }

    /// Fills `buffer` from `offset`, up to the end of the file, if the whole range is present.
    /// Otherwise returns the first missing range. If the disk cannot read the range, the chunks
    /// that it touches become missing.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the range cannot be read for a temporary reason
    /// ([`CacheError::is_want`]). Then nothing becomes missing.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadOutcome, CacheError> {
        let shared = self.shared();
        let size_bytes = shared.files.size_bytes;
        let whole = ByteRange::new(0, size_bytes);
        let range = ByteRange::at(offset, buffer.len() as u64).intersection(&whole);
        if range.is_empty() {
            return Ok(ReadOutcome::Ready(0));
        }
        if let Some(gap) = shared.first_missing(&self.handle.core.context, range) {
            return Ok(ReadOutcome::Missing(bytes_of(&gap, size_bytes)));
        }
        let length = range.len() as usize;
        let read = |data| {
            let data = OnDisk(data);
            data.read_exact_at(offset, &mut buffer[..length])
        };
        match shared.files.data().and_then(read) {
            Ok(()) => Ok(ReadOutcome::Ready(length)),
            Err(error) if is_want(&error) => {
                Err(CacheError::io("read", &shared.files.paths.data, error))
            }
            Err(_) => {
                let context = &self.handle.core.context;
                let lost = range.align_out(CHUNK_BYTES, size_bytes);
                let lost_bytes = shared.drop_range(context, lost);
                context.damage.record(lost_bytes);
                Ok(ReadOutcome::Missing(lost))
            }
        }
    }

    /// Stores the whole pages of a verified range. Partial pages at its ends are left out.
    ///
    /// The range must come from `digest::decode` for the hash and size of this file. This function
    /// cannot verify that.
    ///
    /// # Errors
    /// [`CacheError::BadShape`] if the number of bytes differs from the length of the range, or if
    /// the range or a hash pair is not within this file.
    pub fn store(&self, verified: &Verified) -> Result<Stored, CacheError> {
        let write = PageWrite::of(&self.handle.core, self.shared(), verified)?;
        Ok(write.run())
    }

    /// Returns the ranges that can be read now.
    pub fn present(&self) -> ExtentSet {
        self.shared()
            .pages
            .lock()
            .present
            .extents(self.size_bytes())
    }

    /// Returns the ranges on disk: the readable ones and those in doubt. Doubtful ranges are
    /// checked at the first read and may turn out to be missing.
    pub fn on_disk(&self) -> ExtentSet {
        let size_bytes = self.size_bytes();
        let state = self.shared().pages.lock();
        let present = state.present.extents(size_bytes);
        if state.doubt.is_empty() {
            present
        } else {
            present.union(&state.doubt.extents(size_bytes))
        }
    }

    /// Checks the ranges in doubt (see *Crash safety* in the crate's documentation), chunk by
    /// chunk, while `goes_on` returns true. Blocks on the disk. After a full pass every range is
    /// present or missing, except those that could not be read because the process lacked a
    /// resource ([`CacheError::is_want`]).
    pub fn settle(&self, goes_on: impl Fn() -> bool) {
        let shared = self.shared();
        shared.settle_all(&self.handle.core.context, goes_on);
    }

    /// Returns the number of readable bytes without a lock.
    pub fn cached_bytes(&self) -> u64 {
        self.shared().pages.cached_bytes()
    }

    /// Returns the ranges that can be offered to peers: the complete present chunks. Each chunk was
    /// stored with its proof, so [`CacheFile::encode`] can prove any part of it.
    pub fn offered(&self) -> ExtentSet {
        self.present().align_in(CHUNK_BYTES, self.size_bytes())
    }

    /// Returns the missing parts of `range`, in whole pages cut at the end of the file.
    pub fn missing_in(&self, range: ByteRange) -> ExtentSet {
        let shared = self.shared();
        let size_bytes = shared.files.size_bytes;
        if shared.pages.is_complete() {
            return ExtentSet::new();
        }
        let pages = pages_around(range, size_bytes);
        let mut missing = ExtentSet::of(bytes_of(&pages, size_bytes));
        for run in shared.pages.lock().present.runs(pages) {
            missing.remove(bytes_of(&run, size_bytes));
        }
        missing
    }

    /// Encodes `range` with its proof for another node, in a buffer of the pool.
    ///
    /// # Errors
    /// [`CacheError::NotCached`] if the range is not within [`CacheFile::offered`].
    /// [`CacheError::Damaged`] if the bytes on disk are wrong or cannot be read: the damaged chunks
    /// are missing then, and [`super::CacheEvent::Dropped`] was sent. [`CacheError::Digest`] for a
    /// range outside the file, or if memory or file descriptors are exhausted.
    pub fn encode(&self, range: ByteRange, pool: &PiecePool) -> Result<Bytes, CacheError> {
        let shared = self.shared();
        let context = &self.handle.core.context;
        let chunks = range.align_out(CHUNK_BYTES, shared.files.size_bytes);
        if shared.first_missing(context, chunks).is_some() {
            return Err(CacheError::NotCached { range });
        }
        let data = OnDisk(shared.files.data().map_err(DigestError::Io)?);
        shared.prove(context, range, data, pool)
    }

    /// Encodes `range` with its proof if this needs no disk access. Returns `None` if the bytes are
    /// missing, in doubt, wrong, or not in memory.
    pub fn encode_at_once(&self, range: ByteRange, pool: &PiecePool) -> Option<Bytes> {
        let shared = self.shared();
        let (hash, size_bytes) = (shared.files.hash, shared.files.size_bytes);
        let pages = pages_around(range.align_out(CHUNK_BYTES, size_bytes), size_bytes);
        if !shared.pages.is_complete() && !shared.pages.lock().present.contains(pages) {
            return None;
        }
        let data = InMemory(shared.files.data().ok()?);
        let pairs = PairSource {
            shared,
            in_memory: true,
        };
        digest::encode_in(pool, Grain::CHUNK, hash, size_bytes, range, data, pairs).ok()
    }

    /// Returns whether the whole file is present.
    pub fn is_complete(&self) -> bool {
        self.shared().pages.is_complete()
    }

    /// Returns the data file, opened read-only, once it is complete. The kernel can then read it
    /// without this process. The file does not change while a handle lives.
    pub fn backing(&self) -> Option<Arc<File>> {
        let shared = self.shared();
        if !shared.pages.is_complete() {
            return None;
        }
        shared.files.backing()
    }

    pub(super) fn shared(&self) -> &Arc<OpenFileState> {
        &self.handle.shared
    }
}
