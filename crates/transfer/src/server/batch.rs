//! Answers to batches: many small files in one answer, made in one turn.
//!
//! The files are not kept open, since a peer that requests a whole file does not ask for more of
//! it.

use std::time::Instant;

use bytes::Bytes;

use super::contents::ServedContents;
use super::fair_queue::ServeTurn;
use super::opened::ServeError;
use super::{MadeAnswer, ServerInner};
use p2pfs_proto::wire::native::tcp::{PackedBatch, Response, SmallFile};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Reads and encodes the files of a batch. Blocking.
pub(super) fn make(
    inner: &ServerInner,
    from: &NodeId,
    files: &[SmallFile],
    size_bytes: u64,
    mut turn: ServeTurn,
) -> Response {
    let is_stuck = |hash: &ContentHash| {
        let (queues, now) = (&inner.queues, Instant::now());
        queues.is_stuck(&inner.contents, hash, now)
    };
    let mut packed = PackedBatch::with_capacity(size_bytes);
    for file in files {
        let whole = if (inner.admits)(from, &file.hash) && !is_stuck(&file.hash) {
            turn.continue_with(file.hash);
            read_whole(&inner.contents, file)
        } else {
            Err(ServeError::NotHere)
        };
        match whole {
            Ok(proof) => packed.push_here(&proof),
            Err(ServeError::Gone) => packed.push_gone(),
            // the peer then requests the file alone, and gets a precise answer
            Err(ServeError::NotHere | ServeError::Busy) => packed.push_not_here(),
        }
    }
    turn.mark_made();
    let bytes = packed.into_bytes().into();
    let packed = Bytes::from_owner(MadeAnswer { bytes, _turn: turn });
    Response::Batch { packed }
}

fn read_whole(contents: &ServedContents, file: &SmallFile) -> Result<Bytes, ServeError> {
    let source = contents.find(&file.hash)?;
    if source.size_bytes() != file.size_bytes {
        return Err(ServeError::NotHere);
    }
    source.encode(ByteRange::new(0, file.size_bytes), &contents.pieces)
}
