//! Content: its BLAKE3 hash, the outboard with which any range of it can be proven, and the proofs.
//!
//! This module owns the choice of hash and of group size. It is pure computation over byte sources,
//! opens no file and knows no peer. Its only state is a memory of hashed chunks (`marks`), which
//! does not change any result. The tree is that of the bao encoding (BLAKE3 paper, section 6.4).
//! The stored tree has groups of a [`Grain`] as leaves. A proof goes down to BLAKE3's own 1 KiB
//! chunks where its range begins or ends within a chunk of 64 KiB. It does not depend on the grain
//! of the outboard that it was made from.

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
pub use growing::{Growing, HashedVersion};
pub use hash::{ContentHash, ContentKey, DigestError};
pub use outboard::Outboard;
pub use proof::{HashPair, Verified, decode, encode, encode_from, encode_in};
pub use source::{AppendAt, InMemory, OnDisk};

/// A byte source with random access, as [`encode`] requires it.
pub use bao_tree::io::sync::ReadAt;

/// Size of a BLAKE3 chunk in bytes, the smallest unit of a proof.
const LEAF_BYTES: u64 = 1024;
