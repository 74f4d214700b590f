//! The pages of an open file: which of them are present, and what is not written to the outboard
//! and the map yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::flush::{FlushBatch, MapState};
use super::map::{LoadedMap, SPARE_RECORDS};
use super::pages::{Counts, PageMap, bytes_of, chunks_of, masks, pages_around};
use super::summary::FileSummary;
use p2pfs_types::digest::HashPair;
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};

/// Hash pairs by their offset in the outboard.
pub(super) type Pairs = BTreeMap<u64, [u8; 64]>;

/// State of the pages. The three page maps are disjoint.
#[derive(Default)]
pub(super) struct PageState {
    /// Pages that are written and verified.
    pub(super) present: PageMap,
    /// Pages on disk that must be verified before use, because they are from another boot or
    /// another program may have changed them.
    pub(super) doubt: PageMap,
    /// Absent pages that may take disk space: they failed verification, or their write failed.
    pub(super) stale: PageMap,
    /// Hash pairs to be written with the next map.
    pub(super) pending: Pairs,
    /// Hash pairs that are being written.
    pub(super) flushing: Arc<Pairs>,
    /// Changed blocks of the map.
    pub(super) dirty: BTreeSet<u64>,
    pub(super) unflushed_bytes: u64,
    /// Whether bytes were stored since the last sync.
    pub(super) unsynced: bool,
}

impl PageState {
    /// Takes the pages of a map that was read from disk.
    fn of(loaded: LoadedMap) -> Self {
        Self {
            present: loaded.present,
            doubt: loaded.doubt,
            // Small files are never synced.
            unsynced: loaded.unsynced && !loaded.in_attribute,
            ..Self::default()
        }
    }

    /// Counts all pages that take disk space.
    pub(super) fn counts(&self) -> Counts {
        self.present.counts() + self.doubt.counts() + self.stale.counts()
    }

    /// Marks written pages as present.
    pub(super) fn mark_present(&mut self, pages: &Range<u64>, pairs: &[HashPair]) {
        self.present.insert(pages.clone());
        self.doubt.remove(pages.clone());
        self.stale.remove(pages.clone());
        self.pending
            .extend(pairs.iter().map(|pair| (pair.offset, pair.bytes)));
        self.dirty
            .extend(masks(pages.clone()).map(|(block, _)| block));
        self.unflushed_bytes += (pages.end - pages.start) * PAGE_BYTES;
        self.unsynced = true;
    }

    /// Marks pages as stale after a write that may have been partial. Absent pages then have
    /// unknown content and still take room. Present and doubtful pages are unaffected, because the
    /// same correct bytes were written.
    pub(super) fn mark_stale(&mut self, pages: &Range<u64>) {
        self.stale.insert(pages.clone());
        let kept: Vec<_> = self.present.runs(pages.clone()).collect();
        let doubtful: Vec<_> = self.doubt.runs(pages.clone()).collect();
        kept.into_iter()
            .chain(doubtful)
            .for_each(|run| self.stale.remove(run));
    }

    /// Makes present and doubtful pages stale. Returns how many bytes of a file of this size were
    /// present, or `None` if the pages are stale or absent already.
    pub(super) fn withdraw(&mut self, pages: Range<u64>, size_bytes: u64) -> Option<u64> {
        let lost: Vec<_> = self.present.runs(pages.clone()).collect();
        if lost.is_empty() && !self.doubt.touches(pages.clone()) {
            return None;
        }
        let lost_bytes = lost.iter().map(|run| bytes_of(run, size_bytes).len());
        let lost_bytes = lost_bytes.sum();
        let doubtful: Vec<_> = self.doubt.runs(pages.clone()).collect();
        for run in lost.iter().chain(&doubtful).cloned() {
            self.stale.insert(run);
        }
        self.present.remove(pages.clone());
        self.doubt.remove(pages);
        Some(lost_bytes)
    }

