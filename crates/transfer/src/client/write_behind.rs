//! Write-behind queue of small verified ranges. They are stored shortly after their readers have
//! them, so that many ranges cost one change of thread. Until then the session serves them from
//! memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{debug, trace};

use crate::TRACE_TARGET;

use super::inner::{Client, FetcherInner};
use p2pfs_content::{CacheFile, Stored};
use p2pfs_fetch::session::{Session, UncachedAction};
use p2pfs_types::digest::{ContentKey, Verified};
use p2pfs_types::extent::ByteRange;

/// Maximum bytes in the queue. Answers that are added at the same time may exceed it slightly. If a
/// small answer does not fit, it is handled like a large one: it waits for a turn of the
/// [`StoreQueue`](super::storing::StoreQueue).
const BEHIND_MAX_BYTES: u64 = 4 << 20;
/// How long a task that stores the queue waits for more ranges before it begins. A killed process
/// loses the ranges in the queue and those that are being stored.
const BEHIND_FOR: Duration = Duration::from_millis(2);

/// Range to be stored.
pub(super) struct PendingStore {
    pub content: ContentKey,
    pub verified: Arc<Verified>,
    pub file: CacheFile,
}

/// Queue of the ranges to be stored.
#[derive(Default)]
pub(super) struct WriteBehindQueue {
    list: Mutex<PendingList>,
}

#[derive(Default)]
struct PendingList {
    pending: Vec<PendingStore>,
    bytes: u64,
    /// Whether a task is responsible for storing the queue.
    under_way: bool,
}

impl WriteBehindQueue {
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.list.lock().bytes + bytes <= BEHIND_MAX_BYTES
    }

    /// Adds a range. Returns whether the caller must start a task that stores the queue.
    fn add(&self, pending: PendingStore) -> bool {
        let mut list = self.list.lock();
        list.bytes += pending.verified.range.len();
        list.pending.push(pending);
        !std::mem::replace(&mut list.under_way, true)
    }

    /// Removes all ranges. An empty result ends the task's responsibility.
    fn take(&self) -> Vec<PendingStore> {
        let mut list = self.list.lock();
        list.bytes = 0;
        list.under_way = !list.pending.is_empty();
        std::mem::take(&mut list.pending)
    }
}

/// Result of storing a range.
pub(super) enum StoreOutcome {
    /// The cache has the bytes, and possibly the whole file.
    Yes {
        is_complete: bool,
    },
    No,
}

/// Stores a range. A failing cache counts as one without room: the bytes stay in memory. Blocking.
pub(super) fn store(file: &CacheFile, verified: &Verified) -> StoreOutcome {
    let (start, bytes) = (verified.range.start, verified.range.len());
    match file.store(verified) {
        Ok(Stored::Kept) => {
            trace!(target: TRACE_TARGET, start, bytes, "stored in the cache");
            StoreOutcome::Yes {
                is_complete: file.is_complete(),
            }
        }
        Ok(Stored::Full) => {
            debug!(target: TRACE_TARGET, start, bytes, "the cache has no room for the bytes");
            StoreOutcome::No
        }
        Err(error) => {
            debug!(target: TRACE_TARGET, start, bytes, "the cache cannot store the bytes: {error}");
            StoreOutcome::No
        }
    }
}

impl StoreOutcome {
    /// Reports the result to the session. Returns whether to store the range again.
    #[must_use = "what is to be stored again is told of again"]
    pub(super) fn report_stored(
        self,
        session: &mut Session<Client>,
        now: Instant,
        content: ContentKey,
        range: ByteRange,
    ) -> bool {
        match self {
            Self::Yes { is_complete } => {
                session.stored(content, range, is_complete);
                false
            }
            Self::No => session.not_stored(now, content, range) == UncachedAction::StoreAgain,
        }
    }
}

/// Queues a range, and starts a task that stores the queue if none runs.
pub(super) fn store_soon(inner: &Arc<FetcherInner>, pending: PendingStore) {
    if !inner.storing.behind.add(pending) {
        return;
    }
    let inner = inner.clone();
    inner.runtime.clone().spawn(async move {
        tokio::time::sleep(BEHIND_FOR).await;
        inner
            .runtime
            .clone()
            .spawn_blocking(move || store_pending(&inner));
    });
}

/// Stores the queue until it is empty. Blocking.
fn store_pending(inner: &Arc<FetcherInner>) {
    let mut again = Vec::new();
    loop {
        let mut pending = inner.storing.behind.take();
        pending.append(&mut again);
        if pending.is_empty() {
            return;
        }
        let outcomes: Vec<_> = pending
            .iter()
            .map(|one| {
                let kept = inner.storing.store_now(&one.file, &one.verified);
                // The first range of a file creates files, which takes half a millisecond.
                // Threads with a reader's bytes that need this processor should not wait for
                // the whole queue.
                std::thread::yield_now();
                kept
            })
            .collect();
        inner.with(|session, now| {
            for (one, kept) in pending.into_iter().zip(outcomes) {
                if kept.report_stored(session, now, one.content, one.verified.range) {
                    again.push(one);
                }
            }
        });
    }
}
