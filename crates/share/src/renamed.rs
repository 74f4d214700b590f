//! Contents of files that are being renamed: no longer found under the old name and not yet listed
//! under the new name. A node that has such a file open must not be told that the file is gone.
//!
//! After a rename, this process cannot open the old name any more, but the scanner learns of the
//! rename only from the kernel's reports. If the content is requested in between, it is in
//! [`MissedContents`]. If the file must be read before it is listed under its new name (`proof`), its
//! content is in [`MovedContents`] until then, and its old name in [`LeavingNames`].

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::identity::FileIdentity;
use super::order::NameInShare;
use super::proof::KnownFile;
use super::tree::{FileBody, Slot};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Maximum remembered missed contents. When there are more, the least recently requested one is
/// forgotten, which costs its readers one more check.
const MISSED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Maximum remembered moved contents, and maximum remembered files of moved directories: enough for
/// a large folder that is renamed. Each takes about 250 bytes. When there are more, the oldest one is
/// forgotten. Its file is found again only after it was read.
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

/// Device and inode number of a file. Both are 0 for an entry of an earlier run that no walk has
/// reached.
type Inode = (u64, u64);

/// Names of files that are not read yet under these names, and the contents under which the files
/// were known. Slots are reused, so the entry of a name must be forgotten with the name.
pub(super) struct MovedContents {
    by_slot: LruCache<Slot, KnownFile>,
    by_content: BTreeSet<(ContentHash, Slot)>,
    by_file: BTreeSet<(ContentHash, Inode, Slot)>,
    /// Files that were forgotten since the last call of [`Self::take_ended`].
    ended: Vec<KnownFile>,
}

impl MovedContents {
    pub(super) fn new() -> Self {
        Self {
            by_slot: LruCache::unbounded(),
            by_content: BTreeSet::new(),
            by_file: BTreeSet::new(),
            ended: Vec::new(),
        }
    }

    pub(super) fn insert(&mut self, slot: Slot, known: KnownFile) {
        self.forget_at(slot);
        self.by_content.insert((known.hash, slot));
        self.by_file
            .insert((known.hash, known.identity.inode(), slot));
        self.by_slot.put(slot, known);
        if self.by_slot.len() > MOVED_MAX
            && let Some((oldest, _)) = self.by_slot.peek_lru()
        {
            self.forget_at(*oldest);
        }
    }

    /// Forgets a content that is known to have changed.
    pub(super) fn forget(&mut self, hash: &ContentHash) {
        let names = self
            .by_content
            .range((*hash, Slot::FIRST)..=(*hash, Slot::LAST));
        for (_, slot) in names.copied().collect::<Vec<_>>() {
            self.forget_at(slot);
        }
    }

    /// Forgets a name that is gone or was read.
    pub(super) fn forget_at(&mut self, slot: Slot) {
        if let Some(known) = self.by_slot.pop(&slot) {
            self.by_content.remove(&(known.hash, slot));
            self.by_file
                .remove(&(known.hash, known.identity.inode(), slot));
            self.ended.push(known);
        }
    }

    /// Returns a name of a file with this content, and the identity with which it was read.
    pub(super) fn get(&self, hash: &ContentHash) -> Option<(Slot, FileIdentity)> {
        let names = (*hash, Slot::FIRST)..=(*hash, Slot::LAST);
        let (_, slot) = self.by_content.range(names).next()?;
        Some((*slot, self.by_slot.peek(slot)?.identity))
    }

    /// Returns whether the file of a removed name has another name that is not read yet.
    fn has_file_of(&self, leaving: &LeavingName) -> bool {
        let (hash, inode) = (leaving.content, leaving.inode);
        if inode == Inode::default() {
            return self.get(&hash).is_some();
        }
        let names = (hash, inode, Slot::FIRST)..=(hash, inode, Slot::LAST);
        self.by_file.range(names).next().is_some()
    }

    /// Returns the files that were forgotten since the last call.
    fn take_ended(&mut self) -> Vec<KnownFile> {
        std::mem::take(&mut self.ended)
    }
}

/// A name that has left the tree. Its removal is not announced yet.
#[derive(Clone, Copy)]
struct LeavingName {
    content: ContentHash,
    inode: Inode,
    /// Whether a walk missed it. The walk may still find its file under another name.
    is_by_walk: bool,
    /// Whether its removal waits only for its file.
    is_kept: bool,
}

