//! Number of threads that read requests.
//!
//! There are a few threads that read requests. If none is left to read while one of them processes
//! a request that may take long, another one is started, up to [`THREADS_MAX`]. Until then, a
//! stalled disk under a share or the cache delays only the requests that need it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum number of threads. If this many requests stall, all others wait for them.
const THREADS_MAX: usize = 64;
/// Number of waiting threads beyond the initial ones at which a further thread ends.
const IDLE_MAX: usize = 4;

type StartThread = Box<dyn Fn() -> bool + Send + Sync>;

/// Threads of the device.
#[derive(Default)]
pub(super) struct Threads {
    /// Number of running threads.
    all: AtomicUsize,
    start: OnceLock<(usize, StartThread)>,
}

impl Threads {
    /// Sets the number of initial threads. `start` starts one more and returns whether it
    /// succeeded.
    pub(crate) fn expect(&self, first: usize, start: impl Fn() -> bool + Send + Sync + 'static) {
        self.all.fetch_add(first, Ordering::AcqRel);
        let _ = self.start.set((first, Box::new(start)));
    }

    /// Ensures that a thread waits for requests. To be called before work that may take long, with
    /// the number of threads that wait.
    pub(crate) fn ensure_one_reads(&self, reading: usize) {
        if reading > 0 {
            return;
        }
        let Some((_, start)) = self.start.get() else {
            return;
        };
        let one_more = |all: usize| (all < THREADS_MAX).then_some(all + 1);
        let may = (self.all).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        if may.is_ok() && !start() {
            self.all.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Returns whether this thread may end because enough others wait for requests. It then no
    /// longer counts.
    pub(crate) fn may_end(&self, reading: usize) -> bool {
        let first = self.start.get().map_or(0, |start| start.0);
        if reading < first + IDLE_MAX {
            return false;
        }
        let one_less = |all: usize| (all > first).then(|| all - 1);
        let ended = (self.all).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        ended.is_ok()
    }

    /// Removes this thread at the end of the mount. Returns whether it was the last one.
    pub(crate) fn end(&self) -> bool {
        self.all.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn counted(first: usize) -> (Threads, Arc<AtomicUsize>) {
        let (threads, started) = (Threads::default(), Arc::<AtomicUsize>::default());
        let count = started.clone();
        threads.expect(first, move || {
            count.fetch_add(1, Ordering::Relaxed);
            true
        });
        (threads, started)
    }

    #[test]
    fn a_thread_is_started_only_when_none_is_reading_and_up_to_a_limit() {
        let (threads, started) = counted(2);
        threads.ensure_one_reads(1);
        assert_eq!(started.load(Ordering::Relaxed), 0);
        (0..1000).for_each(|_| threads.ensure_one_reads(0));
        assert_eq!(started.load(Ordering::Relaxed), THREADS_MAX - 2);
    }

    #[test]
    fn unneeded_threads_end_and_the_first_ones_stay() {
        let (threads, _) = counted(2);
        (0..3).for_each(|_| threads.ensure_one_reads(0));
        assert!(!threads.may_end(5), "a burst may follow");
        assert_eq!((0..10).filter(|_| threads.may_end(6)).count(), 3);
        assert!(!threads.end() && threads.end(), "the last of two");
    }
}
