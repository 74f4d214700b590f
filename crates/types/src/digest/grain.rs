//! Resolution of an outboard.

use bao_tree::{BaoTree, BlockSize};

use super::LEAF_BYTES;
use crate::extent::CHUNK_BYTES;

/// Number of bytes of a file for each leaf of its outboard: a power of two in KiB. To prove a part
/// of a leaf, all of it is read and hashed, so a finer outboard makes small reads cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain(u64);

impl Grain {
    /// 64 KiB, the coarsest grain. The cache stores outboards of this grain. They have a thousandth
    /// of the file's size.
    pub const CHUNK: Self = Self(CHUNK_BYTES);
    /// The finest grain: the 16 chunks of 1 KiB that BLAKE3 hashes at once on processors with
    /// AVX-512. Its outboard has four thousandths of the file's size.
    pub const FINEST: Self = Self(CHUNK_BYTES / 4);

    /// Returns the finest grain with an outboard of at most `max_bytes` for a file of `size_bytes`,
    /// or the coarsest grain if none has.
    pub fn within(size_bytes: u64, max_bytes: u64) -> Self {
        let mut grain = Self::FINEST;
        while grain != Self::CHUNK && grain.outboard_bytes(size_bytes) > max_bytes {
            grain = Self(2 * grain.0);
        }
        grain
    }

    /// Returns the size of a leaf in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the size of the outboard of a file of `size_bytes`: 64 bytes for each leaf but one.
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
    fn an_outboard_is_as_fine_as_its_limit_allows() {
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
