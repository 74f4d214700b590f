//! Records of a node's log (its files, its cached contents), and the signed head of the log.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Maximum length in bytes of the name of a file's sender.
pub const SENDER_MAX_BYTES: usize = 255;

/// Maximum number of components of a path. It is far more than in trees that people make, and
/// bounds what one record can make the others store.
pub const PATH_MAX_DEPTH: usize = 256;
/// Maximum size of a file in bytes: the largest signed 64-bit offset (`off_t`).
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;

/// A point in time: seconds since 1970 (may be negative) and nanoseconds below 1,000,000,000.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds after the whole second.
    pub nanoseconds: u32,
}

/// Earliest plausible time in seconds since 1970. A clock before it is certainly wrong, because the
/// first release did not exist yet.
pub const EARLIEST_UNIX_S: u64 = 1_767_225_600; // 2026-01-01

/// Number of bits for the nanoseconds in a packed time.
const NANOSECOND_BITS: u32 = 30;

impl Timestamp {
    /// Packs the time into 8 bytes. Returns none if the time is before 1970 or after May 2514, or
    /// has a full second of nanoseconds or more.
    pub fn packed(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let fits =
            seconds >> (u64::BITS - NANOSECOND_BITS) == 0 && self.nanoseconds < 1_000_000_000;
        fits.then_some(seconds << NANOSECOND_BITS | u64::from(self.nanoseconds))
    }

    /// Returns the time one nanosecond later.
    pub fn next(self) -> Self {
        let is_last = self.nanoseconds >= 999_999_999;
        Self {
            seconds: self.seconds.saturating_add(i64::from(is_last)),
            nanoseconds: if is_last { 0 } else { self.nanoseconds + 1 },
        }
    }

    /// Unpacks a time that [`Self::packed`] returned.
    pub fn unpacked(time: u64) -> Self {
        Self {
            seconds: (time >> NANOSECOND_BITS).cast_signed(),
            nanoseconds: (time & ((1 << NANOSECOND_BITS) - 1)) as u32,
        }
    }
}

/// Converts a system time. A time before 1970 becomes the beginning of 1970.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: since.as_secs().cast_signed(),
            nanoseconds: since.subsec_nanos(),
        }
    }
}

/// Number that an author gives to one of its shares or, from [`Self::FIRST_SEALED`] on, to a list
/// of readers of a share.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ShareIndex(pub u16);

impl ShareIndex {
    /// The first number with sealed records, which only the readers of a share can open.
    pub const FIRST_SEALED: Self = Self(1 << 15);

    /// Returns whether the records under this number are sealed.
    pub fn is_sealed(self) -> bool {
        self >= Self::FIRST_SEALED
    }
}

/// Maximum number of shares of one node. Every [`ShareIndex`] that is not sealed is below it.
pub const SHARES_MAX: usize = 4096;
/// Maximum number of readers of a share. It is far above the size of a group that shares something,
/// and bounds what one record makes the others store.
pub const READERS_MAX: usize = 1024;
/// Maximum size in bytes of a sealed path and of a sealed entry: the clear form and the bytes that
/// sealing adds.
pub const SEALED_MAX_BYTES: usize = 5120;

/// Maximum number of contents that one version or one deletion names. A path that more nodes
/// replace at once is a lock file.
pub const REPLACES_MAX: usize = 32;

/// Maximum number of paths in the offer of one keeper.
pub const KEEP_PATHS_MAX: usize = 64;
/// Maximum length in bytes of all paths in the offer of one keeper together. It bounds what one
/// record makes the others store and compare.
pub const KEEP_PATHS_MAX_BYTES: usize = 16 << 10;

/// The offer of a node to keep complete copies of the files at and below some paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeepOffer {
    /// The paths in ascending order. None if the node keeps nothing. The root means all files.
    pub paths: Vec<SharedPath>,
    /// Whether the node keeps all files there. Otherwise the keepers choose among themselves.
    pub all: bool,
    /// Whether the node has no room for further files.
    pub full: bool,
}

impl KeepOffer {
    /// Returns whether a path is at or below one of the paths.
    pub fn covers(&self, path: &SharedPath) -> bool {
        is_at_or_below(path, &self.paths)
    }

    /// Returns whether the offer is within the limits of a log.
    pub fn fits(&self) -> bool {
        let bytes: usize = self.paths.iter().map(|it| it.as_bytes().len()).sum();
        self.paths.len() <= KEEP_PATHS_MAX
            && bytes <= KEEP_PATHS_MAX_BYTES
            && self.paths.is_sorted_by(|a, b| a < b)
    }
}

