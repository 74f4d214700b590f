//! What content is: its BLAKE3 hash, the outboard that lets any range of it be proven, and the
//! proofs themselves.
//!
//! Owns the choice of hash and of group size. Pure computation over byte sources; it opens no file
//! and knows no peer. All that it keeps is a memory of chunks that were hashed (`marks`), which
//! changes no answer. The tree is that of the bao encoding (BLAKE3 paper, section 6.4) with groups
//! of a [`Grain`] as leaves of what is stored, and proofs down to BLAKE3's own 1 KiB chunks. The
//! proof of a range is the same whatever the grain of the outboard that it was made from.

mod grain;
mod growing;
mod hash;
mod marks;
mod outboard;
mod proof;
#[cfg(any(test, feature = "test-support"))]
pub mod sample;
mod source;
mod walk;

pub use grain::Grain;
pub use growing::Growing;
pub use hash::{ContentHash, ContentKey, DigestError};
pub use outboard::Outboard;
pub use proof::{HashPair, Verified, decode, encode, encode_from};
pub use source::{AppendAt, InMemory, OnDisk};

/// A byte source that is read at any offset: what [`encode`] takes.
pub use bao_tree::io::sync::ReadAt;

/// The size of a BLAKE3 chunk, the least that is proven.
const LEAF_BYTES: u64 = 1024;