/// The names that are no longer in the tree and that other nodes still see.
///
/// A name stays announced while its file has another name that is not listed yet. Otherwise a file
/// that is renamed and must be read would have no name until it is read.
#[derive(Default)]
pub(super) struct LeavingNames {
    by_name: BTreeMap<NameInShare, LeavingName>,
    by_file: BTreeSet<(ContentHash, Inode, NameInShare)>,
}

impl LeavingNames {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Adds the name of a file that was listed with this content.
    pub(super) fn insert(&mut self, name: NameInShare, file: &FileBody, is_by_walk: bool) {
        self.forget(&name);
        let leaving = LeavingName {
            content: file.hash,
            inode: file.identity.inode(),
            is_by_walk,
            is_kept: false,
        };
        self.by_file
            .insert((leaving.content, leaving.inode, name.clone()));
        self.by_name.insert(name, leaving);
    }

    /// Forgets a name whose removal is announced, or that is listed again.
    pub(super) fn forget(&mut self, name: &NameInShare) {
        if let Some(LeavingName { content, inode, .. }) = self.by_name.remove(name) {
            self.by_file.remove(&(content, inode, name.clone()));
        }
    }

    /// Returns whether the removal of a name must not be announced yet: its file is in `moved`, or
    /// a walk that may find it `is_walked`. Forgets the name otherwise.
    pub(super) fn keeps(
        &mut self,
        name: &NameInShare,
        moved: &MovedContents,
        is_walked: bool,
    ) -> bool {
        let Some(leaving) = self.by_name.get_mut(name) else {
            return false;
        };
        leaving.is_kept = moved.has_file_of(leaving) || leaving.is_by_walk && is_walked;
        let is_kept = leaving.is_kept;
        if !is_kept {
            self.forget(name);
        }
        is_kept
    }

    /// Returns the names that are kept because of files that left `moved` since the last call.
    pub(super) fn kept_for_ended(&self, moved: &mut MovedContents) -> BTreeSet<NameInShare> {
        let mut names = BTreeSet::new();
        for known in moved.take_ended() {
            if self.by_name.is_empty() {
                continue;
            }
            names.extend(self.kept_for(known.hash, known.identity.inode()));
            if moved.get(&known.hash).is_none() {
                names.extend(self.kept_for(known.hash, Inode::default()));
            }
        }
        names
    }

    fn kept_for(&self, hash: ContentHash, inode: Inode) -> impl Iterator<Item = NameInShare> + '_ {
        let first = (ShareIndex(0), SharedPath::root());
        let from = self.by_file.range((hash, inode, first)..);
        let of_file = from.take_while(move |(other, file, _)| (*other, *file) == (hash, inode));
        let names = of_file.map(|(_, _, name)| name);
        names.filter(|name| self.by_name[*name].is_kept).cloned()
    }

    /// Returns the names of a share that are kept because a walk missed them.
    pub(super) fn kept_by_walk(&self, share: ShareIndex) -> Vec<NameInShare> {
        let names = self.by_name.iter();
        let kept = names.filter(|((of, _), it)| *of == share && it.is_kept && it.is_by_walk);
        kept.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the shares in which a name with this content is still announced.
    pub(super) fn shares_with(&self, hash: &ContentHash) -> impl Iterator<Item = ShareIndex> + '_ {
        let hash = *hash;
        let first = (ShareIndex(0), SharedPath::root());
        let from = self.by_file.range((hash, Inode::default(), first)..);
        let names = from.take_while(move |(other, ..)| *other == hash);
        names.map(|(_, _, (share, _))| *share)
    }
}

/// Files that were witnessed until their directory was moved or removed, by inode. If the directory
/// was moved, they are found again unchanged.
pub(super) struct DepartedFiles(LruCache<Inode, KnownFile>);

impl DepartedFiles {
    pub(super) fn new() -> Self {
        Self(LruCache::unbounded())
    }

    pub(super) fn insert(&mut self, known: KnownFile) {
        self.0.put(known.identity.inode(), known);
        if self.0.len() > MOVED_MAX {
            self.0.pop_lru();
        }
    }

    /// Returns whether this file departed with these attributes and bytes.
    pub(super) fn has(&self, known: &KnownFile) -> bool {
        self.0.peek(&known.identity.inode()) == Some(known)
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
            moved.insert(slot, KnownFile { identity, hash });
        }
        assert_eq!(moved.by_slot.len(), MOVED_MAX);
        assert_eq!(moved.by_content.len(), MOVED_MAX);
        assert_eq!(moved.by_file.len(), MOVED_MAX);
    }
}
