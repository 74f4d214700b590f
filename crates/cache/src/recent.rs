//! Memory copy of the last bytes written past the page cache. The reader for which they were read
//! ahead requests them soon, and so do peers that fetch the same file. Without this copy the disk
//! would have to return bytes it has just received.
//!
//! The copy has a size limit. Pieces are identified by their content hash, so they are never
//! outdated.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use p2pfs_types::digest::{AppendAt, ContentHash, ReadAt};
use p2pfs_types::extent::ByteRange;

/// Size limit of the copy: the read-ahead of one reader. If many slow readers share it, the rest
/// comes from the disk.
const RECENT_MAX_BYTES: usize = 16 << 20;

/// Most recently stored bytes of all open files.
#[derive(Default)]
pub(super) struct RecentBytes {
    list: Mutex<RecentPieces>,
}

#[derive(Default)]
struct RecentPieces {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

/// Verified bytes of a content.
struct Piece {
    hash: ContentHash,
    range: ByteRange,
    bytes: Bytes,
}

impl RecentBytes {
    /// Adds bytes of a content, and drops the oldest pieces beyond the limit.
    pub(crate) fn insert(&self, hash: ContentHash, offset: u64, bytes: Bytes) {
        let range = ByteRange::at(offset, bytes.len() as u64);
        let mut gone = Vec::new();
        let mut list = self.list.lock();
        list.bytes += bytes.len();
        list.pieces.push_back(Piece { hash, range, bytes });
        while list.bytes > RECENT_MAX_BYTES
            && let Some(oldest) = list.pieces.pop_front()
        {
            list.bytes -= oldest.bytes.len();
            gone.push(oldest);
        }
        drop(list);
        // The memory is returned to the system outside the lock.
        drop(gone);
    }

    /// Returns a range in order, if it is completely in memory.
    fn parts(&self, hash: ContentHash, range: ByteRange) -> Option<Vec<Bytes>> {
        let list = self.list.lock();
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let has_it =
                |it: &&Piece| (it.range.start..it.range.end).contains(&at) && it.hash == hash;
            let piece = list.pieces.iter().find(has_it)?;
            let part = piece.range.intersection(&ByteRange::new(at, range.end));
            let start = (at - piece.range.start) as usize;
            parts.push(piece.bytes.slice(start..start + part.len() as usize));
            at = part.end;
        }
        Some(parts)
    }

    /// Drops the bytes of a content that is no longer open.
    pub(crate) fn forget(&self, hash: ContentHash) {
        let mut list = self.list.lock();
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            list.pieces.drain(..).partition(|piece| piece.hash == hash);
        list.bytes -= gone.iter().map(|piece| piece.bytes.len()).sum::<usize>();
        list.pieces = kept;
        drop(list);
        drop(gone);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.list.lock().bytes
    }
}

/// Source that reads the bytes of a content from memory, or from `rest` if they are not there.
pub(super) struct RecentBytesOr<'a, R> {
    /// `None` if no byte of the file can be in memory.
    pub recent: Option<&'a RecentBytes>,
    pub hash: ContentHash,
    pub rest: R,
}

impl<R> RecentBytesOr<'_, R> {
    fn parts(&self, offset: u64, length: usize) -> Option<Vec<Bytes>> {
        let range = ByteRange::at(offset, length as u64);
        self.recent?.parts(self.hash, range)
    }
}

impl<R: ReadAt> ReadAt for RecentBytesOr<'_, R> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(parts) = self.parts(offset, buffer.len()) else {
            return self.rest.read_at(offset, buffer);
        };
        let mut room = &mut buffer[..];
        for part in parts {
            let (filled, left) = room.split_at_mut(part.len());
            filled.copy_from_slice(&part);
            room = left;
        }
        Ok(buffer.len())
    }
}

