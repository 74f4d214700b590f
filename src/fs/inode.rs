//! Inodes: which number stands for which version of which name, for as long as the kernel knows it.
//!
//! A number is a hash of the name and the version, so it is the same after a restart, and a new
//! version of a file is a new inode, as after `mv new old`. The kernel bounds the table: an inode
//! is in it from its first lookup until the kernel forgets it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::traits::FileVersion;
use crate::digest::ContentHash;
use crate::path::SharedPath;

/// The root's number (`FUSE_ROOT_ID`, include/uapi/linux/fuse.h).
pub const ROOT_INO: u64 = 1;

/// A name in the mount.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// In the union of what all nodes share; the empty path is the root.
    Union(SharedPath),
    /// `.p2pfs`.
    Hidden,
    /// `.p2pfs/status.json`.
    Status,
    /// `.p2pfs/by-hash`.
    Hashes,
    /// `.p2pfs/by-hash/HEX`.
    Hash(ContentHash),
    /// `.p2pfs/peers`.
    Peers,
    /// `.p2pfs/peers/NAME/…`, by what the node is called.
    Peer(Box<str>, SharedPath),
}

/// What a name stands for, in one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Has names in it.
    Directory,
    /// Has bytes in it.
    File(FileVersion),
    /// Points elsewhere.
    Symlink(Bytes),
    /// The daemon's status, made anew for each open.
    Status,
    /// Only an older peer may have it.
    Older,
}

/// A name and what it stood for when the kernel looked it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// The name.
    pub name: Name,
    /// What it stands for.
    pub node: Node,
}

impl Inode {
    /// The directory at the top.
    pub fn root() -> Self {
        Self {
            name: Name::Union(SharedPath::root()),
            node: Node::Directory,
        }
    }

    /// The number that this inode has unless another has taken it.
    pub fn number(&self) -> u64 {
        if self.is_root() {
            ROOT_INO
        } else {
            self.salted_number(0)
        }
    }

    /// Whether both are the same version of the same name.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_version(&other.node) && self.name == other.name
    }

    /// Whether `node` is the version that this inode stands for; a new mtime or mode makes no new
    /// version, other bytes do. An own file, whose bytes may change under its readers, is another
    /// than the same bytes from elsewhere: the kernel keeps the pages of the one and not of the
    /// other.
    pub fn is_version(&self, node: &Node) -> bool {
        match (&self.node, node) {
            (Node::File(ours), Node::File(theirs)) => {
                ours.hash == theirs.hash && ours.own.is_some() == theirs.own.is_some()
            }
            (ours, theirs) => ours == theirs,
        }
    }

    /// Whether both are own files, at the same place in the same share.
    pub fn is_own_as(&self, node: &Node) -> bool {
        match (&self.node, node) {
            (Node::File(ours), Node::File(theirs)) => ours.own.is_some() && ours.own == theirs.own,
            _ => false,
        }
    }

    fn content(&self) -> Option<&ContentHash> {
        match &self.node {
            Node::File(file) => Some(&file.hash),
            _ => None,
        }
    }

    fn is_hidden_directory(&self) -> bool {
        self.node == Node::Directory && !matches!(self.name, Name::Union(_))
    }

    fn is_root(&self) -> bool {
        matches!(&self.name, Name::Union(path) if path.is_root())
    }

    fn salted_number(&self, salt: u8) -> u64 {
        let mut hasher = blake3::Hasher::new();
        match &self.name {
            Name::Union(path) => hasher.update(b"u").update(path.as_bytes()),
            Name::Hidden => hasher.update(b"d"),
            Name::Status => hasher.update(b"s"),
            Name::Hashes => hasher.update(b"b"),
            Name::Hash(hash) => hasher.update(b"h").update(hash.as_bytes()),
            Name::Peers => hasher.update(b"n"),
            Name::Peer(name, path) => hasher
                .update(b"p")
                .update(name.as_bytes())
                .update(b"/")
                .update(path.as_bytes()),
        };
        // No name holds a NUL, so name and version cannot run into each other.
        match &self.node {
            Node::Directory => hasher.update(b"\0d"),
            Node::File(file) => hasher
                .update(if file.own.is_some() { b"\0w" } else { b"\0f" })
                .update(file.hash.as_bytes()),
            Node::Symlink(target) => hasher.update(b"\0l").update(target),
            Node::Status => hasher.update(b"\0s"),
            Node::Older => hasher.update(b"\0o"),
        };
        let hash = hasher.update(&[salt]).finalize();
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        // 0 means "no inode" and 1 is the root.
        u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(ROOT_INO + 1)
    }
}

