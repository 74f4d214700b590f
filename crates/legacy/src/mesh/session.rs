//! The reading task of one connection: messages go to the state machine, and pushed files go into
//! the inbox within the rate limit.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

use super::connection::{MeshEnd, MeshReader, open};
use super::machine::{ConnId, MeshOffence};
use super::push::MeshOutput;
use super::receive::{FileStep, FileStore, Receiving};
use super::{Mesh, MeshLink};
use crate::wire::mesh::Item;
use p2pfs_node::inbox::{ChargedSender, Inbox, InboxFile};
use p2pfs_node::{EventLog, News, Push, PushStage};
use p2pfs_proto::wire::native::record::Sender;

/// Interval at which a session abandons stalled files and reports to the state machine that files
/// arrive.
const TICK: Duration = Duration::from_secs(5);
/// How long the rest of the write queue may take on a connection that is being closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A future that ends when the rate limit allows further reads; `None` if they are allowed now.
type ReadPermit = Option<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// The inbox, as the folder for the files of one peer.
struct PeerInbox {
    inbox: Inbox,
    events: EventLog,
    /// The name that the peer claims.
    from: String,
    /// The sender to which the space of the files is charged.
    origin: ChargedSender,
}

impl FileStore for PeerInbox {
    type Part = InboxFile;

    fn begin(&self, size_bytes: u64) -> Result<InboxFile, String> {
        let begun = self.inbox.begin(self.origin, size_bytes);
        begun.map_err(|why| why.to_string())
    }

    fn write(&self, part: &InboxFile, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let written = part.write_at(offset, bytes);
        written.map_err(|why| why.to_string())
    }

    fn publish(&self, part: InboxFile, name: &[u8]) -> Result<Vec<u8>, String> {
        let published = part.publish(name, &Sender::Peer(self.from.clone()), &self.from);
        published.map_err(|why| why.to_string())
    }

    fn report(&self, name: &[u8], size_bytes: u64, stage: PushStage) {
        self.events.record(News::Received(Push {
            peer: self.from.clone(),
            name: name.to_vec(),
            size_bytes,
            stage,
        }));
    }
}

/// The reading side of one connection.
struct MeshSession {
    conn: ConnId,
    mesh: Mesh,
    output: Arc<MeshOutput>,
    /// `None` if the connection has ended already.
    origin: Option<ChargedSender>,
    files: Option<Receiving<PeerInbox>>,
    /// Whether file messages arrived since the last tick.
    has_pushed: bool,
    /// Slot of the connection, held as long as the socket is open.
    _place: Option<OwnedSemaphorePermit>,
}

/// Starts the reading and the writing task of a connection. The connection closes, once its queued
/// output is written, when the returned link is dropped.
pub(super) fn attend(
    mesh: &Mesh,
    conn: ConnId,
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
) -> MeshLink {
    let origin = stream.peer_addr().ok().map(ChargedSender::at);
    let (reader, writer, sender) = open(stream);
    let output = Arc::new(MeshOutput {
        sender,
        pace: tokio::sync::Mutex::default(),
        moved: super::meter::TransferCounters::default(),
        passage: mesh.0.given.clone(),
    });
    let session = MeshSession {
        conn,
        mesh: mesh.clone(),
        output: output.clone(),
        origin,
        files: None,
        has_pushed: false,
        _place: place,
    };
    let (closing, is_closing) = oneshot::channel();
    let written = tokio::spawn(writer.run());
    tokio::spawn(session.run(reader, written, is_closing));
    MeshLink {
        output,
        peer: None,
        _closing: closing,
    }
}

impl MeshSession {
    async fn run(
        mut self,
        mut reader: MeshReader,
        mut written: JoinHandle<Result<(), MeshEnd>>,
        mut closing: oneshot::Receiver<()>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut allowed: ReadPermit = None;
        let end = loop {
            let items = tokio::select! {
                biased;
                _ = &mut closing => {
                    let Self { output, files, _place, .. } = self;
                    // The writer ends once no sender is left. The permit holds a place in the queue
                    // of the rate limit, which would delay other transfers.
                    drop((output, files, allowed));
                    if timeout(CLOSE_WAIT, &mut written).await.is_err() {
                        written.abort();
                    }
                    return reader.linger().await;
                }
                outcome = &mut written => break outcome.unwrap_or(Ok(())).err(),
                _ = tick.tick() => {
                    if std::mem::take(&mut self.has_pushed) || allowed.is_some() {
                        let conn = self.conn;
                        self.mesh.enter(|state, now| state.machine.alive(now, conn));
                    }
                    // a file that the rate limit of this node delays is not stalled
                    if allowed.is_none() && self.files.is_some() {
                        self.perform(vec![FileStep::Tick]).await;
                    }
                    continue;
                }
                items = next_of(&mut allowed, &mut reader) => items,
            };
            match items {
                Ok(items) => allowed = self.handle(items).await,
                Err(end) => break Some(end),
            }
        };
        drop(allowed);
        // Unfinished files are discarded before the end is reported.
        let (files, conn) = (self.files.take(), self.conn);
        let _gone = tokio::task::spawn_blocking(move || drop(files)).await;
        self.mesh.enter(|state, now| {
            match end {
                Some(MeshEnd::Offence(offence)) => state.machine.offended_by(now, conn, offence),
                Some(MeshEnd::Closed) | None => state.machine.closed(now, conn),
            }
            state.forget(conn);
        });
    }

