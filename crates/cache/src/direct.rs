//! Large writes that bypass the page cache on a fast disk (`O_DIRECT` of open(2)).
//!
//! Recently fetched bytes reach their readers from the response that delivered them, or shortly
//! later from `super::recent`. Readers of a mount have them in the page cache of the mount. A
//! second copy in the pages of the data file would rarely be read soon. It costs a copy and a
//! touched page for every 4 KiB. That is more than the rest of a read if a hypervisor has reclaimed
//! the free memory of the guest. The copy also evicts pages that others use. On a disk slower than
//! the incoming bytes, writes go through the kernel, which writes behind.
//!
//! This module decides when a write is direct, and owns the descriptor for it. It never writes.
//! Reads are unaffected: the kernel keeps the page cache of the file and the disk coherent
//! (open(2), NOTES), as long as only one thread at a time writes to the file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pfs_types::extent::PAGE_BYTES;
use p2pfs_types::files::{is_full, leave_descriptors, path_of};

/// Minimum size of a file with direct writes. A smaller file is usually read again before its pages
/// are evicted, and then the kernel serves it from the pages that the write left.
pub(super) const DIRECT_FILE_MIN_BYTES: u64 = 16 << 20;
/// Minimum size of a direct write. Below it, the latency of the disk dominates.
const DIRECT_MIN_BYTES: usize = 128 << 10;
/// Required alignment of the memory from which a disk reads: a logical block, which is 512 bytes,
/// or a page on some disks (open(2), NOTES). Responses are aligned to pages.
const ALIGNED_TO_BYTES: usize = PAGE_BYTES as usize;
/// Minimum write rate of a disk for direct writes: more than a link of 2.5 Gbit/s delivers. A
/// slower disk would delay readers of a fast link, whose data could otherwise be buffered in memory
/// at the rate of the link.
const SLOWEST_BYTES_PER_S: u64 = 300 << 20;
/// Number of buffered writes after which a disk classified as slow is tried again.
const TRIED_AGAIN_AFTER: u64 = 64;
/// Divisor of the difference by which a slower write raises the average.
const RISES_BY: u64 = 16;
/// Upper bound of one latency sample, as a multiple of the slowest acceptable write, so that a
/// single stall does not classify the disk as slow.
const STALL_MAX: u64 = 8;

/// Speed of direct writes when the processors are idle: that of the quickest recent writes. Slower
/// writes waited for a processor or for writes of other files.
#[derive(Default)]
pub(super) struct DiskPace {
    /// Nanoseconds per MiB. An update by a concurrent write may be lost.
    quick_ns: AtomicU64,
    /// Number of buffered writes since the disk was classified as slow.
    left_to_kernel: AtomicU64,
}

impl DiskPace {
    const SLOWEST_NS: u64 = (1_000_000_000 << 20) / SLOWEST_BYTES_PER_S;

    /// Returns whether the next write may be direct.
    fn allows(&self) -> bool {
        if self.quick_ns.load(Ordering::Relaxed) <= Self::SLOWEST_NS {
            return true;
        }
        let left = self.left_to_kernel.fetch_add(1, Ordering::Relaxed) + 1;
        left.is_multiple_of(TRIED_AGAIN_AFTER)
    }

    /// Records the duration of a write of `bytes` bytes.
    pub(crate) fn record(&self, bytes: usize, took: Duration) {
        let mib = bytes as f64 / f64::from(1 << 20);
        let last_ns = (took.as_nanos() as f64 / mib) as u64;
        let last_ns = last_ns.min(Self::SLOWEST_NS * STALL_MAX);
        let quick_ns = self.quick_ns.load(Ordering::Relaxed);
        let rise_ns = last_ns.saturating_sub(quick_ns) / RISES_BY;
        let quick_ns = last_ns.min(quick_ns + rise_ns);
        self.quick_ns.store(quick_ns, Ordering::Relaxed);
    }
}

