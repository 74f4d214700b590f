//! Contents of files that are being renamed: no longer found under the old name and not yet listed
//! under the new name. A node that has such a file open must not be told that the file is gone.
//!
//! After a rename, this process cannot open the old name any more, but the scanner learns of the
//! rename only from the kernel's reports. If the content is requested in between, it is in
//! [`MissedContents`]. The rename changes the ctime, so the file is read again before it is listed
//! under its new name. During that time its content is in [`MovedContents`].

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::identity::FileIdentity;
use super::tree::Slot;
use p2pfs_types::digest::ContentHash;

/// Maximum remembered missed contents. When there are more, the least recently requested one is
/// forgotten, which costs its readers one more check.
const MISSED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Maximum remembered moved contents: enough for a large folder that is renamed. Each takes about
/// 150 bytes. When there are more, the oldest one is forgotten and is found again only after its
/// file was read.
const MOVED_MAX: usize = 65_536;
/// How long a reader waits for a check: a change must be announced within this time.
const CHECK_WAIT_MAX: Duration = Duration::from_secs(2);
/// Time after the first miss of a content in which a further miss requests no other check, unless
/// the content has other names by then. After this time, the file may have been renamed again, so a
/// miss requests a check.
const MISS_MAX: Duration = Duration::from_secs(4);

/// A content that was not found under its listed names.
#[derive(Clone, Copy)]
struct MissedContent {
    /// Digest of these names.
    names: u64,
    since: Instant,
    /// Number of the check that finds the new name, if there is one.
    check: u64,
}

/// Contents that were missed lately.
pub(super) struct MissedContents {
    by_hash: LruCache<ContentHash, MissedContent>,
}

impl MissedContents {
    pub(super) fn new() -> Self {
        Self {
            by_hash: LruCache::new(MISSED_MAX),
        }
    }

    /// Returns whether a content that was not found under its listed `names` may be found by a
    /// check that is still pending. The checks up to number `checked` were done before these names
    /// were taken from the listing. `next` requests another check and returns its number.
    pub(super) fn is_check_pending(
        &mut self,
        hash: &ContentHash,
        names: impl Hash,
        checked: u64,
        next: impl FnOnce() -> u64,
        now: Instant,
    ) -> bool {
        let mut hasher = DefaultHasher::new();
        names.hash(&mut hasher);
        let names = hasher.finish();
        let age = |miss: &MissedContent| now.saturating_duration_since(miss.since);
        let known = self.by_hash.get(hash).copied();
        let known = known.filter(|miss| age(miss) < MISS_MAX);
        let miss = match known {
            Some(miss) if miss.names == names => miss,
            // renamed again
            _ => MissedContent {
                names,
                since: known.map_or(now, |miss| miss.since),
                check: next(),
            },
        };
        self.by_hash.put(*hash, miss);
        checked < miss.check && age(&miss) < CHECK_WAIT_MAX
    }
}

/// New name of a file that is not read yet under this name.
#[derive(Clone, Copy)]
pub(super) struct NewName {
    pub(super) slot: Slot,
    /// Identity of the file when it was read under the old name.
    pub(super) identity: FileIdentity,
}

/// Contents of files with new names. Slots are reused, so the entry of a name must be forgotten
/// with the name.
pub(super) struct MovedContents {
    by_hash: LruCache<ContentHash, NewName>,
    by_slot: BTreeMap<Slot, ContentHash>,
}

impl MovedContents {
    pub(super) fn new() -> Self {
        Self {
            by_hash: LruCache::unbounded(),
            by_slot: BTreeMap::new(),
        }
    }

    pub(super) fn insert(&mut self, hash: ContentHash, to: NewName) {
        self.forget(&hash);
        self.forget_at(to.slot);
        self.by_hash.put(hash, to);
        self.by_slot.insert(to.slot, hash);
        if self.by_hash.len() > MOVED_MAX
            && let Some((_, oldest)) = self.by_hash.pop_lru()
        {
            self.by_slot.remove(&oldest.slot);
        }
    }

    /// Forgets a content that is listed or known to have changed.
    pub(super) fn forget(&mut self, hash: &ContentHash) {
        if let Some(to) = self.by_hash.pop(hash) {
            self.by_slot.remove(&to.slot);
        }
    }

    /// Forgets a name that is gone or was read.
    pub(super) fn forget_at(&mut self, slot: Slot) {
        if let Some(hash) = self.by_slot.remove(&slot) {
            self.by_hash.pop(&hash);
        }
    }

    pub(super) fn get(&self, hash: &ContentHash) -> Option<NewName> {
        self.by_hash.peek(hash).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    const NEVER: fn() -> u64 = || unreachable!("a look was asked for");

    fn hash() -> ContentHash {
        ContentHash::of(b"renamed")
    }

    #[test]
    fn a_check_is_requested_once_and_awaited_until_done() {
        let (mut missed, now) = (MissedContents::new(), Instant::now());
        assert!(missed.is_check_pending(&hash(), ["a"], 6, || 7, now));
        assert!(missed.is_check_pending(&hash(), ["a"], 6, NEVER, now));
        assert!(!missed.is_check_pending(&hash(), ["a"], 7, NEVER, now));
        let later = now + MISS_MAX;
        assert!(missed.is_check_pending(&hash(), ["a"], 7, || 8, later));
    }

    #[test]
    fn a_file_renamed_again_is_searched_again() {
        let (mut missed, now) = (MissedContents::new(), Instant::now());
        assert!(missed.is_check_pending(&hash(), ["a"], 6, || 7, now));
        assert!(missed.is_check_pending(&hash(), ["b"], 7, || 8, now));
        assert!(!missed.is_check_pending(&hash(), ["b"], 8, NEVER, now));
    }

    #[test]
    fn a_check_is_awaited_no_longer_than_a_change_takes_to_be_reported() {
        let (mut missed, now) = (MissedContents::new(), Instant::now());
        assert!(missed.is_check_pending(&hash(), ["a"], 6, || 7, now));
        let late = now + CHECK_WAIT_MAX;
        assert!(!missed.is_check_pending(&hash(), ["a"], 6, NEVER, late));
        assert!(!missed.is_check_pending(&hash(), ["b"], 6, || 8, late));
    }

    #[test]
    fn remembered_contents_are_bounded() {
        let (mut missed, now) = (MissedContents::new(), Instant::now());
        for number in 0..2 * MISSED_MAX.get() {
            let hash = ContentHash::of(&number.to_le_bytes());
            missed.is_check_pending(&hash, ["a"], 0, || 1, now);
        }
        assert_eq!(missed.by_hash.len(), MISSED_MAX.get());
        let (mut moved, identity) = (MovedContents::new(), FileIdentity::default());
        let mut tree = Tree::new();
        for number in 0..=MOVED_MAX {
            let hash = ContentHash::of(&number.to_le_bytes());
            let slot = tree.insert_root(0);
            moved.insert(hash, NewName { slot, identity });
        }
        assert_eq!(moved.by_hash.len(), MOVED_MAX);
        assert_eq!(moved.by_slot.len(), MOVED_MAX);
    }
}
