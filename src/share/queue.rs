//! Which files wait to be hashed, and which first: those just closed before those that a walk
//! found, and the small before the large.
//!
//! There is at most one ticket a file, so the queue is as long as the share has files, and what is
//! hashed at a time is the number of threads.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::tree::Slot;
use super::watch::Cause;

/// The largest file of the promptness promise (the contract): larger ones never take every thread.
pub(super) const PROMPT_MAX_BYTES: u64 = 64 << 20;

/// Where a file is on its way to a hash.
pub(super) enum Stage {
    /// It must be left alone until then. `verify` says that it is listed and only to be hashed once
    /// more, because its hash was racy.
    Resting { until: Instant, verify: bool },
    /// It may be read. `sure` says that its writer is known to be done or at rest.
    Queued {
        bulk: bool,
        size_bytes: u64,
        sure: bool,
    },
    /// It is being read; `again` is what was noticed since.
    Hashing {
        number: u64,
        cancel: Arc<AtomicBool>,
        again: Option<Cause>,
    },
}

/// A file to hash now.
pub(super) struct Taken {
    pub(super) slot: Slot,
    pub(super) number: u64,
    pub(super) size_bytes: u64,
    pub(super) sure: bool,
    pub(super) cancel: Arc<AtomicBool>,
}

#[derive(Default)]
pub(super) struct HashQueue {
    stages: HashMap<Slot, Stage>,
    queued: BTreeSet<(bool, u64, Slot)>,
    resting: BTreeSet<(Instant, Slot)>,
    verifying: usize,
    numbers: u64,
}

impl HashQueue {
    pub(super) fn stage(&self, slot: Slot) -> Option<&Stage> {
        self.stages.get(&slot)
    }

    /// Lets the file be read; `bulk` puts it behind what was just written.
    pub(super) fn enqueue(&mut self, slot: Slot, bulk: bool, size_bytes: u64, sure: bool) {
        self.withdraw(slot);
        let bulk = bulk || size_bytes > PROMPT_MAX_BYTES;
        self.queued.insert((bulk, size_bytes, slot));
        self.stages.insert(
            slot,
            Stage::Queued {
                bulk,
                size_bytes,
                sure,
            },
        );
    }

    /// Leaves the file alone for a while.
    pub(super) fn rest(&mut self, slot: Slot, until: Instant, verify: bool) {
        self.withdraw(slot);
        self.resting.insert((until, slot));
        self.verifying += usize::from(verify);
        self.stages.insert(slot, Stage::Resting { until, verify });
    }

