//! Which bytes of a content are here: in the cache, or in memory until the cache has stored them.
//!
//! [`PresentBytes`] is the only object that answers this. It changes when an answer is verified,
//! when the cache stores or refuses it, and when bytes turn out to be lost. The cache's own map is
//! read only when a content is opened and when a fill begins, because the cache may have lost bytes
//! meanwhile.
//!
//! An answer in memory is being stored, or the cache has no room for it. [`UncachedAnswers`] bounds
//! those without room, for all contents together. The ranges of answers may overlap in any way,
//! since a part of a late range is also requested from another peer.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PIECE_MAX_BYTES;
use p2pfs_types::digest::{ContentKey, Verified};
use p2pfs_types::extent::{ByteRange, ExtentSet};

/// Bytes of one content that are here; see the module documentation.
#[derive(Debug)]
pub(crate) struct PresentBytes {
    size_bytes: u64,
    /// Ranges that can be read, from memory or from the cache.
    here: ExtentSet,
    here_bytes: u64,
    /// Whether the cache has all of it, as far as reported.
    is_stored: bool,
    /// Answers in memory.
    held: BTreeMap<ByteRange, HeldAnswer>,
}

#[derive(Debug)]
struct HeldAnswer {
    verified: Arc<Verified>,
    state: HeldState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldState {
    Storing,
    /// Being stored when a fill began. If the cache refuses the answer, it is stored again for that
    /// fill: the cache may have decided before the fill began, and have room by now.
    StoringForLaterFill,
    /// In memory alone, because the cache has no room for it.
    Uncached,
}

/// Action of the owner on verified bytes that the cache refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the bytes may have to be stored again"]
pub enum UncachedAction {
    /// Nothing. Every fill of their content has failed.
    Held,
    /// Store them again, as for [`Accepted::Store`](crate::session::Accepted::Store).
    StoreAgain,
}

impl PresentBytes {
    /// Returns the presence of a content with these ranges in the cache.
    pub(super) fn new(size_bytes: u64, cached: ExtentSet) -> Self {
        Self {
            size_bytes,
            here_bytes: cached.len(),
            here: cached,
            is_stored: false,
            held: BTreeMap::new(),
        }
    }

    /// Returns the ranges that can be read.
    pub(super) fn here(&self) -> &ExtentSet {
        &self.here
    }

    /// Returns the number of bytes that can be read.
    pub(super) fn bytes(&self) -> u64 {
        self.here_bytes
    }

    /// Returns whether all of it can be read.
    pub(super) fn is_whole(&self) -> bool {
        self.here_bytes == self.size_bytes
    }

    /// Records verified bytes.
    pub(super) fn gain(&mut self, range: ByteRange) {
        self.here_bytes += self.here.missing_in(range).len();
        self.here.insert(range);
    }

    /// Records that bytes cannot be read any longer.
    pub(super) fn lose(&mut self, range: ByteRange) {
        self.here_bytes -= self.here.present_in(range).len();
        self.here.remove(range);
        self.is_stored = false;
    }

    /// Keeps a verified answer in memory while it is being stored.
    pub(crate) fn hold(&mut self, verified: Arc<Verified>, uncached: UncachedOf<'_>) {
        let (range, state) = (verified.range, HeldState::Storing);
        self.release(range, uncached);
        self.held.insert(range, HeldAnswer { verified, state });
    }

    /// Records that the cache stored an answer, and whether it then had the whole content. Stores
    /// may be reported in another order than they happened.
    pub(crate) fn stored(&mut self, range: ByteRange, is_stored: bool, uncached: UncachedOf<'_>) {
        self.release(range, uncached);
        self.is_stored |= is_stored;
    }

    /// Records that the cache has no room for an answer, which then stays in memory. Unless the
    /// result is [`UncachedAction::StoreAgain`], the caller must then drop the answers that
    /// [`UncachedAnswers::over_limit`] returns.
    pub(crate) fn not_stored(
        &mut self,
        range: ByteRange,
        mut uncached: UncachedOf<'_>,
    ) -> UncachedAction {
        let Some(held) = self.held.get_mut(&range) else {
            return UncachedAction::Held;
        };
        if held.state == HeldState::StoringForLaterFill {
            held.state = HeldState::Storing;
            return UncachedAction::StoreAgain;
        }
        held.state = HeldState::Uncached;
        uncached.insert(range);
        UncachedAction::Held
    }

    /// Drops an answer from memory.
    pub(crate) fn release(&mut self, range: ByteRange, mut uncached: UncachedOf<'_>) {
        if self.held.remove(&range).is_some() {
            uncached.remove(range);
        }
    }

