//! Versions of files that were listed before the current ones and may still be read.
//!
//! A log that grew still begins with each of its former versions. Nodes that know only a former
//! version, or have it open, can continue to read it. Every read is proven against the hash of the
//! former version. So a file that was rewritten costs a failed read and never delivers a wrong
//! byte.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use lru::LruCache;

use super::identity::FileIdentity;
use super::tree::Slot;
use p2pfs_types::digest::ContentHash;

/// Maximum remembered former versions of all files together. Each takes about 200 bytes of memory.
/// A log that is listed anew every 10 s has this many versions in 11 hours. When there are more,
/// the oldest version is forgotten.
const FORMER_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A former version of a file that is still listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FormerVersion {
    pub(super) slot: Slot,
    /// Identity of the file when it had this version.
    pub(super) identity: FileIdentity,
}

/// Former versions by hash. Slots are reused, so the entries of a name must be forgotten with the
/// name.
pub(super) struct FormerVersions {
    by_hash: LruCache<ContentHash, FormerVersion>,
    by_slot: BTreeSet<(Slot, ContentHash)>,
}

impl FormerVersions {
    pub(super) fn new() -> Self {
        Self {
            by_hash: LruCache::unbounded(),
            by_slot: BTreeSet::new(),
        }
    }

    pub(super) fn insert(&mut self, hash: ContentHash, version: FormerVersion) {
        self.forget(&hash);
        self.by_slot.insert((version.slot, hash));
        self.by_hash.put(hash, version);
        if self.by_hash.len() > FORMER_MAX.get()
            && let Some((oldest, version)) = self.by_hash.pop_lru()
        {
            self.by_slot.remove(&(version.slot, oldest));
        }
    }

    /// Forgets a version whose bytes are gone, or that is listed again.
    pub(super) fn forget(&mut self, hash: &ContentHash) {
        if let Some(version) = self.by_hash.pop(hash) {
            self.by_slot.remove(&(version.slot, *hash));
        }
    }

    /// Forgets all versions of a file that is gone or was replaced.
    pub(super) fn forget_at(&mut self, slot: Slot) {
        let all = (slot, ContentHash::new([0; 32]))..=(slot, ContentHash::new([0xff; 32]));
        let hashes: Vec<_> = self.by_slot.range(all).copied().collect();
        for (_, hash) in hashes {
            self.forget(&hash);
        }
    }

    pub(super) fn get(&self, hash: &ContentHash) -> Option<FormerVersion> {
        self.by_hash.peek(hash).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    #[test]
    fn former_versions_are_bounded_and_go_with_their_file() {
        let (mut tree, mut former) = (Tree::new(), FormerVersions::new());
        let [log, other] = [tree.insert_root(0), tree.insert_root(1)];
        let hash = |number: usize| ContentHash::of(&number.to_le_bytes());
        let identity = FileIdentity::default();
        for number in 0..=FORMER_MAX.get() {
            let slot = if number % 2 == 0 { log } else { other };
            former.insert(hash(number), FormerVersion { slot, identity });
        }
        assert_eq!(former.by_hash.len(), FORMER_MAX.get());
        assert!(former.get(&hash(0)).is_none());
        former.forget_at(log);
        assert!(former.get(&hash(2)).is_none());
        assert_eq!(former.get(&hash(1)).unwrap().slot, other);
        assert_eq!(former.by_slot.len(), former.by_hash.len());
    }
}
