//! The queue of files that wait to be hashed. Files that were just written, or are read again, go
//! first, in order of arrival. Files found by a walk follow, oldest change first. Files over
//! [`PROMISED_MAX_BYTES`] go last, smallest first.
//!
//! A file is in the queue at most once, so the queue is at most as long as the number of shared
//! files. Each hasher thread reads one file at a time, and alternates between large files.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::at_work::HashTicket;
use super::identity::FileTimestamp;
use super::pace::ReadPace;
use super::tree::Slot;
use super::watch::Cause;

/// Size of the largest file that must be listed within 2 s (p2pfs(7)). Larger files never occupy
/// all threads.
pub(super) const PROMISED_MAX_BYTES: u64 = 64 << 20;

/// Capacity of the maps that is kept while they are empty. A first walk grows them far beyond that.
const ROOM_KEPT: usize = 1 << 10;

/// Stage of a file on its way to a hash.
pub(super) enum HashStage {
    /// The file must not be read before `until`.
    Resting {
        until: Instant,
        size_bytes: u64,
        why: Rest,
    },
    /// The file may be read. `sure` says that its writer is known to be done, or that the file was
    /// at rest.
    Queued {
        key: QueueKey,
        size_bytes: u64,
        sure: bool,
        /// Whether it is read although a program writes it all the time.
        busy: bool,
    },
    /// The file is being read. `again` is the cause of the changes noticed since.
    Hashing {
        number: u64,
        began: Instant,
        size_bytes: u64,
        cancel: Arc<AtomicBool>,
        again: Option<Cause>,
        /// Whether it is read although a program writes it all the time.
        busy: bool,
        /// Whether it is listed and only read again.
        verifies: bool,
    },
}

/// Why a file is not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It was written to, a process has it open for writing, or it could not be read for lack of
    /// resources.
    Written,
    /// Its close was reported, but it is still open for writing and was written to recently. Either
    /// the kernel has not finished the close, or another process has it open.
    Closing,
    /// It changed again too soon after it was read. `sure` is as in [`HashStage::Queued`].
    Paced { sure: bool },
    /// It is listed and only hashed again because its hash is in doubt.
    Verify,
}

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
    /// Whether it was at rest and no close was reported since its last write.
    pub(super) unclosed: bool,
    /// When its first close was reported since it was last hashed.
    pub(super) closed_at: Option<Instant>,
    /// Whether it is listed and only read again.
    pub(super) verifies: bool,
    /// Whether it is longer than at its first write since it was last hashed or, if it is busy,
    /// since it was last queued to be read between writes.
    pub(super) has_grown: bool,
    pub(super) cancel: Arc<AtomicBool>,
}

#[derive(Default)]
pub(super) struct HashQueue {
    stages: HashMap<Slot, HashStage>,
    queued: BTreeSet<QueueKey>,
    resting: BTreeSet<(Instant, Slot)>,
    /// Files that are listed and only read again.
    verifying: HashSet<Slot>,
    /// Queued files for which no close was seen.
    unclosed: HashSet<Slot>,
    /// Time of the first write that was not read yet, and size of the file then, for files that
    /// programs still write. Only these files become busy.
    written: HashMap<Slot, (Instant, u64)>,
    /// Listed files that were hashed without being read whole.
    extended: HashSet<Slot>,
    /// When the first close was reported since the file was last hashed.
    closed: HashMap<Slot, Instant>,
    pace: ReadPace,
    numbers: u64,
}

impl HashStage {
    /// Returns the size of the file as last seen.
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Resting { size_bytes, .. }
            | Self::Queued { size_bytes, .. }
            | Self::Hashing { size_bytes, .. } => *size_bytes,
        }
    }
}

impl HashQueue {
    pub(super) fn stage(&self, slot: Slot) -> Option<&HashStage> {
        self.stages.get(&slot)
    }

    /// Returns why a file rests, if it does.
    pub(super) fn why_resting(&self, slot: Slot) -> Option<Rest> {
        match self.stages.get(&slot) {
            Some(HashStage::Resting { why, .. }) => Some(*why),
            _ => None,
        }
    }

    /// Returns when a file may be read again, if it was read so recently that it must wait.
    pub(super) fn paced_until(&self, slot: Slot, now: Instant) -> Option<Instant> {
        self.pace.waits_until(slot, now)
    }

    /// Returns whether a file changes faster than it may be read.
    pub(super) fn is_busy(&self, slot: Slot, now: Instant) -> bool {
        self.pace.is_busy(slot, now)
    }

