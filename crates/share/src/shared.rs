//! What the threads of the shares have in common.

use std::hash::Hash;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{EventfdFlags, eventfd};

use super::at_work::Hashers;
use super::beneath::Beneath;
use super::outboards::Outboards;
use super::renamed::Missed;
use super::state::State;
use p2pfs_types::digest::ContentHash;

/// The scanner changes what a look at the disk found, the hashers what reading a file found, and
/// callers what is shared at all; each under the one lock of the state, none while it waits for
/// anything.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Told when there may be something to hash, or room in the outbox.
    pub(super) hashing: Condvar,
    settling: Mutex<Settling>,
    settled: Condvar,
    missed: Mutex<Missed>,
    pub(super) waker: OwnedFd,
    pub(super) hashers: Hashers,
    stopping: AtomicBool,
    pub(super) beneath: Beneath,
    pub(super) outboards: Arc<Outboards>,
    pub(super) quiet: Duration,
    pub(super) rescan: Duration,
    /// Bytes of files that were read to be hashed, since the start.
    pub(super) read_bytes: AtomicU64,
}

#[derive(Default)]
struct Settling {
    asked: u64,
    /// Up to here all that was reported was looked at.
    looked: u64,
    /// Up to here it was read, too, and told.
    reached: u64,
}

impl Shared {
    pub(super) fn new(
        state: State,
        beneath: Beneath,
        outboards: Outboards,
        quiet: Duration,
        rescan: Duration,
    ) -> std::io::Result<Self> {
        Ok(Self {
            state: Mutex::new(state),
            hashing: Condvar::new(),
            settling: Mutex::default(),
            settled: Condvar::new(),
            missed: Mutex::new(Missed::new()),
            waker: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            hashers: Hashers::default(),
            stopping: AtomicBool::new(false),
            beneath,
            outboards: Arc::new(outboards),
            quiet,
            rescan,
            read_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Makes the scanner look at what was asked of it.
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

    /// What was asked to settle so far; to be read before anything is looked at.
    pub(super) fn settling_asked(&self) -> u64 {
        self.settling.lock().asked
    }

    /// All that was reported when `asked` was asked has been looked at.
    pub(super) fn note_looked(&self, asked: u64) {
        let mut settling = self.settling.lock();
        settling.looked = settling.looked.max(asked);
    }

    /// The looks that were done so far; to be read before names are taken from the listing.
    pub(super) fn looked(&self) -> u64 {
        self.settling.lock().looked
    }

    /// Whether a content that was not found under the `names` that it is listed under may be found
    /// under another, which the scanner has yet to look at, and is made to.
    pub(super) fn may_be_renamed(&self, hash: &ContentHash, names: impl Hash, looked: u64) -> bool {
        let mut missed = self.missed.lock();
        let ask = || self.ask_to_settle();
        missed.is_looked_for(hash, names, looked, ask, Instant::now())
    }

    /// Has the scanner look; gives the number by which it says that it did.
    fn ask_to_settle(&self) -> u64 {
        let mut settling = self.settling.lock();
        settling.asked += 1;
        self.wake();
        settling.asked
    }

    /// All that was there to be seen when `asked` was asked has been told.
    pub(super) fn note_settled(&self, asked: u64) {
        let mut settling = self.settling.lock();
        if settling.reached < asked {
            settling.reached = asked;
            self.settled.notify_all();
        }
    }

    /// Waits until everything that has happened in the shares up to now is told. False at the
    /// timeout.
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
