//! The mesh protocol as a pure state machine: connections, peers, addresses and chat.
//!
//! The machine has one table, the connections. A peer is the set of its established connections: at
//! most one that this node dialled and one that it accepted. [`MeshMachine`] receives connections,
//! lines and the time, and returns the bytes to send, the events, and its next deadline. It opens no
//! socket and holds no byte of a file.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::known::{AddressBook, DialResult, plain};
use crate::IsOwn;
use crate::wire::discovery::MemberName;
use crate::wire::mesh::{
    BYTES_MAX, DUPLICATE, Hello, LINE_MAX_BYTES, LISTED_MAX, Line, MAX_PEERS, PING, PONG,
    REQUEST_PEERS, encode_chat, encode_hello, encode_listen, encode_peers,
};
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::offences::{OffenceLog, Offending};

/// Timeout of each step of a handshake, as in the original programs.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Interval between two pings of every peer.
pub const PING_PERIOD: Duration = Duration::from_secs(15);
/// How long a peer may be silent before this node closes its connections.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Interval between two rounds of asking every peer for addresses and dialling learned ones.
pub const DISCOVER_PERIOD: Duration = Duration::from_secs(30);
/// Maximum accepted connections in the handshake. Further ones are closed at once.
pub const HANDSHAKES_MAX: usize = 32;
/// Maximum accepted connections in the handshake from one address.
pub const HANDSHAKES_OF_ADDRESS: usize = 16;
/// Maximum burst of lines from one peer.
pub const LINES_BURST: u32 = 256;
/// Maximum sustained lines per second from one peer.
pub const LINES_PER_S: u32 = 32;

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
    /// Request: connect, and report to [`MeshMachine::dialled`] or [`MeshMachine::dial_failed`].
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

/// An offence of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeshOffence {
    /// An invalid first line.
    #[error("begins with a line that is not of the protocol")]
    NoHello,
    /// Too many lines.
    #[error("sends more lines than anyone says or reads")]
    Flood,
    /// A line without an end.
    #[error("sent a line of more than {LINE_MAX_BYTES} bytes")]
    EndlessLine,
    /// A payload with an invalid length.
    #[error("announced a payload that is not of 0 to {BYTES_MAX} bytes")]
    BadBytes,
    /// A payload length that is not a number.
    #[error("sent a payload length that is not a number")]
    BadLength,
    /// A list with too many addresses.
    #[error("listed more than {LISTED_MAX} addresses at once")]
    ManyAddresses,
    /// No data, or too little, in a handshake or in the middle of a message.
    #[error("sent too slowly, or nothing")]
    TooSlow,
    /// The peer does not read the bytes that this node sends.
    #[error("does not read what it is sent")]
    NeverReads,
    /// An invalid message about a file.
    #[error("sent a message about a file that means nothing")]
    BadFile,
    /// More files at a time, or per second, than are accepted.
    #[error("pushes more files at once than are taken")]
    ManyFiles,
    /// A file that does not match its hash.
    #[error("sent a file that does not fit its hash")]
    WrongHash,
    /// A file that does not match its size.
    #[error("sent a file that does not fit the size that it had announced")]
    WrongSize,
}

impl Offending for MeshOffence {}

/// Identity of an offender. An ID alone proves nothing, because its sender chooses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Culprit {
    /// Remote IP address of its connection.
    pub ip: IpAddr,
    /// Claimed ID; empty before the peer sent one.
    pub id: String,
    /// Claimed name; empty before the peer sent one.
    pub name: String,
}

/// A peer as `p2pfs peers` shows it, or an offender that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshPeer {
    /// ID; empty for an offender that never sent one.
    pub id: String,
    /// Name; the IP address for an offender that never sent a name.
    pub name: String,
    /// Address as in [`Who::address`]; for an offender that is gone, its former IP address.
    pub address: String,
    /// Whether the peer is connected.
    pub is_up: bool,
    /// Time between the last answered ping and its answer.
    pub round_trip: Option<Duration>,
    /// When the last message or piece of a file arrived, if the peer is connected.
    pub heard_at: Option<Instant>,
    /// Number of its offences.
    pub offences: u64,
    /// Its last offence.
    pub last_offence: Option<MeshOffence>,
}

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
    /// Claimed ID and name; empty before the first line.
    id: String,
    name: String,
    /// Address at which other nodes can dial the peer, if known.
    listen: Option<SocketAddrV4>,
    lines: TokenBucket,
    /// When the current step of the handshake began or, after the handshake, bytes last arrived.
    heard_at: Instant,
    pinged_at: Option<Instant>,
    round_trip: Option<Duration>,
}

