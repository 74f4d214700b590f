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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PIECE: usize = PIECE_MIN_BYTES + 5000;

    /// Memory of a pool, until it is dropped.
    struct Held<'a> {
        pool: &'a Pool,
        memory: *mut u8,
        layout: Layout,
    }

    // SAFETY: it is the only one who knows of this memory.
    unsafe impl Send for Held<'_> {}

    impl<'a> Held<'a> {
        fn of(pool: &'a Pool, size: usize) -> Self {
            let layout = Layout::from_size_align(size, 1).unwrap();
            // SAFETY: the size is not zero.
            let memory = unsafe { pool.alloc(layout) };
            assert!(!memory.is_null());
            Self {
                pool,
                memory,
                layout,
            }
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: as long as that, and written before it is read by all who call this.
            unsafe { std::slice::from_raw_parts_mut(self.memory, self.layout.size()) }
        }

        fn resize(&mut self, size: usize) {
            // SAFETY: it came from there with this layout.
            self.memory = unsafe { self.pool.realloc(self.memory, self.layout, size) };
            assert!(!self.memory.is_null());
            self.layout = Layout::from_size_align(size, 1).unwrap();
        }

        fn is_place(&self) -> bool {
            let slabs = self.pool.lock();
            let mut starts = slabs.all.iter().filter_map(|slab| slab.start);
            starts.any(|start| (start..start + SLAB_BYTES).contains(&self.memory.addr()))
        }
    }

    impl Drop for Held<'_> {
        fn drop(&mut self) {
            // SAFETY: it came from there with this layout.
            unsafe { self.pool.dealloc(self.memory, self.layout) }
        }
    }

    fn quiet_for(pool: &Pool, looks: u32) {
        (0..looks).for_each(|_| pool.look());
    }

    #[test]
    fn only_what_is_as_large_as_a_piece_has_a_place() {
        let pool = Pool::new();
        for (size, expected) in [
            (1, false),
            (PIECE_MIN_BYTES - 1, false),
            (PIECE_MIN_BYTES, true),
            (PLACE_BYTES, true),
            (PLACE_BYTES + 1, false),
            (64 << 20, false),
        ] {
            assert_eq!(Held::of(&pool, size).is_place(), expected, "{size}");
        }
        let wide = Layout::from_size_align(PIECE, 2 * ALIGNED_TO_BYTES).unwrap();
        // SAFETY: the size is not zero, and it goes back as it came.
        unsafe {
            let memory = pool.alloc(wide);
            assert!(memory.addr().is_multiple_of(wide.align()));
            pool.dealloc(memory, wide);
        }
    }

    #[test]
    fn places_lie_apart_and_begin_with_a_page() {
        let pool = Pool::new();
        let mut held: Vec<_> = (0..80).map(|_| Held::of(&pool, PIECE)).collect();
        for (at, piece) in held.iter_mut().enumerate() {
            assert!(piece.memory.addr().is_multiple_of(ALIGNED_TO_BYTES));
            piece.bytes().fill(at as u8);
        }
        for (at, piece) in held.iter_mut().enumerate() {
            assert!(piece.bytes().iter().all(|byte| *byte == at as u8));
        }
    }

    #[test]
    fn the_place_that_became_free_first_in_order_is_taken_again() {
        let pool = Pool::new();
        let mut held: Vec<_> = (0..40).map(|_| Held::of(&pool, PIECE)).collect();
        let freed: BTreeSet<_> = [35, 20, 3]
            .map(|at| held.remove(at).memory.addr())
            .into_iter()
            .collect();
        let again: Vec<_> = (0..3).map(|_| Held::of(&pool, PIECE)).collect();
        let again: Vec<_> = again.iter().map(|piece| piece.memory.addr()).collect();
        assert_eq!(again.iter().copied().collect::<BTreeSet<_>>(), freed);
        assert!(again[0] < again[1], "within a slab from its beginning");
    }

    #[test]
    fn when_all_places_are_taken_the_system_has_the_rest() {
        let pool = Pool::new();
        let places = SLABS_MAX * SLAB_PLACES;
        let held: Vec<_> = (0..places).map(|_| Held::of(&pool, PIECE)).collect();
        assert!(held.iter().all(Held::is_place));
        let mut beyond = Held::of(&pool, PIECE);
        assert!(!beyond.is_place());
        beyond.bytes().fill(7);
        drop(held);
        drop(beyond);
        assert!(Held::of(&pool, PIECE).is_place());
    }

    #[test]
    fn what_grows_or_shrinks_keeps_its_bytes() {
        let pool = Pool::new();
        let sizes = [
            1000,
            PIECE,
            PIECE + 9000,
            3 << 20,
            PIECE_MIN_BYTES,
            70_000,
            9,
        ];
        let mut held = Held::of(&pool, 10);
        held.bytes().copy_from_slice(b"0123456789");
        for size in sizes {
            held.resize(size);
            let kept = size.min(9);
            assert_eq!(held.bytes()[..kept], b"012345678"[..kept], "{size}");
            assert_eq!(held.is_place(), is_piece(size, 1));
        }
    }

    /// Which of the pages have memory that is touched.
    fn touched(pool: &Pool, slab: usize) -> u32 {
        pool.lock().all[slab].touched
    }

    #[test]
    fn free_memory_goes_back_after_some_quiet_and_nothing_that_is_held() {
        let pool = Pool::new();
        let mut kept = Held::of(&pool, PIECE);
        kept.bytes().fill(1);
        let address = |at: usize| kept.memory.addr() + at * PLACE_BYTES;
        let first_of = |at: usize| {
            let first: *const u8 = std::ptr::with_exposed_provenance(address(at));
            // SAFETY: mapped, and nobody writes to it.
            unsafe { first.read() }
        };
        let mut others: Vec<_> = (1..32).map(|_| Held::of(&pool, PIECE)).collect();
        others.iter_mut().for_each(|other| other.bytes().fill(2));
        drop(others);
        quiet_for(&pool, QUIET_LOOKS);
        assert_eq!((first_of(2), first_of(31)), (2, 2), "more may come");
        quiet_for(&pool, QUIET_LOOKS);
        assert_eq!((first_of(2), first_of(31)), (0, 0));
        assert!(kept.bytes().iter().all(|byte| *byte == 1));
        assert_eq!(touched(&pool, 0), pages_of(0));
    }

    #[test]
    fn what_is_freed_long_after_it_was_taken_goes_back_too() {
        let pool = Pool::new();
        let held: Vec<_> = (0..40).map(|_| Held::of(&pool, PIECE)).collect();
        quiet_for(&pool, 3 * QUIET_LOOKS);
        assert_eq!(touched(&pool, 0).count_ones() as usize, SLAB_PAGES);
        drop(held);
        quiet_for(&pool, 2 * QUIET_LOOKS);
        assert!(pool.lock().all.iter().all(|slab| slab.start.is_none()));
        assert!(Held::of(&pool, PIECE).is_place(), "and is mapped again");
    }

    #[test]
    fn who_uses_one_piece_now_and_then_keeps_the_memory_of_one() {
        let pool = Pool::new();
        drop((0..32).map(|_| Held::of(&pool, PIECE)).collect::<Vec<_>>());
        for _ in 0..3 * QUIET_LOOKS {
            drop(Held::of(&pool, PIECE));
            quiet_for(&pool, 1);
        }
        assert_eq!(touched(&pool, 0), pages_of(0));
    }

    #[test]
    fn each_place_is_in_its_pages_and_all_pages_have_places() {
        let all = (0..SLAB_PLACES).fold(0, |pages, place| pages | pages_of(place));
        assert_eq!(all.count_ones() as usize, SLAB_PAGES);
        assert_eq!(all.trailing_ones() as usize, SLAB_PAGES);
        assert_eq!(pages_of(0), 0b1);
        assert_eq!(pages_of(1), 0b11, "from 1088 KiB on, to 2176");
        assert_eq!(pages_of(31), 1 << 16);
    }

    #[test]
    fn what_is_to_be_zeroed_is_zero_though_a_place_was_used() {
        let pool = Pool::new();
        Held::of(&pool, PIECE).bytes().fill(9);
        let layout = Layout::from_size_align(PIECE, 1).unwrap();
        // SAFETY: the size is not zero, and it goes back as it came.
        unsafe {
            let memory = pool.alloc_zeroed(layout);
            let bytes = std::slice::from_raw_parts(memory, PIECE);
            assert!(bytes.iter().all(|byte| *byte == 0));
            pool.dealloc(memory, layout);
        }
    }

    #[test]
    fn threads_never_have_the_same_place() {
        let pool = Pool::new();
        std::thread::scope(|scope| {
            for thread in 1..=4u8 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..50 {
                        let mut held: Vec<_> = (0..12).map(|_| Held::of(pool, PIECE)).collect();
                        for piece in &mut held {
                            piece.bytes()[..4096].fill(thread);
                        }
                        if round % 10 == 0 {
                            quiet_for(pool, QUIET_LOOKS);
                        }
                        for piece in &mut held {
                            let first = &piece.bytes()[..4096];
                            assert!(first.iter().all(|byte| *byte == thread));
                        }
                    }
                });
            }
        });
    }
}
