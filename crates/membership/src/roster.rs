//! The members: the SWIM engine (`foca`) with its timers, within this crate's limits.
//!
//! This module owns the rule that a node which hears of a later life of itself continues with the
//! next generation, and the rule that a suspect which others call gone is asked before it counts as
//! down. It never sends: packets are returned by [`Roster::poll_send`], with the address that the
//! member advertises. A packet that cannot be decoded changes only a counter.
//!
//! | part | owns |
//! |---|---|
//! | `engine` | the engine with its table of members |
//! | `tuning` | the engine's settings for the present number of members |
//! | `timers` | the engine's timers |
//! | `packet` | packets and member lists, decoded and encoded |
//! | `hearsay` | the claims of one packet or list, and which of them are believed |
//! | `candidates` | nodes that were only told of: greeted first, members later |
//! | `met_hosts` | the hosts of members, and which member makes room in a full table |
//! | `answers` | probes, their answers, and how long the end of a suspect is postponed |
//! | `own_key` | other lives of this node, and how often they may renew it |

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foca::{Codec, Incarnation, OwnedNotification, PostcardCodec, State, Timer, TimerToken};
use rand::rngs::StdRng;

use super::ClusterError;
use super::config::{ClusterConfig, MEMBERS_MAX};
use super::counters::Counters;
use super::event::Offence;
use super::identity::MemberLife;
use super::vouch::Vouchers;
use p2pfs_proto::wire::native::udp::{Contact, SignedContact};
use p2pfs_types::host::HostPrefix;
use p2pfs_types::id::{Generation, NodeId};

mod answers;
mod candidates;
mod engine;
mod hearsay;
mod met_hosts;
mod own_key;
mod packet;
mod timers;
mod tuning;

use answers::{OWN_QUESTIONS, ProbeAnswers};
use candidates::{Candidates, UNMET_MEMORY};
use engine::{Header, SwimEngine, Update};
use hearsay::Hearsay;
use met_hosts::MetHosts;
use own_key::OwnKeyUse;
use packet::{EnginePacket, decode, decode_list, encode, encode_list, is_reachable};
use timers::Timers;
use tuning::EngineTuning;

/// A change of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RosterChange {
    /// A member is active, and [`Roster::live`] did not have it with this generation and address.
    Up(Contact),
    /// A member has stopped being active.
    Down(Contact),
    /// This node continues with this life.
    Renewed(Contact),
}

/// The reason why a packet was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PacketRefusal {
    /// The sender's node has the contained life, which is later or has another address in the same
    /// generation.
    Outlived(Box<SignedContact>),
    /// The sender uses a life without a known signature.
    Unintroduced,
}

/// The offence that a packet revealed, and the offender.
pub(super) type Blame = Option<(NodeId, Offence)>;

/// The engine with its timers, and the knowledge of this node about its members.
pub(super) struct Roster {
    pub(super) engine: SwimEngine,
    vouchers: Vouchers,
    timers: Timers<Timer<MemberLife>>,
    /// The token in the engine's present timers, taken from the last probe timer.
    token: Option<TimerToken>,
    tuning: EngineTuning,
    live: BTreeMap<NodeId, Contact>,
    candidates: Candidates,
    met_hosts: MetHosts,
    pub(super) answers: ProbeAnswers,
    pub(super) own_key: OwnKeyUse,
    sends: VecDeque<(Contact, Bytes)>,
    changes: VecDeque<RosterChange>,
}

