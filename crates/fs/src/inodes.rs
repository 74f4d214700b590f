//! The table of inodes that the kernel knows: the name, the parent directory and the node of each.
//!
//! A million inodes cost little memory beyond the namespace itself. The table stores no paths, and
//! it shares the record of a file or link with the catalogue. The kernel bounds the table. An inode
//! is in it from its first lookup until the kernel forgets it. A directory also stays while an
//! inode below it is in the table.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;

use super::inode::{DIRECTORIES, Inode, Name, Node, ROOT_INO, SALTS, numbers_of_content};
use super::names::{self, NameRecord, ResolvedName};
use super::traits::FileVersion;
use p2pfs_catalogue::{RecordHandle, View};
use p2pfs_proto::wire::native::record::{Kind, ShareIndex};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// The inodes that the kernel knows.
pub(crate) struct Inodes {
    table: Mutex<InodeTable>,
}

#[derive(Default)]
struct InodeTable {
    known: BTreeMap<u64, InodeEntry>,
    /// The directories outside the union.
    hidden: BTreeSet<u64>,
    /// Inodes with another number than the first of their numbers, because another inode had that
    /// number or an own file that was replaced is open under it.
    second: BTreeSet<u64>,
    /// Numbers that an inode kept when it was renamed or copied, by its directory and name. They
    /// are none of the inode's own numbers.
    kept: HashMap<(u64, Box<[u8]>), u64>,
}

struct InodeEntry {
    /// Number of the parent directory.
    above: u64,
    what: StoredNode,
    /// The own share that contains it, if it is an own file.
    own: Option<ShareIndex>,
    /// Number of inodes with this one as their parent.
    below: u32,
    /// Lookups that the kernel has not forgotten. It saturates at the maximum.
    lookups: u32,
    /// Low 32 bits of the number of the view that the record in `what` is from. It is 0 without a
    /// record.
    view: u32,
}

enum StoredNode {
    /// A file or link under its recorded name.
    Said(RecordHandle),
    Directory(Box<Box<[u8]>>),
    /// A directory that was removed. The kernel lets no name appear in it, so a new directory of
    /// its name needs another number.
    Removed(Box<Box<[u8]>>),
    /// Any other inode, with its name.
    Other(Box<(Box<[u8]>, Node)>),
}

impl Inodes {
    /// Creates a table with only the root, which the kernel never forgets.
    pub(crate) fn new() -> Self {
        let mut table = InodeTable::default();
        let root = InodeEntry {
            above: ROOT_INO,
            what: StoredNode::Directory(Box::default()),
            own: None,
            below: 0,
            lookups: 1,
            view: 0,
        };
        table.known.insert(ROOT_INO, root);
        Self {
            table: Mutex::new(table),
        }
    }

    /// Counts a lookup of an inode and returns its number. `above` is the number of its directory,
    /// if known.
    pub(crate) fn look_up(
        &self,
        above: Option<u64>,
        inode: &Inode,
        said: Option<NameRecord>,
    ) -> u64 {
        let table = &mut *self.table.lock();
        let number = table.place(above, inode, said);
        table.count(number);
        number
    }

    /// Counts a lookup of an inode under one given number. Returns `false` if this is not a number
    /// of the inode, or if another inode has it.
    pub(crate) fn look_up_as(
        &self,
        number: u64,
        above: Option<u64>,
        inode: &Inode,
        said: Option<NameRecord>,
    ) -> bool {
        let table = &mut *self.table.lock();
        let placed = table.place_as(above, inode, said, |other| other == number);
        placed.into_iter().for_each(|number| table.count(number));
        placed.is_some()
    }

    /// Returns whether the kernel knows this inode by another number than its best.
    pub(crate) fn has_second_number(&self, inode: &Inode) -> bool {
        let second = &self.table.lock().second;
        !second.is_empty() && (inode.numbers().skip(1)).any(|number| second.contains(&number))
    }

