//! Incremental hash of a file and its outboard, one group at a time. A *group* is the bytes of one
//! leaf of the outboard ([`Grain::bytes`]). The computation can pause between any two groups, and
//! stores about 50 bytes for each level of the tree.
//!
//! It can also start from another version of the file that begins with the same bytes
//! ([`Growing::from_version`]). A subtree of whole groups has the same hash in both versions, so
//! only the bytes after the last common group are hashed.

use std::io;

use super::hash::NodeHash;
use super::walk::{halves, hash_bytes, hash_pair, split};
use super::{ContentHash, Grain, ReadAt, marks};
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

/// A hashed version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedVersion {
    /// Hash of the version.
    pub hash: ContentHash,
    /// Size of the version.
    pub size_bytes: u64,
    /// Grain of its outboard.
    pub grain: Grain,
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

    /// Starts a file that has its first bytes in common with a hashed version, up to the end of the
    /// shorter of both. `pairs` is the outboard of the version. Calls `save` as [`Self::feed`]
    /// does. The next bytes to take begin at [`Self::done_bytes`]. Returns `None` if the outboard
    /// is damaged or coarser than `grain`, if the version is not longer than one group, or if no
    /// whole group is common.
    ///
    /// # Errors
    /// The error of `pairs` or of `save`.
    pub fn from_version(
        size_bytes: u64,
        grain: Grain,
        version: &HashedVersion,
        pairs: &impl ReadAt,
        mut save: impl FnMut(u64, &[u8; 64]) -> io::Result<()>,
    ) -> io::Result<Option<Self>> {
        let both_bytes = size_bytes.min(version.size_bytes);
        // at least one byte is left to take, because the last group joins the subtrees
        let common_bytes =
            both_bytes.min(size_bytes.saturating_sub(1)) / grain.bytes() * grain.bytes();
        let is_coarser = version.grain.bytes() > grain.bytes();
        if is_coarser || common_bytes == 0 || version.size_bytes <= grain.bytes() {
            return Ok(None);
        }
        let mut growing = Self::new(size_bytes, grain);
        let root = ByteRange::new(0, version.size_bytes);
        let mut left_to_visit = vec![(root, 0, *version.hash.as_bytes())];
        // the left half is visited first, so the groups are found in their order
        while let Some((subtree, index, hash)) = left_to_visit.pop() {
            if subtree.start >= common_bytes {
                continue;
            }
            if subtree.len() <= grain.bytes() {
                growing.done_bytes = subtree.end;
                growing.subtrees.push((subtree, hash));
                while let Some((range, pair)) = growing.join(false) {
                    save(growing.place_of(range), &pair)?;
                }
                continue;
            }
            let mut pair = [0; 64];
            pairs.read_exact_at(index * 64, &mut pair)?;
            if hash_pair(&pair, subtree == root) != hash {
                return Ok(None);
            }
            let (left, right) = halves(subtree);
            let (left_hash, right_hash) = split(&pair);
            let right_index = index + left.len() / version.grain.bytes();
            left_to_visit.push((right, right_index, right_hash));
            left_to_visit.push((left, index + 1, left_hash));
        }
        Ok(Some(growing))
    }

    /// Returns the number of bytes that were taken or are in common with another version.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Returns the number of bytes that are still missing.
    pub fn left_bytes(&self) -> u64 {
        self.size_bytes - self.done_bytes
    }

    /// Hashes the next bytes. Calls `save` with each pair of the outboard that they complete, and
    /// its byte offset there.
    ///
    /// # Errors
    /// The error of `save`; the hash cannot be finished afterwards.
    ///
    /// # Panics
    /// Panics if there are more bytes than are missing, or if they end within a group that is not
    /// the last.
    pub fn feed(
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

    /// If the last subtree is one chunk and lies within `bytes`, which begin at `start`, remembers
    /// the hash of the chunk. Proving the chunk then does not hash it again.
    fn mark(&self, start: u64, bytes: &[u8]) {
        let Some((range, hash)) = self.subtrees.last() else {
            return;
        };
        if range.len() == CHUNK_BYTES && range.start >= start {
            let from = (range.start - start) as usize;
            marks::record(hash, &bytes[from..from + CHUNK_BYTES as usize]);
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
            growing.feed(some, save).unwrap();
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

    /// Hashes `new` bytes from the outboard of their first `old` bytes, or of more bytes than these.
    fn from_version(bytes: &[u8], old: usize, new: usize, grains: [Grain; 2]) -> Option<u64> {
        let before = Outboard::compute(&bytes[..old], old as u64, grains[0]).unwrap();
        let after = Outboard::compute(&bytes[..new], new as u64, grains[1]).unwrap();
        let version = HashedVersion {
            hash: before.hash,
            size_bytes: old as u64,
            grain: grains[0],
        };
        let mut pairs = vec![0xee; after.pairs.len()];
        let mut save = |place: u64, pair: &[u8; 64]| {
            pairs[place as usize..][..64].copy_from_slice(pair);
            Ok(())
        };
        let known = &&before.pairs[..];
        let started = Growing::from_version(new as u64, grains[1], &version, known, &mut save);
        let mut growing = started.unwrap()?;
        let done = growing.done_bytes();
        growing.feed(&bytes[done as usize..new], save).unwrap();
        assert_eq!(growing.finish(), Some(after.hash), "{old} {new}");
        assert!(pairs == after.pairs, "{old} {new}");
        Some(done)
    }

    #[test]
    fn hash_from_another_version_equals_that_of_the_whole() {
        let finest = Grain::FINEST;
        let group = finest.bytes() as usize;
        let bytes: Vec<u8> = (0..70 * group).map(|at| (at / 7 + at) as u8).collect();
        let sizes = [
            group + 1,
            2 * group,
            3 * group + 9,
            4 * group,
            16 * group,
            33 * group + 5,
        ];
        for old in sizes {
            for new in sizes
                .into_iter()
                .chain([old - 1, old, old + 1, old + group, 64 * group])
            {
                if new > group {
                    let done = from_version(&bytes, old, new, [finest; 2]);
                    let common = old.min(new - 1) / group * group;
                    assert_eq!(done, Some(common as u64), "{old} {new}");
                }
                let coarser = from_version(&bytes, old, new, [finest, Grain::CHUNK]);
                let has_group = old > 4 * group && new > 4 * group;
                assert_eq!(coarser.is_some(), has_group, "{old} {new}");
            }
        }
    }

    #[test]
    fn hash_from_random_versions_equals_that_of_the_whole() {
        let bytes: Vec<u8> = (0..3_000_000_u32)
            .map(|at| (at.wrapping_mul(7919) >> 5) as u8)
            .collect();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..60 {
            let old = 16_385 + random(2_900_000);
            let new = 16_385 + random(2_900_000);
            assert!(from_version(&bytes, old, new, [Grain::FINEST; 2]).is_some());
            let next = old + 1 + random(300);
            assert!(from_version(&bytes, old, next, [Grain::FINEST; 2]).is_some());
        }
    }

    #[test]
    fn damaged_or_coarser_outboard_starts_no_hash() {
        let bytes = vec![7; 9 * CHUNK_BYTES as usize];
        let size_bytes = bytes.len() as u64;
        let mut outboard = Outboard::compute(&bytes[..], size_bytes, Grain::CHUNK).unwrap();
        let version = HashedVersion {
            hash: outboard.hash,
            size_bytes,
            grain: Grain::CHUNK,
        };
        let started = |pairs: &[u8], grain| {
            let started =
                Growing::from_version(size_bytes + 1, grain, &version, &pairs, |_, _| Ok(()));
            started.unwrap().is_some()
        };
        assert!(started(&outboard.pairs, Grain::CHUNK));
        assert!(!started(&outboard.pairs, Grain::FINEST));
        outboard.pairs[3] ^= 1;
        assert!(!started(&outboard.pairs, Grain::CHUNK));
    }

    #[test]
    fn there_is_no_hash_before_all_bytes_arrived() {
        let mut growing = Growing::new(3 * CHUNK_BYTES, Grain::CHUNK);
        let group = vec![7; CHUNK_BYTES as usize];
        growing.feed(&group, |_, _| Ok(())).unwrap();
        assert_eq!(growing.left_bytes(), 2 * CHUNK_BYTES);
        assert_eq!(growing.finish(), None);
    }

    #[test]
    fn an_outboard_that_cannot_be_saved_is_abandoned() {
        let bytes = vec![7; 2 * CHUNK_BYTES as usize];
        let full = |_: u64, _: &[u8; 64]| Err(io::ErrorKind::StorageFull.into());
        let failed = Growing::new(bytes.len() as u64, Grain::CHUNK).feed(&bytes, full);
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
