//! The scanner's access to disks that may block forever because their server went away. The calls
//! run on a thread of their own. When one of them makes no progress for a long time, that thread is
//! abandoned, and the other shares get a new one. The scanner then skips the blocked share.
//!
//! Calls on local disks run directly on the scanner's thread. Their data is mostly in memory, and
//! handing a call to another thread and back would take as long as reading a small directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::beneath::Beneath;
use super::shared::SharedState;
use p2pfs_types::stall::StallClock;

/// How long a call may make no progress before its disk counts as not answering, at first. This is
/// longer than a disk takes for one name, and about the time that a sleeping disk takes to spin up.
const STANDS_STILL: Duration = Duration::from_secs(5);
/// Upper bound of the time without progress for one share. This time begins at [`STANDS_STILL`] and
/// doubles each time the disk of the share does not answer. So a call that is only slow, such as
/// reading a large directory over a slow connection, can complete in a later attempt.
const STANDS_STILL_MAX: Duration = Duration::from_secs(300);

type DiskWork = Box<dyn FnOnce() + Send>;

/// Context of a call.
pub(super) struct DiskAccess<'a> {
    pub(super) beneath: &'a Beneath,
    steps: &'a AtomicU64,
}

impl DiskAccess<'_> {
    /// Counts a step of progress.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct DiskThread {
    shared: Arc<SharedState>,
    /// Queue of the current thread, if there is one.
    work: Option<Sender<DiskWork>>,
    /// Allowed time without progress, for shares with a disk that did not answer before.
    patience: BTreeMap<u16, Duration>,
}

impl DiskThread {
    pub(super) fn new(shared: Arc<SharedState>) -> Self {
        Self {
            shared,
            work: None,
            patience: BTreeMap::new(),
        }
    }

    /// Runs `look` on the disk of the share at `dir` and returns its result. Returns `None` if the
    /// disk does not answer, and marks the share in the state until the call returns. Also returns
    /// `None` if no thread can be started.
    pub(super) fn run<T: Send + 'static>(
        &mut self,
        index: u16,
        dir: &Path,
        look: impl FnOnce(&DiskAccess<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let beneath = &self.shared.beneath;
        if !beneath.is_far(dir) {
            let steps = &AtomicU64::new(0);
            return Some(look(&DiskAccess { beneath, steps }));
        }
        let steps = Arc::new(AtomicU64::new(0));
        let (tell, told) = sync_channel(0);
        let (shared, of_thread) = (self.shared.clone(), steps.clone());
        self.begin(Box::new(move || {
            let looking = DiskAccess {
                beneath: &shared.beneath,
                steps: &of_thread,
            };
            // if sending fails, the scanner no longer waits for this call
            if tell.send(look(&looking)).is_err() {
                shared.lock().listing.shares.answers_again(index);
                shared.wake();
            }
        }))?;
        let patience = self.patience.get(&index).copied().unwrap_or(STANDS_STILL);
        let mut clock = StallClock::start(0, Instant::now());
        loop {
            match told.recv_timeout(patience) {
                Ok(found) => return Some(found),
                Err(RecvTimeoutError::Timeout)
                    if clock.check(steps.load(Ordering::Relaxed), Instant::now()) < patience => {}
                Err(_) => break,
            }
        }
        // before `told` is dropped, so that the call cannot report its end first
        self.shared.lock().listing.shares.stands_still(index);
        drop(told);
        let longer = (patience * 2).min(STANDS_STILL_MAX);
        self.patience.insert(index, longer);
        // the thread is busy with that call
        self.work = None;
        None
    }

    /// Passes work to the thread, starting one if needed. Returns `None` if no thread can be
    /// started.
    fn begin(&mut self, mut work: DiskWork) -> Option<()> {
        if let Some(thread) = &self.work {
            match thread.send(work) {
                Ok(()) => return Some(()),
                Err(back) => work = back.0,
            }
        }
        let (sender, queue) = channel::<DiskWork>();
        let run = move || queue.into_iter().for_each(|work| work());
        let name = "share-disk".to_owned();
        Builder::new().name(name).spawn(run).ok()?;
        sender.send(work).ok()?;
        self.work = Some(sender);
        Some(())
    }
}
