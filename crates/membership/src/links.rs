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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::config::{
    LINKS_MAX, MESSAGES_PER_S, PROOFS_AT_ONCE, PROOFS_PER_S, STRANGERS_MAX, TRANSMITS_MAX,
    UNPROVEN_ANSWERS_PER_S, WAITING_FRAMES_MAX,
};
use super::counters::{Counters, DatagramDropCause};
use super::event::Transmit;
use super::oldest;
use super::pair::{KeyExchange, PairKey};
use super::seal::{SealKey, Sealer};
use super::vouch::Vouchers;
use super::window::ReplayWindow;
use p2pfs_proto::trust::Keyring;
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::udp::{
    Body, Contact, Credentials, Frame, HEADER_BYTES, HELLO_BYTES, Header, MAC_BYTES, Mac, Proof,
    Salt, SaltTag, SignedContact, TAG_BYTES, Token,
};
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::NodeId;

mod cookie;
mod ended;
mod receive;
mod routes;

use cookie::Cookies;
pub(crate) use ended::ENDED_SESSIONS_MAX;
use ended::EndedSessions;

/// Gaps in ms after each transmission of an unanswered hello. After the last gap the hello is given
/// up.
const HELLO_GAPS_MS: [u64; 4] = [200, 400, 800, 1600];
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
        frame: Frame,
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

/// A session: one run of a peer's process.
struct LinkSession {
    who: Contact,
    key: SealKey,
    pair: PairKey,
    window: ReplayWindow,
    messages: TokenBucket,
    /// Number of links at which the process is proven.
    links: usize,
}

/// An address with which this node exchanges datagrams.
struct PeerLink {
    /// Salt of the process that is proven to be at this address.
    salt: Option<Salt>,
    /// The token to send with each frame until the peer is known to have accepted it.
    token: Option<Token>,
    hello: Option<PendingHello>,
    /// Frames that wait until a peer is proven here, each with the only node that may receive it,
    /// if there is such a node.
    waiting: VecDeque<(Option<NodeId>, Frame)>,
    heard: Instant,
    /// Time of the last frame to the proven peer, except frames that had waited for its proof.
    sent: Option<Instant>,
}

/// A hello that waits for its answer.
struct PendingHello {
    nonce: Token,
    sent: Instant,
    repeated: usize,
    next: Instant,
    /// Whether an answer from another address has arrived. That address was greeted too.
    is_diverted: bool,
}

/// All links, and the sealing of their datagrams.
pub(super) struct Links {
    me: Contact,
    secrets: LinkSecrets,
    rng: StdRng,
    links: BTreeMap<SocketAddr, PeerLink>,
    ended: EndedSessions,
    proven: ProvenPeers,
    hellos: BTreeSet<(Instant, SocketAddr)>,
    sweep: Instant,
    limits: LinkLimits,
    transmits: VecDeque<Transmit>,
    /// Addresses of possible members that cannot be authenticated yet.
    strangers: VecDeque<SocketAddr>,
    pub(super) counters: Counters,
}

/// The addresses and sessions of peers that proved their membership.
#[derive(Default)]
struct ProvenPeers {
    /// Proven addresses of each node, in the order of their proofs.
    routes: BTreeMap<NodeId, Vec<SocketAddr>>,
    sessions: BTreeMap<Salt, LinkSession>,
}

