//! The legacy peers' mesh protocol as a state machine: connections, peers and chat.
//!
//! [`MeshMachine`] has the handshakes, the peers and the addresses learned from them, keepalive and
//! timeouts, chat, and the offences of each peer. It is pure: it receives connections, lines and
//! the time, and returns the bytes to send, the addresses to dial, the connections to close and its
//! next deadline. It opens no socket and holds no byte of a file. Every table has a named limit.
//!
//! Two further machines work on files: [`Receiving`] sorts the bytes that a connection pushes into
//! files, and [`Pace`] limits the rate of the messages that this node pushes to a peer.

pub mod known;
mod lines;
mod offence;
mod pace;
mod peers;
pub mod receive;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::wire::discovery::MemberName;
use crate::wire::mesh::{Hello, Line, encode_chat, encode_hello, encode_listen, encode_peers};
use p2pfs_types::bucket::TokenBucket;

pub use known::{DIALS_AT_ONCE, KNOWN_MAX, KNOWN_OF_PEER_MAX, TRIES_MAX};
pub use offence::{Culprit, MeshOffence, OFFENDERS_MAX};
pub use pace::{Pace, QUEUE_WANTED};
pub use peers::MeshPeer;
pub use receive::{Begun, FILE_PATIENCE, FileId, OPEN_MAX, Receiving, Refused};

use known::{AddressBook, DialResult};
use offence::MeshOffenders;
use peers::ConnectedPeer;

/// Timeout of each step of a handshake, as in the original programs.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Interval between two pings of every peer.
pub const PING_PERIOD: Duration = Duration::from_secs(15);
/// How long a peer may be silent before this node closes its connections.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Interval between two rounds of asking every peer for addresses and dialling learned ones.
pub const DISCOVER_PERIOD: Duration = Duration::from_secs(30);
/// Maximum random delay before learned addresses are dialled.
pub const DIAL_JITTER: Duration = Duration::from_secs(5);
/// Maximum accepted connections in the handshake. Further ones are closed at once.
pub const HANDSHAKES_MAX: usize = 32;
/// Maximum accepted connections in the handshake from one address.
pub const HANDSHAKES_OF_ADDRESS: usize = 16;
/// Maximum burst of lines from one peer.
pub const LINES_BURST: u32 = 256;
/// Maximum sustained lines per second from one peer.
pub const LINES_PER_S: u32 = 32;
/// Maximum messages that wait for [`MeshMachine::poll_transmit`], and maximum events that wait for
/// [`MeshMachine::poll_event`]. Further ones are dropped.
const OUTBOX_MAX: usize = 16_384;

/// Number of a connection. The owner of the machine assigns it and never reuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Configuration of the state machine.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// ID of this node: letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// Display name of this node.
    pub name: String,
    /// Port on which this node listens, on every address at which other nodes reach it.
    pub port: u16,
    /// Maximum connected peers.
    pub max_peers: usize,
    /// Addresses that are dialled whenever they are not connected.
    pub configured: Vec<MemberName>,
}

/// An event or a request of the state machine to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshEvent {
    /// Request: connect and report to [`MeshMachine::dialled`] or [`MeshMachine::dial_failed`].
    Dial(MemberName),
    /// Request: close the connection after its pending bytes are sent. No later event has this
    /// number.
    Close(ConnId),
    /// The handshake of a connection is complete. Files on the connection come from this peer.
    Established(ConnId, Who),
    /// The first connection of a peer is established.
    PeerUp {
        /// The peer.
        who: Who,
        /// Whether this node dialled the peer.
        dialled: bool,
    },
    /// The last connection of a peer ended.
    PeerDown(Who, DownWhy),
    /// A peer rejected this node's connection.
    Rejected(MemberName, Rejection),
    /// A chat message.
    Chat(Who, String),
    /// A payload that is not part of a file, with its length. The bytes are `None` if it is too
    /// long to be passed on.
    Binary(Who, u64, Option<Bytes>),
    /// A peer sent this number of new addresses.
    Learned(Who, usize),
    /// A peer breaks the rules, and a report of it is due.
    Offended(Culprit, MeshOffence),
}