    /// Subtracts lookups that the kernel has forgotten. Returns whether the inode left the table.
    pub(crate) fn forget(&self, number: u64, lookups: u64) -> bool {
        let table = &mut *self.table.lock();
        if let Some(known) = table.known.get_mut(&number) {
            let lookups = u32::try_from(lookups).unwrap_or(u32::MAX);
            known.lookups = known.lookups.saturating_sub(lookups);
        }
        table.sweep(number);
        !table.known.contains_key(&number)
    }

    /// Gives an inode another name, under which it keeps its number, as it does in the kernel.
    /// `above` is the number of the new directory. Returns this number, or `None` if the kernel does
    /// not know the inode.
    pub(crate) fn rename(&self, inode: &Inode, above: u64, name: &Name) -> Option<u64> {
        let table = &mut *self.table.lock();
        let number = table.number_of(inode)?;
        table.unkeep(number);
        let last: Box<[u8]> = names::last(name).as_ref().into();
        let known = table.known.get_mut(&number).expect("it has this number");
        known.what = match &inode.node {
            Node::Directory => StoredNode::Directory(Box::new(last.clone())),
            node => StoredNode::Other(Box::new((last.clone(), node.clone()))),
        };
        let former = std::mem::replace(&mut known.above, above);
        if let Some(directory) = table.known.get_mut(&above) {
            directory.below += 1;
        }
        if let Some(directory) = table.known.get_mut(&former) {
            directory.below -= 1;
        }
        table.sweep(former);
        table.kept.insert((above, last), number);
        if let Node::Directory = inode.node {
            table.keep_below(number);
        }
        Some(number)
    }

    /// Records that a directory was removed. A new one of its name is another inode.
    pub(crate) fn remove(&self, inode: &Inode) {
        let table = &mut *self.table.lock();
        if let Some(number) = table.number_of(inode) {
            table.unkeep(number);
            let known = table.known.get_mut(&number).expect("it has this number");
            known.what = StoredNode::Removed(Box::new(known.name().into()));
        }
    }

    /// Returns whether the directory of a number was removed.
    pub(crate) fn is_removed(&self, number: u64) -> bool {
        let table = self.table.lock();
        let known = table.known.get(&number);
        known.is_some_and(|known| matches!(known.what, StoredNode::Removed(_)))
    }

    /// Makes the inode of a number that of a file in a writable share, under the same name.
    pub(crate) fn become_written(&self, number: u64, node: Node) {
        let table = &mut *self.table.lock();
        let Some(known) = table.known.get_mut(&number) else {
            return;
        };
        let last: Box<[u8]> = known.name().into();
        known.what = StoredNode::Other(Box::new((last.clone(), node)));
        (known.own, known.view) = (None, 0);
        table.kept.insert((known.above, last), number);
    }

    /// Adds a file in a writable share, which the kernel knows by this number and looked up with a
    /// previous process. It counts as looked up once.
    pub(crate) fn adopt_written(&self, number: u64, inode: &Inode) {
        let table = &mut *self.table.lock();
        if table.known.contains_key(&number) {
            return;
        }
        let above = table.place_directory(names::parent(&inode.name));
        let last: Box<[u8]> = names::last(&inode.name).as_ref().into();
        let what = StoredNode::Other(Box::new((last.clone(), inode.node.clone())));
        table.add(number, above, what, None, 0);
        table.count(number);
        table.kept.insert((above, last), number);
    }

    /// Returns the inode of a number, if the kernel knows it.
    pub(crate) fn get(&self, number: u64) -> Option<Inode> {
        let table = self.table.lock();
        let name = table.name_of(number)?;
        let node = table.known.get(&number)?.node(&name);
        Some(Inode { name, node })
    }

    /// Returns the node of a file or link in a view, if the kernel looked it up in the same view.
    pub(crate) fn looked_up_in(
        &self,
        view: &View,
        number: u64,
        name: &Name,
    ) -> Option<ResolvedName> {
        let table = self.table.lock();
        let known = table.known.get(&number)?;
        match &known.what {
            StoredNode::Said(held) if known.view == view.number() as u32 => {
                Some(ResolvedName::new(known.node(name), held.mtime()))
            }
            _ => None,
        }
    }

