//! The questions of this node to legacy peers, each for one file name. Several requesters of one
//! name share a question; the number of questions and the lifetime of each are bounded. The
//! questions of one user always leave room for those of another.
//!
//! Questions are sent as soon as the rate of [`ASKS_PER_S`] permits: those of one user in the order
//! of arrival, and those of several users in turn. The time of a lookup begins when its question is
//! sent. An answer does not name a file. The peer that sent it, a *responder*, is therefore tried
//! for each open question that it was asked: a few tries at a time, those of several users in turn,
//! and those of one user from the oldest question on. A *try* requests the file by TCP.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::LegacyEvent;
use super::unsent::UnsentQuestions;
use crate::wire::discovery::Name;
use p2pfs_types::bucket::TokenBucket;

/// Maximum open questions. A further one evicts a question whose lookup is over. Of the questions
/// whose lookup runs, a user may have as many as there are free places: half of all if no other
/// user has any. One user therefore always leaves room for the next.
pub const ASKS_MAX: usize = 1024;
/// Maximum questions sent in one burst.
pub const ASKS_BURST: u32 = 64;
/// Maximum sustained rate of questions. A legacy peer searches its whole folder for a name that it
/// does not have.
pub const ASKS_PER_S: u32 = 128;
/// Maximum questions that stay open for a late answer after their lookup is over. Beyond it the
/// oldest is evicted, and a question of a person only if there is no other.
pub const LATE_MAX: usize = 64;
/// Maximum tries at one time, for all questions.
pub const TRIES_MAX: usize = 64;
/// Maximum tries at one time at one address. Without it, a silent address could occupy all of
/// [`TRIES_MAX`].
pub const TRIES_AT_ONE_MAX: usize = 16;
/// Maximum open questions that are sent to a new member.
const NEWCOMER_ASKS_MAX: usize = 4;
/// How long a name counts as absent after a lookup in which no peer had the file.
pub const NEGATIVE: Duration = Duration::from_secs(30);
/// Maximum names remembered as absent.
const NEGATIVES_MAX: usize = 4096;
/// Maximum responders of one question that wait to be tried.
const RESPONDERS_MAX: usize = 16;
/// Maximum peers remembered because they were first to answer a question. The oldest is forgotten
/// first.
const PRIORITY_MAX: usize = 256;
/// How long after a broken transfer its sender is tried last for that file.
const FAILED_FOR: Duration = Duration::from_secs(300);
/// Maximum remembered broken transfers. The oldest is forgotten first.
const FAILED_MAX: usize = 1024;

/// Kind of requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A program that looks up a path. If no peer has the file, further lookups of the name fail at
    /// once for [`NEGATIVE`].
    Lookup,
    /// A person, who waits for as long as the question is open.
    Whole,
}

/// A user that requests a file, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// User ID.
    pub uid: u32,
    /// How long the requester waits.
    pub patience: Patience,
}

impl Requester {
    /// Returns a program of a user that looks up a path.
    pub fn program(uid: u32) -> Self {
        Self {
            uid,
            patience: Patience::Lookup,
        }
    }

    /// Returns a person that waits for as long as the question is open.
    pub fn person(uid: u32) -> Self {
        Self {
            uid,
            patience: Patience::Whole,
        }
    }
}

/// Why no peer is asked, or why a lookup ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absence {
    /// The name was asked within the last [`NEGATIVE`] and no peer had it.
    #[error("no legacy peer had it a moment ago")]
    AskedLately,
    /// The name is hidden, or is one that programs look up everywhere.
    #[error("legacy peers are not asked for such names")]
    NeverAsked,
    /// No peer is known.
    #[error("no legacy peer is known")]
    NoMembers,
    /// The user has as many open questions as there are free places for others, or the lookup ended
    /// before all responders of the name were tried ([`LegacyEvent::LookupBusy`]).
    #[error("too many names are being asked for: try again in a moment")]
    Busy,
}

struct OpenQuestion {
    /// The user whose request opened or last renewed the question.
    uid: u32,
    /// Time when the question was sent; until then, the time of the request.
    asked_at: Instant,
    /// Whether the question was sent since it was opened or last renewed.
    is_put: bool,
    /// Users in whose queues it waits. Empty once it was sent.
    queued_for: Vec<u32>,
    /// Whether a person waits for the answer.
    is_persons: bool,
    lookup_ends: Instant,
    lookup_is_over: bool,
    /// Time when the question closes.
    ends: Instant,
    /// Whether a responder delivers the file. The other responders are kept and are tried if the
    /// file is requested again.
    is_settled: bool,
    peers: QuestionedPeers,
}

