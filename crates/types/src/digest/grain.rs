//! How fine an outboard is.

use bao_tree::{BaoTree, BlockSize};

use super::LEAF_BYTES;
use crate::extent::CHUNK_BYTES;

/// How many bytes of a file one leaf of its outboard stands for: a power of two of KiB. To prove a
/// part of a leaf all of it is read and hashed, so a finer outboard serves small reads with less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain(u64);

impl Grain {
    /// 64 KiB, whose outboard is a thousandth of the file: what a cache keeps, and the coarsest.
    pub const CHUNK: Self = Self(CHUNK_BYTES);
    /// The finest, four thousandths of the file: the 16 chunks of 1 KiB that BLAKE3 hashes at once
    /// where the processor has AVX-512.
    pub const FINEST: Self = Self(CHUNK_BYTES / 4);

    /// The finest whose outboard of a file of `size_bytes` is no longer than `max_bytes`, else the
    /// coarsest.
    pub fn within(size_bytes: u64, max_bytes: u64) -> Self {
        let mut grain = Self::FINEST;
        while grain != Self::CHUNK && grain.outboard_bytes(size_bytes) > max_bytes {
            grain = Self(2 * grain.0);
        }
        grain
    }

    /// The bytes of a leaf.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// How many bytes the outboard of a file of `size_bytes` has: 64 for each leaf but one.
    pub fn outboard_bytes(self, size_bytes: u64) -> u64 {
        self.tree(size_bytes).outboard_size()
    }

    pub(super) fn tree(self, size_bytes: u64) -> BaoTree {
        let chunks = self.0 / LEAF_BYTES;
        BaoTree::new(size_bytes, BlockSize::from_chunk_log(chunks.ilog2() as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outboard_is_as_fine_as_it_may_be_long() {
        let (mib, gib) = (1 << 20, 1 << 30);
        let bytes = |size| Grain::within(size, mib).bytes();
        assert_eq!(bytes(0), 16 << 10);
        assert_eq!(bytes(gib / 4), 16 << 10);
        assert_eq!(bytes(gib / 4 + 16 * 1024 + 1), 32 << 10);
        assert_eq!(bytes(gib), 64 << 10);
        assert_eq!(bytes(1000 * gib), 64 << 10);
        assert_eq!(Grain::FINEST.outboard_bytes(mib), 63 * 64);
        assert_eq!(Grain::CHUNK.outboard_bytes(mib), 15 * 64);
    }
}
