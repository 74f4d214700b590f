//! Buffers for the pieces of files in transfer, in the kernel's huge pages.
//!
//! Data moves between nodes, to a mount and to a disk in pieces of up to 1 MiB with their proof. In
//! pages of 4 KiB, 1 MiB is 256 pages. The kernel must find and count them for each transfer to a
//! mount or a disk, and the processor must translate them at each pass. In pages of 2 MiB
//! (`MADV_HUGEPAGE` of madvise(2)), a piece is in one or two pages. A buffer that is used again
//! also needs no page to be cleared.
//!
//! A pool has *places*, each a buffer for one piece of 1 MiB. For any other length, and when all
//! places are taken, it gives out a buffer of the heap. On a kernel without huge pages, places have
//! ordinary pages.

use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Bytes of the smallest buffer that gets a place: the largest range of one request
/// (`RANGE_MAX_BYTES` in `wire::native::tcp`). Few pieces are smaller under heavy reading.
const PIECE_MIN_BYTES: usize = 1 << 20;
/// Bytes of a place: a piece, its proof, and padding to the end of a page.
const PLACE_BYTES: usize = PIECE_MIN_BYTES + (64 << 10);
/// Bytes of a huge page on all processors that have pages of 4 KiB.
const HUGE_BYTES: usize = 2 << 20;
/// Places that are allocated together. They fill 93 % of four huge pages.
const SLAB_PLACES: usize = 7;
const SLAB_BYTES: usize = 4 * HUGE_BYTES;
/// Maximum slabs of a pool: 512 MiB in total.
const SLABS_MAX: usize = 64;
/// Maximum places of a pool, taken ones included.
pub(crate) const PLACES_MAX: usize = SLABS_MAX * SLAB_PLACES;
/// Checks after which the memory of an unused slab returns to the kernel. It does not return at
/// once, because the kernel clears new memory, which costs as much as filling it.
const QUIET_CHECKS: u32 = 10;

const _: () = assert!(SLAB_PLACES * PLACE_BYTES <= SLAB_BYTES);

/// Buffers for pieces of files. Clones share them.
#[derive(Clone, Default)]
pub struct PiecePool {
    slabs: Arc<Mutex<Vec<Slab>>>,
}

impl PiecePool {
    /// Returns an empty buffer with room for `length_bytes` at least.
    pub fn take(&self, length_bytes: usize) -> PieceBuffer {
        match self.take_place(length_bytes) {
            Some(bytes) => PieceBuffer {
                bytes,
                home: Some(self.clone()),
            },
            None => PieceBuffer {
                bytes: BytesMut::with_capacity(length_bytes),
                home: None,
            },
        }
    }

    /// Returns a buffer of `length_bytes` initialized bytes with arbitrary content, to be overwritten.
    /// tokio clears uninitialized memory before it reads into it. A place keeps its old bytes.
    #[allow(
        unsafe_code,
        reason = "no safe call gives a BytesMut the length of its initialized capacity"
    )]
    pub fn take_filled(&self, length_bytes: usize) -> PieceBuffer {
        match self.take_place(length_bytes) {
            Some(mut bytes) => {
                assert!(length_bytes <= bytes.capacity());
                // SAFETY: the bytes of a place were zeroed with their slab, and its users only
                // write to them (`PieceBuffer::bytes_mut`). A buffer that was allocated again does
                // not return to its slab (`Slab::contains`). The capacity is checked above.
                unsafe { bytes.set_len(length_bytes) };
                let home = Some(self.clone());
                PieceBuffer { bytes, home }
            }
            None => PieceBuffer::zeroed(length_bytes),
        }
    }

    /// Takes a place of the first slab that has one, so that few huge pages are in use. Returns `None`
    /// if the length is not that of a piece, or if all places are taken.
    fn take_place(&self, length_bytes: usize) -> Option<BytesMut> {
        if !(PIECE_MIN_BYTES..=PLACE_BYTES).contains(&length_bytes) {
            return None;
        }
        let mut slabs = self.slabs.lock();
        if let Some(place) = slabs.iter_mut().find_map(Slab::take) {
            return Some(place);
        }
        if slabs.len() == SLABS_MAX {
            return None;
        }
        slabs.push(Slab::allocate());
        slabs.last_mut().and_then(Slab::take)
    }

    /// Puts a place back. Drops a buffer that is not a place.
    fn put(&self, place: BytesMut) {
        let mut slabs = self.slabs.lock();
        if let Some(slab) = slabs.iter_mut().find(|slab| slab.contains(&place)) {
            slab.free.push(place);
        }
    }

    /// Frees the slabs without a taken place from which no place was taken during the last ten
    /// calls. Call it once a second.
    pub fn release_unused(&self) {
        self.slabs.lock().retain_mut(Slab::is_needed);
    }
}

