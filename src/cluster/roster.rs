//! Who is a member: the SWIM engine (`foca`) with its timers, kept to our limits.
//!
//! Owns the engine, the order of its timers, the measuring of its probes, and the rule that a node
//! which hears of a later life of itself goes on as the life after that one. Never sends: what is
//! to be sent comes out of [`Roster::poll_send`], with the address that the member advertises.
//! A packet that the engine refuses changes nothing but a counter.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Codec, Foca, Incarnation, NoCustomBroadcast, OwnedNotification,
    PostcardCodec, State, Timer,
};
use rand::rngs::StdRng;

use super::config::{ClusterConfig, MEMBER_LIST_MAX_BYTES, MEMBERS_MAX};
use super::counters::Counters;
use super::event::Offence;
use super::identity::Life;
use super::vouch::{LifeCodec, Vouchers, decode_signed};
use crate::bucket::TokenBucket;
use crate::id::{Generation, NodeId};
use crate::wire::native::udp::{Contact, Signature, SignedContact};

mod answers;
mod packet;
mod quarrel;
mod timers;

use answers::Answers;
use packet::{Packet, SENDS_MIN, decode, encode, engine_config, is_reachable};
use quarrel::{OtherLife, RENEWAL_PERIOD, RENEWALS_AT_ONCE};
use timers::Timers;

type Engine = Foca<Life, LifeCodec, StdRng, NoCustomBroadcast>;
type Update = foca::Member<Life>;
type Header = foca::Header<Life>;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A member is active, as a life that was not known before.
    Up(Contact),
    /// A member is active no more.
    Down(Contact),
    /// This node goes on as this life.
    Renewed(Contact),
}

/// Why a packet was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The sender speaks as a life that is over: this is a later one.
    Outlived(Box<SignedContact>),
    /// The sender speaks as a life that was not seen signed.
    Unintroduced,
}

/// What was taken, and whom it shows in a bad light.
pub(super) type Blame = Option<(NodeId, Offence)>;

/// The engine and what it asked for.
pub(super) struct Roster {
    engine: Engine,
    vouchers: Vouchers,
    runtime: AccumulatingRuntime<Life>,
    timers: Timers<Timer<Life>>,
    base: foca::Config,
    suspicion: Duration,
    tuned_for: usize,
    live: BTreeMap<NodeId, Contact>,
    answers: Answers,
    renewals: TokenBucket,
    /// Whether another process is known to use this node's key.
    quarrels: bool,
    other_lives: VecDeque<OtherLife>,
    sends: VecDeque<(Contact, Bytes)>,
    changes: VecDeque<Change>,
}

