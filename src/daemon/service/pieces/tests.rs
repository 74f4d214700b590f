//! Tests of the places for pieces: their allocation, and the return of their memory.

#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]

use std::collections::BTreeSet;

use super::*;

const PIECE: usize = PIECE_MIN_BYTES + 5000;

/// Allocated memory of a pool, freed on drop.
struct Held<'a> {
    pool: &'a Pool,
    memory: *mut u8,
    layout: Layout,
}

// SAFETY: no other value has a pointer to this memory.
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
        // SAFETY: the memory has that length, and all callers write it before they read it.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.layout.size()) }
    }

    fn resize(&mut self, size: usize) {
        // SAFETY: the pool allocated it with this layout.
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
        // SAFETY: the pool allocated it with this layout.
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
    // SAFETY: the size is not zero, and the memory is freed with the same layout.
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

/// Returns the mask of the slab's touched pages.
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
        // SAFETY: it is mapped, and no thread writes to it.
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
    // SAFETY: the size is not zero, and the memory is freed with the same layout.
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