/// Adjacent places.
struct Slab {
    /// Address of the first place.
    start: usize,
    free: Vec<BytesMut>,
    /// Checks since a place was last taken.
    quiet_checks: u32,
}

impl Slab {
    fn allocate() -> Self {
        // With the daemon's settings, the C library maps memory of this size anew, and the kernel
        // clears each page at its first use.
        let mut unaligned = BytesMut::zeroed(SLAB_BYTES + HUGE_BYTES);
        let address = unaligned.as_ptr().addr();
        let mut rest = unaligned.split_off(address.next_multiple_of(HUGE_BYTES) - address);
        prefer_huge_pages(&mut rest);
        let start = rest.as_ptr().addr();
        let next = |_| {
            let behind = rest.split_off(PLACE_BYTES);
            let mut place = mem::replace(&mut rest, behind);
            place.clear();
            place
        };
        let mut free: Vec<_> = (0..SLAB_PLACES).map(next).collect();
        free.reverse();
        Self {
            start,
            free,
            quiet_checks: 0,
        }
    }

    fn take(&mut self) -> Option<BytesMut> {
        let place = self.free.pop()?;
        self.quiet_checks = 0;
        Some(place)
    }

    fn contains(&self, place: &BytesMut) -> bool {
        let places = self.start..self.start + SLAB_BYTES;
        place.capacity() == PLACE_BYTES && places.contains(&place.as_ptr().addr())
    }

    /// Counts this check. Returns whether a place is taken, or was taken during the last
    /// [`QUIET_CHECKS`] checks.
    fn is_needed(&mut self) -> bool {
        self.quiet_checks += 1;
        self.free.len() < SLAB_PLACES || self.quiet_checks <= QUIET_CHECKS
    }
}

/// Asks the kernel for huge pages in the memory of a slab. A kernel without them refuses, without
/// harm.
#[allow(unsafe_code, reason = "no safe crate advises the kernel about memory")]
fn prefer_huge_pages(memory: &mut BytesMut) {
    assert!(memory.len() >= SLAB_BYTES);
    // SAFETY: the memory is allocated, and the advice changes none of its bytes.
    unsafe { libc::madvise(memory.as_mut_ptr().cast(), SLAB_BYTES, libc::MADV_HUGEPAGE) };
}

/// Buffer of a pool or of the heap. A place returns to its pool when this buffer or, after
/// [`Self::freeze`], the last reference to the bytes is dropped.
pub struct PieceBuffer {
    bytes: BytesMut,
    home: Option<PiecePool>,
}

impl PieceBuffer {
    /// Allocates a buffer of zeros without a pool.
    pub fn zeroed(length_bytes: usize) -> Self {
        Self {
            bytes: BytesMut::zeroed(length_bytes),
            home: None,
        }
    }

    /// Returns the buffer, for bytes to be appended to it or overwritten in it. The memory behind its
    /// end must stay initialized.
    pub fn bytes_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Returns the bytes for readers.
    pub fn freeze(mut self) -> Bytes {
        match self.home {
            Some(_) => Bytes::from_owner(self),
            None => mem::take(&mut self.bytes).freeze(),
        }
    }
}