/// A peer, as it identifies itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// ID of the peer.
    pub id: String,
    /// Display name of the peer.
    pub name: String,
    /// Address where the peer listens. If that is not known, the remote address of its connection.
    pub address: SocketAddr,
}

/// Why the last connection of a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownWhy {
    /// The peer or the network closed the connection.
    #[error("its connection ended")]
    Closed,
    /// The peer was silent for [`SILENCE_MAX`].
    #[error("silent for more than {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// The peer broke the rules.
    #[error("it {0}")]
    Offended(MeshOffence),
}

/// Why a peer rejects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The peer is already connected to this node.
    #[error("peer rejected: duplicate connection")]
    Duplicate,
    /// The peer has as many peers as it accepts.
    #[error("peer rejected: max peers reached")]
    MaxPeers,
    /// The connection ended before an answer arrived. A rejection may have been lost with it.
    #[error("it closed the connection, or speaks another protocol")]
    Silent,
}

/// Callback that returns whether an address belongs to this node.
pub type IsOwn = Box<dyn Fn(SocketAddrV4) -> bool + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Accepted; the first line is expected.
    Hello,
    /// Accepted; the second line is expected, and then this node answers.
    Listen,
    /// Dialled; the first line is expected.
    Reply,
    /// The handshake is complete.
    Up,
}

struct Conn {
    stage: Stage,
    remote: SocketAddr,
    /// Address that this node dialled; `None` for an accepted connection.
    dialled: Option<MemberName>,
    /// Time when the current step of the handshake began.
    since: Instant,
    id: String,
    name: String,
    /// Address at which other nodes can dial the peer, if known.
    listen: Option<SocketAddrV4>,
    lines: TokenBucket,
}

/// The state machine of the mesh protocol.
pub struct MeshMachine {
    config: MeshConfig,
    is_own: IsOwn,
    conns: BTreeMap<ConnId, Conn>,
    peers: BTreeMap<String, ConnectedPeer>,
    addresses: AddressBook,
    offenders: MeshOffenders,
    random: StdRng,
    next_ping: Instant,
    next_discovery: Instant,
    /// When learned addresses are dialled next.
    dial_at: Option<Instant>,
    transmits: VecDeque<(ConnId, Vec<u8>)>,
    events: VecDeque<MeshEvent>,
}

