//! The mesh protocol, beside the native one: chat and pushed files. [`Mesh`] is its handle for the
//! rest of the node.
//!
//! ```text
//!            Mesh: a state machine behind a lock
//!              ▲ items                  │ lines, events
//!              │                        ▼
//!    session: reading task    MeshSender ─▶ writing task     two for each connection
//!              │                        ▲
//!              ▼ files                  │ files
//!           Receiving ─▶ inbox      MeshOutput ◀─ the node sends a file
//! ```
//!
//! [`MeshMachine`] decides about connections, peers, addresses and chat (`machine`, `known`). Each
//! connection has a reading task (`session`) and a writing task (`connection`). A reading task calls
//! the machine itself, under the lock; then the bytes that the machine returns are queued on their
//! connections. One more task accepts connections, and one calls the machine at its deadlines. The
//! mesh exists only if it is configured.

mod connection;
pub mod known;
pub mod machine;
mod meter;
mod push;
pub mod receive;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

pub use crate::wire::discovery::MemberName;
pub use connection::LINES_MAX;
use connection::{MeshEnd, dial};
pub use known::KNOWN_MAX;
use machine::HANDSHAKES_MAX;
pub use machine::{ConnId, MeshConfig, MeshEvent, MeshMachine, MeshPeer, Who};
use p2pfs_node::inbox::InboxHandle;
use p2pfs_node::{
    EventLog, ForeignHost, ForeignPeer, ForeignThrottle, Mailbox, News, PushError, foreign_id,
};
use p2pfs_transfer::net::is_own;
use push::MeshOutput;
use session::attend;

/// Pause after accept failed, for example for lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Number of accepted connections that may be closing, in addition to the peers and running
/// handshakes.
const LEAVING_MAX: usize = 32;
/// Maximum number of peers with closed connections whose counters are kept.
const PAST_MAX: usize = 256;

/// Settings of the mesh; see `[mesh]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// IPv4 address to which mesh peers connect.
    pub listen: SocketAddr,
    /// The configured peers, which are dialled whenever they are not connected.
    pub peers: Vec<MemberName>,
    /// Maximum number of peers at once.
    pub max_peers: usize,
}

/// One peer with its transfer counters.
#[derive(Clone, Debug)]
pub struct MeshReport {
    /// State of the peer in the state machine.
    pub peer: MeshPeer,
    /// Bytes of files received from the peer.
    pub received_bytes: u64,
    /// Bytes of files sent to the peer.
    pub sent_bytes: u64,
    /// Receive rate in bytes per second when files last arrived on an open connection of the peer.
    pub rate_bytes_per_s: Option<f64>,
}

/// Handle of the mesh for the rest of the node. Clones share their state.
#[derive(Clone)]
pub struct Mesh(Arc<MeshShared>);

struct MeshShared {
    address: SocketAddr,
    inbox: InboxHandle,
    events: EventLog,
    mailbox: Mailbox,
    taken: ForeignThrottle,
    given: ForeignThrottle,
    /// `None` once the node stops.
    state: Mutex<Option<MeshState>>,
    /// Notified after each use of the state, because its next deadline may have changed.
    used: Notify,
}

struct MeshState {
    machine: MeshMachine,
    links: BTreeMap<ConnId, MeshLink>,
    next_conn: u64,
    /// Bytes of files received and sent on closed connections, by the ID of the peer.
    past: HashMap<String, (u64, u64)>,
}

/// The shell's part of a connection. Dropping it closes the connection.
struct MeshLink {
    output: Arc<MeshOutput>,
    /// ID of the peer, once the handshake is complete.
    peer: Option<String>,
    _closing: oneshot::Sender<()>,
}