/// The peers of a question, by their progress. `asked` and `answered` have the addresses of their
/// datagrams, `tried` and `trying` the TCP addresses of their files, and responders both.
#[derive(Default)]
struct QuestionedPeers {
    asked: HashSet<SocketAddrV4>,
    answered: HashSet<SocketAddrV4>,
    tried: HashSet<SocketAddrV4>,
    trying: Option<SocketAddrV4>,
    responders: VecDeque<(SocketAddrV4, SocketAddrV4)>,
    /// Responders whose transfer of this file broke off recently. They are tried only when no other
    /// responder is left or expected.
    doubtful: VecDeque<(SocketAddrV4, SocketAddrV4)>,
}

struct FailedTry {
    name: Name,
    at: SocketAddrV4,
    until: Instant,
}

/// Numbers of running tries, in total and by address.
#[derive(Default)]
struct RunningTries {
    all: usize,
    at: HashMap<SocketAddrV4, usize>,
}

pub(super) struct OpenQuestions {
    lookup: Duration,
    waiting: Duration,
    open: BTreeMap<Name, OpenQuestion>,
    unsent: UnsentQuestions,
    pace: TokenBucket,
    absent_until: HashMap<Name, Instant>,
    /// Peers that were first to answer one of this node's questions, in the order of these answers.
    /// This node answers their questions at once.
    priority: VecDeque<SocketAddrV4>,
    failed: VecDeque<FailedTry>,
}

impl OpenQuestions {
    pub(super) fn new(lookup: Duration, waiting: Duration, now: Instant) -> Self {
        Self {
            lookup,
            waiting: waiting.max(lookup),
            open: BTreeMap::new(),
            unsent: UnsentQuestions::default(),
            pace: TokenBucket::per_second(ASKS_PER_S, ASKS_BURST, now),
            absent_until: HashMap::new(),
            priority: VecDeque::new(),
            failed: VecDeque::new(),
        }
    }

    /// Opens a question or joins an open one. Returns the name of the question that was evicted, if
    /// no responder had delivered that file.
    pub(super) fn open(
        &mut self,
        now: Instant,
        name: &Name,
        requester: Requester,
    ) -> Result<Option<Name>, Absence> {
        let Requester { uid, patience } = requester;
        let is_absent = self
            .absent_until
            .get(name)
            .is_some_and(|until| *until > now);
        if patience == Patience::Lookup && is_absent {
            return Err(Absence::AskedLately);
        }
        let (ends, is_persons) = (now + self.waiting, patience == Patience::Whole);
        let begins_lookup = self.open.get(name).is_none_or(|ask| ask.lookup_is_over);
        if begins_lookup && !self.has_place_for(uid) {
            return Err(Absence::Busy);
        }
        if let Some(ask) = self.open.get_mut(name) {
            ask.is_persons |= is_persons;
            if ask.lookup_is_over || is_persons {
                ask.ends = ends;
            }
            if ask.lookup_is_over {
                ask.renew(now, uid);
            }
            // The turn of this user may come sooner than that of the first one.
            if !ask.is_put && !ask.queued_for.contains(&uid) {
                ask.queued_for.push(uid);
                self.unsent.push(uid, name.clone());
            }
            return Ok(None);
        }
        let gave_way = self.make_room()?;
        let mut ask = OpenQuestion::new(now, ends, uid);
        ask.is_persons = is_persons;
        ask.queued_for.push(uid);
        self.open.insert(name.clone(), ask);
        self.unsent.push(uid, name.clone());
        Ok(gave_way)
    }

    /// Returns whether a user may have a further question: it has fewer than there are free places.
    fn has_place_for(&self, uid: u32) -> bool {
        let running = self.open.values().filter(|ask| !ask.is_late());
        let (mut all, mut own) = (0, 0);
        for ask in running {
            all += 1;
            own += usize::from(ask.uid == uid);
        }
        own < ASKS_MAX - all
    }

    fn make_room(&mut self) -> Result<Option<Name>, Absence> {
        if self.open.len() < ASKS_MAX {
            return Ok(None);
        }
        let over = self.open.iter().filter(|(_, ask)| ask.is_late());
        let oldest = over.min_by_key(|(_, ask)| ask.worth());
        let oldest = oldest.map(|(name, _)| name.clone()).ok_or(Absence::Busy)?;
        let gone = self.open.remove(&oldest);
        // no requester waits for the answer to a settled question
        Ok(gone.filter(|ask| !ask.is_settled).map(|_| oldest))
    }

