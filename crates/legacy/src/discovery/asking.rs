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
use super::absent::AbsentNames;
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
    /// The users for whom it waits to be sent, each with the number of the request. Empty once it
    /// was sent.
    unsent_for: Vec<(u32, u64)>,
    /// Whether a person waits for the answer.
    is_persons: bool,
    lookup_ends: Instant,
    lookup_is_over: bool,
    /// Time when the question closes.
    ends: Instant,
    /// Whether a responder delivers the file. The other responders are kept and are tried if the
    /// file is requested again.
    is_settled: bool,
    /// Peers that were asked and peers that answered, by the addresses of their datagrams.
    asked: HashSet<SocketAddrV4>,
    answered: HashSet<SocketAddrV4>,
    /// TCP addresses of the responders that are tried or wait for it.
    tried: HashSet<SocketAddrV4>,
    /// TCP address of the running try.
    trying: Option<SocketAddrV4>,
    responders: VecDeque<Responder>,
}

/// A peer that answered and waits to be tried.
struct Responder {
    peer: SocketAddrV4,
    /// TCP address of its files.
    at: SocketAddrV4,
    /// Whether its transfer of this file broke off recently. It is tried only when no other
    /// responder is left or expected.
    is_doubtful: bool,
}

struct FailedTry {
    name: Name,
    at: SocketAddrV4,
    until: Instant,
}

/// Numbers of running tries, in total, by address and by user.
#[derive(Default)]
struct RunningTries {
    all: usize,
    at: HashMap<SocketAddrV4, usize>,
    of_user: HashMap<u32, usize>,
}

