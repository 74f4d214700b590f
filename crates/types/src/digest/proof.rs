//! Ranges with proofs: encoding by the node that has the bytes, decoding by the node that knows
//! only the hash.
//!
//! A proof has the same data as the bao encoding of the range (BLAKE3 paper, section 6.4), but all
//! hash pairs precede all bytes. The bytes are therefore read from the disk into the send buffer,
//! and used in the receive buffer, in one piece.

use std::io;

use bytes::{Bytes, BytesMut};

use super::walk::{ExpectedHashes, ParentStep, ProofPlan, ProofStep, halves, hash_bytes};
use super::{AppendAt, ContentHash, DigestError, Grain, ReadAt};
use crate::extent::ByteRange;
use crate::pool::PiecePool;

/// A hash pair of the outboard from a proof, and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPair {
    /// Byte offset within the outboard.
    pub offset: u64,
    /// Hashes of the left and the right child.
    pub bytes: [u8; 64],
}

/// A range that was proven to belong to the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The covered range: the requested one, widened to whole KiB.
    pub range: ByteRange,
    /// The bytes of the range.
    pub bytes: Bytes,
    /// The pairs of the outboard that the proof contains.
    pub pairs: Vec<HashPair>,
}

impl Verified {
    /// Returns the bytes of a part without copying them, or none if the part is not within the
    /// range.
    pub fn slice(&self, part: ByteRange) -> Option<Bytes> {
        if part.is_empty() {
            return Some(Bytes::new());
        }
        if !self.range.contains(&part) {
            return None;
        }
        let start = (part.start - self.range.start) as usize;
        Some(self.bytes.slice(start..start + part.len() as usize))
    }
}

/// Encodes `range` of a file with the proof that it belongs to `hash`. Checks every byte against
/// `outboard`, which has the grain [`Grain::CHUNK`], so bytes that would not verify are never
/// returned. A chunk that this process has hashed before is recognized by its code (`marks`).
///
/// # Errors
/// [`DigestError::LocalMismatch`] if the file or the outboard does not match the hash,
/// [`DigestError::OutOfRange`], [`DigestError::Io`].
pub fn encode(
    hash: ContentHash,
    size_bytes: u64,
    range: ByteRange,
    data: impl AppendAt,
    outboard: impl ReadAt,
) -> Result<Vec<u8>, DigestError> {
    encode_from(Grain::CHUNK, hash, size_bytes, range, data, outboard)
}

/// Encodes `range` as [`encode`] does, from an outboard of this grain.
///
/// # Errors
/// Those of [`encode`].
pub fn encode_from(
    grain: Grain,
    hash: ContentHash,
    size_bytes: u64,
    range: ByteRange,
    data: impl AppendAt,
    outboard: impl ReadAt,
) -> Result<Vec<u8>, DigestError> {
    check_range(size_bytes, range)?;
    let walk = ProofPlan::new(size_bytes, range, grain);
    let mut encoded = BytesMut::with_capacity(walk.encoded_bytes());
    prove(hash, size_bytes, &walk, data, outboard, &mut encoded)?;
    Ok(encoded.into())
}

/// Encodes `range` as [`encode_from`] does, in a buffer of the pool.
///
/// # Errors
/// Those of [`encode`].
pub fn encode_in(
    pool: &PiecePool,
    grain: Grain,
    hash: ContentHash,
    size_bytes: u64,
    range: ByteRange,
    data: impl AppendAt,
    outboard: impl ReadAt,
) -> Result<Bytes, DigestError> {
    check_range(size_bytes, range)?;
    let walk = ProofPlan::new(size_bytes, range, grain);
    let mut buffer = pool.take(walk.encoded_bytes());
    let encoded = buffer.bytes_mut();
    prove(hash, size_bytes, &walk, data, outboard, encoded)?;
    Ok(buffer.freeze())
}

/// Appends the pairs and bytes of a proof to an empty buffer with room for them.
fn prove(
    hash: ContentHash,
    size_bytes: u64,
    walk: &ProofPlan,
    data: impl AppendAt,
    outboard: impl ReadAt,
    encoded: &mut BytesMut,
) -> Result<(), DigestError> {
    let (grain, pairs_bytes) = (walk.grain, walk.pairs_bytes());
    encoded.resize(pairs_bytes, 0);
    let whole = walk.range.align_in(grain.bytes(), size_bytes);
    append_whole(&data, walk.range, whole, encoded).map_err(read_failure)?;
    let (pairs, bytes) = encoded.split_at_mut(pairs_bytes);
    let mut source = ProofSource::new(&data, size_bytes, walk.range, grain, bytes);
    let mut pairs = pairs.chunks_exact_mut(64);
    let mut expected = ExpectedHashes::new(*hash.as_bytes());
    for step in &walk.steps {
        let fits = match step {
            ProofStep::Pair(step) => {
                let pair = match step.offset {
                    Some(offset) => read_pair(&outboard, offset)?,
                    None => source.hash_pair(step)?,
                };
                pairs
                    .next()
                    .expect("the walk counted them")
                    .copy_from_slice(&pair);
                expected.accept_pair(step, &pair)
            }
            ProofStep::Bytes { range, is_root } => {
                expected.accept_own_bytes(*range, source.bytes(*range), *is_root)
            }
        };
        if !fits {
            return Err(DigestError::LocalMismatch);
        }
    }
    Ok(())
}