impl MeshMachine {
    /// Creates a machine that dials the configured addresses at once. `is_own` tells which
    /// addresses belong to this node.
    pub fn new(config: MeshConfig, is_own: IsOwn, seed: u64, now: Instant) -> Self {
        let mut addresses = AddressBook::default();
        for address in &config.configured {
            addresses.configure(address.clone(), now);
        }
        Self {
            config,
            is_own,
            conns: BTreeMap::new(),
            peers: BTreeMap::new(),
            addresses,
            offenders: MeshOffenders::new(now),
            random: StdRng::seed_from_u64(seed),
            next_ping: now + PING_PERIOD,
            next_discovery: now + DISCOVER_PERIOD,
            dial_at: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Adds a configured address, which is dialled now and whenever it is not connected.
    pub fn configure(&mut self, now: Instant, address: MemberName) {
        self.addresses.configure(address, now);
        self.dial_due(now, false);
    }

    /// Records an accepted connection. Closes it at once if too many accepted connections are in
    /// the handshake.
    pub fn accepted(&mut self, now: Instant, conn: ConnId, remote: SocketAddr) {
        let is_shaking = |c: &&Conn| matches!(c.stage, Stage::Hello | Stage::Listen);
        let shaking = self.conns.values().filter(is_shaking);
        let of_address = shaking.clone().filter(|c| c.remote.ip() == remote.ip());
        let is_room =
            of_address.count() < HANDSHAKES_OF_ADDRESS && shaking.count() < HANDSHAKES_MAX;
        if !is_room {
            return self.push_event(MeshEvent::Close(conn));
        }
        self.conns
            .insert(conn, Conn::new(now, Stage::Hello, remote, None));
    }

    /// Records that a connection for [`MeshEvent::Dial`] was made between `local` and `remote`, and
    /// starts the handshake.
    pub fn dialled(
        &mut self,
        now: Instant,
        conn: ConnId,
        address: MemberName,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let mut hello = encode_hello(&self.config.id, &self.config.name);
        if let SocketAddr::V4(local) = local {
            let listen = SocketAddrV4::new(*local.ip(), self.config.port);
            hello.extend(encode_listen(listen));
        }
        let made = Conn::new(now, Stage::Reply, remote, Some(address));
        self.conns.insert(conn, made);
        self.send(conn, hello);
    }

    /// Records that no connection for [`MeshEvent::Dial`] could be made.
    pub fn dial_failed(&mut self, now: Instant, address: &MemberName) {
        self.addresses.dialled(now, address, DialResult::Failed);
    }

    /// Processes the first line of a connection.
    pub fn hello(&mut self, now: Instant, conn: ConnId, line: &[u8]) {
        let Some(stage) = self.conns.get(&conn).map(|c| c.stage) else {
            return;
        };
        match (stage, Hello::parse(line)) {
            (Stage::Hello, Some(Hello::Peer { id, name })) => {
                self.admit(now, conn, id, name);
            }
            (Stage::Reply, Some(Hello::Peer { id, name })) => {
                self.answered(now, conn, id, name);
            }
            (Stage::Reply, Some(Hello::Duplicate)) => {
                self.rejected(now, conn, Rejection::Duplicate);
            }
            (Stage::Reply, Some(Hello::MaxPeers)) => {
                self.rejected(now, conn, Rejection::MaxPeers);
            }
            (Stage::Hello | Stage::Reply, _) => self.offended_by(now, conn, MeshOffence::NoHello),
            _ => {}
        }
    }

    /// Records that bytes of a file arrived, so that a peer that pushes a file does not count as
    /// silent.
    pub fn alive(&mut self, now: Instant, conn: ConnId) {
        if let Some(conn) = self.conns.get(&conn).filter(|c| c.stage == Stage::Up)
            && let Some(peer) = self.peers.get_mut(&conn.id)
        {
            peer.heard_at = now;
        }
    }

    /// Records that a connection ended, or that no more is read from it.
    pub fn closed(&mut self, now: Instant, conn: ConnId) {
        self.drop_conn(now, conn, DownWhy::Closed);
    }

    /// Records an offence after which the connection is useless, and ends the connection.
    pub fn offended_by(&mut self, now: Instant, conn: ConnId, what: MeshOffence) {
        self.blame(now, conn, what);
        self.end(now, conn, DownWhy::Offended(what));
    }

    /// Counts an offence of a peer, and reports it if a report is due. The connection stays open.
    pub fn blame(&mut self, now: Instant, conn: ConnId, what: MeshOffence) {
        let Some(culprit) = self.conns.get(&conn).map(Conn::culprit) else {
            return;
        };
        if self.offenders.record(now, &culprit, what) {
            self.push_event(MeshEvent::Offended(culprit, what));
        }
    }

    /// Runs everything that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.end_handshakes(now);
        if self.next_ping <= now {
            self.next_ping = now + PING_PERIOD;
            self.ping(now);
        }
        if self.next_discovery <= now {
            self.next_discovery = now + DISCOVER_PERIOD;
            self.discover(now);
        }
        let learned = self.dial_at.is_some_and(|at| at <= now);
        if learned {
            self.dial_at = None;
        }
        self.dial_due(now, learned);
    }

    /// Asks every peer for addresses, and schedules dials of learned ones.
    pub fn discover(&mut self, now: Instant) {
        self.send_all(crate::wire::mesh::REQUEST_PEERS);
        self.dial_soon(now);
    }

    /// Sends a chat message to every peer except those whose ID makes `skip` return true. Returns
    /// the number of recipients.
    pub fn send_chat(&mut self, text: &str, skip: &dyn Fn(&str) -> bool) -> usize {
        let Some(line) = encode_chat(text) else {
            return 0;
        };
        let in_use = self.in_use();
        let heard = in_use.iter().filter(|(_, who)| !skip(&who.id));
        let heard: Vec<ConnId> = heard.map(|(conn, _)| *conn).collect();
        heard.iter().for_each(|conn| self.send(*conn, line.clone()));
        heard.len()
    }

    /// Returns the next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<(ConnId, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<MeshEvent> {
        self.events.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Instant {
        let is_room = self.peers.len() < self.config.max_peers;
        let handshakes = self.conns.values().filter_map(Conn::handshake_ends);
        let configured = self
            .addresses
            .next_due(|address| self.is_connected(address));
        handshakes
            .chain(configured.filter(|_| is_room))
            .chain(self.dial_at)
            .chain([self.next_ping, self.next_discovery])
            .min()
            .unwrap_or(self.next_ping)
    }

    fn end_handshakes(&mut self, now: Instant) {
        let late = |c: &Conn| c.handshake_ends().is_some_and(|ends| ends <= now);
        let late = self.conns.iter().filter(|(_, c)| late(c));
        let late: Vec<(ConnId, Stage)> = late.map(|(id, c)| (*id, c.stage)).collect();
        for (conn, stage) in late {
            match stage {
                // a peer that sends no second line is accepted without an address
                Stage::Listen => self.establish_accepted(now, conn),
                _ => self.offended_by(now, conn, MeshOffence::TooSlow),
            }
        }
    }

    fn dial_due(&mut self, now: Instant, learned: bool) {
        if self.peers.len() >= self.config.max_peers {
            return;
        }
        let connected: Vec<MemberName> = self.connected_addresses();
        let is_connected = |address: &MemberName| connected.contains(address);
        let due = self
            .addresses
            .take_due(now, learned, is_connected, &mut self.random);
        for address in due {
            self.push_event(MeshEvent::Dial(address));
        }
    }

    fn dial_soon(&mut self, now: Instant) {
        let jitter = self.random.random_range(0..=DIAL_JITTER.as_millis() as u64);
        let at = now + Duration::from_millis(jitter);
        self.dial_at = Some(self.dial_at.map_or(at, |before| before.min(at)));
    }

    fn send_all(&mut self, line: &[u8]) {
        for (conn, _) in self.in_use() {
            self.send(conn, line.to_vec());
        }
    }

    fn send(&mut self, conn: ConnId, bytes: Vec<u8>) {
        if self.transmits.len() < OUTBOX_MAX {
            self.transmits.push_back((conn, bytes));
        }
    }

    fn push_event(&mut self, event: MeshEvent) {
        // dropping is harmless: an owner that takes no more events is shutting down
        if self.events.len() < OUTBOX_MAX {
            self.events.push_back(event);
        }
    }
}

impl Conn {
    fn new(now: Instant, stage: Stage, remote: SocketAddr, dialled: Option<MemberName>) -> Self {
        let listen = match (&dialled, remote) {
            (Some(_), SocketAddr::V4(remote)) => Some(remote),
            _ => None,
        };
        Self {
            stage,
            remote,
            dialled: dialled.map(known::plain),
            since: now,
            id: String::new(),
            name: String::new(),
            listen,
            lines: TokenBucket::per_second(LINES_PER_S, LINES_BURST, now),
        }
    }

    fn handshake_ends(&self) -> Option<Instant> {
        (self.stage != Stage::Up).then(|| self.since + HANDSHAKE)
    }

    fn culprit(&self) -> Culprit {
        Culprit {
            ip: self.remote.ip(),
            id: self.id.clone(),
            name: self.name.clone(),
        }
    }

    fn who(&self) -> Who {
        let address = self.listen.map_or(self.remote, SocketAddr::V4);
        Who {
            id: self.id.clone(),
            name: self.name.clone(),
            address,
        }
    }
}

/// Returns whether the reader of a list can dial a listed address.
fn is_for(listed: SocketAddrV4, reader: IpAddr) -> bool {
    reader.is_loopback() || !listed.ip().is_loopback()
}