    /// Returns the number of a directory, if the kernel knows it.
    pub(crate) fn number_of_directory(&self, name: Name) -> Option<u64> {
        self.number_of(&Inode::directory(name))
    }

    /// Returns the number of an inode, if the kernel knows it.
    pub(crate) fn number_of(&self, inode: &Inode) -> Option<u64> {
        self.table.lock().number_of(inode)
    }

    /// Returns the number that an inode kept when it was renamed or copied.
    pub(crate) fn kept_number(&self, inode: &Inode) -> Option<u64> {
        self.table.lock().kept_number_of(inode)
    }

    /// Returns the directories that the kernel knows.
    pub(crate) fn directories(&self) -> Vec<u64> {
        let table = self.table.lock();
        let others = table.known.range(DIRECTORIES).map(|(number, _)| *number);
        others.chain([ROOT_INO]).collect()
    }

    /// Returns the names that the kernel knows, each with the number of its directory.
    pub(crate) fn names(&self) -> Vec<(u64, Box<[u8]>)> {
        let table = self.table.lock();
        let others = table
            .known
            .iter()
            .filter(|(number, _)| **number != ROOT_INO);
        others
            .map(|(_, known)| (known.above, known.name().into()))
            .collect()
    }

    /// Returns the numbers of all known files with a content, whatever their names.
    pub(crate) fn files_of(&self, hash: &ContentHash) -> Vec<u64> {
        let table = self.table.lock();
        let alike = numbers_of_content(hash).map(|numbers| table.known.range(numbers));
        let alike = alike.into_iter().flatten();
        let holding = alike.filter(|(_, known)| known.content() == Some(*hash));
        holding.map(|(number, _)| *number).collect()
    }

    /// Returns the known directories of `.p2pfs`.
    pub(crate) fn hidden_directories(&self) -> Vec<u64> {
        self.table.lock().hidden.iter().copied().collect()
    }

    /// Returns the number of inodes that the kernel knows.
    pub(crate) fn count(&self) -> usize {
        self.table.lock().known.len()
    }
}

impl InodeTable {
    /// Returns the number of an inode, and adds the inode if it is not in the table.
    fn place(&mut self, above: Option<u64>, inode: &Inode, said: Option<NameRecord>) -> u64 {
        let placed = self.place_as(above, inode, said, |_| true);
        placed.expect("SALTS inodes at once collide in 62 bits of a hash")
    }

    /// Returns the number of an inode among those that `may_be` accepts, and adds the inode if
    /// needed. Returns `None` if all these numbers are taken.
    fn place_as(
        &mut self,
        above: Option<u64>,
        inode: &Inode,
        said: Option<NameRecord>,
        may_be: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        if inode.is_root() {
            return Some(ROOT_INO);
        }
        let above = match above {
            Some(above) if self.known.contains_key(&above) => above,
            _ => self.place_directory(names::parent(&inode.name)),
        };
        let last = names::last(&inode.name);
        let (at, number) = self.number_for(above, &last, inode, may_be)?;
        let is_new = !self.known.contains_key(&number);
        let view = said.as_ref().map_or(0, |said| said.view) as u32;
        let (what, own) = kept(inode, &last, said.map(|said| said.held));
        if !is_new {
            // The same version may have a new mtime or mode.
            let there = self.known.get_mut(&number).expect("it has this number");
            (there.what, there.own, there.view) = (what, own, view);
            return Some(number);
        }
        self.add(number, above, what, own, view);
        if inode.is_hidden_directory() {
            self.hidden.insert(number);
        }
        if at > 0 {
            self.second.insert(number);
        }
        Some(number)
    }

    /// Adds an inode without lookups under a number that none has.
    fn add(
        &mut self,
        number: u64,
        above: u64,
        what: StoredNode,
        own: Option<ShareIndex>,
        view: u32,
    ) {
        let entry = InodeEntry {
            above,
            what,
            own,
            below: 0,
            lookups: 0,
            view,
        };
        self.known.insert(number, entry);
        if let Some(above) = self.known.get_mut(&above) {
            above.below += 1;
        }
    }

