//! Index of ranges by id. Each file has one index of its requests in flight and one of its waiting
//! readers, so that an arriving answer examines only the entries near its range.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};

/// Ranges of one file by id. They may overlap in any way. Each range is listed in every cell of
/// [`CHUNK_BYTES`] that it touches, so [`RangeIndex::touching`] examines only the cells of its
/// range.
#[derive(Debug)]
pub(super) struct RangeIndex<Id> {
    ranges: BTreeMap<Id, ByteRange>,
    cells: BTreeMap<u64, BTreeSet<Id>>,
}

impl<Id> Default for RangeIndex<Id> {
    fn default() -> Self {
        Self {
            ranges: BTreeMap::new(),
            cells: BTreeMap::new(),
        }
    }
}

impl<Id: Copy + Ord> RangeIndex<Id> {
    pub(super) fn insert(&mut self, range: ByteRange, id: Id) {
        self.ranges.insert(id, range);
        for cell in cells(range) {
            self.cells.entry(cell).or_default().insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: Id) {
        for cell in self.ranges.remove(&id).into_iter().flat_map(cells) {
            if let Some(ids) = self.cells.get_mut(&cell) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.cells.remove(&cell);
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.ranges.keys().copied()
    }

    /// Returns the ids of the ranges that touch `range`.
    pub(super) fn touching(&self, range: ByteRange) -> BTreeSet<Id> {
        let near = self.cells.range(cells(range)).flat_map(|(_, ids)| ids);
        let touches = |id: &&Id| !self.ranges[*id].intersection(&range).is_empty();
        near.filter(touches).copied().collect()
    }

    /// Returns the first run of `range` that no entry covers.
    pub(super) fn first_free(&self, range: ByteRange) -> Option<ByteRange> {
        let mut at = range.start;
        while at < range.end {
            let here = self.in_cell(at / CHUNK_BYTES);
            let covering = here.filter(|other| other.contains(&ByteRange::at(at, 1)));
            match covering.map(|other| other.end).max() {
                Some(end) => at = end,
                None => return Some(ByteRange::new(at, self.next_start(at).min(range.end))),
            }
        }
        None
    }

    /// Returns the lowest start of a range after `at`, or `u64::MAX`. No range may cover `at`.
    fn next_start(&self, at: u64) -> u64 {
        let cell = at / CHUNK_BYTES;
        let starts = |cell| self.in_cell(cell).map(|other| other.start);
        let next_cell = || {
            let mut behind = self.cells.range((Excluded(cell), Unbounded));
            behind.next().and_then(|(cell, _)| starts(*cell).min())
        };
        let here = starts(cell).filter(|start| *start > at).min();
        here.or_else(next_cell).unwrap_or(u64::MAX)
    }

    fn in_cell(&self, cell: u64) -> impl Iterator<Item = &ByteRange> {
        let ids = self.cells.get(&cell).into_iter().flatten();
        ids.map(|id| &self.ranges[id])
    }
}

fn cells(range: ByteRange) -> std::ops::Range<u64> {
    range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_covered_until_the_last_overlapping_one_is_removed() {
        let mut index = RangeIndex::default();
        let range = ByteRange::new(100, 200);
        index.insert(range, 1);
        index.insert(range, 2);
        index.insert(ByteRange::new(300, 400), 3);
        let touching = |index: &RangeIndex<u64>, start, end| -> Vec<_> {
            let touching = index.touching(ByteRange::new(start, end));
            touching.into_iter().collect()
        };
        assert_eq!(touching(&index, 0, 1000), [1, 2, 3]);
        assert_eq!(touching(&index, 150, 160), [1, 2]);
        assert_eq!(touching(&index, 200, 300), [0; 0]);
        index.remove(1);
        assert_eq!(index.first_free(range), None);
        index.remove(2);
        assert_eq!(index.first_free(range), Some(range));
        let around = index.first_free(ByteRange::new(350, 500));
        assert_eq!(around, Some(ByteRange::new(400, 500)));
    }

    #[test]
    fn the_rest_of_a_longer_range_is_free_once_the_longer_is_removed() {
        let mut index = RangeIndex::default();
        index.insert(ByteRange::new(0, 1 << 20), 1);
        index.insert(ByteRange::new(0, 128 << 10), 2);
        index.remove(1);
        let free = index.first_free(ByteRange::new(0, 1 << 20));
        assert_eq!(free, Some(ByteRange::new(128 << 10, 1 << 20)));
    }

    #[test]
    fn a_long_range_is_found_from_any_part_of_it() {
        let mut index = RangeIndex::default();
        let long = ByteRange::new(CHUNK_BYTES - 1, 3 * CHUNK_BYTES + 1);
        index.insert(long, 7);
        for at in [long.start, CHUNK_BYTES, 2 * CHUNK_BYTES, long.end - 1] {
            let touching = index.touching(ByteRange::at(at, 1));
            assert_eq!(touching.into_iter().collect::<Vec<_>>(), [7]);
        }
        assert!(index.touching(ByteRange::at(long.end, 1)).is_empty());
        index.remove(7);
        assert!(index.cells.is_empty() && index.is_empty());
    }

    proptest! {
        /// Compares the index with a plain list, with ranges that overlap in any way.
        #[test]
        fn ranges_match_a_plain_list(
            put in prop::collection::vec((0u64..40, 1u64..20), 0..12),
            taken in prop::collection::vec(0usize..12, 0..6),
            asked in (0u64..40, 1u64..40),
        ) {
            let grain = CHUNK_BYTES / 4;
            let range = |(start, len): (u64, u64)| ByteRange::at(start * grain, len * grain);
            let put = put.into_iter().map(range);
            let mut list: BTreeMap<usize, ByteRange> = put.enumerate().collect();
            let mut index = RangeIndex::default();
            list.iter().for_each(|(id, range)| index.insert(*range, *id));
            for id in taken {
                list.remove(&id);
                index.remove(id);
            }
            let asked = range(asked);
            let touching = list.iter().filter(|(_, it)| !it.intersection(&asked).is_empty());
            prop_assert_eq!(index.touching(asked), touching.map(|(id, _)| *id).collect());
            let is_free = |at: &u64| list.values().all(|it| !it.contains(&ByteRange::at(*at, 1)));
            let grains = || (asked.start..asked.end).step_by(grain as usize);
            let first = grains().find(is_free);
            let end = |first| grains().find(|at| *at > first && !is_free(at)).unwrap_or(asked.end);
            let expected = first.map(|first| ByteRange::new(first, end(first)));
            prop_assert_eq!(index.first_free(asked), expected);
        }
    }
}
