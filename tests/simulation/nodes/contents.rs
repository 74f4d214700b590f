//! Files in memory: every content that is ever shared, and the cached parts of them on a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use p2pfs_types::digest::{self, ContentHash, Outboard, Verified};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};

/// One content.
pub(crate) struct Content {
    pub bytes: Vec<u8>,
    outboard: Outboard,
}

impl Content {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns a range with its proof.
    pub(crate) fn prove(&self, range: ByteRange) -> Bytes {
        let (data, pairs) = (&self.bytes[..], &self.outboard.pairs[..]);
        let proof = digest::encode(self.outboard.hash, self.size_bytes(), range, data, pairs);
        proof.expect("what is in memory proves itself").into()
    }

    /// Returns a proof for a false size, if the tree allows one.
    pub(crate) fn prove_as(&self, size_bytes: u64, range: ByteRange) -> Option<Bytes> {
        let (data, pairs) = (&self.bytes[..], &self.outboard.pairs[..]);
        let proof = digest::encode(self.outboard.hash, size_bytes, range, data, pairs);
        proof.ok().map(Bytes::from)
    }
}

/// All contents by hash: the reference for right bytes.
#[derive(Default)]
pub(crate) struct Library {
    contents: BTreeMap<ContentHash, Arc<Content>>,
    written: BTreeMap<(u64, usize), ContentHash>,
}

impl Library {
    /// Adds the content of this number and size. Returns its hash.
    pub(crate) fn write(&mut self, number: u64, size: usize) -> ContentHash {
        if let Some(hash) = self.written.get(&(number, size)) {
            return *hash;
        }
        let mut output = blake3::Hasher::new()
            .update(&number.to_le_bytes())
            .finalize_xof();
        let mut bytes = vec![0; size];
        output.fill(&mut bytes);
        let outboard = Outboard::of(&bytes);
        let hash = outboard.hash;
        let content = Arc::new(Content { bytes, outboard });
        self.contents.insert(hash, content);
        self.written.insert((number, size), hash);
        hash
    }

    pub(crate) fn get(&self, hash: &ContentHash) -> &Arc<Content> {
        &self.contents[hash]
    }
}

/// The cached part of one content.
pub(crate) struct Cached {
    bytes: Vec<u8>,
    present: ExtentSet,
}

impl Cached {
    pub(crate) fn new(size_bytes: u64) -> Self {
        Self {
            bytes: vec![0; size_bytes as usize],
            present: ExtentSet::new(),
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn store(&mut self, verified: &Verified) {
        let range = verified.range;
        self.bytes[range.start as usize..range.end as usize].copy_from_slice(&verified.bytes);
        self.present.insert(range);
    }

    pub(crate) fn present(&self) -> &ExtentSet {
        &self.present
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.present.contains(ByteRange::new(0, self.size_bytes()))
    }

    /// Returns the bytes of a range if all of them are here.
    pub(crate) fn read(&self, range: ByteRange) -> Option<&[u8]> {
        let here = self.present.contains(range);
        here.then(|| &self.bytes[range.start as usize..range.end as usize])
    }

    /// Returns the ranges that can be given to others: whole chunks.
    pub(crate) fn offered(&self) -> ExtentSet {
        let whole = |range: ByteRange| range.align_in(CHUNK_BYTES, self.size_bytes());
        let ranges = self.present.iter().map(whole);
        ranges.filter(|range| !range.is_empty()).collect()
    }
}
