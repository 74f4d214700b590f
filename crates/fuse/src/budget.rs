//! Budgets: how many bytes a second a program may have fetched, and the reads that wait for
//! theirs.
//!
//! A budget only ever delays, and never for longer than [`WAIT_MAX`], so that whoever waits makes
//! progress whatever the rate is. Nothing waits here but requests: no thread of the mount does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use p2pfs_fs::handles::Handle;
use p2pfs_types::extent::ByteRange;

/// What a program that has fetched nothing for a while may have at once.
const BURST: Duration = Duration::from_secs(1);
/// The longest that a read waits for its budget. Where a program has more under way than its rate
/// moves in this time, the rate is exceeded.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// How many bytes a second a program may have fetched: by the name of its process, or of its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderBudget {
    pub program: String,
    /// Bytes a second, all processes of that name together.
    pub bytes_s: u64,
}

/// A budget at work.
pub(super) struct Budget {
    pub rule: ReaderBudget,
    /// Until when all that was granted takes, at the rate.
    spent_until: Mutex<Option<Instant>>,
}

impl Budget {
    pub(crate) fn new(rule: ReaderBudget) -> Self {
        Self {
            rule,
            spent_until: Mutex::default(),
        }
    }

    /// Takes so many bytes out; says when they may be fetched.
    pub(crate) fn spend(&self, bytes: u64, now: Instant) -> Instant {
        let mut spent_until = self.spent_until.lock();
        let idle_since = now.checked_sub(BURST).unwrap_or(now);
        let begin = spent_until.map_or(idle_since, |until| until.max(idle_since));
        *spent_until = Some(begin + self.time_of(bytes));
        begin.clamp(now, now + WAIT_MAX)
    }

    /// Gives back what nobody wants fetched any more.
    pub(crate) fn give_back(&self, bytes: u64) {
        let mut spent_until = self.spent_until.lock();
        *spent_until = spent_until.and_then(|until| until.checked_sub(self.time_of(bytes)));
    }

    fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rule.bytes_s.max(1) as f64)
    }
}

/// A read that waits for its budget.
pub(super) struct Delayed {
    /// The kernel's request.
    pub unique: u64,
    pub handle: Arc<Handle>,
    pub range: ByteRange,
    pub bytes: u64,
    pub budget: Arc<Budget>,
}

/// What is due.
pub(super) enum Due {
    /// A read may begin.
    Begin(Delayed),
    /// A request is to be looked at again whose thread got a signal at that time.
    Interrupted { unique: u64, since: Instant },
    /// The threads are to be looked at for reads that take long.
    LookAtHands,
}

/// What is to be done later. The requests that are under way bound this.
#[derive(Default)]
pub(super) struct DelayQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: BTreeMap<(Instant, u64), Due>,
    pushed: u64,
    closed: bool,
}

impl DelayQueue {
    /// Lets something wait until then.
    pub(crate) fn push(&self, until: Instant, due: Due) {
        let mut state = self.state.lock();
        state.pushed += 1;
        let key = (until, state.pushed);
        state.waiting.insert(key, due);
        self.changed.notify_one();
    }

    /// Waits for the next whose time has come; nothing once the queue is closed.
    pub(crate) fn wait_due(&self) -> Option<Due> {
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

    /// Ends the waiting; the device answers the requests.
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
        Budget::new(ReaderBudget {
            program: "rsync".to_owned(),
            bytes_s,
        })
    }

    #[test]
    fn over_time_no_more_is_granted_than_the_rate() {
        let (budget, begun) = (budget(MIB), Instant::now());
        let mut last = begun;
        for _ in 0..80 {
            // a reader that asks for the next as soon as it has the last
            last = budget.spend(MIB / 8, last);
        }
        let took = (last - begun).as_secs_f64();
        assert!((8.5..=10.0).contains(&took), "10 MiB but the burst: {took}");
    }

    #[test]
    fn after_a_rest_a_second_of_it_comes_at_once_and_no_more() {
        let (budget, begun) = (budget(MIB), Instant::now());
        budget.spend(MIB, begun);
        let later = begun + Duration::from_secs(3600);
        assert_eq!(budget.spend(MIB, later), later);
        assert_eq!(budget.spend(MIB, later), later);
        assert_eq!(budget.spend(MIB, later), later + Duration::from_secs(1));
    }

    #[test]
    fn nobody_waits_longer_than_the_limit_whatever_is_under_way() {
        let (budget, now) = (budget(64 << 10), Instant::now());
        for _ in 0..1000 {
            assert!(budget.spend(MIB, now) <= now + WAIT_MAX);
        }
    }

    #[test]
    fn what_was_given_back_is_there_for_the_next() {
        let (budget, now) = (budget(MIB), Instant::now());
        budget.spend(MIB, now);
        budget.spend(10 * MIB, now);
        let waits = budget.spend(MIB, now);
        assert!(waits > now + Duration::from_secs(9));
        budget.give_back(11 * MIB);
        assert!(budget.spend(MIB, now) <= now + Duration::from_secs(1));
    }

    #[test]
    fn a_closed_queue_waits_for_nobody() {
        let queue = DelayQueue::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.wait_due().is_none());
            queue.close();
            assert!(waiter.join().unwrap());
        });
    }
}