/// Descriptor for direct writes to one file.
#[derive(Default)]
pub(super) enum DirectWriter {
    #[default]
    Closed,
    Open(Arc<File>),
    /// The file system does not support direct writes, or not with this alignment.
    Refused,
}

impl DirectWriter {
    /// Returns the descriptor for a direct write of these bytes to a file that is open as `data`.
    /// Returns `None` if the write should go through the page cache.
    pub(crate) fn for_write(
        &mut self,
        data: &File,
        file_bytes: u64,
        (bytes, offset): (&[u8], u64),
        pace: &DiskPace,
    ) -> Option<Arc<File>> {
        if file_bytes < DIRECT_FILE_MIN_BYTES || !is_aligned(bytes, offset) || !pace.allows() {
            return None;
        }
        if matches!(self, Self::Closed) {
            match open_again(data) {
                Ok(file) => *self = Self::Open(Arc::new(file)),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => *self = Self::Refused,
                // For example, no free descriptors: retry later.
                Err(_) => return None,
            }
        }
        match self {
            Self::Open(file) => Some(file.clone()),
            Self::Closed | Self::Refused => None,
        }
    }

    /// Handles a failed direct write. Returns whether to write through the page cache, as for all
    /// further writes of the file. Some file systems accept the descriptor but refuse such a write.
    pub(crate) fn disables_direct(&mut self, error: &io::Error) -> bool {
        let may_help = !is_full(error);
        if may_help {
            *self = Self::Refused;
        }
        may_help
    }

    /// Closes the descriptor when no further write is expected soon.
    pub(crate) fn close(&mut self) {
        if matches!(self, Self::Open(_)) {
            *self = Self::Closed;
        }
    }
}

fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    let in_memory = bytes.as_ptr().addr().is_multiple_of(ALIGNED_TO_BYTES);
    let whole_pages = bytes.len().is_multiple_of(PAGE_BYTES as usize);
    bytes.len() >= DIRECT_MIN_BYTES && in_memory && whole_pages && offset.is_multiple_of(PAGE_BYTES)
}

/// Opens the same file again, even if its name now belongs to another file.
fn open_again(data: &File) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path_of(data))?;
    leave_descriptors(&file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn slow_direct_writes_fall_back_to_the_page_cache_and_are_retried() {
        let pace = DiskPace::default();
        let (fast, slow) = (Duration::from_micros(500), Duration::from_millis(7));
        for _ in 0..100 {
            assert!(pace.allows());
            pace.record(MIB, fast);
        }
        (0..16).for_each(|_| pace.record(MIB, slow));
        let allowed = (0..TRIED_AGAIN_AFTER * 3).filter(|_| pace.allows()).count();
        assert_eq!(allowed, 3);
        pace.record(MIB, fast);
        assert!((0..100).all(|_| pace.allows()), "it was only busy");
    }

    #[test]
    fn a_single_stall_or_a_busy_processor_does_not_classify_the_disk_as_slow() {
        let pace = DiskPace::default();
        pace.record(MIB, Duration::from_micros(500));
        pace.record(MIB, Duration::from_secs(3600));
        assert!(pace.allows());
        for _ in 0..100 {
            (0..4).for_each(|_| pace.record(MIB, Duration::from_millis(8)));
            assert!(pace.allows());
            pace.record(MIB, Duration::from_micros(500));
        }
    }

    #[test]
    fn extreme_lengths_and_times_do_not_overflow() {
        let pace = DiskPace::default();
        for (bytes, took) in [
            (0, Duration::MAX),
            (0, Duration::ZERO),
            (usize::MAX, Duration::ZERO),
        ] {
            (0..100).for_each(|_| pace.record(bytes, took));
        }
        pace.allows();
    }

    #[test]
    fn a_file_whose_name_was_taken_by_another_does_not_write_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let data = File::create(&path).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        let other = File::create(&path).unwrap();
        let inode = |file: &File| file.metadata().unwrap().ino();
        for file in [&data, &other] {
            assert_eq!(inode(&open_again(file).unwrap()), inode(file));
        }
    }
}
