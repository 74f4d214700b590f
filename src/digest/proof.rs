//! Ranges that prove themselves: encoding on the side that has the bytes, decoding on the side that
//! knows only the hash.

use std::io::{Cursor, Read};

use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{DecodeResponseIter, ReadAt, encode_ranges_validated};
use bao_tree::io::{BaoContentItem, EncodeError};
use bytes::Bytes;

use super::{ContentHash, DigestError, covering_chunks, tree};
use crate::extent::ByteRange;

/// One verified run of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// A hash pair of the outboard that a proof carried, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPair {
    /// Byte offset within the outboard.
    pub offset: u64,
    /// Left and right child.
    pub bytes: [u8; 64],
}

/// A range that was proven to belong to the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The bytes covered: the range asked for, widened to whole KiB.
    pub range: ByteRange,
    /// The bytes in order; together they are exactly `range`.
    pub pieces: Vec<Piece>,
    /// What the proof teaches about the outboard.
    pub pairs: Vec<HashPair>,
}

impl Verified {
    /// Copies the bytes from `offset` on into `buffer`; says how many there were.
    pub fn copy_to(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let wanted = ByteRange::at(offset, buffer.len() as u64).intersection(&self.range);
        for piece in &self.pieces {
            let held = ByteRange::at(piece.offset, piece.bytes.len() as u64);
            let part = held.intersection(&wanted);
            if !part.is_empty() {
                let from = (part.start - held.start) as usize;
                let to = (part.start - offset) as usize;
                let length = part.len() as usize;
                buffer[to..to + length].copy_from_slice(&piece.bytes[from..from + length]);
            }
        }
        if wanted.start == offset {
            wanted.len() as usize
        } else {
            0
        }
    }
}

/// Encodes `range` of a file with the proof that it belongs to `hash`, checking every group against
/// the outboard on the way: bytes that would not verify are never sent.
///
/// # Errors
/// [`DigestError::LocalMismatch`] where the file changed under its hash,
/// [`DigestError::OutOfRange`], [`DigestError::Io`].
pub fn encode(
    hash: ContentHash,
    size_bytes: u64,
    range: ByteRange,
    data: impl ReadAt,
    outboard: impl ReadAt,
) -> Result<Vec<u8>, DigestError> {
    check_range(size_bytes, range)?;
    let outboard = PreOrderOutboard {
        root: hash.as_blake3(),
        tree: tree(size_bytes),
        data: outboard,
    };
    let mut encoded = Vec::with_capacity(range.len() as usize + range.len() as usize / 512 + 4096);
    encode_ranges_validated(data, outboard, &covering_chunks(range), &mut encoded)
        .map_err(encode_failure)?;
    Ok(encoded)
}