    /// Returns whether a question waits to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Returns the next question if the rate permits one, and records that it is sent to `asked`.
    pub(super) fn put_next(&mut self, now: Instant, asked: &[SocketAddrV4]) -> Option<Name> {
        loop {
            let next = self.unsent.next()?;
            // skip a question that ended or was evicted since it was queued
            let Some(ask) = self.open.get_mut(next).filter(|ask| !ask.is_put) else {
                self.unsent.skip();
                continue;
            };
            if !self.pace.take(1, now) {
                return None;
            }
            ask.is_put = true;
            ask.queued_for.clear();
            ask.asked_at = now;
            ask.lookup_ends = now + self.lookup;
            ask.peers.asked.extend(asked);
            return self.unsent.take();
        }
    }

    /// Returns the latest open questions, to be sent to a new member. Their number is limited.
    /// Otherwise a message with a forged sender address would direct many questions at the owner of
    /// that address.
    pub(super) fn put_to(&mut self, member: SocketAddrV4) -> Vec<Name> {
        let open = self.open.iter_mut();
        let open = open.filter(|(_, ask)| ask.is_put && !ask.is_settled);
        let mut open: Vec<_> = open.collect();
        open.sort_by_key(|(_, ask)| std::cmp::Reverse(ask.asked_at));
        open.into_iter()
            .take(NEWCOMER_ASKS_MAX)
            .map(|(name, ask)| {
                ask.peers.asked.insert(member);
                name.clone()
            })
            .collect()
    }

