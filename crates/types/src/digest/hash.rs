//! The name of a content.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{from_hex, to_hex};

/// The hash of a subtree of a file, or of all of it.
pub(super) type NodeHash = [u8; 32];

/// The BLAKE3 hash of a file's bytes: the file's identity, whatever it is called, whoever has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Wraps a hash computed elsewhere.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({})", &to_hex(&self.0)[..8])
    }
}

/// A content by its hash and its size: what a fetch goes by. The hash of a tree is bound to the
/// size of what it is of, so of several sizes that are said of one hash one can be proven, and the
/// rest are lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentKey {
    pub hash: ContentHash,
    /// How many bytes it is said to have.
    pub size_bytes: u64,
}

impl ContentKey {
    /// The content of this hash, where it has this size.
    pub const fn new(hash: ContentHash, size_bytes: u64) -> Self {
        Self { hash, size_bytes }
    }
}

impl FromStr for ContentHash {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        from_hex(text).map(Self).ok_or(DigestError::BadHex)
    }
}

/// What can go wrong between bytes and their hash.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// Not 64 hexadecimal digits.
    #[error("a content hash is 64 hexadecimal digits")]
    BadHex,
    /// The bytes that came from a peer do not fit the hash: the peer is at fault, nothing of them
    /// may be used.
    #[error("the bytes received do not match the content hash")]
    ProofFailed,
    /// Our own bytes do not fit the hash any more: the file changed, or the disk did.
    #[error("the local bytes do not match the content hash")]
    LocalMismatch,
    /// The range is not within the file.
    #[error("the range {start}..{end} is not within a file of {size_bytes} bytes")]
    OutOfRange {
        /// First byte asked.
        start: u64,
        /// One past the last.
        end: u64,
        /// The file's size.
        size_bytes: u64,
    },
    /// Reading the data or its outboard failed.
    #[error("cannot read what is to be proven: {0}")]
    Io(#[from] io::Error),
}
