//! Damage of cached bytes: how much was found, and the copies of damaged bytes that readers may
//! still have.
//!
//! A kernel keeps pages of bytes that it read from the cache. If the bytes on the disk turn out to
//! be damaged, these pages are copies of the damage, and reads of them never reach the cache again.
//! A listener therefore drops them. The order is fixed: first the cache gives the bytes to no
//! further read, then the copies are dropped. Otherwise a read in between would fill new copies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Condvar, Mutex};

use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;

/// Receives each damaged range of a content. It drops the copies that readers have and then calls
/// or drops the last argument. It never waits. It returns false if it has no readers any longer,
/// and is then not called again.
pub type DamageListener =
    Box<dyn Fn(&ContentHash, ByteRange, Box<dyn FnOnce() + Send>) -> bool + Send + Sync>;

/// Maximum number of contents whose damage waits for the first listener. Each has one range. Damage
/// of further contents is not reported to it.
const UNHEARD_MAX: usize = 1 << 16;

/// Bytes that were found wrong or unreadable.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Number of bytes since the start.
    pub(super) bytes: u64,
    /// Time of the last damage; `None` once a verification of the whole cache finds none.
    pub(super) at: Option<SystemTime>,
}

/// The damage of a cache, and its listeners.
#[derive(Default)]
pub(super) struct DamageReports {
    pub(super) found: Mutex<Damage>,
    listeners: Mutex<DamageListeners>,
    drops: Arc<PendingDrops>,
}

#[derive(Default)]
struct DamageListeners {
    all: Vec<DamageListener>,
    /// Damage that was found while there was no listener. The kernel may have copies from a
    /// previous process.
    unheard: BTreeMap<ContentHash, ByteRange>,
}

/// The requested drops of copies that have not happened yet.
#[derive(Default)]
struct PendingDrops {
    state: Mutex<PendingDropsState>,
    changed: Condvar,
}

#[derive(Default)]
struct PendingDropsState {
    last: u64,
    pending: BTreeSet<u64>,
}

/// One requested drop. It counts as done when it is dropped.
struct PendingDrop {
    number: u64,
    drops: Arc<PendingDrops>,
}

impl DamageReports {
    /// Counts bytes that were found wrong or unreadable.
    pub(super) fn record(&self, bytes: u64) {
        if bytes > 0 {
            let mut found = self.found.lock();
            found.bytes += bytes;
            found.at = Some(SystemTime::now());
        }
    }

    /// Adds a listener, which also receives the damage that no listener has received yet.
    pub(super) fn add_listener(&self, listener: DamageListener) {
        let mut listeners = self.listeners.lock();
        for (hash, range) in std::mem::take(&mut listeners.unheard) {
            listener(&hash, range, self.drops.begin());
        }
        listeners.all.push(listener);
    }

    /// Requests that all copies of a damaged range are dropped. The cache must not give the bytes
    /// to reads any longer. Never waits, because a read in progress may be the caller, and its
    /// pages cannot be dropped before it ends.
    pub(super) fn drop_copies(&self, hash: &ContentHash, range: ByteRange) {
        let mut listeners = self.listeners.lock();
        let hears = |listener: &DamageListener| listener(hash, range, self.drops.begin());
        listeners.all.retain(hears);
        if listeners.all.is_empty() {
            listeners.keep_unheard(hash, range);
        }
    }

    /// Waits until all copies are dropped whose drop was requested before. This may take as long as
    /// the deadline of a read, because the kernel drops no page that is being read. The caller
    /// holds no lock, and no read waits for it.
    pub(super) fn await_drops(&self) {
        let mut state = self.drops.state.lock();
        let last = state.last;
        while state.pending.first().is_some_and(|first| *first <= last) {
            self.drops.changed.wait(&mut state);
        }
    }
}

impl DamageListeners {
    fn keep_unheard(&mut self, hash: &ContentHash, range: ByteRange) {
        if let Some(known) = self.unheard.get_mut(hash) {
            *known = ByteRange::new(known.start.min(range.start), known.end.max(range.end));
        } else if self.unheard.len() < UNHEARD_MAX {
            self.unheard.insert(*hash, range);
        }
    }
}

impl PendingDrops {
    fn begin(self: &Arc<Self>) -> Box<dyn FnOnce() + Send> {
        let mut state = self.state.lock();
        state.last += 1;
        let number = state.last;
        state.pending.insert(number);
        let drops = self.clone();
        let pending = PendingDrop { number, drops };
        Box::new(move || drop(pending))
    }
}

impl Drop for PendingDrop {
    fn drop(&mut self) {
        self.drops.state.lock().pending.remove(&self.number);
        self.drops.changed.notify_all();
    }
}
