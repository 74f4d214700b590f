//! The questions of this node: one for many askers, a bounded number, each with its end.
//!
//! A question is put as soon as the pace of [`ASKS_PER_S`] lets it, in the order in which
//! they came, and its lookup lasts as long as any other's from then on. Since answers name no file,
//! each makes its sender be tried for all that it was asked: a few at a time, the oldest first.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::LegacyEvent;
use crate::wire::discovery::Name;
use p2pfs_types::bucket::TokenBucket;

/// Questions open at one time; the oldest whose lookup is over gives way.
pub const ASKS_MAX: usize = 1024;
/// Questions put at once.
pub const ASKS_BURST: u32 = 64;
/// And in the long run: a legacy peer looks through its whole folder for a name that it has not.
pub const ASKS_PER_S: u32 = 128;
/// Questions that stay open for a late answer when their lookup is over; the oldest gives way.
pub const LATE_MAX: usize = 64;
/// Responders that are tried at one time, for all questions.
pub const TRIES_MAX: usize = 64;
/// Of them at one address, so that one that says nothing leaves room for others.
pub const TRIES_AT_ONE_MAX: usize = 16;
/// Open questions that are put to somebody new.
const NEWCOMER_ASKS_MAX: usize = 4;
/// How long a name that nobody had counts as absent.
pub const NEGATIVE: Duration = Duration::from_secs(30);
/// Names that are remembered as absent.
const NEGATIVES_MAX: usize = 4096;
/// Responders that wait for their turn with one question.
const RESPONDERS_MAX: usize = 16;
/// Peers that are remembered for having answered; the first one is forgotten first.
const PRIORITY_MAX: usize = 256;
/// For how long a responder that broke a transfer off is tried after all others for that file.
const FAILED_FOR: Duration = Duration::from_secs(300);
/// Such failures that are remembered; the first one is forgotten first.
const FAILED_MAX: usize = 1024;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A program's lookup: it may end as absent, which is remembered for [`NEGATIVE`].
    Lookup,
    /// A person who waits for as long as a question is open.
    Whole,
}

/// Why nobody is asked. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absence {
    /// Asked within the last [`NEGATIVE`], and nobody had it.
    #[error("no legacy peer had it a moment ago")]
    AskedLately,
    /// A hidden name, or one that programs look for everywhere.
    #[error("legacy peers are not asked for such names")]
    NeverAsked,
    /// Nobody to ask.
    #[error("no legacy peer is known")]
    NoMembers,
    /// [`ASKS_MAX`] others wait, or so many are tried that its responder had no turn.
    #[error("too many names are being asked for: try again in a moment")]
    Busy,
}

struct Ask {
    /// When it was put, and until then when it came.
    asked_at: Instant,
    /// Whether it was put to anyone since it came.
    is_put: bool,
    /// Whether a person waits for it.
    is_persons: bool,
    lookup_ends: Instant,
    lookup_is_over: bool,
    /// The last that anyone waits for it.
    ends: Instant,
    /// Somebody gives the file. Who else answers waits for that one to fail.
    is_settled: bool,
    asked: HashSet<SocketAddrV4>,
    answered: HashSet<SocketAddrV4>,
    tried: HashSet<SocketAddrV4>,
    trying: Option<SocketAddrV4>,
    responders: VecDeque<(SocketAddrV4, SocketAddrV4)>,
    /// Those that failed lately with this file: tried when nobody else is left or comes.
    doubtful: VecDeque<(SocketAddrV4, SocketAddrV4)>,
}

struct Failed {
    name: Name,
    at: SocketAddrV4,
    until: Instant,
}

/// The responders that are being tried.
#[derive(Default)]
struct Running {
    all: usize,
    at: HashMap<SocketAddrV4, usize>,
}

pub(super) struct Asks {
    lookup: Duration,
    waiting: Duration,
    open: BTreeMap<Name, Ask>,
    /// Those that are still to be put, the first one first.
    unput: VecDeque<Name>,
    pace: TokenBucket,
    absent_until: HashMap<Name, Instant>,
    /// Who answered a question of ours first, in order; they are answered at once.
    priority: VecDeque<SocketAddrV4>,
    failed: VecDeque<Failed>,
}

