//! One connection of the mesh. A [`MeshSession`] reads it: messages go to the plane, and pushed
//! files go into the inbox within the rate limit.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

use super::files::{FileStep, PushedFiles};
use super::meter::TransferCounters;
use crate::mesh::{ConnId, MeshOffence, Who};
use crate::net::mesh::{MeshEnd, MeshReader, MeshSender, open};
use crate::wire::mesh::{DecodeError, Item, Line};
use p2pfs_node::EventLog;
use p2pfs_node::ForeignThrottle;
use p2pfs_node::inbox::{ChargedSender, InboxHandle};

/// Interval at which a session abandons stalled files and reports to the plane that files arrive.
const TICK: Duration = Duration::from_secs(5);

/// How long the rest of the write queue may take on a connection that is being closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Maximum number of file messages handled at once. Their payload has at most the bytes of one read
/// of the socket.
const STEPS_MAX: usize = 1024;

/// An item that was read but not handled, or the reason why reading ended.
type PendingItem = Option<Result<Item, MeshEnd>>;

/// A future that ends when the rate limit allows further reads; `None` if they are allowed now.
type ReadPermit = Option<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// A message of a connection to the plane.
pub(super) enum SessionMessage {
    Hello(Vec<u8>),
    Line(Line),
    /// A payload that is not part of a file: its length, and its bytes unless they are too many.
    Binary(u64, Option<Bytes>),
    /// Bytes of files arrived, so the peer is not silent.
    Alive,
    Blame(MeshOffence),
    /// The connection ended, possibly because of an offence.
    Ended(Option<MeshOffence>),
}

/// The reading part of a connection, and the parts of the node that it uses.
pub(super) struct MeshSession {
    pub(super) conn: ConnId,
    /// The sender to which the space of received files is charged. `None` if the connection has
    /// ended already.
    pub(super) origin: Option<ChargedSender>,
    pub(super) plane: mpsc::Sender<(ConnId, SessionMessage)>,
    pub(super) inbox: InboxHandle,
    pub(super) events: EventLog,
    pub(super) moved: Arc<TransferCounters>,
    pub(super) passage: ForeignThrottle,
    /// The peer, once the handshake is complete.
    pub(super) established: watch::Receiver<Option<Who>>,
    /// Sent or dropped when the plane closes the connection.
    pub(super) closing: oneshot::Receiver<()>,
    /// Slot of the connection, held as long as the socket is open.
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

/// Starts the reading and the writing task of a connection. The connection closes once the returned
/// sender is dropped and the queued output is written.
pub(super) fn attend(stream: TcpStream, session: MeshSession) -> MeshSender {
    let (reader, writer, sender) = open(stream);
    let written = tokio::spawn(writer.run());
    tokio::spawn(session.run(reader, written));
    sender
}

impl MeshSession {
    async fn run(
        mut self,
        mut reader: MeshReader,
        mut written: tokio::task::JoinHandle<Result<(), MeshEnd>>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut files, mut pushes) = (None, false);
        // the first item after the file messages that `gather` collects; it was read already and is
        // handled next
        let mut held = None;
        let mut allowed: ReadPermit = None;
        let ended = loop {
            let item = tokio::select! {
                biased;
                _ = &mut self.closing => {
                    // the permit holds a place in the queue of the rate limit, which would delay
                    // other transfers
                    drop(allowed);
                    if timeout(CLOSE_WAIT, &mut written).await.is_err() {
                        written.abort();
                    }
                    return reader.linger().await;
                }
                outcome = &mut written => break outcome.unwrap_or(Ok(())).err(),
                _ = tick.tick() => {
                    if std::mem::take(&mut pushes) || allowed.is_some() {
                        self.send_to_plane(SessionMessage::Alive).await;
                    }
                    // a file that the rate limit of this node delays is not stalled
                    if allowed.is_none() {
                        files = perform_steps(files, vec![FileStep::Tick]).await.0;
                    }
                    continue;
                }
                item = next_of(&mut allowed, &mut held, &mut reader) => item,
            };
            let told = match item {
                Ok(Item::Hello(line)) => SessionMessage::Hello(line),
                Ok(Item::Line(line)) => SessionMessage::Line(line),
                Ok(Item::BadLength) => SessionMessage::Blame(MeshOffence::BadLength),
                Ok(Item::BadFile) => SessionMessage::Blame(MeshOffence::BadFile),
                Ok(Item::Binary(bytes)) => SessionMessage::Binary(bytes.len() as u64, Some(bytes)),
                Ok(Item::LongBinary { length_bytes }) => SessionMessage::Binary(length_bytes, None),
                Ok(file) => {
                    pushes = true;
                    let steps = self.gather(file, &mut reader, &mut held);
                    allowed = self.more_after(&steps);
                    let (kept, offences) = self.handle_files(files, steps).await;
                    files = kept;
                    for offence in offences {
                        self.send_to_plane(SessionMessage::Blame(offence)).await;
                    }
                    continue;
                }
                Err(end) => break Some(end),
            };
            if !self.send_to_plane(told).await {
                return;
            }
        };
        drop(allowed);
        // Unfinished files are discarded before the end is reported.
        let _gone = tokio::task::spawn_blocking(move || drop(files)).await;
        self.send_to_plane(SessionMessage::Ended(ended.and_then(offence_of)))
            .await;
    }

