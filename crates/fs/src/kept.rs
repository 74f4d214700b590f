//! Of which large files the kernel probably has the pages that it asked us for.
//!
//! A file of the cache that is complete is best read by the kernel itself, but an open of that kind
//! drops the pages that the inode has ([`super::modes`]). Where the bytes went to the disk past the
//! pages of the cache's file, these are the only ones in memory: the second use of the file is
//! served from them. That it let go of them, for want of memory, the kernel does not say; it asks
//! again then.
//!
//! Knows inodes by number and counts bytes. Never asks the kernel.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Of so many inodes is known what they were given; one more takes the place of any.
const INODES_MAX: usize = 4096;

/// What was given of each inode that is not read by the kernel itself.
#[derive(Default)]
pub(crate) struct KeptPages {
    given_bytes: Mutex<HashMap<u64, u64>>,
}

impl KeptPages {
    /// The kernel was given bytes of the inode, to keep.
    pub(crate) fn note(&self, ino: u64, bytes: u64) {
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

    /// Whether it probably has most of the file: was given that, and has not asked for it twice.
    /// What was known is forgotten.
    pub(crate) fn take_most(&self, ino: u64, size_bytes: u64) -> bool {
        let sum = self.given_bytes.lock().remove(&ino).unwrap_or_default();
        let quarter = size_bytes / 4;
        (size_bytes - quarter..=size_bytes + quarter).contains(&sum)
    }

    /// It has none of them any more.
    pub(crate) fn forget(&self, ino: u64) {
        self.given_bytes.lock().remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_given_once_is_kept_for_one_use_and_one_asked_for_twice_is_not() {
        let kept = KeptPages::default();
        assert!(!kept.take_most(5, 100));
        kept.note(5, 60);
        kept.note(5, 30);
        kept.note(6, 60);
        kept.note(7, 200);
        assert!(kept.take_most(5, 100) && !kept.take_most(5, 100));
        assert!(!kept.take_most(6, 100), "the rest was never asked for");
        assert!(!kept.take_most(7, 100), "it was asked for again");
        kept.note(8, 100);
        kept.forget(8);
        assert!(!kept.take_most(8, 100));
    }

    #[test]
    fn what_is_known_has_a_bound() {
        let kept = KeptPages::default();
        for ino in 0..2 * INODES_MAX as u64 {
            kept.note(ino, 1);
        }
        assert_eq!(kept.given_bytes.lock().len(), INODES_MAX);
        kept.note(1, u64::MAX);
        kept.note(1, u64::MAX);
        assert!(!kept.take_most(1, 100));
        kept.note(2, 0);
    }
}
