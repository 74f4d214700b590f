//! Disk space for what a stream brings next, taken before it comes (fallocate(2)): the file system
//! finds it once for many writes, and lets several threads write into it at a time, where for each
//! piece of a hole it lets in one alone (`ext4_dio_write_checks`, fs/ext4/file.c).
//!
//! Such pages count like all that takes disk space. Never more of them than lie right before, so a
//! file that is read here and there takes at most twice what is cached of it, and no more in all
//! than a part of the budget, but for files that ask at the same moment. Whoever closes the file
//! gives back those that nothing came for.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::direct::DIRECT_FILE_MIN_BYTES;
use super::pages::{PageMap, page_count};
use p2pfs_types::extent::PAGE_BYTES;

/// The most that is taken at a time.
const STEP_MAX_PAGES: u64 = (64 << 20) / PAGE_BYTES;
/// The least: for less it is not worth a system call that waits for all writes under way.
const STEP_MIN_PAGES: u64 = (4 << 20) / PAGE_BYTES;
/// The part of the budget that all files together may have so.
const PART_OF_BUDGET: u64 = 16;

/// What all open files have.
#[derive(Default)]
pub(super) struct Preallocated {
    bytes: AtomicU64,
    /// Whether the file system gives no space before it is written to.
    is_refused: AtomicBool,
}

impl Preallocated {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether so many bytes more may be taken.
    pub(crate) fn allows(&self, more_bytes: u64, budget_bytes: u64) -> bool {
        let is_refused = self.is_refused.load(Ordering::Relaxed);
        !is_refused && self.bytes() + more_bytes <= budget_bytes / PART_OF_BUDGET
    }

    /// What the file system said that was asked for some; whether it may have given any. One that
    /// is full gives what it has before it fails.
    pub(crate) fn may_be_given(&self, answer: &io::Result<()>) -> bool {
        let error = answer.as_ref().err().and_then(io::Error::raw_os_error);
        let is_refused = error == Some(libc::EOPNOTSUPP);
        if is_refused {
            self.is_refused.store(true, Ordering::Relaxed);
        }
        !is_refused
    }

    /// A file had so many pages, and has as many as are left now.
    pub(crate) fn changed(&self, before_pages: u64, left: &PageMap) {
        let (before, now) = (before_pages, left.counts().pages);
        let more_bytes = now.saturating_sub(before) * PAGE_BYTES;
        let fewer_bytes = before.saturating_sub(now) * PAGE_BYTES;
        self.bytes.fetch_add(more_bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(fewer_bytes, Ordering::Relaxed);
    }
}

/// The space to take with these pages: as much as is present right before them. None where that is
/// too little.
pub(super) fn next_step(
    present: &PageMap,
    preallocated: &PageMap,
    pages: &Range<u64>,
    size_bytes: u64,
) -> Option<Range<u64>> {
    if size_bytes < DIRECT_FILE_MIN_BYTES {
        return None;
    }
    let before = pages.start.saturating_sub(STEP_MAX_PAGES)..pages.start;
    let lying_before: u64 = present.runs(before).map(|run| run.end - run.start).sum();
    let end = (pages.start + lying_before).min(page_count(size_bytes));
    let next = [present, preallocated].map(|map| map.runs(pages.end..end).next());
    let end = (next.into_iter().flatten().map(|run| run.start).min()).unwrap_or(end);
    let is_enough = end >= pages.end && end - pages.start >= STEP_MIN_PAGES;
    is_enough.then_some(pages.start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pages; what the tests speak of are MiB.
    const MIB: u64 = (1 << 20) / PAGE_BYTES;
    const SIZE_MIB: u64 = 1024;

    fn map(runs: &[(u64, u64)]) -> PageMap {
        let mut map = PageMap::default();
        for (start, end) in runs {
            map.insert(start * MIB..end * MIB);
        }
        map
    }

    /// What is taken with the MiB at `start`.
    fn step_at(start: u64, present: &[(u64, u64)], ahead: &[(u64, u64)]) -> Option<(u64, u64)> {
        let pages = start * MIB..(start + 1) * MIB;
        let step = next_step(&map(present), &map(ahead), &pages, SIZE_MIB << 20)?;
        Some((step.start / MIB, step.end / MIB))
    }

    #[test]
    fn a_stream_gets_ahead_what_it_has_behind_up_to_64_mib() {
        assert_eq!(step_at(0, &[], &[]), None);
        assert_eq!(step_at(3, &[(0, 3)], &[]), None);
        for (at, length) in [(4, 4), (9, 9), (64, 64), (200, 64)] {
            assert_eq!(step_at(at, &[(0, at)], &[]), Some((at, at + length)));
        }
        // some pieces are late
        assert_eq!(step_at(8, &[(0, 3), (4, 8)], &[]), Some((8, 15)));
    }

    #[test]
    fn no_more_is_taken_than_up_to_what_is_there_or_taken_already() {
        assert_eq!(step_at(20, &[(0, 20), (30, 31)], &[]), Some((20, 30)));
        assert_eq!(step_at(20, &[(0, 20)], &[(30, 31)]), Some((20, 30)));
        assert_eq!(step_at(20, &[(0, 20), (23, 24)], &[]), None);
    }

    #[test]
    fn nothing_is_taken_beyond_the_file_or_for_one_that_goes_by_pages() {
        let start = SIZE_MIB - 10;
        assert_eq!(step_at(start, &[(0, start)], &[]), Some((start, SIZE_MIB)));
        let small_bytes = DIRECT_FILE_MIN_BYTES - 1;
        let step = next_step(&map(&[(0, 8)]), &map(&[]), &(8 * MIB..9 * MIB), small_bytes);
        assert_eq!(step, None);
    }
}