impl AsRef<[u8]> for PieceBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PieceBuffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            let mut place = mem::take(&mut self.bytes);
            place.clear();
            home.put(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::BufMut;

    use super::*;

    const PIECE: usize = PIECE_MIN_BYTES + 5000;

    fn is_place(pool: &PiecePool, buffer: &PieceBuffer) -> bool {
        let slabs = pool.slabs.lock();
        slabs.iter().any(|slab| slab.contains(&buffer.bytes))
    }

    fn slabs(pool: &PiecePool) -> usize {
        pool.slabs.lock().len()
    }

    fn check_times(pool: &PiecePool, checks: u32) {
        (0..checks).for_each(|_| pool.release_unused());
    }

    #[test]
    fn only_a_buffer_as_large_as_a_piece_has_a_place() {
        let pool = PiecePool::default();
        for (length, expected) in [
            (0, false),
            (PIECE_MIN_BYTES - 1, false),
            (PIECE_MIN_BYTES, true),
            (PLACE_BYTES, true),
            (PLACE_BYTES + 1, false),
        ] {
            let buffer = pool.take(length);
            assert_eq!(is_place(&pool, &buffer), expected, "{length}");
            assert!(buffer.bytes.capacity() >= length && buffer.bytes.is_empty());
        }
    }

    #[test]
    fn a_filled_buffer_has_its_length_in_a_place_and_on_the_heap() {
        let pool = PiecePool::default();
        for length in [0, 10, PIECE_MIN_BYTES, PLACE_BYTES, PLACE_BYTES + 1] {
            let mut buffer = pool.take_filled(length);
            assert_eq!(buffer.bytes_mut().len(), length);
            buffer.bytes_mut().fill(1);
        }
        // The first place was used twice. It keeps its bytes, but an appender sees none of them.
        assert_eq!(pool.take_filled(PIECE).bytes[..], [1; PIECE]);
        assert!(pool.take(PIECE).bytes.is_empty());
        let never_used = [pool.take(PIECE), pool.take_filled(PIECE)];
        assert_eq!(never_used[1].bytes[..], [0; PIECE]);
    }

    #[test]
    fn buffers_in_use_do_not_overlap_and_keep_their_bytes() {
        let pool = PiecePool::default();
        let filled = |number: usize| {
            let mut buffer = pool.take(PIECE);
            buffer.bytes_mut().resize(PIECE, number as u8);
            buffer.freeze()
        };
        let all: Vec<Bytes> = (0..3 * SLAB_PLACES).map(filled).collect();
        let addresses: BTreeSet<_> = all.iter().map(|bytes| bytes.as_ptr().addr()).collect();
        let mut neighbours = addresses.iter().zip(addresses.iter().skip(1));
        assert!(neighbours.all(|(one, next)| next - one >= PIECE));
        for (number, bytes) in all.iter().enumerate() {
            assert!(bytes.iter().all(|byte| *byte == number as u8));
        }
        assert_eq!(slabs(&pool), 3);
    }

    #[test]
    fn a_place_is_used_again_after_its_last_reader() {
        let pool = PiecePool::default();
        let mut buffer = pool.take(PIECE);
        buffer.bytes_mut().resize(PIECE, 1);
        let address = buffer.bytes.as_ptr().addr();
        let readers = buffer.freeze();
        let reader = readers.slice(PIECE - 10..);
        drop(readers);
        assert_ne!(pool.take(PIECE).bytes.as_ptr().addr(), address);
        assert_eq!(reader[..], [1; 10]);
        drop(reader);
        let again = pool.take(PIECE);
        assert_eq!(again.bytes.as_ptr().addr(), address);
        assert!(again.bytes.is_empty());
    }

    #[test]
    fn a_pool_is_bounded_and_the_heap_has_the_rest() {
        let pool = PiecePool::default();
        let all: Vec<_> = (0..PLACES_MAX).map(|_| pool.take(PIECE)).collect();
        assert!(all.iter().all(|buffer| is_place(&pool, buffer)));
        let beyond = pool.take(PIECE);
        assert!(!is_place(&pool, &beyond) && beyond.bytes.capacity() >= PIECE);
        assert_eq!(slabs(&pool), SLABS_MAX);
    }

    #[test]
    fn memory_is_released_after_quiet_checks_and_not_while_in_use() {
        let pool = PiecePool::default();
        let held: Vec<_> = (0..=SLAB_PLACES).map(|_| pool.take(PIECE)).collect();
        check_times(&pool, 3 * QUIET_CHECKS);
        assert_eq!(slabs(&pool), 2);
        drop(held);
        let last = pool.take(PIECE);
        check_times(&pool, 1);
        assert_eq!(slabs(&pool), 1, "the second was quiet before");
        drop(last);
        drop(pool.take(PIECE));
        check_times(&pool, QUIET_CHECKS);
        assert_eq!(slabs(&pool), 1);
        check_times(&pool, 1);
        assert_eq!(slabs(&pool), 0);
    }

    #[test]
    fn a_buffer_that_outgrew_its_place_does_not_return() {
        let pool = PiecePool::default();
        let mut buffer = pool.take(PIECE);
        buffer.bytes_mut().resize(2 * PLACE_BYTES, 1);
        drop(buffer);
        assert_eq!(pool.slabs.lock()[0].free.len(), SLAB_PLACES - 1);
    }

    #[test]
    fn readers_outlive_the_pool() {
        let pool = PiecePool::default();
        let mut buffer = pool.take(PIECE);
        buffer.bytes_mut().put_bytes(7, PIECE);
        let bytes = buffer.freeze();
        drop(pool);
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
