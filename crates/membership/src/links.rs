//! Sessions over sealed datagrams: the peers that have proven to be at an address.
//!
//! A *session* belongs to one run of a peer's process, named by the salt of that run. A *link* is
//! an address with which this node exchanges datagrams. A frame counts only after the process of
//! its salt has echoed a fresh challenge from the frame's address. Datagrams recorded in an earlier
//! run of either side are therefore worthless. An unproven address receives at most one answer per
//! datagram, never a longer one, and costs no memory: its challenge is computed, not stored.
//!
//! Every datagram except a hello and a challenge has a code under a key that only the two processes
//! have. No other member can therefore speak for either of them. No counter is marked as seen, and
//! no peer is proven, before that code was verified.
//!
//! ```text
//! A                                B
//! hello(nonce)            ───────▶            (B remembers nothing)
//!            ◀───────  reply(nonce, token)    A: B's salt is proven here
//! frame + proof(token)    ───────▶            B: A's salt is proven here
//!            ◀───────  frame                  A: stops repeating the proof
//! ```
//!
//! An invalid datagram is counted and leaves the proven links unchanged.
//!
//! | part | owns |
//! |---|---|
//! | `receive` | one received datagram: opened, checked, answered, its sender proven |
//! | `table` | the links, and the address that is used for each node |
//! | `sessions`, `ended` | processes that proved themselves, and the counters of ended ones |
//! | `hellos` | hellos that wait for their answers |
//! | `process` | the contact, the keys and the credentials of this process |
//! | `seal`, `pair` | the keys of datagrams, their nonces and codes |
//! | `window` | the counters that a session has seen |
//! | `cookie` | the challenges |

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::config::{
    PROOFS_AT_ONCE, PROOFS_PER_S, STRANGERS_MAX, TRANSMITS_MAX, UNPROVEN_ANSWERS_PER_S,
};
use super::counters::{Counters, DatagramDropCause};
use super::event::Transmit;
use super::vouch::Vouchers;
use p2pfs_proto::trust::TrustReader;
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::udp::{
    Body, Contact, DatagramFrame, Header, Salt, SignedContact, Token,
};
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::NodeId;

mod cookie;
mod ended;
mod hellos;
mod pair;
mod process;
mod receive;
mod seal;
mod sessions;
mod table;
mod window;

pub(crate) use ended::ENDED_SESSIONS_MAX;
use hellos::{DueHello, PendingHellos};
use pair::PairKey;
use process::{OwnProcess, tag};
use receive::OpenedDatagram;
use seal::SealKey;
use table::{LinkTable, PeerLink};

/// Time of silence after which a link is forgotten.
const LINK_IDLE: Duration = Duration::from_secs(600);

/// A datagram that was opened and decoded.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A peer has proven to be at this address.
    Proven(Introduction),
    /// A frame from a proven peer.
    Frame {
        /// The peer.
        from: Contact,
        /// Salt of its process.
        salt: Salt,
        /// Address from which it arrived.
        address: SocketAddr,
        /// The frame.
        frame: DatagramFrame,
    },
}

/// Result of a proof.
#[derive(Debug)]
pub(super) struct Introduction {
    /// The peer. An unspecified address is replaced by the one at which it was seen.
    pub(super) who: Contact,
    /// Salt of its process.
    pub(super) salt: Salt,
    /// Address at which it was proven.
    pub(super) address: SocketAddr,
    /// Whether this node said hello, rather than the peer.
    pub(super) greeted: bool,
    /// Time before which the answered challenge was not made. The process lived later than that.
    pub(super) challenged: Instant,
    /// This node's address as the peer uses or sees it.
    pub(super) reached: SocketAddr,
    /// A later life of this node that the peer has heard of, not verified yet.
    pub(super) known: Option<Box<SignedContact>>,
    /// Time from this node's hello to the peer's answer. None if the hello was repeated, or if the
    /// peer said hello.
    pub(super) round_trip: Option<Duration>,
}

/// All links, and the sealing of their datagrams.
pub(super) struct Links {
    pub(super) process: OwnProcess,
    pub(super) table: LinkTable,
    hellos: PendingHellos,
    rng: StdRng,
    sweep: Instant,
    limits: LinkLimits,
    transmits: VecDeque<Transmit>,
    /// Addresses of possible members that cannot be authenticated yet.
    strangers: VecDeque<SocketAddr>,
    pub(super) counters: Counters,
}

/// The limits on work for addresses that have not proved their membership.
struct LinkLimits {
    answers: TokenBucket,
    proofs: TokenBucket,
}

