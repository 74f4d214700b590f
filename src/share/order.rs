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
//! Two things are not waited for, so that the promise of promptness holds: a file that is still
//! being written, and a large one (see [`LARGE_WAIT`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::config::ShareEvent;
use super::identity::Stamp;
use super::tree::Slot;
use crate::path::SharedPath;
use crate::wire::native::record::{Kind, ShareIndex};

/// How long what comes later waits for a file over [`super::queue::PROMPT_MAX_BYTES`]: half of
/// what the contract gives a small file, in which a gigabyte can be hashed.
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
    event: ShareEvent,
}

/// The turns, and what is held.
#[derive(Default)]
pub(super) struct Order {
    turns: u64,
    /// In which turn, and by a change of when, that is what is told now.
    now: (Turn, Stamp),
    met: Met,
    open: BTreeMap<Turn, Open>,
    files: HashMap<Slot, (Turn, Option<Instant>)>,
    held: BTreeMap<Turn, Vec<Held>>,
    /// The last turn that something of a name is held in: of one name nothing overtakes.
    names: HashMap<Name, Turn>,
    /// First and last turns of units that no more is found of.
    units: VecDeque<(Turn, Turn)>,
    reading: Option<Reading>,
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
        self.now = (turn, Stamp::default());
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

    /// What is told from now on in this turn is by a change at `changed`.
    pub(super) fn set_changed(&mut self, changed: Stamp) {
        self.now.1 = changed;
    }

    /// A file is to be hashed, as of now; one that was to be hashed of an earlier turn is of this
    /// one. A large one is waited for until `large`.
    pub(super) fn await_file(&mut self, slot: Slot, large: Option<Instant>) {
        self.forget_file(slot);
        let turn = self.now.0;
        self.files.insert(slot, (turn, large));
        let open = self.open.entry(turn).or_default();
        match large {
            Some(until) => open.large.push(until),
            None => open.pending += 1,
        }
    }

    /// The turn of a file that is waited for.
    pub(super) fn turn_of(&self, slot: Slot) -> Option<Turn> {
        self.files.get(&slot).map(|(turn, _)| *turn)
    }

    /// Nothing waits for the file any more.
    pub(super) fn forget_file(&mut self, slot: Slot) {
        let Some((turn, large)) = self.files.remove(&slot) else {
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
            self.units.push_back((reading.first, last));
            reading.first = Turn(self.turns + 1);
        }
        if reading.left == 0 {
            self.reading = None;
        }
    }