    /// Records how much the running read of a file cost.
    pub(super) fn record_read(
        &mut self,
        slot: Slot,
        size_bytes: u64,
        read_bytes: u64,
        now: Instant,
    ) {
        if let Some(HashStage::Hashing {
            began, verifies, ..
        }) = self.stages.get(&slot)
        {
            // a file that is only verified did not change again
            let began = (!verifies).then_some(*began);
            self.pace
                .record_read(slot, size_bytes, read_bytes, began, now);
        }
    }

    /// Records that a file was hashed without being read whole.
    pub(super) fn note_extended(&mut self, slot: Slot, now: Instant) {
        self.extended.insert(slot);
        self.pace.note_extended(slot, now);
    }

    /// Records that a file was hashed by reading it whole.
    pub(super) fn forget_extended(&mut self, slot: Slot) {
        self.extended.remove(&slot);
    }

    /// Returns whether a file is listed with a hash that was made without reading it whole.
    pub(super) fn is_extended(&self, slot: Slot) -> bool {
        self.extended.contains(&slot)
    }

    /// Forgets a name that is gone, and what its file cost.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.withdraw(slot);
        self.pace.forget(slot);
    }

    /// Queues a file that was just written.
    pub(super) fn enqueue(&mut self, slot: Slot, size_bytes: u64, sure: bool) {
        self.numbers += 1;
        let at = self.numbers.cast_signed();
        self.insert(QueueLane::JustWritten, at, slot, size_bytes, sure);
    }

    /// Queues a listed file to be read again.
    pub(super) fn enqueue_verify(&mut self, slot: Slot, size_bytes: u64, sure: bool) {
        self.enqueue(slot, size_bytes, sure);
        self.verifying.insert(slot);
    }

    /// Marks a file that was just queued: no close was reported since its last write.
    pub(super) fn record_unclosed(&mut self, slot: Slot) {
        self.unclosed.insert(slot);
    }

    /// Records an unread write of a file. Keeps the time and size of an earlier one.
    pub(super) fn record_written(&mut self, slot: Slot, size_bytes: u64, now: Instant) {
        self.written.entry(slot).or_insert((now, size_bytes));
    }

    /// Returns when the first unread write of a file was recorded.
    pub(super) fn written_since(&self, slot: Slot) -> Option<Instant> {
        self.written.get(&slot).map(|(since, _)| *since)
    }

    /// Forgets the unread writes of a file because it was read.
    pub(super) fn forget_written(&mut self, slot: Slot) {
        self.written.remove(&slot);
    }

    /// Queues a file that is read although a program writes it all the time.
    pub(super) fn enqueue_busy(&mut self, slot: Slot, size_bytes: u64) {
        self.enqueue(slot, size_bytes, true);
        if let Some(HashStage::Queued { busy, .. }) = self.stages.get_mut(&slot) {
            *busy = true;
        }
    }

    /// Queues a file that a walk found and that changed at `changed`.
    pub(super) fn enqueue_found(&mut self, slot: Slot, size_bytes: u64, changed: FileTimestamp) {
        let at = changed.total_nanoseconds();
        let at = at.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        self.insert(QueueLane::Found, at, slot, size_bytes, true);
    }

    fn insert(&mut self, lane: QueueLane, at: i64, slot: Slot, size_bytes: u64, sure: bool) {
        self.take_out(slot);
        let key = if size_bytes > PROMISED_MAX_BYTES {
            (QueueLane::Large, size_bytes.cast_signed(), slot)
        } else {
            (lane, at, slot)
        };
        self.queued.insert(key);
        let stage = HashStage::Queued {
            key,
            size_bytes,
            sure,
            busy: false,
        };
        self.stages.insert(slot, stage);
    }

    /// Leaves the file unread until `until`.
    pub(super) fn rest(&mut self, slot: Slot, size_bytes: u64, until: Instant, why: Rest) {
        self.take_out(slot);
        self.resting.insert((until, slot));
        if why == Rest::Verify {
            self.verifying.insert(slot);
        }
        let stage = HashStage::Resting {
            until,
            size_bytes,
            why,
        };
        self.stages.insert(slot, stage);
    }

    /// Records that a close of the file was reported. Keeps the time of an earlier close that is
    /// not forgotten yet.
    pub(super) fn record_closed(&mut self, slot: Slot, now: Instant) {
        self.closed.entry(slot).or_insert(now);
    }

    /// Returns whether a close of the file was reported since it was last hashed.
    pub(super) fn is_closed(&self, slot: Slot) -> bool {
        self.closed.contains_key(&slot)
    }

    /// Forgets the reported close of a file because the file was hashed or replaced.
    pub(super) fn forget_closed(&mut self, slot: Slot) {
        self.closed.remove(&slot);
    }

    /// Removes the file from any stage. The result of a running read is ignored.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        self.closed.remove(&slot);
        self.written.remove(&slot);
        self.extended.remove(&slot);
        self.take_out(slot);
    }

    fn take_out(&mut self, slot: Slot) {
        self.verifying.remove(&slot);
        self.unclosed.remove(&slot);
        match self.stages.remove(&slot) {
            Some(HashStage::Resting { until, .. }) => {
                self.resting.remove(&(until, slot));
            }
            Some(HashStage::Queued { key, .. }) => {
                self.queued.remove(&key);
            }
            Some(HashStage::Hashing { cancel, .. }) => cancel.store(true, Ordering::Relaxed),
            None => {}
        }
    }

    /// Records a change of a file that is being read, so that the result of the read is not final.
    /// A write also cancels the read, unless the file is busy. Returns whether the file is being
    /// read.
    pub(super) fn record_change(&mut self, slot: Slot, cause: Cause) -> bool {
        let Some(HashStage::Hashing {
            cancel,
            again,
            busy,
            ..
        }) = self.stages.get_mut(&slot)
        else {
            return false;
        };
        *again = Some(again.map_or(cause, |before| before.then(cause)));
        self.verifying.remove(&slot);
        if cause >= Cause::Modified && !*busy {
            cancel.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Returns the next file to read. Returns `None` if the queue is empty, if the next file is
    /// larger than `size_max_bytes`, or if it is over [`PROMISED_MAX_BYTES`] and `prompt_only` is
    /// set.
    pub(super) fn take(&mut self, prompt_only: bool, size_max_bytes: u64) -> Option<DequeuedFile> {
        let key = *self.queued.first()?;
        let Some(HashStage::Queued {
            size_bytes,
            sure,
            busy,
            ..
        }) = self.stages.get(&key.2)
        else {
            return None;
        };
        let (slot, size_bytes, sure, busy) = (key.2, *size_bytes, *sure, *busy);
        if size_bytes > size_max_bytes || (prompt_only && key.0 == QueueLane::Large) {
            return None;
        }
        self.queued.remove(&key);
        self.numbers += 1;
        let (number, cancel) = (self.numbers, Arc::new(AtomicBool::new(false)));
        let verifies = self.verifying.contains(&slot);
        let written = self.written.get(&slot);
        let has_grown = written.is_some_and(|(_, then_bytes)| size_bytes > *then_bytes);
        if busy {
            self.written.insert(slot, (Instant::now(), size_bytes));
        }
        let hashing = HashStage::Hashing {
            number,
            began: Instant::now(),
            size_bytes,
            cancel: cancel.clone(),
            again: None,
            busy,
            verifies,
        };
        self.stages.insert(slot, hashing);
        Some(DequeuedFile {
            just_written: key.0 == QueueLane::JustWritten,
            held: HashTicket {
                slot,
                number,
                sure,
                busy,
            },
            size_bytes,
            unclosed: self.unclosed.remove(&slot),
            closed_at: self.closed.get(&slot).copied(),
            verifies,
            has_grown,
            cancel,
        })
    }

    /// Ends the read `number` of a file. Returns the cause of the changes noticed meanwhile and the
    /// size expected at its start, or `None` if the result must be ignored.
    pub(super) fn finish(&mut self, slot: Slot, number: u64) -> Option<(Option<Cause>, u64)> {
        match self.stages.get(&slot) {
            Some(HashStage::Hashing {
                number: current,
                size_bytes,
                again,
                ..
            }) if *current == number => {
                let finished = (*again, *size_bytes);
                self.stages.remove(&slot);
                self.verifying.remove(&slot);
                if self.stages.is_empty() {
                    self.stages.shrink_to(ROOM_KEPT);
                    self.verifying.shrink_to(ROOM_KEPT);
                    self.closed.shrink_to(ROOM_KEPT);
                    self.written.shrink_to(ROOM_KEPT);
                    self.extended.shrink_to(ROOM_KEPT);
                }
                Some(finished)
            }
            _ => None,
        }
    }

    /// Returns the files that have rested long enough. They keep their stage until they are queued.
    pub(super) fn rested(&self, now: Instant) -> Vec<(Slot, u64)> {
        let over = self.resting.iter().take_while(|(until, _)| *until <= now);
        let sized = |(_, slot): &(Instant, Slot)| match self.stages.get(slot) {
            Some(HashStage::Resting { size_bytes, .. }) => (*slot, *size_bytes),
            _ => (*slot, 0),
        };
        over.map(sized).collect()
    }

    pub(super) fn next_rested(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Returns the number of files with content that is not listed yet. Files that are only
    /// verified are listed.
    pub(super) fn files_left(&self) -> usize {
        self.stages.len() - self.verifying.len()
    }

    /// Returns the files that [`Self::files_left`] counts.
    pub(super) fn left(&self) -> impl Iterator<Item = Slot> + '_ {
        let slots = self.stages.keys().copied();
        slots.filter(|slot| !self.verifying.contains(slot))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tree::{NodeBody, Tree};
    use super::*;

    fn slots() -> [Slot; 5] {
        let mut tree = Tree::new();
        let root = tree.insert_root(0);
        ["a", "b", "c", "d", "e"]
            .map(|name| tree.insert(root, name.as_bytes(), NodeBody::unlisted()))
    }

    #[test]
    fn just_closed_files_come_first_then_the_oldest_and_large_ones_last() {
        let [a, b, c, d, e] = slots();
        let mut queue = HashQueue::default();
        let found = |seconds| FileTimestamp::new(seconds, 0);
        queue.enqueue(d, PROMISED_MAX_BYTES + 1, true);
        queue.enqueue_found(a, 1, found(9));
        queue.enqueue_found(e, 500, found(-3));
        queue.enqueue(b, 500, true);
        queue.enqueue(c, 5, true);
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
        queue.enqueue(a, PROMISED_MAX_BYTES + 1, true);
        assert!(queue.take(true, u64::MAX).is_none());
        queue.enqueue_found(b, PROMISED_MAX_BYTES, FileTimestamp::default());
        assert_eq!(queue.take(true, u64::MAX).unwrap().held.slot, b);
        assert_eq!(queue.take(false, u64::MAX).unwrap().held.slot, a);
    }

    #[test]
    fn the_hash_of_a_withdrawn_file_is_discarded() {
        let [a, ..] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue(a, 1, true);
        let taken = queue.take(false, u64::MAX).unwrap();
        queue.withdraw(a);
        assert!(taken.cancel.load(Ordering::Relaxed));
        assert_eq!(queue.finish(a, taken.held.number), None);
        queue.enqueue(a, 1, true);
        let second = queue.take(false, u64::MAX).unwrap();
        assert_eq!(queue.finish(a, taken.held.number), None);
        assert_eq!(queue.finish(a, second.held.number), Some((None, 1)));
        assert_eq!(queue.files_left(), 0);
    }

    #[test]
    fn a_change_during_hashing_is_reported_at_its_end() {
        let [a, ..] = slots();
        let mut queue = HashQueue::default();
        assert!(!queue.record_change(a, Cause::Closed));
        queue.enqueue(a, 1, false);
        let taken = queue.take(false, u64::MAX).unwrap();
        assert!(queue.record_change(a, Cause::Walk));
        assert!(!taken.cancel.load(Ordering::Relaxed));
        assert!(queue.record_change(a, Cause::Modified));
        assert!(queue.record_change(a, Cause::Walk));
        assert!(taken.cancel.load(Ordering::Relaxed));
        let finished = queue.finish(a, taken.held.number);
        assert_eq!(finished, Some((Some(Cause::Modified), 1)));
    }

    #[test]
    fn a_listed_file_that_changes_during_rehashing_is_queued_again() {
        let [a, ..] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue_verify(a, 1, true);
        let _taken = queue.take(false, u64::MAX).unwrap();
        assert_eq!(queue.files_left(), 0);
        assert!(queue.record_change(a, Cause::Modified));
        assert_eq!(queue.files_left(), 1);
    }

    #[test]
    fn a_resting_file_is_due_when_its_time_is_over() {
        let [a, b, ..] = slots();
        let mut queue = HashQueue::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        queue.rest(a, 7, later(2), Rest::Written);
        queue.rest(b, 8, later(5), Rest::Verify);
        assert_eq!(queue.files_left(), 1);
        assert!(queue.rested(later(1)).is_empty());
        assert_eq!(queue.rested(later(2)), [(a, 7)]);
        queue.rest(a, 7, later(9), Rest::Written);
        assert_eq!(queue.rested(later(5)), [(b, 8)]);
        assert_eq!(queue.next_rested(), Some(later(5)));
        queue.withdraw(b);
        queue.withdraw(a);
        assert_eq!(queue.next_rested(), None);
        assert_eq!(queue.files_left(), 0);
    }
}