/// Returns whether a path is at or below one of `tops`.
pub fn is_at_or_below(path: &SharedPath, tops: &[SharedPath]) -> bool {
    tops.iter().any(|top| path == top || path.is_beneath(top))
}

/// One reader of a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntitledReader {
    /// The reader.
    pub node: NodeId,
    /// The share's key, encrypted for this reader.
    pub key: ([u8; 32], [u8; 16]),
}

/// The object that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file. It is recorded only after it was hashed.
    File {
        /// Hash of the content.
        hash: ContentHash,
        /// Size in bytes.
        size_bytes: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A directory.
    Directory,
    /// A symbolic link that stays inside the namespace.
    Symlink {
        /// The target, relative, with `..` at its beginning only.
        target: bytes::Bytes,
    },
}

impl Kind {
    /// Returns the hash by which [`Entry::replaces`] and [`Fact::Gone`] name this object: the
    /// content of a file, and for a link or a directory a hash that no file can be made to have.
    pub fn content(&self) -> ContentHash {
        match self {
            Self::File { hash, .. } => *hash,
            Self::Directory => named_content(DIRECTORY_CONTEXT, &[]),
            Self::Symlink { target } => named_content(LINK_CONTEXT, target),
        }
    }

    /// Returns whether both are files with the same content.
    pub fn is_same_file(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { hash: one, .. }, Self::File { hash: other, .. }) => one == other,
            _ => false,
        }
    }
}

/// Key derivation contexts that separate these hashes from those of contents and from each other.
const DIRECTORY_CONTEXT: &str = "p2pfs record replaced directory 1";
const LINK_CONTEXT: &str = "p2pfs record replaced link 1";

fn named_content(context: &str, bytes: &[u8]) -> ContentHash {
    ContentHash::new(blake3::derive_key(context, bytes))
}

/// The sender of a file to the node that shares it, according to that node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sender {
    /// A node that has proven its identity.
    Node(NodeId),
    /// Another sender, by the name that it gave, at most [`SENDER_MAX_BYTES`].
    Peer(String),
}

/// One name in a node's share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "EncodedEntry", into = "EncodedEntry")]
pub struct Entry {
    /// The object that the name stands for.
    pub kind: Kind,
    /// Modification time.
    pub mtime: Timestamp,
    /// The earlier of `mtime` and the time when the author first saw this version. The author fixes
    /// it, so that a merge reads no clock.
    pub version_time: Timestamp,
    /// The sender, if it is a file that another node or program sent to the author.
    pub sent_by: Option<Sender>,
    /// Contents that this version of a file replaces at its path, the newest first, at most
    /// [`REPLACES_MAX`]. Empty for a link or a directory.
    pub replaces: Vec<ContentHash>,
}

/// The encoded form of an [`Entry`]. An entry that replaces nothing has the same bytes as before
/// entries could replace others.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename = "Entry")]
struct EncodedEntry {
    kind: EncodedKind,
    mtime: Timestamp,
    version_time: Timestamp,
    sent_by: Option<Sender>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename = "Kind")]
enum EncodedKind {
    File {
        hash: ContentHash,
        size_bytes: u64,
        executable: bool,
    },
    Directory,
    Symlink {
        target: bytes::Bytes,
    },
    /// An object that replaces contents.
    Replacing {
        kind: Kind,
        replaces: Vec<ContentHash>,
    },
}

impl From<Entry> for EncodedEntry {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            kind if !entry.replaces.is_empty() => EncodedKind::Replacing {
                kind,
                replaces: entry.replaces,
            },
            Kind::File {
                hash,
                size_bytes,
                executable,
            } => EncodedKind::File {
                hash,
                size_bytes,
                executable,
            },
            Kind::Directory => EncodedKind::Directory,
            Kind::Symlink { target } => EncodedKind::Symlink { target },
        };
        Self {
            kind,
            mtime: entry.mtime,
            version_time: entry.version_time,
            sent_by: entry.sent_by,
        }
    }
}