impl Asks {
    pub(super) fn new(lookup: Duration, waiting: Duration, now: Instant) -> Self {
        Self {
            lookup,
            waiting: waiting.max(lookup),
            open: BTreeMap::new(),
            unput: VecDeque::new(),
            pace: TokenBucket::per_second(ASKS_PER_S, ASKS_BURST, now),
            absent_until: HashMap::new(),
            priority: VecDeque::new(),
            failed: VecDeque::new(),
        }
    }

    /// Opens a question or joins an open one; says which one gave way.
    pub(super) fn open(
        &mut self,
        now: Instant,
        name: &Name,
        patience: Patience,
    ) -> Result<Option<Name>, Absence> {
        let is_absent = self
            .absent_until
            .get(name)
            .is_some_and(|until| *until > now);
        if patience == Patience::Lookup && is_absent {
            return Err(Absence::AskedLately);
        }
        let (ends, is_persons) = (now + self.waiting, patience == Patience::Whole);
        if let Some(ask) = self.open.get_mut(name) {
            ask.is_persons |= is_persons;
            if ask.lookup_is_over || is_persons {
                ask.ends = ends;
            }
            if ask.lookup_is_over {
                ask.renew(now);
                self.unput.push_back(name.clone());
            }
            return Ok(None);
        }
        let gave_way = self.make_room()?;
        let mut ask = Ask::new(now, ends);
        ask.is_persons = is_persons;
        self.open.insert(name.clone(), ask);
        self.unput.push_back(name.clone());
        Ok(gave_way)
    }

    fn make_room(&mut self) -> Result<Option<Name>, Absence> {
        if self.open.len() < ASKS_MAX {
            return Ok(None);
        }
        let over = self.open.iter().filter(|(_, ask)| ask.is_late());
        let oldest = over.min_by_key(|(_, ask)| ask.worth());
        let oldest = oldest.map(|(name, _)| name.clone()).ok_or(Absence::Busy)?;
        let gone = self.open.remove(&oldest);
        // nobody waits for a settled one
        Ok(gone.filter(|ask| !ask.is_settled).map(|_| oldest))
    }

    /// Whether a question waits to be put.
    pub(super) fn has_unput(&self) -> bool {
        !self.unput.is_empty()
    }

    /// The next question, where the pace allows one: it is put to these from now on.
    pub(super) fn put_next(&mut self, now: Instant, asked: &[SocketAddrV4]) -> Option<Name> {
        loop {
            let next = self.unput.front()?;
            // one that ended, or gave way, meanwhile
            let Some(ask) = self.open.get_mut(next).filter(|ask| !ask.is_put) else {
                self.unput.pop_front();
                continue;
            };
            if !self.pace.take(1, now) {
                return None;
            }
            ask.is_put = true;
            ask.asked_at = now;
            ask.lookup_ends = now + self.lookup;
            ask.asked.extend(asked);
            return self.unput.pop_front();
        }
    }

    /// Somebody new is there: the latest open questions, to be put to them too. Not all: whoever
    /// forges a sender's address could have that one asked a lot.
    pub(super) fn put_to(&mut self, member: SocketAddrV4) -> Vec<Name> {
        let open = self.open.iter_mut();
        let open = open.filter(|(_, ask)| ask.is_put && !ask.is_settled);
        let mut open: Vec<_> = open.collect();
        open.sort_by_key(|(_, ask)| std::cmp::Reverse(ask.asked_at));
        open.into_iter()
            .take(NEWCOMER_ASKS_MAX)
            .map(|(name, ask)| {
                ask.asked.insert(member);
                name.clone()
            })
            .collect()
    }