    /// Returns the number that an inode has, or the first free one of its numbers, with its place
    /// among them. A free number before the one that the inode has stays free: the kernel knows the
    /// inode by the one that it has.
    fn number_for(
        &self,
        above: u64,
        name: &[u8],
        inode: &Inode,
        may_be: impl Fn(u64) -> bool,
    ) -> Option<(usize, u64)> {
        let kept = self.kept_number(above, name, &inode.node);
        if let Some(kept) = kept.filter(|number| may_be(*number)) {
            return Some((0, kept));
        }
        let mut free = None;
        for (at, number) in inode.numbers().enumerate().filter(|it| may_be(it.1)) {
            match self.known.get(&number) {
                Some(there) if there.is(above, name, &inode.node) => return Some((at, number)),
                Some(_) => {}
                None => free = free.or(Some((at, number))),
            }
            if free.is_some() && self.second.is_empty() {
                break;
            }
        }
        free
    }

    fn count(&mut self, number: u64) {
        if let Some(known) = self.known.get_mut(&number) {
            known.lookups = known.lookups.saturating_add(1);
        }
    }

    /// Returns the number that an inode kept under this name.
    fn kept_number(&self, above: u64, name: &[u8], node: &Node) -> Option<u64> {
        if self.kept.is_empty() {
            return None;
        }
        let number = *self.kept.get(&(above, name.into()))?;
        let is_it = self.known.get(&number)?.is(above, name, node);
        is_it.then_some(number)
    }

    /// Returns the number that an inode kept when it was renamed or copied.
    fn kept_number_of(&self, inode: &Inode) -> Option<u64> {
        if self.kept.is_empty() {
            return None;
        }
        let above = self.number_of(&Inode::directory(names::parent(&inode.name)))?;
        self.kept_number(above, &names::last(&inode.name), &inode.node)
    }

    /// Records that everything below a renamed directory keeps its number.
    fn keep_below(&mut self, directory: u64) {
        for (number, known) in &self.known {
            let mut above = known.above;
            while above != directory && above != ROOT_INO {
                above = self.known.get(&above).map_or(ROOT_INO, |it| it.above);
            }
            if above == directory {
                let key = (known.above, known.name().into());
                self.kept.insert(key, *number);
            }
        }
    }

    /// Forgets that a number was kept.
    fn unkeep(&mut self, number: u64) {
        if let Some(known) = self.known.get(&number).filter(|_| !self.kept.is_empty()) {
            let key = (known.above, known.name().into());
            if self.kept.get(&key) == Some(&number) {
                self.kept.remove(&key);
            }
        }
    }

    fn place_directory(&mut self, name: Name) -> u64 {
        self.place(None, &Inode::directory(name), None)
    }

    /// Removes an inode without lookups and children, and each directory above it that becomes
    /// unneeded.
    fn sweep(&mut self, mut number: u64) {
        while number != ROOT_INO
            && let Some(known) = self.known.get(&number)
            && known.lookups == 0
            && known.below == 0
        {
            self.unkeep(number);
            let gone = self.known.remove(&number).expect("it is in the table");
            self.hidden.remove(&number);
            self.second.remove(&number);
            number = gone.above;
            if let Some(above) = self.known.get_mut(&number) {
                above.below -= 1;
            }
        }
    }

    fn number_of(&self, inode: &Inode) -> Option<u64> {
        if inode.is_root() {
            return Some(ROOT_INO);
        }
        let last = names::last(&inode.name);
        if let Some(kept) = self.kept_number_of(inode) {
            return Some(kept);
        }
        // A number may be free although the inode has a later one: another inode had it.
        let possible = if self.second.is_empty() { 1 } else { SALTS };
        inode.numbers().take(possible.into()).find(|number| {
            let there = self.known.get(number);
            let is_it = there.is_some_and(|it| it.is(it.above, &last, &inode.node));
            is_it && self.name_of(*number).as_ref() == Some(&inode.name)
        })
    }

