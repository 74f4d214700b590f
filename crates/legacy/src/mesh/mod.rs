//! The legacy peers' mesh protocol as a state machine: connections, peers and chat.
//!
//! [`MeshMachine`] has the handshakes, the peers and the addresses learned from them, keepalive and
//! timeouts, chat, and the offences of each peer. It is pure: it receives connections, lines and
//! the time, and returns the bytes to send, the addresses to dial, the connections to close and its
//! next deadline. It opens no socket and holds no byte of a file. Every table has a named limit.
//!
//! Two further machines work on files: [`Receiving`] sorts the bytes that a connection pushes into
//! files, and [`Pace`] limits the rate of the messages that this node pushes to a peer.

mod event;
pub mod known;
mod offence;
mod outbox;
mod pace;
mod peers;
pub mod receive;

#[cfg(test)]
mod tests;

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::IsOwn;
use crate::wire::discovery::MemberName;
use crate::wire::mesh::{
    DUPLICATE, Hello, Line, MAX_PEERS, PING, PONG, REQUEST_PEERS, encode_chat, encode_hello,
    encode_listen,
};

pub use event::{DownWhy, MeshEvent, Rejection, Who};
pub use known::{DIALS_AT_ONCE, KNOWN_MAX, KNOWN_OF_PEER_MAX, TRIES_MAX};
pub use offence::{Culprit, MeshOffence, OFFENDERS_MAX};
pub use pace::{Pace, QUEUE_WANTED};
pub use peers::MeshPeer;
pub use receive::{Begun, FILE_PATIENCE, FileId, OPEN_MAX, Receiving, Refused};

use known::{AddressBook, DialResult};
use offence::MeshOffenders;
use outbox::MeshOutbox;
use peers::{Conn, MeshPeers, RemovedConn, Stage};

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