/// The inodes that the kernel knows.
pub struct Inodes {
    table: Mutex<Table>,
}

struct Table {
    known: HashMap<u64, Known>,
    /// Every file, after the start of its content's hash.
    files: BTreeSet<(u64, u64)>,
    /// The directories that are not in the union.
    hidden: BTreeSet<u64>,
}

struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

impl Inodes {
    /// Only the root, which the kernel never forgets.
    pub fn new() -> Self {
        let root = Known {
            inode: Arc::new(Inode::root()),
            lookups: 1,
        };
        let table = Table {
            known: HashMap::from([(ROOT_INO, root)]),
            files: BTreeSet::new(),
            hidden: BTreeSet::new(),
        };
        Self {
            table: Mutex::new(table),
        }
    }

    /// Counts a lookup of this inode, and gives its number.
    pub fn look_up(&self, inode: Inode) -> u64 {
        let table = &mut *self.lock();
        let mut number = inode.number();
        for salt in 1..=u8::MAX {
            match table.known.entry(number) {
                Entry::Vacant(free) => {
                    let inode = Arc::new(inode);
                    free.insert(Known {
                        inode: inode.clone(),
                        lookups: 1,
                    });
                    table.index(number, &inode);
                    return number;
                }
                Entry::Occupied(mut taken) if taken.get().inode.is_same(&inode) => {
                    let known = taken.get_mut();
                    known.lookups += 1;
                    // The same version may have come by a new mtime or mode.
                    if *known.inode != inode {
                        known.inode = Arc::new(inode);
                    }
                    return number;
                }
                Entry::Occupied(_) => number = inode.salted_number(salt),
            }
        }
        unreachable!("255 inodes at once collide in 64 bits of a hash")
    }

    /// The kernel has forgotten this many lookups.
    pub fn forget(&self, number: u64, lookups: u64) {
        let table = &mut *self.lock();
        if let Entry::Occupied(mut entry) = table.known.entry(number) {
            let left = entry.get().lookups.saturating_sub(lookups);
            entry.get_mut().lookups = left;
            if left == 0 && number != ROOT_INO {
                let gone = entry.remove();
                table.unindex(number, &gone.inode);
            }
        }
        // After a million names went, the table should not keep their room.
        let known = &mut table.known;
        if known.capacity() > 4096 && known.len() < known.capacity() / 8 {
            known.shrink_to_fit();
        }
    }

    /// What a number stands for, if the kernel knows it.
    pub fn get(&self, number: u64) -> Option<Arc<Inode>> {
        let table = self.lock();
        table.known.get(&number).map(|known| known.inode.clone())
    }

    /// The number of a directory, if the kernel knows it.
    pub fn number_of_directory(&self, name: Name) -> Option<u64> {
        self.number_of(&Inode {
            name,
            node: Node::Directory,
        })
    }

    /// The number of an inode, if the kernel knows it.
    pub fn number_of(&self, inode: &Inode) -> Option<u64> {
        let table = self.lock();
        let mut number = inode.number();
        for salt in 1..=u8::MAX {
            match table.known.get(&number) {
                None => return None,
                Some(there) if there.inode.is_same(inode) => return Some(number),
                Some(_) => number = inode.salted_number(salt),
            }
        }
        None
    }