impl From<EncodedEntry> for Entry {
    fn from(encoded: EncodedEntry) -> Self {
        let (kind, replaces) = match encoded.kind {
            EncodedKind::File {
                hash,
                size_bytes,
                executable,
            } => (
                Kind::File {
                    hash,
                    size_bytes,
                    executable,
                },
                Vec::new(),
            ),
            EncodedKind::Directory => (Kind::Directory, Vec::new()),
            EncodedKind::Symlink { target } => (Kind::Symlink { target }, Vec::new()),
            EncodedKind::Replacing { kind, replaces } => (kind, replaces),
        };
        Self {
            kind,
            mtime: encoded.mtime,
            version_time: encoded.version_time,
            sent_by: encoded.sent_by,
            replaces,
        }
    }
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// The name has this content now.
    Entry {
        /// Number of the author's share.
        share: ShareIndex,
        /// The path, never the root.
        path: SharedPath,
        /// The entry at the path.
        entry: Entry,
    },
    /// The name was removed (a tombstone).
    Removed {
        /// Number of the author's share.
        share: ShareIndex,
        /// The removed path.
        path: SharedPath,
    },
    /// The author's cache has this content completely.
    Have {
        /// Hash of the content.
        hash: ContentHash,
        /// Size in bytes.
        size_bytes: u64,
    },
    /// The author's cache no longer has this content (a tombstone).
    HaveNot {
        /// Hash of the content.
        hash: ContentHash,
    },
    /// The nodes that can read the sealed records with this number. The list of a number never
    /// changes.
    Readers {
        /// Number of the sealed share, at least [`ShareIndex::FIRST_SEALED`].
        number: ShareIndex,
        /// Number of the author's share.
        share: ShareIndex,
        /// Salt with which the keys are wrapped; different for each key.
        salt: [u8; 16],
        /// The author and the readers in ascending order of their ids; at most [`READERS_MAX`]
        /// besides the author.
        readers: Vec<EntitledReader>,
    },
    /// A name of a sealed share has this content now.
    Sealed {
        /// Number of the sealed share.
        number: ShareIndex,
        /// The sealed path. The same path with the same number has the same bytes.
        path: bytes::Bytes,
        /// The sealed [`Entry`].
        entry: bytes::Bytes,
    },
    /// A name of a sealed share was removed. With an empty path, the list of readers under this
    /// number was removed (a tombstone).
    SealedRemoved {
        /// Number of the sealed share.
        number: ShareIndex,
        /// The sealed path, as in the removed record.
        path: bytes::Bytes,
    },
    /// Versions of a path with these contents are deleted, unless their version time is later. It
    /// is independent of the author's own entries at the path.
    Gone {
        /// The path, never the root.
        path: SharedPath,
        /// The deleted contents ([`Kind::content`]), the newest first; at most [`REPLACES_MAX`].
        /// None if the author withdrew the deletion.
        replaces: Vec<ContentHash>,
        /// Time of the deletion.
        time: Timestamp,
    },
    /// Whether the versions that other nodes state to replace or delete in a share of the author
    /// are so. Without a record they are not. A record with `open` false is a tombstone.
    Terms {
        /// Number of the author's share.
        share: ShareIndex,
        /// Whether other nodes may replace and delete.
        open: bool,
    },
    /// The offer of the author to keep files. An offer without paths is a tombstone.
    Keeps(KeepOffer),
}

impl Fact {
    /// Returns whether nodes that speak `p2pfs/3` or less can decode the fact. A sealed entry is
    /// opaque to the format, so its content does not matter.
    pub fn is_of_first_form(&self) -> bool {
        match self {
            Self::Entry { entry, .. } => entry.replaces.is_empty(),
            Self::Gone { .. } | Self::Terms { .. } | Self::Keeps(_) => false,
            _ => true,
        }
    }
}

/// One step of a node's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Sequence number, which increases with every step of a log.
    pub sequence: u64,
    /// The content.
    pub fact: Fact,
}

/// A node's summary of its whole log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// Author of the log.
    pub author: NodeId,
    /// Name of the author.
    pub name: NodeName,
    /// Epoch of the log. It is higher after the author lost its state.
    pub epoch: u64,
    /// Sequence number of the last step.
    pub sequence: u64,
    /// Number of live records: all records in force except tombstones.
    pub count: u64,
    /// Tombstones at or below this sequence are forgotten. A node with an older state needs a
    /// snapshot.
    pub floor: u64,
    /// Set hash of the live records.
    pub digest: [u8; 32],
}

