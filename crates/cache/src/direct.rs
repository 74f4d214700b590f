//! Large writes that go to a fast disk past the kernel's pages (`O_DIRECT` of open(2)).
//!
//! Bytes that were just fetched are given to their readers from the answer that brought them, or a
//! moment later by `super::recent`, and a mount's readers have them in the mount's own pages. A
//! second copy in the pages of the data file is one that nobody reads soon: it costs a copy and the
//! touch of a page for every 4 KiB, more than all the rest of a read where a hypervisor has taken
//! the guest's free memory back, and it pushes out what others use. A disk that is slower than
//! bytes may come is left to the kernel, which writes behind.
//!
//! Owns when a write goes so, and the descriptor for it. Never writes itself, and is nothing that
//! a read sees: the kernel keeps its pages of the file and the disk at one (open(2), NOTES), as
//! long as one thread at a time writes to the file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pfs_types::extent::PAGE_BYTES;
use p2pfs_types::files::{is_full, leave_descriptors, path_of};

/// The smallest file that is written so. Smaller ones are read again sooner than they are pushed
/// out, and then by the kernel from the pages that the write left.
pub(super) const DIRECT_FILE_MIN_BYTES: u64 = 16 << 20;
/// The smallest write: below it the disk's latency is most of it.
const DIRECT_MIN_BYTES: usize = 128 << 10;
/// How the memory must be aligned that a disk reads from: to a logical block, which is 512 bytes
/// or, of some disks, a page (open(2), NOTES). Answers are aligned to pages.
const ALIGNED_TO_BYTES: usize = PAGE_BYTES as usize;
/// The slowest disk that is written so: it takes more than 2.5 Gbit/s bring. A slower one would
/// keep readers of a fast link waiting, who can have what fits into memory at the link's rate.
const SLOWEST_BYTES_PER_S: u64 = 300 << 20;
/// A disk that was found slow is tried again after so many writes.
const TRIED_AGAIN_AFTER: u64 = 64;
/// A write that took longer than those before moves the figure by this part of the difference.
const RISES_BY: u64 = 16;
/// What one write may say at most, in multiples of the slowest that is fast enough: a disk that
/// stood still once is no slow one.
const STALL_MAX: u64 = 8;

/// How fast the disk takes such writes when the processors are free: the quickest of the last ones.
/// The others waited for a processor, or for the writes of other files.
#[derive(Default)]
pub(super) struct DiskPace {
    /// Nanoseconds a MiB. Who writes at the same moment may be left out.
    quick_ns: AtomicU64,
    /// Writes that were left to the kernel since it was found slow.
    left_to_kernel: AtomicU64,
}

impl DiskPace {
    const SLOWEST_NS: u64 = (1_000_000_000 << 20) / SLOWEST_BYTES_PER_S;

    /// Whether the next write may go so.
    fn allows(&self) -> bool {
        if self.quick_ns.load(Ordering::Relaxed) <= Self::SLOWEST_NS {
            return true;
        }
        let left = self.left_to_kernel.fetch_add(1, Ordering::Relaxed) + 1;
        left.is_multiple_of(TRIED_AGAIN_AFTER)
    }

    /// A write of so many bytes took so long.
    pub(crate) fn note(&self, bytes: usize, took: Duration) {
        let mib = bytes as f64 / f64::from(1 << 20);
        let last_ns = (took.as_nanos() as f64 / mib) as u64;
        let last_ns = last_ns.min(Self::SLOWEST_NS * STALL_MAX);
        let quick_ns = self.quick_ns.load(Ordering::Relaxed);
        let rise_ns = last_ns.saturating_sub(quick_ns) / RISES_BY;
        let quick_ns = last_ns.min(quick_ns + rise_ns);
        self.quick_ns.store(quick_ns, Ordering::Relaxed);
    }
}

/// The descriptor by which one file is written so.
#[derive(Default)]
pub(super) enum Direct {
    #[default]
    Closed,
    Open(Arc<File>),
    /// The file system cannot, or cannot as the bytes lie.
    Refused,
}

impl Direct {
    /// The descriptor by which to write these bytes of a file that is open as `data`; none where
    /// the kernel is to have them in its pages first.
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
                // for want of descriptors, say: another time
                Err(_) => return None,
            }
        }
        match self {
            Self::Open(file) => Some(file.clone()),
            Self::Closed | Self::Refused => None,
        }
    }

    /// After a write that failed: whether it is to go by way of the pages, as all further ones of
    /// the file. A file system may take such a descriptor and refuse such a write.
    pub(crate) fn gives_up(&mut self, error: &io::Error) -> bool {
        let may_help = !is_full(error);
        if may_help {
            *self = Self::Refused;
        }
        may_help
    }

    /// Nothing more is written soon.
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

/// Opens the same file once more, whatever has its name by now.
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
    fn a_disk_that_is_slower_than_bytes_come_is_left_to_the_kernel_and_tried_again() {
        let pace = DiskPace::default();
        let (fast, slow) = (Duration::from_micros(500), Duration::from_millis(7));
        for _ in 0..100 {
            assert!(pace.allows());
            pace.note(MIB, fast);
        }
        (0..16).for_each(|_| pace.note(MIB, slow));
        let allowed = (0..TRIED_AGAIN_AFTER * 3).filter(|_| pace.allows()).count();
        assert_eq!(allowed, 3);
        pace.note(MIB, fast);
        assert!((0..100).all(|_| pace.allows()), "it was only busy");
    }

    #[test]
    fn a_disk_that_stood_still_once_or_waits_for_processors_is_no_slow_one() {
        let pace = DiskPace::default();
        pace.note(MIB, Duration::from_micros(500));
        pace.note(MIB, Duration::from_secs(3600));
        assert!(pace.allows());
        for _ in 0..100 {
            (0..4).for_each(|_| pace.note(MIB, Duration::from_millis(8)));
            assert!(pace.allows());
            pace.note(MIB, Duration::from_micros(500));
        }
    }

    #[test]
    fn no_length_and_no_time_is_too_much_to_count() {
        let pace = DiskPace::default();
        for (bytes, took) in [
            (0, Duration::MAX),
            (0, Duration::ZERO),
            (usize::MAX, Duration::ZERO),
        ] {
            (0..100).for_each(|_| pace.note(bytes, took));
        }
        pace.allows();
    }

    #[test]
    fn a_file_that_lost_its_name_to_another_is_not_written_by_it() {
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
