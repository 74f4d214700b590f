//! The hash tree of a file, stored beside it.

use std::io::{self, Read};

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync as bao;

use super::{ContentHash, Grain};

/// A complete outboard in memory: hash pairs in pre-order, without a size prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outboard {
    /// Hash of the file.
    pub hash: ContentHash,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// The pairs, of [`Grain::outboard_bytes`] bytes.
    pub pairs: Vec<u8>,
}

impl Outboard {
    /// Hashes `size_bytes` bytes from `data`, for an outboard of this grain.
    ///
    /// # Errors
    /// The error of `data`; an early end is [`io::ErrorKind::UnexpectedEof`]. A reader can cancel
    /// the computation by failing.
    pub fn compute(data: impl Read, size_bytes: u64, grain: Grain) -> io::Result<Self> {
        let tree = grain.tree(size_bytes);
        let length = usize::try_from(tree.outboard_size()).map_err(io::Error::other)?;
        let mut outboard = PreOrderMemOutboard {
            root: blake3::Hash::from([0; 32]),
            tree,
            data: vec![0; length],
        };
        let root = bao::outboard(data, tree, &mut outboard)?;
        Ok(Self {
            hash: ContentHash::new(*root.as_bytes()),
            size_bytes,
            pairs: outboard.data,
        })
    }

    /// Hashes bytes in memory, for an outboard of [`Grain::CHUNK`].
    pub fn of(bytes: &[u8]) -> Self {
        Self::compute(bytes, bytes.len() as u64, Grain::CHUNK)
            .expect("reading memory does not fail")
    }
}
