//! The task that drives the state machine of the mesh protocol.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::meter::TransferCounters;
use super::session::{MeshSession, SessionMessage, attend};
use super::{COMMANDS_MAX, HEARD_MAX, Mesh, MeshCommand, MeshReport, MeshSettings, PushTarget};
use crate::mesh::{
    ConnId, HANDSHAKES_MAX, MeshConfig, MeshEvent, MeshMachine, MeshOffence, MeshPeer, Pace, Who,
};
use crate::net::mesh::{MeshEnd, MeshSender, dial};
use crate::wire::discovery::MemberName;
use p2pfs_node::ForeignThrottle;
use p2pfs_node::Mailbox;
use p2pfs_node::inbox::{ChargedSender, InboxHandle};
use p2pfs_node::{EventLog, ForeignHost, ForeignPeer, News, foreign_id};
use p2pfs_transfer::net::is_own;

/// Maximum number of finished connection attempts queued for the task.
const DIALLED_MAX: usize = 64;
/// Pause after accept failed, for example for lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Number of accepted connections that may be closing, in addition to the peers and running
/// handshakes.
const LEAVING_MAX: usize = 32;

/// The plane's part of a connection. The other part is a [`MeshSession`].
struct MeshLink {
    sender: MeshSender,
    established: watch::Sender<Option<Who>>,
    /// Dropped to close the connection.
    _closing: oneshot::Sender<()>,
    pace: Arc<Mutex<Pace>>,
    moved: Arc<TransferCounters>,
}

struct MeshPlane {
    machine: MeshMachine,
    links: BTreeMap<ConnId, MeshLink>,
    next_conn: u64,
    inbox: InboxHandle,
    events: EventLog,
    mailbox: Mailbox,
    taken: ForeignThrottle,
    given: ForeignThrottle,
    heard: mpsc::Sender<(ConnId, SessionMessage)>,
    dialled: mpsc::Sender<(MemberName, io::Result<TcpStream>)>,
    /// Bytes of files received and sent on closed connections, by the ID of the peer.
    past: HashMap<String, (u64, u64)>,
}

struct MeshQueues {
    accepted: mpsc::Receiver<AcceptedStream>,
    heard: mpsc::Receiver<(ConnId, SessionMessage)>,
    dialled: mpsc::Receiver<(MemberName, io::Result<TcpStream>)>,
    commands: mpsc::Receiver<MeshCommand>,
}

type AcceptedStream = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// Maximum number of peers with closed connections whose counters are kept.
const PAST_MAX: usize = 256;

/// Starts the plane, which ends with the node. `listener` accepts the connections of mesh peers.
pub(crate) fn start(
    settings: MeshSettings,
    listener: TcpListener,
    host: ForeignHost,
) -> io::Result<Mesh> {
    let address = listener.local_addr()?;
    let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
    let (heard, heard_queue) = mpsc::channel(HEARD_MAX);
    let (dialled, dialled_queue) = mpsc::channel(DIALLED_MAX);
    let (accepted, accepted_queue) = mpsc::channel(1);
    let places = settings.max_peers + HANDSHAKES_MAX + LEAVING_MAX;
    tokio::spawn(accept_all(
        listener,
        Arc::new(Semaphore::new(places)),
        accepted,
    ));
    let config = MeshConfig {
        id: foreign_id(&host.me),
        name: host.name.to_string(),
        port: address.port(),
        max_peers: settings.max_peers,
        configured: settings.peers,
    };
    let is_ours = move |at| is_own(address, at);
    let stopped = host.stopped();
    let seed = SysRng.try_next_u64().map_err(io::Error::other)?;
    let plane = MeshPlane {
        machine: MeshMachine::new(config, Box::new(is_ours), seed, Instant::now()),
        links: BTreeMap::new(),
        next_conn: 0,
        inbox: host.pushes.inbox,
        events: host.events,
        mailbox: host.pushes.mailbox,
        taken: host.traffic.taken,
        given: host.traffic.given,
        heard,
        dialled,
        past: HashMap::new(),
    };
    let queues = MeshQueues {
        accepted: accepted_queue,
        heard: heard_queue,
        dialled: dialled_queue,
        commands: command_queue,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = plane.run(queues) => {}
            () = stopped => {}
        }
    });
    Ok(Mesh { commands, address })
}