/// Decodes the result of [`encode`] for the same hash, size and range, without copying the bytes.
/// The pairs are those of an outboard of [`Grain::CHUNK`].
///
/// # Errors
/// [`DigestError::ProofFailed`] if any byte is wrong, missing or surplus: the sender is at fault.
/// Nothing of a failed proof is returned. [`DigestError::OutOfRange`].
pub fn decode(
    hash: ContentHash,
    size_bytes: u64,
    range: ByteRange,
    mut encoded: Bytes,
) -> Result<Verified, DigestError> {
    check_range(size_bytes, range)?;
    let walk = ProofPlan::new(size_bytes, range, Grain::CHUNK);
    let pairs_bytes = walk.pairs_bytes();
    if encoded.len() as u64 != pairs_bytes as u64 + walk.range.len() {
        return Err(DigestError::ProofFailed);
    }
    let bytes = encoded.split_off(pairs_bytes);
    let (mut proof, _) = encoded.as_chunks::<64>();
    let mut pairs = Vec::with_capacity(proof.len());
    let mut expected = ExpectedHashes::new(*hash.as_bytes());
    for step in &walk.steps {
        let fits = match step {
            ProofStep::Pair(step) => {
                let (pair, rest) = proof.split_first().expect("the length was checked");
                proof = rest;
                let bytes = *pair;
                pairs.extend(step.offset.map(|offset| HashPair { offset, bytes }));
                expected.accept_pair(step, pair)
            }
            ProofStep::Bytes { range, is_root } => {
                let start = (range.start - walk.range.start) as usize;
                let bytes = &bytes[start..start + range.len() as usize];
                expected.accept_bytes(*range, bytes, *is_root)
            }
        };
        if !fits {
            return Err(DigestError::ProofFailed);
        }
    }
    let range = walk.range;
    Ok(Verified {
        range,
        bytes,
        pairs,
    })
}

/// The bytes to be proven, in their final place, and the last read leaf of the outboard that is
/// requested in part. The other bytes of the leaf are needed for its hashes.
struct ProofSource<'a, D> {
    data: &'a D,
    size_bytes: u64,
    range: ByteRange,
    grain: Grain,
    bytes: &'a mut [u8],
    leaf: Vec<u8>,
    leaf_range: ByteRange,
}

/// Reads the whole leaves of a range into their final place in one call, and leaves room for the
/// rest. The rest is filled when its pairs are hashed. Thus the sent bytes are the very bytes that
/// were checked, and were not read a second time after the check.
fn append_whole(
    data: &impl AppendAt,
    range: ByteRange,
    whole: ByteRange,
    encoded: &mut BytesMut,
) -> io::Result<()> {
    let end = encoded.len() + range.len() as usize;
    if !whole.is_empty() {
        encoded.resize(encoded.len() + (whole.start - range.start) as usize, 0);
        data.append_exact_at(whole.start, whole.len() as usize, encoded)?;
    }
    encoded.resize(end, 0);
    Ok(())
}

impl<'a, D: ReadAt> ProofSource<'a, D> {
    fn new(
        data: &'a D,
        size_bytes: u64,
        range: ByteRange,
        grain: Grain,
        bytes: &'a mut [u8],
    ) -> Self {
        let (leaf, leaf_range) = (Vec::new(), ByteRange::new(0, 0));
        Self {
            data,
            size_bytes,
            range,
            grain,
            bytes,
            leaf,
            leaf_range,
        }
    }

    /// Hashes the halves of a subtree within a leaf. Copies the requested part of the leaf to its
    /// final place.
    fn hash_pair(&mut self, step: &ParentStep) -> Result<[u8; 64], DigestError> {
        if !self.leaf_range.contains(&step.range) {
            self.read_leaf(step.range.align_out(self.grain.bytes(), self.size_bytes))?;
        }
        let hash = |half: ByteRange| {
            let start = (half.start - self.leaf_range.start) as usize;
            hash_bytes(
                half.start,
                &self.leaf[start..start + half.len() as usize],
                false,
            )
        };
        let (left, right) = halves(step.range);
        let mut pair = [0; 64];
        pair[..32].copy_from_slice(&hash(left));
        pair[32..].copy_from_slice(&hash(right));
        Ok(pair)
    }

    fn read_leaf(&mut self, leaf: ByteRange) -> Result<(), DigestError> {
        self.leaf.resize(leaf.len() as usize, 0);
        self.data
            .read_exact_at(leaf.start, &mut self.leaf)
            .map_err(read_failure)?;
        self.leaf_range = leaf;
        let wanted = leaf.intersection(&self.range);
        let from = (wanted.start - leaf.start) as usize;
        let to = (wanted.start - self.range.start) as usize;
        let length = wanted.len() as usize;
        self.bytes[to..to + length].copy_from_slice(&self.leaf[from..from + length]);
        Ok(())
    }

    fn bytes(&self, range: ByteRange) -> &[u8] {
        let start = (range.start - self.range.start) as usize;
        &self.bytes[start..start + range.len() as usize]
    }
}

fn read_pair(outboard: &impl ReadAt, offset: u64) -> Result<[u8; 64], DigestError> {
    let mut pair = [0; 64];
    outboard
        .read_exact_at(offset, &mut pair)
        .map_err(read_failure)?;
    Ok(pair)
}

fn check_range(size_bytes: u64, range: ByteRange) -> Result<(), DigestError> {
    let inside = range.end <= size_bytes && (!range.is_empty() || size_bytes == 0);
    if inside {
        return Ok(());
    }
    Err(DigestError::OutOfRange {
        start: range.start,
        end: range.end,
        size_bytes,
    })
}

/// Converts a read error. An early end means that the file or its outboard was truncated.
fn read_failure(error: io::Error) -> DigestError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DigestError::LocalMismatch,
        _ => DigestError::Io(error),
    }
}

#[cfg(test)]
mod tests;
