//! Disk space allocated ahead of a stream (fallocate(2)). The file system then searches for space
//! once for many writes, and several threads can write into it at the same time. Into a hole it
//! lets only one thread write at a time (`ext4_dio_write_checks`, fs/ext4/file.c).
//!
//! Preallocated pages count against the budget like all pages on disk. Their number never exceeds
//! the number of present pages directly before them, so a file that is read at random takes at most
//! twice its cached bytes. In total they take at most a fixed part of the budget, which concurrent
//! requests can exceed slightly. Closing a file frees its unused preallocated pages.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::direct::DIRECT_FILE_MIN_BYTES;
use super::pages::{PageMap, page_count};
use p2pfs_types::extent::PAGE_BYTES;

/// Maximum allocation at a time.
const STEP_MAX_PAGES: u64 = (64 << 20) / PAGE_BYTES;
/// Minimum allocation. A smaller one is not worth a system call that waits for all writes in
/// flight.
const STEP_MIN_PAGES: u64 = (4 << 20) / PAGE_BYTES;
/// Divisor of the budget: all files together may preallocate this part of it.
const PART_OF_BUDGET: u64 = 16;

/// Preallocated bytes of all open files.
#[derive(Default)]
pub(super) struct Preallocated {
    bytes: AtomicU64,
    /// Whether the file system does not support preallocation.
    is_refused: AtomicBool,
}

impl Preallocated {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns whether `more_bytes` more bytes may be allocated.
    pub(crate) fn allows(&self, more_bytes: u64, budget_bytes: u64) -> bool {
        let is_refused = self.is_refused.load(Ordering::Relaxed);
        !is_refused && self.bytes() + more_bytes <= budget_bytes / PART_OF_BUDGET
    }

    /// Evaluates the result of an allocation. Returns whether the file system may have allocated
    /// space: a full file system allocates what it has before it fails.
    pub(crate) fn may_be_given(&self, answer: &io::Result<()>) -> bool {
        let error = answer.as_ref().err().and_then(io::Error::raw_os_error);
        let is_refused = error == Some(libc::EOPNOTSUPP);
        if is_refused {
            self.is_refused.store(true, Ordering::Relaxed);
        }
        !is_refused
    }

    /// Updates the total after the preallocated pages of a file changed from `before_pages` to
    /// `left`.
    pub(crate) fn changed(&self, before_pages: u64, left: &PageMap) {
        let (before, now) = (before_pages, left.counts().pages);
        let more_bytes = now.saturating_sub(before) * PAGE_BYTES;
        let fewer_bytes = before.saturating_sub(now) * PAGE_BYTES;
        self.bytes.fetch_add(more_bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(fewer_bytes, Ordering::Relaxed);
    }
}

/// Returns the range to allocate together with `pages`: as many pages as are present among the
/// [`STEP_MAX_PAGES`] before them. Returns `None` if that is too little.
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

    /// In pages; the tests count in MiB.
    const MIB: u64 = (1 << 20) / PAGE_BYTES;
    const SIZE_MIB: u64 = 1024;

    fn map(runs: &[(u64, u64)]) -> PageMap {
        let mut map = PageMap::default();
        for (start, end) in runs {
            map.insert(start * MIB..end * MIB);
        }
        map
    }

    /// Returns the range allocated with the MiB at `start`.
    fn step_at(start: u64, present: &[(u64, u64)], ahead: &[(u64, u64)]) -> Option<(u64, u64)> {
        let pages = start * MIB..(start + 1) * MIB;
        let step = next_step(&map(present), &map(ahead), &pages, SIZE_MIB << 20)?;
        Some((step.start / MIB, step.end / MIB))
    }

    #[test]
    fn a_stream_preallocates_as_much_as_it_has_written_up_to_64_mib() {
        assert_eq!(step_at(0, &[], &[]), None);
        assert_eq!(step_at(3, &[(0, 3)], &[]), None);
        for (at, length) in [(4, 4), (9, 9), (64, 64), (200, 64)] {
            assert_eq!(step_at(at, &[(0, at)], &[]), Some((at, at + length)));
        }
        // Some pieces are late.
        assert_eq!(step_at(8, &[(0, 3), (4, 8)], &[]), Some((8, 15)));
    }

    #[test]
    fn preallocation_ends_at_space_that_is_present_or_already_reserved() {
        assert_eq!(step_at(20, &[(0, 20), (30, 31)], &[]), Some((20, 30)));
        assert_eq!(step_at(20, &[(0, 20)], &[(30, 31)]), Some((20, 30)));
        assert_eq!(step_at(20, &[(0, 20), (23, 24)], &[]), None);
    }

    #[test]
    fn nothing_is_preallocated_beyond_the_file_or_for_page_cache_writes() {
        let start = SIZE_MIB - 10;
        assert_eq!(step_at(start, &[(0, start)], &[]), Some((start, SIZE_MIB)));
        let small_bytes = DIRECT_FILE_MIN_BYTES - 1;
        let step = next_step(&map(&[(0, 8)]), &map(&[]), &(8 * MIB..9 * MIB), small_bytes);
        assert_eq!(step, None);
    }
}
