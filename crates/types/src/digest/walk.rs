//! The path through a file's hash tree to the bytes of a range, which defines the contents and the
//! order of a proof. Both sides compute it, so the shape of a proof is never transmitted.

use blake3::hazmat::{HasherExt, Mode};
use blake3::hazmat::{left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use super::hash::NodeHash;
use super::{Grain, LEAF_BYTES, marks};
use crate::extent::{ByteRange, CHUNK_BYTES};

/// One step. A parent precedes its children, and the left child precedes the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProofStep {
    /// The hashes of a subtree's two halves.
    Pair(ParentStep),
    /// Requested bytes, with one hash for all of them.
    Bytes {
        range: ByteRange,
        /// Whether they are the whole file.
        is_root: bool,
    },
}

/// A parent in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ParentStep {
    /// All bytes below it.
    pub range: ByteRange,
    /// Byte offset in the outboard. None for a parent within the grain, which the outboard does not
    /// store.
    pub offset: Option<u64>,
    pub is_root: bool,
    /// Whether the left half has requested bytes.
    pub left: bool,
    /// Whether the right half has requested bytes.
    pub right: bool,
}

/// All steps of a proof.
pub(super) struct ProofPlan {
    /// The proven range: the requested one, widened to whole KiB.
    pub range: ByteRange,
    pub steps: Vec<ProofStep>,
    pub grain: Grain,
}

impl ProofPlan {
    /// Computes the steps to `range` of a file of `size_bytes`. The range must be within the file.
    /// The steps do not depend on the grain of the outboard, but the number of steps with an
    /// `offset` in the outboard does.
    pub(super) fn new(size_bytes: u64, range: ByteRange, grain: Grain) -> Self {
        let range = range.align_out(LEAF_BYTES, size_bytes);
        let steps = Vec::new();
        let mut walk = Self {
            range,
            steps,
            grain,
        };
        walk.visit(ByteRange::new(0, size_bytes), 0, true);
        walk
    }

    /// Returns the size in bytes of the pairs, which precede the proven bytes in a proof.
    pub(super) fn pairs_bytes(&self) -> usize {
        let pairs = self
            .steps
            .iter()
            .filter(|step| matches!(step, ProofStep::Pair(_)));
        pairs.count() * 64
    }

    /// Returns the size in bytes of the whole proof.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.pairs_bytes() + self.range.len() as usize
    }

    /// Adds the steps of a subtree. `index` is its position among the pairs of the outboard, if it
    /// is stored there.
    fn visit(&mut self, subtree: ByteRange, index: u64, is_root: bool) {
        let wanted_whole = self.range.contains(&subtree);
        if subtree.len() <= LEAF_BYTES || (wanted_whole && subtree.len() <= CHUNK_BYTES) {
            let range = subtree;
            return self.steps.push(ProofStep::Bytes { range, is_root });
        }
        let (left, right) = halves(subtree);
        let is_wanted = |half: ByteRange| !half.intersection(&self.range).is_empty();
        let pair = ParentStep {
            range: subtree,
            offset: (subtree.len() > self.grain.bytes()).then_some(index * 64),
            is_root,
            left: is_wanted(left),
            right: is_wanted(right),
        };
        self.steps.push(ProofStep::Pair(pair));
        if pair.left {
            self.visit(left, index + 1, false);
        }
        if pair.right {
            // The left half has one pair less than it has leaves in the outboard.
            self.visit(right, index + left.len() / self.grain.bytes(), false);
        }
    }
}

/// Splits a subtree of more than one leaf. The left half is the largest full tree that leaves a
/// remainder (BLAKE3 paper, section 2.1).
pub(super) fn halves(subtree: ByteRange) -> (ByteRange, ByteRange) {
    let middle = subtree.start + left_subtree_len(subtree.len());
    (
        ByteRange::new(subtree.start, middle),
        ByteRange::new(middle, subtree.end),
    )
}

/// Returns the hash of a subtree that begins at `offset` and has these bytes.
pub(super) fn hash_bytes(offset: u64, bytes: &[u8], is_root: bool) -> NodeHash {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher
        .set_input_offset(offset)
        .update(bytes)
        .finalize_non_root()
}

