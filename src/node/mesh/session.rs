//! One connection: what it says goes to the plane, the files that it pushes into the inbox.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

use super::Moved;
use super::files::{Files, Step};
use crate::mesh::{ConnId, Offence, Who};
use crate::net::mesh::{MeshEnd, MeshReader, MeshSender, open};
use crate::node::events::EventLog;
use crate::node::inbox::Inbox;
use crate::wire::mesh::{DecodeError, Item, Line};

/// How often what no more comes of is looked for, and the plane told that files come.
const TICK: Duration = Duration::from_secs(5);

/// How long what waits to be written may take on a connection that is let go of.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What a connection tells the plane.
pub(super) enum Heard {
    Hello(Vec<u8>),
    Line(Line),
    /// Bytes of no file, so many; without them where they are too many.
    Binary(u64, Option<Bytes>),
    /// Files come: it is not silent.
    Alive,
    Blame(Offence),
    /// It is over; for an offence where there is one.
    Ended(Option<Offence>),
}

/// What a connection works with.
pub(super) struct Session {
    pub(super) conn: ConnId,
    pub(super) plane: mpsc::Sender<(ConnId, Heard)>,
    pub(super) inbox: Option<Inbox>,
    pub(super) events: EventLog,
    pub(super) moved: Arc<Moved>,
    /// Who it is, once the plane knows.
    pub(super) established: watch::Receiver<Option<Who>>,
    /// Sent or dropped when the plane lets go of it.
    pub(super) closing: oneshot::Receiver<()>,
    /// Held for as long as the socket is.
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

/// Starts the tasks of a connection; it is closed once the sender is dropped and all is written.
pub(super) fn attend(stream: TcpStream, session: Session) -> MeshSender {
    let (reader, writer, sender) = open(stream);
    let written = tokio::spawn(writer.run());
    tokio::spawn(session.run(reader, written));
    sender
}

impl Session {
    async fn run(
        mut self,
        mut reader: MeshReader,
        mut written: tokio::task::JoinHandle<Result<(), MeshEnd>>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut files, mut pushes) = (None, false);
        let ended = loop {
            let item = tokio::select! {
                biased;
                _ = &mut self.closing => {
                    if timeout(CLOSE_WAIT, &mut written).await.is_err() {
                        written.abort();
                    }
                    return reader.linger().await;
                }
                outcome = &mut written => break outcome.unwrap_or(Ok(())).err(),
                _ = tick.tick() => {
                    if std::mem::take(&mut pushes) {
                        self.tell(Heard::Alive).await;
                    }
                    files = step(files, Step::Tick).await.0;
                    continue;
                }
                item = reader.next() => item,
            };
            let told = match item {
                Ok(Item::Hello(line)) => Heard::Hello(line),
                Ok(Item::Line(line)) => Heard::Line(line),
                Ok(Item::BadLength) => Heard::Blame(Offence::BadLength),
                Ok(Item::BadFile) => Heard::Blame(Offence::BadFile),
                Ok(Item::Binary(bytes)) => Heard::Binary(bytes.len() as u64, Some(bytes)),
                Ok(Item::LongBinary { length_bytes }) => Heard::Binary(length_bytes, None),
                Ok(file) => {
                    pushes = true;
                    let (kept, offence) = self.take_file(files, file).await;
                    files = kept;
                    match offence {
                        Some(offence) => Heard::Blame(offence),
                        None => continue,
                    }
                }
                Err(end) => break Some(end),
            };
            if !self.tell(told).await {
                return;
            }
        };
        // what has not its name yet leaves nothing, before anybody is told
        let _gone = tokio::task::spawn_blocking(move || drop(files)).await;
        self.tell(Heard::Ended(ended.and_then(offence_of))).await;
    }

    /// A message about a file; those of one that has not shaken hands wait until it has.
    async fn take_file(
        &mut self,
        files: Option<Files>,
        item: Item,
    ) -> (Option<Files>, Option<Offence>) {
        let next = match item {
            Item::Start(start) => Step::Start(start),
            Item::Chunk(name) => Step::Chunk(name),
            Item::Part(bytes) => {
                self.moved.received(bytes.len() as u64);
                Step::Part(bytes)
            }
            Item::End(end) => Step::End(end),
            _ => return (files, None),
        };
        let files = match files {
            Some(files) => Some(files),
            None => self.first_file().await,
        };
        step(files, next).await
    }

    async fn first_file(&mut self) -> Option<Files> {
        let inbox = self.inbox.clone()?;
        // fails when the plane lets go of the connection
        let who = self.established.wait_for(Option::is_some).await;
        let who = who.ok()?.clone()?;
        Some(Files::new(inbox, self.events.clone(), who.name))
    }

    /// Whether the plane still hears.
    async fn tell(&self, what: Heard) -> bool {
        self.plane.send((self.conn, what)).await.is_ok()
    }
}

/// Does a step where it may wait for the disk.
async fn step(files: Option<Files>, next: Step) -> (Option<Files>, Option<Offence>) {
    let Some(mut files) = files else {
        return (None, None);
    };
    let taken = tokio::task::spawn_blocking(move || {
        let offence = files.take(next);
        (Some(files), offence)
    });
    taken.await.unwrap_or((None, None))
}

fn offence_of(end: MeshEnd) -> Option<Offence> {
    match end {
        MeshEnd::Closed => None,
        MeshEnd::Garbled(DecodeError::EndlessLine) => Some(Offence::EndlessLine),
        MeshEnd::Garbled(DecodeError::BadBytes { .. }) => Some(Offence::BadBytes),
        MeshEnd::TooSlow => Some(Offence::TooSlow),
        MeshEnd::NeverReads => Some(Offence::NeverReads),
    }
}
