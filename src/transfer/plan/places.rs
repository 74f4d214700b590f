//! What is asked of one file and who waits for it, by place, so that an answer looks at what it
//! touches and at nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::{DemandId, RequestId};
use crate::extent::{ByteRange, CHUNK_BYTES};

/// The ranges of one file that are asked and not answered. Two of them are equal (one is the hedge
/// of the other) or apart.
#[derive(Debug, Default)]
pub(super) struct Asked {
    by_start: BTreeMap<u64, (ByteRange, Vec<RequestId>)>,
}

impl Asked {
    pub fn insert(&mut self, range: ByteRange, id: RequestId) {
        let entry = self.by_start.entry(range.start);
        entry.or_insert_with(|| (range, vec![])).1.push(id);
    }

    pub fn remove(&mut self, range: ByteRange, id: RequestId) {
        let Some((_, ids)) = self.by_start.get_mut(&range.start) else {
            return;
        };
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            self.by_start.remove(&range.start);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Every request under way.
    pub fn ids(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.by_start.values().flat_map(|(_, ids)| ids).copied()
    }

    /// The requests that touch a range.
    pub fn touching(&self, range: ByteRange) -> impl Iterator<Item = RequestId> + '_ {
        self.runs(range).flat_map(|(_, ids)| ids).copied()
    }

    /// The first run of a range that is not asked.
    pub fn first_free(&self, range: ByteRange) -> Option<ByteRange> {
        let mut at = range.start;
        for (asked, _) in self.runs(range) {
            if asked.start > at {
                return Some(ByteRange::new(at, asked.start));
            }
            at = asked.end;
        }
        (at < range.end).then(|| ByteRange::new(at, range.end))
    }

    fn runs(&self, range: ByteRange) -> impl Iterator<Item = &(ByteRange, Vec<RequestId>)> {
        let before = self.by_start.range(..range.start).next_back();
        let first = before.filter(|(_, (asked, _))| asked.end > range.start);
        let from = first.map_or(range.start, |(start, _)| *start);
        let runs = self.by_start.range(from..range.end.max(from));
        runs.map(|(_, run)| run)
    }
}

/// Who waits for which part of one file: each wait is noted in every cell of [`CHUNK_BYTES`] that
/// it touches, so that what is looked at for one answer is what waits in its own cells.
#[derive(Debug, Default)]
pub(super) struct Waits {
    cells: BTreeSet<(u64, DemandId)>,
    count: usize,
}

impl Waits {
    pub fn insert(&mut self, range: ByteRange, id: DemandId) {
        self.cells.extend(cells(range).map(|cell| (cell, id)));
        self.count += 1;
    }

    pub fn remove(&mut self, range: ByteRange, id: DemandId) {
        for cell in cells(range) {
            self.cells.remove(&(cell, id));
        }
        self.count -= 1;
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Those that may touch a range: the caller compares.
    pub fn near(&self, range: ByteRange) -> BTreeSet<DemandId> {
        let cells = cells(range);
        let near = self
            .cells
            .range((cells.start, DemandId(0))..(cells.end, DemandId(0)));
        near.map(|(_, id)| *id).collect()
    }
}

fn cells(range: ByteRange) -> std::ops::Range<u64> {
    range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> Vec<RequestId> {
        numbers.iter().map(|number| RequestId(*number)).collect()
    }

    #[test]
    fn a_range_is_asked_until_its_last_request_has_ended() {
        let mut asked = Asked::default();
        let range = ByteRange::new(100, 200);
        asked.insert(range, RequestId(1));
        asked.insert(range, RequestId(2));
        asked.insert(ByteRange::new(300, 400), RequestId(3));
        let touching = |asked: &Asked, start, end| -> Vec<_> {
            asked.touching(ByteRange::new(start, end)).collect()
        };
        assert_eq!(touching(&asked, 0, 1000), ids(&[1, 2, 3]));
        assert_eq!(touching(&asked, 150, 160), ids(&[1, 2]));
        assert_eq!(touching(&asked, 200, 300), []);
        asked.remove(range, RequestId(1));
        assert_eq!(asked.first_free(range), None);
        asked.remove(range, RequestId(2));
        assert_eq!(asked.first_free(range), Some(range));
        let around = asked.first_free(ByteRange::new(350, 500));
        assert_eq!(around, Some(ByteRange::new(400, 500)));
    }

    #[test]
    fn who_waits_is_found_from_any_part_of_the_range() {
        let mut waits = Waits::default();
        let long = ByteRange::new(CHUNK_BYTES - 1, 3 * CHUNK_BYTES + 1);
        waits.insert(long, DemandId(7));
        for chunk in 0..4 {
            let near = waits.near(ByteRange::at(chunk * CHUNK_BYTES, 1));
            assert_eq!(near.into_iter().collect::<Vec<_>>(), [DemandId(7)]);
        }
        assert!(waits.near(ByteRange::at(4 * CHUNK_BYTES, 1)).is_empty());
        waits.remove(long, DemandId(7));
        assert!(waits.cells.is_empty() && waits.count() == 0);
    }
}
