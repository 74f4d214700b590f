//! The current work of each hashing thread, so that a thread blocked on a disk is detected. Such a
//! thread is abandoned. Other threads read its files later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::tree::Slot;
use p2pfs_types::stall::StallClock;

/// How long a thread that works on a file may finish no read before it counts as blocked. Even a
/// slow connection to a server delivers [`READ_MAX_BYTES`](super::reading::READ_MAX_BYTES) in less
/// time.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// A file taken to be read, and the number of the read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HashTicket {
    pub(super) slot: Slot,
    pub(super) number: u64,
    /// If false, a file written lately is read only if no process has it open for writing.
    pub(super) sure: bool,
    /// Whether it is read although a program writes it all the time.
    pub(super) busy: bool,
}

/// Work of one thread.
#[derive(Default)]
pub(super) struct HasherProgress {
    /// Whether the thread takes no large files.
    pub(super) prompt_only: bool,
    steps: AtomicU64,
    held: Mutex<ThreadLoad>,
}

#[derive(Default)]
struct ThreadLoad {
    files: Vec<HashTicket>,
    /// Share of the file that is being read.
    share: Option<u16>,
    /// Progress of the steps, from the first check on.
    clock: Option<StallClock>,
    is_left: bool,
}

impl HasherProgress {
    pub(super) fn new(prompt_only: bool) -> Self {
        Self {
            prompt_only,
            ..Self::default()
        }
    }

    /// Counts a step: the thread read something.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn take(&self, files: impl IntoIterator<Item = HashTicket>) {
        self.held.lock().files.extend(files);
    }

    /// Records that the thread starts to read a file of a share.
    pub(super) fn begin(&self, share: u16) {
        self.step();
        self.held.lock().share = Some(share);
    }

    /// Records that the thread's work on a file is done or paused. Returns the share of the file if
    /// the thread was abandoned meanwhile.
    pub(super) fn end(&self) -> Option<u16> {
        let mut held = self.held.lock();
        let share = held.share.take();
        share.filter(|_| held.is_left)
    }

    /// Removes files after their reads have ended.
    pub(super) fn give_back(&self, numbers: &[u64]) {
        let mut held = self.held.lock();
        held.files.retain(|file| !numbers.contains(&file.number));
    }

    /// If the thread is blocked, abandons it and returns the share of its current file and all
    /// files that it has not given back. Must be called periodically.
    fn leave_standing(&self, now: Instant) -> Option<(u16, Vec<HashTicket>)> {
        let steps = self.steps.load(Ordering::Relaxed);
        let mut held = self.held.lock();
        let share = held.share?;
        let clock = held.clock.get_or_insert(StallClock::start(steps, now));
        if clock.check(steps, now) < STANDS_STILL || held.is_left {
            return None;
        }
        held.is_left = true;
        Some((share, std::mem::take(&mut held.files)))
    }
}

/// All hashing threads that were not abandoned.
#[derive(Default)]
pub(super) struct Hashers(Mutex<Vec<Arc<HasherProgress>>>);

/// A blocked thread.
pub(super) struct BlockedHasher {
    pub(super) share: u16,
    pub(super) files: Vec<HashTicket>,
    pub(super) prompt_only: bool,
}

impl Hashers {
    pub(super) fn add(&self, one: Arc<HasherProgress>) {
        self.0.lock().push(one);
    }

    /// Removes and returns the blocked threads, each once.
    pub(super) fn take_standing(&self, now: Instant) -> Vec<BlockedHasher> {
        let mut standing = Vec::new();
        self.0.lock().retain(|one| match one.leave_standing(now) {
            Some((share, files)) => {
                standing.push(BlockedHasher {
                    share,
                    files,
                    prompt_only: one.prompt_only,
                });
                false
            }
            None => true,
        });
        standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_answer_is_abandoned_once_and_an_active_one_is_not() {
        let (hashers, now) = (Hashers::default(), Instant::now());
        let [stuck, busy, idle] = [0, 1, 2].map(|_| Arc::new(HasherProgress::new(false)));
        for one in [&stuck, &busy, &idle] {
            hashers.add(one.clone());
        }
        stuck.begin(7);
        busy.begin(8);
        let count_after = |quarters| {
            let standing = hashers.take_standing(now + STANDS_STILL / 4 * quarters);
            standing.iter().map(|it| it.share).collect::<Vec<_>>()
        };
        assert!(count_after(0).is_empty());
        busy.step();
        assert_eq!(count_after(5), [7]);
        busy.step();
        assert!(count_after(10).is_empty());
        assert_eq!((stuck.end(), busy.end(), idle.end()), (Some(7), None, None));
        assert!(count_after(25).is_empty());
    }

    #[test]
    fn the_room_of_an_abandoned_answer_goes_to_others() {
        let (hashers, now) = (Hashers::default(), Instant::now());
        let one = Arc::new(HasherProgress::new(true));
        hashers.add(one.clone());
        let held = |number| HashTicket {
            slot: Slot::FIRST,
            number,
            sure: true,
            busy: false,
        };
        one.take([1, 2, 3].map(held));
        one.give_back(&[2]);
        one.begin(0);
        assert!(hashers.take_standing(now).is_empty());
        let standing = hashers.take_standing(now + STANDS_STILL);
        assert_eq!(standing[0].files, [held(1), held(3)]);
        assert!(standing[0].prompt_only);
    }
}