impl Conn {
    fn who(&self) -> Who {
        Who {
            id: self.id.clone(),
            name: self.name.clone(),
            address: self.listen.map_or(self.remote, SocketAddr::V4),
        }
    }

    fn culprit(&self) -> Culprit {
        Culprit {
            ip: self.remote.ip(),
            id: self.id.clone(),
            name: self.name.clone(),
        }
    }

    fn is_dialled(&self) -> bool {
        self.dialled.is_some()
    }

    fn handshake_ends(&self) -> Option<Instant> {
        (self.stage != Stage::Up).then(|| self.heard_at + HANDSHAKE)
    }
}

/// The state machine of the mesh protocol.
pub struct MeshMachine {
    config: MeshConfig,
    conns: BTreeMap<ConnId, Conn>,
    addresses: AddressBook,
    offenders: OffenceLog<Culprit, MeshOffence>,
    next_ping: Instant,
    next_discovery: Instant,
    transmits: VecDeque<(ConnId, Vec<u8>)>,
    events: VecDeque<MeshEvent>,
}

/// The calls of the owner.
impl MeshMachine {
    /// Creates a machine that dials the configured addresses at once. `is_own` tells which
    /// addresses belong to this node.
    pub fn new(config: MeshConfig, is_own: IsOwn, seed: u64, now: Instant) -> Self {
        let mut addresses = AddressBook::new(is_own, seed);
        for address in &config.configured {
            addresses.configure(address.clone(), now);
        }
        Self {
            config,
            conns: BTreeMap::new(),
            addresses,
            offenders: OffenceLog::new(now),
            next_ping: now + PING_PERIOD,
            next_discovery: now + DISCOVER_PERIOD,
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
        if of_address.count() < HANDSHAKES_OF_ADDRESS && shaking.count() < HANDSHAKES_MAX {
            self.insert(now, conn, Stage::Hello, remote, None);
        } else {
            self.events.push_back(MeshEvent::Close(conn));
        }
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
        self.insert(now, conn, Stage::Reply, remote, Some(plain(address)));
        self.send(conn, &hello);
    }

    /// Records that no connection for [`MeshEvent::Dial`] could be made.
    pub fn dial_failed(&mut self, now: Instant, address: &MemberName) {
        self.addresses.dialled(now, address, DialResult::Failed);
    }

    /// Processes the first line of a connection.
    pub fn hello(&mut self, now: Instant, conn: ConnId, line: &[u8]) {
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        match (made.stage, Hello::parse(line)) {
            (Stage::Listen | Stage::Up, _) => {}
            (stage, Some(Hello::Peer { id, name })) => {
                (made.id, made.name) = (id.clone(), name);
                if stage == Stage::Hello {
                    self.introduce_accepted(now, conn, &id);
                } else {
                    self.introduce_dialled(now, conn, &id);
                }
            }
            (Stage::Reply, Some(Hello::Duplicate)) => {
                self.rejected(now, conn, DialResult::Known, Rejection::Duplicate);
                self.close(conn, b"");
            }
            (Stage::Reply, Some(Hello::MaxPeers)) => {
                self.rejected(now, conn, DialResult::Full, Rejection::MaxPeers);
                self.close(conn, b"");
            }
            _ => self.offended_by(now, conn, MeshOffence::NoHello),
        }
    }

    /// Processes a line other than the first.
    pub fn line(&mut self, now: Instant, conn: ConnId, line: Line) {
        match (self.admit_line(now, conn), line) {
            (Some(Stage::Up), line) => self.peer_line(now, conn, line),
            (Some(Stage::Listen), line) => {
                // The host of a `LISTEN` line is `localhost` in original programs, so only its port
                // is used. Any other line is ignored here, as in the original programs.
                if let Line::Listen { port, .. } = line
                    && let Some(made) = self.conns.get_mut(&conn)
                    && let (SocketAddr::V4(remote), Some(port)) = (made.remote, port)
                {
                    made.listen = Some(SocketAddrV4::new(*remote.ip(), port));
                }
                self.answer_accepted(now, conn);
            }
            _ => {}
        }
    }

    /// Processes a payload that is not part of a file; `bytes` is `None` if the payload is too long
    /// to be passed on. A payload counts as a line in [`LINES_PER_S`].
    pub fn binary(&mut self, now: Instant, conn: ConnId, length_bytes: u64, bytes: Option<Bytes>) {
        self.admit_line(now, conn);
        if let Some(who) = self.peer_of(conn) {
            self.alive(now, conn);
            self.events
                .push_back(MeshEvent::Binary(who, length_bytes, bytes));
        }
    }

    /// Records that bytes of a file arrived, so that a peer that pushes a file does not count as
    /// silent.
    pub fn alive(&mut self, now: Instant, conn: ConnId) {
        if let Some(made) = self.conns.get_mut(&conn).filter(|c| c.stage == Stage::Up) {
            made.heard_at = now;
        }
    }

    /// Records that a connection ended, or that no more is read from it.
    pub fn closed(&mut self, now: Instant, conn: ConnId) {
        self.end(now, conn, DownWhy::Closed);
    }

    /// Records an offence after which the connection is useless, and ends the connection.
    pub fn offended_by(&mut self, now: Instant, conn: ConnId, what: MeshOffence) {
        self.blame(now, conn, what);
        self.end(now, conn, DownWhy::Offended(what));
    }

    /// Counts an offence of a peer, and reports it if a report is due. The connection stays open.
    pub fn blame(&mut self, now: Instant, conn: ConnId, what: MeshOffence) {
        if let Some(culprit) = self.conns.get(&conn).map(Conn::culprit)
            && self.offenders.record(now, &culprit, what)
        {
            self.events.push_back(MeshEvent::Offended(culprit, what));
        }
    }

    /// Runs everything that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = |c: &Conn| c.handshake_ends().is_some_and(|ends| ends <= now);
        for conn in self.select(|_, c| late(c)) {
            if self.conns[&conn].stage == Stage::Listen {
                // a peer that sends no second line is accepted without an address
                self.answer_accepted(now, conn);
            } else {
                self.offended_by(now, conn, MeshOffence::TooSlow);
            }
        }
        if self.next_ping <= now {
            self.next_ping = now + PING_PERIOD;
            let is_silent = |c: &Conn| {
                c.stage == Stage::Up
                    && (self.conns_of(&c.id))
                        .all(|c| now.saturating_duration_since(c.heard_at) > SILENCE_MAX)
            };
            for conn in self.select(|_, c| is_silent(c)) {
                self.end(now, conn, DownWhy::Silent);
            }
            for conn in self.send_to_peers(PING, |_| true) {
                let pinged = |c: &mut Conn| c.pinged_at = Some(now);
                self.conns.entry(conn).and_modify(pinged);
            }
        }
        if self.next_discovery <= now {
            self.next_discovery = now + DISCOVER_PERIOD;
            self.discover(now);
        }
        let learned = self.addresses.begin_round(now);
        self.dial_due(now, learned);
    }

