//! Which files wait to be hashed, and which first: those just closed, in the order in which they
//! came, before those that a walk found, the oldest change first, and the large ones last.
//!
//! There is at most one ticket a file, so the queue is as long as the share has files, and what is
//! hashed at a time is the number of threads.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::at_work::Held;
use super::identity::Stamp;
use super::tree::Slot;
use super::watch::Cause;

/// The largest file that is promised to be listed within 2 s (p2pfs(7)): larger ones never take
/// every thread.
pub(super) const PROMISED_MAX_BYTES: u64 = 64 << 20;

/// Room for files that is kept while none waits: a first walk needs room for very many.
const ROOM_KEPT: usize = 1 << 10;

/// Where a file is on its way to a hash.
pub(super) enum Stage {
    /// It must be left alone until then.
    Resting {
        until: Instant,
        size_bytes: u64,
        why: Rest,
    },
    /// It may be read. `sure` says that its writer is known to be done or at rest.
    Queued {
        key: Key,
        size_bytes: u64,
        sure: bool,
    },
    /// It is being read; `again` is what was noticed since.
    Hashing {
        number: u64,
        size_bytes: u64,
        cancel: Arc<AtomicBool>,
        again: Option<Cause>,
    },
}

/// Why a file is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It was written to, or somebody has it open for writing.
    Written,
    /// Its close was reported, and yet it is open for writing and was written to lately: who closed
    /// it may be about to be done with that, or another may have it open.
    Closing,
    /// It is listed and only to be hashed once more, because its hash was racy.
    Verify,
}

/// What is read first: by lane, then by when it came or changed, or by size where it is large.
pub(super) type Key = (Lane, i64, Slot);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    JustWritten,
    Found,
    Large,
}

/// A file to hash now.
pub(super) struct Taken {
    /// By a writer that was noticed, not found by a walk.
    pub(super) just_written: bool,
    pub(super) held: Held,
    pub(super) size_bytes: u64,
    /// It was at rest, and no close was reported since it was written to.
    pub(super) unclosed: bool,
    /// Since when a close of it waits for others who write to it.
    pub(super) closed_at: Option<Instant>,
    pub(super) cancel: Arc<AtomicBool>,
}

#[derive(Default)]
pub(super) struct HashQueue {
    stages: HashMap<Slot, Stage>,
    queued: BTreeSet<Key>,
    resting: BTreeSet<(Instant, Slot)>,
    /// Files that are listed and only read once more.
    verifying: HashSet<Slot>,
    /// Files to be read that nobody was seen closing.
    unclosed: HashSet<Slot>,
    /// Since when a close waits that was reported, of files that others write to.
    closed: HashMap<Slot, Instant>,
    numbers: u64,
}

impl Stage {
    /// The length of the file, as it was seen last.
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Resting { size_bytes, .. }
            | Self::Queued { size_bytes, .. }
            | Self::Hashing { size_bytes, .. } => *size_bytes,
        }
    }
}

impl HashQueue {
    pub(super) fn stage(&self, slot: Slot) -> Option<&Stage> {
        self.stages.get(&slot)
    }

    /// Why a file is left alone, where it is.
    pub(super) fn why_resting(&self, slot: Slot) -> Option<Rest> {
        match self.stages.get(&slot) {
            Some(Stage::Resting { why, .. }) => Some(*why),
            _ => None,
        }
    }

    /// Lets a file be read that was just written.
    pub(super) fn enqueue(&mut self, slot: Slot, size_bytes: u64, sure: bool) {
        self.numbers += 1;
        let at = self.numbers.cast_signed();
        self.insert(Lane::JustWritten, at, slot, size_bytes, sure);
    }

    /// Lets a file be read once more that is listed.
    pub(super) fn enqueue_verify(&mut self, slot: Slot, size_bytes: u64, sure: bool) {
        self.enqueue(slot, size_bytes, sure);
        self.verifying.insert(slot);
    }

    /// Of a file that was just enqueued: nobody was seen closing it.
    pub(super) fn note_unclosed(&mut self, slot: Slot) {
        self.unclosed.insert(slot);
    }