impl Roster {
    /// Nobody but this node.
    pub(super) fn new(
        config: &ClusterConfig,
        me: Contact,
        vouchers: Vouchers,
        rng: StdRng,
        now: Instant,
    ) -> Self {
        let base = engine_config(config);
        Self {
            engine: Foca::new(Life(me), base.clone(), rng, LifeCodec(vouchers.clone())),
            vouchers,
            runtime: AccumulatingRuntime::new(),
            timers: Timers::new(),
            base,
            suspicion: config.suspicion,
            tuned_for: 1,
            live: BTreeMap::new(),
            answers: Answers::default(),
            renewals: TokenBucket::one_in(RENEWAL_PERIOD, RENEWALS_AT_ONCE, now),
            quarrels: false,
            other_lives: VecDeque::new(),
            sends: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// The living members besides this node, by node.
    pub(super) fn live(&self) -> &BTreeMap<NodeId, Contact> {
        &self.live
    }

    /// Every member that is remembered, and what is thought of it.
    pub(super) fn members(&self) -> impl Iterator<Item = (Contact, State)> {
        let me = self.engine.identity().0.node;
        self.engine
            .iter_membership_state()
            .map(|member| (member.id().0, member.state()))
            .filter(move |(contact, _)| contact.node != me)
    }

    /// The latest generation of a node that was heard of.
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

    /// The moving average of this member's answers to probes.
    pub(super) fn round_trip(&self, node: &NodeId) -> Option<Duration> {
        self.answers.round_trip(node)
    }

    /// Takes a measure in.
    pub(super) fn measured(&mut self, node: NodeId, round_trip: Duration) {
        self.answers.measured(node, round_trip);
    }

    /// Something of a member came, whatever it says.
    pub(super) fn heard(&mut self, now: Instant, node: NodeId) {
        self.answers.heard(node, now);
    }

    /// Asks this life to take us in.
    pub(super) fn announce(&mut self, now: Instant, to: Contact) {
        let _ = self.engine.announce(Life(to), &mut self.runtime);
        self.drain(now);
    }

    /// Takes a packet of the engine of `from`, which is to be the one that it says.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        from: NodeId,
        data: &[u8],
        is_member: impl Fn(&NodeId) -> bool,
        counters: &mut Counters,
    ) -> Result<Blame, Refused> {
        let packet = decode(data).filter(|packet| packet.header.src.0.node == from);
        let Some(Packet { header, mut told }) = packet else {
            counters.bad_swim += 1;
            return Ok(None);
        };
        let sender = header.src.0;
        if let Some(later) = self.vouchers.later(&sender) {
            return Err(Refused::Outlived(Box::new(later)));
        }
        if !self.vouchers.knows(&sender) {
            return Err(Refused::Unintroduced);
        }
        let told_of = told.len();
        told.retain(|(update, _)| is_member(&update.id().0.node));
        let (mut updates, blame) = self.believed(from, &told);
        if !self.has_room(&updates) {
            counters.too_many_members += 1;
            return Ok(blame);
        }
        if !self.contradicts_in_time(now, &header, &mut updates) {
            counters.too_many_renewals += 1;
            if header.message == foca::Message::TurnUndead {
                return Ok(blame);
            }
        }
        let only_believed =
            (updates.len() < told_of).then(|| encode(&header, &updates, &self.vouchers));
        let data = only_believed.as_deref().unwrap_or(data);
        self.measure(now, &header);
        if let Some(later) = self.later_self(&updates) {
            self.go_on_after(now, later, true);
        }
        if self.engine.handle_data(data, &mut self.runtime).is_err() {
            counters.bad_swim += 1;
        }
        self.drain(now);
        Ok(blame)
    }

    /// The updates of lives that their nodes signed, which are remembered then; and who is to be
    /// blamed for the others: the teller for what is forged, the node itself for what is too late.
    fn believed(&self, teller: NodeId, told: &[(Update, Signature)]) -> (Vec<Update>, Blame) {
        let mut blame = None;
        let believed = told.iter().filter(|(update, signature)| {
            let life = SignedContact {
                contact: update.id().0,
                signature: *signature,
            };
            let checked = self.vouchers.check_life(&life);
            match checked {
                Ok(()) => self.vouchers.keep(life),
                // whoever has lost a signature says so
                Err(Offence::SpeaksForOthers) if *signature == Signature::default() => {}
                Err(what @ Offence::SpeaksForOthers) => blame = Some((teller, what)),
                Err(what @ Offence::AheadOfClock) => blame = Some((life.contact.node, what)),
            }
            checked.is_ok()
        });
        let believed = believed.map(|(update, _)| update.clone()).collect();
        (believed, blame)
    }

    /// Goes on at another address.
    pub(super) fn move_to(&mut self, now: Instant, address: SocketAddr) {
        if let Some(next) = self.engine.identity().moved_to(address) {
            self.become_life(now, next);
        }
    }

    /// Holds this life for over without telling others: they hear it in another way.
    pub(super) fn take_as_down(&mut self, now: Instant, life: Contact) {
        let over = Update::new(Life(life), 0, State::Down);
        let _ = self
            .engine
            .apply_many(std::iter::once(over), false, &mut self.runtime);
        self.drain(now);
    }

    /// All that is known of those that are not `left_out`, for another member to merge.
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

    /// Takes another member's list in; false where it is not one. Lives in it that their nodes did
    /// not sign are passed over.
    pub(super) fn merge(
        &mut self,
        now: Instant,
        mut list: &[u8],
        is_member: impl Fn(&NodeId) -> bool,
        counters: &mut Counters,
    ) -> bool {
        if list.len() > MEMBER_LIST_MAX_BYTES {
            return false;
        }
        let mut signed = Vec::new();
        while !list.is_empty() {
            let Some(update) = decode_signed(&mut list) else {
                return false;
            };
            signed.push(update);
        }
        // a node that is remembered at no address was never heard by who tells of it
        signed.retain(|(update, _)| is_reachable(update.id().0) && is_member(&update.id().0.node));
        // who told of them is not known here
        let (mut updates, _) = self.believed(NodeId::new([0; 32]), &signed);
        let me = self.engine.identity().0;
        if let Some(later) = self.later_self(&updates) {
            let may = self.take_renewal(now);
            counters.too_many_renewals += u64::from(!may);
            self.go_on_after(now, later, may);
        }
        updates.retain(|update| update.id().0.node != me.node && is_reachable(update.id().0));
        if !self.has_room(&updates) {
            counters.too_many_members += 1;
            return true;
        }
        let _ = self
            .engine
            .apply_many(updates.into_iter(), true, &mut self.runtime);
        self.drain(now);
        true
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first_due()
    }

    /// Lets the engine's timers run out.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.timers.excuse_pause(now);
        while let Some(timer) = self.timers.take_due(now) {
            if let Some(until) = self.puts_off(now, &timer) {
                self.timers.insert(until, timer);
                continue;
            }
            let _ = self.engine.handle_timer(timer, &mut self.runtime);
            self.drain(now);
        }
    }

    /// Until when the end of a suspect is put off, where this timer is to bring it.
    fn puts_off(&mut self, now: Instant, timer: &Timer<Life>) -> Option<Instant> {
        let Timer::ChangeSuspectToDown {
            member_id: Life(suspect),
            incarnation,
            ..
        } = timer
        else {
            return None;
        };
        let as_told = (*suspect, *incarnation, State::Suspect);
        let is_it = |it: &Update| (it.id().0, it.incarnation(), it.state()) == as_told;
        let is_suspect = self.engine.iter_membership_state().any(is_it);
        let node = is_suspect.then_some(suspect.node)?;
        let until = self.answers.put_off(&node, *incarnation, now)?;
        self.confront(now, *suspect, *incarnation);
        Some(until)
    }