    /// Begins a fill of a content. `cached` are the ranges that the cache certainly has. Returns
    /// the ranges that are to be fetched again, because the cache refused or lost them.
    pub(crate) fn begin_fill(
        &mut self,
        cached: ExtentSet,
        uncached: UncachedOf<'_>,
    ) -> Vec<ByteRange> {
        let is_cached = cached.contains(ByteRange::new(0, self.size_bytes));
        let (mut kept, mut missing) = (cached, self.drop_uncached(uncached));
        for (range, held) in &mut self.held {
            held.state = HeldState::StoringForLaterFill;
            kept.insert(*range);
        }
        missing.extend(self.here.without(&kept).iter());
        self.is_stored = missing.is_empty() && (self.is_stored || is_cached);
        missing
    }

    /// Records that the cache has a file for the content after all. Returns the ranges of the
    /// answers in memory, which are to be fetched again so that the cache can store them.
    pub(crate) fn reopen(&mut self, is_stored: bool, uncached: UncachedOf<'_>) -> Vec<ByteRange> {
        let ranges = self.held.keys().copied().collect();
        self.drop_uncached(uncached);
        self.is_stored = is_stored;
        ranges
    }

    /// Drops the uncached answers from memory. Returns their ranges.
    fn drop_uncached(&mut self, mut uncached: UncachedOf<'_>) -> Vec<ByteRange> {
        let dropped = self
            .held
            .extract_if(.., |_, held| held.state == HeldState::Uncached);
        let ranges: Vec<_> = dropped.map(|(range, _)| range).collect();
        ranges.iter().for_each(|range| uncached.remove(*range));
        ranges
    }

    /// Records whether the cache has all of it, when it is opened.
    pub(crate) fn set_stored(&mut self, is_stored: bool) {
        self.is_stored = is_stored;
    }

    /// Returns whether the cache has all of it, or `None` while some of it is being stored.
    pub(crate) fn outcome_of_stores(&self) -> Option<bool> {
        let mut held = self.held.values();
        let is_storing = held.any(|held| held.state != HeldState::Uncached);
        (!is_storing).then_some(self.is_stored)
    }

    /// Returns the answers in memory that overlap a range, in order of their start.
    pub(super) fn held_in(&self, range: ByteRange) -> Vec<Arc<Verified>> {
        // no request is longer than this
        let first = range.start.saturating_sub(PIECE_MAX_BYTES);
        let [first, last] = [first, range.end].map(|at| ByteRange::at(at, 0));
        let held = self.held.range(first..last).map(|(_, held)| &held.verified);
        held.filter(|verified| !verified.range.intersection(&range).is_empty())
            .cloned()
            .collect()
    }
}

/// The answers of all contents that the cache has no room for, the oldest first. They stay in
/// memory for the readers that want them soon. The oldest are dropped first.
#[derive(Debug)]
pub(crate) struct UncachedAnswers {
    by_number: BTreeMap<u64, (ContentKey, ByteRange)>,
    numbers: BTreeMap<(ContentKey, ByteRange), u64>,
    bytes: u64,
    limit_bytes: u64,
    next_number: u64,
}

/// The uncached answers of one content.
pub(crate) struct UncachedOf<'a> {
    content: ContentKey,
    all: &'a mut UncachedAnswers,
}

impl UncachedOf<'_> {
    fn insert(&mut self, range: ByteRange) {
        let place = (self.content, range);
        if self.all.numbers.contains_key(&place) {
            return;
        }
        let number = self.all.next_number;
        self.all.next_number += 1;
        self.all.numbers.insert(place, number);
        self.all.by_number.insert(number, place);
        self.all.bytes += range.len();
    }

    pub(crate) fn remove(&mut self, range: ByteRange) {
        if let Some(number) = self.all.numbers.remove(&(self.content, range)) {
            self.all.by_number.remove(&number);
            self.all.bytes -= range.len();
        }
    }
}