    /// The directories that the kernel knows.
    pub fn directories(&self) -> Vec<u64> {
        let table = self.lock();
        let directories = table
            .known
            .iter()
            .filter(|(_, it)| it.inode.node == Node::Directory);
        directories.map(|(number, _)| *number).collect()
    }

    /// The names of all that the kernel knows.
    pub fn names(&self) -> Vec<Name> {
        let table = self.lock();
        table
            .known
            .values()
            .map(|known| known.inode.name.clone())
            .collect()
    }

    /// The versions of a content that the kernel knows, under whatever name.
    pub fn files_of(&self, hash: &ContentHash) -> Vec<u64> {
        let table = self.lock();
        let start = start_of(hash);
        let holds = |number: &u64| {
            let inode = table.known.get(number).map(|known| &*known.inode);
            inode.and_then(Inode::content) == Some(hash)
        };
        let alike = table.files.range((start, 0)..=(start, u64::MAX));
        alike.map(|(_, number)| *number).filter(holds).collect()
    }

    /// The directories of `.p2pfs` that the kernel knows.
    pub fn hidden_directories(&self) -> Vec<u64> {
        self.lock().hidden.iter().copied().collect()
    }

    /// How many inodes the kernel knows.
    pub fn count(&self) -> usize {
        self.lock().known.len()
    }

    // A panic elsewhere cannot leave the table torn: each step under the lock is complete.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn index(&mut self, number: u64, inode: &Inode) {
        if let Some(hash) = inode.content() {
            self.files.insert((start_of(hash), number));
        } else if inode.is_hidden_directory() {
            self.hidden.insert(number);
        }
    }

    fn unindex(&mut self, number: u64, inode: &Inode) {
        if let Some(hash) = inode.content() {
            self.files.remove(&(start_of(hash), number));
        } else {
            self.hidden.remove(&number);
        }
    }
}

