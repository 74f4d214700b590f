//! The legacy peers' discovery protocol as a machine: who is there, who is answered when, who is
//! asked for what.
//!
//! Owns the members (configured, gossiped, heard), the schedule of their lists, the answers that
//! wait for their time, and the questions of this node. Pure: it is handed datagrams, results and
//! the time, and gives what to send, what to try and when to wake it. It opens nothing, moves no
//! file, and knows of files only what the handed-in `offers` says. A datagram that breaks a rule
//! changes nothing but a counter; every table here has a named limit.

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

use crate::wire::discovery::{Datagram, MemberName, Name, encode_file, encode_get, encode_lists};

pub use answering::ANSWERS_MAX;
pub use asking::{
    ASKS_BURST, ASKS_MAX, ASKS_PER_S, Absence, LATE_MAX, NEGATIVE, Patience, TRIES_AT_ONE_MAX,
    TRIES_MAX,
};
pub use offence::{OFFENDERS_MAX, Offence};
pub use probes::is_probe;
pub use rate::{BURST, MEMBER_BURST, MEMBER_PER_S, PER_S};
pub use roster::{CANDIDATE_TRIES, CANDIDATES_MAX, MEMBERS_MAX};

use answering::Answers;
use asking::Asks;
use offence::Offenders;
use rate::Rates;
use roster::Roster;

/// Things to be done that the owner has not taken yet; further ones are dropped, and the protocol
/// repeats what matters.
const OUTBOX_MAX: usize = 4096;

/// The times of the protocol, as `[legacy]` of the configuration sets them.
#[derive(Clone, Debug)]
pub struct LegacyConfig {
    /// Where the others reach this node, TCP and UDP alike; their lists get this text.
    pub own: SocketAddrV4,
    /// Members to begin with; never forgotten.
    pub members: Vec<MemberName>,
    /// How often the list is sent.
    pub period: Duration,
    /// How long a question is open in all.
    pub waiting: Duration,
    /// How long a lookup waits for its answer.
    pub lookup: Duration,
    /// How long an asker that never answered us waits for ours.
    pub responder_delay: Duration,
}

/// What the state machine wants its owner to know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyEvent {
    /// Find the address of a host's name, and say it with [`LegacyMachine::handle_resolved`].
    Resolve(MemberName),
    /// Ask this address by TCP for the file, and say the outcome with [`LegacyMachine::tried`].
    Try {
        /// Which file.
        name: Name,
        /// Who said that it has one.
        peer: SocketAddrV4,
        /// Where it serves.
        at: SocketAddrV4,
    },
    /// The lookup of a name is over without an answer; one may come yet.
    LookupOver(Name),
    /// The lookup of a name is over, and who answered had no turn in time: nothing is said of it.
    LookupBusy(Name),
    /// The question is over without an answer.
    AskOver(Name),
    /// A member is heard.
    MemberUp(SocketAddrV4),
    /// A member has been silent for too long.
    MemberDown(SocketAddrV4),
    /// Somebody breaks the rules, and it is time to say so.
    Offended(SocketAddrV4, Offence),
}

/// One member, as `p2pfs peers` shows it, or an address that broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyMember {
    /// Where it is.
    pub address: SocketAddrV4,
    /// Whether it was heard lately; the others are only configured, or no members.
    pub heard: bool,
    /// Whether it has answered us, and so is answered at once.
    pub priority: bool,
    /// How often it broke the rules.
    pub offences: u64,
    /// In which way the last time.
    pub last_offence: Option<Offence>,
}

/// What came and was not used, and what was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyCounters {
    /// No message, or one that says nothing.
    pub malformed: u64,
    /// Over the rate of its sender.
    pub flooding: u64,
    /// Our own messages, come back.
    pub echoes: u64,
    /// Entries of lists that are no members.
    pub garbage_entries: u64,
    /// Members, candidates, answers or questions for which there was no room.
    pub overflow: u64,
    /// `File` answers to nothing asked, or from one that was not asked.
    pub stray_answers: u64,
    /// Answers given.
    pub answered: u64,
}

