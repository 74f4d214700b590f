//! The thread behind the cache: writes maps a little after stores, and syncs what was completed or
//! closed. It sleeps while there is nothing to do; without it nothing is wrong, only later.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::CacheError;
use super::core::{Core, lock};
use crate::digest::ContentHash;

/// How long a stored page may wait for its map: what a kill can lose of a slow stream.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// How many files wait to be synced; further ones are not, which costs a check of them after a
/// power cut.
const SYNCS_MAX: usize = 1024;

/// What there is to do.
#[derive(Default)]
pub(super) struct Chores {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Default)]
struct List {
    flush: bool,
    sync: VecDeque<ContentHash>,
    stop: bool,
}

impl Chores {
    /// Some file has pages that its map does not claim yet.
    pub(super) fn wake_to_flush(&self) {
        let mut list = lock(&self.list);
        if !list.flush {
            list.flush = true;
            self.changed.notify_one();
        }
    }

    /// The file should be synced when there is time.
    pub(super) fn sync_later(&self, hash: ContentHash) {
        let mut list = lock(&self.list);
        if list.sync.len() < SYNCS_MAX && !list.sync.contains(&hash) {
            list.sync.push_back(hash);
            self.changed.notify_one();
        }
    }

    /// Waits for work; gives whether to flush and what to sync. `None` is the end.
    fn next(&self) -> Option<(bool, Option<ContentHash>)> {
        let mut list = lock(&self.list);
        while !list.stop && !list.flush && list.sync.is_empty() {
            list = self
                .changed
                .wait(list)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !list.stop && list.flush && list.sync.is_empty() {
            let idle = |list: &mut List| !list.stop && list.sync.is_empty();
            let waited = self.changed.wait_timeout_while(list, FLUSH_AFTER, idle);
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let work = (std::mem::take(&mut list.flush), list.sync.pop_front());
        (!list.stop).then_some(work)
    }
}

/// The running thread; ends it when dropped.
pub(super) struct Keeper {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(core: Arc<Core>) -> Result<Self, CacheError> {
        let for_thread = core.clone();
        let thread = std::thread::Builder::new()
            .name("cache-keeper".to_owned())
            .spawn(move || keep(&for_thread))
            .map_err(|error| CacheError::io("start a thread for", &core.layout.dir, error))?;
        Ok(Self {
            core,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        lock(&self.core.chores.list).stop = true;
        self.core.chores.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by its hook.
            let _ = thread.join();
        }
    }
}

fn keep(core: &Arc<Core>) {
    while let Some((flush, sync)) = core.chores.next() {
        if flush {
            core.flush_all();
        }
        if let Some(hash) = sync
            && let Some(file) = core.existing(&hash)
        {
            // What cannot be synced stays marked with this boot, and was counted.
            let _ = file.shared().sync(core);
        }
    }
}
