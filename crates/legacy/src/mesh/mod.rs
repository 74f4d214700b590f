//! The legacy peers' mesh protocol as a machine: who is there, who is dialled, what is said to
//! whom.
//!
//! Owns the handshake, the peers and the addresses that they tell of, keeping alive and giving up,
//! talk, and what each peer did wrong. [`Receiving`] tells the files that one peer pushes apart,
//! [`Pace`] how fast files may be pushed. Pure: it is handed connections, lines and the time, and
//! gives what to send, whom to dial, what to close and when to wake it. It opens nothing and holds
//! no byte of a file; every table here has a named limit.

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
pub use offence::{Culprit, OFFENDERS_MAX, Offence};
pub use pace::{Pace, QUEUE_WANTED};
pub use peers::MeshPeer;
pub use receive::{Begun, FILE_PATIENCE, FileId, OPEN_MAX, Receiving, Refused};

use known::{Addresses, Dialled};
use offence::Offenders;
use peers::Peer;

/// How long each step of a handshake may take, as in the old programs.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often every peer is pinged.
pub const PING_PERIOD: Duration = Duration::from_secs(15);
/// How long a peer may be silent.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often every peer is asked for addresses, and learned ones are dialled.
pub const DISCOVER_PERIOD: Duration = Duration::from_secs(30);
/// Learned addresses are dialled after a random time up to this.
pub const DIAL_JITTER: Duration = Duration::from_secs(5);
/// Accepted connections whose handshake is not over, of all addresses; others are closed at once.
pub const HANDSHAKES_MAX: usize = 32;
/// Of these, of one address.
pub const HANDSHAKES_OF_ADDRESS: usize = 16;
/// Lines that a peer may send at once.
pub const LINES_BURST: u32 = 256;
/// And in the long run.
pub const LINES_PER_S: u32 = 32;
/// Things to be done that the owner has not taken yet; further ones are dropped.
const OUTBOX_MAX: usize = 16_384;

/// A connection, as its owner numbers it; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What the state machine is made with.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Ours: letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// What we call ourselves.
    pub name: String,
    /// Where we listen, on every address that others reach us by.
    pub port: u16,
    /// Peers that are connected at one time.
    pub max_peers: usize,
    /// Addresses that are always dialled.
    pub configured: Vec<MemberName>,
}

/// What the state machine wants its owner to know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshEvent {
    /// Connect, and say so with [`MeshMachine::dialled`] or [`MeshMachine::dial_failed`].
    Dial(MemberName),
    /// Close, after what was to be sent is sent. Nothing more is to be said of it.
    Close(ConnId),
    /// The handshake of a connection is over: files that come on it are of this peer.
    Established(ConnId, Who),
    /// A peer is there that was not.
    PeerUp {
        who: Who,
        /// Whether we dialled it.
        dialled: bool,
    },
    /// A peer is gone.
    PeerDown(Who, DownWhy),
    /// A peer takes no connection of ours.
    Rejected(MemberName, Rejection),
    /// Talk.
    Chat(Who, String),
    /// Bytes of no file, so many; without them where they are too many to be handed on.
    Binary(Who, u64, Option<Bytes>),
    /// A peer told of addresses that were not known.
    Learned(Who, usize),
    /// Somebody breaks the rules, and it is time to say so.
    Offended(Culprit, Offence),
}

/// A peer, as it calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its ID.
    pub id: String,
    pub name: String,
    /// Where it listens, or is connected from where that is not known.
    pub address: SocketAddr,
}

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownWhy {
    /// It closed, or the network did.
    #[error("its connection ended")]
    Closed,
    /// Silent for [`SILENCE_MAX`].
    #[error("silent for more than {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// It broke the rules.
    #[error("it {0}")]
    Offended(Offence),
}

/// Why a peer takes no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is connected to us already.
    #[error("peer rejected: duplicate connection")]
    Duplicate,
    /// It has as many peers as it takes.
    #[error("peer rejected: max peers reached")]
    MaxPeers,
    /// It ended the connection without an answer, which may have been lost.
    #[error("it closed the connection, or speaks another protocol")]
    Silent,
}

/// Tells whether an address is one of this node's own.
pub type IsOwn = Box<dyn Fn(SocketAddrV4) -> bool + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Accepted: its first line is to come.
    Hello,
    /// Accepted: its second line is to come, and then our answer.
    Listen,
    /// Dialled: its first line is to come.
    Reply,
    /// The handshake is over.
    Up,
}

struct Conn {
    stage: Stage,
    remote: SocketAddr,
    /// The name that was dialled.
    dialled: Option<MemberName>,
    since: Instant,
    id: String,
    name: String,
    /// Where it can be dialled by others.
    listen: Option<SocketAddrV4>,
    lines: TokenBucket,
}

