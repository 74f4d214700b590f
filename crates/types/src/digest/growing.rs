//! Incremental hash of a file and its outboard, one group at a time. A *group* is the bytes of one
//! leaf of the outboard ([`Grain::bytes`]). The computation can pause between any two groups, and
//! stores about 50 bytes for each level of the tree.

use std::io;

use super::hash::NodeHash;
use super::walk::{halves, hash_bytes, hash_pair};
use super::{ContentHash, Grain, marks};
use crate::extent::{ByteRange, CHUNK_BYTES};

/// A file that is being hashed from its start.
#[derive(Debug)]
pub struct Growing {
    size_bytes: u64,
    grain: Grain,
    done_bytes: u64,
    /// The largest complete subtrees of the hashed part, from left to right: at most one for each
    /// level.
    subtrees: Vec<(ByteRange, NodeHash)>,
}

impl Growing {
    /// Starts a file of this size, for an outboard of this grain.
    pub fn new(size_bytes: u64, grain: Grain) -> Self {
        Self {
            size_bytes,
            grain,
            done_bytes: 0,
            subtrees: Vec::new(),
        }
    }

    /// Returns the number of bytes that are still missing.
    pub fn left_bytes(&self) -> u64 {
        self.size_bytes - self.done_bytes
    }

    /// Hashes the next bytes. Calls `save` with each pair of the outboard and its byte offset
    /// there.
    ///
    /// # Errors
    /// The error of `save`; the hash cannot be finished afterwards.
    ///
    /// # Panics
    /// Panics if there are more bytes than are missing, or if they end within a group that is not
    /// the last.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut save: impl FnMut(u64, &[u8; 64]) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = self.done_bytes;
        for group in bytes.chunks(self.grain.bytes() as usize) {
            let range = ByteRange::at(self.done_bytes, group.len() as u64);
            assert!(range.end <= self.size_bytes, "more bytes than the file has");
            let is_last = range.end == self.size_bytes;
            assert!(
                is_last || range.len() == self.grain.bytes(),
                "part of a group"
            );
            let is_root = range.len() == self.size_bytes;
            let hash = hash_bytes(range.start, group, is_root);
            self.done_bytes = range.end;
            self.subtrees.push((range, hash));
            self.mark(start, bytes);
            while let Some((range, pair)) = self.join(is_last) {
                save(self.place_of(range), &pair)?;
                self.mark(start, bytes);
            }
        }
        Ok(())
    }

    /// Joins the last two neighbours if they are the halves of one subtree: if they have the same
    /// length, and always at the end of the file. Returns the subtree and its pair.
    fn join(&mut self, is_end: bool) -> Option<(ByteRange, [u8; 64])> {
        let [.., (left, left_hash), (right, right_hash)] = &self.subtrees[..] else {
            return None;
        };
        if !is_end && left.len() != right.len() {
            return None;
        }
        let range = ByteRange::new(left.start, right.end);
        let mut pair = [0; 64];
        pair[..32].copy_from_slice(left_hash);
        pair[32..].copy_from_slice(right_hash);
        let hash = hash_pair(&pair, range.len() == self.size_bytes);
        self.subtrees.truncate(self.subtrees.len() - 2);
        self.subtrees.push((range, hash));
        Some((range, pair))
    }

    /// Remembers the last subtree if it is a chunk of these bytes, which begin at `start`. Proving
    /// the chunk then does not hash it again.
    fn mark(&self, start: u64, bytes: &[u8]) {
        let Some((range, hash)) = self.subtrees.last() else {
            return;
        };
        if range.len() == CHUNK_BYTES && range.start >= start {
            let from = (range.start - start) as usize;
            marks::note(hash, &bytes[from..from + CHUNK_BYTES as usize]);
        }
    }

    /// Returns the byte offset of a subtree's pair in the outboard.
    fn place_of(&self, subtree: ByteRange) -> u64 {
        let (mut at, mut index) = (ByteRange::new(0, self.size_bytes), 0);
        while at != subtree {
            let (left, right) = halves(at);
            if subtree.start < right.start {
                (at, index) = (left, index + 1);
            } else {
                // The left half has one pair less than it has groups.
                (at, index) = (right, index + left.len() / self.grain.bytes());
            }
        }
        index * 64
    }

    /// Returns the hash, or none if bytes are missing.
    pub fn finish(mut self) -> Option<ContentHash> {
        if self.size_bytes == 0 {
            return Some(ContentHash::of(b""));
        }
        let (range, hash) = self.subtrees.pop()?;
        (range.len() == self.size_bytes).then(|| ContentHash::new(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outboard;
    use super::*;
    use crate::extent::CHUNK_BYTES;

    fn grown(bytes: &[u8], grain: Grain, step: usize) -> (Option<ContentHash>, Vec<u8>) {
        let size_bytes = bytes.len() as u64;
        let mut pairs = vec![0xee; grain.outboard_bytes(size_bytes) as usize];
        let mut growing = Growing::new(size_bytes, grain);
        for some in bytes.chunks(step * CHUNK_BYTES as usize) {
            let save = |place: u64, pair: &[u8; 64]| {
                pairs[place as usize..][..64].copy_from_slice(pair);
                Ok(())
            };
            growing.take(some, save).unwrap();
            assert!(growing.subtrees.len() <= 40);
        }
        assert_eq!(growing.left_bytes(), 0);
        (growing.finish(), pairs)
    }

    #[test]
    fn an_outboard_grown_by_groups_equals_that_of_the_whole() {
        let group = CHUNK_BYTES as usize;
        let sizes = [0, 1, group - 1, group, group + 1, 2 * group, 3 * group];
        let larger = [5 * group + 17, 8 * group, 9 * group, 13 * group - 1];
        for size in sizes.into_iter().chain(larger) {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
            for grain in [Grain::CHUNK, Grain::FINEST] {
                let whole = Outboard::compute(&bytes[..], size as u64, grain).unwrap();
                for step in [1, 3] {
                    let (hash, pairs) = grown(&bytes, grain, step);
                    assert_eq!(hash, Some(whole.hash), "{size}");
                    assert!(pairs == whole.pairs, "{size}");
                }
            }
        }
    }

    #[test]
    fn there_is_no_hash_before_all_bytes_arrived() {
        let mut growing = Growing::new(3 * CHUNK_BYTES, Grain::CHUNK);
        let group = vec![7; CHUNK_BYTES as usize];
        growing.take(&group, |_, _| Ok(())).unwrap();
        assert_eq!(growing.left_bytes(), 2 * CHUNK_BYTES);
        assert_eq!(growing.finish(), None);
    }

    #[test]
    fn an_outboard_that_cannot_be_saved_is_abandoned() {
        let bytes = vec![7; 2 * CHUNK_BYTES as usize];
        let full = |_: u64, _: &[u8; 64]| Err(io::ErrorKind::StorageFull.into());
        let failed = Growing::new(bytes.len() as u64, Grain::CHUNK).take(&bytes, full);
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