    /// Lets a file be read that a walk found, and that changed at `changed`.
    pub(super) fn enqueue_found(&mut self, slot: Slot, size_bytes: u64, changed: Stamp) {
        let at = changed.total_nanoseconds();
        let at = at.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        self.insert(Lane::Found, at, slot, size_bytes, true);
    }

    fn insert(&mut self, lane: Lane, at: i64, slot: Slot, size_bytes: u64, sure: bool) {
        self.take_out(slot);
        let key = if size_bytes > PROMISED_MAX_BYTES {
            (Lane::Large, size_bytes.cast_signed(), slot)
        } else {
            (lane, at, slot)
        };
        self.queued.insert(key);
        let stage = Stage::Queued {
            key,
            size_bytes,
            sure,
        };
        self.stages.insert(slot, stage);
    }

    /// Leaves the file alone for a while.
    pub(super) fn rest(&mut self, slot: Slot, size_bytes: u64, until: Instant, why: Rest) {
        self.take_out(slot);
        self.resting.insert((until, slot));
        if why == Rest::Verify {
            self.verifying.insert(slot);
        }
        let stage = Stage::Resting {
            until,
            size_bytes,
            why,
        };
        self.stages.insert(slot, stage);
    }

    /// A close of the file waits, from now on unless one does already.
    pub(super) fn note_closed(&mut self, slot: Slot, now: Instant) {
        self.closed.entry(slot).or_insert(now);
    }

    /// Whether a close of the file waits.
    pub(super) fn is_closed(&self, slot: Slot) -> bool {
        self.closed.contains_key(&slot)
    }

    /// No close of the file waits any more: it was read.
    pub(super) fn forget_closed(&mut self, slot: Slot) {
        self.closed.remove(&slot);
    }

