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
use p2pfs_cache::CacheFile;
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
    /// Number of turns with an answer that is being written. The answers of the other turns are
    /// being verified, or wait for a thread.
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

    /// Stores an answer if there is a turn. Blocking.
    pub(super) fn store_answer(
        &self,
        turn: Option<StoreTurn>,
        file: &CacheFile,
        verified: &Verified,
    ) -> StoreOutcome {
        let Some(_turn) = turn else {
            return StoreOutcome::No;
        };
        self.at_disk.fetch_add(1, Ordering::Relaxed);
        let kept = self.store_now(file, verified);
        self.at_disk.fetch_sub(1, Ordering::Relaxed);
        kept
    }

    /// Stores an answer without a turn. Blocking.
    pub(super) fn store_now(&self, file: &CacheFile, verified: &Verified) -> StoreOutcome {
        let kept = write_behind::store(file, verified);
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.stands_still.store(false, Ordering::Relaxed);
        kept
    }
}