    /// Handles items in their order, and file messages that follow each other together. Returns the
    /// permit for the next read.
    async fn handle(&mut self, items: Vec<Item>) -> ReadPermit {
        let (mut steps, mut came_bytes) = (Vec::new(), 0);
        for item in items {
            steps.push(match item {
                Item::Start(start) => FileStep::Start(start),
                Item::Chunk(name) => FileStep::Chunk(name),
                Item::Part(bytes) => {
                    came_bytes += bytes.len() as u64;
                    self.output.moved.received(bytes.len() as u64);
                    FileStep::Part(bytes)
                }
                Item::End(end) => FileStep::End(end),
                other => {
                    self.perform(std::mem::take(&mut steps)).await;
                    self.pass_on(other);
                    continue;
                }
            });
            self.has_pushed = true;
        }
        self.perform(steps).await;
        let passage = self.mesh.0.taken.clone();
        passage.count(came_bytes);
        let permit = async move { passage.pass(came_bytes, false).await.mark_transferred() };
        (came_bytes > 0).then(|| Box::pin(permit) as _)
    }

    /// Passes an item that is not about a file to the state machine.
    fn pass_on(&self, item: Item) {
        let conn = self.conn;
        self.mesh.enter(|state, now| {
            let machine = &mut state.machine;
            match item {
                Item::Hello(line) => machine.hello(now, conn, &line),
                Item::Line(line) => machine.line(now, conn, line),
                Item::BadLength => machine.blame(now, conn, MeshOffence::BadLength),
                Item::Binary(bytes) => machine.binary(now, conn, bytes.len() as u64, Some(bytes)),
                Item::LongBinary { length_bytes } => machine.binary(now, conn, length_bytes, None),
                _ => machine.blame(now, conn, MeshOffence::BadFile),
            }
        });
    }

    /// Performs steps on a blocking thread. They are skipped if there is no inbox, or the handshake
    /// is not complete.
    async fn perform(&mut self, steps: Vec<FileStep>) {
        if steps.is_empty() {
            return;
        }
        if self.files.is_none() {
            self.files = self.open_inbox();
        }
        let Some(mut files) = self.files.take() else {
            return;
        };
        let performed = tokio::task::spawn_blocking(move || {
            let perform = |step| files.perform(Instant::now(), step);
            let offences: Vec<_> = steps.into_iter().filter_map(perform).collect();
            (files, offences)
        });
        let Ok((files, offences)) = performed.await else {
            return;
        };
        self.files = Some(files);
        if offences.is_empty() {
            return;
        }
        let conn = self.conn;
        self.mesh.enter(|state, now| {
            for offence in offences {
                match offence {
                    MeshOffence::ManyFiles => state.machine.offended_by(now, conn, offence),
                    _ => state.machine.blame(now, conn, offence),
                }
            }
        });
    }

    fn open_inbox(&self) -> Option<Receiving<PeerInbox>> {
        let conn = self.conn;
        let who = self.mesh.enter(|state, _| state.machine.peer_of(conn))?;
        let store = PeerInbox {
            inbox: self.mesh.0.inbox.get()?.clone(),
            events: self.mesh.0.events.clone(),
            from: who.name,
            origin: self.origin?,
        };
        Some(Receiving::new(Instant::now(), store))
    }
}

/// Returns the next items. The future may be dropped early without loss.
async fn next_of(allowed: &mut ReadPermit, reader: &mut MeshReader) -> Result<Vec<Item>, MeshEnd> {
    if let Some(waiting) = allowed {
        waiting.await;
        *allowed = None;
    }
    reader.next().await
}
