//! Taking verified bytes in.
//!
//! The order is: room for the pages is charged, the bytes are written, and only then are the pages
//! present. No lock but the file's own is held meanwhile, and none during the write.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::cached_file::{CacheFile, Stored};
use super::context::Context;
use super::core::Core;
use super::file::{Shared, State};
use super::pages::{bytes_of, pages_in};
use super::{CacheError, CacheEvent};
use p2pfs_types::digest::{Grain, HashPair, Verified};
use p2pfs_types::extent::PAGE_BYTES;
use p2pfs_types::files::is_full;

/// How many hash pairs of a file wait in memory at most (1 MiB) before they are written with the
/// map.
const PENDING_MAX: usize = 16 << 10;

/// How bytes went to the data file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The kernel has them in its pages, and writes them behind.
    ByPages,
    /// Only the disk has them.
    PastPages,
}

impl CacheFile {
    /// Keeps the whole pages of a verified range; parts of pages at its ends are left out.
    ///
    /// The range must come from `digest::decode` for this file's hash and size: nothing here can
    /// tell.
    ///
    /// # Errors
    /// [`CacheError::BadShape`] where the bytes are not as many as the range has, or not within
    /// this file.
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
        let written = shared.write_making_room(core, &bytes, &pages);
        let Ok(way) = core.context.noted(written) else {
            shared.settle_room(core, growth, |state| give_up(state, &pages));
            return Ok(Stored::Full);
        };
        if way == Way::PastPages {
            core.context.recent.keep(shared.hash, range.start, bytes);
            shared.is_past_pages.store(true, Ordering::Relaxed);
        }
        let mut completed = false;
        shared.settle_room(core, growth, |state| {
            take_in(state, &pages, &verified.pairs);
            completed = shared.publish(state);
        });
        shared.follow_up(&core.context, completed);
        Ok(Stored::Kept)
    }
}

impl Shared {
    /// Writes to the data file, one thread at a time where it has no space yet: the kernel lets no
    /// more in, and whoever waits for it there does so spinning (`rwsem_spin_on_owner`), which
    /// costs what others could use.
    fn write(&self, core: &Core, bytes: &[u8], pages: &Range<u64>) -> io::Result<Way> {
        let context = &core.context;
        let range = bytes_of(pages, self.size_bytes);
        let offset = range.start;
        let mut turn = Some(self.writing.lock());
        let data = &self.files_for(context, range)?.data;
        let piece = (bytes, offset);
        let direct = turn
            .as_mut()
            .and_then(|turn| turn.for_write(data, self.size_bytes, piece, &context.pace));
        if let Some(direct) = direct {
            if self.is_preallocated(core, data, pages) {
                turn = None;
            }
            let begun = Instant::now();
            let written = context.disk.write_by(&direct, data, bytes, offset);
            let Err(error) = written else {
                context.pace.note(bytes.len(), begun.elapsed());
                return Ok(Way::PastPages);
            };
            let turn = turn.get_or_insert_with(|| self.writing.lock());
            if !turn.gives_up(&error) {
                return Err(error);
            }
        }
        let mut slices = [IoSlice::new(bytes)];
        context.disk.write_at(data, &mut slices, offset)?;
        Ok(Way::ByPages)
    }

    /// The same; where the disk has no room all the same, since others write to it or it has a
    /// quota, what was used least recently goes for it.
    fn write_making_room(&self, core: &Core, bytes: &[u8], pages: &Range<u64>) -> io::Result<Way> {
        loop {
            let written = self.write(core, bytes, pages);
            let is_full = written.as_ref().err().is_some_and(is_full);
            if !is_full || !core.evict_bytes(bytes.len() as u64) {
                return written;
            }
        }
    }

    /// Writes the map when enough has come together or the file is complete.
    fn follow_up(&self, context: &Context, completed: bool) {
        let state = self.state.lock();
        let due = state.unflushed_bytes >= context.flush_bytes;
        let full = state.pending.len() >= PENDING_MAX;
        drop(state);
        if completed || full {
            // What fails stays to be written, and was counted.
            let _ = self.flush(context);
        } else if due {
            self.flush_unless_busy(context);
        } else {
            context.write_behind.wake_to_flush();
        }
        if self.is_complete() {
            self.writing.lock().close();
        }
        if completed {
            self.sync_later(context);
            let size_bytes = self.size_bytes;
            context.tell(CacheEvent::Completed {
                hash: self.hash,
                size_bytes,
            });
        }
    }
}

/// Pages were written: they are present now.
fn take_in(state: &mut State, pages: &Range<u64>, pairs: &[HashPair]) {
    state.present.insert(pages.clone());
    state.doubt.remove(pages.clone());
    state.stale.remove(pages.clone());
    state.preallocated.remove(pages.clone());
    state
        .pending
        .extend(pairs.iter().map(|pair| (pair.offset, pair.bytes)));
    state
        .dirty
        .extend(super::pages::masks(pages.clone()).map(|(block, _)| block));
    state.unflushed_bytes += (pages.end - pages.start) * PAGE_BYTES;
    state.unsynced = true;
}

/// Pages were perhaps written in part: where they were absent they hold nobody knows what, which
/// takes room all the same. Where they were in doubt, the right bytes do no harm.
fn give_up(state: &mut State, pages: &Range<u64>) {
    state.stale.insert(pages.clone());
    state.preallocated.remove(pages.clone());
    let kept: Vec<_> = state.present.runs(pages.clone()).collect();
    let doubtful: Vec<_> = state.doubt.runs(pages.clone()).collect();
    kept.into_iter()
        .chain(doubtful)
        .for_each(|run| state.stale.remove(run));
}

/// Whether the bytes are those of the range, within the file.
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
