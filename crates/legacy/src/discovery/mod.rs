//! The legacy peers' discovery protocol as a state machine: membership, questions and answers.
//!
//! [`LegacyMachine`] has the members (configured, learned from lists, or heard from), the schedule
//! of the lists that it sends to them, the delayed answers to peers, and the open questions of this
//! node. A question asks the members for one file name. The machine is pure: it receives datagrams,
//! results of transfers and the time, and returns the datagrams to send, the transfers to try and
//! its next deadline. It opens no socket and moves no file. A callback, [`Offers`], tells it which
//! files this node can deliver. A datagram that breaks a rule changes only the counters and the
//! record of offences. Every table has a named limit.

mod absent;
pub mod answering;
pub mod asking;
mod offence;
mod probes;
pub mod rate;
pub mod roster;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::IsOwn;
use crate::wire::discovery::{Datagram, MemberName, Name, encode_file, encode_get, encode_lists};

pub(crate) use absent::AbsentNames;
pub use answering::ANSWERS_MAX;
pub use asking::{
    ASKS_BURST, ASKS_MAX, ASKS_PER_S, Absence, LATE_MAX, NEGATIVE, Patience, Requester,
    TRIES_AT_ONE_MAX, TRIES_MAX,
};
pub use offence::{DiscoveryOffence, OFFENDERS_MAX};
pub use probes::is_probe;
pub use rate::{BURST, MEMBER_BURST, MEMBER_PER_S, PER_S};
pub use roster::{CANDIDATE_TRIES, CANDIDATES_MAX, MEMBERS_MAX};

use answering::DelayedAnswers;
use asking::OpenQuestions;
use offence::DiscoveryOffenders;
use rate::SenderRates;
use roster::MemberRoster;

/// Maximum datagrams that wait for [`LegacyMachine::poll_transmit`], and maximum events that wait
/// for [`LegacyMachine::poll_event`]. Further ones are dropped. Lists are sent again in the next
/// period.
const OUTBOX_MAX: usize = 4096;

/// Configuration of the protocol, from `[legacy]` of the configuration file.
#[derive(Clone, Debug)]
pub struct LegacyConfig {
    /// Address at which peers reach this node by TCP and UDP. This node sends it in its lists.
    pub own: SocketAddrV4,
    /// Initial members; never forgotten.
    pub members: Vec<MemberName>,
    /// Interval between two lists to a member.
    pub period: Duration,
    /// How long a question stays open for answers, if longer than [`Self::lookup`].
    pub waiting: Duration,
    /// How long the lookup of a program waits for an answer after its question is sent.
    pub lookup: Duration,
    /// Delay of this node's answer to a peer that was never the first to answer a question of this
    /// node.
    pub responder_delay: Duration,
}

/// An event or a request of the state machine to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyEvent {
    /// Request: resolve the host name and pass the address to [`LegacyMachine::handle_resolved`].
    Resolve(MemberName),
    /// Request: fetch the file from this address by TCP and report the result to
    /// [`LegacyMachine::tried`].
    Try {
        /// Name of the file.
        name: Name,
        /// Peer that answered.
        peer: SocketAddrV4,
        /// Address where it serves the file.
        at: SocketAddrV4,
    },
    /// The lookup of a name ended, and no responder delivered the file. A late answer may still
    /// arrive.
    LookupOver(Name),
    /// The lookup of a name ended before all its responders were tried, so the result is unknown.
    LookupBusy(Name),
    /// The question ended, and no responder delivered the file.
    AskOver(Name),
    /// The first message of a new member arrived.
    MemberUp(SocketAddrV4),
    /// A member was silent for too long.
    MemberDown(SocketAddrV4),
    /// A peer breaks the rules, and a report of it is due.
    Offended(SocketAddrV4, DiscoveryOffence),
}

/// A member as `p2pfs peers` shows it, or an address that broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyMember {
    /// Address of the member.
    pub address: SocketAddrV4,
    /// Whether it is a member that was heard recently. If not, it is a configured member, or an
    /// address that broke the rules.
    pub heard: bool,
    /// Whether it was first to answer one of this node's questions. This node then answers its
    /// questions without delay.
    pub priority: bool,
    /// Number of its offences.
    pub offences: u64,
    /// Its last offence.
    pub last_offence: Option<DiscoveryOffence>,
}