async fn accept_all(
    listener: TcpListener,
    places: Arc<Semaphore>,
    accepted: mpsc::Sender<AcceptedStream>,
) {
    loop {
        // Further connections wait in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let next = tokio::select! {
            next = listener.accept() => next,
            () = accepted.closed() => return,
        };
        match next {
            Ok((stream, from)) => {
                if accepted.send((stream, from, place)).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

impl MeshPlane {
    async fn run(mut self, mut queues: MeshQueues) {
        loop {
            self.settle();
            let timeout = self.machine.poll_timeout();
            tokio::select! {
                Some((stream, from, place)) = queues.accepted.recv() => {
                    let conn = self.attend(stream, Some(place));
                    self.machine.accepted(Instant::now(), conn, from);
                }
                Some((conn, heard)) = queues.heard.recv() => self.handle_message(conn, heard),
                Some((address, result)) = queues.dialled.recv() => {
                    self.handle_dialled(address, result);
                }
                command = queues.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return,
                },
                () = tokio::time::sleep_until(timeout.into()) => {
                    self.machine.handle_timeout(Instant::now());
                }
            }
        }
    }

    fn attend(&mut self, stream: TcpStream, place: Option<OwnedSemaphorePermit>) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let (established, is_established) = watch::channel(None);
        let (closing, is_closing) = oneshot::channel();
        let moved = Arc::<TransferCounters>::default();
        let session = MeshSession {
            conn,
            origin: stream.peer_addr().ok().map(ChargedSender::at),
            plane: self.heard.clone(),
            inbox: self.inbox.clone(),
            events: self.events.clone(),
            moved: moved.clone(),
            passage: self.taken.clone(),
            established: is_established,
            closing: is_closing,
            _place: place,
        };
        let link = MeshLink {
            sender: attend(stream, session),
            established,
            _closing: closing,
            pace: Arc::default(),
            moved,
        };
        self.links.insert(conn, link);
        conn
    }

    fn handle_message(&mut self, conn: ConnId, heard: SessionMessage) {
        let now = Instant::now();
        match heard {
            SessionMessage::Hello(line) => self.machine.hello(now, conn, &line),
            SessionMessage::Line(line) => self.machine.line(now, conn, line),
            SessionMessage::Binary(length_bytes, bytes) => {
                self.machine.binary(now, conn, length_bytes, bytes);
            }
            SessionMessage::Alive => self.machine.alive(now, conn),
            SessionMessage::Blame(offence @ MeshOffence::ManyFiles) => {
                self.machine.offended_by(now, conn, offence);
            }
            SessionMessage::Blame(offence) => self.machine.blame(now, conn, offence),
            SessionMessage::Ended(Some(offence)) => {
                self.machine.offended_by(now, conn, offence);
                self.forget(conn);
            }
            SessionMessage::Ended(None) => {
                self.machine.closed(now, conn);
                self.forget(conn);
            }
        }
    }

    fn handle_dialled(&mut self, address: MemberName, result: io::Result<TcpStream>) {
        let now = Instant::now();
        let ends = result.and_then(|stream| {
            let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
            Ok((stream, local, remote))
        });
        match ends {
            Ok((stream, local, remote)) => {
                let conn = self.attend(stream, None);
                self.machine.dialled(now, conn, address, local, remote);
            }
            Err(error) => {
                tracing::debug!(%address, "no mesh peer answers: {error}");
                self.machine.dial_failed(now, &address);
            }
        }
    }

    fn handle_command(&mut self, command: MeshCommand) {
        match command {
            MeshCommand::Peers(reply) => {
                let peers = self.machine.peers().into_iter();
                let reports = peers.map(|peer| self.report(peer)).collect();
                let _gone = reply.send(reports);
            }
            MeshCommand::Known(reply) => {
                let _gone = reply.send(self.machine.known());
            }
            MeshCommand::Targets(reply) => {
                let _gone = reply.send(self.targets());
            }
            MeshCommand::Say { text, skip, reply } => {
                let skip = |id: &str| skip.iter().any(|skipped| skipped == id);
                let peers = self.machine.in_use().into_iter();
                let heard = peers.filter(|(_, who)| !skip(&who.id));
                let names = heard.map(|(_, who)| who.name).collect();
                let count = self.machine.send_chat(&text, &skip);
                let _gone = reply.send(if count > 0 { names } else { Vec::new() });
            }
            MeshCommand::Connect(address) => self.machine.configure(Instant::now(), address),
            MeshCommand::Discover => self.machine.discover(Instant::now()),
        }
    }

    fn targets(&self) -> Vec<PushTarget> {
        let in_use = self.machine.in_use().into_iter();
        let targets = in_use.filter_map(|(conn, who)| {
            let link = self.links.get(&conn)?;
            Some(PushTarget {
                who,
                sender: link.sender.clone(),
                pace: link.pace.clone(),
                moved: link.moved.clone(),
                passage: self.given.clone(),
            })
        });
        targets.collect()
    }

    fn report(&self, peer: MeshPeer) -> MeshReport {
        let (mut received_bytes, mut sent_bytes) =
            self.past.get(&peer.id).copied().unwrap_or_default();
        let mut rate_bytes_per_s = None;
        for link in self.links.values() {
            let who = link.established.borrow();
            if who.as_ref().is_some_and(|who| who.id == peer.id) {
                let (received, sent) = link.moved.bytes();
                received_bytes += received;
                sent_bytes += sent;
                rate_bytes_per_s = rate_bytes_per_s.or(link.moved.rate());
            }
        }
        MeshReport {
            peer,
            received_bytes,
            sent_bytes,
            rate_bytes_per_s,
        }
    }

    /// Sends all messages of the state machine and handles its events.
    fn settle(&mut self) {
        while let Some((conn, bytes)) = self.machine.poll_transmit() {
            let sent = self.links.get(&conn).map(|link| link.sender.send(bytes));
            if sent == Some(Err(MeshEnd::NeverReads)) {
                self.machine
                    .offended_by(Instant::now(), conn, MeshOffence::NeverReads);
            }
        }
        while let Some(event) = self.machine.poll_event() {
            self.handle_event(event);
        }
    }

    fn handle_event(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Dial(address) => {
                let dialled = self.dialled.clone();
                tokio::spawn(async move {
                    let result = dial(&address.to_string()).await;
                    let _stopping = dialled.send((address, result)).await;
                });
            }
            MeshEvent::Close(conn) => self.forget(conn),
            MeshEvent::Established(conn, who) => {
                if let Some(link) = self.links.get(&conn) {
                    link.established.send_replace(Some(who));
                }
            }
            MeshEvent::PeerUp { who, dialled } => {
                self.events.record(News::ForeignUp {
                    who: shown(who),
                    dialled,
                });
            }
            MeshEvent::PeerDown(who, why) => {
                self.events
                    .record(News::ForeignDown(shown(who), why.to_string()));
            }
            MeshEvent::Rejected(address, why) => {
                let (address, why) = (address.to_string(), why.to_string());
                self.events.record(News::ForeignRejected(address, why));
            }
            MeshEvent::Chat(who, text) => self.events.record(News::Chat {
                from: who.name,
                text,
            }),
            MeshEvent::Binary(who, length_bytes, bytes) => {
                self.mailbox.deliver(who.name, length_bytes, bytes);
            }
            MeshEvent::Learned(who, count) => {
                self.events.record(News::ForeignLearned {
                    from: shown(who),
                    count,
                });
            }
            MeshEvent::Offended(culprit, what) => {
                let ip = culprit.ip;
                let who = match culprit.name.as_str() {
                    "" => ip.to_string(),
                    name => format!("{name:?} at {ip}"),
                };
                self.events.warn(format!("the mesh peer {who} {what}"));
            }
        }
    }

    fn forget(&mut self, conn: ConnId) {
        let Some(link) = self.links.remove(&conn) else {
            return;
        };
        let (received, sent) = link.moved.bytes();
        let who = link.established.borrow().clone();
        let is_room = |id: &String| self.past.len() < PAST_MAX || self.past.contains_key(id);
        if let Some(who) = who.filter(|who| received + sent > 0 && is_room(&who.id)) {
            let past = self.past.entry(who.id).or_default();
            *past = (past.0 + received, past.1 + sent);
        }
    }
}

/// Describes a peer for the rest of the node.
pub(super) fn shown(who: Who) -> ForeignPeer {
    ForeignPeer {
        id: who.id,
        name: who.name,
        address: who.address,
    }
}
