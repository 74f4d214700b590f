//! The members: the SWIM engine (`foca`) with its timers, within this crate's limits.
//!
//! This module owns the engine, the order of its timers, and the measurements of its probes. It
//! also owns the rule that a node which hears of a later life of itself continues with the next
//! generation. It never sends: packets are returned by [`Roster::poll_send`], with the address that
//! the member advertises. A packet that cannot be decoded changes only a counter.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Codec, Foca, Incarnation, NoCustomBroadcast, OwnedNotification,
    PostcardCodec, State, Timer, TimerToken,
};
use rand::rngs::StdRng;

use super::ClusterError;
use super::config::{ClusterConfig, MEMBER_LIST_MAX_BYTES, MEMBERS_MAX};
use super::counters::Counters;
use super::event::Offence;
use super::identity::MemberLife;
use super::vouch::{LifeCodec, Vouchers, decode_signed};
use p2pfs_proto::wire::native::udp::{Contact, Signature, SignedContact};
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::{Generation, NodeId};

mod answers;
mod hearsay;
mod packet;
mod quarrel;
mod timers;

use answers::ProbeAnswers;
use packet::{EnginePacket, SENDS_MIN, decode, encode, engine_config, is_reachable};
use quarrel::{OtherLife, RENEWAL_PERIOD, RENEWALS_AT_ONCE};
use timers::Timers;

type Engine = Foca<MemberLife, LifeCodec, StdRng, NoCustomBroadcast>;
type Update = foca::Member<MemberLife>;
type Header = foca::Header<MemberLife>;

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

/// The engine and its output.
pub(super) struct Roster {
    engine: Engine,
    vouchers: Vouchers,
    runtime: AccumulatingRuntime<MemberLife>,
    timers: Timers<Timer<MemberLife>>,
    /// The token in the engine's present timers, taken from the last probe timer.
    token: Option<TimerToken>,
    tuning: EngineTuning,
    live: BTreeMap<NodeId, Contact>,
    answers: ProbeAnswers,
    own_key: OwnKeyUse,
    sends: VecDeque<(Contact, Bytes)>,
    changes: VecDeque<RosterChange>,
}

/// The engine's settings, which depend on the number of members.
struct EngineTuning {
    base: foca::Config,
    suspicion: Duration,
    tuned_for: usize,
}