pub(super) struct OpenQuestions {
    lookup: Duration,
    waiting: Duration,
    open: BTreeMap<Name, OpenQuestion>,
    /// Number of requests, and of questions that were sent.
    count: u64,
    /// When each user with unsent questions last had a question sent, as a count. The rate is
    /// limited for all users together. Without turns, the hundreds of questions of one user would
    /// delay those of another by seconds.
    last_turn: HashMap<u32, u64>,
    pace: TokenBucket,
    absent: AbsentNames,
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
            count: 0,
            last_turn: HashMap::new(),
            pace: TokenBucket::per_second(ASKS_PER_S, ASKS_BURST, now),
            absent: AbsentNames::default(),
            priority: VecDeque::new(),
            failed: VecDeque::new(),
        }
    }

    pub(super) fn absent_names(&self) -> AbsentNames {
        self.absent.clone()
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
        let is_persons = patience == Patience::Whole;
        if !is_persons && self.absent.contains(now, name) {
            return Err(Absence::AskedLately);
        }
        let begins_lookup = self.open.get(name).is_none_or(|ask| ask.lookup_is_over);
        if begins_lookup && !self.has_place_for(uid) {
            return Err(Absence::Busy);
        }
        let evicted = if self.open.contains_key(name) {
            None
        } else {
            self.make_room()?
        };
        let ends = now + self.waiting;
        let ask = (self.open.entry(name.clone())).or_insert_with(|| OpenQuestion::new(now, ends));
        ask.is_persons |= is_persons;
        if ask.lookup_is_over || is_persons {
            ask.ends = ends;
        }
        if ask.lookup_is_over {
            ask.renew(now);
        }
        if begins_lookup {
            ask.uid = uid;
        }
        // The turn of this user may come sooner than that of the first one.
        let is_unsent = !ask.unsent_for.is_empty();
        if begins_lookup || (is_unsent && ask.unsent_for.iter().all(|(user, _)| *user != uid)) {
            self.count += 1;
            ask.unsent_for.push((uid, self.count));
        }
        Ok(evicted)
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
        let late = self.open.iter().filter(|(_, ask)| ask.is_late());
        let oldest = late.min_by_key(|(_, ask)| ask.worth());
        let oldest = oldest.map(|(name, _)| name.clone()).ok_or(Absence::Busy)?;
        Ok(self.close(oldest))
    }

    /// Closes a question. Returns its name, unless the file was delivered: then no requester waits.
    fn close(&mut self, name: Name) -> Option<Name> {
        let gone = self.open.remove(&name)?;
        (!gone.is_settled).then_some(name)
    }

    /// Returns whether a question waits to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.open.values().any(|ask| !ask.unsent_for.is_empty())
    }

    /// Returns the next question if the rate permits one, and records that it is sent to `asked`.
    /// Users take turns. Those of one user are in the order of their requests.
    pub(super) fn put_next(&mut self, now: Instant, asked: &[SocketAddrV4]) -> Option<Name> {
        let last_turn = |uid: &u32| self.last_turn.get(uid).copied().unwrap_or(0);
        let unsent = self.open.iter_mut().filter_map(|(name, ask)| {
            let waits = ask.unsent_for.iter();
            let first = waits.min_by_key(|(uid, number)| (last_turn(uid), *number))?;
            Some(((last_turn(&first.0), first.1), first.0, name, ask))
        });
        let Some((_, uid, name, ask)) = unsent.min_by_key(|(turn, ..)| *turn) else {
            self.last_turn.clear();
            return None;
        };
        if !self.pace.take(1, now) {
            return None;
        }
        ask.unsent_for.clear();
        ask.asked_at = now;
        ask.lookup_ends = now + self.lookup;
        ask.asked.extend(asked);
        self.count += 1;
        self.last_turn.insert(uid, self.count);
        Some(name.clone())
    }

    /// Returns the latest open questions, to be sent to a new member. Their number is limited.
    /// Otherwise a message with a forged sender address would direct many questions at the owner of
    /// that address.
    pub(super) fn put_to(&mut self, member: SocketAddrV4) -> Vec<Name> {
        let open = self.open.iter_mut();
        let open = open.filter(|(_, ask)| ask.unsent_for.is_empty() && !ask.is_settled);
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

    /// Marks the addresses in `except` as tried for this name, and starts tries of waiting
    /// responders.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        name: &Name,
        except: &[SocketAddrV4],
    ) -> Vec<LegacyEvent> {
        if let Some(ask) = self.open.get_mut(name) {
            ask.tried.extend(except);
            ask.responders.retain(|next| !except.contains(&next.at));
        }
        self.next_tries(now)
    }

    /// Starts tries, at most one per question and as many as [`TRIES_MAX`] and [`TRIES_AT_ONE_MAX`]
    /// permit: the oldest question of the user with the fewest tries first.
    fn next_tries(&mut self, now: Instant) -> Vec<LegacyEvent> {
        let mut running = RunningTries::default();
        for ask in self.open.values() {
            if let Some(at) = ask.trying {
                running.enter(at, ask.uid);
            }
        }
        let mut tries = Vec::new();
        loop {
            let waiting = self.open.iter_mut().filter_map(|(name, ask)| {
                let place = ask.next_responder(now, &running)?;
                let turn = running.of_user.get(&ask.uid).copied().unwrap_or(0);
                Some(((turn, ask.asked_at), name, ask, place))
            });
            let next = waiting.min_by_key(|(turn, ..)| *turn);
            let next = next.and_then(|(_, name, ask, place)| {
                let Responder { peer, at, .. } = ask.responders.remove(place)?;
                ask.trying = Some(at);
                running.enter(at, ask.uid);
                let name = name.clone();
                Some(LegacyEvent::Try { name, peer, at })
            });
            match next {
                Some(next) => tries.push(next),
                None => return tries,
            }
        }
    }

    /// Records that the transfer of a file from `at` broke off. Other responders are tried before
    /// `at` for [`FAILED_FOR`].
    pub(super) fn failed(&mut self, now: Instant, name: &Name, at: SocketAddrV4) {
        self.failed.retain(|failed| failed.until > now);
        push_bounded(
            &mut self.failed,
            FAILED_MAX,
            FailedTry {
                name: name.clone(),
                at,
                until: now + FAILED_FOR,
            },
        );
    }

    /// Returns whether this peer was asked an open question that it has not answered yet. Its
    /// answer is then exempt from the rate limit, because one answer per question is not a flood.
    pub(super) fn await_answer_of(&self, from: SocketAddrV4) -> bool {
        let mut open = self.open.values();
        open.any(|ask| ask.asked.contains(&from) && !ask.answered.contains(&from))
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
            if !ask.asked.contains(&from) {
                continue;
            }
            was_asked = true;
            was_first |= ask.answered.is_empty();
            ask.answered.insert(from);
            if ask.responders.len() < RESPONDERS_MAX && ask.tried.insert(at) {
                let is_same = |failed: &FailedTry| failed.at == at && failed.is_of(name, now);
                ask.responders.push_back(Responder {
                    peer: from,
                    at,
                    is_doubtful: self.failed.iter().any(is_same),
                });
            }
        }
        if was_first && !self.has_answered(from) {
            push_bounded(&mut self.priority, PRIORITY_MAX, from);
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
        let ask = self.open.get_mut(name);
        let Some(ask) = ask.filter(|ask| ask.trying == Some(at)) else {
            return Vec::new();
        };
        ask.trying = None;
        if found {
            ask.is_settled = true;
            ask.lookup_is_over = true;
            self.absent.remove(name);
        }
        self.handle_timeout(now)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<LegacyEvent> {
        let mut events = self.next_tries(now);
        for (name, ask) in &mut self.open {
            // a running try has its own deadline
            if ask.trying.is_some() {
                continue;
            }
            let is_sent = ask.unsent_for.is_empty();
            if !ask.lookup_is_over && is_sent && ask.lookup_ends <= now {
                ask.lookup_is_over = true;
                if ask.responders.is_empty() {
                    events.push(LegacyEvent::LookupOver(name.clone()));
                    // A peer whose transfer broke off may still have the file.
                    let has_failed = self.failed.iter().any(|failed| failed.is_of(name, now));
                    if ask.answered.is_empty() || !has_failed {
                        self.absent.record(now, name.clone());
                    }
                } else {
                    events.push(LegacyEvent::LookupBusy(name.clone()));
                }
            }
            if ask.ends <= now && !ask.is_settled {
                events.push(LegacyEvent::AskOver(name.clone()));
            }
        }
        self.open
            .retain(|_, ask| ask.trying.is_some() || ask.ends > now);
        events.extend(self.drop_late());
        events
    }

    /// Closes the late questions beyond [`LATE_MAX`], those with the smallest
    /// [`worth`](OpenQuestion::worth) first.
    fn drop_late(&mut self) -> Vec<LegacyEvent> {
        let late = self.open.iter().filter(|(_, ask)| ask.is_late());
        let mut late: Vec<_> = late
            .map(|(name, ask)| (ask.worth(), name.clone()))
            .collect();
        late.sort_unstable();
        late.truncate(late.len().saturating_sub(LATE_MAX));
        let gone = late.into_iter().filter_map(|(_, name)| self.close(name));
        gone.map(LegacyEvent::AskOver).collect()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.open.values().filter(|ask| ask.trying.is_none());
        let ends = waiting.map(|ask| {
            if ask.lookup_is_over || !ask.unsent_for.is_empty() {
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

/// Adds an entry to a list, which forgets its oldest one if it is full.
fn push_bounded<T>(list: &mut VecDeque<T>, max: usize, entry: T) {
    if list.len() == max {
        list.pop_front();
    }
    list.push_back(entry);
}

impl FailedTry {
    fn is_of(&self, name: &Name, now: Instant) -> bool {
        self.name == *name && self.until > now
    }
}

impl RunningTries {
    fn enter(&mut self, at: SocketAddrV4, uid: u32) {
        self.all += 1;
        *self.at.entry(at).or_default() += 1;
        *self.of_user.entry(uid).or_default() += 1;
    }

    fn has_room(&self, at: SocketAddrV4) -> bool {
        let here = self.at.get(&at).copied().unwrap_or(0);
        self.all < TRIES_MAX && here < TRIES_AT_ONE_MAX
    }
}

impl OpenQuestion {
    fn new(now: Instant, ends: Instant) -> Self {
        Self {
            uid: 0,
            asked_at: now,
            unsent_for: Vec::new(),
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
        }
    }

    /// Resets the question so that it is sent again. Responders that were kept while another one
    /// delivered the file are tried now.
    fn renew(&mut self, now: Instant) {
        self.asked_at = now;
        self.unsent_for.clear();
        self.lookup_is_over = false;
        self.is_settled = false;
        self.answered.clear();
        self.responders.retain(|next| !next.is_doubtful);
        self.tried = self.responders.iter().map(|next| next.at).collect();
    }

    /// Returns whether the lookup is over and no try is running: the question is open only for a
    /// late answer.
    fn is_late(&self) -> bool {
        self.lookup_is_over && self.trying.is_none()
    }

    /// Returns the eviction key. The smallest is evicted first: questions whose file was delivered,
    /// then those of programs, then those of persons, each the oldest first.
    fn worth(&self) -> (bool, bool, Instant) {
        (!self.is_settled, self.is_persons, self.asked_at)
    }

    /// Returns the place of the responder to try next, unless a try is running.
    fn next_responder(&self, now: Instant, running: &RunningTries) -> Option<usize> {
        if self.trying.is_some() || self.is_settled {
            return None;
        }
        let is_last = (self.unsent_for.is_empty() && self.lookup_ends <= now)
            || self.answered.is_superset(&self.asked);
        let is_doubtful = self.responders.iter().all(|next| next.is_doubtful);
        if is_doubtful && !is_last {
            return None;
        }
        let mut waiting = self.responders.iter();
        waiting.position(|next| next.is_doubtful == is_doubtful && running.has_room(next.at))
    }
}

#[cfg(test)]
mod tests;
