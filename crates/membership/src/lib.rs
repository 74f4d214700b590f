//! Cluster membership: the members that are alive, their addresses, and the news for every member.
//!
//! A pure state machine around the SWIM engine `foca`. It owns membership, the sealing of datagrams
//! and their sessions, seeds, farewells, and the spreading of log heads, which are opaque bytes
//! here. It never accesses a socket, a clock or a file. Its caller, the *owner*, passes in
//! datagrams and the time, and polls for datagrams to send, events, and the next wake-up. All
//! randomness derives from one seed. A whole cluster therefore runs in one test, in virtual time,
//! and replays exactly.
//!
//! | part | owns |
//! |---|---|
//! | `links` | sessions over sealed datagrams: challenge, replay window, queues, proven addresses |
//! | `reach` | the addresses at which the owner reaches members, and NATs on the way |
//! | `seal`, `pair` | keys and nonces |
//! | `vouch` | what nodes have signed about themselves |
//! | `roster` | the engine: alive, suspect, down; generations |
//! | `seeds` | the addresses to greet and when, without end |
//! | `rumors` | heads and departures, passed on for a few rounds |
//! | `farewell` | leaving, and members that are away |
//! | `offenders` | members that break the rules, and for how long they are ignored |
//! | `copies` | the processes that use each node's key, and keys that are used twice |
//!
//! A datagram is believed only as far as its sender can know its content. A link authenticates the
//! sender. A node's address, life and departure are believed only if that node signed them
//! (`vouch`). Any member may claim that another one does not answer or is gone. Such a claim only
//! makes the other member a suspect. A suspect that contradicts the claim stays a member, and every
//! node that it answers keeps it.
//!
//! A call that returns [`ClusterError`] leaves the membership unchanged. Invalid datagrams are
//! dropped and counted ([`Counters`]).
//!
//! The owner's loop, after every call and until each poll returns nothing: send
//! [`Cluster::poll_transmit`] to the socket, handle [`Cluster::poll_event`], and sleep until
//! [`Cluster::poll_timeout`]. After a pause, queued datagrams should be handled before the timeout.
//! Otherwise answers that have already arrived count as missing.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use p2pfs_proto::trust::{Keyring, NodeKey};
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::udp::{
    Farewell, Frame, HEAD_MAX_BYTES, Head, PAYLOAD_MAX_BYTES, Rumor,
};
use p2pfs_types::id::{Generation, NodeId};

mod config;
mod copies;
mod counters;
mod event;
mod farewell;
mod identity;
mod limits;
mod links;
mod membership;
mod offenders;
mod pair;
mod reach;
mod receive;
mod roster;
mod rumors;
mod seal;
mod seeds;
mod spread;
mod vouch;
mod window;

use config::{
    BROADCAST_DATAGRAMS_PER_S, BROADCAST_SUBSET, EVENTS_MAX, KNOCKS_AT_ONCE, KNOCKS_PER_S,
    SMALL_CLUSTER, SMALL_CLUSTER_SLACK,
};
use copies::Copies;
use farewell::{MemberAbsence, OngoingFarewell};
use links::Links;
use offenders::Offenders;
use p2pfs_types::bucket::TokenBucket;
use roster::{Roster, RosterChange};
use rumors::Rumors;
use seeds::SeedSchedule;
use vouch::Vouchers;

pub use config::{
    AWAY_GRACE, ClusterConfig, HEADS_MAX, LINKS_MAX, MEMBER_LIST_MAX_BYTES, MEMBERS_MAX,
    PROBE_PERIOD, SEEDS_MAX,
};
pub use counters::{Counters, ExcessCounters, UntrustedDatagrams, UnusableDatagrams};
pub use event::{DownReason, Event, Leave, Member, MemberState, MemberStatus, Offence, Transmit};
pub use vouch::GENERATION_AHEAD_MAX_S;

/// Pauses before the first exchanges of member lists: after this node meets its first member, and
/// then after each exchange. Later pauses are about [`ClusterConfig::push_pull_period`].
const FIRST_PUSH_PULLS: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// The reason why a call is refused. The membership is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The body does not fit into a datagram.
    #[error("a message has at most {PAYLOAD_MAX_BYTES} bytes, this one {length_bytes}")]
    MessageTooLong {
        /// Length of the body.
        length_bytes: usize,
    },
    /// The head exceeds the size that gossip carries.
    #[error("a head has at most {HEAD_MAX_BYTES} bytes, this one {length_bytes}")]
    HeadTooLong {
        /// Length of the head.
        length_bytes: usize,
    },
    /// The node is not a living member. It may become one.
    #[error("not a living member")]
    NotAMember,
    /// The member list from another member is malformed. That member is at fault.
    #[error("malformed member list")]
    BadMemberList,
    /// The member list has a life (a node and its generation) that the node did not sign.
    #[error("forged member list")]
    ForgedMemberList,
}

