//! The inodes that the kernel knows: each with its name in the directory above, and what it is.
//!
//! A million of them cost little beyond the namespace itself: a name is kept as what somebody said
//! of it, which the catalogue holds as well, and no path is kept at all. The kernel bounds the
//! table: an inode is in it from its first lookup until the kernel forgets it, and a directory for
//! as long as something below it is.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use super::inode::{DIRECTORIES, Inode, Name, Node, ROOT_INO, numbers_of_content};
use super::names::{self, Listed, Said};
use super::traits::FileVersion;
use p2pfs_catalogue::{Held, View};
use p2pfs_proto::wire::native::record::{Kind, ShareIndex};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// The inodes that the kernel knows.
pub(crate) struct Inodes {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    known: BTreeMap<u64, Known>,
    /// The directories that are not in the union.
    hidden: BTreeSet<u64>,
    /// Those that have not the best of their numbers, since that was taken.
    second: BTreeSet<u64>,
}

struct Known {
    /// The number of the directory that it is in.
    above: u64,
    what: What,
    /// Of which of this node's shares it is, where it is an own file.
    own: Option<ShareIndex>,
    /// How many inodes have this one as their directory.
    below: u32,
    /// How often the kernel looked it up, or as often as can be counted.
    lookups: u32,
    /// The number, less its high bits, of the view in which its name was found to stand for it.
    view: u32,
}

enum What {
    /// A file or link under the name by which it was said.
    Said(Held),
    Directory(Box<Box<[u8]>>),
    /// Anything else, and under another name.
    Other(Box<(Box<[u8]>, Node)>),
}