    /// Takes some responders for tried already, and gives the turn to one that waited.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        name: &Name,
        except: &[SocketAddrV4],
    ) -> Vec<LegacyEvent> {
        if let Some(ask) = self.open.get_mut(name) {
            ask.tried.extend(except);
            ask.responders.retain(|(_, at)| !except.contains(at));
        }
        self.next_tries(now)
    }

    /// Gives their turn to as many responders as there is room for, the oldest question first.
    fn next_tries(&mut self, now: Instant) -> Vec<LegacyEvent> {
        let mut running = Running::default();
        for at in self.open.values().filter_map(|ask| ask.trying) {
            running.enter(at);
        }
        let waiting = self.open.iter_mut();
        let mut waiting: Vec<_> = waiting.filter(|(_, ask)| ask.has_responders()).collect();
        waiting.sort_by_key(|(_, ask)| ask.asked_at);
        let tries = waiting.into_iter();
        tries
            .filter_map(|(name, ask)| ask.next_try(name, now, &mut running))
            .collect()
    }

    /// A transfer of the file from there failed: whoever else has it is tried before.
    pub(super) fn failed(&mut self, now: Instant, name: &Name, at: SocketAddrV4) {
        self.failed.retain(|failed| failed.until > now);
        if self.failed.len() == FAILED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back(Failed {
            name: name.clone(),
            at,
            until: now + FAILED_FOR,
        });
    }

    /// Whether a question waits for the answer of this peer: one for each is no flood.
    pub(super) fn await_answer_of(&self, from: SocketAddrV4) -> bool {
        let mut open = self.open.values();
        open.any(|ask| ask.asked.contains(&from) && !ask.answered.contains(&from))
    }

    /// A `File` answer came. None where the sender was asked for nothing that is open. It names no
    /// file, so the sender is tried for each question that it was asked.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        at: SocketAddrV4,
    ) -> Option<Vec<LegacyEvent>> {
        let (mut was_asked, mut was_first) = (false, false);
        for (name, ask) in &mut self.open {
            if !ask.asked.contains(&from) {
                continue;
            }
            was_asked = true;
            was_first |= ask.answered.is_empty();
            ask.answered.insert(from);
            let waiting = ask.responders.len() + ask.doubtful.len();
            if !ask.tried.contains(&at) && waiting < RESPONDERS_MAX {
                ask.tried.insert(at);
                let is_doubtful = self
                    .failed
                    .iter()
                    .any(|failed| failed.at == at && failed.name == *name && failed.until > now);
                if is_doubtful {
                    ask.doubtful.push_back((from, at));
                } else {
                    ask.responders.push_back((from, at));
                }
            }
        }
        if was_first && !self.priority.contains(&from) {
            if self.priority.len() == PRIORITY_MAX {
                self.priority.pop_front();
            }
            self.priority.push_back(from);
        }
        was_asked.then(|| self.next_tries(now))
    }

    pub(super) fn tried(
        &mut self,
        now: Instant,
        name: &Name,
        at: SocketAddrV4,
        found: bool,
    ) -> Vec<LegacyEvent> {
        let Some(ask) = self.open.get_mut(name) else {
            return Vec::new();
        };
        if ask.trying != Some(at) {
            return Vec::new();
        }
        ask.trying = None;
        if found {
            ask.is_settled = true;
            ask.lookup_is_over = true;
            self.absent_until.remove(name);
        }
        self.handle_timeout(now)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<LegacyEvent> {
        let mut events = self.next_tries(now);
        let mut over = Vec::new();
        for (name, ask) in &mut self.open {
            // a responder that is being tried has its own deadline
            if ask.trying.is_some() {
                continue;
            }
            if !ask.lookup_is_over && ask.is_put && ask.lookup_ends <= now {
                ask.lookup_is_over = true;
                if ask.has_responders() {
                    events.push(LegacyEvent::LookupBusy(name.clone()));
                } else {
                    events.push(LegacyEvent::LookupOver(name.clone()));
                    over.push(name.clone());
                }
            }
            if ask.ends <= now && !ask.is_settled {
                events.push(LegacyEvent::AskOver(name.clone()));
            }
        }
        over.into_iter()
            .for_each(|name| self.note_absence(name, now));
        self.open
            .retain(|_, ask| ask.trying.is_some() || ask.ends > now);
        events.extend(self.drop_late());
        events
    }

    /// Those that were over first are open no more.
    fn drop_late(&mut self) -> Vec<LegacyEvent> {
        let late = self.open.iter().filter(|(_, ask)| ask.is_late());
        let mut late: Vec<_> = late.map(|(name, ask)| (ask.worth(), name)).collect();
        late.sort_unstable();
        let surplus = late.len().saturating_sub(LATE_MAX);
        let gone: Vec<Name> = late[..surplus]
            .iter()
            .map(|(_, name)| (*name).clone())
            .collect();
        let gone = gone.into_iter().filter(|name| {
            let ask = self.open.remove(name);
            ask.is_some_and(|ask| !ask.is_settled)
        });
        gone.map(LegacyEvent::AskOver).collect()
    }

    /// Where a transfer failed lately somebody has it: nobody is to be told otherwise.
    fn note_absence(&mut self, name: Name, now: Instant) {
        let has_failed = |failed: &Failed| failed.name == name && failed.until > now;
        if self.failed.iter().any(has_failed) {
            return;
        }
        if self.absent_until.len() >= NEGATIVES_MAX {
            self.absent_until.retain(|_, until| *until > now);
        }
        if self.absent_until.len() < NEGATIVES_MAX {
            self.absent_until.insert(name, now + NEGATIVE);
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.open.values().filter(|ask| ask.trying.is_none());
        let ends = waiting.map(|ask| {
            if ask.lookup_is_over || !ask.is_put {
                ask.ends
            } else {
                ask.lookup_ends.min(ask.ends)
            }
        });
        let next_put = self.has_unput().then(|| self.pace.ready_at());
        ends.chain(next_put).min()
    }

    /// Whether this peer has answered a question of ours.
    pub(super) fn has_answered(&self, peer: SocketAddrV4) -> bool {
        self.priority.contains(&peer)
    }
}

impl Running {
    fn enter(&mut self, at: SocketAddrV4) {
        self.all += 1;
        *self.at.entry(at).or_default() += 1;
    }

    fn has_room(&self, at: SocketAddrV4) -> bool {
        let here = self.at.get(&at).copied().unwrap_or(0);
        self.all < TRIES_MAX && here < TRIES_AT_ONE_MAX
    }
}

impl Ask {
    fn new(now: Instant, ends: Instant) -> Self {
        Self {
            asked_at: now,
            is_put: false,
            is_persons: false,
            lookup_ends: now,
            lookup_is_over: false,
            ends,
            is_settled: false,
            asked: HashSet::new(),
            answered: HashSet::new(),
            tried: HashSet::new(),
            trying: None,
            responders: VecDeque::new(),
            doubtful: VecDeque::new(),
        }
    }

    /// To be put once more. Responders that waited while another gave the file have their turn now.
    fn renew(&mut self, now: Instant) {
        self.asked_at = now;
        self.is_put = false;
        self.lookup_is_over = false;
        self.is_settled = false;
        self.answered.clear();
        self.doubtful.clear();
        self.tried = self.responders.iter().map(|(_, at)| *at).collect();
    }

    /// Whether it is open only for a late answer.
    fn is_late(&self) -> bool {
        self.lookup_is_over && self.trying.is_none()
    }

    /// What gives way first is least.
    fn worth(&self) -> (bool, bool, Instant) {
        (!self.is_settled, self.is_persons, self.asked_at)
    }

    fn has_responders(&self) -> bool {
        !self.responders.is_empty() || !self.doubtful.is_empty()
    }

    /// The next responder's turn; that of a doubtful one when no other is left to wait for.
    fn next_try(
        &mut self,
        name: &Name,
        now: Instant,
        running: &mut Running,
    ) -> Option<LegacyEvent> {
        if self.trying.is_some() || self.is_settled {
            return None;
        }
        let is_last =
            (self.is_put && self.lookup_ends <= now) || self.answered.is_superset(&self.asked);
        let turn = match self.responders.is_empty() {
            false => &mut self.responders,
            true if is_last => &mut self.doubtful,
            true => return None,
        };
        let place = turn.iter().position(|(_, at)| running.has_room(*at))?;
        let (peer, at) = turn.remove(place)?;
        running.enter(at);
        self.trying = Some(at);
        Some(LegacyEvent::Try {
            name: name.clone(),
            peer,
            at,
        })
    }
}

#[cfg(test)]
mod tests;
