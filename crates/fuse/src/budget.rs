//! Budgets: how many bytes per second a program may fetch, and the queue of delayed reads.
//!
//! A budget only delays reads, by at most [`WAIT_MAX`], so every reader makes progress at any rate.
//! Only requests wait here, never a thread of the mount.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::interrupts::Interrupt;
use p2pfs_fs::handles::Handle;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::extent::ByteRange;

/// Bytes that an idle program may fetch at once, as the time in which its rate allows them.
const BURST: Duration = Duration::from_secs(1);
/// Maximum delay of a read by its budget. If a program has more in flight than its rate allows in
/// this time, the rate is exceeded.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// Fetch limit of a program, which is named by its process or by its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderBudget {
    /// Name of the process or unit.
    pub program: String,
    /// Bytes per second, for all processes of that name together.
    pub bytes_s: u64,
}

/// An active budget.
pub(super) struct Budget {
    pub rule: ReaderBudget,
    bucket: Mutex<TokenBucket>,
}

impl Budget {
    pub(crate) fn new(rule: ReaderBudget, now: Instant) -> Self {
        let bucket = TokenBucket::bytes_per_second(rule.bytes_s, BURST, now);
        Self {
            rule,
            bucket: Mutex::new(bucket),
        }
    }

    /// Deducts `bytes` from the budget. Returns the time from which they may be fetched.
    pub(crate) fn spend(&self, bytes: u64, now: Instant) -> Instant {
        let mut bucket = self.bucket.lock();
        let wait = bucket.overdrawn_for(now);
        bucket.charge(bytes, now);
        now + wait.min(WAIT_MAX)
    }

    /// Returns bytes that are no longer wanted to the budget.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.bucket.lock().refund(bytes);
    }
}

/// A read that waits for its budget.
pub(super) struct DelayedRead {
    /// Number of the kernel's request.
    pub unique: u64,
    pub handle: Arc<Handle>,
    pub range: ByteRange,
    pub bytes: u64,
    pub budget: Arc<Budget>,
}

/// Work that is due.
pub(super) enum DueWork {
    /// A read may begin.
    Begin(DelayedRead),
    /// Check an interrupted request again.
    Interrupted(Interrupt),
    /// Check the threads for slow reads.
    CheckInlineReads,
}

/// Queue of delayed work. Its size is bounded by the requests in flight.
#[derive(Default)]
pub(super) struct DelayQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: BTreeMap<(Instant, u64), DueWork>,
    pushed: u64,
    closed: bool,
}

impl DelayQueue {
    /// Queues work that becomes due at `until`.
    pub(crate) fn push(&self, until: Instant, due: DueWork) {
        let mut state = self.state.lock();
        state.pushed += 1;
        let key = (until, state.pushed);
        state.waiting.insert(key, due);
        self.changed.notify_one();
    }

    /// Waits for the next due work. Returns `None` once the queue is closed.
    pub(crate) fn wait_due(&self) -> Option<DueWork> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let first = state.waiting.first_key_value().map(|((at, _), _)| *at);
            match first {
                Some(at) if at <= now => return state.waiting.pop_first().map(|(_, it)| it),
                Some(at) => {
                    self.changed.wait_until(&mut state, at);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Closes the queue. The device answers the remaining requests.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting.clear();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget(bytes_s: u64) -> Budget {
        let rule = ReaderBudget {
            program: "rsync".to_owned(),
            bytes_s,
        };
        Budget::new(rule, Instant::now())
    }

    #[test]
    fn grants_over_time_do_not_exceed_the_rate() {
        let (budget, begun) = (budget(MIB), Instant::now());
        let mut last = begun;
        for _ in 0..80 {
            // A reader that requests the next bytes as soon as it has the last ones.
            last = budget.spend(MIB / 8, last);
        }
        let took = (last - begun).as_secs_f64();
        assert!((8.5..=10.0).contains(&took), "10 MiB but the burst: {took}");
    }

    #[test]
    fn an_idle_budget_accumulates_at_most_one_second() {
        let (budget, begun) = (budget(MIB), Instant::now());
        budget.spend(MIB, begun);
        let later = begun + Duration::from_secs(3600);
        assert_eq!(budget.spend(MIB, later), later);
        assert_eq!(budget.spend(MIB, later), later);
        assert_eq!(budget.spend(MIB, later), later + Duration::from_secs(1));
    }

    #[test]
    fn no_reader_waits_longer_than_the_limit_regardless_of_load() {
        let (budget, now) = (budget(64 << 10), Instant::now());
        for _ in 0..1000 {
            assert!(budget.spend(MIB, now) <= now + WAIT_MAX);
        }
    }

    #[test]
    fn returned_budget_is_available_to_the_next() {
        let (budget, now) = (budget(MIB), Instant::now());
        budget.spend(MIB, now);
        budget.spend(10 * MIB, now);
        let waits = budget.spend(MIB, now);
        assert!(waits > now + Duration::from_secs(9));
        budget.give_back(11 * MIB);
        assert!(budget.spend(MIB, now) <= now + Duration::from_secs(1));
    }

    #[test]
    fn a_closed_queue_does_not_wait() {
        let queue = DelayQueue::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.wait_due().is_none());
            queue.close();
            assert!(waiter.join().unwrap());
        });
    }
}