    /// Returns the full name of a number.
    fn name_of(&self, mut number: u64) -> Option<Name> {
        let mut names = Vec::new();
        while number != ROOT_INO {
            let known = self.known.get(&number)?;
            names.push(known.name());
            number = known.above;
        }
        names.reverse();
        let root = Name::Union(SharedPath::root());
        match names.first() {
            Some(first) if matches!(names::child(&root, first), Some(Name::Hidden)) => names
                .iter()
                .try_fold(root, |name, last| names::child(&name, last)),
            _ => Some(Name::Union(SharedPath::new(names.join(&b'/')).ok()?)),
        }
    }
}

/// Returns the stored form of a node, and its share if it is an own file. `last` is the last part
/// of its name. `said` is the record of this name, if there is one. It is stored instead of a copy
/// of the node if its name and place fit.
fn kept(
    inode: &Inode,
    last: &[u8],
    said: Option<RecordHandle>,
) -> (StoredNode, Option<ShareIndex>) {
    let own = match &inode.node {
        Node::Directory => return (StoredNode::Directory(Box::new(last.into())), None),
        Node::File(file) => file.own.as_ref(),
        _ => None,
    };
    let path = inode.name.path();
    let is_there = own.is_none_or(|(_, at)| Some(at) == path);
    let own = own.map(|(share, _)| *share);
    match said {
        Some(said) if path.is_some() && is_there && said.name() == last => {
            (StoredNode::Said(said), own)
        }
        _ => (
            StoredNode::Other(Box::new((last.into(), inode.node.clone()))),
            own,
        ),
    }
}

impl InodeEntry {
    fn name(&self) -> &[u8] {
        match &self.what {
            StoredNode::Said(said) => said.name(),
            StoredNode::Directory(name) | StoredNode::Removed(name) => name,
            StoredNode::Other(other) => &other.0,
        }
    }

    fn content(&self) -> Option<ContentHash> {
        match &self.what {
            StoredNode::Said(said) => said.is_file().then(|| said.hash()),
            StoredNode::Directory(_) | StoredNode::Removed(_) => None,
            StoredNode::Other(other) => match &other.1 {
                Node::File(file) => Some(file.hash),
                _ => None,
            },
        }
    }

    /// Returns whether it is this version of that name in that directory.
    fn is(&self, above: u64, name: &[u8], node: &Node) -> bool {
        let is_version = match (&self.what, node) {
            (StoredNode::Directory(_), _) => *node == Node::Directory,
            (StoredNode::Removed(_), _) => false,
            (StoredNode::Said(said), Node::File(file)) => {
                said.is_file()
                    && said.hash() == file.hash
                    && self.own.is_some() == file.own.is_some()
            }
            (StoredNode::Said(said), Node::Symlink(to)) => {
                matches!(said.kind(), Some(Kind::Symlink { target }) if target == *to)
            }
            (StoredNode::Said(_), _) => false,
            (StoredNode::Other(other), _) => other.1.is_version(node),
        };
        is_version && self.above == above && self.name() == name
    }

    /// Returns its node. `name` is its full name.
    fn node(&self, name: &Name) -> Node {
        let said = match &self.what {
            StoredNode::Directory(_) | StoredNode::Removed(_) => return Node::Directory,
            StoredNode::Other(other) => return other.1.clone(),
            StoredNode::Said(said) => said,
        };
        match said.kind() {
            Some(Kind::File {
                hash,
                size_bytes,
                executable,
            }) => {
                let path = name.path().cloned().unwrap_or_default();
                Node::File(FileVersion {
                    hash,
                    size_bytes,
                    mtime: said.mtime(),
                    executable,
                    own: self.own.map(|share| (share, path.clone())),
                    path,
                })
            }
            Some(Kind::Symlink { target }) => Node::Symlink(target),
            _ => Node::Directory,
        }
    }
}

#[cfg(test)]
mod tests;