impl Roster {
    /// Creates a roster with no member but this node.
    pub(super) fn new(
        config: &ClusterConfig,
        me: Contact,
        vouchers: Vouchers,
        rng: StdRng,
        now: Instant,
    ) -> Self {
        let tuning = EngineTuning::new(config);
        Self {
            engine: SwimEngine::new(tuning.config(), me, vouchers.clone(), rng),
            vouchers,
            timers: Timers::new(),
            token: None,
            tuning,
            live: BTreeMap::new(),
            candidates: Candidates::new(),
            met_hosts: MetHosts::default(),
            answers: ProbeAnswers::default(),
            own_key: OwnKeyUse::new(now),
            sends: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// Returns the living members besides this node.
    pub(super) fn live(&self) -> &BTreeMap<NodeId, Contact> {
        &self.live
    }

    /// Returns the living members besides this node that spoke to it.
    pub(super) fn live_and_met(&self) -> impl Iterator<Item = &Contact> {
        let live = self.live.values();
        live.filter(|member| !self.candidates.is_unmet(&member.node))
    }

    /// Returns the number of living members besides this node that spoke to it.
    pub(super) fn met_count(&self) -> usize {
        let unmet = self.candidates.unmet();
        self.live.len() - unmet.filter(|node| self.live.contains_key(node)).count()
    }

    /// Returns whether this node only heard of a member.
    pub(super) fn is_unmet(&self, node: &NodeId) -> bool {
        self.candidates.is_unmet(node)
    }

    /// Returns the next node that was only told of and has to be greeted.
    pub(super) fn poll_greeting(&mut self) -> Option<Contact> {
        self.candidates.poll_greeting()
    }

    /// Forgets nodes that were only told of and are not members of the cluster.
    pub(super) fn retain_candidates(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.candidates.retain(is_member);
    }

    /// Returns the generation of a node that lives or is in the engine's table.
    pub(super) fn generation_of(&self, node: &NodeId) -> Option<Generation> {
        if let Some(living) = self.live.get(node) {
            return Some(living.generation);
        }
        let entry = self.engine.entry(node)?;
        Some(entry.id().0.generation)
    }

    /// Returns the moving average of the round trips to a living member.
    pub(super) fn round_trip(&self, node: &NodeId) -> Option<Duration> {
        let lives = self.live.contains_key(node);
        self.answers.round_trip(node).filter(|_| lives)
    }

    /// Asks the node of life `to` to admit this node as a member.
    pub(super) fn announce(&mut self, now: Instant, to: Contact) {
        self.engine.announce(to);
        self.drain(now);
    }

    /// Handles an engine packet from the node `from`, which was proven at the address `at`. Counts a
    /// packet that cannot be decoded or whose header names another sender.
    ///
    /// # Errors
    /// [`PacketRefusal`]. Nothing was changed.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        (from, at): (NodeId, SocketAddr),
        data: &[u8],
        is_member: impl Fn(&NodeId) -> bool,
        counters: &mut Counters,
    ) -> Result<Blame, PacketRefusal> {
        let packet = decode(data).filter(|packet| packet.header.src.0.node == from);
        let Some(EnginePacket { header, told }) = packet else {
            counters.untrusted.bad_swim += 1;
            return Ok(None);
        };
        let sender = header.src.0;
        if let Some(later) = self.vouchers.later(&sender) {
            return Err(PacketRefusal::Outlived(Box::new(later)));
        }
        if !self.vouchers.knows(&sender) {
            return Err(PacketRefusal::Unintroduced);
        }
        let known = self.generation_of(&from);
        let is_corrected = |known| known > sender.generation && self.vouchers.is_ahead(known);
        if known.is_some_and(is_corrected) {
            self.remove(now, &from);
        }
        let mut hearsay = Hearsay::examine(self, from, &told, is_member);
        if !self.make_room(now, &from, HostPrefix::of(at.ip())) {
            counters.excess.too_many_members += 1;
            return Ok(hearsay.blame);
        }
        self.add_candidates(now, from, &mut hearsay, counters);
        self.candidates.meet(now, &from);
        if !self.contradicts_in_time(now, &header, &mut hearsay) {
            counters.excess.too_many_renewals += 1;
            if header.message == foca::Message::TurnUndead {
                return Ok(hearsay.blame);
            }
        }
        let reduced = !hearsay.is_all_believed();
        let reduced = reduced.then(|| encode(&header, &hearsay.believed, &self.vouchers));
        if let foca::Message::Ack(number) = header.message {
            self.answers.record_answer(from, number, now);
        }
        if let Some(later) = hearsay.later_self(&self.engine.me().0) {
            self.continue_after(now, later, true);
        }
        let is_handled = self.engine.receive(reduced.as_deref().unwrap_or(data));
        counters.untrusted.bad_swim += u64::from(!is_handled);
        self.drain(now);
        self.question(now, &hearsay);
        Ok(hearsay.blame)
    }

    /// Returns false if a packet would force this node into another generation and that is not
    /// allowed now. In that case drops the claims about this node.
    fn contradicts_in_time(
        &mut self,
        now: Instant,
        header: &Header,
        hearsay: &mut Hearsay,
    ) -> bool {
        let me = self.engine.me();
        let later = hearsay.later_self(&me.0);
        let forced = header.message == foca::Message::TurnUndead
            || hearsay.forces_next_life(&me)
            || later.is_some();
        if !forced || self.own_key.take_renewal(now) {
            return true;
        }
        if let Some(later) = later {
            self.continue_after(now, later, false);
        }
        hearsay.drop_claims_about(&me.0.node);
        false
    }

    /// Continues with the next generation, at another address.
    pub(super) fn move_to(&mut self, now: Instant, address: SocketAddr) {
        if let Some(next) = self.engine.me().moved_to(address) {
            self.become_life(now, next);
        }
    }

    /// Continues with this generation, if the present life is ahead of the clock, because the clock
    /// was wrong when it began. Other nodes refuse it, and would refuse its successors. If the life
    /// of a living member is not ahead, that member accepted this life, and the node keeps it.
    pub(super) fn correct_generation(&mut self, now: Instant, generation: Generation) -> bool {
        let me = self.engine.me().0;
        let is_ahead = |life: &Contact| self.vouchers.is_ahead(life.generation);
        let is_wrong = is_ahead(&me) && self.live_and_met().all(is_ahead);
        if is_wrong {
            self.become_life(now, MemberLife(Contact { generation, ..me }));
        }
        is_wrong
    }

    /// Marks this life as over without telling other members, because they learn of its end in
    /// another way.
    pub(super) fn mark_down_silently(&mut self, now: Instant, life: Contact) {
        let over = Update::new(MemberLife(life), 0, State::Down);
        self.engine.apply_silently(over);
        self.drain(now);
    }

    /// Returns this node and all members that it met and that are not `left_out`, encoded for
    /// [`Self::merge`].
    pub(super) fn export(&self, left_out: impl Fn(&Contact) -> bool) -> Bytes {
        let me = self.engine.me();
        let is_met = |it: &Contact| it.node != me.0.node && !self.is_unmet(&it.node);
        let wanted = |m: &&Update| is_met(&m.id().0) && !left_out(&m.id().0);
        let others = self.engine.entries().filter(wanted);
        let this_node = Update::alive(me);
        let list = std::iter::once(&this_node).chain(others);
        encode_list(list, &self.vouchers).into()
    }

    /// Merges the list of the member `teller`.
    ///
    /// # Errors
    /// [`ClusterError::BadMemberList`], or [`ClusterError::ForgedMemberList`] if a signature is
    /// wrong. The membership is unchanged.
    pub(super) fn merge(
        &mut self,
        now: Instant,
        teller: NodeId,
        list: &[u8],
        is_member: impl Fn(&NodeId) -> bool,
        counters: &mut Counters,
    ) -> Result<(), ClusterError> {
        let mut signed = decode_list(list).ok_or(ClusterError::BadMemberList)?;
        // The teller cannot have heard from a node without a usable address.
        signed.retain(|(update, _)| is_reachable(update.id().0) && is_member(&update.id().0.node));
        let me = self.engine.me().0;
        let mut hearsay = Hearsay::examine(self, teller, &signed, |_| true);
        if hearsay.blame == Some((teller, Offence::SpeaksForOthers)) {
            return Err(ClusterError::ForgedMemberList);
        }
        if let Some(later) = hearsay.later_self(&me) {
            let may = self.own_key.take_renewal(now);
            counters.excess.too_many_renewals += u64::from(!may);
            self.continue_after(now, later, may);
        }
        hearsay.drop_claims_about(&me.node);
        self.add_candidates(now, teller, &mut hearsay, counters);
        self.engine.apply(hearsay.believed.iter().cloned());
        self.drain(now);
        self.question(now, &hearsay);
        Ok(())
    }

    /// Removes the claims about nodes that are not members here, and adds these nodes to the
    /// candidates.
    fn add_candidates(
        &mut self,
        now: Instant,
        teller: NodeId,
        hearsay: &mut Hearsay,
        counters: &mut Counters,
    ) {
        for life in hearsay.lives_called_over() {
            self.candidates.remove_waiting(&life);
        }
        let me = self.engine.me().0.node;
        let is_known = |node: &NodeId| *node == me || self.generation_of(node).is_some();
        for told in hearsay.take_candidates(is_known) {
            if self.candidates.add(now, teller, &told) {
                counters.excess.too_many_members += 1;
            }
        }
    }

    /// Makes room in the table of members for a node that speaks from `host`, and records the host.
    /// Returns false if there is no room.
    fn make_room(&mut self, now: Instant, node: &NodeId, host: HostPrefix) -> bool {
        let is_full = self.engine.entries().len() >= MEMBERS_MAX;
        if is_full && self.generation_of(node).is_none() {
            let unmet = self.candidates.unmet().next().copied();
            let displaced = || {
                let entries: Vec<_> = self.engine.entries().collect();
                self.met_hosts.displaced_by(host, &entries)
            };
            let Some(displaced) = unmet.or_else(displaced) else {
                return false;
            };
            self.remove(now, &displaced);
        }
        self.met_hosts.record(*node, host);
        true
    }

    /// Removes a member, as if it had been down for long.
    fn remove(&mut self, now: Instant, node: &NodeId) {
        let Some(life) = self.engine.entry(node).map(|entry| *entry.id()) else {
            self.candidates.forget(node);
            return;
        };
        self.mark_down_silently(now, life.0);
        let removal = Timer::RemoveDown(life);
        self.timers.remove(&removal);
        self.engine.handle_timer(removal);
        self.forget(node);
    }

    /// Forgets a node that is not in the engine's table any more.
    fn forget(&mut self, node: &NodeId) {
        self.answers.forget(node);
        self.met_hosts.forget(node);
        self.candidates.forget(node);
    }

    /// Returns when [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let candidates = self.candidates.poll_timeout();
        self.timers.first_due().into_iter().chain(candidates).min()
    }