/// The use of this node's key by this and by other processes.
struct OwnKeyUse {
    renewals: TokenBucket,
    /// Whether another process is known to use this node's key.
    quarrels: bool,
    other_lives: VecDeque<OtherLife>,
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
        let base = engine_config(config);
        Self {
            engine: Foca::new(
                MemberLife(me),
                base.clone(),
                rng,
                LifeCodec(vouchers.clone()),
            ),
            vouchers,
            runtime: AccumulatingRuntime::new(),
            timers: Timers::new(),
            token: None,
            tuning: EngineTuning {
                base,
                suspicion: config.suspicion,
                tuned_for: 1,
            },
            live: BTreeMap::new(),
            answers: ProbeAnswers::default(),
            own_key: OwnKeyUse {
                renewals: TokenBucket::one_in(RENEWAL_PERIOD, RENEWALS_AT_ONCE, now),
                quarrels: false,
                other_lives: VecDeque::new(),
            },
            sends: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// Returns the living members besides this node.
    pub(super) fn live(&self) -> &BTreeMap<NodeId, Contact> {
        &self.live
    }

    /// Returns every remembered member, and its state.
    pub(super) fn members(&self) -> impl Iterator<Item = (Contact, State)> {
        let me = self.engine.identity().0.node;
        self.engine
            .iter_membership_state()
            .map(|member| (member.id().0, member.state()))
            .filter(move |(contact, _)| contact.node != me)
    }

    /// Returns the generation of a node that lives or is in the engine's table.
    pub(super) fn generation_of(&self, node: &NodeId) -> Option<Generation> {
        if let Some(living) = self.live.get(node) {
            return Some(living.generation);
        }
        let mut lives = self
            .engine
            .iter_membership_state()
            .map(|member| member.id().0);
        lives
            .find(|life| life.node == *node)
            .map(|life| life.generation)
    }

    /// Returns the moving average of the round trips to a living member.
    pub(super) fn round_trip(&self, node: &NodeId) -> Option<Duration> {
        let lives = self.live.contains_key(node);
        self.answers.round_trip(node).filter(|_| lives)
    }

    /// Records a measured round trip.
    pub(super) fn record_round_trip(&mut self, node: NodeId, round_trip: Duration) {
        self.answers.record_round_trip(node, round_trip);
    }

    /// Records that a datagram of a member arrived, whatever its content.
    pub(super) fn record_arrival(&mut self, now: Instant, node: NodeId) {
        self.answers.record_arrival(node, now);
    }

    /// Asks the node of life `to` to admit this node as a member.
    pub(super) fn announce(&mut self, now: Instant, to: Contact) {
        let _ = self.engine.announce(MemberLife(to), &mut self.runtime);
        self.drain(now);
    }

    /// Handles an engine packet from the node `from`. Counts a packet that cannot be decoded or
    /// whose header names another sender.
    ///
    /// # Errors
    /// [`PacketRefusal`]. Nothing was changed.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        from: NodeId,
        data: &[u8],
        is_member: impl Fn(&NodeId) -> bool,
        counters: &mut Counters,
    ) -> Result<Blame, PacketRefusal> {
        let packet = decode(data).filter(|packet| packet.header.src.0.node == from);
        let Some(EnginePacket { header, mut told }) = packet else {
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
        let all: Vec<Update> = told.iter().map(|(update, _)| update.clone()).collect();
        told.retain(|(update, _)| is_member(&update.id().0.node));
        let (mut updates, blame) = self.believed(from, &told);
        if !self.make_fit(Some(&from), &mut updates, counters) {
            return Ok(blame);
        }
        if !self.contradicts_in_time(now, &header, &mut updates) {
            counters.excess.too_many_renewals += 1;
            if header.message == foca::Message::TurnUndead {
                return Ok(blame);
            }
        }
        let only_believed = (updates != all).then(|| encode(&header, &updates, &self.vouchers));
        let data = only_believed.as_deref().unwrap_or(data);
        self.measure(now, &header);
        if let Some(later) = self.later_self(&updates) {
            self.go_on_after(now, later, true);
        }
        self.accept_hearsay(now, &all, |roster| {
            let handled = roster.engine.handle_data(data, &mut roster.runtime);
            counters.untrusted.bad_swim += u64::from(handled.is_err());
        });
        Ok(blame)
    }

    /// Returns the updates about lives that their nodes signed, each reduced by
    /// [`Self::as_hearsay`], and remembers these lives. Skips lives that are over or come without a
    /// signature. Also returns an offender, if there is one. If a life is forged, the offender is
    /// the teller, and the remaining updates are not examined. If a life is ahead of the clock, the
    /// offender is the node of that life.
    fn believed(&self, teller: NodeId, told: &[(Update, Signature)]) -> (Vec<Update>, Blame) {
        let (mut believed, mut blame) = (Vec::new(), None);
        for (update, signature) in told {
            let life = SignedContact {
                contact: update.id().0,
                signature: *signature,
            };
            // A teller that has lost a signature sends zeros.
            if *signature == Signature::default() || self.is_over(&life.contact) {
                continue;
            }
            match self.vouchers.check_life(&life) {
                Ok(()) => {
                    self.vouchers.remember(teller, life);
                    believed.extend(self.as_hearsay(update));
                }
                // Each forgery costs the verification of a signature.
                Err(what @ Offence::SpeaksForOthers) => return (believed, Some((teller, what))),
                Err(what @ Offence::AheadOfClock) => blame = Some((life.contact.node, what)),
            }
        }
        (believed, blame)
    }

    /// Continues with the next generation, at another address.
    pub(super) fn move_to(&mut self, now: Instant, address: SocketAddr) {
        if let Some(next) = self.engine.identity().moved_to(address) {
            self.become_life(now, next);
        }
    }

    /// Marks this life as over without telling other members, because they learn of its end in
    /// another way.
    pub(super) fn mark_down_silently(&mut self, now: Instant, life: Contact) {
        let over = Update::new(MemberLife(life), 0, State::Down);
        let _ = self
            .engine
            .apply_many(std::iter::once(over), false, &mut self.runtime);
        self.drain(now);
    }

    /// Returns this node and all known members that are not `left_out`, encoded for
    /// [`Self::merge`].
    pub(super) fn export(&self, left_out: impl Fn(&Contact) -> bool) -> Bytes {
        let me = *self.engine.identity();
        let mut list = vec![Update::alive(me)];
        let wanted = |m: &&Update| m.id().0.node != me.0.node && !left_out(&m.id().0);
        list.extend(self.engine.iter_membership_state().filter(wanted).cloned());
        let mut bytes = Vec::new();
        let mut codec = LifeCodec(self.vouchers.clone());
        for update in &list {
            let _always_fits = codec.encode_member(update, &mut bytes);
        }
        bytes.into()
    }

    /// Merges another member's list.
    ///
    /// # Errors
    /// [`ClusterError::BadMemberList`], or [`ClusterError::ForgedMemberList`] if a signature is
    /// wrong. The membership is unchanged.
    pub(super) fn merge(
        &mut self,
        now: Instant,
        mut list: &[u8],
        is_member: impl Fn(&NodeId) -> bool,
        counters: &mut Counters,
    ) -> Result<(), ClusterError> {
        if list.len() > MEMBER_LIST_MAX_BYTES {
            return Err(ClusterError::BadMemberList);
        }
        let mut signed = Vec::new();
        while !list.is_empty() {
            let Some(update) = decode_signed(&mut list) else {
                return Err(ClusterError::BadMemberList);
            };
            signed.push(update);
        }
        // The teller cannot have heard from a node without a usable address.
        signed.retain(|(update, _)| is_reachable(update.id().0) && is_member(&update.id().0.node));
        let me = self.engine.identity().0;
        let told: Vec<Update> = signed.iter().map(|(update, _)| update.clone()).collect();
        // The sender of the list is not known here, so this node stands in for the teller.
        let (mut updates, blame) = self.believed(me.node, &signed);
        if blame == Some((me.node, Offence::SpeaksForOthers)) {
            return Err(ClusterError::ForgedMemberList);
        }
        if let Some(later) = self.later_self(&updates) {
            let may = self.take_renewal(now);
            counters.excess.too_many_renewals += u64::from(!may);
            self.go_on_after(now, later, may);
        }
        updates.retain(|update| update.id().0.node != me.node && is_reachable(update.id().0));
        self.make_fit(None, &mut updates, counters);
        self.accept_hearsay(now, &told, |roster| {
            let all = updates.iter().cloned();
            let _ = roster.engine.apply_many(all, true, &mut roster.runtime);
        });
        Ok(())
    }

    /// Returns when [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first_due()
    }

