//! Ranges of bytes within a file, and sets of them.
//!
//! This module owns the two grains of the data plane: a *page* of 4 KiB is the unit of presence in
//! the cache, a *chunk* of 64 KiB is the unit that nodes offer to each other. The meaning of the
//! bytes does not matter here.

use serde::{Deserialize, Serialize};

/// Size of a page in bytes: 4 KiB. The cache counts in pages.
pub const PAGE_BYTES: u64 = 4096;
/// Size of a chunk in bytes: 64 KiB. Nodes offer chunks to each other, and the outboards in the
/// cache have one leaf for each chunk.
pub const CHUNK_BYTES: u64 = 65536;

/// The bytes from `start` up to, but not including, `end`. The constructors make `end` at least
/// `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Creates a range. An inverted one becomes empty at `start`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: if end < start { start } else { end },
        }
    }

    /// Creates a range of `length_bytes` bytes from `start`, cut at the largest offset.
    pub const fn at(start: u64, length_bytes: u64) -> Self {
        Self::new(start, start.saturating_add(length_bytes))
    }

    /// Returns the number of bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Returns whether the range has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Returns the bytes in both ranges, or an empty range.
    pub fn intersection(&self, other: &Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Returns whether every byte of `other` is in `self`.
    pub fn contains(&self, other: &Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Returns the smallest range of whole grains of `grain_bytes` around this one, cut at
    /// `size_bytes`.
    pub fn align_out(&self, grain_bytes: u64, size_bytes: u64) -> Self {
        let start = self.start / grain_bytes * grain_bytes;
        let end = self.end.div_ceil(grain_bytes).saturating_mul(grain_bytes);
        Self::new(start.min(size_bytes), end.min(size_bytes))
    }

    /// Returns the largest range of whole grains of `grain_bytes` within this one. The last, short
    /// grain of a file of `size_bytes` counts as whole.
    pub fn align_in(&self, grain_bytes: u64, size_bytes: u64) -> Self {
        let start = self.start.div_ceil(grain_bytes).saturating_mul(grain_bytes);
        let whole = self.end / grain_bytes * grain_bytes;
        let end = if self.end >= size_bytes {
            size_bytes
        } else {
            whole
        };
        Self::new(start, end)
    }

    /// Returns the part of the range that is in the grain of its first byte.
    pub fn first_grain(&self, grain_bytes: u64) -> Self {
        self.first_grain_from(0, grain_bytes)
    }

    /// Returns the part of the range that is in the grain of its first byte, if a grain begins at
    /// `origin` instead of offset 0.
    pub fn first_grain_from(&self, origin: u64, grain_bytes: u64) -> Self {
        let within = bytes_into_grain(self.start, origin, grain_bytes);
        let next = self.start.saturating_add(grain_bytes - within);
        Self::new(self.start, self.end.min(next))
    }
}

/// Returns the distance from the beginning of a grain to an offset in it, if a grain begins at
/// `origin`.
pub fn bytes_into_grain(offset: u64, origin: u64, grain_bytes: u64) -> u64 {
    (offset % grain_bytes + grain_bytes - origin % grain_bytes) % grain_bytes
}

impl From<(u64, u64)> for ByteRange {
    fn from((start, end): (u64, u64)) -> Self {
        Self::new(start, end)
    }
}

impl From<ByteRange> for (u64, u64) {
    fn from(range: ByteRange) -> Self {
        (range.start, range.end)
    }
}

/// Number of a 64 KiB chunk within its file, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkIndex(pub u64);

impl ChunkIndex {
    /// Returns the bytes of the chunk, cut at the file's size.
    pub fn range(self, size_bytes: u64) -> ByteRange {
        ByteRange::at(self.0.saturating_mul(CHUNK_BYTES), CHUNK_BYTES)
            .intersection(&ByteRange::new(0, size_bytes))
    }
}

/// A set of bytes, stored as sorted ranges with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<ByteRange>", into = "Vec<ByteRange>")]
pub struct ExtentSet {
    ranges: Vec<ByteRange>,
}

impl ExtentSet {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a set of one range.
    pub fn of(range: ByteRange) -> Self {
        let mut set = Self::new();
        set.insert(range);
        set
    }

    /// Adds every byte of `range`.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let last = self.ranges.partition_point(|r| r.start <= range.end);
        let mut whole = range;
        if first < last {
            whole.start = whole.start.min(self.ranges[first].start);
            whole.end = whole.end.max(self.ranges[last - 1].end);
        }
        self.ranges.splice(first..last, [whole]);
    }

    /// Removes every byte of `range`.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let last = self.ranges.partition_point(|r| r.start < range.end);
        if first >= last {
            return;
        }
        let left = ByteRange::new(self.ranges[first].start, range.start);
        let right = ByteRange::new(range.end, self.ranges[last - 1].end);
        let kept = [left, right].into_iter().filter(|r| !r.is_empty());
        self.ranges.splice(first..last, kept);
    }

    /// Returns whether every byte of `range` is in the set. The empty range always is.
    pub fn contains(&self, range: ByteRange) -> bool {
        if range.is_empty() {
            return true;
        }
        let after = self.ranges.partition_point(|r| r.end <= range.start);
        self.ranges.get(after).is_some_and(|r| r.contains(&range))
    }

    /// Returns the range of the set that has this byte.
    pub fn run_at(&self, at: u64) -> Option<ByteRange> {
        let first = self.ranges.partition_point(|r| r.end <= at);
        self.ranges.get(first).filter(|r| r.start <= at).copied()
    }

    /// Returns the bytes of `range` that are not in the set.
    pub fn missing_in(&self, range: ByteRange) -> Self {
        let mut missing = Self::of(range);
        for present in self.overlapping(range) {
            missing.remove(*present);
        }
        missing
    }

    /// Returns the bytes of `range` that are in the set.
    pub fn present_in(&self, range: ByteRange) -> Self {
        let cut = |r: &ByteRange| r.intersection(&range);
        Self {
            ranges: self.overlapping(range).iter().map(cut).collect(),
        }
    }

    /// Returns the bytes that are in either set.
    pub fn union(&self, more: &Self) -> Self {
        self.iter().chain(more.iter()).collect::<Vec<_>>().into()
    }

    /// Returns the bytes that are not in the other set.
    pub fn without(&self, other: &Self) -> Self {
        let missing = |range| other.missing_in(range).ranges;
        self.iter().flat_map(missing).collect()
    }

    /// Returns the whole grains of each range, as [`ByteRange::align_in`] does for one.
    pub fn align_in(&self, grain_bytes: u64, size_bytes: u64) -> Self {
        let whole = |range: ByteRange| range.align_in(grain_bytes, size_bytes);
        self.iter().map(whole).collect()
    }

    /// Returns the `most` longest ranges of the set, or all of them if there are fewer.
    pub fn longest(self, most: usize) -> Vec<ByteRange> {
        let mut ranges = self.ranges;
        if ranges.len() > most {
            ranges.sort_by_key(|range| std::cmp::Reverse(range.len()));
            ranges.truncate(most);
        }
        ranges
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(ByteRange::len).sum()
    }

    /// Returns whether the set has no bytes.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Iterates over the ranges in order. There is a gap between any two of them.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ranges.iter().copied()
    }

    fn overlapping(&self, range: ByteRange) -> &[ByteRange] {
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let last = self.ranges.partition_point(|r| r.start < range.end);
        &self.ranges[first..last.max(first)]
    }
}