    /// Asks every peer for addresses, and schedules dials of learned ones.
    pub fn discover(&mut self, now: Instant) {
        self.send_to_peers(REQUEST_PEERS, |_| true);
        self.addresses.dial_soon(now);
    }

    /// Sends a chat message to every peer except those whose ID makes `skip` return true. Returns
    /// the names of the recipients.
    pub fn send_chat(&mut self, text: &str, skip: &dyn Fn(&str) -> bool) -> Vec<String> {
        let line = encode_chat(text);
        let heard = line.map(|line| self.send_to_peers(&line, |id| !skip(id)));
        let heard = heard.into_iter().flatten();
        heard.map(|conn| self.conns[&conn].name.clone()).collect()
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
        let handshakes = self.conns.values().filter_map(Conn::handshake_ends);
        let configured = self.addresses.next_due(&self.connected());
        handshakes
            .chain(configured.filter(|_| self.has_room()))
            .chain(self.addresses.next_round())
            .chain([self.next_ping, self.next_discovery])
            .min()
            .unwrap_or(self.next_ping)
    }
}

/// Views of the tables.
impl MeshMachine {
    /// Returns the connection in use of each peer, by the ID of the peer. If there are two, both
    /// sides use the one that the node with the smaller ID dialled.
    pub fn in_use(&self) -> BTreeMap<&str, ConnId> {
        let mut in_use = BTreeMap::new();
        for (conn, made) in self.conns.iter().filter(|(_, c)| c.stage == Stage::Up) {
            let is_preferred = made.is_dialled() == (*self.config.id < *made.id);
            let used = in_use.entry(&*made.id).or_insert(*conn);
            *used = if is_preferred { *conn } else { *used };
        }
        in_use
    }

