//! One connection: what it says goes to the plane, the files that it pushes into the inbox, as fast
//! as the limit lets them come.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

use super::Moved;
use super::files::{Files, Step};
use crate::events::EventLog;
use crate::inbox::{Opening, Origin};
use crate::traffic::Passage;
use p2pfs_legacy::mesh::{ConnId, Offence, Who};
use p2pfs_legacy::net::mesh::{MeshEnd, MeshReader, MeshSender, open};
use p2pfs_legacy::wire::mesh::{DecodeError, Item, Line};

/// How often what no more comes of is looked for, and the plane told that files come.
const TICK: Duration = Duration::from_secs(5);

/// How long what waits to be written may take on a connection that is let go of.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Messages about files that are worked off at once; what they carry is at most what was read at
/// once.
const STEPS_MAX: usize = 1024;

/// What was read, or why nothing more can be, and not looked at yet.
type Held = Option<Result<Item, MeshEnd>>;

/// Ends when more may be read after what came, where that has yet to be.
type Allowed = Option<Pin<Box<dyn Future<Output = ()> + Send>>>;

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
    /// The sender that the room of its files is charged to; none where its connection is gone.
    pub(super) origin: Option<Origin>,
    pub(super) plane: mpsc::Sender<(ConnId, Heard)>,
    pub(super) inbox: Opening,
    pub(super) events: EventLog,
    pub(super) moved: Arc<Moved>,
    pub(super) passage: Passage,
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
        // what came behind messages about files, and waits for its turn
        let mut held = None;
        let mut allowed: Allowed = None;
        let ended = loop {
            let item = tokio::select! {
                biased;
                _ = &mut self.closing => {
                    // it may be the first of those who wait for the limit
                    drop(allowed);
                    if timeout(CLOSE_WAIT, &mut written).await.is_err() {
                        written.abort();
                    }
                    return reader.linger().await;
                }
                outcome = &mut written => break outcome.unwrap_or(Ok(())).err(),
                _ = tick.tick() => {
                    if std::mem::take(&mut pushes) || allowed.is_some() {
                        self.tell(Heard::Alive).await;
                    }
                    // what our own limit holds back is not late
                    if allowed.is_none() {
                        files = take(files, vec![Step::Tick]).await.0;
                    }
                    continue;
                }
                item = next_of(&mut allowed, &mut held, &mut reader) => item,
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
                    let steps = self.gather(file, &mut reader, &mut held);
                    allowed = self.more_after(&steps);
                    let (kept, offences) = self.take_files(files, steps).await;
                    files = kept;
                    for offence in offences {
                        self.tell(Heard::Blame(offence)).await;
                    }
                    continue;
                }
                Err(end) => break Some(end),
            };
            if !self.tell(told).await {
                return;
            }
        };
        drop(allowed);
        // what has not its name yet leaves nothing, before anybody is told
        let _gone = tokio::task::spawn_blocking(move || drop(files)).await;
        self.tell(Heard::Ended(ended.and_then(offence_of))).await;
    }

    /// A message about a file, and those that came right behind it: what is sent in many small
    /// pieces is not handed to the disk piece by piece.
    fn gather(&self, first: Item, reader: &mut MeshReader, held: &mut Held) -> Vec<Step> {
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

    /// What a message about a file does; any other message as it is.
    fn step_of(&self, item: Item) -> Result<Step, Item> {
        Ok(match item {
            Item::Start(start) => Step::Start(start),
            Item::Chunk(name) => Step::Chunk(name),
            Item::Part(bytes) => {
                self.moved.received(bytes.len() as u64);
                Step::Part(bytes)
            }
            Item::End(end) => Step::End(end),
            other => return Err(other),
        })
    }

    fn more_after(&self, steps: &[Step]) -> Allowed {
        let lengths = steps.iter().map(|step| match step {
            Step::Part(bytes) => bytes.len() as u64,
            _ => 0,
        });
        let (came_bytes, passage) = (lengths.sum(), self.passage.clone());
        passage.count(came_bytes);
        let more: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { passage.pass(came_bytes, false).await });
        (came_bytes > 0).then_some(more)
    }

    /// Messages of one that has not shaken hands wait until it has.
    async fn take_files(
        &mut self,
        files: Option<Files>,
        steps: Vec<Step>,
    ) -> (Option<Files>, Vec<Offence>) {
        let files = match files {
            Some(files) => Some(files),
            None => self.first_file().await,
        };
        take(files, steps).await
    }

    async fn first_file(&mut self) -> Option<Files> {
        let inbox = self.inbox.get()?.clone();
        // fails when the plane lets go of the connection
        let who = self.established.wait_for(Option::is_some).await;
        let who = who.ok()?.clone()?;
        Some(Files::new(
            inbox,
            self.events.clone(),
            who.name,
            self.origin?,
        ))
    }

    /// Whether the plane still hears.
    async fn tell(&self, what: Heard) -> bool {
        self.plane.send((self.conn, what)).await.is_ok()
    }
}

/// The next thing that was said. May be dropped half way without loss.
async fn next_of(
    allowed: &mut Allowed,
    held: &mut Held,
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

/// Does steps where they may wait for the disk.
async fn take(files: Option<Files>, steps: Vec<Step>) -> (Option<Files>, Vec<Offence>) {
    let Some(mut files) = files else {
        return (None, Vec::new());
    };
    let taken = tokio::task::spawn_blocking(move || {
        let offences = steps.into_iter().filter_map(|step| files.take(step));
        let offences = offences.collect();
        (Some(files), offences)
    });
    taken.await.unwrap_or((None, Vec::new()))
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
