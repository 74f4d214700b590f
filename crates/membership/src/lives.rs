//! Proofs of single nodes: their links, their lives and their keys.
//!
//! This module handles datagrams that concern one node: its proof, its lives, its key and the
//! packets of the engine. `cluster` handles news, and the changes of members that result.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use super::config::{ClusterConfig, EVENTS_MAX, KNOCKS_AT_ONCE, KNOCKS_PER_S, SMALL_CLUSTER};
use super::copies::{Copies, Spoken, UNREACHED};
use super::event::{Event, Member, MemberState, Offence};
use super::identity::is_beyond;
use super::links::{Introduction, Links};
use super::offenders::Offenders;
use super::reach::Reach;
use super::roster::{PacketRefusal, Roster, RosterChange};
use super::vouch::Vouchers;
use p2pfs_proto::trust::{NodeKey, TrustReader};
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::udp::{Contact, DatagramFrame, Farewell, Salt, SignedContact};
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::{Generation, NodeId};

/// The proof of membership, and the handling of nodes without a valid one.
pub(super) struct MemberAdmission {
    pub(super) trust: TrustReader,
    pub(super) vouchers: Vouchers,
    knocks: TokenBucket,
    pub(super) offenders: Offenders,
}

impl MemberAdmission {
    fn new(trust: TrustReader, vouchers: Vouchers, now: Instant) -> Self {
        Self {
            trust,
            vouchers,
            knocks: TokenBucket::per_second(KNOCKS_PER_S, KNOCKS_AT_ONCE, now),
            offenders: Offenders::default(),
        }
    }

    /// Returns the state of a node that is down.
    pub(super) fn state_when_down(&self, node: &NodeId, farewell: Option<Farewell>) -> MemberState {
        let trust = self.trust.load();
        let (is_member, ledger) = (trust.is_member(node), trust.ledger());
        let resigned = !is_member && ledger.is_some_and(|it| it.departed().has_resigned(node));
        if farewell == Some(Farewell::Final) || resigned {
            MemberState::Left
        } else if is_member {
            MemberState::Down
        } else {
            MemberState::Expelled
        }
    }
}

/// The lives of the other nodes and of this one.
pub(super) struct NodeLives {
    pub(super) admission: MemberAdmission,
    pub(super) links: Links,
    pub(super) roster: Roster,
    pub(super) copies: Copies,
    reach: Reach,
    pub(super) events: VecDeque<Event>,
    pub(super) rng: StdRng,
}

impl NodeLives {
    /// Creates the state of a node that knows no other node.
    pub(super) fn new(
        config: &ClusterConfig,
        key: Arc<NodeKey>,
        me: Member,
        trust: TrustReader,
        mut rng: StdRng,
        now: Instant,
    ) -> Self {
        let vouchers = Vouchers::new(key);
        let links = Links::new(me, vouchers.clone(), trust.clone(), &mut rng, now);
        let engine_rng = StdRng::from_seed(rng.random());
        Self {
            roster: Roster::new(config, me, vouchers.clone(), engine_rng, now),
            admission: MemberAdmission::new(trust, vouchers, now),
            links,
            copies: Copies::new(now),
            reach: Reach::new(now),
            events: VecDeque::new(),
            rng,
        }
    }

