//! The queue of files that wait to be hashed. Files that were just written or reported, that are in
//! a small new tree, or that are read again go first, in order of arrival. Files that a walk found
//! or that are in a large new tree follow, oldest change first. Files over [`PROMISED_MAX_BYTES`]
//! go last, smallest first.
//!
//! A file is in the queue at most once, so the queue is at most as long as the number of shared
//! files. The table of [`NameState`] decides when a file gets which place. The queue stores the
//! state of each file together with its place. A hasher thread reads a small file in one go. It
//! reads its large files in turns, a part of each at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::at_work::HashTicket;
use super::name_state::{
    Effects, FileNotes, ListingChange, NameFacts, NameState, Observation, PlaceChange, ReadPurpose,
};
use super::outcome::{FinishedRead, HashOutcome};
use super::pace::{ReadCost, ReadPace};
use super::tree::Slot;
use super::watch::Cause;

/// Size of the largest file that must be listed within 2 s (p2pfs(7)). Larger files never occupy
/// all threads.
pub(super) const PROMISED_MAX_BYTES: u64 = 64 << 20;

/// Capacity of the maps that is kept while they are empty. A first walk grows them far beyond that.
const ROOM_KEPT: usize = 1 << 10;

/// Sort key of the queue. In each lane, files are sorted by a number: in `JustWritten` the order of
/// arrival, in `Found` the time of the last change, in `Large` the size.
pub(super) type QueueKey = (QueueLane, i64, Slot);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum QueueLane {
    JustWritten,
    Found,
    Large,
}

/// A file to hash now.
pub(super) struct DequeuedFile {
    /// Whether the file is from [`QueueLane::JustWritten`]; false if a walk found the file or it is
    /// large.
    pub(super) just_written: bool,
    pub(super) held: HashTicket,
    pub(super) size_bytes: u64,
    /// Whether the file is read for [`ReadPurpose::ListUnclosed`].
    pub(super) unclosed: bool,
    /// When its first close was reported since it was last hashed.
    pub(super) closed_at: Option<Instant>,
    /// Whether the file is listed, and is only read to verify its hash.
    pub(super) verifies: bool,
    /// Whether the file is longer than the size that [`FileNotes::written`] had before this read.
    pub(super) has_grown: bool,
    pub(super) cancel: Arc<AtomicBool>,
}

/// Place of a file that waits to be read or is being read.
enum QueuePlace {
    /// No read is due.
    Aside,
    /// The file must not be read before this time.
    Resting(Instant),
    /// Lane of the file, and its number in the lane.
    Queued(QueueLane, i64),
    Running(Box<RunningRead>),
}

/// A running read.
struct RunningRead {
    number: u64,
    began: Instant,
    cancel: Arc<AtomicBool>,
}

/// A name with a read that is due, or with notes for the check that was requested.
struct FileRecord {
    state: NameState,
    place: QueuePlace,
    /// Size of the file when it got its place.
    size_bytes: u64,
    /// A file that a walk finds has notes only if it was just written, so a first walk allocates
    /// few.
    notes: Option<Box<FileNotes>>,
}

#[derive(Default)]
pub(super) struct HashQueue {
    records: HashMap<Slot, FileRecord>,
    queued: BTreeSet<QueueKey>,
    resting: BTreeSet<(Instant, Slot)>,
    /// Number of records with [`NameState::is_left`].
    left: usize,
    pace: ReadPace,
    numbers: u64,
}

impl FileRecord {
    fn notes(&self) -> FileNotes {
        self.notes.as_deref().copied().unwrap_or_default()
    }

    fn set_notes(&mut self, notes: FileNotes) {
        self.notes = (notes != FileNotes::default()).then(|| Box::new(notes));
    }
}

impl HashQueue {
    /// Returns the state of a file that waits to be read, is being read, or is to be checked after
    /// its read. Returns `None` for any other name; the tree has the state of that name.
    pub(super) fn state(&self, slot: Slot) -> Option<NameState> {
        self.records.get(&slot).map(|record| record.state)
    }