impl Mesh {
    /// Starts the mesh, which ends with the node. `listener` accepts the connections of mesh peers.
    pub(crate) fn start(
        settings: MeshSettings,
        listener: TcpListener,
        host: ForeignHost,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let places = settings.max_peers + HANDSHAKES_MAX + LEAVING_MAX;
        let config = MeshConfig {
            id: foreign_id(&host.me),
            name: host.name.to_string(),
            port: address.port(),
            max_peers: settings.max_peers,
            configured: settings.peers,
        };
        let is_ours = move |at: SocketAddrV4| is_own(address, at);
        let seed = SysRng.try_next_u64().map_err(io::Error::other)?;
        let state = MeshState {
            machine: MeshMachine::new(config, Box::new(is_ours), seed, Instant::now()),
            links: BTreeMap::new(),
            next_conn: 0,
            past: HashMap::new(),
        };
        let stopped = host.stopped();
        let mesh = Self(Arc::new(MeshShared {
            address,
            inbox: host.pushes.inbox,
            events: host.events,
            mailbox: host.pushes.mailbox,
            taken: host.traffic.taken,
            given: host.traffic.given,
            state: Mutex::new(Some(state)),
            used: Notify::new(),
        }));
        let running = mesh.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = running.accept_all(listener, places) => {}
                () = running.keep_time() => {}
                () = stopped => {}
            }
            // dropping the links closes the connections
            drop(running.0.state.lock().take());
        });
        Ok(mesh)
    }

    /// Returns the address to which mesh peers connect.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Returns the peers, and those that broke the rules; empty if the node is stopping.
    pub fn peers(&self) -> Vec<MeshReport> {
        self.enter(|state, _| state.reports())
    }

    /// Returns the known addresses that are not connected.
    pub fn known(&self) -> Vec<MemberName> {
        self.enter(|state, _| state.machine.known())
    }

    /// Connects to an address, now and whenever it is not connected.
    pub fn connect(&self, address: MemberName) {
        self.enter(|state, now| state.machine.configure(now, address));
    }

    /// Asks every peer for addresses.
    pub fn discover(&self) {
        self.enter(|state, now| state.machine.discover(now));
    }

    /// Sends a chat message to every peer except those with an ID in `skip`. Returns the names of
    /// the recipients.
    pub(crate) fn say(&self, text: &str, skip: &[String]) -> Vec<String> {
        let is_skipped = |id: &str| skip.iter().any(|skipped| skipped == id);
        self.enter(|state, _| state.machine.send_chat(text, &is_skipped))
    }

    /// Returns the peers to which files can be pushed now.
    pub(crate) fn recipients(&self) -> Vec<ForeignPeer> {
        self.enter(|state, _| {
            let in_use = state.machine.in_use().into_values();
            let peers = in_use.filter_map(|conn| state.machine.peer_of(conn));
            peers.map(shown).collect()
        })
    }

    /// Returns the connection to the peer with this ID.
    ///
    /// # Errors
    /// [`PushError::Gone`] if it is not connected.
    pub(crate) fn output(&self, id: &str) -> Result<Arc<MeshOutput>, PushError> {
        let output = self.enter(|state, _| {
            let conn = *state.machine.in_use().get(id)?;
            Some(state.links.get(&conn)?.output.clone())
        });
        output.ok_or(PushError::Gone)
    }

    async fn accept_all(&self, listener: TcpListener, places: usize) {
        let places = Arc::new(Semaphore::new(places));
        // Further connections wait in the kernel's queue.
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, from)) => self.attend(stream, Some(place), |machine, now, conn| {
                    machine.accepted(now, conn, from);
                }),
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            }
        }
    }

    /// Calls the state machine at its deadlines, until the node stops.
    async fn keep_time(&self) {
        loop {
            let due = {
                let state = self.0.state.lock();
                state.as_ref().map(|state| state.machine.poll_timeout())
            };
            let Some(due) = due else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {
                    self.enter(|state, now| state.machine.handle_timeout(now));
                }
                () = self.0.used.notified() => {}
            }
        }
    }

    /// Starts the tasks of a connection, and reports it to the state machine.
    fn attend(
        &self,
        stream: TcpStream,
        place: Option<OwnedSemaphorePermit>,
        report: impl FnOnce(&mut MeshMachine, Instant, ConnId),
    ) {
        self.enter(|state, now| {
            state.next_conn += 1;
            let conn = ConnId(state.next_conn);
            let link = attend(self, conn, stream, place);
            state.links.insert(conn, link);
            report(&mut state.machine, now, conn);
        });
    }

    async fn dial(self, address: MemberName) {
        let ends = dial(&address.to_string()).await.and_then(|stream| {
            let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
            Ok((stream, local, remote))
        });
        match ends {
            Ok((stream, local, remote)) => self.attend(stream, None, |machine, now, conn| {
                machine.dialled(now, conn, address, local, remote);
            }),
            Err(error) => {
                tracing::debug!(%address, "no mesh peer answers: {error}");
                self.enter(|state, now| state.machine.dial_failed(now, &address));
            }
        }
    }

    /// Uses the state, then sends all messages of the state machine and handles its events. Returns
    /// an empty result if the node is stopping.
    fn enter<T: Default>(&self, action: impl FnOnce(&mut MeshState, Instant) -> T) -> T {
        let mut locked = self.0.state.lock();
        let Some(state) = locked.as_mut() else {
            return T::default();
        };
        let now = Instant::now();
        let result = action(state, now);
        while let Some((conn, bytes)) = state.machine.poll_transmit() {
            let sent = state
                .links
                .get(&conn)
                .map(|link| link.output.sender.send(bytes));
            if let Some(Err(MeshEnd::Offence(offence))) = sent {
                state.machine.offended_by(now, conn, offence);
            }
        }
        while let Some(event) = state.machine.poll_event() {
            self.handle_event(state, event);
        }
        drop(locked);
        self.0.used.notify_one();
        result
    }

    fn handle_event(&self, state: &mut MeshState, event: MeshEvent) {
        let events = &self.0.events;
        match event {
            MeshEvent::Dial(address) => drop(tokio::spawn(self.clone().dial(address))),
            MeshEvent::Close(conn) => state.forget(conn),
            MeshEvent::Established(conn, who) => {
                let link = state.links.get_mut(&conn);
                link.into_iter()
                    .for_each(|link| link.peer = Some(who.id.clone()));
            }
            MeshEvent::PeerUp { who, dialled } => {
                let who = shown(who);
                events.record(News::ForeignUp { who, dialled });
            }
            MeshEvent::PeerDown(who, why) => {
                events.record(News::ForeignDown(shown(who), why.to_string()));
            }
            MeshEvent::Rejected(address, why) => {
                let (address, why) = (address.to_string(), why.to_string());
                events.record(News::ForeignRejected(address, why));
            }
            MeshEvent::Chat(who, text) => {
                let from = who.name;
                events.record(News::Chat { from, text });
            }
            MeshEvent::Binary(who, length_bytes, bytes) => {
                self.0.mailbox.deliver(who.name, length_bytes, bytes);
            }
            MeshEvent::Learned(who, count) => {
                let from = shown(who);
                events.record(News::ForeignLearned { from, count });
            }
            MeshEvent::Offended(culprit, what) => {
                let ip = culprit.ip;
                let who = match culprit.name.as_str() {
                    "" => ip.to_string(),
                    name => format!("{name:?} at {ip}"),
                };
                events.warn(format!("the mesh peer {who} {what}"));
            }
        }
    }
}

