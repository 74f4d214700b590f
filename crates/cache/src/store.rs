//! Storing of verified bytes.
//!
//! The room for the pages is charged first, then the bytes are written, and only then are the pages
//! present. Only the lock of the file is held meanwhile.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::cached_file::{CacheFile, Stored};
use super::context::CacheContext;
use super::core::CacheCore;
use super::file::{OpenFileState, PageState};
use super::pages::{bytes_of, pages_in};
use super::{CacheError, CacheEvent};
use p2pfs_types::digest::{Grain, HashPair, Verified};
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};
use p2pfs_types::files::is_full;

/// Maximum number of hash pairs of a file in memory (1 MiB) before they are written with the map.
const PENDING_MAX: usize = 16 << 10;
/// Bytes of one write, and so of the folios in which the page cache keeps them. Larger folios come
/// from free blocks of 2 MiB, which a guest returns to its hypervisor while they are free. Their
/// first touch then costs 1.5 s a GiB. A read is no faster with them.
const WRITE_BYTES: usize = 64 << 10;

impl CacheFile {
    /// Stores the whole pages of a verified range. Partial pages at its ends are left out.
    ///
    /// The range must come from `digest::decode` for the hash and size of this file. This function
    /// cannot verify that.
    ///
    /// # Errors
    /// [`CacheError::BadShape`] if the number of bytes differs from the length of the range, or if
    /// the range is not within this file.
    pub fn store(&self, verified: &Verified) -> Result<Stored, CacheError> {
        let shared = self.shared();
        let core = &self.handle.core;
        check_shape(verified, shared.size_bytes)?;
        let pages = pages_in(verified.range, shared.size_bytes);
        if shared.state.lock().present.contains(pages.clone()) {
            return Ok(Stored::Kept);
        }
        let Some(growth) = shared.charge(core, &pages) else {
            return Ok(Stored::Full);
        };
        let range = bytes_of(&pages, shared.size_bytes);
        let bytes = verified.slice(range).unwrap_or_default();
        let written = shared.write_making_room(core, &bytes, range);
        if core.context.record_result(written).is_err() {
            shared.settle_room(core, growth, |state| mark_stale(state, &pages));
            return Ok(Stored::Full);
        }
        let mut completed = false;
        shared.settle_room(core, growth, |state| {
            mark_present(state, &pages, &verified.pairs);
            completed = shared.publish(state);
        });
        shared.follow_up(&core.context, completed);
        Ok(Stored::Kept)
    }
}

impl OpenFileState {
    /// Writes to the data file through its pages, one thread at a time. The kernel admits only one
    /// such writer, and waiting writers spin (`rwsem_spin_on_owner`), which wastes processor time.
    fn write(&self, context: &CacheContext, bytes: &[u8], range: ByteRange) -> io::Result<()> {
        let _turn = self.writing.lock();
        let data = &self.files_for(context, range)?.data;
        for (number, part) in bytes.chunks(WRITE_BYTES).enumerate() {
            let offset = range.start + (number * WRITE_BYTES) as u64;
            context
                .disk
                .write_at(data, &mut [IoSlice::new(part)], offset)?;
        }
        Ok(())
    }

    /// Writes to the data file and evicts files if the disk is full. Other programs or a quota can
    /// make it full although the charge succeeded.
    fn write_making_room(
        &self,
        core: &CacheCore,
        bytes: &[u8],
        range: ByteRange,
    ) -> io::Result<()> {
        loop {
            let written = self.write(&core.context, bytes, range);
            let is_full = written.as_ref().err().is_some_and(is_full);
            if !is_full || !core.evict_bytes(bytes.len() as u64) {
                return written;
            }
        }
    }

    /// Writes the map if enough changes are pending or the file is complete.
    fn follow_up(&self, context: &CacheContext, completed: bool) {
        let state = self.state.lock();
        let due = state.unflushed_bytes >= context.flush_bytes;
        let full = state.pending.len() >= PENDING_MAX;
        drop(state);
        if completed || full {
            // A failed flush is counted, and its data stays pending.
            let _ = self.flush(context);
        } else if due {
            self.flush_unless_busy(context);
        } else {
            context.write_behind.wake_to_flush();
        }
        if completed {
            self.sync_later(context);
            let size_bytes = self.size_bytes;
            context.send_event(CacheEvent::Completed {
                hash: self.hash,
                size_bytes,
            });
        }
    }
}

/// Marks written pages as present.
fn mark_present(state: &mut PageState, pages: &Range<u64>, pairs: &[HashPair]) {
    state.present.insert(pages.clone());
    state.doubt.remove(pages.clone());
    state.stale.remove(pages.clone());
    state
        .pending
        .extend(pairs.iter().map(|pair| (pair.offset, pair.bytes)));
    state
        .dirty
        .extend(super::pages::masks(pages.clone()).map(|(block, _)| block));
    state.unflushed_bytes += (pages.end - pages.start) * PAGE_BYTES;
    state.unsynced = true;
}

/// Marks pages as stale after a write that may have been partial. Absent pages then have unknown
/// content and still take room. Present and doubtful pages are unaffected, because the same correct
/// bytes were written.
fn mark_stale(state: &mut PageState, pages: &Range<u64>) {
    state.stale.insert(pages.clone());
    let kept: Vec<_> = state.present.runs(pages.clone()).collect();
    let doubtful: Vec<_> = state.doubt.runs(pages.clone()).collect();
    kept.into_iter()
        .chain(doubtful)
        .for_each(|run| state.stale.remove(run));
}

/// Checks that the bytes have the length of the range and that the range is within the file.
fn check_shape(verified: &Verified, size_bytes: u64) -> Result<(), CacheError> {
    let range = verified.range;
    let pairs_end = Grain::CHUNK.outboard_bytes(size_bytes);
    let fits = |pair: &HashPair| pair.offset.is_multiple_of(64) && pair.offset < pairs_end;
    let inside = range.end <= size_bytes && verified.pairs.iter().all(fits);
    if inside && range.len() == verified.bytes.len() as u64 {
        Ok(())
    } else {
        Err(CacheError::BadShape { range })
    }
}
