//! Memory for the pieces in which files move, in the kernel's huge pages.
//!
//! What goes from node to node, to a mount and to a disk comes in pieces of 1 MiB with what proves
//! them. In pages of 4 KiB each of them is 256 pages: to be found and counted when a mount is
//! given the piece and when a disk is, and to be translated at each pass over it. In pages of
//! 2 MiB (`MADV_HUGEPAGE` of madvise(2)) that is one or two. Without them both ends spent a sixth
//! more on a large file.
//!
//! Owns the memory of what is as large as a piece. All else is the system's, and so is what comes
//! when all places are taken, what is to be zeroed (it may never be touched), and everything where
//! the kernel has no memory to map. Where it has no huge pages, these are of the usual ones.

#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]

#[cfg(test)]
mod tests;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The smallest piece that has its place here: as much as is asked for at one time
/// (`RANGE_MAX_BYTES` in `wire::native::tcp`). Few are smaller where much is read.
const PIECE_MIN_BYTES: usize = 1 << 20;
/// A place: a piece, its proof, and room to have its end at the end of a page.
const PLACE_BYTES: usize = PIECE_MIN_BYTES + (64 << 10);
/// A huge page, of all processors that have them with pages of 4 KiB.
const HUGE_BYTES: usize = 2 << 20;
/// Places that are mapped at one time, one for each bit: the fewest that fill huge pages.
const SLAB_PLACES: usize = 32;
const SLAB_BYTES: usize = SLAB_PLACES * PLACE_BYTES;
const SLAB_PAGES: usize = SLAB_BYTES / HUGE_BYTES;
/// Slabs at most, 544 MiB: more than what may be on its way by all other limits.
const SLABS_MAX: usize = 16;
/// No alignment beyond a page is promised.
const ALIGNED_TO_BYTES: usize = 4096;
/// How often memory that was not used since the last time goes back to the kernel, in looks, of
/// which there is one a second: to have it cleared again costs as much as to fill it.
const QUIET_LOOKS: u32 = 10;

const _: () = assert!(SLAB_BYTES.is_multiple_of(HUGE_BYTES));
const _: () = assert!(PLACE_BYTES.is_multiple_of(ALIGNED_TO_BYTES));

static POOL: Pool = Pool::new();

/// The allocator of a process that moves files (`#[global_allocator]`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces;