impl UncachedAnswers {
    /// Creates an empty list with the limit for [`UncachedAnswers::over_limit`].
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            by_number: BTreeMap::new(),
            numbers: BTreeMap::new(),
            bytes: 0,
            limit_bytes,
            next_number: 0,
        }
    }

    /// Returns the uncached answers of one content, for a change.
    pub(crate) fn of(&mut self, content: &ContentKey) -> UncachedOf<'_> {
        UncachedOf {
            content: *content,
            all: self,
        }
    }

    /// Returns the oldest answer while the answers exceed the limit.
    pub(crate) fn over_limit(&self) -> Option<(ContentKey, ByteRange)> {
        let oldest = self.by_number.values().next();
        oldest.copied().filter(|_| self.bytes > self.limit_bytes)
    }

    /// Forgets the answers of a closed content.
    pub(crate) fn forget(&mut self, content: &ContentKey) {
        let [first, last] = [0, u64::MAX].map(|at| (*content, ByteRange::at(at, 0)));
        let places = self.numbers.range(first..=last);
        let ranges: Vec<_> = places.map(|((_, range), _)| *range).collect();
        for range in ranges {
            self.of(content).remove(range);
        }
    }

    /// Returns the limit in bytes.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
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

    fn content() -> ContentKey {
        ContentKey::new(ContentHash::new([1; 32]), 1 << 20)
    }

    fn nothing(limit_bytes: u64) -> (PresentBytes, UncachedAnswers) {
        let presence = PresentBytes::new(content().size_bytes, ExtentSet::new());
        (presence, UncachedAnswers::new(limit_bytes))
    }

    fn hold(presence: &mut PresentBytes, uncached: &mut UncachedAnswers, start: u64, length: u64) {
        presence.hold(verified(start, length), uncached.of(&content()));
    }

    #[test]
    fn bytes_being_stored_can_be_read_and_are_then_dropped() {
        let (mut presence, mut uncached) = nothing(0);
        hold(&mut presence, &mut uncached, 4096, 4096);
        assert_eq!(presence.outcome_of_stores(), None);
        assert_eq!(presence.held_in(ByteRange::at(5000, 10)).len(), 1);
        assert!(presence.held_in(ByteRange::at(0, 4096)).is_empty());
        assert!(presence.held_in(ByteRange::at(8192, 4096)).is_empty());
        presence.stored(ByteRange::at(4096, 4096), false, uncached.of(&content()));
        assert!(presence.held_in(ByteRange::at(4096, 4096)).is_empty());
        assert_eq!(presence.outcome_of_stores(), Some(false));
    }

    #[test]
    fn bytes_refused_by_the_cache_are_bounded_and_the_oldest_are_dropped_first() {
        let (mut presence, mut uncached) = nothing(10_000);
        let mut gone = Vec::new();
        for i in 0..4u64 {
            hold(&mut presence, &mut uncached, i * 4096, 4096);
            let range = ByteRange::at(i * 4096, 4096);
            let action = presence.not_stored(range, uncached.of(&content()));
            assert_eq!(action, UncachedAction::Held);
            while let Some((of, oldest)) = uncached.over_limit() {
                presence.release(oldest, uncached.of(&of));
                gone.push(oldest);
            }
            assert!(uncached.bytes() <= 10_000);
        }
        let ranges = [0, 1, 2, 3].map(|i| ByteRange::at(i * 4096, 4096));
        assert_eq!(gone, ranges[..2]);
        assert_eq!(presence.held_in(ByteRange::new(0, 16384)).len(), 2);
        let missing = presence.begin_fill(ExtentSet::new(), uncached.of(&content()));
        assert_eq!(missing, ranges[2..]);
        assert_eq!(uncached.bytes(), 0);
        assert!(presence.held.is_empty() && uncached.by_number.is_empty());
        assert!(uncached.numbers.is_empty());
    }

    #[test]
    fn a_closed_content_leaves_no_uncached_bytes() {
        let (mut presence, mut uncached) = nothing(10_000);
        hold(&mut presence, &mut uncached, 0, 4096);
        let range = ByteRange::at(0, 4096);
        let action = presence.not_stored(range, uncached.of(&content()));
        assert_eq!((action, uncached.bytes()), (UncachedAction::Held, 4096));
        uncached.forget(&content());
        assert_eq!(uncached.bytes(), 0);
    }

    #[test]
    fn bytes_requested_twice_are_held_until_both_are_stored() {
        let (mut presence, mut uncached) = nothing(0);
        for length in [4096, 16_384] {
            hold(&mut presence, &mut uncached, 0, length);
        }
        presence.stored(ByteRange::at(0, 4096), true, uncached.of(&content()));
        assert_eq!(presence.outcome_of_stores(), None);
        let all = ByteRange::at(0, 16_384);
        assert_eq!(presence.held_in(all).len(), 1);
        presence.stored(all, false, uncached.of(&content()));
        assert_eq!(presence.outcome_of_stores(), Some(true));
    }

    #[test]
    fn a_long_answer_is_found_behind_later_short_ones() {
        let (mut presence, mut uncached) = nothing(0);
        hold(&mut presence, &mut uncached, 0, PIECE_MAX_BYTES);
        hold(&mut presence, &mut uncached, 128 << 10, 4096);
        let page = ByteRange::new(PIECE_MAX_BYTES - 4096, PIECE_MAX_BYTES);
        assert_eq!(presence.held_in(page).len(), 1);
    }

    #[test]
    fn answers_are_sorted_by_offset() {
        let (mut presence, mut uncached) = nothing(0);
        for start in [8192, 0, 4096] {
            hold(&mut presence, &mut uncached, start, 4096);
        }
        let found = presence.held_in(ByteRange::new(100, 9000));
        let starts: Vec<_> = found.iter().map(|v| v.range.start).collect();
        assert_eq!(starts, [0, 4096, 8192]);
    }
}