    /// Marks the addresses in `except` as tried for this name, and starts tries of waiting
    /// responders.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        name: &Name,
        except: &[SocketAddrV4],
    ) -> Vec<LegacyEvent> {
        if let Some(ask) = self.open.get_mut(name) {
            ask.peers.tried.extend(except);
            ask.peers.responders.retain(|(_, at)| !except.contains(at));
        }
        self.next_tries(now)
    }

    /// Starts tries, at most one per question and as many as [`TRIES_MAX`] and [`TRIES_AT_ONE_MAX`]
    /// permit: the oldest question of the user with the fewest tries first.
    fn next_tries(&mut self, now: Instant) -> Vec<LegacyEvent> {
        let mut running = RunningTries::default();
        let mut tries_of = HashMap::<u32, usize>::new();
        for ask in self.open.values() {
            if let Some(at) = ask.peers.trying {
                running.enter(at);
                *tries_of.entry(ask.uid).or_default() += 1;
            }
        }
        let waiting = self.open.iter_mut();
        let mut waiting: Vec<_> = waiting.filter(|(_, ask)| ask.has_responders()).collect();
        waiting.sort_by_key(|(_, ask)| ask.asked_at);
        let turn_of = |(_, ask): &(&Name, &mut OpenQuestion)| {
            let turn = tries_of.entry(ask.uid).or_default();
            *turn += 1;
            *turn
        };
        let turns: Vec<usize> = waiting.iter().map(turn_of).collect();
        let mut waiting: Vec<_> = turns.into_iter().zip(waiting).collect();
        waiting.sort_by_key(|(turn, _)| *turn);
        let tries = waiting.into_iter().map(|(_, question)| question);
        tries
            .filter_map(|(name, ask)| ask.next_try(name, now, &mut running))
            .collect()
    }

    /// Records that the transfer of a file from `at` broke off. Other responders are tried before
    /// `at` for [`FAILED_FOR`].
    pub(super) fn failed(&mut self, now: Instant, name: &Name, at: SocketAddrV4) {
        self.failed.retain(|failed| failed.until > now);
        if self.failed.len() == FAILED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back(FailedTry {
            name: name.clone(),
            at,
            until: now + FAILED_FOR,
        });
    }

    /// Returns whether this peer was asked an open question that it has not answered yet. Its
    /// answer is then exempt from the rate limit, because one answer per question is not a flood.
    pub(super) fn await_answer_of(&self, from: SocketAddrV4) -> bool {
        let mut open = self.open.values();
        open.any(|ask| ask.peers.asked.contains(&from) && !ask.peers.answered.contains(&from))
    }

    /// Applies a `File` answer from the peer `from`, which serves files at `at`. Returns `None` if
    /// `from` was not asked any open question. An answer does not name a file, so `at` is tried for
    /// each open question that `from` was asked.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        at: SocketAddrV4,
    ) -> Option<Vec<LegacyEvent>> {
        let (mut was_asked, mut was_first) = (false, false);
        for (name, ask) in &mut self.open {
            if !ask.peers.asked.contains(&from) {
                continue;
            }
            was_asked = true;
            was_first |= ask.peers.answered.is_empty();
            ask.peers.answered.insert(from);
            let waiting = ask.peers.responders.len() + ask.peers.doubtful.len();
            if !ask.peers.tried.contains(&at) && waiting < RESPONDERS_MAX {
                ask.peers.tried.insert(at);
                let is_doubtful = self
                    .failed
                    .iter()
                    .any(|failed| failed.at == at && failed.name == *name && failed.until > now);
                if is_doubtful {
                    ask.peers.doubtful.push_back((from, at));
                } else {
                    ask.peers.responders.push_back((from, at));
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
        if ask.peers.trying != Some(at) {
            return Vec::new();
        }
        ask.peers.trying = None;
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
            // a running try has its own deadline
            if ask.peers.trying.is_some() {
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
            .retain(|_, ask| ask.peers.trying.is_some() || ask.ends > now);
        events.extend(self.drop_late());
        events
    }

    /// Closes the late questions beyond [`LATE_MAX`], those with the smallest
    /// [`worth`](OpenQuestion::worth) first.
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

    /// Remembers a name as absent, unless a transfer of that file broke off recently. In that case
    /// a peer has the file.
    fn note_absence(&mut self, name: Name, now: Instant) {
        let has_failed = |failed: &FailedTry| failed.name == name && failed.until > now;
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
        let waiting = self.open.values().filter(|ask| ask.peers.trying.is_none());
        let ends = waiting.map(|ask| {
            if ask.lookup_is_over || !ask.is_put {
                ask.ends
            } else {
                ask.lookup_ends.min(ask.ends)
            }
        });
        let next_put = self.has_unsent().then(|| self.pace.ready_at());
        ends.chain(next_put).min()
    }

    /// Returns whether this peer was first to answer one of this node's questions.
    pub(super) fn has_answered(&self, peer: SocketAddrV4) -> bool {
        self.priority.contains(&peer)
    }
}

impl RunningTries {
    fn enter(&mut self, at: SocketAddrV4) {
        self.all += 1;
        *self.at.entry(at).or_default() += 1;
    }

    fn has_room(&self, at: SocketAddrV4) -> bool {
        let here = self.at.get(&at).copied().unwrap_or(0);
        self.all < TRIES_MAX && here < TRIES_AT_ONE_MAX
    }
}

impl OpenQuestion {
    fn new(now: Instant, ends: Instant, uid: u32) -> Self {
        Self {
            uid,
            asked_at: now,
            is_put: false,
            queued_for: Vec::new(),
            is_persons: false,
            lookup_ends: now,
            lookup_is_over: false,
            ends,
            is_settled: false,
            peers: QuestionedPeers::default(),
        }
    }

    /// Resets the question so that it is sent again. Responders that were kept while another one
    /// delivered the file are tried now.
    fn renew(&mut self, now: Instant, uid: u32) {
        self.uid = uid;
        self.asked_at = now;
        self.is_put = false;
        self.queued_for.clear();
        self.lookup_is_over = false;
        self.is_settled = false;
        self.peers.answered.clear();
        self.peers.doubtful.clear();
        self.peers.tried = self.peers.responders.iter().map(|(_, at)| *at).collect();
    }

    /// Returns whether the lookup is over and no try is running: the question is open only for a
    /// late answer.
    fn is_late(&self) -> bool {
        self.lookup_is_over && self.peers.trying.is_none()
    }

    /// Returns the eviction key. The smallest is evicted first: questions whose file was delivered,
    /// then those of programs, then those of persons, each the oldest first.
    fn worth(&self) -> (bool, bool, Instant) {
        (!self.is_settled, self.is_persons, self.asked_at)
    }

    fn has_responders(&self) -> bool {
        !self.peers.responders.is_empty() || !self.peers.doubtful.is_empty()
    }

    /// Starts the next try, unless one is running. A responder whose transfer broke off recently is
    /// tried only when no other is left or expected.
    fn next_try(
        &mut self,
        name: &Name,
        now: Instant,
        running: &mut RunningTries,
    ) -> Option<LegacyEvent> {
        if self.peers.trying.is_some() || self.is_settled {
            return None;
        }
        let is_last = (self.is_put && self.lookup_ends <= now)
            || self.peers.answered.is_superset(&self.peers.asked);
        let turn = if !self.peers.responders.is_empty() {
            &mut self.peers.responders
        } else if is_last {
            &mut self.peers.doubtful
        } else {
            return None;
        };
        let place = turn.iter().position(|(_, at)| running.has_room(*at))?;
        let (peer, at) = turn.remove(place)?;
        running.enter(at);
        self.peers.trying = Some(at);
        Some(LegacyEvent::Try {
            name: name.clone(),
            peer,
            at,
        })
    }
}

#[cfg(test)]
mod tests;