    /// Runs the engine's timers that are due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.timers.excuse_pause(now);
        while let Some(timer) = self.timers.take_due(now) {
            if let Some(until) = self.postpone_end(now, &timer) {
                self.timers.insert(until, timer);
                continue;
            }
            let down = match &timer {
                Timer::RemoveDown(MemberLife(life)) => Some(life.node),
                _ => None,
            };
            self.engine.handle_timer(timer);
            self.drain(now);
            if let Some(node) = down.filter(|node| self.generation_of(node).is_none()) {
                self.forget(&node);
            }
        }
        for told in self.candidates.end_due(now) {
            self.engine.apply_silently(told);
            self.drain(now);
        }
    }

    /// Adds the members of a list without meeting them.
    #[cfg(test)]
    pub(super) fn assume_members(&mut self, now: Instant, list: &[u8]) {
        let signed = decode_list(list).unwrap();
        for (update, signature) in &signed {
            let life = SignedContact {
                contact: update.id().0,
                signature: *signature,
            };
            self.vouchers.remember(life.contact.node, life);
        }
        self.engine
            .apply(signed.into_iter().map(|(update, _)| update));
        self.drain(now);
    }

    /// Returns the next packet to send.
    pub(super) fn poll_send(&mut self) -> Option<(Contact, Bytes)> {
        self.sends.pop_front()
    }

    /// Returns the next change.
    pub(super) fn poll_change(&mut self) -> Option<RosterChange> {
        self.changes.pop_front()
    }

    /// Continues with the life after `heard`, if `heard` is not older than the present life.
    pub(super) fn outlive(&mut self, now: Instant, heard: Generation) {
        let me = self.engine.me();
        if heard < me.0.generation {
            return;
        }
        if let Some(next) = me.after(heard) {
            self.become_life(now, next);
        }
    }

    /// If a renewal is allowed (`may`), continues with a later generation than `later`, a life of
    /// this node that a member reported. Whether allowed or not, queues `later` for
    /// [`OwnKeyUse::poll_other_life`].
    fn continue_after(&mut self, now: Instant, later: Contact, may: bool) {
        if may {
            self.outlive(now, later.generation);
        }
        self.own_key.report((later, may));
    }

    fn become_life(&mut self, now: Instant, next: MemberLife) {
        if self.engine.become_life(next) {
            self.changes.push_back(RosterChange::Renewed(next.0));
        }
        self.drain(now);
    }

    /// Records that another process has begun to use this node's key (`begins`), or that no other
    /// process uses it any longer.
    pub(super) fn quarrel(&mut self, now: Instant, begins: bool) {
        self.own_key.limit_renewals(now, begins);
        self.tuning.set_quarrel(begins);
        self.engine.set_config(self.tuning.config());
    }

    /// Records that a member refused this node's life, because it knows a later one. Such a member
    /// does not answer probes, so the refusal counts as an answer. Otherwise each of two processes
    /// with one key would in turn believe the other members gone, and pass that on.
    pub(super) fn refused_by(&mut self, now: Instant, member: &NodeId) {
        let known = self.engine.entry(member).cloned();
        let Some(known) = known.filter(|it| it.state() != State::Down) else {
            return;
        };
        let mut incarnation = known.incarnation();
        if known.state() == State::Suspect {
            incarnation = incarnation.saturating_add(1);
            let there = Update::new(*known.id(), incarnation, State::Alive);
            self.engine.apply_silently(there);
        }
        if let Some(number) = self.answers.unanswered(member) {
            let answer = Header {
                src: *known.id(),
                src_incarnation: incarnation,
                dst: self.engine.me(),
                message: foca::Message::Ack(number),
            };
            let answer = encode(&answer, &[], &self.vouchers);
            self.engine.receive(&answer);
        }
        self.drain(now);
    }

    /// Begins to ask the suspects that a member calls gone.
    fn question(&mut self, now: Instant, hearsay: &Hearsay) {
        for node in hearsay.called_gone(self.engine.me().0.node) {
            if self.live.contains_key(&node) {
                self.doubt(now, &node);
            }
        }
    }

    /// Begins to ask a living member that other members call gone, if it is a suspect.
    fn doubt(&mut self, now: Instant, node: &NodeId) {
        let entry = self.engine.entry(node);
        let suspect = entry.filter(|it| it.state() == State::Suspect);
        let (Some(suspect), Some(token)) = (suspect, self.token) else {
            return;
        };
        let (member_id, incarnation) = (*suspect.id(), suspect.incarnation());
        let timer = Timer::ChangeSuspectToDown {
            member_id,
            incarnation,
            token,
        };
        let is_asked = self.answers.is_called_gone(node, incarnation);
        if !is_asked || !self.timers.holds(&timer) {
            // The teller has already waited for the suspect. In a large cluster not all members
            // have met, and an answer takes longer.
            let (all, small) = (self.tuning.time_to_contradict(), self.tuning.patience());
            let usual = all.saturating_sub(small) / 2 + small / 24;
            // The round trip to a node that never answered is unknown, but no path takes as long as
            // half of `small`.
            let patience = match self.answers.round_trip(node) {
                Some(_) => usual,
                None => usual.max(small / 2),
            };
            let patience = patience / OWN_QUESTIONS;
            self.answers.called_gone(*node, incarnation, patience, now);
            self.timers.hasten(now, timer);
        }
    }

    /// If this timer would declare a suspect down and that must wait, asks the suspect again, and
    /// returns until when to postpone the timer.
    fn postpone_end(&mut self, now: Instant, timer: &Timer<MemberLife>) -> Option<Instant> {
        let Timer::ChangeSuspectToDown {
            member_id: MemberLife(suspect),
            incarnation,
            ..
        } = timer
        else {
            return None;
        };
        let as_told = (*suspect, *incarnation, State::Suspect);
        let known = self.engine.entry(&suspect.node);
        known.filter(|it| (it.id().0, it.incarnation(), it.state()) == as_told)?;
        let others_live = self
            .engine
            .members()
            .any(|(_, state)| state == State::Alive);
        let until = self
            .answers
            .postpone(&suspect.node, *incarnation, others_live, now)?;
        self.confront(now, *suspect, *incarnation);
        Some(until)
    }

    /// Tells a suspect about the suspicion and asks it for an answer. The answer has a higher
    /// incarnation, which contradicts the suspicion.
    fn confront(&mut self, now: Instant, suspect: Contact, incarnation: Incarnation) {
        let header = Header {
            src: self.engine.me(),
            // The suspect knows this incarnation of this node, the lowest, or a later one, so the
            // packet tells it nothing new about this node.
            src_incarnation: Incarnation::default(),
            dst: MemberLife(suspect),
            message: foca::Message::Gossip,
        };
        let suspicion = Update::new(MemberLife(suspect), incarnation, State::Suspect);
        let told = encode(&header, &[suspicion], &self.vouchers);
        self.sends.push_back((suspect, told.into()));
        self.announce(now, suspect);
    }

    /// Handles the engine's output.
    fn drain(&mut self, now: Instant) {
        while self.engine.output.backlog() > 0 {
            while let Some((after, timer)) = self.engine.output.to_schedule() {
                match &timer {
                    Timer::ChangeSuspectToDown {
                        member_id,
                        incarnation,
                        ..
                    } => {
                        self.answers.suspect(member_id.0.node, *incarnation, now);
                        // A second timer for one suspicion would postpone the end of the suspect
                        // once more.
                        if self.timers.holds(&timer) {
                            continue;
                        }
                    }
                    Timer::RemoveDown(life) if self.is_unmet(&life.0.node) => {
                        self.timers.insert(now + after.min(UNMET_MEMORY), timer);
                        continue;
                    }
                    Timer::ProbeRandomMember(token) => self.token = Some(*token),
                    _ => {}
                }
                self.timers.insert(now + after, timer);
            }
            while let Some(note) = self.engine.output.to_notify() {
                self.handle_notification(note);
            }
            while let Some((to, data)) = self.engine.output.to_send() {
                self.queue(now, to.0, data);
            }
        }
        if self.tuning.resize(self.live.len() + 1) {
            self.engine.set_config(self.tuning.config());
        }
    }

    fn queue(&mut self, now: Instant, mut to: Contact, data: Bytes) {
        let header: Result<Header, _> = PostcardCodec.decode_header(&data[..]);
        match header.map(|header| header.message) {
            Ok(foca::Message::Ping(number)) => {
                self.answers.record_probe(to.node, number, now);
            }
            // Another member chose the destination of these packets, and may have chosen any
            // address. They go only to living members, at their known addresses.
            Ok(foca::Message::IndirectPing { .. } | foca::Message::ForwardedAck { .. }) => {
                let Some(known) = self.live.get(&to.node) else {
                    return;
                };
                to = *known;
            }
            // When the time of a suspicion ends, foca 2.0 tells the suspect that it is down, even
            // if the suspect has contradicted meanwhile. The message is dropped if the suspect is
            // alive here, because it would begin a new life without need.
            Ok(foca::Message::TurnUndead)
                if self
                    .live
                    .get(&to.node)
                    .is_some_and(|m| m.generation >= to.generation) =>
            {
                return;
            }
            _ => {}
        }
        let data = self.without_unmet(data);
        self.sends.push_back((to, data));
    }

    /// Returns a packet without the claims about members that this node did not meet.
    fn without_unmet(&self, data: Bytes) -> Bytes {
        if self.candidates.unmet().len() == 0 {
            return data;
        }
        let Some(EnginePacket { header, told }) = decode(&data) else {
            return data;
        };
        let is_met = |update: &Update| !self.is_unmet(&update.id().0.node);
        let told = told.into_iter().map(|(update, _)| update);
        let met: Vec<Update> = told.filter(is_met).collect();
        encode(&header, &met, &self.vouchers).into()
    }

    fn handle_notification(&mut self, note: OwnedNotification<MemberLife>) {
        match note {
            OwnedNotification::MemberUp(life) => self.handle_up(life.0),
            OwnedNotification::Rename(_, life) if self.live.contains_key(&life.0.node) => {
                self.handle_up(life.0);
            }
            OwnedNotification::MemberDown(life) => {
                if let Some(contact) = self.live.remove(&life.0.node) {
                    self.answers.ended(&contact.node);
                    self.changes.push_back(RosterChange::Down(contact));
                }
            }
            OwnedNotification::Rejoin(life) => {
                self.changes.push_back(RosterChange::Renewed(life.0));
                self.engine.reconnect();
            }
            _ => {}
        }
    }

    fn handle_up(&mut self, contact: Contact) {
        if contact.node == self.engine.me().0.node {
            return;
        }
        if self.live.insert(contact.node, contact) != Some(contact) {
            self.answers.clear_suspicion(&contact.node);
            self.changes.push_back(RosterChange::Up(contact));
        }
    }
}

#[cfg(test)]
mod tests;
