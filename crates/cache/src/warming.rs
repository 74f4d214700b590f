//! Reads a file that was written past the page cache into it when the file is used again.
//!
//! The module only reads, and no caller waits for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::cached_file::CacheFile;

/// Bytes per read: large enough to amortize a system call.
const STEP_BYTES: usize = 256 << 10;
/// Divisor of the machine's memory: the maximum size of such a file. A larger file would evict its
/// own pages.
const MEMORY_SHARE: u64 = 8;

impl CacheFile {
    /// Returns whether the file was written past the page cache and would fit into it. Its pages
    /// are then at most partly cached.
    pub fn is_past_pages(&self) -> bool {
        self.shared().is_past_pages.load(Ordering::Relaxed)
            && self.size_bytes() <= memory_bytes() / MEMORY_SHARE
    }

    /// Reads a complete file into the page cache in a background thread. Only one file is read at a
    /// time; if another is in progress, this call does nothing. The thread holds only the file
    /// open, so the cache may evict the file or be closed meanwhile.
    pub fn warm(&self) {
        let Some(backing) = self.backing() else {
            return;
        };
        let Some(turn) = WarmingPermit::take(&self.handle.core.context.is_warming) else {
            return;
        };
        let size_bytes = self.size_bytes();
        let read = move || {
            read_through(&backing, size_bytes);
            drop(turn);
        };
        // Without a thread, the next reads go to the disk.
        let _started = thread::Builder::new()
            .name("cache-warmer".into())
            .spawn(read);
    }
}

/// Permission to read a file into the page cache; only one exists at a time.
struct WarmingPermit(Arc<AtomicBool>);

impl WarmingPermit {
    fn take(is_taken: &Arc<AtomicBool>) -> Option<Self> {
        let was_taken = is_taken.swap(true, Ordering::Relaxed);
        (!was_taken).then(|| Self(is_taken.clone()))
    }
}

impl Drop for WarmingPermit {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Returns the total memory of the machine.
fn memory_bytes() -> u64 {
    let memory = rustix::system::sysinfo();
    memory.totalram as u64 * u64::from(memory.mem_unit)
}

/// Reads the whole file. Stops at an error, which the next reader will find itself.
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
