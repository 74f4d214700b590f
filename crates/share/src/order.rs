//! In which order changes are told: that in which they were made, whatever takes longest to hash.
//!
//! Each thing that is noticed has its *turn*, in the order of the kernel's reports. What is to be
//! told is held until nothing of an earlier turn is still to be found out: a file of an earlier
//! turn that waits to be hashed, a new directory that waits to be read. So a name that points to
//! others (a git reference, a `current` link) is never told before what was there first.
//!
//! What was found while a new directory was read has no reports of its own, so it and all that was
//! reported meanwhile are one *unit*, told together: directories first, then by the time of their
//! last change, what is gone last. The old name of what was renamed is reported after the new one
//! (see `watch`), so it is of that unit too.
//!
//! A change can be seen before the kernel reports it: who looks at a name because of one report may
//! find what the next one will say, whose turn is not known yet. Such a look is one unit with all
//! that was reported by then. And what was reported and not looked at yet keeps back what is later.
//!
//! Two things are not waited for, so that a small file is listed within 2 s whatever else there is:
//! a file that is still being written, and a large one (see [`LARGE_WAIT`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::config::ShareEvent;
use super::identity::{Identity, Stamp};
use super::tree::Slot;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex};
use p2pfs_types::path::SharedPath;

/// How long what comes later waits for a file over [`super::queue::PROMISED_MAX_BYTES`]: half of
/// the 2 s within which a small file is listed (p2pfs(7)), in which a gigabyte can be hashed.
pub(super) const LARGE_WAIT: Duration = Duration::from_secs(1);
/// The most turns of one unit; what is more is told as it comes.
const UNIT_MAX_TURNS: u64 = 1 << 14;
/// The most names in new directories that a unit waits for, and the most bytes of files at rest
/// that it waits to be hashed: a small tree that was moved here is told whole before what comes
/// after it, a large one as it comes.
const UNIT_MAX_NAMES: u32 = 1 << 14;
const UNIT_MAX_BYTES: u64 = 256 << 20;
/// Room for names that is kept while nothing of any is held: a first walk needs room for many.
const ROOM_KEPT: usize = 1 << 10;

/// The place of something in the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Turn(u64);

/// How what is told now was come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Met {
    /// It was reported.
    #[default]
    Reported,
    /// It lay in a new directory.
    New,
    /// A walk through the share came by.
    Walked,
}

/// What must be found out before anything later is told.
#[derive(Default)]
struct Open {
    /// Files to hash, and directories to read.
    pending: u32,
    /// Large files, each waited for until then at most.
    large: Vec<Instant>,
}

type Name = (ShareIndex, SharedPath);

/// Something to be told, with the time of the change.
struct Held {
    changed: Stamp,
    /// It may be of a later turn.
    ahead: bool,
    event: ShareEvent,
}

/// The turns, and what is held.
#[derive(Default)]
pub(super) struct Order {
    turns: u64,
    /// In which turn that is what is told now, and what the file was like that was found then.
    now: (Turn, Identity),
    /// Whether it may be of a later turn.
    ahead: bool,
    met: Met,
    open: BTreeMap<Turn, Open>,
    files: HashMap<Slot, Awaited>,
    held: BTreeMap<Turn, Vec<Held>>,
    /// The last turn that something of a name is held in: of one name nothing overtakes.
    names: HashMap<Name, Turn>,
    /// First and last turns of units that no more is found of; none begins before another's end.
    units: VecDeque<(Turn, Turn)>,
    reading: Option<Reading>,
    /// The first turn of a name that was reported and not looked at yet.
    unlooked: Option<Turn>,
}

/// A file to be hashed.
struct Awaited {
    turn: Turn,
    /// How long it is waited for, where it is large.
    large: Option<Instant>,
    /// What it was like when it came to be waited for, where it was looked at.
    seen: Identity,
    /// What was seen may be of a later turn.
    ahead: bool,
}

/// The unit that directories are being read of.
struct Reading {
    first: Turn,
    /// Directories that are not read yet.
    left: u32,
    names: u32,
    bytes: u64,
}

impl Order {
    /// The next turn; what is told from now on is of it.
    pub(super) fn step(&mut self) -> Turn {
        self.turns += 1;
        self.set_turn(Turn(self.turns));
        self.now.0
    }

    /// What is told from now on is of this turn.
    pub(super) fn set_turn(&mut self, turn: Turn) {
        self.now = (turn, Identity::default());
        self.ahead = false;
        self.met = Met::Reported;
    }

    /// The same for what was met in a new directory of this turn.
    pub(super) fn set_turn_of_new(&mut self, turn: Turn) {
        self.set_turn(turn);
        self.met = Met::New;
    }

    /// The next turn, for what a walk through the share meets.
    pub(super) fn step_of_walk(&mut self) {
        self.step();
        self.met = Met::Walked;
    }

    /// How what is told now was come by.
    pub(super) fn met(&self) -> Met {
        self.met
    }