impl LegacyCounters {
    /// Datagrams that were of no use, for whatever reason.
    pub fn dropped(&self) -> u64 {
        let refused = self.malformed + self.flooding + self.overflow;
        refused + self.echoes + self.stray_answers
    }
}

/// Tells whether a file of that name could be delivered right now.
pub type Offers<'a> = &'a dyn Fn(&Name) -> bool;

/// Tells whether an address is one of this node's own.
pub type IsOwn = Box<dyn Fn(SocketAddrV4) -> bool + Send>;

/// The state machine.
pub struct LegacyMachine {
    config: LegacyConfig,
    is_own: IsOwn,
    roster: Roster,
    answers: Answers,
    /// What strangers asked for and is not here: it may be when they would be answered.
    hopes: Answers,
    asks: Asks,
    rates: Rates,
    offenders: Offenders,
    next_list: Instant,
    transmits: VecDeque<(SocketAddrV4, Vec<u8>)>,
    events: VecDeque<LegacyEvent>,
    counters: LegacyCounters,
}

impl LegacyMachine {
    /// A machine that sends its first lists at once. `is_own` says which addresses are this node's.
    pub fn new(config: LegacyConfig, is_own: IsOwn, now: Instant) -> Self {
        let mut machine = Self {
            roster: Roster::new(config.period),
            answers: Answers::default(),
            hopes: Answers::default(),
            asks: Asks::new(config.lookup, config.waiting, now),
            rates: Rates::default(),
            offenders: Offenders::new(now),
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

    /// Takes a datagram.
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
            self.blame(now, from, Offence::Flood);
            return;
        }
        let Ok(message) = Datagram::decode(datagram) else {
            self.counters.malformed += 1;
            return;
        };
        match message {
            Datagram::Discover { members, garbage } => {
                if self.hear(from, now, datagram.len()) {
                    self.ask_newcomer(from);
                }
                self.counters.garbage_entries += garbage as u64;
                for member in members {
                    self.learn(&member, Some(from), now);
                }
            }
            Datagram::Get(name) => {
                self.hear(from, now, datagram.len());
                self.handle_get(from, name, now, offers);
            }
            Datagram::File { port } => self.handle_file(from, port, now, datagram.len()),
        }
    }

    /// Does what is due. `offers` is asked again for each answer, since its file may be gone.
    pub fn handle_timeout(&mut self, now: Instant, offers: Offers<'_>) {
        if self.next_list <= now {
            self.next_list = now + self.config.period;
            self.send_lists(now);
        }
        while let Some((to, name)) = self.answers.take_due(now) {
            self.answer(to, &name, offers);
        }
        while let Some((to, name)) = self.hopes.take_due(now) {
            self.answer(to, &name, offers);
        }
        for event in self.asks.handle_timeout(now) {
            self.note(event);
        }
        self.put_questions(now);
    }

    /// Says what a host's name resolved to.
    pub fn handle_resolved(&mut self, now: Instant, host: &MemberName, to: Option<SocketAddrV4>) {
        let to = to.filter(|address| !(self.is_own)(*address));
        if let Some(address) = self.roster.resolved(host, to, now) {
            // a configured member hears of us as soon as it can
            self.send_list_to(&[address]);
            self.ask_newcomer(address);
        }
    }

    /// Looks for a file. The answer comes as [`LegacyEvent::Try`]; several askers of one name are
    /// one question. Responders at `except` are passed over: they have failed the asker before.
    ///
    /// # Errors
    /// [`Absence`] where nobody is asked.
    pub fn ask(
        &mut self,
        now: Instant,
        name: &Name,
        patience: Patience,
        except: &[SocketAddrV4],
    ) -> Result<(), Absence> {
        if patience == Patience::Lookup && is_probe(name) {
            return Err(Absence::NeverAsked);
        }
        if self.roster.asked().is_empty() {
            return Err(Absence::NoMembers);
        }
        if let Some(over) = self.asks.open(now, name, patience)? {
            self.counters.overflow += 1;
            self.note(LegacyEvent::AskOver(over));
        }
        for event in self.asks.begin(now, name, except) {
            self.note(event);
        }
        self.put_questions(now);
        Ok(())
    }

