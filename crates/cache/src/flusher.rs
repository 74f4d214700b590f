//! Background thread of the cache. It writes maps shortly after stores, syncs completed and closed
//! files, and checks a disk that refused a write. It sleeps when idle. Without it, maps are written
//! only after many stored bytes, on completion and on close, and nothing is synced.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::CacheError;
use super::core::CacheCore;
use super::syncing::sync_to_disk;

/// The running thread; dropping it ends the thread.
pub(super) struct Flusher {
    core: Arc<CacheCore>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(core: Arc<CacheCore>) -> Result<Self, CacheError> {
        let for_thread = core.clone();
        let thread = std::thread::Builder::new()
            .name("cache-flusher".to_owned())
            .spawn(move || run(&for_thread))
            .map_err(|error| {
                CacheError::io("start a thread for", &core.context.layout.dir, error)
            })?;
        Ok(Self {
            core,
            thread: Some(thread),
        })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.core.context.write_behind.stop();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

fn run(core: &Arc<CacheCore>) {
    while let Some(work) = core.context.write_behind.next() {
        if work.flush {
            core.flush_all();
        }
        if let Some(hash) = work.sync {
            sync_to_disk(core, &hash);
        }
        if work.check_disk {
            core.check_disk();
        }
    }
}