/// Counters of dropped input and of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyCounters {
    /// Datagrams that are not a valid message, or came from an IPv6 address.
    pub malformed: u64,
    /// Datagrams above the rate of their sender.
    pub flooding: u64,
    /// This node's own datagrams that returned to it.
    pub echoes: u64,
    /// Entries of received lists that are invalid, or too many for one list.
    pub garbage_entries: u64,
    /// Members, candidates, delayed answers, questions, datagrams to send and events that were
    /// dropped because their table was full.
    pub overflow: u64,
    /// `File` answers from peers that were not asked any open question.
    pub stray_answers: u64,
    /// Answers sent.
    pub answered: u64,
}

impl LegacyCounters {
    /// Returns the sum of all counters except the garbage entries and the answers.
    pub fn dropped(&self) -> u64 {
        let refused = self.malformed + self.flooding + self.overflow;
        refused + self.echoes + self.stray_answers
    }
}

/// Callback that returns whether this node could deliver a file of that name now.
pub type Offers<'a> = &'a dyn Fn(&Name) -> bool;

/// The state machine of the discovery protocol.
pub struct LegacyMachine {
    config: LegacyConfig,
    is_own: IsOwn,
    roster: MemberRoster,
    answers: DelayedAnswers,
    /// Requests of peers for files that this node did not offer. It checks each once more after
    /// [`LegacyConfig::responder_delay`].
    hopes: DelayedAnswers,
    asks: OpenQuestions,
    rates: SenderRates,
    offenders: DiscoveryOffenders,
    next_list: Instant,
    transmits: VecDeque<(SocketAddrV4, Vec<u8>)>,
    events: VecDeque<LegacyEvent>,
    counters: LegacyCounters,
}

impl LegacyMachine {
    /// Creates a machine that sends its first lists at once. `is_own` tells which addresses belong
    /// to this node.
    pub fn new(config: LegacyConfig, is_own: IsOwn, now: Instant) -> Self {
        let mut machine = Self {
            roster: MemberRoster::new(config.period),
            answers: DelayedAnswers::default(),
            hopes: DelayedAnswers::default(),
            asks: OpenQuestions::new(config.lookup, config.waiting, now),
            rates: SenderRates::default(),
            offenders: DiscoveryOffenders::new(now),
            next_list: now,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: LegacyCounters::default(),
            is_own,
            config,
        };
        for member in machine.config.members.clone() {
            machine.learn(&member, None, now);
        }
        machine
    }

    /// Processes a datagram.
    pub fn handle_message(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        offers: Offers<'_>,
    ) {
        let SocketAddr::V4(from) = from else {
            self.counters.malformed += 1;
            return;
        };
        if (self.is_own)(from) {
            self.counters.echoes += 1;
            return;
        }
        let is_awaited = datagram.starts_with(b"File,") && self.asks.await_answer_of(from);
        let is_member = self.roster.is_heard(from);
        if !is_awaited && !self.rates.admit(from, is_member, now) {
            self.counters.flooding += 1;
            self.blame(now, from, DiscoveryOffence::Flood);
            return;
        }
        let Ok(message) = Datagram::decode(datagram) else {
            self.counters.malformed += 1;
            return;
        };
        match message {
            Datagram::Discover { members, garbage } => {
                if self.record_message(from, now, datagram.len()) {
                    self.ask_newcomer(from);
                }
                self.counters.garbage_entries += garbage as u64;
                for member in members {
                    self.learn(&member, Some(from), now);
                }
            }
            Datagram::Get(name) => {
                self.record_message(from, now, datagram.len());
                self.handle_get(from, name, now, offers);
            }
            Datagram::File { port } => self.handle_file(from, port, now, datagram.len()),
        }
    }

    /// Runs everything that is due. Calls `offers` again for each delayed answer, because the file
    /// may be gone.
    pub fn handle_timeout(&mut self, now: Instant, offers: Offers<'_>) {
        if self.next_list <= now {
            self.next_list = now + self.config.period;
            self.send_lists(now);
        }
        while let Some((to, name)) =
            (self.answers.take_due(now)).or_else(|| self.hopes.take_due(now))
        {
            self.answer(to, &name, offers);
        }
        for event in self.asks.handle_timeout(now) {
            self.push_event(event);
        }
        self.put_questions(now);
    }

