//! What content is: its BLAKE3 hash, the outboard that lets any range of it be proven, and the
//! proofs themselves.
//!
//! Owns the choice of hash and of group size. Pure computation over byte sources; it opens no file
//! and knows no peer. The tree is that of the bao encoding (BLAKE3 paper, section 6.4) with groups
//! of 64 KiB as leaves of what is stored, and proofs down to BLAKE3's own 1 KiB chunks.

mod growing;
mod hash;
mod in_memory;
mod outboard;
mod proof;
mod walk;

pub use growing::Growing;
pub use hash::{ContentHash, ContentKey, DigestError};
pub use in_memory::InMemory;
pub use outboard::{Outboard, outboard_bytes};
pub use proof::{HashPair, Verified, decode, encode};

/// A byte source that is read at any offset: what [`encode`] takes.
pub use bao_tree::io::sync::ReadAt;

use bao_tree::{BaoTree, BlockSize};

/// 2^6 BLAKE3 chunks of 1 KiB: groups of 64 KiB, [`crate::extent::CHUNK_BYTES`].
const GROUP: BlockSize = BlockSize::from_chunk_log(6);
/// The size of a BLAKE3 chunk, the grain of a proof.
const LEAF_BYTES: u64 = 1024;

fn tree(size_bytes: u64) -> BaoTree {
    BaoTree::new(size_bytes, GROUP)
}