/// Returns the hash of a parent.
pub(super) fn hash_pair(pair: &[u8; 64], is_root: bool) -> NodeHash {
    let (left, right) = split(pair);
    if is_root {
        *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }
}

/// Splits a pair into the left and the right hash.
pub(super) fn split(pair: &[u8; 64]) -> (NodeHash, NodeHash) {
    let (mut left, mut right) = ([0; 32], [0; 32]);
    left.copy_from_slice(&pair[..32]);
    right.copy_from_slice(&pair[32..]);
    (left, right)
}

/// Verified hashes of bytes or pairs that are still to follow.
pub(super) struct ExpectedHashes(Vec<NodeHash>);

impl ExpectedHashes {
    pub(super) fn new(root: NodeHash) -> Self {
        Self(vec![root])
    }

    /// Returns whether the pair has the next expected hash. If so, the hashes of its requested
    /// halves are expected next.
    pub(super) fn accept_pair(&mut self, step: &ParentStep, pair: &[u8; 64]) -> bool {
        if self.0.pop() != Some(hash_pair(pair, step.is_root)) {
            return false;
        }
        let (left, right) = split(pair);
        self.0.extend(step.right.then_some(right));
        self.0.extend(step.left.then_some(left));
        true
    }

    /// Returns whether the bytes have the next expected hash.
    pub(super) fn accept_bytes(&mut self, range: ByteRange, bytes: &[u8], is_root: bool) -> bool {
        self.0.pop() == Some(hash_bytes(range.start, bytes, is_root))
    }

    /// Returns whether this node's own bytes have the next expected hash. Known chunks are not
    /// hashed.
    pub(super) fn accept_own_bytes(
        &mut self,
        range: ByteRange,
        bytes: &[u8],
        is_root: bool,
    ) -> bool {
        let hashed = || hash_bytes(range.start, bytes, is_root);
        let expected = self.0.pop();
        expected.is_some_and(|hash| marks::has_hash(&hash, bytes, hashed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(size_bytes: u64, range: ByteRange) -> Vec<ParentStep> {
        let pair = |step: &ProofStep| match step {
            ProofStep::Pair(pair) => Some(*pair),
            ProofStep::Bytes { .. } => None,
        };
        ProofPlan::new(size_bytes, range, Grain::CHUNK)
            .steps
            .iter()
            .filter_map(pair)
            .collect()
    }

    #[test]
    fn a_whole_file_takes_the_whole_outboard_in_its_order() {
        for chunks in [1, 2, 3, 7, 8, 9, 100] {
            for size in [chunks * CHUNK_BYTES - 1, chunks * CHUNK_BYTES] {
                let offsets: Vec<_> = pairs(size, ByteRange::new(0, size))
                    .iter()
                    .map(|pair| pair.offset)
                    .collect();
                let all: Vec<_> = (0..chunks - 1).map(|index| Some(index * 64)).collect();
                assert_eq!(offsets, all, "{size} bytes");
                assert_eq!(Grain::CHUNK.outboard_bytes(size), (chunks - 1) * 64);
            }
        }
    }

    #[test]
    fn the_bytes_of_a_walk_are_the_range_without_gaps() {
        let size = 9 * CHUNK_BYTES + 300;
        for (start, end) in [(0, size), (1, 2), (70_000, 400_000), (size - 1, size)] {
            let walk = ProofPlan::new(size, ByteRange::new(start, end), Grain::CHUNK);
            let mut next = walk.range.start;
            for step in &walk.steps {
                if let ProofStep::Bytes { range, .. } = step {
                    assert_eq!(range.start, next);
                    assert!(range.len() <= CHUNK_BYTES);
                    next = range.end;
                }
            }
            assert_eq!(next, walk.range.end);
            assert_eq!(
                walk.range,
                ByteRange::new(start, end).align_out(LEAF_BYTES, size)
            );
        }
    }

    #[test]
    fn a_small_range_takes_one_pair_for_each_level() {
        let size = 1 << 30;
        let found = pairs(size, ByteRange::at(12345 * 4096, 4096));
        // 2^20 leaves, of which 4 are requested.
        assert_eq!(found.len(), 18);
        assert_eq!(
            found.iter().filter(|pair| pair.offset.is_some()).count(),
            14
        );
    }
}