impl Inodes {
    /// Only the root, which the kernel never forgets.
    pub(crate) fn new() -> Self {
        let mut table = Table::default();
        let root = Known {
            above: ROOT_INO,
            what: What::Directory(Box::default()),
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

    /// Counts a lookup of this inode, and gives its number. `above` is the number of its directory,
    /// where that is known.
    pub(crate) fn look_up(&self, above: Option<u64>, inode: &Inode, said: Option<Said>) -> u64 {
        let table = &mut *self.table.lock();
        let number = table.place(above, inode, said);
        table.count(number);
        number
    }

    /// The same under this one of its numbers; false where another inode has that.
    pub(crate) fn look_up_as(
        &self,
        number: u64,
        above: Option<u64>,
        inode: &Inode,
        said: Option<Said>,
    ) -> bool {
        let table = &mut *self.table.lock();
        let placed = table.place_as(above, inode, said, |other| other == number);
        placed.into_iter().for_each(|number| table.count(number));
        placed.is_some()
    }

    /// Whether the kernel knows this inode by another number than the best.
    pub(crate) fn has_second_number(&self, inode: &Inode) -> bool {
        let second = &self.table.lock().second;
        !second.is_empty() && (inode.numbers().skip(1)).any(|number| second.contains(&number))
    }

    /// The kernel has forgotten this many lookups; whether it does not know the inode any more.
    pub(crate) fn forget(&self, number: u64, lookups: u64) -> bool {
        let table = &mut *self.table.lock();
        if let Some(known) = table.known.get_mut(&number) {
            let lookups = u32::try_from(lookups).unwrap_or(u32::MAX);
            known.lookups = known.lookups.saturating_sub(lookups);
        }
        table.sweep(number);
        !table.known.contains_key(&number)
    }

    /// What a number stands for, if the kernel knows it.
    pub(crate) fn get(&self, number: u64) -> Option<Inode> {
        let table = self.table.lock();
        let name = table.name_of(number)?;
        let node = table.known.get(&number)?.node(&name);
        Some(Inode { name, node })
    }

    /// What the name of a file or link stands for in a view, where the kernel looked it up in the
    /// same one.
    pub(crate) fn looked_up_in(&self, view: &View, number: u64, name: &Name) -> Option<Listed> {
        let table = self.table.lock();
        let known = table.known.get(&number)?;
        match &known.what {
            What::Said(held) if known.view == view.number() as u32 => {
                Some(Listed::new(known.node(name), held.mtime()))
            }
            _ => None,
        }
    }

    /// The number of a directory, if the kernel knows it.
    pub(crate) fn number_of_directory(&self, name: Name) -> Option<u64> {
        self.number_of(&Inode::directory(name))
    }

    /// The number of an inode, if the kernel knows it.
    pub(crate) fn number_of(&self, inode: &Inode) -> Option<u64> {
        self.table.lock().number_of(inode)
    }

    /// The directories that the kernel knows.
    pub(crate) fn directories(&self) -> Vec<u64> {
        let table = self.table.lock();
        let others = table.known.range(DIRECTORIES).map(|(number, _)| *number);
        others.chain([ROOT_INO]).collect()
    }

    /// The names that the kernel knows, each with the number of its directory.
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

    /// The versions of a content that the kernel knows, under whatever name.
    pub(crate) fn files_of(&self, hash: &ContentHash) -> Vec<u64> {
        let table = self.table.lock();
        let alike = numbers_of_content(hash).map(|numbers| table.known.range(numbers));
        let alike = alike.into_iter().flatten();
        let holding = alike.filter(|(_, known)| known.content() == Some(*hash));
        holding.map(|(number, _)| *number).collect()
    }

    /// The directories of `.p2pfs` that the kernel knows.
    pub(crate) fn hidden_directories(&self) -> Vec<u64> {
        self.table.lock().hidden.iter().copied().collect()
    }

    /// How many inodes the kernel knows.
    pub(crate) fn count(&self) -> usize {
        self.table.lock().known.len()
    }
}

impl Table {
    /// The number of an inode, which is added where it is not known.
    fn place(&mut self, above: Option<u64>, inode: &Inode, said: Option<Said>) -> u64 {
        let placed = self.place_as(above, inode, said, |_| true);
        placed.expect("SALTS inodes at once collide in 62 bits of a hash")
    }

    /// The same under one of the numbers that may be; nothing where all those are taken.
    fn place_as(
        &mut self,
        above: Option<u64>,
        inode: &Inode,
        said: Option<Said>,
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
        let mut allowed = inode.numbers().enumerate().filter(|it| may_be(it.1));
        let (at, number, is_new) = allowed.find_map(|(at, number)| {
            let there = self.known.get(&number);
            let is_it = there.is_none_or(|there| there.is(above, &last, &inode.node));
            is_it.then_some((at, number, there.is_none()))
        })?;
        let view = said.as_ref().map_or(0, |said| said.view) as u32;
        let (what, own) = kept(inode, &last, said.map(|said| said.held));
        match self.known.entry(number) {
            // the same version may have come by a new mtime or mode
            Entry::Occupied(mut there) => {
                let there = there.get_mut();
                (there.what, there.own, there.view) = (what, own, view);
            }
            Entry::Vacant(free) => {
                free.insert(Known {
                    above,
                    what,
                    own,
                    below: 0,
                    lookups: 0,
                    view,
                });
            }
        }
        if is_new {
            if inode.is_hidden_directory() {
                self.hidden.insert(number);
            }
            if at > 0 {
                self.second.insert(number);
            }
            if let Some(above) = self.known.get_mut(&above) {
                above.below += 1;
            }
        }
        Some(number)
    }

    fn count(&mut self, number: u64) {
        if let Some(known) = self.known.get_mut(&number) {
            known.lookups = known.lookups.saturating_add(1);
        }
    }

    fn place_directory(&mut self, name: Name) -> u64 {
        self.place(None, &Inode::directory(name), None)
    }

    /// Takes out what nobody needs any more, and the directories above that were kept for it alone.
    fn sweep(&mut self, mut number: u64) {
        while number != ROOT_INO
            && let Entry::Occupied(known) = self.known.entry(number)
            && known.get().lookups == 0
            && known.get().below == 0
        {
            let gone = known.remove();
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
        for number in inode.numbers() {
            let there = self.known.get(&number)?;
            let is_it = there.is(there.above, &last, &inode.node);
            if is_it && self.name_of(number).as_ref() == Some(&inode.name) {
                return Some(number);
            }
        }
        None
    }

    /// The whole name of a number.
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

/// How a node is kept; the last part of its name is `last`.
fn kept(inode: &Inode, last: &[u8], said: Option<Held>) -> (What, Option<ShareIndex>) {
    let own = match &inode.node {
        Node::Directory => return (What::Directory(Box::new(last.into())), None),
        Node::File(file) => file.own.as_ref(),
        _ => None,
    };
    let path = inode.name.path();
    let is_there = own.is_none_or(|(_, at)| Some(at) == path);
    let own = own.map(|(share, _)| *share);
    match said {
        Some(said) if path.is_some() && is_there && said.name() == last => (What::Said(said), own),
        _ => (
            What::Other(Box::new((last.into(), inode.node.clone()))),
            own,
        ),
    }
}

impl Known {
    fn name(&self) -> &[u8] {
        match &self.what {
            What::Said(said) => said.name(),
            What::Directory(name) => name,
            What::Other(other) => &other.0,
        }
    }

    fn content(&self) -> Option<ContentHash> {
        match &self.what {
            What::Said(said) => said.is_file().then(|| said.hash()),
            What::Directory(_) => None,
            What::Other(other) => match &other.1 {
                Node::File(file) => Some(file.hash),
                _ => None,
            },
        }
    }

    /// Whether it is this version of that name in that directory.
    fn is(&self, above: u64, name: &[u8], node: &Node) -> bool {
        let is_version = match (&self.what, node) {
            (What::Directory(_), _) => *node == Node::Directory,
            (What::Said(said), Node::File(file)) => {
                said.is_file()
                    && said.hash() == file.hash
                    && self.own.is_some() == file.own.is_some()
            }
            (What::Said(said), Node::Symlink(to)) => {
                matches!(said.kind(), Some(Kind::Symlink { target }) if target == *to)
            }
            (What::Said(_), _) => false,
            (What::Other(other), _) => other.1.is_version(node),
        };
        is_version && self.above == above && self.name() == name
    }

    /// What it stands for, by its whole name.
    fn node(&self, name: &Name) -> Node {
        let said = match &self.what {
            What::Directory(_) => return Node::Directory,
            What::Other(other) => return other.1.clone(),
            What::Said(said) => said,
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