    /// Collects a file message and those directly after it, so that many small pieces are not
    /// written to the disk one by one.
    fn gather(
        &self,
        first: Item,
        reader: &mut MeshReader,
        held: &mut PendingItem,
    ) -> Vec<FileStep> {
        let (mut steps, mut next) = (Vec::new(), Ok(Some(first)));
        loop {
            match next.map(|item| item.map(|item| self.step_of(item))) {
                Ok(Some(Ok(step))) => steps.push(step),
                Ok(Some(Err(other))) => *held = Some(Ok(other)),
                Ok(None) => {}
                Err(end) => *held = Some(Err(end)),
            }
            if held.is_some() || steps.len() >= STEPS_MAX {
                return steps;
            }
            next = reader.buffered();
            if matches!(next, Ok(None)) {
                return steps;
            }
        }
    }

    /// Returns the step for a file message, or the item itself for another message.
    fn step_of(&self, item: Item) -> Result<FileStep, Item> {
        Ok(match item {
            Item::Start(start) => FileStep::Start(start),
            Item::Chunk(name) => FileStep::Chunk(name),
            Item::Part(bytes) => {
                self.moved.received(bytes.len() as u64);
                FileStep::Part(bytes)
            }
            Item::End(end) => FileStep::End(end),
            other => return Err(other),
        })
    }

    fn more_after(&self, steps: &[FileStep]) -> ReadPermit {
        let lengths = steps.iter().map(|step| match step {
            FileStep::Part(bytes) => bytes.len() as u64,
            _ => 0,
        });
        let (came_bytes, passage) = (lengths.sum(), self.passage.clone());
        passage.count(came_bytes);
        let more: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            passage.pass(came_bytes, false).await.mark_transferred();
        });
        (came_bytes > 0).then_some(more)
    }

    /// Handles file messages. The first ones wait until the handshake is complete.
    async fn handle_files(
        &mut self,
        files: Option<PushedFiles>,
        steps: Vec<FileStep>,
    ) -> (Option<PushedFiles>, Vec<MeshOffence>) {
        let files = match files {
            Some(files) => Some(files),
            None => self.first_file().await,
        };
        perform_steps(files, steps).await
    }

    async fn first_file(&mut self) -> Option<PushedFiles> {
        let inbox = self.inbox.get()?.clone();
        // the wait fails when the plane closes the connection
        let who = self.established.wait_for(Option::is_some).await;
        let who = who.ok()?.clone()?;
        Some(PushedFiles::new(
            inbox,
            self.events.clone(),
            who.name,
            self.origin?,
        ))
    }

    /// Sends a message to the plane. Returns false if the plane has ended.
    async fn send_to_plane(&self, what: SessionMessage) -> bool {
        self.plane.send((self.conn, what)).await.is_ok()
    }
}

/// Returns the next item. The future may be dropped early without loss.
async fn next_of(
    allowed: &mut ReadPermit,
    held: &mut PendingItem,
    reader: &mut MeshReader,
) -> Result<Item, MeshEnd> {
    if let Some(waiting) = allowed {
        waiting.await;
        *allowed = None;
    }
    match held.take() {
        Some(item) => item,
        None => reader.next().await,
    }
}

/// Performs steps on a blocking thread.
async fn perform_steps(
    files: Option<PushedFiles>,
    steps: Vec<FileStep>,
) -> (Option<PushedFiles>, Vec<MeshOffence>) {
    let Some(mut files) = files else {
        return (None, Vec::new());
    };
    let taken = tokio::task::spawn_blocking(move || {
        let offences = steps.into_iter().filter_map(|step| files.perform(step));
        let offences = offences.collect();
        (Some(files), offences)
    });
    taken.await.unwrap_or((None, Vec::new()))
}

fn offence_of(end: MeshEnd) -> Option<MeshOffence> {
    match end {
        MeshEnd::Closed => None,
        MeshEnd::Garbled(DecodeError::EndlessLine) => Some(MeshOffence::EndlessLine),
        MeshEnd::Garbled(DecodeError::BadBytes { .. }) => Some(MeshOffence::BadBytes),
        MeshEnd::TooSlow => Some(MeshOffence::TooSlow),
        MeshEnd::NeverReads => Some(MeshOffence::NeverReads),
    }
}
