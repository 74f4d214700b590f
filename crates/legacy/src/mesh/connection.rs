//! TCP of the mesh protocol: reading and writing one connection. [`open`] splits a connection into
//! a [`MeshReader`], a [`MeshWriter`] and the queue of the writer, [`MeshSender`].
//!
//! This module has the deadlines of the sockets and the queue to a peer. A peer cannot occupy this
//! node for long by what it sends or withholds, and a peer that does not read is dropped. No other
//! message interrupts a message that is being written.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::machine::MeshOffence;
use crate::wire::mesh::{DecodeError, Decoder, Item};

/// Timeout of dialling, as in the original programs.
const DIAL: Duration = Duration::from_secs(10);
/// How long the next [`PACE_BYTES`] of an incomplete message, or its end, may take to arrive.
const PACE: Duration = Duration::from_secs(20);
/// Minimum bytes of an incomplete message that arrive in each [`PACE`].
const PACE_BYTES: usize = 16 << 10;
/// How long a peer may accept none of the bytes that wait for it.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Maximum pieces of text that wait to be written to a peer. A peer for which more would wait does
/// not read.
pub const LINES_MAX: usize = 256;
/// Maximum items that are returned at once.
const BATCH_MAX: usize = 1024;
/// How long this node reads on from a connection that it closes. A close with unread bytes would
/// destroy the last lines to the peer, for example a rejection.
const LINGER: Duration = Duration::from_secs(2);
/// Maximum bytes of one read.
const STEP_BYTES: usize = 256 << 10;

/// Why a connection is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeshEnd {
    /// The peer or the network closed it.
    Closed,
    /// The peer broke the rules.
    Offence(MeshOffence),
}

impl From<DecodeError> for MeshEnd {
    fn from(error: DecodeError) -> Self {
        Self::Offence(match error {
            DecodeError::EndlessLine => MeshOffence::EndlessLine,
            DecodeError::BadBytes { .. } => MeshOffence::BadBytes,
        })
    }
}

/// Connects to an address of the form `host:port`.
///
/// # Errors
/// The error of the system call, or a timeout.
pub(super) async fn dial(address: &str) -> io::Result<TcpStream> {
    let dialled = timeout(DIAL, TcpStream::connect(address)).await;
    dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Splits a connection into its halves and the queue of the writing half.
pub(super) fn open(stream: TcpStream) -> (MeshReader, MeshWriter, MeshSender) {
    let _slower = stream.set_nodelay(true);
    let (reading, writing) = stream.into_split();
    let (sender, queue) = mpsc::channel(LINES_MAX);
    let reader = MeshReader {
        stream: reading,
        decoder: Decoder::default(),
        failure: None,
        left: PACE,
        brought: 0,
    };
    let writer = MeshWriter {
        stream: writing,
        queue,
    };
    (reader, writer, MeshSender(sender))
}

/// Reading half of a connection.
pub(super) struct MeshReader {
    stream: OwnedReadHalf,
    decoder: Decoder,
    /// Error behind the items that were returned last.
    failure: Option<MeshEnd>,
    /// Remaining time in which [`PACE_BYTES`] of the incomplete message must arrive.
    left: Duration,
    /// Bytes that have arrived of these [`PACE_BYTES`].
    brought: usize,
}

impl MeshReader {
    /// Returns the next items, at least one: all that have arrived, so that many small pieces of a
    /// file are not written to the disk one by one. Cancel-safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// [`MeshEnd`]; the connection is then unusable.
    pub(super) async fn next(&mut self) -> Result<Vec<Item>, MeshEnd> {
        loop {
            if let Some(failure) = self.failure {
                return Err(failure);
            }
            let items = self.decode();
            if !items.is_empty() {
                return Ok(items);
            }
            if self.failure.is_none() {
                self.read().await?;
            }
        }
    }

    fn decode(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        while items.len() < BATCH_MAX {
            match self.decoder.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => {
                    self.failure = Some(error.into());
                    break;
                }
            }
            if !self.decoder.is_inside() {
                (self.left, self.brought) = (PACE, 0);
            }
        }
        items
    }

    async fn read(&mut self) -> Result<(), MeshEnd> {
        let is_inside = self.decoder.is_inside();
        let buffer = self.decoder.buffer();
        buffer.reserve(STEP_BYTES);
        let begun = Instant::now();
        let reading = self.stream.read_buf(buffer);
        let read = if is_inside {
            timeout(self.left, reading).await
        } else {
            // between messages, the state machine limits the silence of the peer
            Ok(reading.await)
        };
        let count = match read {
            Err(_) => return Err(MeshEnd::Offence(MeshOffence::TooSlow)),
            Ok(Err(_) | Ok(0)) => return Err(MeshEnd::Closed),
            Ok(Ok(count)) => count,
        };
        if is_inside {
            self.left = self.left.saturating_sub(begun.elapsed());
        }
        self.brought += count;
        if self.brought >= PACE_BYTES {
            (self.left, self.brought) = (PACE, 0);
        }
        Ok(())
    }

    /// Reads and discards bytes until the peer closes the connection, for at most two seconds.
    pub(super) async fn linger(mut self) {
        let drain = async {
            let mut rest = vec![0; 4096];
            while self
                .stream
                .read(&mut rest)
                .await
                .is_ok_and(|count| count > 0)
            {}
        };
        let _either_way = timeout(LINGER, drain).await;
    }
}

