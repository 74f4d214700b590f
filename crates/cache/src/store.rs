//! Storing of verified bytes.
//!
//! The room for the pages is charged first, then the bytes are written, and only then are the pages
//! present. During the write only the lock `writing` of the file is held.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::budget::charge_bytes;
use super::cached_file::Stored;
use super::core::CacheCore;
use super::file::OpenFileState;
use super::file_pages::PageState;
use super::pages::{Counts, bytes_of};
use super::{CacheError, CacheEvent};
use p2pfs_types::digest::{Grain, HashPair, Verified};
use p2pfs_types::extent::ByteRange;
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

/// Write of whole pages to the data file of an open file.
pub(super) struct PageWrite<'a> {
    pub(super) core: &'a CacheCore,
    pub(super) file: &'a OpenFileState,
    pub(super) pages: &'a Range<u64>,
}

impl PageWrite<'_> {
    /// Stores the pages of verified bytes.
    pub(super) fn run(&self, verified: &Verified) -> Stored {
        let file = self.file;
        let Some(growth) = self.charge() else {
            return Stored::Full;
        };
        let range = bytes_of(self.pages, file.files.size_bytes);
        let bytes = verified.slice(range).unwrap_or_default();
        let written = self.write_making_room(&bytes, range);
        if self.core.context.record_result(written).is_err() {
            self.settle_charge(growth, |state| state.mark_stale(self.pages));
            return Stored::Full;
        }
        let mut completed = false;
        self.settle_charge(growth, |state| {
            state.mark_present(self.pages, &verified.pairs);
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
    fn write(&self, bytes: &[u8], range: ByteRange) -> io::Result<()> {
        let context = &self.core.context;
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
    fn write_making_room(&self, bytes: &[u8], range: ByteRange) -> io::Result<()> {
        loop {
            let written = self.write(bytes, range);
            let is_full = written.as_ref().err().is_some_and(is_full);
            if !is_full || !self.core.evict_bytes(bytes.len() as u64) {
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
pub(super) fn check_shape(verified: &Verified, size_bytes: u64) -> Result<(), CacheError> {
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