    /// Returns the peer of a connection whose handshake is complete.
    pub fn peer_of(&self, conn: ConnId) -> Option<Who> {
        let made = self.conns.get(&conn)?;
        (made.stage == Stage::Up).then(|| made.who())
    }

    /// Returns the addresses that are known and not connected.
    pub fn known(&self) -> Vec<MemberName> {
        let connected = self.connected();
        let unconnected = self.addresses.all().filter(|a| !connected.contains(a));
        unconnected.cloned().collect()
    }

    /// Returns the peers, then the offenders that are gone.
    pub fn peers(&self) -> Vec<MeshPeer> {
        let peers = self.in_use().into_iter().map(|(id, conn)| {
            let made = &self.conns[&conn];
            let offences = self
                .offenders
                .all()
                .filter(|(culprit, ..)| culprit.id == id && culprit.ip == made.remote.ip());
            let offences: Vec<_> = offences.collect();
            MeshPeer {
                id: id.to_owned(),
                name: made.name.clone(),
                address: made.who().address.to_string(),
                is_up: true,
                round_trip: made.round_trip,
                heard_at: self.conns_of(id).map(|c| c.heard_at).max(),
                offences: offences.iter().map(|(_, count, _)| count).sum(),
                last_offence: offences.last().map(|(.., last)| *last),
            }
        });
        let gone = self.offenders.all().filter(|(culprit, ..)| {
            let mut conns = self.conns_of(&culprit.id);
            conns.all(|c| c.remote.ip() != culprit.ip)
        });
        let gone = gone.map(|(culprit, count, last)| {
            let ip = culprit.ip.to_string();
            let has_name = !culprit.name.is_empty();
            MeshPeer {
                id: culprit.id.clone(),
                name: if has_name {
                    culprit.name.clone()
                } else {
                    ip.clone()
                },
                address: ip,
                is_up: false,
                round_trip: None,
                heard_at: None,
                offences: count,
                last_offence: Some(last),
            }
        });
        peers.chain(gone).collect()
    }

    /// Returns the established connections of a peer.
    fn conns_of(&self, id: &str) -> impl Iterator<Item = &Conn> {
        let up = self.conns.values().filter(|c| c.stage == Stage::Up);
        up.filter(move |c| c.id == id)
    }

    fn select(&self, is_chosen: impl Fn(ConnId, &Conn) -> bool) -> Vec<ConnId> {
        let chosen = self.conns.iter().filter(|(id, c)| is_chosen(**id, c));
        chosen.map(|(id, _)| *id).collect()
    }

    fn is_up(&self, id: &str) -> bool {
        self.conns_of(id).next().is_some()
    }

    fn has_room(&self) -> bool {
        self.in_use().len() < self.config.max_peers
    }

    /// Returns whether one more peer with this ID would exceed the maximum.
    fn is_full_for(&self, id: &str) -> bool {
        !self.is_up(id) && !self.has_room()
    }

