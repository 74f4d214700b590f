//! The names of all shares in memory, about 120 bytes each: their parents, their kinds, and an
//! index by content.
//!
//! This module owns only the structure. `state` decides what is listed and when, and `listing`
//! changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::identity::{FileIdentity, FileTimestamp};
use super::left_out::LeftOutWhy;
use super::name_arena::{NameArena, NameRef};
use super::name_state::NameState;
pub(super) use super::packed::FileBody;
use super::packed::{PackedFile, Packing};
use super::runs::Runs;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::written::WrittenMark;
use p2pfs_types::path::SharedPath;

/// Position of a name in the tree; reused once the name is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot(u32);

impl Slot {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(u32::MAX);

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// A name.
pub(super) struct TreeNode {
    pub(super) parent: Slot,
    pub(super) share: u16,
    name: NameRef,
    pub(super) body: NodeBody,
}

/// Kind of a name, with its attributes.
pub(super) enum NodeBody {
    File(PackedFile),
    Directory(DirectoryBody),
    /// A link; its attributes are in [`Tree`].
    Symlink,
    LeftOut(LeftOutBody),
}

#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub(super) struct DirectoryBody {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) mtime: FileTimestamp,
    pub(super) version: FileTimestamp,
    /// The inotify watch, if there is one.
    pub(super) watch: Option<i32>,
    /// Whether its disk is local, so that the watch reports every write to its files.
    pub(super) is_local: bool,
    /// Unique number, so that a walk notices when the directory was replaced.
    pub(super) number: u32,
    pub(super) listed: bool,
}

pub(super) struct SymlinkBody {
    pub(super) target: Box<[u8]>,
    pub(super) mtime: FileTimestamp,
    pub(super) version: FileTimestamp,
}

#[derive(Clone, Copy)]
pub(super) struct LeftOutBody {
    pub(super) why: LeftOutWhy,
    pub(super) directory: bool,
    pub(super) identity: FileIdentity,
}

impl NodeBody {
    /// Returns a file that waits to be hashed.
    pub(super) fn unlisted() -> Self {
        Self::File(PackedFile::unlisted())
    }

    /// Returns the state that the listing shows of the name.
    pub(super) fn shown(&self) -> NameState {
        let is_listed = match self {
            Self::File(file) => file.listed,
            Self::Directory(directory) => directory.listed,
            Self::Symlink => true,
            Self::LeftOut(_) => return NameState::Rejected,
        };
        if is_listed {
            NameState::Listed
        } else {
            NameState::Absent
        }
    }

    /// Returns the (dev, ino) of a file that others may not read.
    pub(super) fn private_file(&self) -> Option<(u64, u64)> {
        match self {
            Self::LeftOut(body) if body.why == LeftOutWhy::Private && !body.directory => {
                Some((body.identity.dev, body.identity.ino))
            }
            _ => None,
        }
    }
}

