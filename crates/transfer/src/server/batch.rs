//! Answers to batches: many small files in one pass over the disk, for the turn and the memory of
//! one answer.
//!
//! The files are not kept open, since a peer that requests a whole file does not ask for more of
//! it.

use std::time::Instant;

use bytes::Bytes;

use super::fair_queue::{QueuedRequest, ServeTurn};
use super::opened::ServeError;
use super::{MadeAnswer, Server, ServerInner};
use p2pfs_proto::wire::native::tcp::{Lane, PackedBatch, Response, SmallFile};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

impl Server {
    pub(super) async fn answer_batch(&self, of: (Lane, NodeId), files: Vec<SmallFile>) -> Response {
        let size_bytes = files.iter().map(|file| file.size_bytes).sum();
        let asked = QueuedRequest {
            of,
            hash: None,
            bytes: size_bytes,
        };
        let Some(turn) = self.turn_within_limit(asked).await else {
            return Response::Busy;
        };
        let inner = self.inner.clone();
        let making = move || inner.make_batch(&of.1, &files, size_bytes, turn);
        let made = tokio::task::spawn_blocking(making).await;
        made.unwrap_or(Response::Busy)
    }
}

impl ServerInner {
    /// Reads and encodes the files of a batch. Blocking.
    fn make_batch(
        &self,
        from: &NodeId,
        files: &[SmallFile],
        size_bytes: u64,
        mut turn: ServeTurn,
    ) -> Response {
        let mut packed = PackedBatch::with_capacity(size_bytes);
        for file in files {
            let whole =
                if (self.admits)(from, &file.hash) && !self.is_stuck(&file.hash, Instant::now()) {
                    turn.continue_with(file.hash);
                    self.whole(file)
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

    fn whole(&self, file: &SmallFile) -> Result<Bytes, ServeError> {
        let source = self.find(&file.hash)?;
        if source.size_bytes() != file.size_bytes {
            return Err(ServeError::NotHere);
        }
        source.encode(ByteRange::new(0, file.size_bytes), &self.pieces)
    }
}
