//! A file of the cache as its users have it: reading it, and proving it to others.
//!
//! Reading a complete file takes no lock, but for a moment that of `super::recent` where it went to
//! the disk past the kernel's pages. Bytes on disk are never taken away while a handle lives,
//! so a range that was present once can be read without looking again.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::CacheError;
use super::core::Handle;
use super::file::{PairSource, Shared};
use super::pages::{bytes_of, pages_around};
use p2pfs_types::digest::{self, ContentHash, DigestError, InMemory, OnDisk, ReadAt};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes were read: all that were asked for, but for the file's end.
    Ready(usize),
    /// This is the first gap, in whole pages; nothing was read.
    Missing(ByteRange),
}

/// What became of verified bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Their whole pages are in the cache.
    Kept,
    /// There is no room, or the disk refuses: the cache is as before; use the bytes uncached.
    Full,
}

/// A file of the cache that is held open. Clones share it; while one lives it is not evicted.
#[derive(Clone)]
pub struct CacheFile {
    pub(super) handle: Arc<Handle>,
}

impl CacheFile {
    /// For who wants its bytes.
    pub(super) fn used(handle: Arc<Handle>) -> Self {
        handle.shared.is_used.store(true, Ordering::Relaxed);
        Self { handle }
    }

    /// The content.
    pub fn hash(&self) -> ContentHash {
        self.shared().hash
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.shared().size_bytes
    }

    /// Fills `buffer` from `offset` on, up to the file's end, if all of that is present; else
    /// says what is missing first. A range that the disk cannot read becomes missing.
    ///
    /// # Errors
    /// None at present: a disk that fails to read makes the range missing.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadOutcome, CacheError> {
        let shared = self.shared();
        let whole = ByteRange::new(0, shared.size_bytes);
        let range = ByteRange::at(offset, buffer.len() as u64).intersection(&whole);
        if range.is_empty() {
            return Ok(ReadOutcome::Ready(0));
        }
        if let Some(gap) = shared.first_missing(&self.handle.core.context, range) {
            return Ok(ReadOutcome::Missing(bytes_of(&gap, shared.size_bytes)));
        }
        let length = range.len() as usize;
        let read = |data| {
            let data = shared.recent_or(&self.handle.core.context, OnDisk(data));
            data.read_exact_at(offset, &mut buffer[..length])
        };
        match shared.data().and_then(read) {
            Ok(()) => Ok(ReadOutcome::Ready(length)),
            Err(_) => {
                let lost = range.align_out(CHUNK_BYTES, shared.size_bytes);
                shared.drop_range(&self.handle.core.context, lost);
                Ok(ReadOutcome::Missing(lost))
            }
        }
    }

    /// What can be read now.
    pub fn present(&self) -> ExtentSet {
        self.shared()
            .state
            .lock()
            .present
            .extents(self.size_bytes())
    }

    /// What is on disk: what can be read now, and what is in doubt, which is checked as it is
    /// read and may turn out to be missing.
    pub fn on_disk(&self) -> ExtentSet {
        let size_bytes = self.size_bytes();
        let state = self.shared().state.lock();
        let present = state.present.extents(size_bytes);
        if state.doubt.is_empty() {
            present
        } else {
            present.union(&state.doubt.extents(size_bytes))
        }
    }

    /// Blocking: checks what is in doubt, chunk by chunk for as long as `goes_on` says so. Then
    /// all of that is present or missing.
    pub fn settle(&self, goes_on: impl Fn() -> bool) {
        let shared = self.shared();
        shared.settle_all(&self.handle.core.context, goes_on);
    }

    /// How many bytes can be read now, without a lock.
    pub fn cached_bytes(&self) -> u64 {
        self.shared().cached_bytes()
    }

    /// What can be offered to others: the present chunks that are whole. Each came with its proof,
    /// so [`CacheFile::encode`] can prove any part of them.
    pub fn offered(&self) -> ExtentSet {
        self.present().align_in(CHUNK_BYTES, self.size_bytes())
    }

    /// What of `range` is missing, in whole pages cut at the file's size.
    pub fn missing_in(&self, range: ByteRange) -> ExtentSet {
        let shared = self.shared();
        if shared.is_complete() {
            return ExtentSet::new();
        }
        let pages = pages_around(range, shared.size_bytes);
        let mut missing = ExtentSet::of(bytes_of(&pages, shared.size_bytes));
        for run in shared.state.lock().present.runs(pages) {
            missing.remove(bytes_of(&run, shared.size_bytes));
        }
        missing
    }

    /// Encodes `range` with its proof for another node.
    ///
    /// # Errors
    /// [`CacheError::NotCached`] where it is not within [`CacheFile::offered`];
    /// [`CacheError::Damaged`] where our disk has it wrong: it is missing then, and
    /// [`super::CacheEvent::Dropped`] was sent, as where it cannot be read;
    /// [`CacheError::Digest`] for a range outside the file, or want of memory.
    pub fn encode(&self, range: ByteRange) -> Result<Vec<u8>, CacheError> {
        let shared = self.shared();
        let context = &self.handle.core.context;
        let chunks = range.align_out(CHUNK_BYTES, shared.size_bytes);
        if shared.first_missing(context, chunks).is_some() {
            return Err(CacheError::NotCached { range });
        }
        let data = OnDisk(shared.data().map_err(DigestError::Io)?);
        shared.prove(context, range, shared.recent_or(context, data))
    }

    /// The same where that takes no waiting, since the bytes are in memory, and nothing is wrong or
    /// in doubt; else nothing.
    pub fn encode_at_once(&self, range: ByteRange) -> Option<Vec<u8>> {
        let shared = self.shared();
        let pages = pages_around(
            range.align_out(CHUNK_BYTES, shared.size_bytes),
            shared.size_bytes,
        );
        if !shared.is_complete() && !shared.state.lock().present.contains(pages) {
            return None;
        }
        let data = InMemory(shared.data().ok()?);
        let data = shared.recent_or(&self.handle.core.context, data);
        let pairs = PairSource {
            shared,
            in_memory: true,
        };
        digest::encode(shared.hash, shared.size_bytes, range, data, pairs).ok()
    }

    /// Whether all of it is present.
    pub fn is_complete(&self) -> bool {
        self.shared().is_complete()
    }

    /// The file itself, opened read-only, once it is complete: for the kernel to read without us.
    /// It stays as it is while a handle lives.
    pub fn backing(&self) -> Option<Arc<File>> {
        let shared = self.shared();
        if !shared.is_complete() {
            return None;
        }
        if let Some(file) = shared.backing.get() {
            return Some(file.clone());
        }
        let file = Arc::new(File::open(&shared.paths.data).ok()?);
        Some(shared.backing.get_or_init(|| file).clone())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}