/// What files are found by; those of another content with the same start are told apart later.
fn start_of(hash: &ContentHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::native::record::Timestamp;

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    fn file(name: &str, content: &[u8]) -> Inode {
        let version = FileVersion {
            path: path(name),
            hash: ContentHash::of(content),
            size_bytes: content.len() as u64,
            mtime: Timestamp::default(),
            executable: false,
            own: None,
        };
        Inode {
            name: Name::Union(path(name)),
            node: Node::File(version),
        }
    }

    #[test]
    fn a_number_is_the_same_after_a_restart() {
        let (before, after) = (Inodes::new(), Inodes::new());
        after.look_up(file("other", b"x"));
        assert_eq!(
            before.look_up(file("a", b"1")),
            after.look_up(file("a", b"1"))
        );
        assert_eq!(Inode::root().number(), ROOT_INO);
    }

    #[test]
    fn a_new_version_is_a_new_inode_and_the_old_one_stays() {
        let inodes = Inodes::new();
        let old = inodes.look_up(file("a", b"1"));
        let new = inodes.look_up(file("a", b"2"));
        assert_ne!(old, new);
        let still = inodes.get(old).unwrap();
        assert!(still.is_same(&file("a", b"1")));
    }

    #[test]
    fn the_same_version_with_a_new_mtime_is_the_same_inode() {
        let inodes = Inodes::new();
        let old = inodes.look_up(file("a", b"1"));
        let mut touched = file("a", b"1");
        let Node::File(version) = &mut touched.node else {
            unreachable!()
        };
        version.mtime.seconds = 77;
        assert_eq!(inodes.look_up(touched.clone()), old);
        assert_eq!(
            *inodes.get(old).unwrap(),
            touched,
            "the newest attributes are kept"
        );
    }

    #[test]
    fn an_own_file_is_another_inode_than_the_same_bytes_from_elsewhere() {
        let (fetched, mut own) = (file("a", b"1"), file("a", b"1"));
        let Node::File(version) = &mut own.node else {
            unreachable!()
        };
        version.own = Some((Default::default(), path("a")));
        assert_ne!(fetched.number(), own.number());
        assert!(!fetched.is_same(&own));
    }

    #[test]
    fn the_same_file_in_three_places_is_three_inodes() {
        let Node::File(version) = file("a", b"1").node else {
            unreachable!()
        };
        let names = [
            Name::Union(path("a")),
            Name::Peer("lab".into(), path("a")),
            Name::Hash(version.hash),
        ];
        let number = |name| {
            Inode {
                name,
                node: Node::File(version.clone()),
            }
            .number()
        };
        let numbers: Vec<u64> = names.map(number).to_vec();
        assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers[0] != numbers[2]);
    }

    #[test]
    fn an_inode_lives_until_its_last_lookup_is_forgotten() {
        let inodes = Inodes::new();
        let number = inodes.look_up(file("a", b"1"));
        inodes.look_up(file("a", b"1"));
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_some());
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_none());
        inodes.forget(number, 99);
        inodes.forget(ROOT_INO, 99);
        assert!(
            inodes.get(ROOT_INO).is_some(),
            "the root is never forgotten"
        );
        assert_eq!(inodes.count(), 1);
    }

    #[test]
    fn two_inodes_of_one_number_get_two() {
        let inodes = Inodes::new();
        let number = file("a", b"1").number();
        let squatter = Known {
            inode: Arc::new(file("b", b"2")),
            lookups: 1,
        };
        inodes.lock().known.insert(number, squatter);
        let moved = inodes.look_up(file("a", b"1"));
        assert_ne!(moved, number);
        assert_eq!(inodes.look_up(file("a", b"1")), moved, "and keeps it");
        assert_eq!(inodes.number_of(&file("a", b"1")), Some(moved));
    }

    #[test]
    fn what_the_kernel_does_not_know_has_no_number_to_invalidate() {
        let inodes = Inodes::new();
        assert_eq!(inodes.number_of_directory(Name::Union(path("d"))), None);
        let directory = Inode {
            name: Name::Union(path("d")),
            node: Node::Directory,
        };
        let number = inodes.look_up(directory);
        assert_eq!(
            inodes.number_of_directory(Name::Union(path("d"))),
            Some(number)
        );
        assert!(inodes.files_of(&ContentHash::of(b"1")).is_empty());
        let known = inodes.look_up(file("a", b"1"));
        assert_eq!(inodes.files_of(&ContentHash::of(b"1")), vec![known]);
    }

    #[test]
    fn the_files_of_a_content_are_found_until_they_are_forgotten() {
        let inodes = Inodes::new();
        let (a, b) = (file("a", b"1"), file("b", b"1"));
        let hash = *a.content().unwrap();
        let numbers = [inodes.look_up(a), inodes.look_up(b)];
        inodes.look_up(file("c", b"2"));
        let found: BTreeSet<u64> = inodes.files_of(&hash).into_iter().collect();
        assert_eq!(found, BTreeSet::from(numbers));
        inodes.forget(numbers[0], 1);
        assert_eq!(inodes.files_of(&hash), [numbers[1]]);
        inodes.forget(numbers[1], 1);
        assert!(inodes.files_of(&hash).is_empty());
    }

    #[test]
    fn hidden_directories_are_told_apart_and_forgotten() {
        let inodes = Inodes::new();
        let directory = |name| Inode {
            name,
            node: Node::Directory,
        };
        inodes.look_up(directory(Name::Union(path("a"))));
        let far = directory(Name::Peer("far".into(), path("a")));
        let number = inodes.look_up(far.clone());
        assert_eq!(inodes.look_up(far), number);
        assert_eq!(inodes.hidden_directories(), [number]);
        inodes.forget(number, 2);
        assert!(inodes.hidden_directories().is_empty());
    }
}