    /// Returns the addresses that are connected.
    fn connected(&self) -> Vec<MemberName> {
        let listen = self.conns.values().filter_map(|c| c.listen);
        let dialled = self.conns.values().filter_map(|c| c.dialled.clone());
        listen.map(MemberName::Address).chain(dialled).collect()
    }

    /// Returns the list of the other peers that the peer of a connection can dial, as it is sent.
    /// Returns `None` if there are none.
    fn list_for(&self, reader: &Conn) -> Option<Vec<u8>> {
        let is_local = reader.remote.ip().is_loopback();
        let others = self.in_use().into_iter().filter(|(id, _)| *id != reader.id);
        let listed = others.filter_map(|(_, conn)| self.conns[&conn].listen);
        let listed = listed.filter(|at| is_local || !at.ip().is_loopback());
        encode_peers(&listed.collect::<Vec<_>>())
    }
}

/// The steps of a connection.
impl MeshMachine {
    fn insert(
        &mut self,
        now: Instant,
        conn: ConnId,
        stage: Stage,
        remote: SocketAddr,
        dialled: Option<MemberName>,
    ) {
        let listen = match (&dialled, remote) {
            (Some(_), SocketAddr::V4(remote)) => Some(remote),
            _ => None,
        };
        let made = Conn {
            stage,
            remote,
            dialled,
            id: String::new(),
            name: String::new(),
            listen,
            lines: TokenBucket::per_second(LINES_PER_S, LINES_BURST, now),
            heard_at: now,
            pinged_at: None,
            round_trip: None,
        };
        self.conns.insert(conn, made);
    }

    /// Handles the first line of an accepted connection: rejects the peer, or waits for its second
    /// line.
    fn introduce_accepted(&mut self, now: Instant, conn: ConnId, id: &str) {
        if id == self.config.id {
            self.close(conn, b"");
        } else if self.is_up(id) {
            self.close(conn, DUPLICATE);
        } else if self.is_full_for(id) {
            self.close(conn, MAX_PEERS);
        } else if let Some(made) = self.conns.get_mut(&conn) {
            (made.stage, made.heard_at) = (Stage::Listen, now);
        }
    }

    /// Answers an accepted connection after its second line or the timeout for that line. Meanwhile
    /// the peer may have become connected: an accepted connection of it is a duplicate, one that
    /// this node dialled at the same time is not. An original program forgets its peer when one of
    /// two such connections ends.
    fn answer_accepted(&mut self, now: Instant, conn: ConnId) {
        let id = self.conns[&conn].id.clone();
        if self.conns_of(&id).any(|c| !c.is_dialled()) {
            return self.close(conn, DUPLICATE);
        }
        if self.is_full_for(&id) {
            return self.close(conn, MAX_PEERS);
        }
        self.send(conn, &encode_hello(&self.config.id, &self.config.name));
        self.establish(now, conn);
    }

    /// Handles the first line of a dialled peer: establishes or closes the connection.
    fn introduce_dialled(&mut self, now: Instant, conn: ConnId, id: &str) {
        let is_known = id == self.config.id || self.conns_of(id).any(Conn::is_dialled);
        let how = if is_known {
            DialResult::Known
        } else if self.is_full_for(id) {
            DialResult::Full
        } else {
            DialResult::Connected
        };
        if let Some(address) = &self.conns[&conn].dialled {
            self.addresses.dialled(now, address, how);
        }
        if how == DialResult::Connected {
            self.establish(now, conn);
            self.send(conn, REQUEST_PEERS);
        } else {
            self.close(conn, b"");
        }
    }

    fn establish(&mut self, now: Instant, conn: ConnId) {
        let is_first = !self.is_up(&self.conns[&conn].id);
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        (made.stage, made.heard_at) = (Stage::Up, now);
        let (who, dialled) = (made.who(), made.is_dialled());
        self.events
            .push_back(MeshEvent::Established(conn, who.clone()));
        if is_first {
            self.events.push_back(MeshEvent::PeerUp { who, dialled });
        }
        self.send_list(conn);
    }