    fn put_questions(&mut self, now: Instant) {
        if !self.asks.has_unput() {
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

    /// Says how a [`LegacyEvent::Try`] ended: the question is over, or the next responder's turn.
    pub fn tried(&mut self, now: Instant, name: &Name, at: SocketAddrV4, found: bool) {
        for event in self.asks.tried(now, name, at, found) {
            self.note(event);
        }
    }

    /// Says that a transfer from there broke off: whoever else has the file is tried before.
    pub fn failed(&mut self, now: Instant, name: &Name, at: SocketAddrV4) {
        self.asks.failed(now, name, at);
    }

    /// Counts what a peer did wrong by TCP; says whether it is time to tell of it.
    pub fn offended(&mut self, now: Instant, who: SocketAddrV4, what: Offence) -> bool {
        self.offenders.note(now, &who, what)
    }

    /// Whether it is time to tell of a failure that is nobody's offence.
    pub fn may_tell(&mut self, now: Instant) -> bool {
        self.offenders.may_tell(now)
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddrV4, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next thing to know or do.
    pub fn poll_event(&mut self) -> Option<LegacyEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [
            Some(self.next_list),
            self.answers.next_due(),
            self.hopes.next_due(),
            self.asks.next_due(),
        ];
        due.into_iter().flatten().min()
    }

    /// The members heard lately and the configured ones, in the order in which they were learned,
    /// then whoever else broke the rules.
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

    /// What came.
    pub fn counters(&self) -> LegacyCounters {
        self.counters
    }

    /// Whether the sender was no member before.
    fn hear(&mut self, from: SocketAddrV4, now: Instant, length_bytes: usize) -> bool {
        let has_answered = self.asks.has_answered(from);
        let is_new = self.roster.heard(from, now, length_bytes, has_answered);
        match is_new {
            Some(true) => self.note(LegacyEvent::MemberUp(from)),
            Some(false) => {}
            None => self.counters.overflow += 1,
        }
        is_new == Some(true)
    }

    /// What was asked before it was there, or could hear, it is asked now.
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
            self.note(LegacyEvent::MemberDown(silent));
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
            self.note(LegacyEvent::Resolve(host));
        }
    }

    /// Only our own address, since nothing says that anyone is there.
    fn send_list_to(&mut self, unheard: &[SocketAddrV4]) {
        for to in unheard {
            for list in encode_lists(self.config.own, &[]) {
                self.send(*to, list);
            }
        }
    }

    fn handle_get(&mut self, from: SocketAddrV4, name: Name, now: Instant, offers: Offers<'_>) {
        if !offers(&name) {
            // a folder may still be read; where there is no room for it, it is as if not asked
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

    /// Only from one that was asked: anyone else could make us dial anywhere. A member may be late.
    fn handle_file(&mut self, from: SocketAddrV4, port: u16, now: Instant, length_bytes: usize) {
        let at = SocketAddrV4::new(*from.ip(), port);
        let Some(events) = self.asks.answered(now, from, at) else {
            self.counters.stray_answers += 1;
            if self.roster.listed().all(|(member, _)| member != from) {
                self.blame(now, from, Offence::StrayAnswer);
            }
            return;
        };
        self.hear(from, now, length_bytes);
        events.into_iter().for_each(|event| self.note(event));
    }

    fn blame(&mut self, now: Instant, who: SocketAddrV4, what: Offence) {
        if self.offenders.note(now, &who, what) {
            self.note(LegacyEvent::Offended(who, what));
        }
    }

    fn send(&mut self, to: SocketAddrV4, datagram: Vec<u8>) {
        if self.transmits.len() < OUTBOX_MAX {
            self.transmits.push_back((to, datagram));
        } else {
            self.counters.overflow += 1;
        }
    }

    fn note(&mut self, event: LegacyEvent) {
        if self.events.len() < OUTBOX_MAX {
            self.events.push_back(event);
        } else {
            self.counters.overflow += 1;
        }
    }
}
