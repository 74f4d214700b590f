//! The scanner's looks at disks that may stand still for ever, since their server went away. They
//! are made on a thread of their own; where nothing comes of one for long, the thread is left to
//! it and the others' shares have a new one. No more than one look at a share stands still, as
//! nothing else is begun there until it is over.
//!
//! Looks at local disks are made at once: what they need is in memory most often, and a way to
//! another thread and back takes as long as the rest of a small directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use super::beneath::Beneath;
use super::shared::Shared;
use super::state::State;

/// A look that comes no further for so long stands still: longer than a disk takes for one name,
/// and about what one at rest takes to turn.
const STANDS_STILL: Duration = Duration::from_secs(5);
/// A share that stood still has twice as long the next time, so that one that is only slow, as a
/// large directory over a slow way, is seen to its end; and no longer than this.
const STANDS_STILL_MAX: Duration = Duration::from_secs(300);

type Work = Box<dyn FnOnce() + Send>;

/// What a look works with.
pub(super) struct Looking<'a> {
    pub(super) beneath: &'a Beneath,
    steps: &'a AtomicU64,
}

impl Looking<'_> {
    /// It came a step further.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct DiskThread {
    shared: Arc<Shared>,
    /// To the thread, where one is at hand.
    work: Option<Sender<Work>>,
    /// How long the shares have that stood still before.
    patience: BTreeMap<u16, Duration>,
}

impl DiskThread {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            work: None,
            patience: BTreeMap::new(),
        }
    }

    /// What came of a look at the disk of a share, which is at `dir`; nothing where it stands
    /// still, which the state knows then, and is told of once it is over.
    pub(super) fn look<T: Send + 'static>(
        &mut self,
        index: u16,
        dir: &Path,
        look: impl FnOnce(&Looking<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let beneath = &self.shared.beneath;
        if !beneath.is_far(dir) {
            let steps = &AtomicU64::new(0);
            return Some(look(&Looking { beneath, steps }));
        }
        let steps = Arc::new(AtomicU64::new(0));
        let (tell, told) = sync_channel(0);
        let (shared, of_thread) = (self.shared.clone(), steps.clone());
        self.begin(Box::new(move || {
            let looking = Looking {
                beneath: &shared.beneath,
                steps: &of_thread,
            };
            // where it fails, nobody waits for it any more
            if tell.send(look(&looking)).is_err() {
                shared.lock().answers_again(index);
                shared.wake();
            }
        }))?;
        let patience = self.patience.get(&index).copied().unwrap_or(STANDS_STILL);
        loop {
            let before = steps.load(Ordering::Relaxed);
            match told.recv_timeout(patience) {
                Ok(found) => return Some(found),
                Err(RecvTimeoutError::Timeout) if steps.load(Ordering::Relaxed) != before => {}
                Err(_) => break,
            }
        }
        // while its end cannot be told yet
        self.shared.lock().stands_still(index);
        drop(told);
        let longer = (patience * 2).min(STANDS_STILL_MAX);
        self.patience.insert(index, longer);
        // it is with that look
        self.work = None;
        None
    }

    /// Nothing where no thread can be had.
    fn begin(&mut self, mut work: Work) -> Option<()> {
        if let Some(thread) = &self.work {
            match thread.send(work) {
                Ok(()) => return Some(()),
                Err(back) => work = back.0,
            }
        }
        let (sender, queue) = channel::<Work>();
        let run = move || queue.into_iter().for_each(|work| work());
        let name = "share-disk".to_owned();
        Builder::new().name(name).spawn(run).ok()?;
        sender.send(work).ok()?;
        self.work = Some(sender);
        Some(())
    }
}

impl State {
    /// A look at the disk of a share came to nothing, and goes on. What is listed stays listed.
    pub(super) fn stands_still(&mut self, index: u16) {
        if let Some(share) = self.shares.get_mut(&index) {
            share.stands_still = true;
        }
    }

    /// That look is over, and all that was not seen meanwhile is looked for.
    pub(super) fn answers_again(&mut self, index: u16) {
        if let Some(share) = self.shares.get_mut(&index) {
            share.stands_still = false;
            self.scans.push(index);
        }
    }
}
