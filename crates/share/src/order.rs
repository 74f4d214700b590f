//! The order of events: changes are announced in the order in which they were made, regardless of
//! how long each file takes to hash.
//!
//! Each noticed change gets a number, its *turn*, in the order of the kernel's reports. An event is
//! held while anything of its own or an earlier turn is unresolved: a reported name that is not
//! checked yet, a file that waits to be hashed, or a new directory that waits to be read. So a name
//! that points to others (a git reference, a `current` link) is announced after the names it refers
//! to.
//!
//! Entries found while reading a new directory have no reports of their own. They form one *unit*
//! with everything that was reported meanwhile. All events of a unit are announced together:
//! directories first, then other entries by the time of their last change, removals last. If a
//! directory is renamed, `watch` passes on the report of the old name after that of the new name,
//! so the removals belong to the unit too.
//!
//! A change can be seen before the kernel reports it. A check because of one report may already
//! find the next change, which is not reported yet and has no turn. The events of such a check form
//! one unit with everything that was reported by then.
//!
//! A small file must be listed within 2 s (p2pfs(7)). Therefore a file that is still being written
//! does not block later turns, and a large file blocks them for at most [`LARGE_WAIT`].

mod held_events;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::config::ShareEvent;
use super::identity::FileIdentity;
use super::name_state::{Effects, Wait};
use super::queue::PROMISED_MAX_BYTES;
use super::tree::Slot;
use held_events::{HeldEvent, HeldEvents};
pub(super) use held_events::{NameInShare, name_of};

/// How long later turns wait at most for a file over [`PROMISED_MAX_BYTES`]: half of
/// the 2 s within which a small file is listed (p2pfs(7)). A gigabyte can be hashed in that time.
const LARGE_WAIT: Duration = Duration::from_secs(1);
/// Number of turns above which an open unit is closed when the reports are drained. Later turns
/// then belong to another unit. Merged units may have more turns.
const UNIT_MAX_TURNS: u64 = 1 << 14;
/// Maximum files at rest in the new directories of a unit that later turns wait for. So a small
/// tree that was moved here is announced whole, before any later change. Of a large tree, the rest
/// is announced as it is read.
const UNIT_MAX_NAMES: u32 = 1 << 14;
/// Maximum total bytes of the files that [`UNIT_MAX_NAMES`] counts.
const UNIT_MAX_BYTES: u64 = 256 << 20;

/// Position of a change in the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EventSeq(u64);

impl EventSeq {
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// How the current change was discovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DiscoveredBy {
    /// By a report of the kernel.
    #[default]
    Reported,
    /// While reading a new directory.
    New,
    /// During a walk through the share.
    Walked,
}

/// Unresolved work of one turn, which blocks this turn and all later ones.
#[derive(Default)]
struct UnresolvedWork {
    /// Number of files to hash and directories to read.
    pending: u32,
    /// Deadlines of large files. Each file blocks until it is hashed or its deadline has passed.
    large: Vec<Instant>,
}

/// The turns, and the events that are held.
#[derive(Default)]
pub(super) struct EventOrder {
    turns: u64,
    /// Current turn, to which new events are added, and identity of the file that they are about.
    now: (EventSeq, FileIdentity),
    /// Whether the current change may belong to a later turn.
    ahead: bool,
    met: DiscoveredBy,
    open: BTreeMap<EventSeq, UnresolvedWork>,
    files: HashMap<Slot, AwaitedFile>,
    held: HeldEvents,
    /// First and last turns of closed units, sorted and without overlap.
    units: VecDeque<(EventSeq, EventSeq)>,
    reading: Option<OpenUnit>,
    /// First turn of a name that was reported and is not checked yet.
    unchecked: Option<EventSeq>,
}

/// A file to be hashed.
struct AwaitedFile {
    turn: EventSeq,
    /// Deadline of the wait, for a large file.
    large: Option<Instant>,
    /// Identity of the file when the wait began; the default if it was not checked.
    seen: FileIdentity,
    /// Whether the state seen when the wait began may belong to a later turn.
    ahead: bool,
}

/// The open unit, with directories that are being read.
struct OpenUnit {
    first: EventSeq,
    /// Directories that are not read yet.
    left: u32,
    names: u32,
    bytes: u64,
}

impl EventOrder {
    /// Starts the next turn. Later events belong to it.
    pub(super) fn step(&mut self) -> EventSeq {
        self.turns += 1;
        self.set_turn(EventSeq(self.turns));
        self.now.0
    }

    /// Makes this the turn of the following events, which a report of the kernel discovered.
    pub(super) fn set_turn(&mut self, turn: EventSeq) {
        self.now = (turn, FileIdentity::default());
        self.ahead = false;
        self.met = DiscoveredBy::Reported;
    }

