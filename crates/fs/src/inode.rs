//! Inodes, and the derivation of their numbers.
//!
//! A number is a hash of the name and the version. It is therefore the same after a restart, and a
//! new version of a file is a new inode, as after `mv new old`. The first bits of a number give the
//! type of the inode. For a file, the first bits of its content's hash follow. An inode can
//! therefore be found again by its number after it was forgotten. A file in a writable share of
//! this node has a number by its device and inode on the disk instead.

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::attributes::FileKind;
use super::traits::FileVersion;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;
use p2pfs_upper::Found;

/// The root's number (`FUSE_ROOT_ID`, include/uapi/linux/fuse.h).
pub const ROOT_INO: u64 = 1;
/// How many numbers an inode may have. If another inode has the first number, the second is used,
/// and so on.
pub(super) const SALTS: u8 = 8;

/// Bits of a content's hash in the numbers of its files. Among millions of contents, only a few
/// have the same bits. The remaining bits of the number distinguish the files of one content.
pub(super) const CONTENT_BITS: u32 = 20;
const FILE_MARK_BITS: u32 = 2;
const OTHER_MARK_BITS: u32 = 3;
const FILE_REST_BITS: u32 = u64::BITS - FILE_MARK_BITS - CONTENT_BITS;
/// First bits of a number by type of inode. All are far above the root's number.
const WRITTEN_FILES: u64 = 1 << 61;
const FILES: u64 = 1 << 62;
const OWN_FILES: u64 = 2 << 62;
pub(super) const DIRECTORIES: RangeInclusive<u64> = 6 << 61..=OTHERS - 1;
const OTHERS: u64 = 7 << 61;

/// A name in the mount.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// A path in the union of all shares. The empty path is the root.
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
    /// `.p2pfs/peers/NAME/…`, with the label of the node.
    Peer(Box<str>, SharedPath),
}

/// The object that a name stands for, in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A directory.
    Directory,
    /// A file with its version.
    File(FileVersion),
    /// A symbolic link with its target.
    Symlink(Bytes),
    /// The daemon's status, generated for each open.
    Status,
    /// A file that only a foreign peer may have.
    Foreign,
    /// The file in a writable share of this node, as it is on the disk.
    Written(WrittenFile),
}

/// A file in a writable share of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenFile {
    pub share: ShareIndex,
    /// Path in the folder of the share.
    pub local: SharedPath,
    /// The file when it was looked up.
    pub disk: Found,
}

/// The device and inode number of a file on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumberOnDisk {
    pub device: u64,
    pub number: u64,
}

impl NumberOnDisk {
    /// Returns the numbers of a file.
    pub(super) fn of(file: &Found) -> Self {
        Self {
            device: file.device,
            number: file.number,
        }
    }

    /// Returns the inode number of the file in the mount. It stays the same when the file is renamed
    /// or written, as on the disk.
    pub(super) fn inode(self) -> u64 {
        let device = blake3::hash(&self.device.to_le_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *device.as_bytes();
        let mixed = self.number ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        WRITTEN_FILES | mixed >> OTHER_MARK_BITS ^ mixed & (WRITTEN_FILES - 1)
    }
}

impl WrittenFile {
    /// Returns whether both are the same file on the disk.
    fn is_same(&self, other: &Self) -> bool {
        NumberOnDisk::of(&self.disk) == NumberOnDisk::of(&other.disk)
    }
}

/// A name, and the node that it had when the kernel looked it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    pub name: Name,
    /// The node in its version at that time.
    pub node: Node,
}

impl Inode {
    /// Creates the inode of a directory.
    pub(crate) fn directory(name: Name) -> Self {
        let node = Node::Directory;
        Self { name, node }
    }

    /// Returns the number of this inode, unless another inode has taken it.
    pub(crate) fn number(&self) -> u64 {
        if self.is_root() {
            ROOT_INO
        } else {
            self.salted_number(0)
        }
    }

    /// Returns the possible numbers of this inode, the best first.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        (0..SALTS).map(|salt| self.salted_number(salt))
    }

    /// Returns whether `node` is the version of this inode.
    pub(crate) fn is_version(&self, node: &Node) -> bool {
        self.node.is_version(node)
    }

    /// Returns whether both are own files at the same path in the same share.
    pub(crate) fn is_own_as(&self, node: &Node) -> bool {
        match (&self.node, node) {
            (Node::File(ours), Node::File(theirs)) => ours.own.is_some() && ours.own == theirs.own,
            _ => false,
        }
    }

    /// Returns whether it is `.p2pfs` or a directory below it.
    pub(crate) fn is_hidden_directory(&self) -> bool {
        self.node == Node::Directory && !matches!(self.name, Name::Union(_))
    }

    /// Returns whether it is the root directory.
    pub(crate) fn is_root(&self) -> bool {
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
        // No name contains a NUL, so name and version are unambiguous.
        match &self.node {
            Node::Directory => hasher.update(b"\0d"),
            Node::File(file) => hasher
                .update(if file.own.is_some() { b"\0w" } else { b"\0f" })
                .update(file.hash.as_bytes()),
            Node::Symlink(target) => hasher.update(b"\0l").update(target),
            Node::Status => hasher.update(b"\0s"),
            Node::Foreign => hasher.update(b"\0o"),
            Node::Written(_) => hasher.update(b"\0w"),
        };
        let hash = hasher.update(&[salt]).finalize();
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let rest = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        match &self.node {
            Node::File(file) => {
                let mark = if file.own.is_some() { OWN_FILES } else { FILES };
                first_of_content(mark, &file.hash) | rest >> (u64::BITS - FILE_REST_BITS)
            }
            Node::Directory => DIRECTORIES.start() | rest >> OTHER_MARK_BITS,
            Node::Written(file) if salt == 0 => NumberOnDisk::of(&file.disk).inode(),
            Node::Written(_) => WRITTEN_FILES | rest >> OTHER_MARK_BITS,
            _ => OTHERS | rest >> OTHER_MARK_BITS,
        }
    }
}

