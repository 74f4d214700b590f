//! Tests that a proof proves its range and nothing else.

use bao_tree::io::BaoContentItem;
use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::{ChunkNum, ChunkRanges};
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

/// Returns the proof of the bao crate, which mixes pairs and bytes, with all pairs first.
fn pairs_then_bytes(data: &[u8], outboard: &Outboard, range: ByteRange) -> Vec<u8> {
    let root = blake3::Hash::from_bytes(*outboard.hash.as_bytes());
    let tree = Grain::CHUNK.tree(outboard.size_bytes);
    let chunks = ChunkNum(range.start / 1024)..ChunkNum(range.end.div_ceil(1024));
    let chunks = ChunkRanges::from(chunks);
    let stored = PreOrderOutboard {
        root,
        tree,
        data: &outboard.pairs[..],
    };
    let mut encoded = Vec::new();
    encode_ranges_validated(data, stored, &chunks, &mut encoded).unwrap();
    let (mut pairs, mut bytes) = (Vec::new(), Vec::new());
    for item in DecodeResponseIter::new(root, tree, &encoded[..], &chunks) {
        match item.unwrap() {
            BaoContentItem::Parent(parent) => {
                pairs.extend_from_slice(parent.pair.0.as_bytes());
                pairs.extend_from_slice(parent.pair.1.as_bytes());
            }
            BaoContentItem::Leaf(leaf) => bytes.extend_from_slice(&leaf.data),
        }
    }
    [pairs, bytes].concat()
}

#[test]
fn the_bytes_of_a_proof_are_not_copied() {
    let data = content(3 * CHUNK_BYTES as usize);
    let outboard = Outboard::of(&data);
    let (size, range) = (data.len() as u64, ByteRange::new(70_000, 150_000));
    let proof = encode(outboard.hash, size, range, &data[..], &outboard.pairs[..]).unwrap();
    let proof = Bytes::from(proof);
    let end = proof.as_ptr_range().end;
    let verified = decode(outboard.hash, size, range, proof).unwrap();
    assert_eq!(verified.bytes.as_ptr_range().end, end);
}

#[test]
fn an_outboard_has_the_hash_of_blake3() {
    for size in [0, 1, 1024, 65536, 65537, 300_000] {
        let data = content(size);
        let outboard = Outboard::of(&data);
        assert_eq!(outboard.hash, ContentHash::of(&data), "size {size}");
        assert_eq!(
            outboard.pairs.len() as u64,
            Grain::CHUNK.outboard_bytes(size as u64)
        );
    }
}

proptest! {
    #[test]
    fn a_proof_is_the_same_for_any_grain_of_its_outboard(
        size in 0_usize..400_000,
        ends in [0.0..=1.0, 0.0..=1.0],
    ) {
        let data = content(size);
        let [start, end] = ends.map(|end: f64| (end * size as f64) as u64);
        let range = ByteRange::new(start.min(end), start.max(end));
        prop_assume!(!range.is_empty());
        let prove = |grain: Grain| {
            let size_bytes = size as u64;
            let outboard = Outboard::compute(&data[..], size_bytes, grain).unwrap();
            let pairs = &outboard.pairs[..];
            encode_from(grain, outboard.hash, size_bytes, range, &data[..], pairs).unwrap()
        };
        let proof = prove(Grain::CHUNK);
        prop_assert!(proof == prove(Grain::FINEST));
        let middle = Grain::within(size as u64, Grain::FINEST.outboard_bytes(size as u64) / 2);
        prop_assert!(proof == prove(middle));
    }
}

