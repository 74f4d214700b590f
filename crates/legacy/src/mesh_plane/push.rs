//! Pushing a file to one peer of the mesh, within the rate limit and no faster than an original
//! program receives, by the estimate of [`Pace`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Mutex;

use super::meter::TransferCounters;
use crate::mesh::{Pace, Who};
use crate::net::mesh::{MeshEnd, MeshSender, StreamedMessage};
use crate::wire::mesh::{chunk_bytes, encode_chunk_head, encode_end, encode_message, encode_start};
use p2pfs_node::{ForeignThrottle, Parcel, PushError};
use p2pfs_types::file_name::sent_name;

/// Number of bytes read from a file at once.
const STEP_BYTES: u64 = 256 << 10;

impl From<MeshEnd> for PushError {
    fn from(_: MeshEnd) -> Self {
        Self::Gone
    }
}

/// A peer that files can be pushed to.
#[derive(Clone)]
pub(crate) struct PushTarget {
    pub(super) who: Who,
    pub(super) sender: MeshSender,
    /// Estimated queue of the peer. Locked while a file is sent, so that files are sent one after
    /// another.
    pub(super) pace: Arc<Mutex<Pace>>,
    pub(super) moved: Arc<TransferCounters>,
    pub(super) passage: ForeignThrottle,
}

impl PushTarget {
    /// Sends a file; `sent` counts the bytes of the file that were queued so far. Success means
    /// that the whole file was queued on the connection. The protocol has no acknowledgement.
    ///
    /// # Errors
    /// [`PushError`].
    pub(crate) async fn push(&self, parcel: &Parcel, sent: &AtomicU64) -> Result<(), PushError> {
        let mut pace = self.pace.lock().await;
        let name = sent_name(&parcel.name);
        let start = encode_start(&name, parcel.size_bytes, &parcel.sha256);
        self.whole(&mut pace, start).await?;
        let (mut offset, mut is_same) = (0, true);
        while offset < parcel.size_bytes {
            let length = self.step(parcel.size_bytes).min(parcel.size_bytes - offset);
            // Wait before the message begins: until it ends, no other message can be sent on this
            // connection.
            let mut passed = self.passage.pass(length, false).await;
            wait_for_turn(&mut pace).await;
            let head = encode_chunk_head(&name, length);
            let message = self.sender.begin(head.into(), length).await?;
            let tell_given = |bytes| {
                sent.fetch_add(bytes, Ordering::Relaxed);
                passed.count_transferred(bytes);
            };
            is_same &= self
                .chunk(&message, parcel, (offset, length), tell_given)
                .await?;
            pace.sent(Instant::now(), length);
            offset += length;
        }
        let end = encode_end(&name, &parcel.sha256);
        self.whole(&mut pace, end).await?;
        is_same.then_some(()).ok_or(PushError::Changed)
    }

    /// Sends bytes that are not a file. Success means that they were queued on the connection.
    ///
    /// # Errors
    /// [`PushError::Gone`].
    pub(crate) async fn message(&self, bytes: &[u8]) -> Result<(), PushError> {
        let mut pace = self.pace.lock().await;
        self.whole(&mut pace, encode_message(bytes)).await
    }

    /// Sends one chunk and returns whether the file still had all bytes of the chunk. Missing bytes
    /// are sent as zeros, so that the connection stays usable. The peer then finds a wrong hash.
    /// Calls `tell_given` with the number of bytes of each part that was queued.
    async fn chunk(
        &self,
        message: &StreamedMessage,
        parcel: &Parcel,
        (begin, length): (u64, u64),
        mut tell_given: impl FnMut(u64),
    ) -> Result<bool, PushError> {
        let (mut at, end, mut is_same) = (begin, begin + length, true);
        while at < end {
            let step = STEP_BYTES.min(end - at);
            let (parcel, offset) = (parcel.clone(), at);
            let read = tokio::task::spawn_blocking(move || parcel.part(offset, step as usize));
            let read = read.await.map_err(|_| PushError::Gone)?;
            let mut bytes = read.unwrap_or_default();
            is_same &= bytes.len() as u64 == step;
            bytes.resize(step as usize, 0);
            at += step;
            message.give(bytes.into()).await?;
            tell_given(step);
            self.moved.sent(step);
            self.passage.count(step);
        }
        Ok(is_same)
    }

    /// Returns the number of file bytes for one message. Without a rate limit the messages are so
    /// long that all messages of the file fit the queue of the peer, unless the file is too large.
    /// With a rate limit they are short, because the limit gives the peer time for each.
    fn step(&self, size_bytes: u64) -> u64 {
        if self.passage.is_limited() {
            STEP_BYTES
        } else {
            chunk_bytes(size_bytes)
        }
    }

    async fn whole(&self, pace: &mut Pace, message: Vec<u8>) -> Result<(), PushError> {
        wait_for_turn(pace).await;
        pace.sent(Instant::now(), message.len() as u64);
        self.sender.begin(message.into(), 0).await?;
        Ok(())
    }
}

async fn wait_for_turn(pace: &mut Pace) {
    let ready = pace.ready_at(Instant::now());
    tokio::time::sleep_until(ready.into()).await;
}