    /// Makes this the turn of the following events, which were discovered in a new directory.
    pub(super) fn set_turn_of_new(&mut self, turn: EventSeq) {
        self.set_turn(turn);
        self.met = DiscoveredBy::New;
    }

    /// Starts the next turn, for changes that a walk discovers.
    pub(super) fn step_of_walk(&mut self) {
        self.step();
        self.met = DiscoveredBy::Walked;
    }

    /// Returns how the current change was discovered.
    pub(super) fn discovered_by(&self) -> DiscoveredBy {
        self.met
    }

    /// Sets the identity of the file that later events of this turn are about; its ctime dates the
    /// change. The default means no file.
    pub(super) fn set_seen(&mut self, seen: FileIdentity) {
        self.now.1 = seen;
    }

    /// Applies the effects of an observation of a file.
    pub(super) fn apply(&mut self, slot: Slot, effects: &Effects, size_bytes: u64, now: Instant) {
        if effects.counts_in_tree {
            self.record_discovered(size_bytes);
        }
        if matches!(effects.wait, Wait::BlockNewTurn | Wait::NewTurn) {
            self.step();
        }
        match effects.wait {
            Wait::Keep => {}
            Wait::Block | Wait::BlockNewTurn => {
                let large = (size_bytes > PROMISED_MAX_BYTES).then(|| now + LARGE_WAIT);
                self.await_file(slot, large);
            }
            Wait::Unblock | Wait::NewTurn => self.forget_file(slot),
        }
    }

