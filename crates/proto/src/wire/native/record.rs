//! What a node says it has: the records of its log, and the signed head that vouches for them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// The longest name of the sender of a file.
pub const SENDER_MAX_BYTES: usize = 255;

/// The most directories above a name, itself counted: far more than trees that people make have,
/// and a bound on what one record can make others keep.
pub const PATH_MAX_DEPTH: usize = 256;
/// The largest size of a file: what fits a signed 64-bit offset (`off_t`), as for every filesystem.
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;

/// A point in time: seconds since 1970 (may be negative) and nanoseconds below 1,000,000,000.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds since the epoch, rounded down.
    pub seconds: i64,
    /// The rest.
    pub nanoseconds: u32,
}

/// Before this a clock is certainly wrong: the first release was not yet made.
pub const EARLIEST_UNIX_S: u64 = 1_767_225_600; // 2026-01-01

/// How many bits of a packed time are nanoseconds.
const NANOSECOND_BITS: u32 = 30;

impl Timestamp {
    /// In 8 bytes, where it is from 1970 to 2513.
    pub fn packed(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let fits =
            seconds >> (u64::BITS - NANOSECOND_BITS) == 0 && self.nanoseconds < 1_000_000_000;
        fits.then_some(seconds << NANOSECOND_BITS | u64::from(self.nanoseconds))
    }

    /// What was packed so.
    pub fn unpacked(time: u64) -> Self {
        Self {
            seconds: (time >> NANOSECOND_BITS).cast_signed(),
            nanoseconds: (time & ((1 << NANOSECOND_BITS) - 1)) as u32,
        }
    }
}

/// What is before 1970 is taken for its beginning.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: since.as_secs().cast_signed(),
            nanoseconds: since.subsec_nanos(),
        }
    }
}

/// Which of a node's shares an entry is in: the number is the node's own and outlives restarts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ShareIndex(pub u16);

impl ShareIndex {
    /// From this number on, what is said of a share is sealed for its readers.
    pub const FIRST_SEALED: Self = Self(1 << 15);

    /// Whether what is said under this number is sealed.
    pub fn is_sealed(self) -> bool {
        self >= Self::FIRST_SEALED
    }
}

/// How many shares one node can number: the number of each is below this one.
pub const SHARES_MAX: usize = 4096;
/// The most readers that a share can have: far more than people who share something among
/// themselves, and a bound on what one record makes others keep.
pub const READERS_MAX: usize = 1024;
/// The longest path that is sealed, and the longest entry: what they are sealed from, and as much
/// again as sealing adds and an entry has besides a link's target.
pub const SEALED_MAX_BYTES: usize = 5120;

/// One reader of a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reader {
    pub node: NodeId,
    /// The share's key, as only this reader can open it.
    pub key: ([u8; 32], [u8; 16]),
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file; it is only ever recorded once hashed.
    File {
        /// Its identity.
        hash: ContentHash,
        size_bytes: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A directory.
    Directory,
    /// A symbolic link that points inside its share.
    Symlink {
        /// Relative, with `..` at its beginning only.
        target: bytes::Bytes,
    },
}

impl Kind {
    /// Whether both are files of the same bytes.
    pub fn is_same_file(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { hash: one, .. }, Self::File { hash: other, .. }) => one == other,
            _ => false,
        }
    }
}

/// Who sent a file to the node that shares it, by that node's word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sender {
    /// A node, which proved that it is.
    Node(NodeId),
    /// Another, by what it calls itself: at most [`SENDER_MAX_BYTES`].
    Peer(String),
}

/// One name in a node's share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its modification time.
    pub mtime: Timestamp,
    /// min(mtime, when its author first saw this version): fixed by the author, so that a merge
    /// reads no clock.
    pub version_time: Timestamp,
    /// Who sent it to its author, where it is a file and somebody did.
    pub sent_by: Option<Sender>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// The name has this content now.
    Entry {
        /// Of the author's shares.
        share: ShareIndex,
        /// Never the root.
        path: SharedPath,
        /// What is there.
        entry: Entry,
    },
    /// The name is gone (a tombstone).
    Removed {
        /// Of the author's shares.
        share: ShareIndex,
        /// What is gone.
        path: SharedPath,
    },
    /// The author's cache holds this content complete.
    Have {
        /// The content.
        hash: ContentHash,
        size_bytes: u64,
    },
    /// The author's cache holds it no more (a tombstone).
    HaveNot {
        /// The content.
        hash: ContentHash,
    },
    /// What follows under this number is for these nodes alone. A number has one list for ever.
    Readers {
        /// At least [`ShareIndex::FIRST_SEALED`].
        number: ShareIndex,
        /// Which of the author's shares it is.
        share: ShareIndex,
        /// What the keys are wrapped about: another for each key.
        salt: [u8; 16],
        /// The author and the readers, by their keys ascending; at most [`READERS_MAX`] besides
        /// the author.
        readers: Vec<Reader>,
    },
    /// A name of such a share has this content now.
    Sealed {
        number: ShareIndex,
        /// The path, sealed: the same path of one number is the same bytes.
        path: bytes::Bytes,
        /// The [`Entry`], sealed.
        entry: bytes::Bytes,
    },
    /// A name of such a share is gone; with an empty path, its list of readers (a tombstone).
    SealedRemoved {
        number: ShareIndex,
        /// As it was said.
        path: bytes::Bytes,
    },
}

/// One step of a node's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Its place: each step of a log has a higher one than the step before.
    pub sequence: u64,
    /// What it says.
    pub fact: Fact,
}

/// What a node vouches for about its whole log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// Whose log.
    pub author: NodeId,
    /// What the author calls itself.
    pub name: NodeName,
    /// Which life of the log: higher after the author lost its state.
    pub epoch: u64,
    /// The last step.
    pub sequence: u64,
    /// How many records are live: entries and haves, without tombstones.
    pub count: u64,
    /// Tombstones at or below this sequence are forgotten: who knows less needs a snapshot.
    pub floor: u64,
    /// The set hash of the live records.
    pub digest: [u8; 32],
}

/// A head and its author's Ed25519 signature over [`Head::signed_bytes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignedHead {
    /// What is vouched for.
    pub head: Head,
    /// The two halves of the signature (RFC 8032).
    pub signature: [[u8; 32]; 2],
}

impl Head {
    /// The order of heads of one author: by epoch, then sequence.
    pub fn rank(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }

    /// The bytes that the signature covers, with a label so that they can be nothing else.
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
    fn a_signed_head_of_the_longest_name_leaves_room_in_a_datagram() {
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