impl MeshState {
    fn reports(&self) -> Vec<MeshReport> {
        let report = |peer: MeshPeer| {
            let links = self.links.values();
            let links = links.filter(|link| link.peer.as_ref() == Some(&peer.id));
            let past = self.past.get(&peer.id).copied().unwrap_or_default();
            let moved = links.clone().map(|link| link.output.moved.bytes());
            let sum = |a: (u64, u64), b: (u64, u64)| (a.0 + b.0, a.1 + b.1);
            let (received_bytes, sent_bytes) = moved.fold(past, sum);
            let rate_bytes_per_s = links
                .map(|link| link.output.moved.rate())
                .find_map(|rate| rate);
            MeshReport {
                peer,
                received_bytes,
                sent_bytes,
                rate_bytes_per_s,
            }
        };
        self.machine.peers().into_iter().map(report).collect()
    }

    /// Drops the link of a connection, and keeps its counters.
    fn forget(&mut self, conn: ConnId) {
        let Some(link) = self.links.remove(&conn) else {
            return;
        };
        let (received, sent) = link.output.moved.bytes();
        let is_room = |id: &String| self.past.len() < PAST_MAX || self.past.contains_key(id);
        let peer = link.peer.filter(|id| received + sent > 0 && is_room(id));
        if let Some(id) = peer {
            let past = self.past.entry(id).or_default();
            *past = (past.0 + received, past.1 + sent);
        }
    }
}

/// Describes a peer for the rest of the node.
fn shown(who: Who) -> ForeignPeer {
    ForeignPeer {
        id: who.id,
        name: who.name,
        address: who.address,
    }
}