/// Queue of a connection's output. When all clones are dropped and the output is written, the
/// connection is closed for writing.
#[derive(Debug, Clone)]
pub(super) struct MeshSender(mpsc::Sender<Output>);

#[derive(Debug)]
struct Output {
    /// Whole lines, or the beginning of a message.
    head: Bytes,
    /// Number of bytes of the message after the head.
    length_bytes: u64,
    pieces: Option<mpsc::Receiver<Bytes>>,
}

/// A message whose bytes the caller gives piece by piece. If it is dropped before all are given,
/// the rest is sent as zeros, because no other message can start before its end.
#[derive(Debug)]
pub(super) struct StreamedMessage(mpsc::Sender<Bytes>);

impl MeshSender {
    /// Queues one or more lines without waiting.
    ///
    /// # Errors
    /// [`MeshOffence::NeverReads`] if [`LINES_MAX`] already wait, [`MeshEnd::Closed`].
    pub(super) fn send(&self, lines: Vec<u8>) -> Result<(), MeshEnd> {
        let output = Output {
            head: lines.into(),
            length_bytes: 0,
            pieces: None,
        };
        self.0.try_send(output).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MeshEnd::Offence(MeshOffence::NeverReads),
            mpsc::error::TrySendError::Closed(_) => MeshEnd::Closed,
        })
    }

    /// Waits for room in the queue and queues a message that begins with `head`. The caller gives
    /// the other `length_bytes` to the returned [`StreamedMessage`].
    ///
    /// # Errors
    /// [`MeshEnd::Closed`].
    pub(super) async fn begin(
        &self,
        head: Bytes,
        length_bytes: u64,
    ) -> Result<StreamedMessage, MeshEnd> {
        let (sender, pieces) = mpsc::channel(1);
        let output = Output {
            head,
            length_bytes,
            pieces: Some(pieces),
        };
        let sent = self.0.send(output).await;
        sent.map_err(|_| MeshEnd::Closed)?;
        Ok(StreamedMessage(sender))
    }
}

impl StreamedMessage {
    /// Queues the next bytes of the message. Waits until the writer has taken the earlier ones.
    ///
    /// # Errors
    /// [`MeshEnd::Closed`].
    pub(super) async fn give(&self, bytes: Bytes) -> Result<(), MeshEnd> {
        let sent = self.0.send(bytes).await;
        sent.map_err(|_| MeshEnd::Closed)
    }
}

/// Writing half of a connection.
pub(super) struct MeshWriter {
    stream: OwnedWriteHalf,
    queue: mpsc::Receiver<Output>,
}