impl Links {
    /// Creates an empty table. The salt and the challenges derive from `rng`. Its seed must be
    /// secret and never be used twice.
    pub(super) fn new(
        me: Contact,
        vouchers: Vouchers,
        trust: TrustReader,
        rng: &mut StdRng,
        now: Instant,
    ) -> Self {
        let mut rng = StdRng::from_seed(rng.random());
        let answers_per_s = UNPROVEN_ANSWERS_PER_S;
        Self {
            process: OwnProcess::new(me, vouchers, trust, &mut rng, now),
            table: LinkTable::new(),
            hellos: PendingHellos::default(),
            rng,
            sweep: now + LINK_IDLE,
            limits: LinkLimits {
                answers: TokenBucket::per_second(answers_per_s, answers_per_s, now),
                proofs: TokenBucket::per_second(PROOFS_PER_S, PROOFS_AT_ONCE, now),
            },
            transmits: VecDeque::new(),
            strangers: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Handles a datagram. Returns the proofs and frames in it.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Vec<Arrival> {
        let from = canonical(from);
        let opened = OpenedDatagram::open(from, datagram, &self.process, self.table.sessions());
        match opened.and_then(|opened| opened.receive(now, self)) {
            Ok(arrivals) => {
                self.counters.accepted += 1;
                arrivals
            }
            Err(dropped) => {
                if matches!(
                    dropped,
                    DatagramDropCause::UnknownEpoch | DatagramDropCause::NotAMember
                ) {
                    self.queue_stranger(from);
                }
                self.counters.count(dropped);
                Vec::new()
            }
        }
    }

    /// Returns the next datagram to send.
    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Returns the next address at which an unknown member may be.
    pub(super) fn poll_stranger(&mut self) -> Option<SocketAddr> {
        self.strangers.pop_front()
    }

    /// Queues an address for the owner to identify its node, if there is a ledger.
    pub(super) fn queue_stranger(&mut self, address: SocketAddr) {
        if self.strangers.len() < STRANGERS_MAX && self.process.sealer.trust().has_ledger() {
            self.strangers.push_back(address);
        }
    }

    /// Returns when [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        let hello = self.hellos.poll_timeout();
        hello.map_or(self.sweep, |at| self.sweep.min(at))
    }

    /// Repeats hellos and forgets silent links.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.hellos.take_due(now) {
            match due {
                DueHello::Repeat(address, nonce) => self.send_hello(address, nonce),
                DueHello::GiveUp(address) => {
                    if let Some(link) = self.table.link_at(address) {
                        self.counters.excess.never_proven += link.waiting.len() as u64;
                        link.waiting.clear();
                    }
                    // The peer may use a new secret that is unknown here.
                    self.queue_stranger(address);
                }
            }
        }
        if self.sweep <= now {
            self.sweep = now + LINK_IDLE / 4;
            let silent = self.table.silent_for(LINK_IDLE, now);
            silent.into_iter().for_each(|address| self.forget(address));
        }
    }

    /// Ends the sessions of former members.
    pub(super) fn forget_former_members(&mut self) {
        let trust = self.process.sealer.trust().load();
        let gone = self.table.of_former_members(&trust);
        drop(trust);
        // Tokens that were issued to them must not prove anything again.
        if !gone.is_empty() {
            self.process.cookies.renew(self.rng.random());
        }
        gone.into_iter().for_each(|address| self.forget(address));
    }

    /// Sends a hello, unless one is waiting for its answer.
    pub(super) fn greet(&mut self, now: Instant, address: SocketAddr) {
        let address = canonical(address);
        if address == self.process.me.address || address.port() == 0 {
            return;
        }
        self.link(now, address);
        if self.hellos.is_waiting(address) {
            return;
        }
        let nonce = self.rng.random();
        self.hellos.begin(now, address, nonce);
        self.send_hello(address, nonce);
    }

    /// Sends a frame over the link, or keeps it until the peer there is proven.
    pub(super) fn send(&mut self, now: Instant, address: SocketAddr, frame: DatagramFrame) {
        self.send_for(now, canonical(address), None, frame);
    }

    /// Sends a frame to a node at one address.
    pub(super) fn send_to(&mut self, now: Instant, to: &Contact, frame: DatagramFrame) {
        match self.table.route(to) {
            Some(address) => self.send(now, address, frame),
            None => self.send_unproven(now, to, frame),
        }
    }

    /// Sends a packet of the membership engine to a node, at the addresses of
    /// [`LinkTable::packet_targets`].
    pub(super) fn send_packet(&mut self, now: Instant, to: &Contact, packet: Bytes, is_live: bool) {
        let targets = self.table.packet_targets(now, to, is_live);
        for address in targets.proven {
            self.send(now, address, DatagramFrame::Swim(packet.clone()));
        }
        if targets.to_advertised {
            self.send_unproven(now, to, DatagramFrame::Swim(packet));
        }
    }

    /// Sends a datagram to each of these nodes to which none was sent recently, so that a NAT on
    /// the way keeps its mapping.
    pub(super) fn keep_alive<'a>(
        &mut self,
        now: Instant,
        nodes: impl Iterator<Item = &'a Contact>,
    ) {
        for to in nodes {
            if let Some(address) = self.table.idle_route(now, to) {
                self.send(now, address, DatagramFrame::Nothing);
            }
        }
    }

    /// Returns whether the session at this address may send one more message, and counts that
    /// message or its excess.
    pub(super) fn take_message(&mut self, address: SocketAddr, now: Instant) -> bool {
        let taken = self.table.take_message(address, now);
        if !taken {
            self.counters.excess.flooding += 1;
        }
        taken
    }

    /// Sends a frame to the advertised address of a node that is not proven there. If another node
    /// is proven there, the frame is dropped. The address is then greeted, because that node may
    /// have gone.
    fn send_unproven(&mut self, now: Instant, to: &Contact, frame: DatagramFrame) {
        let address = canonical(to.address);
        if self.table.proven(address).is_some() {
            self.counters.excess.never_proven += 1;
            return self.greet(now, address);
        }
        self.send_for(now, address, Some(to.node), frame);
    }

    /// Sends a frame like [`Self::send`]. If the peer is not proven yet, the frame waits, and is
    /// dropped if another node than `node` is proven.
    fn send_for(
        &mut self,
        now: Instant,
        address: SocketAddr,
        node: Option<NodeId>,
        frame: DatagramFrame,
    ) {
        let link = self.link(now, address);
        if let Some(salt) = link.salt() {
            let token = link.token;
            link.sent = Some(now);
            return self.transmit_bound(address, &salt, token, frame);
        }
        if link.queue(node, frame) {
            self.counters.excess.never_proven += 1;
        }
        self.greet(now, address);
    }

    /// Returns the link to `address`, a new one if there is none. If the table is full, first drops
    /// the link that was silent longest.
    fn link(&mut self, now: Instant, address: SocketAddr) -> &mut PeerLink {
        if let Some(oldest) = self.table.displaced_by(address) {
            self.displace(oldest);
        }
        self.table.link(now, address)
    }

    /// Forgets a link for which the full table has no room.
    fn displace(&mut self, oldest: SocketAddr) {
        self.forget(oldest);
        // Recent tokens of a dropped link must not prove anything again.
        self.process.cookies.renew(self.rng.random());
    }

    fn forget(&mut self, address: SocketAddr) {
        self.hellos.end(address);
        if let Some(link) = self.table.remove(address) {
            self.counters.excess.never_proven += link.waiting.len() as u64;
        }
    }

    /// Records that `who` is proven at this address, as the process of the header's salt.
    fn prove(
        &mut self,
        now: Instant,
        header: &Header,
        address: SocketAddr,
        who: Contact,
        keys: (Option<SealKey>, PairKey),
    ) -> Result<(), DatagramDropCause> {
        let displaced = self.table.prove(now, header, address, who, keys)?;
        self.hellos.end(address);
        // The oldest link may be the only other one of the session, which must not end. Links are
        // therefore dropped only after the proof.
        if let Some(oldest) = displaced.oldest {
            self.displace(oldest);
        }
        if let Some(route) = displaced.route {
            self.forget(route);
        }
        Ok(())
    }

    /// Answers a challenge. The proof goes with all frames until the peer has shown that it
    /// accepted one. If no frame waits, it goes at once with an empty frame.
    fn echo(&mut self, address: SocketAddr, salt: &Salt, token: Token) {
        let Some(link) = self.table.link_at(address) else {
            return;
        };
        link.token = Some(token);
        if link.waiting.is_empty() {
            self.transmit_bound(address, salt, Some(token), DatagramFrame::Nothing);
        }
    }

    /// Sends the frames that waited for the proof of the peer at this address.
    fn flush(&mut self, address: SocketAddr) {
        let Some(link) = self.table.link_at(address) else {
            return;
        };
        let token = link.token;
        let waiting = std::mem::take(&mut link.waiting);
        let Some((who, salt)) = self.table.speaker_at(address) else {
            return;
        };
        for (node, frame) in waiting {
            if node.is_none_or(|node| node == who.node) {
                self.transmit_bound(address, &salt, token, frame);
            } else {
                self.counters.excess.never_proven += 1;
            }
        }
    }

    fn send_hello(&mut self, address: SocketAddr, nonce: Token) {
        let hello = self.process.hello(address, nonce);
        self.transmit(address, &hello, None);
    }

    /// Sends a frame to the process of a session, with the proof of this process if there is a
    /// token to echo.
    fn transmit_bound(
        &mut self,
        to: SocketAddr,
        salt: &Salt,
        token: Option<Token>,
        frame: DatagramFrame,
    ) {
        let body = Body {
            to: tag(salt),
            proof: token.map(|token| self.process.proof(token, to)),
            frame,
        };
        let Ok(bytes) = body.encode() else {
            self.counters.excess.overflow += 1;
            return;
        };
        if let Some(session) = self.table.sessions().get(salt) {
            let datagram = self.process.sealer.seal(bytes, Some(&session.pair));
            self.queue(to, datagram);
        }
    }

    /// Sends a body that belongs to no session.
    fn transmit(&mut self, to: SocketAddr, body: &Body, pair: Option<&PairKey>) {
        let Ok(bytes) = body.encode() else {
            self.counters.excess.overflow += 1;
            return;
        };
        let datagram = self.process.sealer.seal(bytes, pair);
        self.queue(to, datagram);
    }

    fn queue(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        if self.transmits.len() >= TRANSMITS_MAX {
            self.transmits.pop_front();
            self.counters.excess.overflow += 1;
        }
        self.counters.sent += 1;
        self.counters.sent_bytes += datagram.len() as u64;
        self.transmits.push_back(Transmit { to, datagram });
    }
}

#[cfg(test)]
mod tests;