impl FromIterator<ByteRange> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl From<Vec<ByteRange>> for ExtentSet {
    fn from(mut ranges: Vec<ByteRange>) -> Self {
        // In sorted order each range is added at the end. In an order that a hostile peer chose,
        // each could move all ranges after it.
        ranges.sort_unstable();
        ranges.into_iter().collect()
    }
}

impl From<ExtentSet> for Vec<ByteRange> {
    fn from(set: ExtentSet) -> Self {
        set.ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn outward_alignment_covers_and_inward_alignment_is_covered() {
        let size = 3 * CHUNK_BYTES + 10;
        let range = ByteRange::new(1, CHUNK_BYTES + 1);
        assert_eq!(
            range.align_out(CHUNK_BYTES, size),
            ByteRange::new(0, 2 * CHUNK_BYTES)
        );
        assert!(range.align_in(CHUNK_BYTES, size).is_empty());
        let tail = ByteRange::new(3 * CHUNK_BYTES, size);
        assert_eq!(tail.align_in(CHUNK_BYTES, size), tail);
        assert_eq!(
            ByteRange::new(u64::MAX - 1, u64::MAX)
                .align_out(PAGE_BYTES, size)
                .len(),
            0
        );
    }

    #[test]
    fn the_first_grain_ends_at_its_border_or_with_the_range() {
        let range = ByteRange::new(70, 150);
        assert_eq!(range.first_grain(64), ByteRange::new(70, 128));
        assert_eq!(range.first_grain(256), range);
        let last = ByteRange::new(u64::MAX - 1, u64::MAX);
        assert_eq!(last.first_grain(64), last);
    }

    #[test]
    fn grains_are_counted_from_an_origin_before_or_after_the_range() {
        let range = ByteRange::new(70, 150);
        for origin in [32, 96, 160] {
            assert_eq!(range.first_grain_from(origin, 64), ByteRange::new(70, 96));
        }
        let at_border = ByteRange::new(96, 400);
        assert_eq!(at_border.first_grain_from(32, 64), ByteRange::new(96, 160));
        let early = ByteRange::new(0, 400);
        assert_eq!(early.first_grain_from(32, 64), ByteRange::new(0, 32));
    }

    #[test]
    fn the_last_chunk_is_as_long_as_the_file() {
        assert_eq!(ChunkIndex(1).range(CHUNK_BYTES + 7).len(), 7);
        assert!(ChunkIndex(9).range(CHUNK_BYTES).is_empty());
    }

    fn small_range() -> impl Strategy<Value = ByteRange> {
        (0u64..64, 0u64..16).prop_map(|(start, length)| ByteRange::at(start, length))
    }

    proptest! {
        #[test]
        fn an_extent_set_is_a_set_of_bytes(
            steps in proptest::collection::vec((any::<bool>(), small_range()), 0..40),
            probe in small_range(),
        ) {
            let mut set = ExtentSet::new();
            let mut model = BTreeSet::new();
            for (add, range) in steps {
                if add {
                    set.insert(range);
                    model.extend(range.start..range.end);
                } else {
                    set.remove(range);
                    (range.start..range.end).for_each(|byte| { model.remove(&byte); });
                }
            }
            let bytes: BTreeSet<u64> = set.iter().flat_map(|r| r.start..r.end).collect();
            prop_assert_eq!(&bytes, &model);
            prop_assert_eq!(set.len(), model.len() as u64);
            let neighbours: Vec<_> = set.iter().collect();
            prop_assert!(neighbours.windows(2).all(|pair| pair[0].end < pair[1].start));
            let inside = (probe.start..probe.end).filter(|b| model.contains(b)).count() as u64;
            prop_assert_eq!(set.present_in(probe).len(), inside);
            prop_assert_eq!(set.missing_in(probe).len(), probe.len() - inside);
            prop_assert_eq!(set.contains(probe), inside == probe.len());
            let run = set.run_at(probe.start);
            prop_assert_eq!(run.is_some(), model.contains(&probe.start));
            prop_assert!(run.is_none_or(|run| run.contains(&ByteRange::at(probe.start, 1))));
            let mut with = set.clone();
            with.insert(probe);
            prop_assert_eq!(set.union(&ExtentSet::of(probe)), with);
            let mut without = set.clone();
            without.remove(probe);
            prop_assert_eq!(set.without(&ExtentSet::of(probe)), without);
        }
    }
}