/// A head and its author's Ed25519 signature over [`Head::signed_bytes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignedHead {
    /// The signed head.
    pub head: Head,
    /// The two halves of the signature (RFC 8032).
    pub signature: [[u8; 32]; 2],
}

impl Head {
    /// Returns the rank of the head among those of its author: epoch, then sequence.
    pub fn rank(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }

    /// Returns the bytes that the signature covers. A label separates them from all other signed
    /// bytes.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = b"p2pfs head 1\0".to_vec();
        bytes.extend(postcard::to_stdvec(self).expect("a head always encodes"));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::native::udp::HEAD_MAX_BYTES;

    #[test]
    fn a_signed_head_with_the_longest_name_leaves_room_in_a_datagram() {
        let head = Head {
            author: NodeId::new([255; 32]),
            name: NodeName::new("n".repeat(63)).unwrap(),
            epoch: u64::MAX,
            sequence: u64::MAX,
            count: u64::MAX,
            floor: u64::MAX,
            digest: [255; 32],
        };
        let signed = SignedHead {
            head,
            signature: [[255; 32]; 2],
        };
        assert!(postcard::to_stdvec(&signed).unwrap().len() <= HEAD_MAX_BYTES);
    }

    fn entry(kind: Kind, replaces: Vec<ContentHash>) -> Entry {
        Entry {
            kind,
            mtime: Timestamp {
                seconds: 5,
                nanoseconds: 6,
            },
            version_time: Timestamp {
                seconds: 7,
                nanoseconds: 8,
            },
            sent_by: Some(Sender::Peer("p".to_owned())),
            replaces,
        }
    }

    fn kinds() -> [Kind; 3] {
        let file = Kind::File {
            hash: ContentHash::new([9; 32]),
            size_bytes: 300,
            executable: true,
        };
        let link = Kind::Symlink {
            target: bytes::Bytes::from_static(b"t"),
        };
        [file, Kind::Directory, link]
    }

    #[test]
    fn an_entry_without_replacements_has_the_bytes_of_the_first_form() {
        let times_and_sender = [10, 6, 14, 8, 1, 1, 1, b'p'];
        let of_file = [&[0][..], &[9; 32], &[0xac, 0x02, 1]].concat();
        let firsts = [of_file, vec![1], vec![2, 1, b't']];
        for (kind, first) in kinds().into_iter().zip(firsts) {
            let entry = entry(kind, Vec::new());
            let bytes = postcard::to_stdvec(&entry).unwrap();
            assert_eq!(bytes, [&first[..], &times_and_sender].concat());
            assert_eq!(postcard::from_bytes::<Entry>(&bytes), Ok(entry));
        }
    }

    #[test]
    fn replacements_survive_encoding_and_the_first_form_does_not_know_them() {
        for kind in kinds() {
            let replaces = vec![ContentHash::new([1; 32]), ContentHash::new([2; 32])];
            let entry = entry(kind, replaces);
            let bytes = postcard::to_stdvec(&entry).unwrap();
            assert_eq!(bytes[0], 3, "a kind that earlier releases refuse");
            assert_eq!(postcard::from_bytes::<Entry>(&bytes), Ok(entry));
        }
    }

    #[test]
    fn objects_of_different_kinds_have_different_contents() {
        let [file, directory, link] = kinds().map(|kind| kind.content());
        assert_eq!(file, ContentHash::new([9; 32]));
        assert_ne!(directory, ContentHash::of(b""));
        assert_ne!(link, ContentHash::of(b"t"));
        assert_ne!(directory, link);
    }

    #[test]
    fn every_field_of_a_head_is_under_the_signature() {
        let head = Head {
            author: NodeId::new([1; 32]),
            name: NodeName::new("a").unwrap(),
            epoch: 1,
            sequence: 2,
            count: 3,
            floor: 0,
            digest: [4; 32],
        };
        let variants = [
            Head {
                author: NodeId::new([2; 32]),
                ..head.clone()
            },
            Head {
                name: NodeName::new("b").unwrap(),
                ..head.clone()
            },
            Head {
                epoch: 9,
                ..head.clone()
            },
            Head {
                sequence: 9,
                ..head.clone()
            },
            Head {
                count: 9,
                ..head.clone()
            },
            Head {
                floor: 9,
                ..head.clone()
            },
            Head {
                digest: [9; 32],
                ..head.clone()
            },
        ];
        assert!(
            variants
                .iter()
                .all(|other| other.signed_bytes() != head.signed_bytes())
        );
    }
}