    /// Holds what is to be told until its turn.
    pub(super) fn tell(&mut self, event: ShareEvent) {
        let (mut turn, changed) = self.now;
        if let Some(name) = name_of(&event) {
            let last = self.names.entry(name).or_insert(turn);
            *last = turn.max(*last);
            turn = *last;
        }
        let held = self.held.entry(turn).or_default();
        held.push(Held { changed, event });
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
        open.into_iter().chain(reading).min()
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
    /// What is there first, the older first; what is gone last.
    fn rank(&self) -> (bool, bool, Stamp) {
        let directory = match &self.event {
            ShareEvent::Put { entry, .. } => entry.kind == Kind::Directory,
            _ => false,
        };
        let gone = matches!(self.event, ShareEvent::Removed { .. });
        (gone, !directory, self.changed)
    }
}

fn name_of(event: &ShareEvent) -> Option<Name> {
    match event {
        ShareEvent::Put { share, path, .. } | ShareEvent::Removed { share, path } => {
            Some((*share, path.clone()))
        }
        ShareEvent::Scanned { .. } | ShareEvent::Warning { .. } => None,
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
mod tests {
    use super::super::tree::{Body, FileBody, Tree};
    use super::*;
    use crate::wire::native::record::Entry;

    fn slots() -> [Slot; 3] {
        let mut tree = Tree::new();
        let root = tree.insert_root(0);
        ["a", "b", "c"]
            .map(|name| tree.insert(root, name.as_bytes(), Body::File(FileBody::unlisted())))
    }

    fn name(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    fn removed(text: &str) -> ShareEvent {
        let (share, path) = (ShareIndex(0), name(text));
        ShareEvent::Removed { share, path }
    }

    fn put(text: &str, kind: Kind) -> ShareEvent {
        let entry = Entry {
            kind,
            mtime: Stamp::default().into(),
            version_time: Stamp::default().into(),
            sent_by: None,
        };
        let (share, path) = (ShareIndex(0), name(text));
        ShareEvent::Put { share, path, entry }
    }

    fn link(text: &str) -> ShareEvent {
        let target = bytes::Bytes::from_static(b"t");
        put(text, Kind::Symlink { target })
    }

    fn told(order: &mut Order, now: Instant) -> Vec<String> {
        let mut out = Vec::new();
        order.release(now, &mut out);
        out.iter()
            .map(|event| name_of(event).unwrap().1.to_string())
            .collect()
    }

    #[test]
    fn what_is_known_at_once_waits_for_what_is_not_known_of_an_earlier_turn() {
        let (mut order, now, [a, b, _]) = (Order::default(), Instant::now(), slots());
        order.step();
        order.await_file(a, None);
        order.step();
        order.await_file(b, None);
        order.step();
        order.tell(link("current"));
        assert!(told(&mut order, now).is_empty());
        order.set_turn(order.turn_of(b).unwrap());
        order.tell(link("b"));
        order.forget_file(b);
        assert!(told(&mut order, now).is_empty());
        order.set_turn(order.turn_of(a).unwrap());
        order.tell(link("a"));
        order.forget_file(a);
        assert_eq!(told(&mut order, now), ["a", "b", "current"]);
        assert!(order.is_empty() && order.open.is_empty() && order.names.is_empty());
    }

    #[test]
    fn a_file_that_is_given_up_and_one_that_changed_again_hold_up_nothing() {
        let (mut order, now, [a, b, _]) = (Order::default(), Instant::now(), slots());
        order.step();
        order.await_file(a, None);
        order.await_file(b, None);
        order.step();
        order.tell(link("x"));
        order.step();
        order.await_file(a, None);
        assert!(told(&mut order, now).is_empty());
        order.forget_file(b);
        assert_eq!(told(&mut order, now), ["x"]);
    }

    #[test]
    fn a_large_file_is_waited_for_and_not_for_ever() {
        let (mut order, now, [a, ..]) = (Order::default(), Instant::now(), slots());
        order.step();
        order.await_file(a, Some(now + LARGE_WAIT));
        order.step();
        order.tell(link("x"));
        assert!(told(&mut order, now).is_empty());
        assert_eq!(order.next_due(), Some(now + LARGE_WAIT));
        assert_eq!(told(&mut order, now + LARGE_WAIT), ["x"]);
        order.forget_file(a);
        assert!(order.open.is_empty());
    }

    #[test]
    fn what_is_said_of_one_name_is_never_overtaken() {
        let (mut order, now, [a, ..]) = (Order::default(), Instant::now(), slots());
        let first = order.step();
        order.await_file(a, None);
        order.step();
        order.tell(removed("x"));
        order.set_turn(first);
        order.tell(link("x"));
        order.forget_file(a);
        let mut out = Vec::new();
        order.release(now, &mut out);
        assert_eq!(out, [removed("x"), link("x")]);
    }

    #[test]
    fn a_new_directory_and_all_that_came_while_it_was_read_is_one_unit() {
        let (mut order, now, [a, b, _]) = (Order::default(), Instant::now(), slots());
        order.step();
        order.tell(put("d", Kind::Directory));
        let turn = order.await_reading().unwrap();
        order.step();
        order.await_file(b, None);
        order.set_turn_of_new(turn);
        assert!(order.note_met(9));
        order.await_file(a, None);
        order.end_reading(turn);
        order.step();
        order.tell(removed("old"));
        order.note_drained();
        order.set_turn(order.turn_of(a).unwrap());
        order.set_changed(Stamp::new(9, 0));
        order.tell(link("d/pointer"));
        order.forget_file(a);
        assert!(told(&mut order, now).is_empty(), "b is of the unit");
        order.set_turn(order.turn_of(b).unwrap());
        order.set_changed(Stamp::new(5, 0));
        order.tell(link("d/object"));
        order.forget_file(b);
        assert_eq!(told(&mut order, now), ["d", "d/object", "d/pointer", "old"]);
        assert!(order.units.is_empty() && order.reading.is_none());
    }

    #[test]
    fn a_tree_that_is_too_large_to_be_told_whole_is_told_as_it_comes() {
        let mut order = Order::default();
        order.step();
        let turn = order.await_reading().unwrap();
        assert!((0..UNIT_MAX_NAMES).all(|_| order.note_met(1)));
        assert!(!order.note_met(1));
        assert_eq!(order.await_reading(), None);
        order.end_reading(turn);
        order.note_drained();
        order.step();
        order.await_reading();
        assert!(!order.note_met(UNIT_MAX_BYTES + 1));
    }
}