/// State of this node in the cluster.
pub struct Cluster {
    config: ClusterConfig,
    rng: StdRng,
    admission: MemberAdmission,
    links: Links,
    roster: Roster,
    seeds: SeedSchedule,
    spreading: Spreading,
    absences: Absences,
    copies: Copies,
    push_pulls: PushPullSchedule,
    reach: reach::Reach,
    events: VecDeque<Event>,
}

/// The proof of membership, and the handling of nodes without a valid one.
struct MemberAdmission {
    keyring: Arc<Keyring>,
    vouchers: Vouchers,
    knocks: TokenBucket,
    offenders: Offenders,
}

/// The news that this node spreads, and to how many members at once.
struct Spreading {
    rumors: Rumors,
    broadcasts: TokenBucket,
    head: spread::OwnHead,
    /// Whether the cluster is small, so that heads and broadcasts go to each member.
    small: bool,
}

/// The farewells of other members and of this node.
struct Absences {
    away: BTreeMap<NodeId, MemberAbsence>,
    leaving: Option<OngoingFarewell>,
}

/// The schedule of exchanges of the whole member list.
#[derive(Default)]
struct PushPullSchedule {
    next: Option<Instant>,
    count: usize,
}

impl Cluster {
    /// Creates a node that knows no other node. Its first greetings are due at once.
    ///
    /// `advertised` is the address at which members reach this node. If its IP address is
    /// unspecified, the one at which the first peer reached this node replaces it. `generation`
    /// should be higher than at any earlier start. The wall clock in seconds suffices: if a member
    /// knows a generation of this node that is as high, the member reports it, and this node
    /// continues with the next one.
    ///
    /// `seed` determines all randomness, including the salt. A repeated salt would break the
    /// encryption. In production the seed comes from the operating system's generator, is used
    /// once, and is never stored. The node and the generation are mixed in. Tests may therefore
    /// give all nodes one seed, and a seed that occurs in two generations is harmless.
    pub fn new(
        config: ClusterConfig,
        key: Arc<NodeKey>,
        advertised: SocketAddr,
        generation: Generation,
        keyring: Arc<Keyring>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let me = key.node_id();
        let mut rng = StdRng::from_seed(mixed(seed, me, generation));
        let me = Member {
            node: me,
            address: canonical(advertised),
            generation,
        };
        let vouchers = Vouchers::new(key);
        let links = Links::new(me, vouchers.clone(), keyring.clone(), &mut rng, now);
        let engine_rng = StdRng::from_seed(rng.random());
        let per_s = BROADCAST_DATAGRAMS_PER_S;
        Self {
            roster: Roster::new(&config, me, vouchers.clone(), engine_rng, now),
            seeds: SeedSchedule::new(&config.seeds, config.announce_period, now),
            admission: MemberAdmission {
                keyring,
                vouchers,
                knocks: TokenBucket::per_second(KNOCKS_PER_S, KNOCKS_AT_ONCE, now),
                offenders: Offenders::default(),
            },
            spreading: Spreading {
                rumors: Rumors::new(),
                broadcasts: TokenBucket::per_second(per_s, per_s, now),
                head: spread::OwnHead::new(now),
                small: true,
            },
            absences: Absences {
                away: BTreeMap::new(),
                leaving: None,
            },
            copies: Copies::new(now),
            push_pulls: PushPullSchedule::default(),
            reach: reach::Reach::new(now),
            events: VecDeque::new(),
            config,
            rng,
            links,
        }
    }

    /// Returns this node as it presents itself now.
    pub fn me(&self) -> Member {
        self.links.me()
    }

    /// Handles a datagram from `from`. Counts it if it is invalid.
    pub fn handle_message(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        for arrival in self.links.handle_datagram(now, from, datagram) {
            self.receive(now, arrival);
            self.settle(now);
        }
        self.settle(now);
    }