/// The state machine of the mesh protocol.
pub struct MeshMachine {
    config: MeshConfig,
    peers: MeshPeers,
    addresses: AddressBook,
    offenders: MeshOffenders,
    next_ping: Instant,
    next_discovery: Instant,
    outbox: MeshOutbox,
}

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
            peers: MeshPeers::default(),
            addresses,
            offenders: MeshOffenders::new(now),
            next_ping: now + PING_PERIOD,
            next_discovery: now + DISCOVER_PERIOD,
            outbox: MeshOutbox::default(),
        }
    }

    /// Returns the peers, then the offenders that are gone.
    pub fn peers(&self) -> Vec<MeshPeer> {
        self.peers.reports(&self.offenders)
    }

    /// Returns the connection in use of each peer.
    pub fn in_use(&self) -> Vec<(ConnId, Who)> {
        let in_use = self.peers.in_use();
        in_use.map(|(id, conn)| (id, conn.who())).collect()
    }

    /// Returns the addresses that are known and not connected.
    pub fn known(&self) -> Vec<MemberName> {
        let connected = self.peers.addresses();
        let unconnected = self.addresses.all().filter(|a| !connected.contains(a));
        unconnected.cloned().collect()
    }

    /// Adds a configured address, which is dialled now and whenever it is not connected.
    pub fn configure(&mut self, now: Instant, address: MemberName) {
        self.addresses.configure(address, now);
        self.dial_due(now, false);
    }

    /// Records an accepted connection. Closes it at once if too many accepted connections are in
    /// the handshake.
    pub fn accepted(&mut self, now: Instant, conn: ConnId, remote: SocketAddr) {
        if self.peers.has_handshake_room(remote.ip()) {
            let made = Conn::new(now, Stage::Hello, remote, None);
            self.peers.insert(conn, made);
        } else {
            self.outbox.report(MeshEvent::Close(conn));
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
        let made = Conn::new(now, Stage::Reply, remote, Some(address));
        self.peers.insert(conn, made);
        self.outbox.send(conn, hello);
    }

    /// Records that no connection for [`MeshEvent::Dial`] could be made.
    pub fn dial_failed(&mut self, now: Instant, address: &MemberName) {
        self.addresses.dialled(now, address, DialResult::Failed);
    }

    /// Processes the first line of a connection.
    pub fn hello(&mut self, now: Instant, conn: ConnId, line: &[u8]) {
        let Some(stage) = self.peers.get(conn).map(Conn::stage) else {
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

    /// Processes a line other than the first.
    pub fn line(&mut self, now: Instant, conn: ConnId, line: Line) {
        let Some(made) = self.peers.get_mut(conn) else {
            return;
        };
        if !made.take_line(now) {
            return self.offended_by(now, conn, MeshOffence::Flood);
        }
        match made.stage() {
            Stage::Listen => {
                // a line other than `LISTEN` is ignored here, as in the original programs
                if let Line::Listen { port, .. } = line {
                    made.set_listen(port);
                }
                self.establish_accepted(now, conn);
            }
            Stage::Up => {
                let who = made.who();
                self.process_line(now, conn, who, line);
            }
            Stage::Hello | Stage::Reply => {}
        }
    }

    /// Processes a payload that is not part of a file; `bytes` is `None` if the payload is too long
    /// to be passed on. A payload counts as a line in [`LINES_PER_S`].
    pub fn binary(&mut self, now: Instant, conn: ConnId, length_bytes: u64, bytes: Option<Bytes>) {
        let Some(made) = self.peers.get_mut(conn) else {
            return;
        };
        if !made.take_line(now) {
            return self.offended_by(now, conn, MeshOffence::Flood);
        }
        if made.stage() == Stage::Up {
            let who = made.who();
            self.alive(now, conn);
            self.outbox
                .report(MeshEvent::Binary(who, length_bytes, bytes));
        }
    }

    /// Records that bytes of a file arrived, so that a peer that pushes a file does not count as
    /// silent.
    pub fn alive(&mut self, now: Instant, conn: ConnId) {
        self.peers.record_heard(now, conn);
    }

    /// Records that a connection ended, or that no more is read from it.
    pub fn closed(&mut self, now: Instant, conn: ConnId) {
        self.end(now, conn, DownWhy::Closed);
    }

    /// Records an offence after which the connection is useless, and ends the connection.
    pub fn offended_by(&mut self, now: Instant, conn: ConnId, what: MeshOffence) {
        self.blame(now, conn, what);
        if self.peers.get(conn).is_some() {
            self.outbox.report(MeshEvent::Close(conn));
        }
        self.end(now, conn, DownWhy::Offended(what));
    }

    /// Counts an offence of a peer, and reports it if a report is due. The connection stays open.
    pub fn blame(&mut self, now: Instant, conn: ConnId, what: MeshOffence) {
        let Some(culprit) = self.peers.get(conn).map(Conn::culprit) else {
            return;
        };
        if self.offenders.record(now, &culprit, what) {
            self.outbox.report(MeshEvent::Offended(culprit, what));
        }
    }

    /// Runs everything that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (conn, stage) in self.peers.late_handshakes(now) {
            match stage {
                // a peer that sends no second line is accepted without an address
                Stage::Listen => self.establish_accepted(now, conn),
                _ => self.offended_by(now, conn, MeshOffence::TooSlow),
            }
        }
        if self.next_ping <= now {
            self.next_ping = now + PING_PERIOD;
            for conn in self.peers.silent(now) {
                self.outbox.report(MeshEvent::Close(conn));
                self.end(now, conn, DownWhy::Silent);
            }
            self.peers.record_pings(now);
            let peers = self.peers.in_use().map(|(conn, _)| conn);
            self.outbox.send_to_all(peers, PING);
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
        let peers = self.peers.in_use().map(|(conn, _)| conn);
        self.outbox.send_to_all(peers, REQUEST_PEERS);
        self.addresses.dial_soon(now);
    }

    /// Sends a chat message to every peer except those whose ID makes `skip` return true. Returns
    /// the number of recipients.
    pub fn send_chat(&mut self, text: &str, skip: &dyn Fn(&str) -> bool) -> usize {
        let Some(line) = encode_chat(text) else {
            return 0;
        };
        let heard = self.peers.in_use().filter(|(_, conn)| !skip(conn.id()));
        let heard: Vec<ConnId> = heard.map(|(conn, _)| conn).collect();
        let count = heard.len();
        self.outbox.send_to_all(heard, &line);
        count
    }

    /// Returns the next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<(ConnId, Vec<u8>)> {
        self.outbox.next_transmit()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<MeshEvent> {
        self.outbox.next_event()
    }

    /// Returns when [`Self::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Instant {
        let is_room = self.peers.count() < self.config.max_peers;
        let is_connected = |address: &MemberName| self.peers.is_connected(address);
        let configured = self.addresses.next_due(is_connected);
        let handshakes = self.peers.next_handshake_end().into_iter();
        handshakes
            .chain(configured.filter(|_| is_room))
            .chain(self.addresses.next_round())
            .chain([self.next_ping, self.next_discovery])
            .min()
            .unwrap_or(self.next_ping)
    }

    fn dial_due(&mut self, now: Instant, learned: bool) {
        if self.peers.count() >= self.config.max_peers {
            return;
        }
        let connected = self.peers.addresses();
        let is_connected = |address: &MemberName| connected.contains(address);
        for address in self.addresses.take_due(now, learned, is_connected) {
            self.outbox.report(MeshEvent::Dial(address));
        }
    }

    fn process_line(&mut self, now: Instant, conn: ConnId, who: Who, line: Line) {
        self.alive(now, conn);
        match line {
            Line::Ping => self.outbox.send(conn, PONG.to_vec()),
            Line::Pong => self.peers.record_pong(now, &who.id),
            Line::RequestPeers => {
                if let Some(list) = self.peers.list_for(conn) {
                    self.outbox.send(conn, list);
                }
            }
            Line::Peers {
                addresses, over, ..
            } => {
                if over > 0 {
                    self.blame(now, conn, MeshOffence::ManyAddresses);
                }
                let count = self.addresses.learn_from(now, &who, addresses);
                if count > 0 {
                    self.outbox.report(MeshEvent::Learned(who, count));
                }
            }
            Line::Listen { text, .. } | Line::Chat(text) => {
                if !text.is_empty() {
                    self.outbox.report(MeshEvent::Chat(who, text));
                }
            }
        }
    }

    /// Processes the first line of an accepted connection: rejects the peer, or waits for its
    /// second line.
    fn admit(&mut self, now: Instant, conn: ConnId, id: String, name: String) {
        let is_own = id == self.config.id;
        let refusal = if self.peers.is_up(&id) {
            Some(DUPLICATE)
        } else if self.peers.count() >= self.config.max_peers {
            Some(MAX_PEERS)
        } else {
            None
        };
        let Some(made) = self.peers.get_mut(conn) else {
            return;
        };
        made.introduce(id, name);
        match refusal {
            _ if is_own => self.close(conn, None),
            Some(_) => self.close(conn, refusal),
            None => made.expect_listen(now),
        }
    }

    /// Answers an accepted connection after its second line or the timeout for that line:
    /// establishes the connection, or rejects the peer.
    fn establish_accepted(&mut self, now: Instant, conn: ConnId) {
        let Some(id) = self.peers.get(conn).map(Conn::id) else {
            return;
        };
        if !self.peers.may_be_accepted(id) {
            return self.close(conn, Some(DUPLICATE));
        }
        if !self.peers.is_up(id) && self.peers.count() >= self.config.max_peers {
            return self.close(conn, Some(MAX_PEERS));
        }
        let hello = encode_hello(&self.config.id, &self.config.name);
        self.outbox.send(conn, hello);
        self.establish(now, conn);
    }

    /// Processes the first line of a dialled peer: establishes or closes the connection.
    fn answered(&mut self, now: Instant, conn: ConnId, id: String, name: String) {
        let own = id == self.config.id;
        let is_full = !self.peers.is_up(&id) && self.peers.count() >= self.config.max_peers;
        let may_be_dialled = self.peers.may_be_dialled(&id);
        let Some(made) = self.peers.get_mut(conn) else {
            return;
        };
        made.introduce(id, name);
        let how = if own || !may_be_dialled {
            DialResult::Known
        } else if is_full {
            DialResult::Full
        } else {
            DialResult::Connected
        };
        if let Some(address) = made.dialled() {
            self.addresses.dialled(now, address, how);
        }
        if how == DialResult::Connected {
            self.establish(now, conn);
            self.outbox.send(conn, REQUEST_PEERS.to_vec());
        } else {
            self.close(conn, None);
        }
    }

    fn rejected(&mut self, now: Instant, conn: ConnId, why: Rejection) {
        if let Some(address) = self.peers.get(conn).and_then(Conn::dialled).cloned() {
            let how = match why {
                Rejection::Duplicate => DialResult::Known,
                Rejection::MaxPeers => DialResult::Full,
                Rejection::Silent => DialResult::Failed,
            };
            self.addresses.dialled(now, &address, how);
            self.outbox.report(MeshEvent::Rejected(address, why));
        }
        self.close(conn, None);
    }

    fn establish(&mut self, now: Instant, conn: ConnId) {
        let Some(made) = self.peers.establish(now, conn, &self.config.id) else {
            return;
        };
        self.outbox
            .report(MeshEvent::Established(conn, made.who.clone()));
        if made.is_first {
            self.outbox.report(MeshEvent::PeerUp {
                who: made.who,
                dialled: made.is_dialled,
            });
        }
        if let Some(list) = self.peers.list_for(conn) {
            self.outbox.send(conn, list);
        }
    }

    /// Ends a connection in the handshake, without [`MeshEvent::PeerDown`]. Sends the peer the
    /// reason before, if there is one.
    fn close(&mut self, conn: ConnId, refusal: Option<&[u8]>) {
        if let Some(refusal) = refusal {
            self.outbox.send(conn, refusal.to_vec());
        }
        if self.peers.remove(conn).is_some() {
            self.outbox.report(MeshEvent::Close(conn));
        }
    }

    /// Removes a connection in any stage, which has ended or is about to be closed.
    fn end(&mut self, now: Instant, conn: ConnId, why: DownWhy) {
        let Some(RemovedConn {
            conn: gone,
            was_last,
        }) = self.peers.remove(conn)
        else {
            return;
        };
        if gone.stage() == Stage::Reply
            && let Some(address) = gone.dialled()
        {
            // a rejection may have been lost with the connection
            self.addresses.dialled(now, address, DialResult::Failed);
            let rejected = MeshEvent::Rejected(address.clone(), Rejection::Silent);
            self.outbox.report(rejected);
        }
        if !was_last {
            return;
        }
        if let Some(listen) = gone.accepted_listen() {
            // the peer listened there and may come back
            self.addresses.learn(MemberName::Address(listen), None, now);
        }
        self.outbox.report(MeshEvent::PeerDown(gone.who(), why));
        self.addresses.dial_soon(now);
    }
}
