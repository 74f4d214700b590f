//! Pages behind a reader in order, which the kernel drops while the file is still being read.
//!
//! The pages of the mounted inode serve its present readers only, and the data file of the cache
//! keeps the bytes (`docs/warm-reads.md`). If all of them were dropped at the last close, the next
//! open would wait for it: the kernel drops the pages of an inode before it opens a backing file,
//! and takes 0.1 s to 0.3 s a GiB.

use p2pfs_types::extent::ByteRange;

/// Read-ahead that a mount requests from the kernel.
pub const READ_AHEAD_BYTES: u64 = 4 << 20;
/// Bytes that a run of reads keeps before its end. The program is up to two windows of the kernel's
/// read-ahead behind it, and still needs these pages.
pub(crate) const KEPT_BYTES: u64 = 2 * READ_AHEAD_BYTES;
/// Smallest number of bytes that is dropped at once. A notification costs a few microseconds.
pub(crate) const STEP_BYTES: u64 = 2 << 20;

/// A run of reads in order through one handle.
#[derive(Debug, Default)]
pub(crate) struct ReadRun {
    /// First byte of the run whose pages were not dropped.
    kept_from: u64,
    /// Highest offset that was read.
    end: u64,
}

impl ReadRun {
    /// Records a read. Returns a range whose pages the reader no longer needs, once that range has
    /// at least [`STEP_BYTES`]. A read elsewhere begins a new run, so the pages of reads at random
    /// stay.
    pub(crate) fn record(&mut self, read: ByteRange) -> Option<ByteRange> {
        if read.start < self.kept_from || read.start > self.end + KEPT_BYTES {
            (self.kept_from, self.end) = (read.start, read.end);
            return None;
        }
        self.end = self.end.max(read.end);
        let until = self.end.saturating_sub(KEPT_BYTES) / STEP_BYTES * STEP_BYTES;
        if until < self.kept_from + STEP_BYTES {
            return None;
        }
        let unneeded = ByteRange::new(self.kept_from, until);
        self.kept_from = until;
        Some(unneeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ_BYTES: u64 = 1 << 20;

    fn read(run: &mut ReadRun, offset: u64) -> Option<ByteRange> {
        run.record(ByteRange::at(offset, READ_BYTES))
    }

    #[test]
    fn a_run_drops_each_byte_once_and_keeps_its_last_bytes() {
        let mut run = ReadRun::default();
        let mut dropped_to = 0;
        for offset in (0..64 * READ_BYTES).step_by(READ_BYTES as usize) {
            if let Some(range) = read(&mut run, offset) {
                assert_eq!(range.start, dropped_to);
                assert!(range.len() >= STEP_BYTES);
                assert!(range.end + KEPT_BYTES <= offset + READ_BYTES);
                dropped_to = range.end;
            }
        }
        assert_eq!(dropped_to, 64 * READ_BYTES - KEPT_BYTES);
    }

    #[test]
    fn reads_in_another_order_within_the_kept_bytes_are_one_run() {
        let mut run = ReadRun::default();
        let ranges = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8].map(|at| read(&mut run, at * READ_BYTES));
        let dropped: u64 = ranges.iter().flatten().map(ByteRange::len).sum();
        assert_eq!(dropped, 2 * READ_BYTES);
    }

    #[test]
    fn reads_at_random_drop_no_pages() {
        let mut run = ReadRun::default();
        for at in 0..1_000 {
            assert_eq!(read(&mut run, at * 37 % 1_000 * 16 * READ_BYTES), None);
        }
    }

    #[test]
    fn a_run_that_begins_later_drops_only_its_own_bytes() {
        let mut run = ReadRun::default();
        assert_eq!(read(&mut run, 100 * READ_BYTES), None);
        let first = (101..130).find_map(|at| read(&mut run, at * READ_BYTES));
        assert_eq!(first.map(|range| range.start), Some(100 * READ_BYTES));
        assert_eq!(read(&mut run, 0), None, "the reader went back");
    }
}
