//! The questions of this node: one for many askers, a bounded number, each with its end.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::LegacyEvent;
use crate::wire::legacy::Name;

/// Questions open at one time; the oldest whose lookup is over gives way.
pub const ASKS_MAX: usize = 64;
/// Open questions that are put to somebody new.
const NEWCOMER_ASKS_MAX: usize = 4;
/// How long a name that nobody had counts as absent (the contract).
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
    #[error("no older peer had it a moment ago")]
    AskedLately,
    /// A hidden name, or one that programs look for everywhere.
    #[error("older peers are not asked for such names")]
    NeverAsked,
    /// Nobody to ask.
    #[error("no older peer is known")]
    NoMembers,
    /// [`ASKS_MAX`] others wait.
    #[error("too many names are being asked for")]
    Busy,
}

struct Ask {
    asked_at: Instant,
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

/// What became of a question.
pub(super) struct Opened {
    /// It is to be sent.
    pub(super) is_new: bool,
    /// Another that had to give way for it.
    pub(super) gave_way: Option<Name>,
}

pub(super) struct Asks {
    lookup: Duration,
    waiting: Duration,
    open: BTreeMap<Name, Ask>,
    absent_until: HashMap<Name, Instant>,
    /// Who answered a question of ours first, in order; they are answered at once.
    priority: VecDeque<SocketAddrV4>,
    failed: VecDeque<Failed>,
}

impl Asks {
    pub(super) fn new(lookup: Duration, waiting: Duration) -> Self {
        Self {
            lookup,
            waiting: waiting.max(lookup),
            open: BTreeMap::new(),
            absent_until: HashMap::new(),
            priority: VecDeque::new(),
            failed: VecDeque::new(),
        }
    }

    /// Opens a question or joins an open one.
    pub(super) fn open(
        &mut self,
        now: Instant,
        name: &Name,
        patience: Patience,
        asked: &[SocketAddrV4],
    ) -> Result<Opened, Absence> {
        let is_absent = self
            .absent_until
            .get(name)
            .is_some_and(|until| *until > now);
        if patience == Patience::Lookup && is_absent {
            return Err(Absence::AskedLately);
        }
        let (lookup, waiting) = (self.lookup, self.waiting);
        if let Some(ask) = self.open.get_mut(name) {
            if ask.lookup_is_over || patience == Patience::Whole {
                ask.ends = now + waiting;
            }
            let is_new = ask.lookup_is_over;
            if is_new {
                ask.renew(now, lookup, asked);
            }
            return Ok(Opened {
                is_new,
                gave_way: None,
            });
        }
        let gave_way = self.make_room()?;
        let mut ask = Ask::new(now, now + waiting);
        ask.renew(now, lookup, asked);
        self.open.insert(name.clone(), ask);
        Ok(Opened {
            is_new: true,
            gave_way,
        })
    }

    fn make_room(&mut self) -> Result<Option<Name>, Absence> {
        if self.open.len() < ASKS_MAX {
            return Ok(None);
        }
        let over = self.open.iter().filter(|(_, ask)| ask.lookup_is_over);
        let oldest = over.min_by_key(|(_, ask)| (!ask.is_settled, ask.asked_at));
        let oldest = oldest.map(|(name, _)| name.clone()).ok_or(Absence::Busy)?;
        let gone = self.open.remove(&oldest);
        // nobody waits for a settled one
        Ok(gone.filter(|ask| !ask.is_settled).map(|_| oldest))
    }

    /// Somebody new is there: the latest open questions, to be put to them too. Not all: whoever
    /// forges a sender's address could have that one asked a lot.
    pub(super) fn put_to(&mut self, member: SocketAddrV4) -> Vec<Name> {
        let open = self.open.iter_mut().filter(|(_, ask)| !ask.is_settled);
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
    pub(super) fn begin(&mut self, name: &Name, except: &[SocketAddrV4]) -> Option<LegacyEvent> {
        let ask = self.open.get_mut(name)?;
        ask.tried.extend(except);
        ask.responders.retain(|(_, at)| !except.contains(at));
        ask.next_try(name)
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

    /// A `File` answer came. None where the sender was asked for nothing that is open. It names no
    /// file, so the sender is tried for each question that it was asked.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        at: SocketAddrV4,
    ) -> Option<Vec<LegacyEvent>> {
        let mut events = Vec::new();
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
            events.extend(ask.next_try(name));
        }
        if was_first && !self.priority.contains(&from) {
            if self.priority.len() == PRIORITY_MAX {
                self.priority.pop_front();
            }
            self.priority.push_back(from);
        }
        was_asked.then_some(events)
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
            return Vec::new();
        }
        let next: Vec<LegacyEvent> = ask.next_try(name).into_iter().collect();
        if next.is_empty() {
            return self.handle_timeout(now);
        }
        next
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<LegacyEvent> {
        let mut events = Vec::new();
        let mut over = Vec::new();
        for (name, ask) in &mut self.open {
            // a responder that is being tried has its own deadline
            if ask.trying.is_some() {
                continue;
            }
            if !ask.lookup_is_over && ask.lookup_ends <= now {
                ask.lookup_is_over = true;
                if let Some(last_resort) = ask.next_try(name) {
                    ask.lookup_is_over = false;
                    events.push(last_resort);
                    continue;
                }
                events.push(LegacyEvent::LookupOver(name.clone()));
                over.push(name.clone());
            }
            if ask.ends <= now && !ask.is_settled {
                events.push(LegacyEvent::AskOver(name.clone()));
            }
        }
        over.into_iter()
            .for_each(|name| self.note_absence(name, now));
        self.open
            .retain(|_, ask| ask.trying.is_some() || ask.ends > now);
        events
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

    pub(super) fn forget_absence(&mut self, name: &Name) {
        self.absent_until.remove(name);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.open.values().filter(|ask| ask.trying.is_none());
        waiting
            .map(|ask| {
                if ask.lookup_is_over {
                    ask.ends
                } else {
                    ask.lookup_ends.min(ask.ends)
                }
            })
            .min()
    }

    /// Whether this peer has answered a question of ours.
    pub(super) fn has_answered(&self, peer: SocketAddrV4) -> bool {
        self.priority.contains(&peer)
    }
}

impl Ask {
    fn new(now: Instant, ends: Instant) -> Self {
        Self {
            asked_at: now,
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

    /// Asks once more. Responders that waited while another gave the file have their turn now.
    fn renew(&mut self, now: Instant, lookup: Duration, asked: &[SocketAddrV4]) {
        self.asked_at = now;
        self.lookup_ends = now + lookup;
        self.lookup_is_over = false;
        self.is_settled = false;
        self.asked.extend(asked);
        self.answered.clear();
        self.doubtful.clear();
        self.tried = self.responders.iter().map(|(_, at)| *at).collect();
    }

    /// The next responder's turn; that of a doubtful one when no other is left to wait for.
    fn next_try(&mut self, name: &Name) -> Option<LegacyEvent> {
        if self.trying.is_some() || self.is_settled {
            return None;
        }
        let is_last = self.lookup_is_over || self.answered.is_superset(&self.asked);
        let next = self.responders.pop_front();
        let doubtful = || is_last.then(|| self.doubtful.pop_front()).flatten();
        let (peer, at) = next.or_else(doubtful)?;
        self.trying = Some(at);
        Some(LegacyEvent::Try {
            name: name.clone(),
            peer,
            at,
        })
    }
}
