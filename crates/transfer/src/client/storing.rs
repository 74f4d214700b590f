//! Turns to store answers in the cache, and detection of a hung disk.
//!
//! A turn is the right to store one answer. An answer waits for its turn before it is verified. So
//! no more answers are accepted than the disk can store. A disk that completes nothing for a while
//! may be broken, or behind a network. Answers are then given to their readers without a turn and
//! stay in memory, as if the cache had no room.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::write_behind::{self, StoreOutcome, WriteBehindQueue};
use p2pfs_content::CacheFile;
use p2pfs_types::digest::Verified;
use p2pfs_types::stall::StallClock;

/// Interval between two checks for progress while an answer waits.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Time without progress after which the disk counts as hung. A busy disk does not delay all stores
/// that long. This time is well within a reader's patience.
const STANDS_STILL: Duration = Duration::from_secs(3);

/// Turns to store, and their progress.
pub(super) struct StoreQueue {
    turns: Arc<Semaphore>,
    turns_max: usize,
    /// Number of calls that may wait for the disk now ([`DiskCall`]). The answers of turns without
    /// such a call are being verified, or wait for a thread.
    at_disk: AtomicUsize,
    /// Number of ended stores, successful or not.
    ended: AtomicU64,
    stands_still: AtomicBool,
    verifiers: Arc<Semaphore>,
    /// Small ranges that are stored together, shortly after their readers have them.
    pub behind: WriteBehindQueue,
}

/// Right to store one answer.
pub(super) struct StoreTurn {
    _permit: OwnedSemaphorePermit,
}

/// A call that may wait for the cache's disk. It counts as one from its creation until it is
/// dropped, also if its thread panics.
pub(super) struct DiskCall<'a> {
    at_disk: &'a AtomicUsize,
}

impl Drop for DiskCall<'_> {
    fn drop(&mut self) {
        self.at_disk.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StoreTurn {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit }
    }
}

impl StoreQueue {
    /// Creates the queue. `turns` is the maximum of answers that are verified at a time, and also
    /// the maximum of answers that have a turn.
    pub(super) fn new(turns: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(turns)),
            turns_max: turns,
            at_disk: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            stands_still: AtomicBool::new(false),
            verifiers: Arc::new(Semaphore::new(turns)),
            behind: WriteBehindQueue::default(),
        }
    }

    /// Waits for the right to verify an answer.
    pub(super) async fn verifier(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.verifiers.clone().acquire_owned().await
    }

    /// Waits for a turn. Returns `None` if the disk hangs. While the disk is known to hang, returns
    /// a free turn, or `None` without a wait.
    pub(super) async fn turn(&self) -> Option<StoreTurn> {
        let turns = self.turns.clone();
        if self.stands_still.load(Ordering::Relaxed) {
            return turns.try_acquire_owned().ok().map(StoreTurn::new);
        }
        let mut turn = pin!(turns.acquire_owned());
        let ended = || self.ended.load(Ordering::Relaxed);
        let mut clock = StallClock::start(ended(), Instant::now().into_std());
        loop {
            if let Ok(turn) = timeout(LOOK_AFTER, turn.as_mut()).await {
                // the semaphore is never closed, so this cannot fail
                return turn.ok().map(StoreTurn::new);
            }
            let now = Instant::now().into_std();
            if self.at_disk.load(Ordering::Relaxed) < self.turns_max {
                clock = StallClock::start(ended(), now);
            }
            // a check is late if this process was halted, so it counts no more than its interval
            if clock.check_at_most(ended(), LOOK_AFTER, now) >= STANDS_STILL {
                break;
            }
        }
        self.stands_still.store(true, Ordering::Relaxed);
        None
    }

    /// Begins a call that may wait for the disk. A call within another one must not begin again. A
    /// call that is not a store is not progress when it ends, because a disk that takes no writes
    /// may still give the bytes that the kernel has in memory.
    pub(super) fn call_disk(&self) -> DiskCall<'_> {
        self.at_disk.fetch_add(1, Ordering::Relaxed);
        let at_disk = &self.at_disk;
        DiskCall { at_disk }
    }

    /// Stores an answer if there is a turn. Blocking.
    pub(super) fn store_answer(
        &self,
        turn: Option<&StoreTurn>,
        file: &CacheFile,
        verified: &Verified,
    ) -> StoreOutcome {
        match turn {
            Some(_) => self.store_now(file, verified),
            None => StoreOutcome::No,
        }
    }

    /// Stores an answer. Blocking.
    pub(super) fn store_now(&self, file: &CacheFile, verified: &Verified) -> StoreOutcome {
        let call = self.call_disk();
        let kept = write_behind::store(file, verified);
        drop(call);
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.stands_still.store(false, Ordering::Relaxed);
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A queue without free turns, and its turns.
    async fn queue_without_turns() -> (StoreQueue, [StoreTurn; 2]) {
        let queue = StoreQueue::new(2);
        let turns = [queue.turn().await.unwrap(), queue.turn().await.unwrap()];
        (queue, turns)
    }

    #[tokio::test(start_paused = true)]
    async fn answers_with_turns_that_wait_for_any_call_of_the_disk_show_that_it_hangs() {
        let (queue, turns) = queue_without_turns().await;
        // One of them reads the bytes of a reader, and the other one stores.
        let calls = [queue.call_disk(), queue.call_disk()];
        assert!(timeout(LONG, queue.turn()).await.unwrap().is_none());
        drop((calls, turns));
        assert!(queue.turn().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_being_verified_are_no_sign_of_a_hung_disk() {
        let (queue, turns) = queue_without_turns().await;
        let _call = queue.call_disk();
        assert!(timeout(LONG, queue.turn()).await.is_err());
        assert!(!queue.stands_still.load(Ordering::Relaxed));
        drop(turns);
        assert!(queue.turn().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_once_also_by_a_panic_and_a_cancelled_wait_takes_no_turn() {
        let (queue, turns) = queue_without_turns().await;
        let panics = || {
            let _call = queue.call_disk();
            panic!("a store panics (on purpose)");
        };
        for _ in 0..2 {
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
            assert_eq!(queue.at_disk.load(Ordering::Relaxed), 0);
            assert!(timeout(LOOK_AFTER, queue.turn()).await.is_err());
        }
        drop(turns);
        let turns = [queue.turn().await, queue.turn().await];
        assert!(turns.iter().all(Option::is_some));
    }
}