    /// Runs the engine's timers that are due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.timers.excuse_pause(now);
        while let Some(timer) = self.timers.take_due(now) {
            if let Some(until) = self.puts_off(now, &timer) {
                self.timers.insert(until, timer);
                continue;
            }
            let down = match &timer {
                Timer::RemoveDown(MemberLife(life)) => Some(life.node),
                _ => None,
            };
            let _ = self.engine.handle_timer(timer, &mut self.runtime);
            self.drain(now);
            if let Some(node) = down.filter(|node| self.generation_of(node).is_none()) {
                self.answers.forget(&node);
            }
        }
    }

    /// Returns the next packet to send.
    pub(super) fn poll_send(&mut self) -> Option<(Contact, Bytes)> {
        self.sends.pop_front()
    }

    /// Returns the next change.
    pub(super) fn poll_change(&mut self) -> Option<RosterChange> {
        self.changes.pop_front()
    }

    fn become_life(&mut self, now: Instant, next: MemberLife) {
        if self.engine.change_identity(next, &mut self.runtime).is_ok() {
            self.changes.push_back(RosterChange::Renewed(next.0));
            self.reconnect();
        }
        self.drain(now);
    }

    /// Restarts the engine's timers. The engine stops them when it changes its identity, until it
    /// receives a packet.
    fn reconnect(&mut self) {
        let _ = self
            .engine
            .apply_many(std::iter::empty(), true, &mut self.runtime);
    }

    fn measure(&mut self, now: Instant, header: &Header) {
        if let foca::Message::Ack(number) = header.message {
            self.answers.record_answer(header.src.0.node, number, now);
        }
    }

    /// Takes the engine's output out of its runtime.
    fn drain(&mut self, now: Instant) {
        while self.runtime.backlog() > 0 {
            while let Some((after, timer)) = self.runtime.to_schedule() {
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
                    Timer::ProbeRandomMember(token) => self.token = Some(*token),
                    _ => {}
                }
                self.timers.insert(now + after, timer);
            }
            while let Some(note) = self.runtime.to_notify() {
                self.handle_notification(note);
            }
            while let Some((to, data)) = self.runtime.to_send() {
                self.queue(now, to.0, data);
            }
        }
        self.tune();
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
        self.sends.push_back((to, data));
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
                self.reconnect();
            }
            _ => {}
        }
    }

    fn handle_up(&mut self, contact: Contact) {
        if contact.node == self.engine.identity().0.node {
            return;
        }
        if self.live.insert(contact.node, contact) != Some(contact) {
            self.answers.begins_anew(&contact.node);
            self.changes.push_back(RosterChange::Up(contact));
        }
    }

    fn rounded_size(&self) -> usize {
        (self.live.len() + 1).next_power_of_two()
    }

    /// Returns the time for which a suspect can contradict.
    fn time_to_contradict(&self) -> Duration {
        let decades = (self.rounded_size() as f64).log10();
        self.patience().mul_f64(decades.max(1.0))
    }

    /// Adapts the engine's time for a suspect to contradict and its number of transmissions of each
    /// piece of news. Above a minimum, both grow with the logarithm of the cluster's size.
    fn tune(&mut self) {
        let size = self.rounded_size();
        if size == self.tuning.tuned_for {
            return;
        }
        self.tuning.tuned_for = size;
        let decades = (size as f64).log10();
        let mut config = self.tuning.base.clone();
        config.suspect_to_down_after = self.time_to_contradict();
        config.max_transmissions =
            NonZeroU8::new((4.0 * decades) as u8).map_or(SENDS_MIN, |n| n.max(SENDS_MIN));
        let _ = self.engine.set_config(config);
    }
}

#[cfg(test)]
mod tests;