    /// Ends the doubt about pages: they become present if they are proven, or stale. Returns how
    /// many bytes of a file of this size became stale.
    pub(super) fn end_doubt(&mut self, pages: Range<u64>, proven: bool, size_bytes: u64) -> u64 {
        let mut lost_bytes = 0;
        let doubtful: Vec<_> = self.doubt.runs(pages.clone()).collect();
        for run in doubtful {
            if proven {
                self.present.insert(run);
            } else {
                lost_bytes += bytes_of(&run, size_bytes).len();
                self.stale.insert(run);
            }
        }
        self.doubt.remove(pages.clone());
        self.dirty.extend(masks(pages).map(|(block, _)| block));
        self.unsynced = true;
        lost_bytes
    }

    /// Takes the pending changes. Pages and their pairs are taken together, so that no page is
    /// claimed before its pairs are written.
    pub(super) fn take_batch(&mut self, map: &MapState, durable: bool) -> Option<FlushBatch> {
        let nothing = self.dirty.is_empty() && self.pending.is_empty();
        if nothing && !map.must_rewrite && !durable {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let blocks: Vec<_> = dirty
            .into_iter()
            .map(|block| (block, self.present.block(block)))
            .collect();
        let records = map.records + blocks.len() as u64;
        let longest = 2 * (self.present.counts() + self.doubt.counts()).blocks + SPARE_RECORDS;
        let anew = durable || map.must_rewrite || map.in_attribute || records > longest;
        let whole = anew.then(|| (self.present.clone(), self.doubt.clone()));
        self.flushing = Arc::new(std::mem::take(&mut self.pending));
        if durable {
            self.unsynced = false;
        }
        let unflushed_bytes = std::mem::take(&mut self.unflushed_bytes);
        Some(FlushBatch {
            pairs: self.flushing.clone(),
            blocks,
            unflushed_bytes,
            whole,
        })
    }

    /// Makes the content of a failed batch pending again.
    pub(super) fn restore(&mut self, batch: &FlushBatch) {
        let flushing = std::mem::take(&mut self.flushing);
        for (offset, bytes) in flushing.iter() {
            self.pending.entry(*offset).or_insert(*bytes);
        }
        self.dirty
            .extend(batch.blocks.iter().map(|(block, _)| *block));
        self.unflushed_bytes += batch.unflushed_bytes;
        self.unsynced = true;
    }
}

/// The pages of an open file, and the figures about them that readers get without a lock.
pub(super) struct FilePages {
    size_bytes: u64,
    state: Mutex<PageState>,
    complete: AtomicBool,
    cached_bytes: AtomicU64,
}

impl FilePages {
    /// Takes the pages of a map that was read from disk.
    pub(super) fn of(loaded: LoadedMap) -> Self {
        let pages = Self {
            size_bytes: loaded.size_bytes,
            state: Mutex::new(PageState::of(loaded)),
            complete: AtomicBool::new(false),
            cached_bytes: AtomicU64::new(0),
        };
        pages.publish(&pages.state.lock());
        pages
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PageState> {
        self.state.lock()
    }

    /// Publishes the state to readers that take no lock. Returns whether the file became complete.
    pub(super) fn publish(&self, state: &PageState) -> bool {
        let bytes = state.present.byte_count(self.size_bytes);
        self.cached_bytes.store(bytes, Ordering::Relaxed);
        let complete = bytes == self.size_bytes;
        !self.complete.swap(complete, Ordering::AcqRel) && complete
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(super) fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn summary(&self) -> FileSummary {
        let state = self.state.lock();
        FileSummary {
            size_bytes: self.size_bytes,
            cached_bytes: self.cached_bytes(),
            counts: state.counts(),
            in_doubt: !state.doubt.is_empty(),
        }
    }

    /// Returns how many bytes of a range of chunks are on disk, including doubtful ones, and how
    /// many of them can be checked.
    pub(super) fn bytes_to_check(&self, range: ByteRange) -> (u64, u64) {
        let state = self.state.lock();
        let (mut bytes, mut checkable_bytes) = (0, 0);
        for chunk in chunks_of(range, self.size_bytes) {
            let pages = pages_around(chunk, self.size_bytes);
            let doubtful = state.doubt.runs(pages.clone());
            let runs = state.present.runs(pages.clone()).chain(doubtful);
            let of_chunk: u64 = runs.map(|run| bytes_of(&run, self.size_bytes).len()).sum();
            bytes += of_chunk;
            if state.present.contains(pages.clone()) || state.doubt.touches(pages) {
                checkable_bytes += of_chunk;
            }
        }
        (bytes, checkable_bytes)
    }

    /// Returns a hash pair that is not in the outboard yet.
    pub(super) fn unwritten_pair(&self, offset: u64) -> Option<[u8; 64]> {
        let state = self.state.lock();
        let pending = state.pending.get(&offset);
        pending.or_else(|| state.flushing.get(&offset)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::empty_map;

    /// Three chunks; the last page is short.
    const SIZE: u64 = 2 * 65_536 + 5_000;

    fn pairs(offsets: &[u64]) -> Vec<HashPair> {
        let pair = |offset: &u64| HashPair {
            offset: *offset,
            bytes: [7; 64],
        };
        offsets.iter().map(pair).collect()
    }

    #[test]
    fn a_batch_that_was_not_written_is_pending_again() {
        let (mut state, map) = (PageState::default(), MapState::of(&empty_map(SIZE)));
        state.mark_present(&(0..16), &pairs(&[0]));
        let batch = state.take_batch(&map, false).unwrap();
        assert!(state.take_batch(&map, false).is_none(), "nothing is left");
        state.mark_present(&(16..20), &pairs(&[64]));
        state.restore(&batch);
        assert_eq!(state.pending.keys().copied().collect::<Vec<_>>(), [0, 64]);
        assert_eq!(state.unflushed_bytes, 20 * PAGE_BYTES);
        let again = state.take_batch(&map, false).unwrap();
        assert_eq!((again.pairs.len(), again.blocks.len()), (2, 1));
    }

    #[test]
    fn a_batch_is_of_the_pages_at_its_time_with_all_their_pairs() {
        let (mut state, map) = (PageState::default(), MapState::of(&empty_map(SIZE)));
        state.mark_present(&(0..16), &pairs(&[0]));
        let batch = state.take_batch(&map, true).unwrap();
        state.mark_present(&(16..32), &pairs(&[64]));
        let (present, _) = batch.whole.unwrap();
        assert!(present.contains(0..16) && !present.touches(16..32));
        assert_eq!(batch.pairs.keys().copied().collect::<Vec<_>>(), [0]);
        assert!(state.unsynced, "the later pages are not in the batch");
    }

    #[test]
    fn withdrawn_pages_take_room_and_are_counted_once() {
        let mut state = PageState::default();
        state.mark_present(&(32..34), &[]);
        let before = state.counts();
        assert_eq!(state.withdraw(32..34, SIZE), Some(5_000));
        assert_eq!(state.withdraw(32..34, SIZE), None);
        assert_eq!(state.counts(), before);
        assert!(!state.present.touches(0..34));
    }

    #[test]
    fn doubt_ends_with_pages_that_are_present_or_stale() {
        for proven in [true, false] {
            let mut state = PageState::default();
            state.doubt.insert(0..34);
            let lost_bytes = state.end_doubt(32..34, proven, SIZE);
            assert_eq!(lost_bytes, if proven { 0 } else { 5_000 });
            assert_eq!(state.present.contains(32..34), proven);
            assert_eq!(state.stale.contains(32..34), !proven);
            assert!(state.doubt.contains(0..32) && !state.doubt.touches(32..34));
        }
    }

    #[test]
    fn a_file_becomes_complete_once() {
        let pages = FilePages::of(empty_map(SIZE));
        assert!(!pages.is_complete());
        let mut state = pages.lock();
        state.mark_present(&(0..34), &[]);
        assert!(pages.publish(&state) && !pages.publish(&state));
        drop(state);
        assert!(pages.is_complete());
        assert_eq!(pages.cached_bytes(), SIZE);
    }
}