    fn send_list(&mut self, conn: ConnId) {
        if let Some(list) = self.list_for(&self.conns[&conn]) {
            self.send(conn, &list);
        }
    }

    /// Counts a line, and ends the connection if it is one too many. Returns the stage of the
    /// connection otherwise.
    fn admit_line(&mut self, now: Instant, conn: ConnId) -> Option<Stage> {
        let made = self.conns.get_mut(&conn)?;
        if made.lines.take(1, now) {
            return Some(made.stage);
        }
        self.offended_by(now, conn, MeshOffence::Flood);
        None
    }

    /// Processes a line of a connection whose handshake is complete.
    fn peer_line(&mut self, now: Instant, conn: ConnId, line: Line) {
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        made.heard_at = now;
        let who = made.who();
        match line {
            Line::Ping => self.send(conn, PONG),
            Line::Pong => {
                let pinged_at = made.pinged_at.take();
                let round_trip = pinged_at.map(|at| now.saturating_duration_since(at));
                made.round_trip = round_trip.or(made.round_trip);
            }
            Line::RequestPeers => self.send_list(conn),
            Line::Peers {
                addresses, over, ..
            } => {
                if over > 0 {
                    self.blame(now, conn, MeshOffence::ManyAddresses);
                }
                let count = self.addresses.learn_from(now, &who, addresses);
                if count > 0 {
                    self.events.push_back(MeshEvent::Learned(who, count));
                }
            }
            Line::Listen { text, .. } | Line::Chat(text) => {
                if !text.is_empty() {
                    self.events.push_back(MeshEvent::Chat(who, text));
                }
            }
        }
    }

    fn rejected(&mut self, now: Instant, conn: ConnId, how: DialResult, why: Rejection) {
        if let Some(address) = self.conns.get(&conn).and_then(|c| c.dialled.clone()) {
            self.addresses.dialled(now, &address, how);
            self.events.push_back(MeshEvent::Rejected(address, why));
        }
    }

    /// Closes a connection in the handshake after these last bytes.
    fn close(&mut self, conn: ConnId, last: &[u8]) {
        if !last.is_empty() {
            self.send(conn, last);
        }
        self.conns.remove(&conn);
        self.events.push_back(MeshEvent::Close(conn));
    }

    /// Ends a connection in any stage.
    fn end(&mut self, now: Instant, conn: ConnId, why: DownWhy) {
        if self
            .conns
            .get(&conn)
            .is_some_and(|c| c.stage == Stage::Reply)
        {
            // a rejection may have been lost with the connection
            self.rejected(now, conn, DialResult::Failed, Rejection::Silent);
        }
        let Some(gone) = self.conns.remove(&conn) else {
            return;
        };
        if why != DownWhy::Closed {
            self.events.push_back(MeshEvent::Close(conn));
        }
        if gone.stage != Stage::Up || self.is_up(&gone.id) {
            return;
        }
        if let Some(listen) = gone.listen.filter(|_| !gone.is_dialled()) {
            // the peer listened there and may come back
            self.addresses.learn(MemberName::Address(listen), None, now);
        }
        self.events.push_back(MeshEvent::PeerDown(gone.who(), why));
        self.addresses.dial_soon(now);
    }

    fn dial_due(&mut self, now: Instant, learned: bool) {
        if self.has_room() {
            let due = self.addresses.take_due(now, learned, &self.connected());
            self.events.extend(due.into_iter().map(MeshEvent::Dial));
        }
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.transmits.push_back((conn, bytes.to_vec()));
    }

    /// Sends bytes to each chosen peer, on its connection in use. Returns these connections.
    fn send_to_peers(&mut self, bytes: &[u8], is_chosen: impl Fn(&str) -> bool) -> Vec<ConnId> {
        let chosen = self.in_use().into_iter().filter(|(id, _)| is_chosen(id));
        let chosen: Vec<ConnId> = chosen.map(|(_, conn)| conn).collect();
        for conn in &chosen {
            self.send(*conn, bytes);
        }
        chosen
    }
}

#[cfg(test)]
mod tests;
