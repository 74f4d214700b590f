//! Storing of verified bytes.
//!
//! The room for the pages is charged first, then the bytes are written, and only then are the pages
//! present. During the write only the lock `writing` of the file is held.

use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::Bytes;

use super::budget::charge_bytes;
use super::cached_file::Stored;
use super::core::CacheCore;
use super::file::OpenFileState;
use super::file_pages::PageState;
use super::pages::{Counts, bytes_of, pages_in};
use super::{CacheError, CacheEvent};
use p2pfs_types::digest::{Grain, HashPair, Verified};
use p2pfs_types::files::is_full;

/// Maximum number of hash pairs of a file in memory (1 MiB) before they are written with the map.
const PENDING_MAX: usize = 16 << 10;
/// Bytes of one write, and so of the folios in which the page cache keeps them. The kernel takes
/// larger folios from free blocks of 2 MiB, which a guest returns to its hypervisor while they are
/// free. The first touch of such a block then costs 1.5 s a GiB. Reads are not faster with larger
/// folios.
const WRITE_BYTES: usize = 64 << 10;
/// Minimum length of a range whose blocks are allocated at once. ext4 otherwise reserves each block
/// of 4 KiB by itself, which takes a third of the processor time of a write (docs/warm-reads.md).
const ALLOCATE_MIN_BYTES: usize = 256 << 10;

/// Write of the whole pages of verified bytes to the data file of an open file. No page becomes
/// present without its bytes: [`Self::of`] is the only constructor.
pub(super) struct PageWrite<'a> {
    core: &'a CacheCore,
    file: &'a OpenFileState,
    pages: Range<u64>,
    /// The bytes of `pages`.
    bytes: Bytes,
    pairs: &'a [HashPair],
}

impl<'a> PageWrite<'a> {
    /// Prepares the write of the whole pages within the range of `verified`.
    ///
    /// # Errors
    /// [`CacheError::BadShape`] if the number of bytes differs from the length of the range, or if
    /// the range or a hash pair is not within the file.
    pub(super) fn of(
        core: &'a CacheCore,
        file: &'a OpenFileState,
        verified: &'a Verified,
    ) -> Result<Self, CacheError> {
        let (range, size_bytes) = (verified.range, file.files.size_bytes);
        check_shape(verified, size_bytes)?;
        let pages = pages_in(range, size_bytes);
        let bytes = verified.slice(bytes_of(&pages, size_bytes));
        Ok(Self {
            core,
            file,
            pages,
            bytes: bytes.ok_or(CacheError::BadShape { range })?,
            pairs: &verified.pairs,
        })
    }

    /// Stores the pages, unless all of them are present.
    pub(super) fn run(&self) -> Stored {
        let file = self.file;
        if file.pages.lock().present.contains(self.pages.clone()) {
            return Stored::Kept;
        }
        let Some(growth) = self.charge() else {
            return Stored::Full;
        };
        let written = self.write_making_room();
        if self.core.context.record_result(written).is_err() {
            self.settle_charge(growth, |state| state.mark_stale(&self.pages));
            return Stored::Full;
        }
        let mut completed = false;
        self.settle_charge(growth, |state| {
            state.mark_present(&self.pages, self.pairs);
            completed = file.pages.publish(state);
        });
        self.follow_up(completed);
        Stored::Kept
    }

    /// Charges the budget for the pages. Returns `None` if they do not fit.
    fn charge(&self) -> Option<Counts> {
        let file = self.file;
        let mut in_flight = file.charge.room.lock();
        let state = file.pages.lock();
        let growth = state.present.growth(self.pages.clone());
        let counts = state.counts() + *in_flight + growth;
        drop(state);
        let new_bytes = charge_bytes(file.files.size_bytes, counts);
        let old_bytes = file.charge.bytes();
        if !self.core.reserve(new_bytes.saturating_sub(old_bytes)) {
            return None;
        }
        *in_flight = *in_flight + growth;
        file.charge.set_bytes(old_bytes.max(new_bytes));
        Some(growth)
    }

    /// Changes the state and releases the unused part of the charge.
    fn settle_charge(&self, growth: Counts, change: impl FnOnce(&mut PageState)) {
        let file = self.file;
        let mut in_flight = file.charge.room.lock();
        let mut state = file.pages.lock();
        change(&mut state);
        *in_flight = *in_flight - growth;
        let counts = state.counts() + *in_flight;
        drop(state);
        let new_bytes = charge_bytes(file.files.size_bytes, counts);
        let old_bytes = file.charge.bytes();
        if new_bytes != old_bytes {
            self.core.index.lock().recharge(old_bytes, new_bytes);
            file.charge.set_bytes(new_bytes);
        }
    }

    /// Writes through the page cache, one thread at a time. The kernel admits only one writer of a
    /// file, and the others spin while they wait (`rwsem_spin_on_owner`), which wastes processor
    /// time.
    fn write(&self) -> io::Result<()> {
        let context = &self.core.context;
        let bytes = &self.bytes;
        let range = bytes_of(&self.pages, self.file.files.size_bytes);
        let _turn = self.file.writing.lock();
        let data = &self.file.files.open_for(context, range)?.data;
        if bytes.len() >= ALLOCATE_MIN_BYTES {
            context.disk.allocate(data, range.start, range.len());
        }
        for (number, part) in bytes.chunks(WRITE_BYTES).enumerate() {
            let offset = range.start + (number * WRITE_BYTES) as u64;
            context
                .disk
                .write_at(data, &mut [IoSlice::new(part)], offset)?;
        }
        Ok(())
    }

    /// Writes, and evicts files if the disk is full. The cache's budget had room for the bytes, but
    /// other programs or a quota can make the disk full earlier.
    fn write_making_room(&self) -> io::Result<()> {
        loop {
            let written = self.write();
            let is_full = written.as_ref().err().is_some_and(is_full);
            if !is_full || !self.core.evict_bytes(self.bytes.len() as u64) {
                return written;
            }
        }
    }

    /// Writes the map if many changes are pending or the file is complete. Otherwise leaves that to
    /// the background thread.
    fn follow_up(&self, completed: bool) {
        let (file, context) = (self.file, &self.core.context);
        let state = file.pages.lock();
        let due = state.unflushed_bytes >= context.flush_bytes;
        let full = state.pending.len() >= PENDING_MAX;
        drop(state);
        if completed || full {
            // A failed flush is counted, and its data stays pending.
            let _ = file.flush(context);
        } else if due {
            file.flush_unless_busy(context);
        } else {
            context.write_behind.wake_to_flush();
        }
        if completed {
            file.sync_later(context);
            context.send_event(CacheEvent::Completed {
                hash: file.files.hash,
                size_bytes: file.files.size_bytes,
            });
        }
    }
}

/// Checks that the bytes have the length of the range, and that the range and the hash pairs are
/// within the file.
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