/// All names of all shares.
pub(super) struct Tree {
    nodes: Vec<Option<TreeNode>>,
    free: Vec<Slot>,
    arena: NameArena,
    packing: Packing,
    /// (parent, hash of the name, slot): one search finds a name or reads a directory.
    names: Runs<(Slot, u32, Slot)>,
    /// (first bytes of the content hash, slot) of listed files.
    contents: Runs<(u32, Slot)>,
    /// Version times of listed files that differ from their mtimes.
    versions: BTreeMap<Slot, FileTimestamp>,
    /// Marks of listed files that were written through the mount.
    marks: BTreeMap<Slot, Arc<WrittenMark>>,
    symlinks: BTreeMap<Slot, SymlinkBody>,
    /// (dev, ino, slot) of files that others may not read.
    private: BTreeSet<(u64, u64, Slot)>,
    hasher: RandomState,
    directories_made: u32,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            arena: NameArena::default(),
            packing: Packing::default(),
            names: Runs::new(),
            contents: Runs::new(),
            versions: BTreeMap::new(),
            marks: BTreeMap::new(),
            symlinks: BTreeMap::new(),
            private: BTreeSet::new(),
            hasher: RandomState::new(),
            directories_made: 0,
        }
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&TreeNode> {
        self.nodes.get(slot.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut TreeNode> {
        self.nodes.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(super) fn file(&self, slot: Slot) -> Option<FileBody> {
        match &self.get(slot)?.body {
            NodeBody::File(file) => Some(self.packing.unpack(slot.0, file)),
            _ => None,
        }
    }

    /// Returns why a name is left out, if it is.
    pub(super) fn left_out(&self, slot: Slot) -> Option<&LeftOutBody> {
        match &self.get(slot)?.body {
            NodeBody::LeftOut(body) => Some(body),
            _ => None,
        }
    }

    pub(super) fn directory(&self, slot: Slot) -> Option<&DirectoryBody> {
        match &self.get(slot)?.body {
            NodeBody::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn directory_mut(&mut self, slot: Slot) -> Option<&mut DirectoryBody> {
        match &mut self.get_mut(slot)?.body {
            NodeBody::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Returns a directory body with a number of its own.
    pub(super) fn new_directory(&mut self) -> DirectoryBody {
        self.directories_made = self.directories_made.wrapping_add(1);
        DirectoryBody {
            dev: 0,
            ino: 0,
            mtime: FileTimestamp::default(),
            version: FileTimestamp::default(),
            watch: None,
            is_local: false,
            number: self.directories_made,
            listed: false,
        }
    }

    /// Inserts the root of a share, which has no name and is its own parent.
    pub(super) fn insert_root(&mut self, share: u16) -> Slot {
        let body = NodeBody::Directory(self.new_directory());
        let slot = self.free_slot();
        self.place(
            slot,
            TreeNode {
                parent: slot,
                share,
                name: NameRef::default(),
                body,
            },
        );
        slot
    }

    /// Inserts a new name. The directory must not contain it yet.
    pub(super) fn insert(&mut self, parent: Slot, name: &[u8], body: NodeBody) -> Slot {
        debug_assert!(
            self.child(parent, name).is_none(),
            "a name is in a directory once"
        );
        let share = self.get(parent).map_or(0, |node| node.share);
        let slot = self.free_slot();
        self.names.insert((parent, self.hash(name), slot));
        if let Some((dev, ino)) = body.private_file() {
            self.private.insert((dev, ino, slot));
        }
        let name = self.arena.add(name);
        self.place(
            slot,
            TreeNode {
                parent,
                share,
                name,
                body,
            },
        );
        slot
    }

    /// Removes a name, which must have no children.
    pub(super) fn remove(&mut self, slot: Slot) {
        debug_assert!(self.children(slot).next().is_none(), "children go first");
        let Some(node) = self.nodes.get_mut(slot.0 as usize).and_then(Option::take) else {
            return;
        };
        let hash = self.hash(self.arena.get(node.name));
        self.names.remove(&(node.parent, hash, slot));
        if let Some((dev, ino)) = node.body.private_file() {
            self.private.remove(&(dev, ino, slot));
        }
        self.versions.remove(&slot);
        self.marks.remove(&slot);
        self.packing.forget(slot.0);
        self.symlinks.remove(&slot);
        self.free.push(slot);
        self.arena.drop(node.name);
        if self.arena.is_worn() {
            self.move_names();
        }
    }

    /// Moves all names into a new buffer without holes.
    fn move_names(&mut self) {
        let mut arena = NameArena::default();
        for node in self.nodes.iter_mut().flatten() {
            node.name = arena.add(self.arena.get(node.name));
        }
        self.arena = arena;
    }

    /// Returns the last component of a path; empty for the root of a share and for an unused slot.
    pub(super) fn name(&self, slot: Slot) -> &[u8] {
        self.get(slot).map_or(&[], |node| self.arena.get(node.name))
    }

    /// Returns the version time of a listed file.
    pub(super) fn version(&self, slot: Slot, file: &FileBody) -> FileTimestamp {
        let other = self.versions.get(&slot);
        other.copied().unwrap_or(file.identity.mtime)
    }

    /// Returns the mark of a listed file.
    pub(super) fn mark(&self, slot: Slot) -> Option<&Arc<WrittenMark>> {
        self.marks.get(&slot)
    }

    /// Sets or removes the mark of a listed file.
    pub(super) fn set_mark(&mut self, slot: Slot, mark: Option<Arc<WrittenMark>>) {
        match mark {
            Some(mark) => drop(self.marks.insert(slot, mark)),
            None => drop(self.marks.remove(&slot)),
        }
    }

    /// Returns the listed files whose version time is not their mtime and fits.
    pub(super) fn dated_otherwise(&self, fits: impl Fn(FileTimestamp) -> bool) -> Vec<Slot> {
        let dated = self.versions.iter().filter(|(_, version)| fits(**version));
        dated.map(|(slot, _)| *slot).collect()
    }

    /// Makes a name a listed file of this version.
    pub(super) fn set_file(&mut self, slot: Slot, file: FileBody, version: FileTimestamp) {
        let Some(Some(node)) = self.nodes.get_mut(slot.0 as usize) else {
            return;
        };
        node.body = NodeBody::File(self.packing.pack(slot.0, &file));
        if version == file.identity.mtime {
            self.versions.remove(&slot);
        } else {
            self.versions.insert(slot, version);
        }
    }

    /// Records that a file may have been written, or that its name may lead to another one.
    pub(super) fn forget_witness(&mut self, slot: Slot) {
        if let Some(NodeBody::File(file)) = self.get_mut(slot).map(|node| &mut node.body) {
            file.witnessed = false;
        }
    }

    /// Records that any file in a directory may have been written.
    pub(super) fn forget_witnesses_in(&mut self, directory: Slot) {
        for slot in self.children(directory).collect::<Vec<_>>() {
            self.forget_witness(slot);
        }
    }

    /// Records that any file may have been written.
    pub(super) fn forget_witnesses(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            if let NodeBody::File(file) = &mut node.body {
                file.witnessed = false;
            }
        }
    }

    /// Makes a name a link.
    pub(super) fn set_symlink(&mut self, slot: Slot, body: SymlinkBody) {
        if let Some(node) = self.get_mut(slot) {
            node.body = NodeBody::Symlink;
            self.symlinks.insert(slot, body);
        }
    }

    /// Returns the attributes of a link.
    pub(super) fn symlink(&self, slot: Slot) -> Option<&SymlinkBody> {
        self.symlinks.get(&slot)
    }

    fn hash(&self, name: &[u8]) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    pub(super) fn child(&self, parent: Slot, name: &[u8]) -> Option<Slot> {
        let hash = self.hash(name);
        let from = self.names.from((parent, hash, Slot::FIRST));
        let mut same = from.take_while(|(above, other, _)| (*above, *other) == (parent, hash));
        let found = same.find(|(_, _, slot)| self.name(*slot) == name);
        found.map(|(_, _, slot)| slot)
    }

    /// Returns all slots in use, or those after a position.
    pub(super) fn slots(&self, after: Option<u32>) -> impl Iterator<Item = Slot> + '_ {
        let from = after.map_or(0, |after| after as usize + 1);
        let nodes = self.nodes.iter().enumerate().skip(from);
        nodes.filter_map(|(index, node)| node.as_ref().map(|_| Slot(index as u32)))
    }

    /// Returns the children of a directory, in no particular order.
    pub(super) fn children(&self, parent: Slot) -> impl Iterator<Item = Slot> + '_ {
        let from = self.names.from((parent, 0, Slot::FIRST));
        let within = from.take_while(move |(above, ..)| *above == parent);
        within.map(|(_, _, slot)| slot)
    }

    /// Returns the path of a name within its share. Returns `None` if the path is not valid, for
    /// example too long; only a left-out name has no valid path.
    pub(super) fn path(&self, slot: Slot) -> Option<SharedPath> {
        let mut names = Vec::new();
        let (mut at, mut node) = (slot, self.get(slot)?);
        while node.parent != at {
            names.push(self.name(at));
            at = node.parent;
            node = self.get(at)?;
        }
        names.reverse();
        SharedPath::new(names.join(&b'/')).ok()
    }

    /// Returns whether `slot` or a directory above it is the directory (dev, ino): a loop.
    pub(super) fn is_within_itself(&self, slot: Slot, dev: u64, ino: u64) -> bool {
        let mut at = slot;
        while let Some(node) = self.get(at) {
            if let NodeBody::Directory(directory) = &node.body
                && (directory.dev, directory.ino) == (dev, ino)
            {
                return true;
            }
            if node.parent == at {
                return false;
            }
            at = node.parent;
        }
        false
    }

    pub(super) fn record_content(&mut self, slot: Slot, hash: &ContentHash) {
        self.contents.insert((prefix(hash), slot));
    }

    pub(super) fn drop_content(&mut self, slot: Slot, hash: &ContentHash) {
        self.contents.remove(&(prefix(hash), slot));
    }

    /// Returns the listed files with this content.
    pub(super) fn with_content(&self, hash: &ContentHash) -> impl Iterator<Item = Slot> + '_ {
        let (hash, prefix) = (*hash, prefix(hash));
        let from = self.contents.from((prefix, Slot::FIRST));
        let slots = from.take_while(move |(other, _)| *other == prefix);
        let slots = slots.map(|(_, slot)| slot);
        slots.filter(move |slot| self.file(*slot).is_some_and(|file| file.hash == hash))
    }

    /// Returns the names of a file that are left out because others may not read it.
    pub(super) fn private_names(&self, dev: u64, ino: u64) -> impl Iterator<Item = Slot> + '_ {
        let range = (dev, ino, Slot::FIRST)..=(dev, ino, Slot::LAST);
        self.private.range(range).map(|(_, _, slot)| *slot)
    }

    /// Returns the (dev, ino) of every listed file.
    pub(super) fn listed_files(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.slots(None)
            .filter_map(|slot| match &self.get(slot)?.body {
                NodeBody::File(file) if file.listed => {
                    let identity = self.packing.identity(slot.0, file);
                    Some((identity.dev, identity.ino))
                }
                _ => None,
            })
    }

    fn free_slot(&mut self) -> Slot {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        // grow by a quarter, because doubling would leave half of it unused
        if self.nodes.len() == self.nodes.capacity() {
            self.nodes.reserve_exact((self.nodes.len() / 4).max(64));
        }
        self.nodes.push(None);
        let index = u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 names");
        Slot(index)
    }

    fn place(&mut self, slot: Slot, node: TreeNode) {
        self.nodes[slot.0 as usize] = Some(node);
    }
}

fn prefix(hash: &ContentHash) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

#[cfg(test)]
mod tests;