    /// What is told from now on in this turn is of a file that was found like this, and by the
    /// change that dated it last; of none where it is the default.
    pub(super) fn set_seen(&mut self, seen: Identity) {
        self.now.1 = seen;
    }

    /// A file is to be hashed, as of now; one that was to be hashed of an earlier turn is of this
    /// one. A large one is waited for until `large`.
    pub(super) fn await_file(&mut self, slot: Slot, large: Option<Instant>) {
        self.forget_file(slot);
        let (turn, seen) = self.now;
        let awaited = Awaited {
            turn,
            large,
            seen,
            ahead: self.ahead,
        };
        self.files.insert(slot, awaited);
        let open = self.open.entry(turn).or_default();
        match large {
            Some(until) => open.large.push(until),
            None => open.pending += 1,
        }
    }

    /// The turn of a file that is waited for.
    pub(super) fn turn_of(&self, slot: Slot) -> Option<Turn> {
        self.files.get(&slot).map(|awaited| awaited.turn)
    }

    /// A file was hashed in its turn. Where another one was seen when it came to be waited for, or
    /// the same one before another change, it may be of a later turn; not where no write dated it
    /// since, as where the other name went by which it was linked. The time of the change alone
    /// does not tell: two files that follow each other have the same within a tick of the clock.
    pub(super) fn note_hashed(&mut self, slot: Slot, hashed: Identity) {
        let is_as_seen =
            |seen: &Identity| *seen == Identity::default() || seen.same_but_ctime(&hashed);
        if let Some(awaited) = self.files.get(&slot)
            && (awaited.ahead || !is_as_seen(&awaited.seen))
        {
            self.set_ahead();
        }
    }

    /// Nothing waits for the file any more.
    pub(super) fn forget_file(&mut self, slot: Slot) {
        let Some(Awaited { turn, large, .. }) = self.files.remove(&slot) else {
            return;
        };
        let Some(open) = self.open.get_mut(&turn) else {
            return;
        };
        match large {
            Some(until) => {
                let at = open.large.iter().position(|other| *other == until);
                at.map(|at| open.large.swap_remove(at));
            }
            None => open.pending -= 1,
        }
        self.tidy(turn);
    }

    /// A new directory is to be read, as of now. Gives the turn to end it by, where what comes
    /// later waits for it.
    pub(super) fn await_reading(&mut self) -> Option<Turn> {
        let turn = self.now.0;
        let reading = self.reading.get_or_insert(Reading {
            first: turn,
            left: 0,
            names: 0,
            bytes: 0,
        });
        if reading.names > UNIT_MAX_NAMES {
            return None;
        }
        reading.first = reading.first.min(turn);
        reading.left += 1;
        self.open.entry(turn).or_default().pending += 1;
        Some(turn)
    }

    /// A name was met in a new directory of the unit; whether its bytes are waited for.
    pub(super) fn note_met(&mut self, size_bytes: u64) -> bool {
        let Some(reading) = &mut self.reading else {
            return false;
        };
        reading.names = reading.names.saturating_add(1);
        reading.bytes = reading.bytes.saturating_add(size_bytes);
        reading.names <= UNIT_MAX_NAMES && reading.bytes <= UNIT_MAX_BYTES
    }

    /// A directory was read, or is not any more.
    pub(super) fn end_reading(&mut self, turn: Turn) {
        if let Some(open) = self.open.get_mut(&turn) {
            open.pending -= 1;
        }
        self.tidy(turn);
        if let Some(reading) = &mut self.reading {
            reading.left -= 1;
        }
    }

    /// All reports up to now have their turns: what was read of new directories before is a unit
    /// with them.
    pub(super) fn note_drained(&mut self) {
        let last = Turn(self.turns);
        let Some(reading) = &mut self.reading else {
            return;
        };
        if reading.left == 0 || last.0.saturating_sub(reading.first.0) > UNIT_MAX_TURNS {
            let first = std::mem::replace(&mut reading.first, Turn(self.turns + 1));
            if reading.left == 0 {
                self.reading = None;
            }
            self.push_unit(first, last);
        }
    }

    /// What is told from now on in this turn may have been made after anything that was reported up
    /// to now: all that is one unit. Where it is more than [`UNIT_MAX_TURNS`], it stays as it is.
    pub(super) fn set_ahead(&mut self) {
        let (first, last) = (self.now.0, Turn(self.turns));
        if last.0.saturating_sub(first.0) > UNIT_MAX_TURNS {
            return;
        }
        self.ahead = true;
        match &mut self.reading {
            Some(reading) => reading.first = reading.first.min(first),
            None => self.push_unit(first, last),
        }
    }

    /// Adds a unit; what it has in common with others makes one of them.
    fn push_unit(&mut self, mut first: Turn, mut last: Turn) {
        while let Some(before) = self.units.pop_back_if(|(_, end)| *end >= first) {
            (first, last) = (first.min(before.0), last.max(before.1));
        }
        self.units.push_back((first, last));
    }

