//! Pushing files to one peer of the mesh, within the rate limit and no faster than an original
//! program receives, by the estimate of [`Pace`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::connection::{MeshEnd, MeshSender};
use super::meter::TransferCounters;
use crate::wire::mesh::{chunk_bytes, encode_chunk_head, encode_end, encode_message, encode_start};
use p2pfs_node::{ForeignThrottle, Parcel, PushError};
use p2pfs_types::file_name::sent_name;

/// Number of bytes read from a file at once.
const STEP_BYTES: u64 = 256 << 10;
/// Maximum pushed messages that wait in the queue of the receiver, by estimate. The queue of the
/// original programs has 100 places; the rest is for other messages.
const QUEUE_WANTED: usize = 80;
/// Assumed time that an original program needs for a message of any length.
const MESSAGE_TIME: Duration = Duration::from_millis(4);
/// Assumed disk throughput of an original program, in bytes per second.
const DISK_BYTES_PER_S: u64 = 50 << 20;

impl From<MeshEnd> for PushError {
    fn from(_: MeshEnd) -> Self {
        Self::Gone
    }
}

/// The sending side of one connection.
pub(crate) struct MeshOutput {
    pub(super) sender: MeshSender,
    /// Estimated queue of the peer. Locked while a file is sent, so that files are sent one after
    /// another.
    pub(super) pace: Mutex<Pace>,
    pub(super) moved: TransferCounters,
    pub(super) passage: ForeignThrottle,
}

impl MeshOutput {
    /// Sends a file; `sent` counts the bytes of the file that were queued so far. Success means
    /// that the whole file was queued on the connection. The protocol has no acknowledgement. If
    /// the file lost bytes, zeros are sent in their place, so that the connection stays usable. The
    /// peer then finds a wrong hash.
    ///
    /// # Errors
    /// [`PushError`].
    pub(crate) async fn push(&self, parcel: &Parcel, sent: &AtomicU64) -> Result<(), PushError> {
        let mut pace = self.pace.lock().await;
        let name = sent_name(&parcel.name);
        let start = encode_start(&name, parcel.size_bytes, &parcel.sha256);
        self.whole(&mut pace, start).await?;
        let (mut at, mut is_same) = (0, true);
        while at < parcel.size_bytes {
            let length = self.step(parcel.size_bytes).min(parcel.size_bytes - at);
            // Wait before the message begins: until it ends, no other message can be sent on this
            // connection.
            let mut passed = self.passage.pass(length, false).await;
            wait_for_turn(&mut pace).await;
            let head = encode_chunk_head(&name, length);
            let message = self.sender.begin(head.into(), length).await?;
            let end = at + length;
            while at < end {
                let step = STEP_BYTES.min(end - at);
                let (parcel, offset) = (parcel.clone(), at);
                let read = tokio::task::spawn_blocking(move || parcel.part(offset, step as usize));
                let read = read.await.map_err(|_| PushError::Gone)?;
                let mut bytes = read.unwrap_or_default();
                is_same &= bytes.len() as u64 == step;
                bytes.resize(step as usize, 0);
                message.give(bytes.into()).await?;
                at += step;
                sent.fetch_add(step, Ordering::Relaxed);
                passed.count_transferred(step);
                self.moved.sent(step);
                self.passage.count(step);
            }
            pace.sent(Instant::now(), length);
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

/// Estimated queue of one peer. The protocol reports nothing about it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Estimated times at which the sent messages leave the queue, in order.
    leaves: VecDeque<Instant>,
}

impl Pace {
    /// Returns when one more message may be sent.
    fn ready_at(&mut self, now: Instant) -> Instant {
        while self.leaves.front().is_some_and(|at| *at <= now) {
            self.leaves.pop_front();
        }
        match self.leaves.len().checked_sub(QUEUE_WANTED) {
            None => now,
            Some(over) => self.leaves[over],
        }
    }

    /// Records that a message of `length_bytes` is sent now.
    fn sent(&mut self, now: Instant, length_bytes: u64) {
        let before = self.leaves.back().copied().unwrap_or(now).max(now);
        let writing = Duration::from_secs_f64(length_bytes as f64 / DISK_BYTES_PER_S as f64);
        self.leaves.push_back(before + MESSAGE_TIME + writing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Model of an original program that receives: its queue has 100 places, and each message takes
    /// time. Counts the messages that are dropped because the queue is full.
    struct Receiver {
        queue: VecDeque<Instant>,
        dropped: usize,
    }

    impl Receiver {
        fn take(&mut self, now: Instant, each: Duration) {
            while self.queue.front().is_some_and(|at| *at <= now) {
                self.queue.pop_front();
            }
            if self.queue.len() >= 100 {
                self.dropped += 1;
                return;
            }
            let before = self.queue.back().copied().unwrap_or(now).max(now);
            self.queue.push_back(before + each);
        }
    }

    #[test]
    fn a_thousand_small_messages_do_not_overflow_a_queue_of_a_hundred() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let begun = now;
        let mut receiver = Receiver {
            queue: VecDeque::new(),
            dropped: 0,
        };
        for _ in 0..1000 {
            now = pace.ready_at(now).max(now);
            pace.sent(now, 100);
            receiver.take(now, MESSAGE_TIME);
        }
        assert_eq!(receiver.dropped, 0);
        assert!(
            now - begun < Duration::from_secs(10),
            "and it takes seconds"
        );
    }

    #[test]
    fn a_gibibyte_in_eighty_chunks_is_not_delayed() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..QUEUE_WANTED {
            assert_eq!(pace.ready_at(now), now);
            pace.sent(now, 14 << 20);
        }
        assert!(pace.ready_at(now) > now);
    }
}
