//! Answers to batches: many small files in one answer, made in one turn.

use std::time::Instant;

use bytes::Bytes;

use super::fair_queue::ServeTurn;
use super::{MadeAnswer, ServerInner};
use p2pfs_content::{Asker, ProofError};
use p2pfs_proto::wire::native::tcp::{PackedBatch, Response, SmallFile};
use p2pfs_types::digest::ContentHash;
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
        let may_have = inner.contents.may_have(Asker::Member(from), &file.hash);
        let whole = if may_have && !is_stuck(&file.hash) {
            turn.continue_with(file.hash);
            inner.contents.prove_whole(file)
        } else {
            Err(ProofError::NotHere)
        };
        match whole {
            Ok(proof) => packed.push_here(&proof),
            Err(ProofError::Gone) => packed.push_gone(),
            // the peer then requests the file alone, and gets a precise answer
            Err(ProofError::NotHere | ProofError::Busy) => packed.push_not_here(),
        }
    }
    turn.mark_made();
    let bytes = packed.into_bytes().into();
    let packed = Bytes::from_owner(MadeAnswer { bytes, _turn: turn });
    Response::Batch { packed }
}
