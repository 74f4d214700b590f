//! The hash of a content.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{from_hex, to_hex};

/// Hash of a subtree of a file, or of the whole file.
pub(super) type NodeHash = [u8; 32];

/// BLAKE3 hash of a file's bytes. It identifies the content, whatever its name and its holder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Wraps a hash that was computed elsewhere.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Computes the hash of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the 32 bytes.
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

/// A content by its hash and its size, the key of a fetch. The shape of the hash tree depends on
/// the size. Of several sizes claimed for one hash, only one can therefore be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentKey {
    /// The hash.
    pub hash: ContentHash,
    /// The claimed size in bytes.
    pub size_bytes: u64,
}

impl ContentKey {
    /// Creates the key of the content with this hash and this size.
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

/// Why bytes do not prove to have a hash, or why a text is not a hash.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The text does not have 64 hexadecimal digits.
    #[error("a content hash is 64 hexadecimal digits")]
    BadHex,
    /// The bytes from a peer do not match the hash. The peer is at fault, and none of the bytes may
    /// be used.
    #[error("the bytes received do not match the content hash")]
    ProofFailed,
    /// The local bytes or their outboard do not match the hash, because a file or the disk has
    /// changed.
    #[error("the local bytes do not match the content hash")]
    LocalMismatch,
    /// The range is not within the file.
    #[error("the range {start}..{end} is not within a file of {size_bytes} bytes")]
    OutOfRange {
        /// Offset of the first requested byte.
        start: u64,
        /// Offset after the last requested byte.
        end: u64,
        /// Size of the file in bytes.
        size_bytes: u64,
    },
    /// Reading the data or its outboard failed.
    #[error("cannot read the bytes to prove: {0}")]
    Io(#[from] io::Error),
}