/// The keys and credentials with which this process proves itself and checks other processes.
struct LinkSecrets {
    vouchers: Vouchers,
    exchange: KeyExchange,
    /// Credentials of this process in its present life.
    credentials: Credentials,
    sealer: Sealer,
    cookies: Cookies,
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
        keyring: Arc<Keyring>,
        rng: &mut StdRng,
        now: Instant,
    ) -> Self {
        let mut rng = StdRng::from_seed(rng.random());
        let sealer = Sealer::new(keyring, rng.random());
        let exchange = KeyExchange::new(rng.random());
        Self {
            me,
            secrets: LinkSecrets {
                credentials: vouchers.credentials(me, sealer.salt(), *exchange.public()),
                vouchers,
                exchange,
                sealer,
                cookies: Cookies::new(rng.random(), now),
            },
            rng,
            links: BTreeMap::new(),
            proven: ProvenPeers::default(),
            ended: EndedSessions::new(),
            hellos: BTreeSet::new(),
            sweep: now + LINK_IDLE,
            limits: LinkLimits {
                answers: TokenBucket::per_second(
                    UNPROVEN_ANSWERS_PER_S,
                    UNPROVEN_ANSWERS_PER_S,
                    now,
                ),
                proofs: TokenBucket::per_second(PROOFS_PER_S, PROOFS_AT_ONCE, now),
            },
            transmits: VecDeque::new(),
            strangers: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Returns this node's present contact.
    pub(super) fn me(&self) -> Contact {
        self.me
    }

    /// Changes this node's contact.
    pub(super) fn set_me(&mut self, me: Contact) {
        self.me = me;
        let (salt, public) = (self.secrets.sealer.salt(), *self.secrets.exchange.public());
        self.secrets.credentials = self.secrets.vouchers.credentials(me, salt, public);
    }

    /// Returns the peer that is proven to be at `address`.
    pub(super) fn proven(&self, address: SocketAddr) -> Option<Contact> {
        self.speaker_at(address).map(|(who, _)| who)
    }

    fn speaker_at(&self, address: SocketAddr) -> Option<(Contact, Salt)> {
        let salt = self.links.get(&address)?.salt?;
        self.proven
            .sessions
            .get(&salt)
            .map(|session| (session.who, salt))
    }

    /// Returns the number of links.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Sends a hello, unless one is waiting for its answer.
    pub(super) fn greet(&mut self, now: Instant, address: SocketAddr) {
        let address = canonical(address);
        if address == self.me.address || address.port() == 0 {
            return;
        }
        let link = self.link(now, address);
        if link.hello.is_some() {
            return;
        }
        let nonce = self.rng.random();
        let next = now + Duration::from_millis(HELLO_GAPS_MS[0]);
        if let Some(link) = self.links.get_mut(&address) {
            link.hello = Some(PendingHello {
                nonce,
                sent: now,
                repeated: 0,
                next,
                is_diverted: false,
            });
        }
        self.hellos.insert((next, address));
        self.send_hello(address, nonce);
    }

    /// Sends a frame over the link, or keeps it until the peer there is proven.
    pub(super) fn send(&mut self, now: Instant, address: SocketAddr, frame: Frame) {
        self.queue_unproven(now, canonical(address), None, frame);
    }

    /// Sends a frame like [`Self::send`]. If the peer is not proven yet, the frame waits, and is
    /// dropped if another node than `node` is proven.
    fn queue_unproven(
        &mut self,
        now: Instant,
        address: SocketAddr,
        node: Option<NodeId>,
        frame: Frame,
    ) {
        let link = self.link(now, address);
        if let Some(salt) = link.salt {
            let token = link.token;
            link.sent = Some(now);
            return self.transmit_bound(address, &salt, token, frame);
        }
        if link.waiting.len() >= WAITING_FRAMES_MAX {
            link.waiting.pop_front();
            self.counters.excess.never_proven += 1;
        }
        if let Some(link) = self.links.get_mut(&address) {
            link.waiting.push_back((node, frame));
        }
        self.greet(now, address);
    }

    /// Returns whether the session at this address may send one more message within
    /// [`MESSAGES_PER_S`], and counts that message.
    pub(super) fn take_message(&mut self, address: SocketAddr, now: Instant) -> bool {
        let salt = self.links.get(&address).and_then(|link| link.salt);
        let session = salt.and_then(|salt| self.proven.sessions.get_mut(&salt));
        let taken = session.is_some_and(|session| session.messages.take(1, now));
        if !taken {
            self.counters.excess.flooding += 1;
        }
        taken
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
        if self.strangers.len() < STRANGERS_MAX && self.secrets.sealer.keyring().has_ledger() {
            self.strangers.push_back(address);
        }
    }

    /// Ends the sessions of former members.
    pub(super) fn forget_strangers(&mut self) {
        let keyring = self.secrets.sealer.keyring();
        let is_gone = |session: &LinkSession| !keyring.is_member(&session.who.node);
        let gone: Vec<Salt> = self
            .proven
            .sessions
            .iter()
            .filter(|(_, session)| is_gone(session))
            .map(|(salt, _)| *salt)
            .collect();
        let at = |link: &PeerLink| link.salt.is_some_and(|salt| gone.contains(&salt));
        let links = self.links.iter().filter(|(_, link)| at(link));
        let addresses: Vec<_> = links.map(|(address, _)| *address).collect();
        addresses
            .into_iter()
            .for_each(|address| self.forget(address));
        // Tokens that were issued to them must not prove anything again.
        if !gone.is_empty() {
            self.secrets.cookies.renew(self.rng.random());
        }
    }

    /// Returns when [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.hellos
            .first()
            .map_or(self.sweep, |(at, _)| self.sweep.min(*at))
    }

    /// Repeats hellos and forgets silent links.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, address)) = self.hellos.first()
            && at <= now
        {
            self.hellos.pop_first();
            self.repeat_hello(now, address);
        }
        if self.sweep <= now {
            self.sweep = now + LINK_IDLE / 4;
            let silent = |link: &PeerLink| now.saturating_duration_since(link.heard) > LINK_IDLE;
            let old: Vec<_> = self
                .links
                .iter()
                .filter(|(_, l)| silent(l))
                .map(|(at, _)| *at)
                .collect();
            old.into_iter().for_each(|address| self.forget(address));
        }
    }

    fn repeat_hello(&mut self, now: Instant, address: SocketAddr) {
        let Some(link) = self.links.get_mut(&address) else {
            return;
        };
        let Some(hello) = link.hello.as_mut() else {
            return;
        };
        hello.repeated += 1;
        let Some(gap_ms) = HELLO_GAPS_MS.get(hello.repeated) else {
            link.hello = None;
            self.counters.excess.never_proven += link.waiting.len() as u64;
            link.waiting.clear();
            // The peer may use a new secret that is unknown here.
            self.queue_stranger(address);
            return;
        };
        hello.next = now + Duration::from_millis(*gap_ms);
        let (next, nonce) = (hello.next, hello.nonce);
        self.hellos.insert((next, address));
        self.send_hello(address, nonce);
    }

    /// Returns the link to `address`, a new one if there is none. If the table is full, first drops
    /// the link that was silent longest.
    fn link(&mut self, now: Instant, address: SocketAddr) -> &mut PeerLink {
        if !self.links.contains_key(&address) && self.links.len() >= LINKS_MAX {
            let oldest = oldest(&self.links, |link| link.heard);
            oldest.into_iter().for_each(|address| self.forget(address));
            // Recent tokens of a dropped link must not prove anything again.
            self.secrets.cookies.renew(self.rng.random());
        }
        self.links.entry(address).or_insert_with(|| PeerLink {
            salt: None,
            token: None,
            hello: None,
            waiting: VecDeque::new(),
            heard: now,
            sent: None,
        })
    }

    fn forget(&mut self, address: SocketAddr) {
        let Some(link) = self.links.remove(&address) else {
            return;
        };
        if let Some(hello) = link.hello {
            self.hellos.remove(&(hello.next, address));
        }
        self.counters.excess.never_proven += link.waiting.len() as u64;
        self.release(address, link.salt);
    }

    /// Records that the process with this salt is not at the address any more.
    fn release(&mut self, address: SocketAddr, salt: Option<Salt>) {
        let Some(salt) = salt else { return };
        let node = self
            .proven
            .sessions
            .get(&salt)
            .map(|session| session.who.node);
        node.into_iter()
            .for_each(|node| self.remove_route(&node, address));
        self.uncount_link(salt);
    }

    /// Counts one more link at which a process is proven.
    fn count_link(&mut self, salt: &Salt) {
        if let Some(session) = self.proven.sessions.get_mut(salt) {
            session.links += 1;
        }
    }

    /// Counts one link less. A session without a link ends.
    fn uncount_link(&mut self, salt: Salt) {
        if let Some(session) = self.proven.sessions.get_mut(&salt) {
            session.links -= 1;
            if session.links == 0 {
                let ended = self.proven.sessions.remove(&salt);
                ended
                    .into_iter()
                    .for_each(|it| self.ended.add(salt, it.window));
            }
        }
    }

    fn send_hello(&mut self, address: SocketAddr, nonce: Token) {
        let hello = |padding| Frame::Hello {
            nonce,
            who: self.me,
            exchange: *self.secrets.exchange.public(),
            reached: address,
            padding,
        };
        let body = |frame| Body {
            to: SaltTag::default(),
            proof: None,
            frame,
        };
        let bare_bytes = body(hello(Bytes::new()))
            .encode()
            .map_or(0, |bytes| bytes.len());
        // One byte more for the length of the padding, which takes two bytes from 128 on.
        let around = HEADER_BYTES + MAC_BYTES + TAG_BYTES + 1;
        let short = HELLO_BYTES.saturating_sub(around + bare_bytes);
        let padded = body(hello(vec![0; short].into()));
        self.transmit(address, &padded, None);
    }

    fn transmit_bound(&mut self, to: SocketAddr, salt: &Salt, token: Option<Token>, frame: Frame) {
        let proof = token.map(|token| Proof {
            token,
            who: self.secrets.credentials,
            reached: to,
        });
        let body = Body {
            to: tag(salt),
            proof,
            frame,
        };
        let Ok(bytes) = body.encode() else {
            self.counters.excess.overflow += 1;
            return;
        };
        if let Some(session) = self.proven.sessions.get(salt) {
            let datagram = self.secrets.sealer.seal(bytes, Some(&session.pair));
            self.queue(to, datagram);
        }
    }

    /// Sends a body that belongs to no session.
    fn transmit(&mut self, to: SocketAddr, body: &Body, pair: Option<&PairKey>) {
        let Ok(bytes) = body.encode() else {
            self.counters.excess.overflow += 1;
            return;
        };
        let datagram = self.secrets.sealer.seal(bytes, pair);
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

/// Returns the tag that names the receiving process in a datagram: the start of its salt.
fn tag(salt: &Salt) -> SaltTag {
    let mut tag = SaltTag::default();
    tag.copy_from_slice(&salt[..8]);
    tag
}

#[cfg(test)]
mod tests;