    /// Returns when [`Self::review_copies`] or [`Self::renew_mappings`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let copies = self.copies.poll_timeout().into_iter();
        copies.chain(self.reach.poll_timeout()).min()
    }

    /// Returns up to `count` living members, chosen at random if there are more. Members that spoke
    /// to this node are chosen first.
    pub(super) fn some_members(&mut self, count: usize) -> Vec<Member> {
        if count >= self.roster.live().len() {
            return self.roster.live().values().copied().collect();
        }
        let met = self.roster.live_and_met().copied();
        let mut chosen = met.sample(&mut self.rng, count);
        let unmet = self.roster.live().values().copied();
        let unmet = unmet.filter(|member| self.roster.is_unmet(&member.node));
        let rest = count - chosen.len();
        if rest > 0 {
            chosen.extend(unmet.sample(&mut self.rng, rest));
        }
        chosen
    }

    /// Returns a random living member that spoke to this node.
    pub(super) fn random_member(&mut self) -> Option<Member> {
        self.roster.live_and_met().choose(&mut self.rng).copied()
    }

    /// Returns a member with the address at which this node reaches it.
    pub(super) fn reached(&self, member: &Member) -> Member {
        Member {
            address: self.links.table.dial_address(member),
            ..*member
        }
    }

    /// Returns whether a living member was recently heard at `address`.
    pub(super) fn is_met(&self, now: Instant, address: SocketAddr) -> bool {
        let proven = self.links.table.proven(canonical(address));
        let is_live = proven.is_some_and(|it| self.roster.live().contains_key(&it.node));
        is_live && self.links.table.is_current(now, address)
    }

    /// Greets the node at `address`, unless it is this node or a living member that was heard there
    /// recently. A node that was proven there but is silent is greeted too, because it may have
    /// moved, and its answer shows that `address` can be used.
    pub(super) fn approach(&mut self, now: Instant, address: SocketAddr) {
        let me = self.links.process.me().node;
        let is_me = self
            .links
            .table
            .proven(address)
            .is_some_and(|it| it.node == me);
        if !is_me && !self.is_met(now, address) {
            self.links.greet(now, address);
        }
    }

    /// Returns the advertised address of a peer that was proven at another IP address, unless the
    /// advertised one is proven too or is a loopback address. If both are proven, either can
    /// replace the other when it fails.
    fn address_elsewhere(&self, peer: &Introduction) -> Option<SocketAddr> {
        let claimed = peer.who.address;
        let is_elsewhere = claimed.ip() != peer.address.ip() && !claimed.ip().is_loopback();
        let is_proven = self.links.table.proven(claimed).is_some();
        (is_elsewhere && !is_proven).then_some(claimed)
    }

    /// Returns the advertised address of a member that is silent where it was proven, unless that
    /// address is proven. The member has probably moved there.
    pub(super) fn address_after_move(&self, now: Instant, member: &Member) -> Option<SocketAddr> {
        let is_silent = |at| !self.links.table.is_current(now, at);
        let is_lost = self.links.table.route(member).is_some_and(is_silent);
        let is_new = self.links.table.proven(member.address).is_none();
        (is_lost && is_new).then_some(member.address)
    }

    /// Reports a new member.
    pub(super) fn report_up(&mut self, member: &Member) {
        let reached = self.reached(member);
        self.reach.record(&reached);
        self.events.push_back(Event::Up(reached));
    }

    /// Reports a member that has ceased to be one, or that went away.
    pub(super) fn report_down(&mut self, node: &NodeId, event: Event) {
        self.reach.forget(node);
        self.events.push_back(event);
    }

    /// Reports the address of a living member to the owner, if it differs from the one that was
    /// reported last.
    pub(super) fn review_route(&mut self, node: &NodeId) {
        let Some(member) = self.roster.live().get(node) else {
            return;
        };
        let reached = self.reached(member);
        if self.reach.record(&reached) {
            self.events.push_back(Event::Moved(reached));
        }
    }

    /// Checks whether copied keys are still in use by two processes, if that is due.
    pub(super) fn review_copies(&mut self, now: Instant) {
        if self.copies.take_check(now) {
            self.end_copies(now);
            for address in self.copies.addresses_of(&self.links.process.me().node) {
                self.links.greet(now, address);
            }
        }
    }

    /// Renews the mappings of a NAT for this node, if that is due.
    pub(super) fn renew_mappings(&mut self, now: Instant) {
        let live = self.roster.live().values();
        self.reach.renew_mappings(now, live, &mut self.links);
    }

    /// Handles the proof of a peer. If this node is leaving, or if the peer is another process with
    /// this node's own key, only records which process speaks.
    /// Returns another address at which the peer may be reached, if it should be tried.
    pub(super) fn handle_introduction(
        &mut self,
        now: Instant,
        peer: &Introduction,
        is_leaving: bool,
    ) -> Option<SocketAddr> {
        let spoken = Spoken {
            salt: peer.salt,
            address: peer.address,
            challenged: Some(peer.challenged),
        };
        self.record_speaker(now, peer.who.node, spoken);
        let me = self.links.process.me();
        if peer.who.node == me.node || is_leaving {
            return None;
        }
        if me.address.ip().is_unspecified() && !peer.reached.ip().is_unspecified() {
            let port = me.address.port();
            let address = SocketAddr::new(canonical(peer.reached).ip(), port);
            self.roster.move_to(now, address);
        }
        if let Some(known) = &peer.known {
            self.outlive(now, peer.who.node, known);
        }
        if let Some(round_trip) = peer.round_trip {
            self.roster
                .answers
                .record_round_trip(peer.who.node, round_trip);
        }
        if peer.greeted && self.roster.live().get(&peer.who.node) != Some(&peer.who) {
            self.roster.announce(now, peer.who);
        }
        self.reach.record_own(&me, peer.reached);
        self.review_route(&peer.who.node);
        self.address_elsewhere(peer)
    }

    /// Handles a frame of another node, except news.
    pub(super) fn handle_frame(
        &mut self,
        now: Instant,
        from: Contact,
        address: SocketAddr,
        frame: DatagramFrame,
    ) {
        match frame {
            DatagramFrame::Message(body) => {
                if self.links.take_message(address, now) {
                    self.push_bounded(Event::Message {
                        from: from.node,
                        body,
                    });
                }
            }
            DatagramFrame::Life(life) if life.contact.node == from.node => {
                match self.admission.vouchers.check_life(&life) {
                    Ok(()) => {
                        self.admission.vouchers.remember(from.node, life);
                        self.links.table.renew(address, life.contact);
                    }
                    Err(what) => self.record_offence(now, from.node, what),
                }
            }
            DatagramFrame::Unintroduced => {
                let life = self.admission.vouchers.sign(self.links.process.me());
                self.links.send(now, address, DatagramFrame::Life(life));
            }
            DatagramFrame::Swim(packet) => self.handle_swim(now, from, address, &packet),
            DatagramFrame::Outlived { known } => {
                self.roster.refused_by(now, &from.node);
                if self.outlive(now, from.node, &known) {
                    self.roster.announce(now, from);
                }
            }
            // `Links` or `Cluster` has already handled these frames. The exception is a `Life`:
            // here it is of another node than the sender, and is ignored.
            DatagramFrame::Hello { .. }
            | DatagramFrame::HelloReply { .. }
            | DatagramFrame::Challenge { .. }
            | DatagramFrame::Life(_)
            | DatagramFrame::Rumors(_)
            | DatagramFrame::Nothing => {}
        }
    }

    fn handle_swim(&mut self, now: Instant, from: Contact, address: SocketAddr, packet: &[u8]) {
        let counters = &mut self.links.counters;
        let trust = self.admission.trust.load();
        let is_member = |node: &NodeId| trust.is_member(node);
        let (roster, from_node) = (&mut self.roster, from.node);
        match roster.handle_packet(now, (from_node, address), packet, is_member, counters) {
            Ok(None) => {}
            Ok(Some((who, what))) => self.record_offence(now, who, what),
            Err(PacketRefusal::Outlived(known)) => {
                self.links
                    .send(now, address, DatagramFrame::Outlived { known: *known });
            }
            Err(PacketRefusal::Unintroduced) => {
                self.links.send(now, address, DatagramFrame::Unintroduced)
            }
        }
    }

    /// Returns the next change of members. Before it returns none, sends the packets of the engine
    /// and reports the addresses of strangers.
    pub(super) fn poll_change(&mut self, now: Instant) -> Option<RosterChange> {
        loop {
            if let Some(change) = self.roster.poll_change() {
                return Some(change);
            }
            while let Some((life, contradicted)) = self.roster.own_key.poll_other_life() {
                self.record_later_life(now, &life, contradicted);
            }
            while let Some(told) = self.roster.poll_greeting() {
                if self.admission.trust.is_member(&told.node) {
                    self.approach(now, told.address);
                }
            }
            let Some((to, packet)) = self.roster.poll_send() else {
                break;
            };
            if self.admission.trust.is_member(&to.node) {
                let is_live = self.roster.live().contains_key(&to.node);
                self.links.send_packet(now, &to, packet, is_live);
            }
        }
        while let Some(address) = self.links.poll_stranger() {
            if self.admission.knocks.take(1, now) {
                self.push_bounded(Event::Stranger { address });
            }
        }
        None
    }

    /// Continues as `me`, the next life of this node.
    pub(super) fn begin_life(&mut self, now: Instant, me: Member) {
        self.links.process.set_me(me);
        let life = self.admission.vouchers.sign(me);
        for member in self.some_members(SMALL_CLUSTER) {
            self.links.send_to(now, &member, DatagramFrame::Life(life));
        }
        self.events.push_back(Event::Renewed {
            generation: me.generation,
        });
    }

    /// Continues with the generation after `known`, a life of this node that `teller` reported.
    /// Returns false if `known` is not beyond the present life, if its signature or generation is
    /// refused, or if this node was renewed too often recently.
    fn outlive(&mut self, now: Instant, teller: NodeId, known: &SignedContact) -> bool {
        let (me, heard) = (self.links.process.me(), known.contact);
        if heard.node != me.node || !is_beyond(&heard, &me) {
            return false;
        }
        if let Err(what) = self.admission.vouchers.check_life(known) {
            if what == Offence::SpeaksForOthers {
                self.record_offence(now, teller, what);
            }
            return false;
        }
        let contradicts = self.contradict(now, heard.generation);
        self.record_later_life(now, &heard, contradicts);
        contradicts
    }

    /// Continues with the generation after `known`. Returns false if this node was renewed too
    /// often recently.
    pub(super) fn contradict(&mut self, now: Instant, known: Generation) -> bool {
        if !self.roster.own_key.take_renewal(now) {
            self.links.counters.excess.too_many_renewals += 1;
            return false;
        }
        self.roster.outlive(now, known);
        true
    }

    /// Records which process speaks for which node. Challenges a process that may live beside
    /// another one.
    pub(super) fn record_speaker(&mut self, now: Instant, node: NodeId, spoken: Spoken) {
        let me = self.links.process.me().node;
        let told = self.copies.record_speaker(now, me, node, spoken);
        if node != me && self.copies.is_to_be_challenged(now, &node, &spoken.salt) {
            self.links.greet(now, spoken.address);
        }
        if let Some(addresses) = told {
            self.events.push_back(Event::CopiedKey { node, addresses });
            if node == me {
                self.roster.quarrel(now, true);
            }
        }
    }

    /// Records that a process announced its end.
    pub(super) fn speaker_left(&mut self, now: Instant, node: NodeId, salt: Salt) {
        self.copies.record_end(node, salt);
        self.end_copies(now);
    }

    /// Looks for another process with this node's key at the address of `known`, a later life of
    /// this node that a member reported. `contradicted` says whether this node continues after
    /// `known`. Repeated contradictions reveal a process that cannot be reached.
    fn record_later_life(&mut self, now: Instant, known: &Contact, contradicted: bool) {
        let (me, address) = (self.links.process.me(), known.address);
        if address != me.address && self.copies.is_worth_a_look(now, address) {
            self.links.greet(now, address);
        }
        let counts = contradicted || self.copies.is_copied(&me.node);
        if counts && self.copies.is_contradicted_again(now) {
            let spoken = Spoken {
                salt: UNREACHED,
                address,
                challenged: None,
            };
            self.record_speaker(now, me.node, spoken);
        }
    }

    fn end_copies(&mut self, now: Instant) {
        let me = self.links.process.me().node;
        for node in self.copies.forget_silent(now, &me) {
            self.events.push_back(Event::CopyGone { node });
            if node == me {
                self.roster.quarrel(now, false);
            }
        }
    }

    /// Counts an offence. Reports each pair of member and kind once.
    pub(super) fn record_offence(&mut self, now: Instant, who: NodeId, what: Offence) {
        self.links.counters.count(what.into());
        if self.admission.offenders.record(now, who, what) {
            self.push_bounded(Event::Offended { node: who, what });
        }
    }

    /// Queues an event that any peer can cause at will. Drops it beyond the limit.
    pub(super) fn push_bounded(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        } else {
            self.links.counters.excess.overflow += 1;
        }
    }
}