    /// Takes the file out, wherever it is; a hashing that goes on counts for nothing.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        match self.stages.remove(&slot) {
            Some(Stage::Resting { until, verify }) => {
                self.resting.remove(&(until, slot));
                self.verifying -= usize::from(verify);
            }
            Some(Stage::Queued {
                bulk, size_bytes, ..
            }) => {
                self.queued.remove(&(bulk, size_bytes, slot));
            }
            Some(Stage::Hashing { cancel, .. }) => cancel.store(true, Ordering::Relaxed),
            None => {}
        }
    }

    /// Notes that something happened to a file while it is being read; one that is written to need
    /// not be read to its end. Says whether it is being read.
    pub(super) fn note_change(&mut self, slot: Slot, cause: Cause) -> bool {
        let Some(Stage::Hashing { cancel, again, .. }) = self.stages.get_mut(&slot) else {
            return false;
        };
        *again = (*again).max(Some(cause));
        if cause >= Cause::Modified {
            cancel.store(true, Ordering::Relaxed);
        }
        true
    }

    /// The next file to read: nothing over [`PROMPT_MAX_BYTES`] where `prompt_only`, nothing over
    /// `size_max_bytes` ever.
    pub(super) fn take(&mut self, prompt_only: bool, size_max_bytes: u64) -> Option<Taken> {
        let limit_bytes = if prompt_only {
            PROMPT_MAX_BYTES
        } else {
            u64::MAX
        };
        let limit_bytes = limit_bytes.min(size_max_bytes);
        let smallest = |bulk| self.queued.range((bulk, 0, Slot::FIRST)..).next().copied();
        let fits = |entry: &(bool, u64, Slot)| entry.1 <= limit_bytes;
        let entry = smallest(false)
            .filter(fits)
            .or_else(|| smallest(true).filter(fits))?;
        self.queued.remove(&entry);
        let (_, size_bytes, slot) = entry;
        self.numbers += 1;
        let (number, cancel) = (self.numbers, Arc::new(AtomicBool::new(false)));
        let hashing = Stage::Hashing {
            number,
            cancel: cancel.clone(),
            again: None,
        };
        let was = self.stages.insert(slot, hashing);
        let sure = matches!(was, Some(Stage::Queued { sure: true, .. }));
        Some(Taken {
            slot,
            number,
            size_bytes,
            sure,
            cancel,
        })
    }

    /// The reading `number` has ended. None where it counts for nothing any more, else what was
    /// noticed meanwhile.
    pub(super) fn finish(&mut self, slot: Slot, number: u64) -> Option<Option<Cause>> {
        match self.stages.get(&slot) {
            Some(Stage::Hashing {
                number: current,
                again,
                ..
            }) if *current == number => {
                let again = *again;
                self.stages.remove(&slot);
                Some(again)
            }
            _ => None,
        }
    }

    /// Files whose rest is over; they stay where they are until they are enqueued.
    pub(super) fn rested(&self, now: Instant) -> Vec<Slot> {
        let over = self.resting.iter().take_while(|(until, _)| *until <= now);
        over.map(|(_, slot)| *slot).collect()
    }

    pub(super) fn next_rested(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Files not listed as they are; those only to be verified are.
    pub(super) fn files_left(&self) -> usize {
        self.stages.len() - self.verifying
    }

    /// Those of [`Self::files_left`].
    pub(super) fn left(&self) -> impl Iterator<Item = Slot> + '_ {
        let verify = |stage: &Stage| matches!(stage, Stage::Resting { verify: true, .. });
        self.stages
            .iter()
            .filter(move |(_, stage)| !verify(stage))
            .map(|(slot, _)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tree::{Body, FileBody, Tree};
    use super::*;

    fn slots() -> [Slot; 4] {
        let mut tree = Tree::new();
        let root = tree.insert_root(0);
        ["a", "b", "c", "d"]
            .map(|name| tree.insert(root, name.as_bytes(), Body::File(FileBody::unlisted())))
    }

    #[test]
    fn the_just_closed_come_first_and_the_small_before_the_large() {
        let [a, b, c, d] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue(a, true, 1, true);
        queue.enqueue(b, false, 500, true);
        queue.enqueue(c, false, 5, true);
        queue.enqueue(d, false, PROMPT_MAX_BYTES + 1, true);
        let mut taken = || queue.take(false, u64::MAX).map(|t| t.slot);
        assert_eq!(
            [taken(), taken(), taken(), taken()],
            [Some(c), Some(b), Some(a), Some(d)]
        );
        assert_eq!(taken(), None);
    }

    #[test]
    fn a_thread_kept_for_prompt_files_leaves_the_large_ones() {
        let [a, b, ..] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue(a, false, PROMPT_MAX_BYTES + 1, true);
        assert!(queue.take(true, u64::MAX).is_none());
        queue.enqueue(b, true, PROMPT_MAX_BYTES, true);
        assert_eq!(queue.take(true, u64::MAX).unwrap().slot, b);
        assert_eq!(queue.take(false, u64::MAX).unwrap().slot, a);
    }

    #[test]
    fn a_withdrawn_file_s_hash_counts_for_nothing() {
        let [a, ..] = slots();
        let mut queue = HashQueue::default();
        queue.enqueue(a, false, 1, true);
        let taken = queue.take(false, u64::MAX).unwrap();
        queue.withdraw(a);
        assert!(taken.cancel.load(Ordering::Relaxed));
        assert_eq!(queue.finish(a, taken.number), None);
        queue.enqueue(a, false, 1, true);
        let second = queue.take(false, u64::MAX).unwrap();
        assert_eq!(queue.finish(a, taken.number), None);
        assert_eq!(queue.finish(a, second.number), Some(None));
        assert_eq!(queue.files_left(), 0);
    }

    #[test]
    fn what_is_noticed_while_a_file_is_read_is_told_at_its_end() {
        let [a, ..] = slots();
        let mut queue = HashQueue::default();
        assert!(!queue.note_change(a, Cause::Closed));
        queue.enqueue(a, false, 1, false);
        let taken = queue.take(false, u64::MAX).unwrap();
        assert!(queue.note_change(a, Cause::Walk));
        assert!(!taken.cancel.load(Ordering::Relaxed));
        assert!(queue.note_change(a, Cause::Modified));
        assert!(queue.note_change(a, Cause::Walk));
        assert!(taken.cancel.load(Ordering::Relaxed));
        assert_eq!(queue.finish(a, taken.number), Some(Some(Cause::Modified)));
    }

    #[test]
    fn a_resting_file_is_due_when_its_time_is_over_and_not_before() {
        let [a, b, ..] = slots();
        let mut queue = HashQueue::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        queue.rest(a, later(2), false);
        queue.rest(b, later(5), true);
        assert_eq!(queue.files_left(), 1);
        assert!(queue.rested(later(1)).is_empty());
        assert_eq!(queue.rested(later(2)), [a]);
        queue.rest(a, later(9), false);
        assert_eq!(queue.rested(later(5)), [b]);
        assert_eq!(queue.next_rested(), Some(later(5)));
        queue.withdraw(b);
        queue.withdraw(a);
        assert_eq!(queue.next_rested(), None);
        assert_eq!(queue.files_left(), 0);
    }
}
