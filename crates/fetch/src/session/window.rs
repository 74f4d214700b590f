//! Verified bytes in memory: those being stored in the cache, and those that it has no room for.
//!
//! The number of concurrent verifications bounds the bytes being stored. A limit in this window
//! bounds the refused bytes; the oldest are dropped first. Ranges of one content may overlap in any
//! way, since a late range is also requested in part from another peer. Each is kept until it is
//! stored itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::plan::PIECE_MAX_BYTES;
use p2pfs_types::digest::{ContentKey, Verified};
use p2pfs_types::extent::ByteRange;

struct WindowEntry {
    verified: Arc<Verified>,
    /// Number of its refusal by the cache, in order; `None` while it is being stored.
    refused: Option<u64>,
    /// Whether a fill began since the bytes were handed out for storing. Their refusal then does
    /// not concern that fill.
    for_later_fill: bool,
}

pub(super) struct Window {
    held: BTreeMap<(ContentKey, ByteRange), WindowEntry>,
    refused: BTreeMap<u64, (ContentKey, ByteRange)>,
    refused_bytes: u64,
    limit_bytes: u64,
    clock: u64,
}

impl Window {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self {
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            refused_bytes: 0,
            limit_bytes,
            clock: 0,
        }
    }

    /// Keeps bytes while they are being stored.
    pub(super) fn insert(&mut self, content: ContentKey, verified: Arc<Verified>) {
        let place = (content, verified.range);
        self.remove(&content, verified.range);
        self.held.insert(
            place,
            WindowEntry {
                verified,
                refused: None,
                for_later_fill: false,
            },
        );
    }

    /// Removes bytes that are stored, or not needed.
    pub(super) fn remove(&mut self, content: &ContentKey, range: ByteRange) {
        let Some(held) = self.held.remove(&(*content, range)) else {
            return;
        };
        if let Some(number) = held.refused {
            self.refused.remove(&number);
            self.refused_bytes -= range.len();
        }
    }

    /// Marks bytes that the cache refused, and keeps them within the limit. Returns the dropped
    /// ranges.
    pub(super) fn refuse(
        &mut self,
        content: &ContentKey,
        range: ByteRange,
    ) -> Vec<(ContentKey, ByteRange)> {
        let place = (*content, range);
        let Some(held) = self.held.get_mut(&place) else {
            return vec![];
        };
        if held.refused.is_none() {
            self.clock += 1;
            held.refused = Some(self.clock);
            self.refused.insert(self.clock, place);
            self.refused_bytes += range.len();
        }
        let mut gone = Vec::new();
        while self.refused_bytes > self.limit_bytes {
            let Some(oldest) = self.refused.values().next().copied() else {
                break;
            };
            self.remove(&oldest.0, oldest.1);
            gone.push(oldest);
        }
        gone
    }

    /// Returns all verified answers that overlap a range, in order of their start.
    pub(super) fn overlapping(&self, content: &ContentKey, range: ByteRange) -> Vec<Arc<Verified>> {
        // no request is longer than this
        let first = range.start.saturating_sub(PIECE_MAX_BYTES);
        let places = [first, range.end].map(|at| (*content, ByteRange::at(at, 0)));
        self.held
            .range(places[0]..places[1])
            .map(|(_, held)| &held.verified)
            .filter(|verified| !verified.range.intersection(&range).is_empty())
            .cloned()
            .collect()
    }

    /// Returns whether any bytes of the content are being stored.
    pub(super) fn is_storing(&self, content: &ContentKey) -> bool {
        self.storing(content).next().is_some()
    }

    /// Returns the ranges of the content that are being stored.
    pub(super) fn storing(&self, content: &ContentKey) -> impl Iterator<Item = ByteRange> {
        let storing = self.all(content).filter(|(_, held)| held.refused.is_none());
        storing.map(|(range, _)| range)
    }

    /// Records that a fill of the content begins, and drops the refused bytes. Returns their ranges.
    /// The cache may have refused bytes that count as being stored, without a report so far,
    /// although it has room by now.
    pub(super) fn begin_fill(&mut self, content: &ContentKey) -> Vec<ByteRange> {
        let [first, last] = places(content);
        for (_, held) in self.held.range_mut(first..=last) {
            held.for_later_fill = held.refused.is_none();
        }
        self.forget(content)
    }

    /// Returns whether the owner stores refused bytes again. Returns true once per fill.
    pub(super) fn store_again(&mut self, content: &ContentKey, range: ByteRange) -> bool {
        let held = self.held.get_mut(&(*content, range));
        held.is_some_and(|held| std::mem::take(&mut held.for_later_fill))
    }

    /// Drops the refused bytes of a content. Returns their ranges.
    pub(super) fn forget(&mut self, content: &ContentKey) -> Vec<ByteRange> {
        let refused = self.all(content).filter(|(_, held)| held.refused.is_some());
        let ranges: Vec<_> = refused.map(|(range, _)| range).collect();
        for range in &ranges {
            self.remove(content, *range);
        }
        ranges
    }

    fn all(&self, content: &ContentKey) -> impl Iterator<Item = (ByteRange, &WindowEntry)> {
        let [first, last] = places(content);
        let held = self.held.range(first..=last);
        held.map(|((_, range), held)| (*range, held))
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn refused_bytes(&self) -> u64 {
        self.refused_bytes
    }
}