    /// Tells a suspect that it is one, and asks it for a word: by that it contradicts.
    fn confront(&mut self, now: Instant, suspect: Contact, incarnation: Incarnation) {
        let header = Header {
            src: *self.engine.identity(),
            // what it knows of this node is as late, or later
            src_incarnation: Incarnation::default(),
            dst: Life(suspect),
            message: foca::Message::Gossip,
        };
        let suspicion = Update::new(Life(suspect), incarnation, State::Suspect);
        let told = encode(&header, &[suspicion], &self.vouchers);
        self.sends.push_back((suspect, told.into()));
        self.announce(now, suspect);
    }

    /// The next packet to send.
    pub(super) fn poll_send(&mut self) -> Option<(Contact, Bytes)> {
        self.sends.pop_front()
    }

    /// The next thing that changed.
    pub(super) fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    fn become_life(&mut self, now: Instant, next: Life) {
        if self.engine.change_identity(next, &mut self.runtime).is_ok() {
            self.changes.push_back(Change::Renewed(next.0));
            self.reconnect();
        }
        self.drain(now);
    }

    /// The engine stops its timers when it changes its identity, until it hears a packet.
    fn reconnect(&mut self) {
        let _ = self
            .engine
            .apply_many(std::iter::empty(), true, &mut self.runtime);
    }

    /// Whether the table can hold all that these updates name.
    fn has_room(&self, updates: &[Update]) -> bool {
        let held = self.engine.iter_membership_state().len();
        if held + updates.len() < MEMBERS_MAX {
            return true;
        }
        let new = updates
            .iter()
            .filter(|u| self.generation_of(&u.id().0.node).is_none())
            .count();
        held + new < MEMBERS_MAX
    }

    fn measure(&mut self, now: Instant, header: &Header) {
        if let foca::Message::Ack(number) = header.message {
            self.answers.answered(header.src.0.node, number, now);
        }
    }

    /// Takes what the engine asked for out of its runtime.
    fn drain(&mut self, now: Instant) {
        while self.runtime.backlog() > 0 {
            while let Some((after, timer)) = self.runtime.to_schedule() {
                if let Timer::ChangeSuspectToDown {
                    member_id,
                    incarnation,
                    ..
                } = &timer
                {
                    let node = member_id.0.node;
                    self.answers.suspect(node, *incarnation, now);
                }
                self.timers.insert(now + after, timer);
            }
            while let Some(note) = self.runtime.to_notify() {
                self.note(note);
            }
            while let Some((to, data)) = self.runtime.to_send() {
                self.queue(now, to.0, data);
            }
        }
        self.tune();
    }

    fn queue(&mut self, now: Instant, to: Contact, data: Bytes) {
        let header: Result<Header, _> = PostcardCodec.decode_header(&data[..]);
        match header.map(|header| header.message) {
            Ok(foca::Message::Ping(number)) => {
                self.answers.probed(to.node, number, now);
            }
            // foca 2.0 tells a suspect that it is down when its time is over, also where it has
            // contradicted meanwhile; that would make it begin a new life for nothing
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

    fn note(&mut self, note: OwnedNotification<Life>) {
        match note {
            OwnedNotification::MemberUp(life) => self.note_up(life.0),
            OwnedNotification::Rename(_, life) if self.live.contains_key(&life.0.node) => {
                self.note_up(life.0);
            }
            OwnedNotification::MemberDown(life) => {
                if let Some(contact) = self.live.remove(&life.0.node) {
                    self.answers.forget(&contact.node);
                    self.changes.push_back(Change::Down(contact));
                }
            }
            OwnedNotification::Rejoin(life) => {
                self.changes.push_back(Change::Renewed(life.0));
                self.reconnect();
            }
            _ => {}
        }
    }

    fn note_up(&mut self, contact: Contact) {
        if contact.node == self.engine.identity().0.node {
            return;
        }
        if self.live.insert(contact.node, contact) != Some(contact) {
            self.changes.push_back(Change::Up(contact));
        }
    }

    /// Suspicion and the repetition of news grow with the logarithm of the cluster's size.
    fn tune(&mut self) {
        let size = (self.live.len() + 1).next_power_of_two();
        if size == self.tuned_for {
            return;
        }
        self.tuned_for = size;
        let decades = (size as f64).log10();
        let mut config = self.base.clone();
        config.suspect_to_down_after = self.patience().mul_f64(decades.max(1.0));
        config.max_transmissions =
            NonZeroU8::new((4.0 * decades) as u8).map_or(SENDS_MIN, |n| n.max(SENDS_MIN));
        let _ = self.engine.set_config(config);
    }
}

#[cfg(test)]
mod tests;
