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
    /// Returns whether both are files with the same content.
    pub fn is_same_file(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { hash: one, .. }, Self::File { hash: other, .. }) => one == other,
            _ => false,
        }
    }
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