/// The state machine.
pub struct MeshMachine {
    config: MeshConfig,
    is_own: IsOwn,
    conns: BTreeMap<ConnId, Conn>,
    peers: BTreeMap<String, Peer>,
    addresses: Addresses,
    offenders: Offenders,
    random: StdRng,
    next_ping: Instant,
    next_discovery: Instant,
    /// When learned addresses are dialled next.
    dial_at: Option<Instant>,
    transmits: VecDeque<(ConnId, Vec<u8>)>,
    events: VecDeque<MeshEvent>,
}

impl MeshMachine {
    /// A machine that dials the configured addresses at once. `is_own` says which addresses are
    /// this node's.
    pub fn new(config: MeshConfig, is_own: IsOwn, seed: u64, now: Instant) -> Self {
        let mut addresses = Addresses::default();
        for address in &config.configured {
            addresses.configure(address.clone(), now);
        }
        Self {
            config,
            is_own,
            conns: BTreeMap::new(),
            peers: BTreeMap::new(),
            addresses,
            offenders: Offenders::new(now),
            random: StdRng::seed_from_u64(seed),
            next_ping: now + PING_PERIOD,
            next_discovery: now + DISCOVER_PERIOD,
            dial_at: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Another address to dial now, and always from now on.
    pub fn configure(&mut self, now: Instant, address: MemberName) {
        self.addresses.configure(address, now);
        self.dial_due(now, false);
    }

    /// Somebody connected. Where too many shake hands it is closed at once.
    pub fn accepted(&mut self, now: Instant, conn: ConnId, remote: SocketAddr) {
        let is_shaking = |c: &&Conn| matches!(c.stage, Stage::Hello | Stage::Listen);
        let shaking = self.conns.values().filter(is_shaking);
        let of_address = shaking.clone().filter(|c| c.remote.ip() == remote.ip());
        let is_room =
            of_address.count() < HANDSHAKES_OF_ADDRESS && shaking.count() < HANDSHAKES_MAX;
        if !is_room {
            return self.note(MeshEvent::Close(conn));
        }
        self.conns
            .insert(conn, Conn::new(now, Stage::Hello, remote, None));
    }

    /// A connection that was asked for is there. `local` is our end of it.
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

    /// A connection that was asked for could not be made.
    pub fn dial_failed(&mut self, now: Instant, address: &MemberName) {
        self.addresses.dialled(now, address, Dialled::Failed);
    }

    /// The first line of a connection came.
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
            (Stage::Hello | Stage::Reply, _) => self.offended_by(now, conn, Offence::NoHello),
            _ => {}
        }
    }

    /// A file's bytes came: a peer that pushes is not silent.
    pub fn alive(&mut self, now: Instant, conn: ConnId) {
        if let Some(conn) = self.conns.get(&conn).filter(|c| c.stage == Stage::Up)
            && let Some(peer) = self.peers.get_mut(&conn.id)
        {
            peer.heard_at = now;
        }
    }

    /// A connection ended, or is to end for what was read of it.
    pub fn closed(&mut self, now: Instant, conn: ConnId) {
        self.drop_conn(now, conn, DownWhy::Closed);
    }

    /// A peer broke a rule so that its connection is of no more use.
    pub fn offended_by(&mut self, now: Instant, conn: ConnId, what: Offence) {
        self.blame(now, conn, what);
        self.end(now, conn, DownWhy::Offended(what));
    }

    /// Counts what a peer did wrong, and tells of it where it is time to; its connection stays.
    pub fn blame(&mut self, now: Instant, conn: ConnId, what: Offence) {
        let Some(culprit) = self.conns.get(&conn).map(Conn::culprit) else {
            return;
        };
        if self.offenders.note(now, &culprit, what) {
            self.note(MeshEvent::Offended(culprit, what));
        }
    }

    /// Does what is due.
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

    /// Asks every peer for addresses, and dials some that are known.
    pub fn discover(&mut self, now: Instant) {
        self.send_all(crate::wire::mesh::REQUEST_PEERS);
        self.dial_soon(now);
    }

    /// Says something to every peer but those that `skip` names by their ID; says to how many.
    pub fn say(&mut self, text: &str, skip: &dyn Fn(&str) -> bool) -> usize {
        let Some(line) = encode_chat(text) else {
            return 0;
        };
        let in_use = self.in_use();
        let heard = in_use.iter().filter(|(_, who)| !skip(&who.id));
        let heard: Vec<ConnId> = heard.map(|(conn, _)| *conn).collect();
        heard.iter().for_each(|conn| self.send(*conn, line.clone()));
        heard.len()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<(ConnId, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next thing to know or do.
    pub fn poll_event(&mut self) -> Option<MeshEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called next.
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
                // one that says nothing more is a peer all the same, without an address
                Stage::Listen => self.establish_accepted(now, conn),
                _ => self.offended_by(now, conn, Offence::TooSlow),
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
            self.note(MeshEvent::Dial(address));
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

    fn note(&mut self, event: MeshEvent) {
        // an owner that takes nothing any more is stopping
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

/// The address of a list's entry for one peer, where it can dial it.
fn is_for(listed: SocketAddrV4, reader: IpAddr) -> bool {
    reader.is_loopback() || !listed.ip().is_loopback()
}
