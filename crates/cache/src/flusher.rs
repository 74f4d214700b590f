//! The thread behind the cache: writes maps a little after stores, syncs what was completed or
//! closed, and looks after a disk that refused a write. It sleeps while there is nothing to do;
//! without it nothing is wrong, only later.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::CacheError;
use super::core::Core;

/// The running thread; ends it when dropped.
pub(super) struct Flusher {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(core: Arc<Core>) -> Result<Self, CacheError> {
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
            // A panic of the thread was reported by its hook.
            let _ = thread.join();
        }
    }
}

fn run(core: &Arc<Core>) {
    while let Some(work) = core.context.write_behind.next() {
        if work.flush {
            core.flush_all();
        }
        if let Some(hash) = work.sync {
            core.bring_to_disk(&hash);
        }
        if work.look {
            core.look_at_disk();
        }
    }
}