impl<R: AppendAt> AppendAt for RecentBytesOr<'_, R> {
    fn append_exact_at(&self, offset: u64, length: usize, buffer: &mut BytesMut) -> io::Result<()> {
        let Some(parts) = self.parts(offset, length) else {
            return self.rest.append_exact_at(offset, length, buffer);
        };
        parts.iter().for_each(|part| buffer.extend_from_slice(part));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ContentHash = ContentHash::new([1; 32]);
    const B: ContentHash = ContentHash::new([2; 32]);
    const MIB: usize = 1 << 20;

    /// Returns bytes that depend on their position, so that misplaced bytes are detected.
    fn content(range: ByteRange) -> Vec<u8> {
        (range.start..range.end)
            .map(|at| (at % 251) as u8)
            .collect()
    }

    fn insert(recent: &RecentBytes, hash: ContentHash, range: ByteRange) {
        recent.insert(hash, range.start, content(range).into());
    }

    /// Reads a range with both methods, which must agree. Returns `None` if the range is not in
    /// memory.
    fn read(recent: &RecentBytes, hash: ContentHash, range: ByteRange) -> Option<Vec<u8>> {
        let nowhere: &[u8] = &[];
        let source = RecentBytesOr {
            recent: Some(recent),
            hash,
            rest: nowhere,
        };
        let mut filled = vec![0; range.len() as usize];
        let mut appended = BytesMut::from(&b"head"[..]);
        let length = filled.len();
        let read = source.read_exact_at(range.start, &mut filled).is_ok();
        let again = source.append_exact_at(range.start, length, &mut appended);
        assert_eq!(again.is_ok(), read);
        read.then(|| assert_eq!(appended[..], [b"head", &filled[..]].concat()));
        read.then_some(filled)
    }

    #[test]
    fn a_range_is_read_across_pieces_that_arrived_in_any_order() {
        let recent = RecentBytes::default();
        for (start, end) in [(300, 400), (0, 100), (200, 300), (100, 200)] {
            insert(&recent, A, ByteRange::new(start, end));
        }
        for (start, end) in [(0, 400), (99, 101), (150, 350), (399, 400), (250, 260)] {
            let range = ByteRange::new(start, end);
            assert_eq!(read(&recent, A, range), Some(content(range)));
        }
    }

    #[test]
    fn a_range_that_is_only_partly_present_is_left_to_the_disk() {
        let recent = RecentBytes::default();
        insert(&recent, A, ByteRange::new(0, 100));
        insert(&recent, A, ByteRange::new(200, 300));
        for (start, end) in [(50, 101), (100, 200), (150, 250), (299, 301), (0, 300)] {
            assert_eq!(read(&recent, A, ByteRange::new(start, end)), None);
        }
        assert_eq!(read(&recent, B, ByteRange::new(0, 100)), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_bytes_are_dropped_first() {
        let recent = RecentBytes::default();
        let piece = |number: u64| ByteRange::at(number * MIB as u64, MIB as u64);
        for number in 0..40 {
            insert(&recent, A, piece(number));
            assert!(recent.bytes() <= RECENT_MAX_BYTES);
        }
        let kept = (0..40).filter(|number| read(&recent, A, piece(*number)).is_some());
        assert_eq!(kept.collect::<Vec<_>>(), (24..40).collect::<Vec<_>>());
        recent.insert(B, 0, vec![0; RECENT_MAX_BYTES + 1].into());
        assert_eq!(recent.bytes(), 0);
    }

    #[test]
    fn closing_a_file_drops_its_bytes_and_keeps_those_of_others() {
        let recent = RecentBytes::default();
        let range = ByteRange::new(0, 1000);
        [A, B].iter().for_each(|hash| insert(&recent, *hash, range));
        recent.forget(A);
        assert_eq!(recent.bytes(), 1000);
        assert_eq!(read(&recent, A, range), None);
        assert_eq!(read(&recent, B, range), Some(content(range)));
        recent.forget(B);
        assert_eq!(recent.bytes(), 0);
    }
}
