//! A file that was written past the kernel's pages, brought into them since it is used again.
//!
//! Reads, and nothing else. Never waited for.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::cached_file::CacheFile;

/// How much is read at once: some system call's worth, and no burden.
const STEP_BYTES: usize = 256 << 10;
/// Which part of the machine's memory such a file may take: more, and it would push itself out.
const MEMORY_SHARE: u64 = 8;

impl CacheFile {
    /// Whether the kernel has at most a part of the file in its pages of it, since it went to the
    /// disk past these, and could have all.
    pub fn is_past_pages(&self) -> bool {
        self.shared().is_past_pages.load(Ordering::Relaxed)
            && self.size_bytes() <= memory_bytes() / MEMORY_SHARE
    }

    /// Has a complete file read into the kernel's pages, soon, by a thread of its own; one file at
    /// a time, so that where another is under way nothing happens. It holds the file open and
    /// nothing of the cache, which may evict the file or be closed meanwhile.
    pub fn warm(&self) {
        let Some(backing) = self.backing() else {
            return;
        };
        let Some(turn) = Turn::take(&self.handle.core.context.is_warming) else {
            return;
        };
        let size_bytes = self.size_bytes();
        let read = move || {
            read_through(&backing, size_bytes);
            drop(turn);
        };
        // without a thread the next reads are of the disk
        let _started = thread::Builder::new()
            .name("cache-warmer".into())
            .spawn(read);
    }
}

/// Held by the one that reads a file into the kernel's pages.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(is_taken: &Arc<AtomicBool>) -> Option<Self> {
        let was_taken = is_taken.swap(true, Ordering::Relaxed);
        (!was_taken).then(|| Self(is_taken.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// All that the machine has.
fn memory_bytes() -> u64 {
    let memory = rustix::system::sysinfo();
    memory.totalram as u64 * u64::from(memory.mem_unit)
}

/// What cannot be read is found by whoever needs it.
fn read_through(file: &File, size_bytes: u64) {
    let mut step = vec![0; STEP_BYTES];
    let mut offset = 0;
    while offset < size_bytes {
        match file.read_at(&mut step, offset) {
            Ok(0) | Err(_) => return,
            Ok(read) => offset += read as u64,
        }
    }
}
