//! Sample contents for the tests of several crates.

use std::sync::Arc;

use bytes::Bytes;

use super::{ContentHash, Outboard, encode};
use crate::extent::ByteRange;

/// A file with the tree of its hashes.
#[derive(Clone)]
pub struct Content {
    pub bytes: Bytes,
    pub outboard: Arc<Outboard>,
}

impl Content {
    /// Bytes without a pattern, the same for the same seed.
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

    pub fn hash(&self) -> ContentHash {
        self.outboard.hash
    }

    pub fn size(&self) -> u64 {
        self.outboard.size_bytes
    }

    pub fn part(&self, range: ByteRange) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    pub fn encode(&self, range: ByteRange) -> Vec<u8> {
        let pairs = &self.outboard.pairs[..];
        encode(self.hash(), self.size(), range, &self.bytes[..], pairs).unwrap()
    }
}
