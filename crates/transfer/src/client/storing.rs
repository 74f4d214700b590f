//! Whose turn it is to bring an answer into the cache, and whether its disk stands still.
//!
//! An answer waits for its turn before it is verified, so that no more comes than the disk takes.
//! A disk that ends nothing for a while, as one that is gone or a server's, keeps nobody waiting:
//! what comes then is given to its readers and stays in memory, as where the cache has no room.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::behind::{self, Kept};
use p2pfs_cache::CacheFile;
use p2pfs_types::digest::Verified;

/// How often it is looked whether anything was stored, while an answer waits.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// In so many looks, one after the other, nothing was: 3 s, which is longer than a busy disk lets
/// all wait, and well within the patience of readers. Looks and not a time, since one may be late
/// by as long as this process was halted.
const LOOKS_MAX: u32 = 6;

/// Who may store, and how that goes.
pub(super) struct Storing {
    turns: Arc<Semaphore>,
    turns_max: usize,
    /// How many of those whose turn it is wait for the disk; the rest wait for a processor.
    at_disk: AtomicUsize,
    /// How many stores have ended.
    ended: AtomicU64,
    stands_still: AtomicBool,
}

/// The right to store what is verified next.
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit }
    }
}

impl Storing {
    /// So many answers are on their way from verifying to the disk at one time.
    pub(super) fn new(turns: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(turns)),
            turns_max: turns,
            at_disk: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            stands_still: AtomicBool::new(false),
        }
    }

    /// Waits for a turn; nothing where the disk stands still.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let turns = self.turns.clone();
        if self.stands_still.load(Ordering::Relaxed) {
            return turns.try_acquire_owned().ok().map(Turn::new);
        }
        let mut turn = pin!(turns.acquire_owned());
        let (mut seen, mut looks) = (self.ended.load(Ordering::Relaxed), 0);
        while looks < LOOKS_MAX {
            if let Ok(turn) = timeout(LOOK_AFTER, turn.as_mut()).await {
                // never closed, so never an error
                return turn.ok().map(Turn::new);
            }
            let ended = self.ended.load(Ordering::Relaxed);
            let all_wait = self.at_disk.load(Ordering::Relaxed) == self.turns_max;
            looks = if all_wait && ended == seen {
                looks + 1
            } else {
                0
            };
            seen = ended;
        }
        self.stands_still.store(true, Ordering::Relaxed);
        None
    }

    /// Blocking: writes, where it is its turn.
    pub(super) fn keep(&self, turn: Option<Turn>, file: &CacheFile, verified: &Verified) -> Kept {
        let Some(_turn) = turn else {
            return Kept::No;
        };
        self.at_disk.fetch_add(1, Ordering::Relaxed);
        let kept = self.keep_now(file, verified);
        self.at_disk.fetch_sub(1, Ordering::Relaxed);
        kept
    }

    /// Blocking: writes.
    pub(super) fn keep_now(&self, file: &CacheFile, verified: &Verified) -> Kept {
        let kept = behind::keep(file, verified);
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.stands_still.store(false, Ordering::Relaxed);
        kept
    }
}