impl MeshWriter {
    /// Writes the queued output until all senders are dropped or the peer stops reading.
    ///
    /// # Errors
    /// [`MeshEnd`] if not all of it was written.
    pub(super) async fn run(mut self) -> Result<(), MeshEnd> {
        while let Some(output) = self.queue.recv().await {
            self.write(&output.head).await?;
            let (mut left, mut pieces) = (output.length_bytes, output.pieces);
            while left > 0 {
                let piece = match &mut pieces {
                    Some(pieces) => pieces.recv().await,
                    None => None,
                };
                let zeros = || Bytes::from(vec![0; left.min(STEP_BYTES as u64) as usize]);
                let piece = piece.unwrap_or_else(zeros);
                let piece = &piece[..left.min(piece.len() as u64) as usize];
                self.write(piece).await?;
                left -= piece.len() as u64;
            }
        }
        let _gone = self.stream.shutdown().await;
        Ok(())
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), MeshEnd> {
        while !bytes.is_empty() {
            match timeout(WRITE_PATIENCE, self.stream.write(bytes)).await {
                Err(_) => return Err(MeshEnd::Offence(MeshOffence::NeverReads)),
                Ok(Err(_) | Ok(0)) => return Err(MeshEnd::Closed),
                Ok(Ok(count)) => bytes = &bytes[count..],
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::wire::mesh::Line;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let (near, far) = tokio::join!(dial(&at), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// Reads items one by one.
    struct Items(MeshReader, VecDeque<Item>);

    impl Items {
        async fn next(&mut self) -> Result<Item, MeshEnd> {
            while self.1.is_empty() {
                self.1 = self.0.next().await?.into();
            }
            Ok(self.1.pop_front().unwrap())
        }
    }

    #[tokio::test]
    async fn an_abandoned_message_ends_and_later_ones_are_received() {
        let (near, far) = pair().await;
        let (_, writer, sender) = open(near);
        let _writing = tokio::spawn(writer.run());
        let (reader, ..) = open(far);
        let mut reader = Items(reader, VecDeque::new());
        sender.send(b"id:x\n".to_vec()).unwrap();
        let head = Bytes::from_static(b"BYTES:17\nFILECHUNK:a\n");
        let message = sender.begin(head, 5).await.unwrap();
        message.give(Bytes::from_static(b"ab")).await.unwrap();
        assert_eq!(reader.next().await, Ok(Item::Hello(b"id:x".to_vec())));
        assert_eq!(reader.next().await, Ok(Item::Chunk(b"a".to_vec())));
        sender.send(b"PING\n".to_vec()).unwrap();
        drop(message);
        let mut given = Vec::new();
        while given.len() < 5 {
            match reader.next().await {
                Ok(Item::Part(part)) => given.extend_from_slice(&part),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(given, b"ab\0\0\0");
        assert_eq!(reader.next().await, Ok(Item::Line(Line::Ping)));
    }

    #[tokio::test]
    async fn lines_and_long_messages_arrive_whole_with_any_interleaving() {
        let (near, far) = pair().await;
        let (_, writer, sender) = open(near);
        let writing = tokio::spawn(writer.run());
        let (reader, ..) = open(far);
        let mut reader = Items(reader, VecDeque::new());
        sender.send(b"id:x\n".to_vec()).unwrap();
        let head = Bytes::from_static(b"BYTES:14\nFILECHUNK:a\n");
        let message = sender.begin(head, 2).await.unwrap();
        assert_eq!(reader.next().await, Ok(Item::Hello(b"id:x".to_vec())));
        assert_eq!(reader.next().await, Ok(Item::Chunk(b"a".to_vec())));
        // the message has started, so nothing comes between its parts
        sender.send(b"PING\n".to_vec()).unwrap();
        message.give(Bytes::from_static(b"\xff\n")).await.unwrap();
        let part = Item::Part(Bytes::from_static(b"\xff\n"));
        assert_eq!(reader.next().await, Ok(part));
        assert_eq!(reader.next().await, Ok(Item::Line(Line::Ping)));
        drop(sender);
        assert_eq!(writing.await.unwrap(), Ok(()));
        assert_eq!(reader.next().await, Err(MeshEnd::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_is_dropped_and_silence_between_messages_is_not() {
        let (near, mut far) = pair().await;
        let (mut reader, ..) = open(near);
        far.write_all(b"id:x\n").await.unwrap();
        assert!(reader.next().await.is_ok());
        let silence = timeout(PACE * 100, reader.next()).await;
        assert!(silence.is_err(), "nothing is wrong with silence");
        tokio::spawn(async move {
            let mut drip = tokio::time::interval(Duration::from_secs(1));
            loop {
                drip.tick().await;
                if far.write_all(b"x").await.is_err() {
                    return;
                }
            }
        });
        assert_eq!(
            reader.next().await,
            Err(MeshEnd::Offence(MeshOffence::TooSlow))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_is_dropped() {
        let (near, far) = pair().await;
        let (_, writer, sender) = open(near);
        let writing = tokio::spawn(writer.run());
        let large = Bytes::from(vec![0; 64 << 20]);
        sender.begin(large, 0).await.unwrap();
        assert_eq!(
            writing.await.unwrap(),
            Err(MeshEnd::Offence(MeshOffence::NeverReads))
        );
        drop(far);
        let (near, _far) = pair().await;
        let (_, _unread, sender) = open(near);
        let lines = 0..=LINES_MAX;
        let sent: Vec<_> = lines.map(|_| sender.send(b"PING\n".to_vec())).collect();
        assert_eq!(
            sent.last(),
            Some(&Err(MeshEnd::Offence(MeshOffence::NeverReads)))
        );
    }
}