// SAFETY: each call is passed on as it came.
unsafe impl GlobalAlloc for Pieces {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller holds to what GlobalAlloc asks.
        unsafe { POOL.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { POOL.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { POOL.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { POOL.realloc(memory, layout, size) }
    }
}

/// Gives back what was not used for long. To be called once a second.
pub(super) fn look() {
    POOL.look();
}

/// All places.
struct Pool {
    slabs: Mutex<Slabs>,
}

struct Slabs {
    all: [Slab; SLABS_MAX],
    looks: u32,
}

/// Places that lie side by side. A bit stands for a place, or for a huge page.
#[derive(Clone, Copy)]
struct Slab {
    /// Its address; none while nothing is mapped.
    start: Option<usize>,
    /// Places that are nobody's.
    free: u32,
    /// Huge pages that may have memory.
    touched: u32,
    /// Huge pages of which a place was taken or became free a short while ago.
    recent: u32,
}

impl Pool {
    const fn new() -> Self {
        let all = [Slab::UNMAPPED; SLABS_MAX];
        Self {
            slabs: Mutex::new(Slabs { all, looks: 0 }),
        }
    }

    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Slabs> {
        self.slabs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first free place, so that few huge pages are in use.
    fn take(&self) -> Option<*mut u8> {
        let mut slabs = self.lock();
        let slab = slabs.all.iter_mut().find(|slab| slab.free != 0)?;
        slab.take()
    }

    /// Whether it was a place, which is free now.
    fn put(&self, memory: *mut u8) -> bool {
        let mut slabs = self.lock();
        slabs.all.iter_mut().any(|slab| slab.put(memory.addr()))
    }

    /// Each slab has its turn, one or two at a look: others may wait for a place.
    fn look(&self) {
        let mut slabs = self.lock();
        slabs.looks = (slabs.looks + 1) % QUIET_LOOKS;
        let turn = slabs.looks as usize;
        let due = slabs
            .all
            .iter_mut()
            .skip(turn)
            .step_by(QUIET_LOOKS as usize);
        due.for_each(Slab::give_back);
    }
}

impl Slab {
    const UNMAPPED: Self = Self {
        start: None,
        free: u32::MAX,
        touched: 0,
        recent: 0,
    };

    fn take(&mut self) -> Option<*mut u8> {
        if self.start.is_none() {
            self.start = map();
        }
        let place = self.free.trailing_zeros() as usize;
        let address = self.start? + place * PLACE_BYTES;
        self.free &= !(1 << place);
        self.touched |= pages_of(place);
        self.recent |= pages_of(place);
        Some(std::ptr::with_exposed_provenance_mut(address))
    }

    fn put(&mut self, address: usize) -> bool {
        let Some(offset) = self.start.and_then(|start| address.checked_sub(start)) else {
            return false;
        };
        let is_ours = offset < SLAB_BYTES;
        if is_ours {
            let place = offset / PLACE_BYTES;
            self.free |= 1 << place;
            self.recent |= pages_of(place);
        }
        is_ours
    }

    /// Gives the huge pages back that are nobody's and were not used since the last time; all of it
    /// where there are no others.
    fn give_back(&mut self) {
        let Some(start) = self.start else { return };
        let taken = (0..SLAB_PLACES).filter(|place| self.free & (1 << place) == 0);
        let needed = taken.fold(self.recent, |pages, place| pages | pages_of(place));
        self.recent = 0;
        if needed == 0 {
            let slab = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: it is a slab, mapped here, and no place in it is anybody's.
            unsafe { libc::munmap(slab, SLAB_BYTES) };
            *self = Self::UNMAPPED;
            return;
        }
        for page in (0..SLAB_PAGES).filter(|page| self.touched & !needed & (1 << page) != 0) {
            let memory = std::ptr::with_exposed_provenance_mut(start + page * HUGE_BYTES);
            // SAFETY: all of it is mapped here, and no place in it is anybody's.
            unsafe { libc::madvise(memory, HUGE_BYTES, libc::MADV_DONTNEED) };
        }
        self.touched &= needed;
    }
}

/// The huge pages that a place is in, one or two.
const fn pages_of(place: usize) -> u32 {
    let first = place * PLACE_BYTES / HUGE_BYTES;
    let last = ((place + 1) * PLACE_BYTES - 1) / HUGE_BYTES;
    (1 << first) | (1 << last)
}

/// Maps the memory of a slab, at the beginning of a huge page.
fn map() -> Option<usize> {
    let length = SLAB_BYTES + HUGE_BYTES;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new memory, anywhere.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), length, access, kind, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    let mapped = mapped.expose_provenance();
    let start = mapped.next_multiple_of(HUGE_BYTES);
    let before = (mapped, start - mapped);
    let behind = (start + SLAB_BYTES, HUGE_BYTES - before.1);
    for (address, length) in [before, behind].into_iter().filter(|part| part.1 > 0) {
        let unused = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: mapped above, and nobody knows of it.
        unsafe { libc::munmap(unused, length) };
    }
    let slab = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: mapped above. A kernel without huge pages refuses, and nothing is lost.
    unsafe { libc::madvise(slab, SLAB_BYTES, libc::MADV_HUGEPAGE) };
    Some(start)
}

fn is_piece(size: usize, align: usize) -> bool {
    (PIECE_MIN_BYTES..=PLACE_BYTES).contains(&size) && align <= ALIGNED_TO_BYTES
}

// SAFETY: a place is mapped for as long as it is somebody's, aligned to a page, as long as the
// largest piece, and given out once until it is put back; all else is the system's. Neither calls
// back in here.
unsafe impl GlobalAlloc for Pool {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_piece(layout.size(), layout.align())
            && let Some(place) = self.take()
        {
            return place;
        }
        // SAFETY: the caller holds to what GlobalAlloc asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !is_piece(layout.size(), layout.align()) || !self.put(memory) {
            // SAFETY: it is no place, so the system gave it.
            unsafe { System.dealloc(memory, layout) }
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        if !is_piece(layout.size(), align) && !is_piece(size, align) {
            // SAFETY: no place is as large as either.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller sees to it that `size` is none that a layout cannot have, and that
        // `memory` has all bytes of the old one; what is new is somewhere else.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, align));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(memory, new, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            new
        }
    }
}
