//! Memory for the pieces of files in transfer, in the kernel's huge pages.
//!
//! Data moves between nodes, to a mount and to a disk in pieces of 1 MiB with their proof. In pages
//! of 4 KiB, each piece is 256 pages. The kernel must find and count them for each transfer to a
//! mount or a disk, and the processor must translate them at each pass. In pages of 2 MiB
//! (`MADV_HUGEPAGE` of madvise(2)), a piece is one or two pages. Without huge pages, both ends
//! spent a sixth more time on a large file.
//!
//! Owns the memory of allocations as large as a piece. All other allocations go to the system
//! allocator. So do allocations when all places are taken, zeroed allocations (which may never be
//! touched), and every allocation when the kernel cannot map memory. On a kernel without huge
//! pages, the memory has ordinary pages.

#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]

#[cfg(test)]
mod tests;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the smallest allocation that gets a place: the largest range of one request
/// (`RANGE_MAX_BYTES` in `wire::native::tcp`). Few pieces are smaller under heavy reading.
const PIECE_MIN_BYTES: usize = 1 << 20;
/// Bytes of a place: a piece, its proof, and padding to the end of a page.
const PLACE_BYTES: usize = PIECE_MIN_BYTES + (64 << 10);
/// Bytes of a huge page on all processors that have pages of 4 KiB.
const HUGE_BYTES: usize = 2 << 20;
/// Places that are mapped together, one for each bit: the smallest number that fills whole huge
/// pages.
const SLAB_PLACES: usize = 32;
const SLAB_BYTES: usize = SLAB_PLACES * PLACE_BYTES;
const SLAB_PAGES: usize = SLAB_BYTES / HUGE_BYTES;
/// Maximum slabs, 544 MiB in total: more than all other limits allow in flight.
const SLABS_MAX: usize = 16;
/// Maximum alignment of a place, which is one page.
const ALIGNED_TO_BYTES: usize = 4096;
/// Checks, one a second, between two returns of unused memory to the kernel. Clearing memory again
/// costs as much as filling it.
const QUIET_LOOKS: u32 = 10;

const _: () = assert!(SLAB_BYTES.is_multiple_of(HUGE_BYTES));
const _: () = assert!(PLACE_BYTES.is_multiple_of(ALIGNED_TO_BYTES));

static POOL: Pool = Pool::new();

/// The allocator of a process that transfers files (`#[global_allocator]`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces;

// SAFETY: each call is passed on unchanged.
unsafe impl GlobalAlloc for Pieces {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller fulfils the contract of `GlobalAlloc`.
        unsafe { POOL.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller fulfils the contract of `GlobalAlloc`.
        unsafe { POOL.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller fulfils the contract of `GlobalAlloc`.
        unsafe { POOL.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller fulfils the contract of `GlobalAlloc`.
        unsafe { POOL.realloc(memory, layout, size) }
    }
}

/// Returns long unused memory to the kernel. Call it once a second.
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

/// Adjacent places. In the masks, a bit stands for a place or for a huge page.
#[derive(Clone, Copy)]
struct Slab {
    /// Its address; `None` while it is not mapped.
    start: Option<usize>,
    /// Free places.
    free: u32,
    /// Huge pages that may have memory.
    touched: u32,
    /// Huge pages with a place that was taken or freed since the last check.
    recent: u32,
}

impl Pool {
    const fn new() -> Self {
        let all = [Slab::UNMAPPED; SLABS_MAX];
        Self {
            slabs: Mutex::new(Slabs { all, looks: 0 }),
        }
    }

    /// Locks the slabs. No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Slabs> {
        self.slabs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first free place, so that few huge pages are in use.
    fn take(&self) -> Option<*mut u8> {
        let mut slabs = self.lock();
        let slab = slabs.all.iter_mut().find(|slab| slab.free != 0)?;
        slab.take()
    }

    /// Frees a place; returns `false` if the memory is not a place.
    fn put(&self, memory: *mut u8) -> bool {
        let mut slabs = self.lock();
        slabs.all.iter_mut().any(|slab| slab.put(memory.addr()))
    }

    /// Checks one or two slabs per call, so that other threads wait only briefly for a place.
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

    /// Returns huge pages to the kernel that have no taken place and were not used since the last
    /// check. Unmaps the slab if no page is needed.
    fn give_back(&mut self) {
        let Some(start) = self.start else { return };
        let taken = (0..SLAB_PLACES).filter(|place| self.free & (1 << place) == 0);
        let needed = taken.fold(self.recent, |pages, place| pages | pages_of(place));
        self.recent = 0;
        if needed == 0 {
            let slab = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: it is a slab that was mapped here, and none of its places is taken.
            unsafe { libc::munmap(slab, SLAB_BYTES) };
            *self = Self::UNMAPPED;
            return;
        }
        for page in (0..SLAB_PAGES).filter(|page| self.touched & !needed & (1 << page) != 0) {
            let memory = std::ptr::with_exposed_provenance_mut(start + page * HUGE_BYTES);
            // SAFETY: the whole page was mapped here, and none of its places is taken.
            unsafe { libc::madvise(memory, HUGE_BYTES, libc::MADV_DONTNEED) };
        }
        self.touched &= needed;
    }
}

/// Returns the mask of the one or two huge pages that contain a place.
const fn pages_of(place: usize) -> u32 {
    let first = place * PLACE_BYTES / HUGE_BYTES;
    let last = ((place + 1) * PLACE_BYTES - 1) / HUGE_BYTES;
    (1 << first) | (1 << last)
}

/// Maps the memory of a slab, aligned to a huge page.
fn map() -> Option<usize> {
    let length = SLAB_BYTES + HUGE_BYTES;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: it maps new memory at any address.
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
        // SAFETY: it was mapped above, and no other code has its address.
        unsafe { libc::munmap(unused, length) };
    }
    let slab = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: it was mapped above. A kernel without huge pages refuses, without harm.
    unsafe { libc::madvise(slab, SLAB_BYTES, libc::MADV_HUGEPAGE) };
    Some(start)
}

fn is_piece(size: usize, align: usize) -> bool {
    (PIECE_MIN_BYTES..=PLACE_BYTES).contains(&size) && align <= ALIGNED_TO_BYTES
}

// SAFETY: a place stays mapped while it is taken, is aligned to a page and fits the largest piece.
// It is given out once until it is put back. All else is the system's. Neither allocator calls back
// in here.
unsafe impl GlobalAlloc for Pool {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_piece(layout.size(), layout.align())
            && let Some(place) = self.take()
        {
            return place;
        }
        // SAFETY: the caller fulfils the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller fulfils the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !is_piece(layout.size(), layout.align()) || !self.put(memory) {
            // SAFETY: it is not a place, so the system allocated it.
            unsafe { System.dealloc(memory, layout) }
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        if !is_piece(layout.size(), align) && !is_piece(size, align) {
            // SAFETY: neither size fits a place, so the system allocated the memory.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller ensures that `size` is valid for a layout and that `memory` has all
        // bytes of the old one. The new memory does not overlap it.
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