    /// Performs the actions that are due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.links.handle_timeout(now);
        if self.absences.leaving.is_some() {
            self.send_farewell(now);
            return;
        }
        self.roster.handle_timeout(now);
        self.settle(now);
        self.greet_seeds(now);
        self.spread(now);
        self.end_absences(now);
        self.review_copies(now);
        self.ask_for_push_pull(now);
        self.renew_mappings(now);
        self.settle(now);
    }

    /// Returns the next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.links.poll_transmit()
    }

    /// Returns the next event for the owner.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] is due next, or none after the farewell.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if let Some(leaving) = &self.absences.leaving {
            return leaving.next;
        }
        let parts = [
            self.roster.poll_timeout(),
            self.spreading.rumors.poll_timeout(),
            self.absence_timeout(),
            self.copies_timeout(),
            self.spreading.head.poll_timeout(),
            self.push_pulls.next,
            self.reach.poll_timeout(),
        ];
        let always = self.links.poll_timeout().min(self.seeds.poll_timeout());
        Some(parts.into_iter().flatten().fold(always, Instant::min))
    }

    /// Remembers an address to join through, and greets it soon.
    pub fn add_seed(&mut self, now: Instant, address: SocketAddr) {
        self.seeds.add(address, now);
    }

    /// Follows a hint that a member may be at `address`, such as an announcement on the LAN. Sends
    /// a limited number of greetings per second. The hint counts only if the receiver answers as a
    /// member.
    pub fn hint(&mut self, now: Instant, address: SocketAddr) {
        let is_known = self.is_met(now, address);
        if !is_known && self.absences.leaving.is_none() && self.seeds.accept_hint(address, now) {
            self.approach(now, address);
            self.settle(now);
        }
    }

    /// Sends one message to one member, with the guarantees of UDP.
    ///
    /// # Errors
    /// [`ClusterError::NotAMember`], [`ClusterError::MessageTooLong`].
    pub fn send(&mut self, now: Instant, to: NodeId, body: Bytes) -> Result<(), ClusterError> {
        let member = self.roster.live().get(&to);
        let member = member.ok_or(ClusterError::NotAMember)?;
        fits(&body)?;
        self.links.send_to(now, member, Frame::Message(body));
        Ok(())
    }

    /// Sends a frame unchecked, whatever its content. For tests with a malicious member.
    pub fn send_unchecked(&mut self, now: Instant, to: SocketAddr, frame: Frame) {
        self.links.send(now, to, frame);
    }

    /// Sends one message to every member of a small cluster (up to about 64), otherwise to some
    /// random ones. Returns the number of members to which the message was queued. A token bucket
    /// limits the rate; beyond it fewer members are reached.
    ///
    /// # Errors
    /// [`ClusterError::MessageTooLong`].
    pub fn broadcast(&mut self, now: Instant, body: Bytes) -> Result<usize, ClusterError> {
        fits(&body)?;
        let count = if self.spreading.small {
            usize::MAX
        } else {
            BROADCAST_SUBSET
        };
        let mut reached = 0;
        for member in self.some_members(count) {
            if !self.spreading.broadcasts.take(1, now) {
                self.links.counters.excess.overflow += 1;
                break;
            }
            self.links
                .send_to(now, &member, Frame::Message(body.clone()));
            reached += 1;
        }
        Ok(reached)
    }

    /// Returns the living members besides this node, in the order of node ids, each with the
    /// address at which this node reaches it.
    pub fn live(&self) -> impl Iterator<Item = Member> {
        self.roster.live().values().map(|it| self.reached(it))
    }

    /// Returns every remembered node, in the order of node ids, with the address at which this node
    /// reaches it. Nodes of a cluster that this node was in before are excluded.
    pub fn members(&self) -> Vec<MemberStatus> {
        let mut members: Vec<_> = self
            .roster
            .members()
            .filter(|(member, _)| self.admission.keyring.was_member(&member.node))
            .map(|(member, state)| MemberStatus {
                member: self.reached(&member),
                state: self.state_of(&member, state),
                round_trip: self.roster.round_trip(&member.node),
            })
            .collect();
        members.sort_by_key(|status| status.member.node);
        members
    }

    /// Returns a moving average of this member's recent round trips.
    pub fn round_trip(&self, node: &NodeId) -> Option<Duration> {
        self.roster.round_trip(node)
    }

    /// Returns the numbers of datagrams sent, accepted and dropped, by cause.
    pub fn counters(&self) -> Counters {
        self.links.counters
    }

    fn state_of(&self, member: &Member, state: foca::State) -> MemberState {
        let node = &member.node;
        let farewell = self.spreading.rumors.farewell_of(node, member.generation);
        let is_member = self.admission.keyring.is_member(node);
        let resigned = !is_member && self.admission.keyring.has_resigned(node);
        let has_left = farewell == Some(Farewell::Final) || resigned;
        match state {
            _ if self.absences.away.contains_key(node) => MemberState::Away,
            foca::State::Alive => MemberState::Alive,
            foca::State::Suspect => MemberState::Suspect,
            foca::State::Down if has_left => MemberState::Left,
            foca::State::Down if !is_member => MemberState::Expelled,
            foca::State::Down => MemberState::Down,
        }
    }

    /// Returns up to `count` living members, chosen at random if there are more.
    fn some_members(&mut self, count: usize) -> Vec<Member> {
        let live = self.roster.live().values().copied();
        if count >= self.roster.live().len() {
            live.collect()
        } else {
            live.sample(&mut self.rng, count)
        }
    }

    fn ask_for_push_pull(&mut self, now: Instant) {
        if self.push_pulls.next.is_none_or(|at| now < at) {
            return;
        }
        let Some(member) = self.roster.live().values().choose(&mut self.rng) else {
            return;
        };
        self.events.push_back(Event::PushPull {
            node: member.node,
            address: self.links.dial_address(member),
        });
        self.push_pulls.count += 1;
        let pause = match FIRST_PUSH_PULLS.get(self.push_pulls.count) {
            Some(pause) => *pause,
            None => self
                .config
                .push_pull_period
                .mul_f64(self.rng.random_range(0.75..1.25)),
        };
        self.push_pulls.next = Some(now + pause);
    }

    /// Delivers the engine's output until there is none left.
    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(change) = self.roster.poll_change() {
                self.apply_change(now, change);
            }
            while let Some((life, contradicted)) = self.roster.poll_other_life() {
                self.record_later_life(now, &life, contradicted);
            }
            let Some((to, packet)) = self.roster.poll_send() else {
                break;
            };
            if self.admission.keyring.is_member(&to.node) {
                let is_live = self.roster.live().contains_key(&to.node);
                self.links.send_packet(now, &to, packet, is_live);
            }
        }
        while let Some(address) = self.links.poll_stranger() {
            if self.admission.knocks.take(1, now) {
                self.push_bounded(Event::Stranger { address });
            }
        }
    }

    fn apply_change(&mut self, now: Instant, change: RosterChange) {
        match change {
            RosterChange::Up(member) => self.handle_up(now, member),
            RosterChange::Down(member) => self.handle_down(now, member),
            RosterChange::Renewed(me) => {
                self.links.set_me(me);
                let life = self.admission.vouchers.sign(me);
                for member in self.some_members(SMALL_CLUSTER) {
                    self.links.send_to(now, &member, Frame::Life(life));
                }
                self.events.push_back(Event::Renewed {
                    generation: me.generation,
                });
            }
        }
        self.resize();
    }

    fn handle_up(&mut self, now: Instant, member: Member) {
        self.absences.away.remove(&member.node);
        self.seeds.remove_lost(&member.node);
        self.spreading
            .rumors
            .returned(&member.node, member.generation);
        self.follow_move(now, &member);
        let reached = self.reached(&member);
        self.reach.record(reached);
        self.events.push_back(Event::Up(reached));
        self.introduce_head(now, member);
        if self.push_pulls.next.is_none() {
            self.push_pulls.count = 0;
            self.push_pulls.next = Some(now + FIRST_PUSH_PULLS[0]);
        }
    }

    fn handle_down(&mut self, now: Instant, member: Member) {
        self.reach.forget(&member.node);
        self.end_membership(now, member);
        if self.roster.live().is_empty() {
            self.push_pulls.next = None;
            self.seeds.start_over(now);
        }
    }

    /// Updates whether the cluster is small or large. The slack prevents frequent changes between
    /// the two.
    fn resize(&mut self) {
        let size = self.roster.live().len() + 1;
        if self.spreading.small && size > SMALL_CLUSTER + SMALL_CLUSTER_SLACK {
            self.spreading.small = false;
        } else if !self.spreading.small && size < SMALL_CLUSTER - SMALL_CLUSTER_SLACK {
            self.spreading.small = true;
        }
    }

    /// Queues an event that any peer can cause at will. Drops it beyond the limit.
    fn push_bounded(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        } else {
            self.links.counters.excess.overflow += 1;
        }
    }
}

fn fits(body: &Bytes) -> Result<(), ClusterError> {
    let length_bytes = body.len();
    let fits = length_bytes <= PAYLOAD_MAX_BYTES;
    fits.then_some(())
        .ok_or(ClusterError::MessageTooLong { length_bytes })
}

fn mixed(seed: u64, me: NodeId, generation: Generation) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("p2pfs cluster seed");
    hasher.update(&seed.to_le_bytes()).update(me.as_bytes());
    hasher.update(&generation.0.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Returns the key of the oldest entry of a table. Callers remove it to make room.
fn oldest<K: Copy, V, T: Ord>(table: &BTreeMap<K, V>, since: impl Fn(&V) -> T) -> Option<K> {
    let oldest = table.iter().min_by_key(|(_, it)| since(it));
    oldest.map(|(key, _)| *key)
}

#[cfg(test)]
mod tests;

pub use limits::LIMITS;