/// Decodes what [`encode`] made for the same hash, size and range.
///
/// # Errors
/// [`DigestError::ProofFailed`] where any byte is wrong, missing or left over: whoever sent them is
/// at fault. Nothing of a failed proof is returned.
pub fn decode(
    hash: ContentHash,
    size_bytes: u64,
    range: ByteRange,
    encoded: &[u8],
) -> Result<Verified, DigestError> {
    check_range(size_bytes, range)?;
    let chunks = covering_chunks(range);
    let mut reader = Cursor::new(encoded);
    let covered = range.align_out(super::LEAF_BYTES, size_bytes);
    let mut verified = Verified {
        range: covered,
        pieces: vec![],
        pairs: vec![],
    };
    let tree = tree(size_bytes);
    for item in DecodeResponseIter::new(hash.as_blake3(), tree, &mut reader, &chunks) {
        match item.map_err(|_| DigestError::ProofFailed)? {
            BaoContentItem::Parent(parent) => {
                if let Some(slot) = tree.pre_order_offset(parent.node) {
                    let mut bytes = [0; 64];
                    bytes[..32].copy_from_slice(parent.pair.0.as_bytes());
                    bytes[32..].copy_from_slice(parent.pair.1.as_bytes());
                    verified.pairs.push(HashPair {
                        offset: slot * 64,
                        bytes,
                    });
                }
            }
            BaoContentItem::Leaf(leaf) => {
                verified.pieces.push(Piece {
                    offset: leaf.offset,
                    bytes: leaf.data,
                });
            }
        }
    }
    let left_over = reader
        .read(&mut [0])
        .map_err(|_| DigestError::ProofFailed)?;
    if left_over != 0 {
        Err(DigestError::ProofFailed)
    } else {
        Ok(verified)
    }
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

fn encode_failure(error: EncodeError) -> DigestError {
    match error {
        EncodeError::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            DigestError::Io(error)
        }
        _ => DigestError::LocalMismatch,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Outboard;
    use super::*;
    use crate::extent::CHUNK_BYTES;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    fn whole(size: usize) -> ByteRange {
        ByteRange::new(0, size as u64)
    }

    #[test]
    fn an_outboard_has_the_hash_that_blake3_gives() {
        for size in [0, 1, 1024, 65536, 65537, 300_000] {
            let data = content(size);
            let outboard = Outboard::of(&data);
            assert_eq!(outboard.hash, ContentHash::of(&data), "size {size}");
            assert_eq!(
                outboard.pairs.len() as u64,
                super::super::outboard_bytes(size as u64)
            );
        }
    }

    #[test]
    fn an_empty_file_proves_itself() {
        let outboard = Outboard::of(b"");
        let proof = encode(outboard.hash, 0, whole(0), &b""[..], &outboard.pairs[..]).unwrap();
        let verified = decode(outboard.hash, 0, whole(0), &proof).unwrap();
        assert!(verified.range.is_empty());
        assert!(decode(ContentHash::of(b"x"), 0, whole(0), &proof).is_err());
    }

    #[test]
    fn a_proof_teaches_the_whole_outboard_when_all_is_asked() {
        let data = content(5 * CHUNK_BYTES as usize + 17);
        let outboard = Outboard::of(&data);
        let size = data.len() as u64;
        let proof = encode(
            outboard.hash,
            size,
            whole(data.len()),
            &data[..],
            &outboard.pairs[..],
        )
        .unwrap();
        let verified = decode(outboard.hash, size, whole(data.len()), &proof).unwrap();
        let mut pairs = vec![0; outboard.pairs.len()];
        for pair in verified.pairs {
            pairs[pair.offset as usize..][..64].copy_from_slice(&pair.bytes);
        }
        assert_eq!(pairs, outboard.pairs);
    }

    #[test]
    fn four_kilobytes_cost_less_than_two_pages_on_the_wire() {
        let data = content(4 << 20);
        let outboard = Outboard::of(&data);
        let range = ByteRange::at(1 << 20, 4096);
        let proof = encode(
            outboard.hash,
            data.len() as u64,
            range,
            &data[..],
            &outboard.pairs[..],
        )
        .unwrap();
        assert!(proof.len() < 8192, "{} bytes", proof.len());
    }

    #[test]
    fn a_file_that_changed_under_its_hash_is_not_sent() {
        let mut data = content(200_000);
        let outboard = Outboard::of(&data);
        data[150_000] ^= 1;
        let range = ByteRange::new(140_000, 160_000);
        let result = encode(
            outboard.hash,
            200_000,
            range,
            &data[..],
            &outboard.pairs[..],
        );
        assert!(matches!(result, Err(DigestError::LocalMismatch)));
        data.truncate(100_000);
        let result = encode(
            outboard.hash,
            200_000,
            range,
            &data[..],
            &outboard.pairs[..],
        );
        assert!(matches!(result, Err(DigestError::LocalMismatch)));
    }

    #[test]
    fn a_range_outside_the_file_is_refused() {
        let hash = ContentHash::of(b"abc");
        for range in [
            ByteRange::new(0, 4),
            ByteRange::new(2, 2),
            ByteRange::new(9, 12),
        ] {
            assert!(matches!(
                decode(hash, 3, range, b""),
                Err(DigestError::OutOfRange { .. })
            ));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_range_verifies_alone_and_gives_back_its_bytes(
            size in 1usize..400_000, a in 0.0f64..1.0, b in 0.0f64..1.0,
        ) {
            let (a, b) = ((a * size as f64) as u64, (b * size as f64) as u64);
            let range = ByteRange::new(a.min(b), a.max(b) + 1);
            let data = content(size);
            let outboard = Outboard::of(&data);
            let proof =
                encode(outboard.hash, size as u64, range, &data[..], &outboard.pairs[..]).unwrap();
            let verified = decode(outboard.hash, size as u64, range, &proof).unwrap();
            prop_assert!(verified.range.contains(&range));
            let mut buffer = vec![0; range.len() as usize];
            prop_assert_eq!(verified.copy_to(range.start, &mut buffer), buffer.len());
            prop_assert_eq!(&buffer[..], &data[range.start as usize..range.end as usize]);
        }

        #[test]
        fn one_flipped_bit_anywhere_is_found(
            size in 1usize..200_000, place in 0.0f64..1.0, bit in 0u8..8,
        ) {
            let data = content(size);
            let outboard = Outboard::of(&data);
            let range = whole(size);
            let mut proof =
                encode(outboard.hash, size as u64, range, &data[..], &outboard.pairs[..]).unwrap();
            let index = (place * proof.len() as f64) as usize;
            proof[index] ^= 1 << bit;
            prop_assert!(decode(outboard.hash, size as u64, range, &proof).is_err());
        }

        #[test]
        fn a_cut_or_lengthened_proof_is_found(size in 1usize..200_000, cut in 0.0f64..1.0) {
            let data = content(size);
            let outboard = Outboard::of(&data);
            let range = whole(size);
            let mut proof =
                encode(outboard.hash, size as u64, range, &data[..], &outboard.pairs[..]).unwrap();
            let kept = (cut * proof.len() as f64) as usize;
            prop_assert!(decode(outboard.hash, size as u64, range, &proof[..kept]).is_err());
            proof.push(0);
            prop_assert!(decode(outboard.hash, size as u64, range, &proof).is_err());
        }
    }
}