/// Returns the least and the greatest possible key of a content's ranges.
fn places(content: &ContentKey) -> [(ContentKey, ByteRange); 2] {
    [0, u64::MAX].map(|at| (*content, ByteRange::at(at, 0)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use p2pfs_types::digest::ContentHash;

    fn verified(start: u64, length: u64) -> Arc<Verified> {
        let bytes = Bytes::from(vec![start as u8; length as usize]);
        Arc::new(Verified {
            range: ByteRange::at(start, length),
            bytes,
            pairs: vec![],
        })
    }

    fn name(byte: u8) -> ContentKey {
        ContentKey::new(ContentHash::new([byte; 32]), 1 << 20)
    }

    #[test]
    fn bytes_being_stored_can_be_read_and_are_then_dropped() {
        let mut window = Window::new(0);
        window.insert(name(1), verified(4096, 4096));
        assert!(window.is_storing(&name(1)) && !window.is_storing(&name(2)));
        assert_eq!(
            window.overlapping(&name(1), ByteRange::at(5000, 10)).len(),
            1
        );
        assert!(
            window
                .overlapping(&name(1), ByteRange::at(0, 4096))
                .is_empty()
        );
        assert!(
            window
                .overlapping(&name(1), ByteRange::at(8192, 4096))
                .is_empty()
        );
        window.remove(&name(1), ByteRange::at(4096, 4096));
        assert!(
            window
                .overlapping(&name(1), ByteRange::at(4096, 4096))
                .is_empty()
        );
    }

    #[test]
    fn bytes_refused_by_the_cache_are_bounded_and_the_oldest_are_dropped_first() {
        let mut window = Window::new(10_000);
        let mut gone = Vec::new();
        for i in 0..4u64 {
            window.insert(name(1), verified(i * 4096, 4096));
            gone.extend(window.refuse(&name(1), ByteRange::at(i * 4096, 4096)));
            assert!(window.refused_bytes() <= 10_000);
        }
        assert_eq!(
            gone,
            [
                (name(1), ByteRange::at(0, 4096)),
                (name(1), ByteRange::at(4096, 4096))
            ]
        );
        assert_eq!(
            window.overlapping(&name(1), ByteRange::new(0, 16384)).len(),
            2
        );
        assert_eq!(
            window.forget(&name(1)),
            [ByteRange::at(8192, 4096), ByteRange::at(12288, 4096)]
        );
        assert_eq!(window.refused_bytes(), 0);
        assert!(window.held.is_empty() && window.refused.is_empty());
    }

    #[test]
    fn bytes_requested_twice_are_held_until_both_are_stored() {
        let mut window = Window::new(0);
        for length in [4096, 16_384] {
            window.insert(name(1), verified(0, length));
        }
        window.remove(&name(1), ByteRange::at(0, 4096));
        assert!(window.is_storing(&name(1)));
        let all = ByteRange::at(0, 16_384);
        assert_eq!(window.overlapping(&name(1), all).len(), 1);
        window.remove(&name(1), all);
        assert!(!window.is_storing(&name(1)) && window.held.is_empty());
    }

    #[test]
    fn a_long_answer_is_found_behind_later_short_ones() {
        let mut window = Window::new(0);
        window.insert(name(1), verified(0, PIECE_MAX_BYTES));
        window.insert(name(1), verified(128 << 10, 4096));
        let page = ByteRange::new(PIECE_MAX_BYTES - 4096, PIECE_MAX_BYTES);
        assert_eq!(window.overlapping(&name(1), page).len(), 1);
    }

    #[test]
    fn answers_are_sorted_by_offset() {
        let mut window = Window::new(0);
        for start in [8192, 0, 4096] {
            window.insert(name(1), verified(start, 4096));
        }
        let found = window.overlapping(&name(1), ByteRange::new(100, 9000));
        let starts: Vec<_> = found.iter().map(|v| v.range.start).collect();
        assert_eq!(starts, [0, 4096, 8192]);
    }
}