#[test]
fn bytes_beyond_the_requested_ones_are_checked_only_up_to_the_grain() {
    let mut data = content(4 * CHUNK_BYTES as usize);
    let size_bytes = data.len() as u64;
    let outboards = [Grain::CHUNK, Grain::FINEST].map(|grain| {
        let outboard = Outboard::compute(&data[..], size_bytes, grain).unwrap();
        (grain, outboard)
    });
    let range = ByteRange::at(CHUNK_BYTES, 4096);
    let proves = |data: &[u8], (grain, outboard): &(Grain, Outboard)| {
        let pairs = &outboard.pairs[..];
        encode_from(*grain, outboard.hash, size_bytes, range, data, pairs).is_ok()
    };
    data[(CHUNK_BYTES + Grain::FINEST.bytes()) as usize] ^= 1;
    assert_eq!(
        outboards.each_ref().map(|it| proves(&data, it)),
        [false, true]
    );
    data[(CHUNK_BYTES + Grain::FINEST.bytes() - 1) as usize] ^= 1;
    assert_eq!(
        outboards.each_ref().map(|it| proves(&data, it)),
        [false, false]
    );
}

#[test]
fn an_empty_file_is_its_own_proof() {
    let outboard = Outboard::of(b"");
    let proof = encode(outboard.hash, 0, whole(0), &b""[..], &outboard.pairs[..]).unwrap();
    let verified = decode(outboard.hash, 0, whole(0), proof.clone().into()).unwrap();
    assert!(verified.range.is_empty());
    assert!(decode(ContentHash::of(b"x"), 0, whole(0), proof.into()).is_err());
}

#[test]
fn a_proof_of_the_whole_file_yields_its_outboard() {
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
    let verified = decode(outboard.hash, size, whole(data.len()), proof.into()).unwrap();
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
fn a_file_changed_under_its_hash_is_not_sent() {
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
            decode(hash, 3, range, Bytes::new()),
            Err(DigestError::OutOfRange { .. })
        ));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_verifies_alone_and_yields_its_bytes(
        size in 1usize..400_000, a in 0.0f64..1.0, b in 0.0f64..1.0,
    ) {
        let (a, b) = ((a * size as f64) as u64, (b * size as f64) as u64);
        let range = ByteRange::new(a.min(b), a.max(b) + 1);
        let data = content(size);
        let outboard = Outboard::of(&data);
        let proof =
            encode(outboard.hash, size as u64, range, &data[..], &outboard.pairs[..]).unwrap();
        prop_assert_eq!(&proof, &pairs_then_bytes(&data, &outboard, range));
        let verified = decode(outboard.hash, size as u64, range, proof.into()).unwrap();
        prop_assert!(verified.range.contains(&range));
        let bytes = verified.slice(range).unwrap();
        prop_assert_eq!(&bytes[..], &data[range.start as usize..range.end as usize]);
        prop_assert_eq!(verified.slice(ByteRange::new(range.start, size as u64 + 1)), None);
    }

    #[test]
    fn one_flipped_bit_anywhere_is_detected(
        size in 1usize..200_000, place in 0.0f64..1.0, bit in 0u8..8,
    ) {
        let data = content(size);
        let outboard = Outboard::of(&data);
        let range = whole(size);
        let mut proof =
            encode(outboard.hash, size as u64, range, &data[..], &outboard.pairs[..]).unwrap();
        let index = (place * proof.len() as f64) as usize;
        proof[index] ^= 1 << bit;
        prop_assert!(decode(outboard.hash, size as u64, range, proof.into()).is_err());
    }

    #[test]
    fn a_truncated_or_extended_proof_is_detected(size in 1usize..200_000, cut in 0.0f64..1.0) {
        let data = content(size);
        let outboard = Outboard::of(&data);
        let range = whole(size);
        let mut proof =
            encode(outboard.hash, size as u64, range, &data[..], &outboard.pairs[..]).unwrap();
        let kept = (cut * proof.len() as f64) as usize;
        let cut = Bytes::copy_from_slice(&proof[..kept]);
        prop_assert!(decode(outboard.hash, size as u64, range, cut).is_err());
        proof.push(0);
        prop_assert!(decode(outboard.hash, size as u64, range, proof.into()).is_err());
    }
}