impl Name {
    /// Returns the path in the union or among a node's files. Returns `None` for other names.
    pub(crate) fn path(&self) -> Option<&SharedPath> {
        match self {
            Self::Union(path) | Self::Peer(_, path) => Some(path),
            _ => None,
        }
    }
}

impl Node {
    /// Returns the file type of the node.
    pub(crate) fn kind(&self) -> FileKind {
        match self {
            Self::Directory => FileKind::Directory,
            Self::File(_) | Self::Status | Self::Foreign | Self::Written(_) => FileKind::Regular,
            Self::Symlink(_) => FileKind::Symlink,
        }
    }

    /// Returns whether both are the same version of a name. A new mtime or mode is not a new
    /// version, but new bytes are. An own file may change under its readers, so it is a different
    /// version than the same bytes from another node. The kernel caches pages of the latter only.
    pub(crate) fn is_version(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(ours), Self::File(theirs)) => {
                ours.hash == theirs.hash && ours.own.is_some() == theirs.own.is_some()
            }
            (Self::Written(ours), Self::Written(theirs)) => ours.is_same(theirs),
            (ours, theirs) => ours == theirs,
        }
    }
}

/// Returns the ranges of the numbers that files of a content have, whatever their names.
pub(super) fn numbers_of_content(hash: &ContentHash) -> [RangeInclusive<u64>; 2] {
    [FILES, OWN_FILES].map(|mark| {
        let first = first_of_content(mark, hash);
        first..=first | ((1 << FILE_REST_BITS) - 1)
    })
}

/// The type of an inode, as encoded in its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberKind {
    /// A file in a writable share.
    Written,
    /// A file. The content's hash begins with the first [`CONTENT_BITS`] bits of this one.
    File(ContentHash),
    Directory,
    Other,
}

impl NumberKind {
    pub(crate) fn of(number: u64) -> Self {
        match number {
            OTHERS.. => Self::Other,
            number if DIRECTORIES.contains(&number) => Self::Directory,
            ..FILES => Self::Written,
            _ => {
                let start = number << FILE_MARK_BITS >> (u64::BITS - CONTENT_BITS);
                let start = (start as u32) << (u32::BITS - CONTENT_BITS);
                let mut hash = [0; 32];
                hash[..4].copy_from_slice(&start.to_be_bytes());
                Self::File(ContentHash::new(hash))
            }
        }
    }
}

fn first_of_content(mark: u64, hash: &ContentHash) -> u64 {
    let [a, b, c, d, ..] = *hash.as_bytes();
    let start = u64::from(u32::from_be_bytes([a, b, c, d]) >> (u32::BITS - CONTENT_BITS));
    mark | start << FILE_REST_BITS
}
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use p2pfs_proto::wire::native::record::Timestamp;

    pub(crate) fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    pub(crate) fn file(name: &str, content: &[u8]) -> Inode {
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

    fn own(name: &str, content: &[u8]) -> Inode {
        let mut own = file(name, content);
        let Node::File(version) = &mut own.node else {
            unreachable!()
        };
        version.own = Some((Default::default(), path(name)));
        own
    }

    #[test]
    fn an_inode_number_encodes_its_kind_and_hash_prefix() {
        for content in [&b"1"[..], b"2", b""] {
            let hash = ContentHash::of(content);
            for inode in [file("a", content), own("a", content)] {
                let ranges = numbers_of_content(&hash);
                for number in inode.numbers() {
                    assert!(ranges.iter().any(|range| range.contains(&number)));
                    let NumberKind::File(start) = NumberKind::of(number) else {
                        panic!("{number:x}")
                    };
                    assert_eq!(start.as_bytes()[..2], hash.as_bytes()[..2]);
                    assert_eq!(start.as_bytes()[2], hash.as_bytes()[2] & 0xf0);
                    assert_eq!(numbers_of_content(&start), ranges);
                }
            }
        }
        let mark = |name, node| NumberKind::of(Inode { name, node }.number());
        let name = Name::Union(path("a"));
        assert_eq!(mark(name.clone(), Node::Directory), NumberKind::Directory);
        let link = Node::Symlink(bytes::Bytes::from_static(b"to"));
        assert_eq!(mark(name, link), NumberKind::Other);
        assert_eq!(mark(Name::Status, Node::Status), NumberKind::Other);
    }

    #[test]
    fn an_own_file_has_another_inode_than_the_same_bytes_from_elsewhere() {
        let (fetched, own) = (file("a", b"1"), own("a", b"1"));
        assert_ne!(fetched.number(), own.number());
        assert!(!fetched.is_version(&own.node));
    }

    #[test]
    fn one_content_under_three_paths_has_three_inodes() {
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
}
