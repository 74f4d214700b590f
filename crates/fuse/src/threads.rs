//! How many threads read requests.
//!
//! A few, and one is always reading: where the last of them begins to work on a request, another
//! is started, so that a disk that stands still under a share or the cache keeps nobody waiting but
//! those who want something of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most threads: so many requests may stand still before all others wait for them.
const THREADS_MAX: usize = 64;
/// A further thread that finds so many more reading than at the beginning ends.
const IDLE_MAX: usize = 4;

type Start = Box<dyn Fn() -> bool + Send + Sync>;

/// The device's threads.
#[derive(Default)]
pub(super) struct Threads {
    /// How many there are.
    all: AtomicUsize,
    start: OnceLock<(usize, Start)>,
}

impl Threads {
    /// So many are started now; `start` starts one more and says whether it could.
    pub(crate) fn expect(&self, first: usize, start: impl Fn() -> bool + Send + Sync + 'static) {
        self.all.fetch_add(first, Ordering::AcqRel);
        let _ = self.start.set((first, Box::new(start)));
    }

    /// To be called before what may take long, with how many threads wait for a request: sees to it
    /// that there is one.
    pub(crate) fn keep_one_reading(&self, reading: usize) {
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

    /// Whether this thread may end since so many others wait for a request; it is then counted out.
    pub(crate) fn may_end(&self, reading: usize) -> bool {
        let first = self.start.get().map_or(0, |start| start.0);
        if reading < first + IDLE_MAX {
            return false;
        }
        let one_less = |all: usize| (all > first).then(|| all - 1);
        let ended = (self.all).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        ended.is_ok()
    }

    /// This thread ends with the mount; whether it is the last.
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
    fn another_is_started_only_where_none_reads_and_up_to_a_limit() {
        let (threads, started) = counted(2);
        threads.keep_one_reading(1);
        assert_eq!(started.load(Ordering::Relaxed), 0);
        (0..1000).for_each(|_| threads.keep_one_reading(0));
        assert_eq!(started.load(Ordering::Relaxed), THREADS_MAX - 2);
    }

    #[test]
    fn those_that_nobody_needs_end_and_the_first_stay() {
        let (threads, _) = counted(2);
        (0..3).for_each(|_| threads.keep_one_reading(0));
        assert!(!threads.may_end(5), "a burst may follow");
        assert_eq!((0..10).filter(|_| threads.may_end(6)).count(), 3);
        assert!(!threads.end() && threads.end(), "the last of two");
    }
}