    /// Returns the size that a waiting file had when it got its place.
    pub(super) fn size_bytes(&self, slot: Slot) -> u64 {
        self.records.get(&slot).map_or(0, |it| it.size_bytes)
    }

    /// Returns the notes about a waiting file.
    pub(super) fn notes(&self, slot: Slot) -> FileNotes {
        let record = self.records.get(&slot);
        record.map(FileRecord::notes).unwrap_or_default()
    }

    /// Returns whether a file changes faster than it may be read.
    pub(super) fn is_busy(&self, slot: Slot, now: Instant) -> bool {
        self.pace.is_busy(slot, now)
    }

    /// Returns whether a file that is read now may be hashed from its listed version if it grew:
    /// whether it is large, is written without a rest or changes again and again. Another file is
    /// read whole, because then its hash is never in doubt.
    pub(super) fn may_extend(&self, taken: &DequeuedFile, now: Instant) -> bool {
        let is_paced = || self.pace.is_paced(taken.held.slot, now);
        taken.size_bytes > PROMISED_MAX_BYTES || taken.held.busy || is_paced()
    }

    /// Applies an observation of a name to its state, and moves the file to its new place. Returns
    /// the effects on the order and the listing.
    pub(super) fn observe(
        &mut self,
        slot: Slot,
        observation: Observation,
        facts: NameFacts,
    ) -> Effects {
        let facts = NameFacts {
            paced_until: self.pace.waits_until(slot, facts.now),
            ..facts
        };
        let before = self.state(slot).unwrap_or(facts.shown);
        let mut notes = self.notes(slot);
        let (next, effects) = before.after(observation, &mut notes, &facts);
        if matches!(effects.listing, ListingChange::Remove) {
            self.pace.forget(slot);
        }
        let is_due = next == NameState::Doubted || next.waits_for_read();
        if is_due || next == NameState::Checking {
            self.record(slot, next, notes, &facts);
            self.set_place(slot, effects.place, &facts);
        } else {
            self.remove(slot);
        }
        effects
    }

    /// Stores the state and the notes of a file.
    fn record(&mut self, slot: Slot, state: NameState, notes: FileNotes, facts: &NameFacts) {
        let record = self.records.entry(slot).or_insert(FileRecord {
            state: NameState::Absent,
            place: QueuePlace::Aside,
            size_bytes: facts.size_bytes,
            notes: None,
        });
        self.left += usize::from(state.is_left());
        self.left -= usize::from(record.state.is_left());
        record.state = state;
        record.set_notes(notes);
    }

    fn remove(&mut self, slot: Slot) {
        self.leave_place(slot);
        if let Some(record) = self.records.remove(&slot) {
            self.left -= usize::from(record.state.is_left());
        }
        if self.records.is_empty() {
            self.records.shrink_to(ROOM_KEPT);
        }
    }

    fn set_place(&mut self, slot: Slot, change: PlaceChange, facts: &NameFacts) {
        let place = match change {
            PlaceChange::Keep => return,
            PlaceChange::CancelRead => return self.cancel_read(slot),
            PlaceChange::RestUntil(until) => QueuePlace::Resting(until),
            PlaceChange::Leave => QueuePlace::Aside,
            PlaceChange::Enqueue(lane) => self.next_place(lane, facts),
        };
        self.leave_place(slot);
        match place {
            QueuePlace::Resting(until) => drop(self.resting.insert((until, slot))),
            QueuePlace::Queued(lane, at) => drop(self.queued.insert((lane, at, slot))),
            QueuePlace::Aside | QueuePlace::Running(_) => {}
        }
        if let Some(record) = self.records.get_mut(&slot) {
            record.place = place;
            record.size_bytes = facts.size_bytes;
        }
    }

    /// Returns the place for a file that is queued now.
    fn next_place(&mut self, lane: QueueLane, facts: &NameFacts) -> QueuePlace {
        let size_bytes = facts.size_bytes;
        match lane {
            _ if size_bytes > PROMISED_MAX_BYTES => {
                QueuePlace::Queued(QueueLane::Large, size_bytes.cast_signed())
            }
            QueueLane::Found => {
                let at = facts.changed.total_nanoseconds();
                let at = at.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
                QueuePlace::Queued(lane, at)
            }
            lane => {
                self.numbers += 1;
                QueuePlace::Queued(lane, self.numbers.cast_signed())
            }
        }
    }