    /// Nothing of this turn or a later one is told yet: a name that was reported in it is to be
    /// looked at.
    pub(super) fn set_unlooked(&mut self, turn: Option<Turn>) {
        self.unlooked = turn;
    }

    /// Holds what is to be told until its turn.
    pub(super) fn tell(&mut self, event: ShareEvent) {
        let (mut turn, seen) = self.now;
        if let Some(name) = name_of(&event) {
            let last = self.names.entry(name).or_insert(turn);
            *last = turn.max(*last);
            turn = *last;
        }
        let held = self.held.entry(turn).or_default();
        let ahead = self.ahead;
        held.push(Held {
            changed: seen.ctime,
            ahead,
            event,
        });
    }

    /// Whether a unit waits for the reports to be drained.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// When to ask [`Self::release`] again, if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first = self.held.first_key_value()?.0;
        let open = self.open.range(..=first).map(|(_, open)| open);
        open.flat_map(|open| &open.large).min().copied()
    }

    /// Moves what may be told to the end of `out`.
    pub(super) fn release(&mut self, now: Instant, out: &mut Vec<ShareEvent>) {
        let blocked = self.first_blocked(now);
        let is_free = |turn: Turn| blocked.is_none_or(|blocked| turn < blocked);
        while let Some((turn, _)) = self.held.first_key_value() {
            let turn = *turn;
            let Some((first, last)) = self.units.front().copied() else {
                if !is_free(turn) {
                    return;
                }
                self.emit(turn, out);
                continue;
            };
            if turn > last {
                self.units.pop_front();
            } else if turn < first && is_free(turn) {
                self.emit(turn, out);
            } else if turn >= first && is_free(last) {
                self.emit_unit(last, out);
            } else {
                return;
            }
        }
        while self.units.front().is_some_and(|(_, last)| is_free(*last)) {
            self.units.pop_front();
        }
    }

    /// The first turn that is not to be told yet.
    fn first_blocked(&self, now: Instant) -> Option<Turn> {
        let blocks = |open: &Open| open.pending > 0 || open.large.iter().any(|until| *until > now);
        let mut open = self.open.iter().filter(|(_, open)| blocks(open));
        let open = open.next().map(|(turn, _)| *turn);
        let reading = self.reading.as_ref().map(|reading| reading.first);
        open.into_iter().chain(reading).chain(self.unlooked).min()
    }

    fn emit(&mut self, turn: Turn, out: &mut Vec<ShareEvent>) {
        let held = self.held.remove(&turn).unwrap_or_default();
        for Held { event, .. } in held {
            self.let_go(turn, &event);
            out.push(event);
        }
    }

    /// Something of a name is not held any more.
    fn let_go(&mut self, turn: Turn, event: &ShareEvent) {
        if let Some(name) = name_of(event)
            && self.names.get(&name).is_some_and(|last| *last <= turn)
        {
            self.names.remove(&name);
            if self.names.is_empty() {
                self.names.shrink_to(ROOM_KEPT);
            }
        }
    }

    fn emit_unit(&mut self, last: Turn, out: &mut Vec<ShareEvent>) {
        let later = self.held.split_off(&Turn(last.0 + 1));
        let unit = std::mem::replace(&mut self.held, later);
        let mut unit: Vec<Held> = unit.into_values().flatten().collect();
        unit.iter().for_each(|held| self.let_go(last, &held.event));
        drop_superseded(&mut unit);
        unit.sort_by_key(Held::rank);
        out.extend(unit.into_iter().map(|held| held.event));
    }

    fn tidy(&mut self, turn: Turn) {
        let done = |open: &Open| open.pending == 0 && open.large.is_empty();
        if self.open.get(&turn).is_some_and(done) {
            self.open.remove(&turn);
        }
    }
}

impl Held {
    /// What is there first, the older first, of one tick of the clock what may be of a later turn
    /// last; after all that what is gone.
    fn rank(&self) -> (bool, bool, Stamp, bool) {
        let directory = match &self.event {
            ShareEvent::Put { entry, .. } => entry.kind == Kind::Directory,
            _ => false,
        };
        let gone = matches!(self.event, ShareEvent::Removed { .. });
        (gone, !directory, self.changed, self.ahead)
    }
}

fn name_of(event: &ShareEvent) -> Option<Name> {
    match event {
        ShareEvent::Put { share, path, .. } | ShareEvent::Removed { share, path } => {
            Some((*share, path.clone()))
        }
        ShareEvent::Scanned { .. }
        | ShareEvent::Warning { .. }
        | ShareEvent::Settled { .. }
        | ShareEvent::Readers { .. } => None,
    }
}

/// What a later put of the same name says better, so that putting the rest in order cannot undo it.
fn drop_superseded(unit: &mut Vec<Held>) {
    let mut put = HashSet::new();
    unit.reverse();
    unit.retain(|held| match (&held.event, name_of(&held.event)) {
        (ShareEvent::Put { .. }, Some(name)) => put.insert(name),
        (_, Some(name)) => !put.contains(&name),
        (_, None) => true,
    });
    unit.reverse();
}

#[cfg(test)]
mod tests;