    /// Applies the result of a [`LegacyEvent::Resolve`]: the address of the host name, if it has
    /// one.
    pub fn handle_resolved(&mut self, now: Instant, host: &MemberName, to: Option<SocketAddrV4>) {
        let to = to.filter(|address| !(self.is_own)(*address));
        if let Some(address) = self.roster.resolved(host, to, now) {
            // tell a configured member about this node as early as possible
            self.send_list_to(&[address]);
            self.ask_newcomer(address);
        }
    }

    /// Looks up a file. Peers that answer are tried one after the other ([`LegacyEvent::Try`])
    /// until one delivers the file. Several requesters of one name share a question. Responders at
    /// an address in `except` are skipped, because their transfers already failed.
    ///
    /// # Errors
    /// [`Absence`] if no peer is asked.
    pub fn ask(
        &mut self,
        now: Instant,
        name: &Name,
        requester: Requester,
        except: &[SocketAddrV4],
    ) -> Result<(), Absence> {
        if requester.patience == Patience::Lookup && is_probe(name) {
            return Err(Absence::NeverAsked);
        }
        if !self.has_peers() {
            return Err(Absence::NoMembers);
        }
        if let Some(over) = self.asks.open(now, name, requester)? {
            self.counters.overflow += 1;
            self.push_event(LegacyEvent::AskOver(over));
        }
        for event in self.asks.begin(now, name, except) {
            self.push_event(event);
        }
        self.put_questions(now);
        Ok(())
    }

    fn put_questions(&mut self, now: Instant) {
        if !self.asks.has_unsent() {
            return;
        }
        let asked = self.roster.asked();
        while let Some(name) = self.asks.put_next(now, &asked) {
            let question = encode_get(&name);
            for to in &asked {
                self.put_question(*to, question.clone());
            }
        }
    }

    fn put_question(&mut self, to: SocketAddrV4, question: Vec<u8>) {
        let is_answering = self.asks.has_answered(to);
        if is_answering || self.roster.may_be_asked(to, question.len()) {
            self.send(to, question);
        }
    }

    /// Applies the result of a [`LegacyEvent::Try`]. If the file was not found, the next responder
    /// is tried.
    pub fn tried(&mut self, now: Instant, name: &Name, at: SocketAddrV4, found: bool) {
        for event in self.asks.tried(now, name, at, found) {
            self.push_event(event);
        }
    }

    /// Records that the transfer of a file from `at` broke off. For some time, a question for that
    /// name tries all other responders before `at`.
    pub fn failed(&mut self, now: Instant, name: &Name, at: SocketAddrV4) {
        self.asks.failed(now, name, at);
    }

    /// Counts an offence that a peer committed in a TCP transfer. Returns whether a report of it is
    /// due.
    pub fn offended(&mut self, now: Instant, who: SocketAddrV4, what: DiscoveryOffence) -> bool {
        self.offenders.record(now, &who, what)
    }

    /// Returns whether a failure that is not an offence may be reported now. Such reports share the
    /// rate of the reports about offences.
    pub fn may_tell(&mut self, now: Instant) -> bool {
        self.offenders.may_tell(now)
    }

    /// Returns the next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddrV4, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<LegacyEvent> {
        self.events.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Instant {
        let due = [
            self.answers.next_due(),
            self.hopes.next_due(),
            self.asks.next_due(),
        ];
        let due = due.into_iter().flatten().min();
        due.map_or(self.next_list, |due| due.min(self.next_list))
    }

    /// Returns the names that no peer had lately. The state is shared.
    pub(crate) fn absent_names(&self) -> AbsentNames {
        self.asks.absent_names()
    }

    /// Returns the members in the order in which they were first heard, then the configured members
    /// that were not heard, then the other addresses that broke the rules.
    pub fn members(&self) -> Vec<LegacyMember> {
        let mut listed: Vec<(SocketAddrV4, bool)> = self.roster.listed().collect();
        let is_new = |who: &SocketAddrV4| listed.iter().all(|(address, _)| address != who);
        let others: Vec<SocketAddrV4> = self
            .offenders
            .all()
            .map(|(who, ..)| *who)
            .filter(is_new)
            .collect();
        listed.extend(others.into_iter().map(|address| (address, false)));
        let member = |(address, heard)| {
            let offences = self.offenders.of(&address);
            LegacyMember {
                address,
                heard,
                priority: self.asks.has_answered(address),
                offences: offences.map_or(0, |(count, _)| count),
                last_offence: offences.map(|(_, last)| last),
            }
        };
        listed.into_iter().map(member).collect()
    }

    /// Returns whether a peer is known that can be asked.
    pub fn has_peers(&self) -> bool {
        self.roster.has_asked()
    }

