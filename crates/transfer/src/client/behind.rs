//! Small verified ranges on their way into the cache, a moment after their readers had them: many
//! of them cost one change of thread. Until they are there they are read from the window.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Client, Inner};
use p2pfs_cache::{CacheFile, Stored};
use p2pfs_fetch::session::{Refused, Session};
use p2pfs_types::digest::{ContentKey, Verified};
use p2pfs_types::extent::ByteRange;

/// What may wait to be stored; beyond it an answer waits for its own turn to be verified.
const BEHIND_MAX_BYTES: u64 = 4 << 20;
/// How long the first of them waits for more: less than a kill loses of any stream.
const BEHIND_FOR: Duration = Duration::from_millis(2);

/// A range to be stored.
pub(super) struct Pending {
    pub content: ContentKey,
    pub verified: Arc<Verified>,
    pub file: CacheFile,
}

/// What waits to be stored.
#[derive(Default)]
pub(super) struct Behind {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    pending: Vec<Pending>,
    bytes: u64,
    /// Whether somebody sees to them.
    under_way: bool,
}

impl Behind {
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.list.lock().bytes + bytes <= BEHIND_MAX_BYTES
    }

    /// Says whether somebody must see to them from now on.
    fn add(&self, pending: Pending) -> bool {
        let mut list = self.list.lock();
        list.bytes += pending.verified.range.len();
        list.pending.push(pending);
        !std::mem::replace(&mut list.under_way, true)
    }

    /// All that waits; nothing ends the seeing to them.
    fn take(&self) -> Vec<Pending> {
        let mut list = self.list.lock();
        list.bytes = 0;
        list.under_way = !list.pending.is_empty();
        std::mem::take(&mut list.pending)
    }
}

impl Inner {
    pub(super) fn store_soon(self: &Arc<Self>, pending: Pending) {
        if !self.behind.add(pending) {
            return;
        }
        let inner = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(BEHIND_FOR).await;
            inner
                .runtime
                .clone()
                .spawn_blocking(move || inner.store_pending());
        });
    }

    /// Blocking: writes.
    fn store_pending(self: &Arc<Self>) {
        let mut again = Vec::new();
        loop {
            let mut pending = self.behind.take();
            pending.append(&mut again);
            if pending.is_empty() {
                return;
            }
            let outcomes: Vec<_> = pending
                .iter()
                .map(|one| {
                    let kept = self.storing.keep_now(&one.file, &one.verified);
                    // the first of a file makes files, half a millisecond's work each time: whoever
                    // has a reader's bytes in hand does not wait on this processor for all of it
                    std::thread::yield_now();
                    kept
                })
                .collect();
            self.with(|session, now| {
                for (one, kept) in pending.into_iter().zip(outcomes) {
                    if kept.tell(session, now, one.content, one.verified.range) {
                        again.push(one);
                    }
                }
            });
        }
    }
}

/// What became of bytes that were to be stored.
pub(super) enum Kept {
    /// They are in the cache, and so is all of their file, or not.
    Yes {
        is_complete: bool,
    },
    No,
}

/// Blocking: writes. A cache that fails is one without room: the bytes stay in memory.
pub(super) fn keep(file: &CacheFile, verified: &Verified) -> Kept {
    match file.store(verified) {
        Ok(Stored::Kept) => Kept::Yes {
            is_complete: file.is_complete(),
        },
        Ok(Stored::Full) | Err(_) => Kept::No,
    }
}

impl Kept {
    /// Says whether to store them again.
    #[must_use = "what is to be stored again is told of again"]
    pub(super) fn tell(
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
            Self::No => session.refused(now, content, range) == Refused::StoreAgain,
        }
    }
}
