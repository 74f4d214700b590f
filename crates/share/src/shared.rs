//! State shared by the threads.

use std::hash::Hash;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{EventfdFlags, eventfd};

use super::at_work::Hashers;
use super::beneath::Beneath;
use super::outboards::Outboards;
use super::renamed::MissedContents;
use super::state::ListingState;
use super::version_clock::VersionClock;
use super::writable::{WritableFolders, WriteAccess};
use p2pfs_types::digest::ContentHash;

/// State shared by the threads. The hashers take files from the [`ListingState`] and add the
/// results of their reads. The scanner applies these results and those of its checks. Callers
/// change which folders are shared. All of them use one lock, and none opens or reads anything in a
/// share while it holds the lock.
pub(super) struct SharedState {
    state: Mutex<ListingState>,
    /// Notified when there may be something to hash, or room in the outbox.
    pub(super) hashing: Condvar,
    settling: Mutex<Settling>,
    settled: Condvar,
    missed: Mutex<MissedContents>,
    /// The clock of the listing at the last check of the scanner. It has a lock of its own, because
    /// the node reads it often and must not wait for the scanner.
    clock: Mutex<VersionClock>,
    pub(super) writable: WritableFolders,
    pub(super) waker: OwnedFd,
    pub(super) hashers: Hashers,
    stopping: AtomicBool,
    pub(super) beneath: Beneath,
    pub(super) outboards: Arc<Outboards>,
    pub(super) intervals: Intervals,
    /// Bytes of files that were read for hashing since the start.
    pub(super) read_bytes: AtomicU64,
}

/// The configured durations of a share.
#[derive(Clone, Copy)]
pub(super) struct Intervals {
    /// See [`QUIET_DEFAULT`](super::config::QUIET_DEFAULT).
    pub(super) quiet: Duration,
    /// See [`RESCAN_DEFAULT`](super::config::RESCAN_DEFAULT).
    pub(super) rescan: Duration,
}

#[derive(Default)]
struct Settling {
    /// Number of the last request.
    asked: u64,
    /// Last request before which every reported name was checked.
    checked: u64,
    /// Last request before which every change was also hashed and announced.
    reached: u64,
}

impl SharedState {
    pub(super) fn new(
        state: ListingState,
        beneath: Beneath,
        outboards: Outboards,
        intervals: Intervals,
    ) -> std::io::Result<Self> {
        Ok(Self {
            clock: Mutex::new(state.listing.clock),
            state: Mutex::new(state),
            hashing: Condvar::new(),
            settling: Mutex::default(),
            settled: Condvar::new(),
            missed: Mutex::new(MissedContents::new()),
            writable: WritableFolders::default(),
            waker: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            hashers: Hashers::default(),
            stopping: AtomicBool::new(false),
            beneath,
            outboards: Arc::new(outboards),
            intervals,
            read_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ListingState> {
        self.state.lock()
    }

    /// Returns the clock that dates versions.
    pub(super) fn clock(&self) -> VersionClock {
        *self.clock.lock()
    }

    /// Takes over the clock of the listing.
    pub(super) fn set_clock(&self, clock: VersionClock) {
        *self.clock.lock() = clock;
    }

    /// Returns whether the mount writes into the share of a folder.
    pub(super) fn write_access(&self, dir: &Path) -> WriteAccess {
        let state = self.lock();
        let mut shares = state.listing.shares.by_index.values();
        let share = shares.find(|share| *share.dir == *dir);
        share.map_or(WriteAccess::Off, |share| share.access.clone())
    }

    /// Wakes the scanner.
    pub(super) fn wake(&self) {
        // a full counter means that the scanner is woken already
        let _ = rustix::io::write(&self.waker, &1u64.to_ne_bytes());
    }

    pub(super) fn take_wakes(&self) {
        let _ = rustix::io::read(&self.waker, &mut [0u8; 8]);
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.lock());
        self.hashing.notify_all();
        self.wake();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Returns the number of the last request to settle. The scanner must call this before it
    /// checks anything for the request.
    pub(super) fn settling_asked(&self) -> u64 {
        self.settling.lock().asked
    }

    /// Records that everything reported before the request `asked` was checked.
    pub(super) fn record_checked(&self, asked: u64) {
        let mut settling = self.settling.lock();
        settling.checked = settling.checked.max(asked);
    }

    /// Returns the number of the last request for which everything was checked. Must be called
    /// before names are taken from the listing.
    pub(super) fn checked(&self) -> u64 {
        self.settling.lock().checked
    }

    /// Returns whether a content that was not found under its listed `names` may be found under
    /// another name that the scanner has yet to check. Requests that check unless one was requested
    /// lately for the same names.
    pub(super) fn may_be_renamed(
        &self,
        hash: &ContentHash,
        names: impl Hash,
        checked: u64,
    ) -> bool {
        let mut missed = self.missed.lock();
        let ask = || self.ask_to_settle();
        missed.is_check_pending(hash, names, checked, ask, Instant::now())
    }

    /// Requests a check by the scanner and returns its number.
    fn ask_to_settle(&self) -> u64 {
        let mut settling = self.settling.lock();
        settling.asked += 1;
        self.wake();
        settling.asked
    }

    /// Records that every change before the request `asked` was announced.
    pub(super) fn record_settled(&self, asked: u64) {
        let mut settling = self.settling.lock();
        if settling.reached < asked {
            settling.reached = asked;
            self.settled.notify_all();
        }
    }

    /// Waits until every change that the kernel reported before this call is announced. Returns
    /// false at the timeout, or if the set is dropped.
    pub(super) fn wait_settled(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let asked = self.ask_to_settle();
        let mut settling = self.settling.lock();
        while settling.reached < asked && !self.is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.settled.wait_for(&mut settling, left);
        }
        settling.reached >= asked
    }
}