    /// Returns the counters.
    pub fn counters(&self) -> LegacyCounters {
        self.counters
    }

    /// Records a message from a peer. Returns whether the peer became a member by it.
    fn record_message(&mut self, from: SocketAddrV4, now: Instant, length_bytes: usize) -> bool {
        let has_answered = self.asks.has_answered(from);
        let is_new = self
            .roster
            .record_message(from, now, length_bytes, has_answered);
        match is_new {
            Some(true) => self.push_event(LegacyEvent::MemberUp(from)),
            Some(false) => {}
            None => self.counters.overflow += 1,
        }
        is_new == Some(true)
    }

    /// Sends the latest open questions to a new member, or to a configured one whose host name was
    /// just resolved.
    fn ask_newcomer(&mut self, member: SocketAddrV4) {
        for name in self.asks.put_to(member) {
            self.put_question(member, encode_get(&name));
        }
    }

    fn learn(&mut self, member: &MemberName, teller: Option<SocketAddrV4>, now: Instant) {
        if let MemberName::Address(address) = member
            && (*address == self.config.own || (self.is_own)(*address))
        {
            return;
        }
        if !self.roster.learn(member, teller, now) {
            self.counters.overflow += 1;
        }
    }

    fn send_lists(&mut self, now: Instant) {
        for silent in self.roster.drop_silent(now) {
            self.push_event(LegacyEvent::MemberDown(silent));
        }
        let own_bytes = encode_lists(self.config.own, &[])[0].len();
        for (member, listed) in self.roster.take_lists(own_bytes) {
            for list in encode_lists(self.config.own, &listed) {
                self.send(member, list);
            }
        }
        let probed = self.roster.take_probes(now, own_bytes);
        self.send_list_to(&probed.addresses);
        for host in probed.hosts {
            self.push_event(LegacyEvent::Resolve(host));
        }
    }

    /// Sends each address a list with only this node's own address. The list names no members,
    /// because nothing proves that a peer is there.
    fn send_list_to(&mut self, unheard: &[SocketAddrV4]) {
        for to in unheard {
            for list in encode_lists(self.config.own, &[]) {
                self.send(*to, list);
            }
        }
    }

    fn handle_get(&mut self, from: SocketAddrV4, name: Name, now: Instant, offers: Offers<'_>) {
        if !offers(&name) {
            // the scan of a folder may still find the file; a full table ignores the request
            self.hopes
                .put(now + self.config.responder_delay, from, name);
            return;
        }
        if self.asks.has_answered(from) {
            self.answer(from, &name, offers);
        } else if !self
            .answers
            .put(now + self.config.responder_delay, from, name)
        {
            self.counters.overflow += 1;
        }
    }

    fn answer(&mut self, to: SocketAddrV4, name: &Name, offers: Offers<'_>) {
        if offers(name) {
            self.counters.answered += 1;
            self.send(to, encode_file(self.config.own.port()));
        }
    }

    /// Processes a `File` answer. Ignores a sender that was not asked an open question. Otherwise
    /// any datagram could make this node dial the address of its sender. Such an answer of a member
    /// may be a late one, so it is not an offence.
    fn handle_file(&mut self, from: SocketAddrV4, port: u16, now: Instant, length_bytes: usize) {
        let at = SocketAddrV4::new(*from.ip(), port);
        let Some(events) = self.asks.answered(now, from, at) else {
            self.counters.stray_answers += 1;
            if self.roster.listed().all(|(member, _)| member != from) {
                self.blame(now, from, DiscoveryOffence::StrayAnswer);
            }
            return;
        };
        self.record_message(from, now, length_bytes);
        events.into_iter().for_each(|event| self.push_event(event));
    }

    fn blame(&mut self, now: Instant, who: SocketAddrV4, what: DiscoveryOffence) {
        if self.offenders.record(now, &who, what) {
            self.push_event(LegacyEvent::Offended(who, what));
        }
    }

    fn send(&mut self, to: SocketAddrV4, datagram: Vec<u8>) {
        if self.transmits.len() < OUTBOX_MAX {
            self.transmits.push_back((to, datagram));
        } else {
            self.counters.overflow += 1;
        }
    }

    fn push_event(&mut self, event: LegacyEvent) {
        if self.events.len() < OUTBOX_MAX {
            self.events.push_back(event);
        } else {
            self.counters.overflow += 1;
        }
    }
}