    /// Takes a file out of its place. A running read is cancelled, and its result is ignored.
    fn leave_place(&mut self, slot: Slot) {
        self.cancel_read(slot);
        let Some(record) = self.records.get_mut(&slot) else {
            return;
        };
        match std::mem::replace(&mut record.place, QueuePlace::Aside) {
            QueuePlace::Resting(until) => drop(self.resting.remove(&(until, slot))),
            QueuePlace::Queued(lane, at) => drop(self.queued.remove(&(lane, at, slot))),
            QueuePlace::Aside | QueuePlace::Running(_) => {}
        }
    }

    fn cancel_read(&self, slot: Slot) {
        if let Some(FileRecord {
            place: QueuePlace::Running(read),
            ..
        }) = self.records.get(&slot)
        {
            read.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the next file to read. Returns `None` if the queue is empty, if the next file is
    /// larger than `size_max_bytes`, or if it is over [`PROMISED_MAX_BYTES`] and `prompt_only` is
    /// set.
    pub(super) fn take(&mut self, prompt_only: bool, size_max_bytes: u64) -> Option<DequeuedFile> {
        let key = *self.queued.first()?;
        let (lane, _, slot) = key;
        let record = self.records.get_mut(&slot)?;
        let size_bytes = record.size_bytes;
        if size_bytes > size_max_bytes || (prompt_only && lane == QueueLane::Large) {
            return None;
        }
        let (mut notes, now) = (record.notes(), Instant::now());
        let written = notes.written;
        let NameState::Queued { purpose, sure } = record.state else {
            return None;
        };
        record.state = record.state.taken(&mut notes, size_bytes, now)?;
        record.set_notes(notes);
        self.queued.remove(&key);
        if purpose == ReadPurpose::ListBusy {
            self.pace.record_unrested(slot, now);
        }
        self.numbers += 1;
        let (number, cancel) = (self.numbers, Arc::new(AtomicBool::new(false)));
        record.place = QueuePlace::Running(Box::new(RunningRead {
            number,
            began: now,
            cancel: cancel.clone(),
        }));
        Some(DequeuedFile {
            just_written: lane == QueueLane::JustWritten,
            held: HashTicket {
                slot,
                number,
                sure,
                busy: purpose == ReadPurpose::ListBusy,
            },
            size_bytes,
            unclosed: purpose == ReadPurpose::ListUnclosed,
            closed_at: notes.closed_at,
            verifies: purpose == ReadPurpose::Verify,
            has_grown: written.is_some_and(|(_, then_bytes)| size_bytes > then_bytes),
            cancel,
        })
    }

    /// Records what a read cost. Returns the cause of the changes noticed during the read and the
    /// size expected at its start, or `None` if the result must be ignored.
    pub(super) fn end_read(
        &mut self,
        read: &FinishedRead,
        now: Instant,
    ) -> Option<(Option<Cause>, u64)> {
        let record = self.records.get(&read.held.slot)?;
        let (NameState::Hashing { purpose, again, .. }, QueuePlace::Running(running)) =
            (record.state, &record.place)
        else {
            return None;
        };
        if running.number != read.held.number {
            return None;
        }
        // a file that is only verified did not change again
        let changed = (purpose != ReadPurpose::Verify).then_some(running.began);
        let size_bytes = record.size_bytes;
        let cost = ReadCost {
            size_bytes,
            read_bytes: read.read_bytes,
            is_extension: read.extends.is_some(),
            is_cancelled: !matches!(read.settled(again), HashOutcome::Hashed { .. }),
            changed,
        };
        self.pace.record_read(read.held.slot, cost, now);
        Some((again, size_bytes))
    }

    /// Returns the files that have rested long enough. They keep their places until that is
    /// observed.
    pub(super) fn rested(&self, now: Instant) -> Vec<Slot> {
        let over = self.resting.iter().take_while(|(until, _)| *until <= now);
        over.map(|(_, slot)| *slot).collect()
    }

    pub(super) fn next_rested(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Returns the number of files with content that is not listed yet. Files that are only
    /// verified are listed.
    pub(super) fn files_left(&self) -> usize {
        self.left
    }

    /// Returns the files that [`Self::files_left`] counts.
    pub(super) fn left(&self) -> impl Iterator<Item = Slot> + '_ {
        let left = self.records.iter().filter(|(_, it)| it.state.is_left());
        left.map(|(slot, _)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::identity::FileTimestamp;
    use super::super::name_state::FoundBy;
    use super::super::tree::{NodeBody, Tree};
    use super::*;

    const QUIET: Duration = Duration::from_secs(2);

    fn slots() -> [Slot; 5] {
        let mut tree = Tree::new();
        let root = tree.insert_root(0);
        ["a", "b", "c", "d", "e"]
            .map(|name| tree.insert(root, name.as_bytes(), NodeBody::unlisted()))
    }

    /// Passes an observation of a file with this size, last changed at `changed`, in.
    fn see(
        queue: &mut HashQueue,
        (slot, size_bytes): (Slot, u64),
        observation: Observation,
        changed: FileTimestamp,
        now: Instant,
    ) {
        let facts = NameFacts {
            now,
            quiet: QUIET,
            size_bytes,
            changed,
            shown: NameState::Absent,
            paced_until: None,
        };
        queue.observe(slot, observation, facts);
    }

    impl HashQueue {
        fn change(&mut self, slot: Slot, size_bytes: u64, cause: Cause) {
            let changed = Observation::Changed {
                cause,
                recent: true,
                found: FoundBy::Report,
            };
            let (date, now) = (FileTimestamp::default(), Instant::now());
            see(self, (slot, size_bytes), changed, date, now);
        }

        fn enqueue(&mut self, slot: Slot, size_bytes: u64) {
            self.change(slot, size_bytes, Cause::Closed);
        }

        fn enqueue_found(&mut self, slot: Slot, size_bytes: u64, changed: FileTimestamp) {
            let found = Observation::Changed {
                cause: Cause::Walk,
                recent: false,
                found: FoundBy::Walk,
            };
            see(self, (slot, size_bytes), found, changed, Instant::now());
        }

        fn rest(&mut self, slot: Slot, size_bytes: u64, until: Instant, observation: Observation) {
            let date = FileTimestamp::default();
            see(self, (slot, size_bytes), observation, date, until - QUIET);
            assert!(self.resting.contains(&(until, slot)));
        }

        fn withdraw(&mut self, slot: Slot) {
            let (date, now) = (FileTimestamp::default(), Instant::now());
            see(self, (slot, 0), Observation::Gone, date, now);
        }

        fn is_read(&self, slot: Slot) -> bool {
            matches!(self.state(slot), Some(NameState::Hashing { .. }))
        }
    }

    const WRITTEN: Observation = Observation::Changed {
        cause: Cause::Modified,
        recent: true,
        found: FoundBy::Report,
    };
    const DOUBTED: Observation = Observation::Remembered { doubted: true };

    /// Returns the end of a read without a hash.
    fn unread(held: HashTicket) -> FinishedRead {
        FinishedRead::of(held, HashOutcome::Want)
    }

    #[test]
    fn just_closed_files_come_first_then_the_oldest_and_large_ones_last() {
        let [a, b, c, d, e] = slots();
        let mut queue = HashQueue::default();
        let found = |seconds| FileTimestamp::new(seconds, 0);
        queue.enqueue(d, PROMISED_MAX_BYTES + 1);
        queue.enqueue_found(a, 1, found(9));
        queue.enqueue_found(e, 500, found(-3));
        queue.enqueue(b, 500);
        queue.enqueue(c, 5);
        let mut taken = || queue.take(false, u64::MAX).map(|t| t.held.slot);
        assert_eq!(
            [taken(), taken(), taken(), taken(), taken()],
            [Some(b), Some(c), Some(e), Some(a), Some(d)]
        );
        assert_eq!(taken(), None);
    }

    #[test]
    fn a_thread_reserved_for_prompt_files_skips_large_ones() {
        let [a, b, ..] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue(a, PROMISED_MAX_BYTES + 1);
        assert!(queue.take(true, u64::MAX).is_none());
        queue.enqueue_found(b, PROMISED_MAX_BYTES, FileTimestamp::default());
        assert_eq!(queue.take(true, u64::MAX).unwrap().held.slot, b);
        assert_eq!(queue.take(false, u64::MAX).unwrap().held.slot, a);
    }

    #[test]
    fn the_hash_of_a_withdrawn_file_is_discarded() {
        let ([a, ..], now) = (slots(), Instant::now());
        let mut queue = HashQueue::default();
        queue.enqueue(a, 1);
        let taken = queue.take(false, u64::MAX).unwrap();
        queue.withdraw(a);
        assert!(taken.cancel.load(Ordering::Relaxed));
        assert_eq!(queue.end_read(&unread(taken.held), now), None);
        queue.enqueue(a, 1);
        let second = queue.take(false, u64::MAX).unwrap();
        assert_eq!(queue.end_read(&unread(taken.held), now), None);
        assert_eq!(queue.end_read(&unread(second.held), now), Some((None, 1)));
        queue.withdraw(a);
        assert_eq!(queue.files_left(), 0);
    }

    #[test]
    fn a_change_during_hashing_is_reported_at_its_end() {
        let ([a, ..], now) = (slots(), Instant::now());
        let mut queue = HashQueue::default();
        assert!(!queue.is_read(a));
        queue.change(a, 1, Cause::Reopened);
        let taken = queue.take(false, u64::MAX).unwrap();
        assert!(queue.is_read(a));
        queue.change(a, 1, Cause::Walk);
        assert!(!taken.cancel.load(Ordering::Relaxed));
        queue.change(a, 1, Cause::Modified);
        queue.change(a, 1, Cause::Walk);
        assert!(queue.is_read(a));
        assert!(taken.cancel.load(Ordering::Relaxed));
        let finished = queue.end_read(&unread(taken.held), now);
        assert_eq!(finished, Some((Some(Cause::Modified), 1)));
    }

    #[test]
    fn a_listed_file_that_changes_during_rehashing_is_queued_again() {
        let ([a, ..], now) = (slots(), Instant::now());
        let mut queue = HashQueue::default();
        queue.rest(a, 1, now, DOUBTED);
        let (date, rested) = (
            FileTimestamp::default(),
            Observation::Rested {
                watched: true,
                witnessed: false,
            },
        );
        see(&mut queue, (a, 1), rested, date, now);
        let _taken = queue.take(false, u64::MAX).unwrap();
        assert_eq!(queue.files_left(), 0);
        queue.change(a, 1, Cause::Modified);
        assert_eq!(queue.files_left(), 1);
    }

    #[test]
    fn a_resting_file_is_due_when_its_time_is_over() {
        let [a, b, ..] = slots();
        let mut queue = HashQueue::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        queue.rest(a, 7, later(2), WRITTEN);
        queue.rest(b, 8, later(5), DOUBTED);
        assert_eq!(queue.files_left(), 1);
        assert!(queue.rested(later(1)).is_empty());
        assert_eq!(queue.rested(later(2)), [a]);
        assert_eq!(queue.size_bytes(a), 7);
        queue.rest(a, 7, later(9), WRITTEN);
        assert_eq!(queue.rested(later(5)), [b]);
        assert_eq!(queue.size_bytes(b), 8);
        assert_eq!(queue.next_rested(), Some(later(5)));
        queue.withdraw(b);
        queue.withdraw(a);
        assert_eq!(queue.next_rested(), None);
        assert_eq!(queue.files_left(), 0);
    }

    #[test]
    fn a_waiting_file_costs_56_bytes_besides_its_place() {
        assert!(size_of::<(Slot, FileRecord)>() <= 56);
    }
}
