//! Verification of an open file against its hash: doubtful pages at their first read, ranges that
//! are proven to peers, and checks on demand. Damaged pages are removed.
//!
//! Only complete chunks can be checked, because an outboard has no hash for less. Single pages of a
//! chunk are trusted because their record states that they were written in this boot or synced.

use std::ops::Range;

use bytes::Bytes;

use super::context::CacheContext;
use super::file::{OpenFileState, PairSource};
use super::pages::{bytes_of, page_count, pages_around};
use super::{CacheError, CacheEvent};
use p2pfs_types::digest::{self, AppendAt, DigestError, Grain, OnDisk};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ChunkIndex};
use p2pfs_types::files::is_want;
use p2pfs_types::pool::PiecePool;

impl OpenFileState {
    /// Returns the first missing pages of a range, after a check of its doubtful pages.
    pub(super) fn first_missing(
        &self,
        context: &CacheContext,
        range: ByteRange,
    ) -> Option<Range<u64>> {
        if self.is_complete() {
            return None;
        }
        let pages = pages_around(range, self.size_bytes);
        let state = self.state.lock();
        let missing = state.present.first_missing(pages.clone())?;
        if !state.doubt.touches(pages.clone()) {
            return Some(missing);
        }
        drop(state);
        self.settle(context, range);
        self.state.lock().present.first_missing(pages)
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
        let (hash, size_bytes, pairs) = (self.hash, self.size_bytes, self.pairs());
        let proof = digest::encode_in(pool, Grain::CHUNK, hash, size_bytes, range, data, pairs);
        match proof {
            Ok(proof) => Ok(proof),
            Err(error) if is_damage(&error) => {
                self.drop_unproven(context, range);
                Err(CacheError::Damaged { hash: self.hash })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Marks all pages of a range of chunks as missing, in memory and then in the map on disk. Its
    /// bytes stay on disk and count against the budget until they are stored again or the file is
    /// closed. Returns how many bytes were present.
    pub(super) fn drop_range(&self, context: &CacheContext, range: ByteRange) -> u64 {
        let mut map = self.map.lock();
        let pages = pages_around(range, self.size_bytes);
        let mut state = self.state.lock();
        let lost: Vec<_> = state.present.runs(pages.clone()).collect();
        if lost.is_empty() && !state.doubt.touches(pages.clone()) {
            return 0;
        }
        let lost_bytes = lost.iter().map(|run| bytes_of(run, self.size_bytes).len());
        let lost_bytes: u64 = lost_bytes.sum();
        let doubtful: Vec<_> = state.doubt.runs(pages.clone()).collect();
        for run in lost.iter().chain(&doubtful).cloned() {
            state.stale.insert(run);
        }
        state.present.remove(pages.clone());
        state.doubt.remove(pages);
        let was_complete = self.is_complete();
        self.publish(&state);
        drop(state);
        self.rewrite(context, &mut map);
        drop(map);
        context.damage.drop_copies(&self.hash, range);
        if !lost.is_empty() {
            context.send_event(CacheEvent::Dropped {
                hash: self.hash,
                range,
                was_complete,
            });
        }
        lost_bytes
    }

    /// Checks the complete chunks of a range. Returns the number of dropped bytes.
    pub(super) fn check(&self, context: &CacheContext, range: ByteRange) -> u64 {
        let before = self.cached_bytes();
        let pages = pages_around(range, self.size_bytes);
        if self.state.lock().present.contains(pages) {
            // Failed chunks are dropped by `prove`.
            let prove = |data| self.prove(context, range, OnDisk(data), &PiecePool::default());
            let _ = self.data().map(prove);
        } else {
            self.drop_unproven(context, range);
        }
        before.saturating_sub(self.cached_bytes())
    }

    /// Returns how many bytes of a range of chunks are on disk, including doubtful ones, and how
    /// many of them can be checked.
    pub(super) fn bytes_to_check(&self, range: ByteRange) -> (u64, u64) {
        let state = self.state.lock();
        let (mut bytes, mut checkable_bytes) = (0, 0);
        for chunk in self.chunks_of(range) {
            let pages = pages_around(chunk, self.size_bytes);
            let doubtful = state.doubt.runs(pages.clone());
            let runs = state.present.runs(pages.clone()).chain(doubtful);
            let of_chunk: u64 = runs.map(|run| bytes_of(&run, self.size_bytes).len()).sum();
            bytes += of_chunk;
            if state.present.contains(pages.clone()) || state.doubt.touches(pages) {
                checkable_bytes += of_chunk;
            }
        }
        (bytes, checkable_bytes)
    }

    /// Drops the complete chunks of a range that fail verification.
    pub(super) fn drop_unproven(&self, context: &CacheContext, range: ByteRange) {
        for chunk in self.chunks_of(range) {
            let pages = pages_around(chunk, self.size_bytes);
            let whole = self.state.lock().present.contains(pages);
            if whole && self.proves(chunk) == Some(false) {
                let lost_bytes = self.drop_range(context, chunk);
                context.damage.record(lost_bytes);
            }
        }
    }

    /// Checks the doubtful chunks of a range: they become present or stale. A chunk that cannot be
    /// read for a temporary reason stays doubtful. Returns the number of bytes that became stale.
    pub(super) fn settle(&self, context: &CacheContext, range: ByteRange) -> u64 {
        let mut lost_bytes = 0;
        for chunk in self.chunks_of(range) {
            let pages = pages_around(chunk, self.size_bytes);
            if !self.state.lock().doubt.touches(pages.clone()) {
                continue;
            }
            let Some(proven) = self.proves(chunk) else {
                continue;
            };
            let mut state = self.state.lock();
            let doubtful: Vec<_> = state.doubt.runs(pages.clone()).collect();
            for run in doubtful {
                if proven {
                    state.present.insert(run);
                } else {
                    lost_bytes += bytes_of(&run, self.size_bytes).len();
                    state.stale.insert(run);
                }
            }
            state.doubt.remove(pages.clone());
            let blocks = super::pages::masks(pages).map(|(block, _)| block);
            state.dirty.extend(blocks);
            state.unsynced = true;
            let completed = self.publish(&state);
            drop(state);
            if !proven {
                // This process never gave these bytes to a read, but a previous one may have.
                context.damage.drop_copies(&self.hash, chunk);
            }
            if completed {
                let _ = self.flush(context);
                self.sync_later(context);
                let size_bytes = self.size_bytes;
                context.send_event(CacheEvent::Completed {
                    hash: self.hash,
                    size_bytes,
                });
            }
        }
        lost_bytes
    }

    /// Checks all doubtful chunks while `goes_on` returns true.
    pub(super) fn settle_all(&self, context: &CacheContext, goes_on: impl Fn() -> bool) {
        let all = 0..page_count(self.size_bytes);
        let doubtful: Vec<_> = self.state.lock().doubt.runs(all).collect();
        for run in doubtful {
            for chunk in self.chunks_of(bytes_of(&run, self.size_bytes)) {
                if !goes_on() {
                    return;
                }
                self.settle(context, chunk);
            }
        }
    }

    fn chunks_of(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> + use<> {
        let size_bytes = self.size_bytes;
        let end = range.end.min(size_bytes).div_ceil(CHUNK_BYTES);
        (range.start / CHUNK_BYTES..end).map(move |index| ChunkIndex(index).range(size_bytes))
    }

    /// Returns whether a chunk on disk matches the hash. `None` if it could not be read for a
    /// temporary reason ([`is_want`]), which says nothing about the chunk.
    fn proves(&self, chunk: ByteRange) -> Option<bool> {
        let pairs = self.pairs();
        let encode = |data| digest::encode(self.hash, self.size_bytes, chunk, OnDisk(data), pairs);
        match self.data().map_err(DigestError::Io).and_then(encode) {
            Ok(_) => Some(true),
            Err(DigestError::Io(error)) if is_want(&error) => None,
            Err(_) => Some(false),
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