    /// Blocks the current turn and all later ones until a file is hashed. If the file already waits
    /// in another turn, it moves to the current one. The wait for a large file ends at `large`.
    fn await_file(&mut self, slot: Slot, large: Option<Instant>) {
        self.forget_file(slot);
        let (turn, seen) = self.now;
        let awaited = AwaitedFile {
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

    /// Returns the turn of a file that waits to be hashed.
    pub(super) fn turn_of(&self, slot: Slot) -> Option<EventSeq> {
        self.files.get(&slot).map(|awaited| awaited.turn)
    }

    /// Records that a file was hashed in its turn. If any attribute but ctime differs from when the
    /// wait began, the hashed state may belong to a later turn, and [`Self::set_ahead`] is called.
    /// The ctime is not compared, because it also changes without a write (another link to the file
    /// is removed). Comparing only the ctime would miss changes: two files that replace each other
    /// within one clock tick have the same ctime.
    pub(super) fn record_hashed(&mut self, slot: Slot, hashed: FileIdentity) {
        let is_as_seen =
            |seen: &FileIdentity| *seen == FileIdentity::default() || seen.same_but_ctime(&hashed);
        if let Some(awaited) = self.files.get(&slot)
            && (awaited.ahead || !is_as_seen(&awaited.seen))
        {
            self.set_ahead();
        }
    }

    /// Stops waiting for a file.
    fn forget_file(&mut self, slot: Slot) {
        let Some(AwaitedFile { turn, large, .. }) = self.files.remove(&slot) else {
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

    /// Blocks the current turn and all later ones until a new directory is read. Returns the turn
    /// to pass to [`Self::end_reading`]. If the unit has more than [`UNIT_MAX_NAMES`] files, blocks
    /// nothing and returns `None`.
    pub(super) fn await_reading(&mut self) -> Option<EventSeq> {
        let turn = self.now.0;
        let reading = self.reading.get_or_insert(OpenUnit {
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

    /// Returns whether later turns wait for one more file at rest that was found in a new directory
    /// of the unit.
    pub(super) fn awaits_discovered(&self, size_bytes: u64) -> bool {
        self.reading.as_ref().is_some_and(|reading| {
            reading.names < UNIT_MAX_NAMES
                && reading.bytes.saturating_add(size_bytes) <= UNIT_MAX_BYTES
        })
    }

    /// Counts a file at rest that was found in a new directory of the unit. Returns whether later
    /// turns wait for it.
    fn record_discovered(&mut self, size_bytes: u64) -> bool {
        let is_awaited = self.awaits_discovered(size_bytes);
        if let Some(reading) = &mut self.reading {
            reading.names = reading.names.saturating_add(1);
            reading.bytes = reading.bytes.saturating_add(size_bytes);
        }
        is_awaited
    }

    /// Records that a directory was read, or that its reading was cancelled.
    pub(super) fn end_reading(&mut self, turn: EventSeq) {
        if let Some(open) = self.open.get_mut(&turn) {
            open.pending -= 1;
        }
        self.tidy(turn);
        if let Some(reading) = &mut self.reading {
            reading.left -= 1;
        }
    }

    /// Records that all reports so far have their turns. Closes the open unit with the last of
    /// these turns if all of its directories are read, or if it has more than [`UNIT_MAX_TURNS`]
    /// turns.
    pub(super) fn record_drained(&mut self) {
        let last = EventSeq(self.turns);
        let Some(reading) = &mut self.reading else {
            return;
        };
        if reading.left == 0 || last.0.saturating_sub(reading.first.0) > UNIT_MAX_TURNS {
            let first = std::mem::replace(&mut reading.first, EventSeq(self.turns + 1));
            if reading.left == 0 {
                self.reading = None;
            }
            self.push_unit(first, last);
        }
    }

    /// Marks the next events of the current turn as possibly later than all reports so far. Makes
    /// the turns from the current to the last one a unit, or a part of the open unit. Does nothing
    /// if these are more than [`UNIT_MAX_TURNS`] turns.
    pub(super) fn set_ahead(&mut self) {
        let (first, last) = (self.now.0, EventSeq(self.turns));
        if last.0.saturating_sub(first.0) > UNIT_MAX_TURNS {
            return;
        }
        self.ahead = true;
        match &mut self.reading {
            Some(reading) => reading.first = reading.first.min(first),
            None => self.push_unit(first, last),
        }
    }

    /// Adds a unit and merges it with the units that it overlaps.
    fn push_unit(&mut self, mut first: EventSeq, mut last: EventSeq) {
        while let Some(before) = self.units.pop_back_if(|(_, end)| *end >= first) {
            (first, last) = (first.min(before.0), last.max(before.1));
        }
        self.units.push_back((first, last));
    }

    /// Blocks `turn` and all later ones, because a name reported in `turn` is not checked yet.
    /// `None` ends the block.
    pub(super) fn set_unchecked(&mut self, turn: Option<EventSeq>) {
        self.unchecked = turn;
    }

    /// Holds an event in the current turn, or in a later turn that has an event of the same name.
    pub(super) fn hold(&mut self, event: ShareEvent) {
        let (turn, seen) = self.now;
        let held = HeldEvent {
            changed: seen.ctime,
            ahead: self.ahead,
            event,
        };
        self.held.insert(turn, held);
    }

    /// Returns whether an event of this name is held.
    pub(super) fn holds(&self, name: &NameInShare) -> bool {
        self.held.has(name)
    }

    /// Returns whether a unit is open: it waits for directories to be read, and then for
    /// [`Self::record_drained`].
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Returns whether no event is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns the last turn so far.
    pub(super) fn last_turn(&self) -> EventSeq {
        EventSeq(self.turns)
    }

    /// Returns whether no event of this turn or an earlier one is held.
    pub(super) fn is_sent(&self, turn: EventSeq) -> bool {
        self.held.first_turn().is_none_or(|first| first > turn)
    }

    /// Returns when to call [`Self::release`] again if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first = self.held.first_turn()?;
        let open = self.open.range(..=first).map(|(_, open)| open);
        open.flat_map(|open| &open.large).min().copied()
    }

    /// Appends the events that are no longer blocked to `out`.
    pub(super) fn release(&mut self, now: Instant, out: &mut Vec<ShareEvent>) {
        let blocked = self.first_blocked(now);
        let is_free = |turn: EventSeq| blocked.is_none_or(|blocked| turn < blocked);
        while let Some(turn) = self.held.first_turn() {
            let Some((first, last)) = self.units.front().copied() else {
                if !is_free(turn) {
                    return;
                }
                self.held.release_turn(turn, out);
                continue;
            };
            if turn > last {
                self.units.pop_front();
            } else if turn < first && is_free(turn) {
                self.held.release_turn(turn, out);
            } else if turn >= first && is_free(last) {
                self.held.release_unit(last, out);
            } else {
                return;
            }
        }
        while self.units.front().is_some_and(|(_, last)| is_free(*last)) {
            self.units.pop_front();
        }
    }

    /// Returns the first turn that is blocked.
    fn first_blocked(&self, now: Instant) -> Option<EventSeq> {
        let blocks =
            |open: &UnresolvedWork| open.pending > 0 || open.large.iter().any(|until| *until > now);
        let mut open = self.open.iter().filter(|(_, open)| blocks(open));
        let open = open.next().map(|(turn, _)| *turn);
        let reading = self.reading.as_ref().map(|reading| reading.first);
        open.into_iter().chain(reading).chain(self.unchecked).min()
    }

    fn tidy(&mut self, turn: EventSeq) {
        let done = |open: &UnresolvedWork| open.pending == 0 && open.large.is_empty();
        if self.open.get(&turn).is_some_and(done) {
            self.open.remove(&turn);
        }
    }
}

#[cfg(test)]
mod tests;
