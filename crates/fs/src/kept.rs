//! Tracks large files that the kernel probably caches in the pages of a mounted inode.
//!
//! The kernel should read a complete file of the cache itself, but such an open drops the pages
//! that the inode has ([`super::modes`]). If the bytes were written to the disk past the page cache
//! of the cache's file, the pages of the inode are the only copy in memory. The second use of the
//! file is therefore served from them. The kernel does not report when it evicts them under memory
//! pressure. It then requests the bytes again.
//!
//! The table has byte counts by inode number. It never queries the kernel.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Maximum inodes with a byte count. A further one replaces any other.
const INODES_MAX: usize = 4096;

/// Bytes given to the kernel, for each inode that the kernel does not read itself.
#[derive(Default)]
pub(crate) struct KeptPages {
    given_bytes: Mutex<HashMap<u64, u64>>,
}

impl KeptPages {
    /// Records that the kernel received bytes of the inode and caches them.
    pub(crate) fn add(&self, ino: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut given = self.given_bytes.lock();
        if given.len() >= INODES_MAX && !given.contains_key(&ino) {
            let some = given.keys().next().copied();
            some.and_then(|some| given.remove(&some));
        }
        let sum = given.entry(ino).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// Returns whether the kernel probably has most of the file: it received about that many bytes,
    /// and did not request them twice. The count is removed.
    pub(crate) fn take_most(&self, ino: u64, size_bytes: u64) -> bool {
        let sum = self.given_bytes.lock().remove(&ino).unwrap_or_default();
        let quarter = size_bytes / 4;
        (size_bytes - quarter..=size_bytes + quarter).contains(&sum)
    }

    /// Removes the count of an inode without cached pages.
    pub(crate) fn forget(&self, ino: u64) {
        self.given_bytes.lock().remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sent_once_is_retained_for_one_use_and_one_sent_twice_is_not() {
        let kept = KeptPages::default();
        assert!(!kept.take_most(5, 100));
        kept.add(5, 60);
        kept.add(5, 30);
        kept.add(6, 60);
        kept.add(7, 200);
        assert!(kept.take_most(5, 100) && !kept.take_most(5, 100));
        assert!(!kept.take_most(6, 100), "the rest was never asked for");
        assert!(!kept.take_most(7, 100), "it was asked for again");
        kept.add(8, 100);
        kept.forget(8);
        assert!(!kept.take_most(8, 100));
    }

    #[test]
    fn the_known_files_are_bounded() {
        let kept = KeptPages::default();
        for ino in 0..2 * INODES_MAX as u64 {
            kept.add(ino, 1);
        }
        assert_eq!(kept.given_bytes.lock().len(), INODES_MAX);
        kept.add(1, u64::MAX);
        kept.add(1, u64::MAX);
        assert!(!kept.take_most(1, 100));
        kept.add(2, 0);
    }
}
