//! Contents of files that are between two names. A program that has one open must not be told that
//! it is gone.
//!
//! A rename takes effect at once for a reader that opens the old name, but the scanner sees it only
//! when it reads the kernel's reports. Until then the content is in [`MissedContents`]. The rename
//! changes the ctime, so the file is read again before it is listed under its new name. Until then
//! it is in [`MovedContents`].

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::identity::FileIdentity;
use super::tree::Slot;
use p2pfs_types::digest::ContentHash;

/// Maximum remembered missed contents. Beyond it, the least recently requested one is forgotten,
/// which costs its readers one more check.
const MISSED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Maximum remembered moved contents: those of a large folder that is renamed. About 150 bytes
/// each. Beyond it, the oldest one is found again only after it was read.
const MOVED_MAX: usize = 65_536;
/// How long a reader waits for a check: a change must be announced within this time.
const CHECK_WAIT_MAX: Duration = Duration::from_secs(2);
/// After this time a missed content is searched again, because it may have been renamed again.
const MISS_MAX: Duration = Duration::from_secs(4);

/// A content that was not found under its listed names.
#[derive(Clone, Copy)]
struct MissedContent {
    /// Digest of these names.
    names: u64,
    since: Instant,
    /// Number of the check that finds out where it went.
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

    /// Returns whether a check that is worth waiting for will find a content that was not found
    /// under `names`. The checks up to `checked` were done before these names were taken from the
    /// listing. `next` requests a check and returns its number.
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

/// New name of a content's file, which is not yet read under it.
#[derive(Clone, Copy)]
pub(super) struct NewName {
    pub(super) slot: Slot,
    /// Identity of the file when it was read under the old name.
    pub(super) identity: FileIdentity,
}

/// Contents of files with new names. Slots are reused, so an entry never outlives its name.
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