    /// Takes the file out, wherever it is; a hashing that goes on counts for nothing.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        self.closed.remove(&slot);
        self.take_out(slot);
    }

    fn take_out(&mut self, slot: Slot) {
        self.verifying.remove(&slot);
        self.unclosed.remove(&slot);
        match self.stages.remove(&slot) {
            Some(Stage::Resting { until, .. }) => {
                self.resting.remove(&(until, slot));
            }
            Some(Stage::Queued { key, .. }) => {
                self.queued.remove(&key);
            }
            Some(Stage::Hashing { cancel, .. }) => cancel.store(true, Ordering::Relaxed),
            None => {}
        }
    }

    /// Notes that something happened to a file while it is being read, so that it is not listed as
    /// it is; one that is written to need not be read to its end. Says whether it is being read.
    pub(super) fn note_change(&mut self, slot: Slot, cause: Cause) -> bool {
        let Some(Stage::Hashing { cancel, again, .. }) = self.stages.get_mut(&slot) else {
            return false;
        };
        *again = Some(again.map_or(cause, |before| before.then(cause)));
        self.verifying.remove(&slot);
        if cause >= Cause::Modified {
            cancel.store(true, Ordering::Relaxed);
        }
        true
    }

    /// The next file to read: nothing over [`PROMISED_MAX_BYTES`] where `prompt_only`, and
    /// nothing where it is over `size_max_bytes`.
    pub(super) fn take(&mut self, prompt_only: bool, size_max_bytes: u64) -> Option<Taken> {
        let key = *self.queued.first()?;
        let Some(Stage::Queued {
            size_bytes, sure, ..
        }) = self.stages.get(&key.2)
        else {
            return None;
        };
        let (slot, size_bytes, sure) = (key.2, *size_bytes, *sure);
        if size_bytes > size_max_bytes || (prompt_only && key.0 == Lane::Large) {
            return None;
        }
        self.queued.remove(&key);
        self.numbers += 1;
        let (number, cancel) = (self.numbers, Arc::new(AtomicBool::new(false)));
        let hashing = Stage::Hashing {
            number,
            size_bytes,
            cancel: cancel.clone(),
            again: None,
        };
        self.stages.insert(slot, hashing);
        Some(Taken {
            just_written: key.0 == Lane::JustWritten,
            held: Held { slot, number, sure },
            size_bytes,
            unclosed: self.unclosed.remove(&slot),
            closed_at: self.closed.get(&slot).copied(),
            cancel,
        })
    }

    /// The reading `number` has ended. None where it counts for nothing any more, else what was
    /// noticed meanwhile, and the size that it was thought to have.
    pub(super) fn finish(&mut self, slot: Slot, number: u64) -> Option<(Option<Cause>, u64)> {
        match self.stages.get(&slot) {
            Some(Stage::Hashing {
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
                }
                Some(finished)
            }
            _ => None,
        }
    }

    /// Files whose rest is over; they stay where they are until they are enqueued.
    pub(super) fn rested(&self, now: Instant) -> Vec<(Slot, u64)> {
        let over = self.resting.iter().take_while(|(until, _)| *until <= now);
        let sized = |(_, slot): &(Instant, Slot)| match self.stages.get(slot) {
            Some(Stage::Resting { size_bytes, .. }) => (*slot, *size_bytes),
            _ => (*slot, 0),
        };
        over.map(sized).collect()
    }

    pub(super) fn next_rested(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Files not listed as they are; those only to be verified are.
    pub(super) fn files_left(&self) -> usize {
        self.stages.len() - self.verifying.len()
    }

    /// Those of [`Self::files_left`].
    pub(super) fn left(&self) -> impl Iterator<Item = Slot> + '_ {
        let slots = self.stages.keys().copied();
        slots.filter(|slot| !self.verifying.contains(slot))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tree::{Body, Tree};
    use super::*;

    fn slots() -> [Slot; 5] {
        let mut tree = Tree::new();
        let root = tree.insert_root(0);
        ["a", "b", "c", "d", "e"].map(|name| tree.insert(root, name.as_bytes(), Body::unlisted()))
    }

    #[test]
    fn the_just_closed_come_first_then_the_oldest_and_the_large_last() {
        let [a, b, c, d, e] = slots();
        let mut queue = HashQueue::default();
        let found = |seconds| Stamp::new(seconds, 0);
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
    fn a_thread_kept_for_prompt_files_leaves_the_large_ones() {
        let [a, b, ..] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue(a, PROMISED_MAX_BYTES + 1, true);
        assert!(queue.take(true, u64::MAX).is_none());
        queue.enqueue_found(b, PROMISED_MAX_BYTES, Stamp::default());
        assert_eq!(queue.take(true, u64::MAX).unwrap().held.slot, b);
        assert_eq!(queue.take(false, u64::MAX).unwrap().held.slot, a);
    }

    #[test]
    fn a_withdrawn_file_s_hash_counts_for_nothing() {
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
    fn what_is_noticed_while_a_file_is_read_is_told_at_its_end() {
        let [a, ..] = slots();
        let mut queue = HashQueue::default();
        assert!(!queue.note_change(a, Cause::Closed));
        queue.enqueue(a, 1, false);
        let taken = queue.take(false, u64::MAX).unwrap();
        assert!(queue.note_change(a, Cause::Walk));
        assert!(!taken.cancel.load(Ordering::Relaxed));
        assert!(queue.note_change(a, Cause::Modified));
        assert!(queue.note_change(a, Cause::Walk));
        assert!(taken.cancel.load(Ordering::Relaxed));
        let finished = queue.finish(a, taken.held.number);
        assert_eq!(finished, Some((Some(Cause::Modified), 1)));
    }

    #[test]
    fn a_listed_file_that_changes_while_it_is_read_once_more_is_left_to_be_read() {
        let [a, ..] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue_verify(a, 1, true);
        let _taken = queue.take(false, u64::MAX).unwrap();
        assert_eq!(queue.files_left(), 0);
        assert!(queue.note_change(a, Cause::Modified));
        assert_eq!(queue.files_left(), 1);
    }

    #[test]
    fn a_resting_file_is_due_when_its_time_is_over_and_not_before() {
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
