//! Sample contents for the tests of several crates.

use std::sync::Arc;

use bytes::Bytes;

use super::{ContentHash, ContentKey, Outboard, encode};
use crate::extent::ByteRange;

/// A file with its outboard.
#[derive(Clone)]
pub struct Content {
    /// The bytes of the file.
    pub bytes: Bytes,
    /// The outboard of the bytes.
    pub outboard: Arc<Outboard>,
}

impl Content {
    /// Creates `size` bytes without a pattern. The same seed gives the same bytes.
    pub fn new(seed: u64, size: usize) -> Self {
        let mut bytes = vec![0; size];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        let outboard = Arc::new(Outboard::of(&bytes));
        Self {
            bytes: bytes.into(),
            outboard,
        }
    }

    /// Returns the hash of the content.
    pub fn hash(&self) -> ContentHash {
        self.outboard.hash
    }

    /// Returns the size of the content in bytes.
    pub fn size(&self) -> u64 {
        self.outboard.size_bytes
    }

    /// Returns the hash with the size.
    pub fn key(&self) -> ContentKey {
        ContentKey::new(self.hash(), self.size())
    }

    /// Returns the bytes of a range.
    pub fn part(&self, range: ByteRange) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// Encodes a range with its proof.
    pub fn encode(&self, range: ByteRange) -> Vec<u8> {
        let pairs = &self.outboard.pairs[..];
        encode(self.hash(), self.size(), range, &self.bytes[..], pairs).unwrap()
    }
}
