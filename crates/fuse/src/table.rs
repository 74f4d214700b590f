//! Table of unanswered requests and their deadlines.
//!
//! The code that takes a request out of the table must answer it. Each request is therefore
//! answered once: by its handler, an interrupt, the deadline, or the end of the mount. The kernel
//! bounds the table: each entry has a waiting process or is a read-ahead, of which there are at
//! most [`BACKGROUND_MAX`](super::BACKGROUND_MAX).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::abi::{ReadIn, RequestHeader};
use super::reading::{FileReads, WaitingReads};
use p2pfs_fs::PendingRead;

/// How long a request for names runs before a signal that its thread caught ends it. This is longer
/// than such an answer takes on a busy machine, and shorter than people notice (200 ms for any
/// interrupt). An interrupted request that is not found is searched for during the same time.
pub(super) const SIGNAL_GRACE: Duration = Duration::from_millis(150);

/// A request that waits for its answer.
#[derive(Clone)]
pub(super) struct PendingRequest {
    pub opcode: u32,
    pub since: Instant,
    pub deadline: Instant,
    /// Read that will answer the request, once it has begun.
    pub read: Option<PendingRead>,
    /// Number of the open file of a read that is processed inline.
    pub handle: Option<u64>,
    /// Process and file of the read, if known.
    pub reading: Option<Arc<FileReads>>,
    /// Whether the budget of the program delays the read.
    pub is_delayed: bool,
    /// Set if a caught signal does not end the wait.
    pub patient: Option<SignalPatience>,
}

/// Condition under which a request waits on after a signal that does not end its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SignalPatience {
    /// Thread that waits.
    pub thread: u32,
    /// Time from which a caught signal ends the request. If it is `None`, a caught signal never
    /// does.
    pub until: Option<Instant>,
}

impl PendingRequest {
    pub(crate) fn new(opcode: u32, since: Instant, deadline: Instant) -> Self {
        Self {
            opcode,
            since,
            deadline,
            read: None,
            handle: None,
            reading: None,
            is_delayed: false,
            patient: None,
        }
    }

    /// Creates a request for names or attributes. A caught signal during the work must not break a
    /// listing, so the request continues until [`SIGNAL_GRACE`] after `since`.
    pub(crate) fn of_names(header: &RequestHeader, since: Instant, deadline: Instant) -> Self {
        let patience = SignalPatience {
            thread: header.pid,
            until: Some(since + SIGNAL_GRACE),
        };
        Self {
            patient: Some(patience),
            ..Self::new(header.opcode, since, deadline)
        }
    }

    /// Creates a read that its thread processes inline and that may wait for a local disk. A caught
    /// signal never ends an ordinary read. It ends a direct read under the same condition as a
    /// request for names.
    pub(crate) fn of_disk(
        header: &RequestHeader,
        read: &ReadIn,
        since: Instant,
        deadline: Instant,
    ) -> Self {
        let mut waiting = Self {
            handle: Some(read.handle),
            ..Self::of_names(header, since, deadline)
        };
        if let (Some(patience), false) = (&mut waiting.patient, read.is_direct()) {
            patience.until = None;
        }
        waiting
    }
}

/// All waiting requests.
#[derive(Default)]
pub(super) struct RequestTable {
    state: Mutex<TableState>,
    changed: Condvar,
}

#[derive(Default)]
struct TableState {
    waiting: HashMap<u64, PendingRequest>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Time at which a request of each operation was last taken out of the table.
    taken: HashMap<u32, Instant>,
    /// Time until which the thread that waits for expired requests sleeps; `None` until it is
    /// woken.
    asleep_until: Option<Instant>,
    closed: bool,
}

impl RequestTable {
    /// Adds a request. Returns `false` once the table is closed; the caller must then answer.
    pub(crate) fn insert(&self, unique: u64, waiting: PendingRequest) -> bool {
        let deadline = waiting.deadline;
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        // A thread that sleeps until an earlier deadline wakes in time, even if that request was
        // answered.
        let oversleeps = state.asleep_until.is_none_or(|until| deadline < until);
        if oversleeps {
            state.asleep_until = Some(deadline);
        }
        state.waiting.insert(unique, waiting);
        state.deadlines.insert((deadline, unique));
        if oversleeps {
            self.changed.notify_one();
        }
        true
    }

    /// Takes a request out of the table to answer it.
    pub(crate) fn take(&self, unique: u64) -> Option<PendingRequest> {
        self.state.lock().take(unique)
    }

    /// Sets the read that will answer the request. Returns the read if the request was answered
    /// meanwhile, so that the caller can abandon it.
    pub(crate) fn attach(&self, unique: u64, read: PendingRead) -> Option<PendingRead> {
        match self.state.lock().waiting.get_mut(&unique) {
            Some(waiting) => {
                waiting.read = Some(read);
                None
            }
            None => Some(read),
        }
    }

    /// Marks a delayed read as begun. Returns `false` if it was answered meanwhile.
    pub(crate) fn begin(&self, unique: u64) -> bool {
        let mut state = self.state.lock();
        let waiting = state.waiting.get_mut(&unique);
        waiting.map(|it| it.is_delayed = false).is_some()
    }

    /// Returns the patience of a waiting request: `Some(None)` if a caught signal ends it, and
    /// `None` if the request does not wait.
    pub(crate) fn patience_of(&self, unique: u64) -> Option<Option<SignalPatience>> {
        Some(self.state.lock().waiting.get(&unique)?.patient)
    }

    /// Returns the waiting reads by process and file.
    pub(crate) fn waits(&self) -> WaitingReads {
        let mut waits = WaitingReads::default();
        let now = Instant::now();
        for waiting in self.state.lock().waiting.values() {
            if let Some(reading) = &waiting.reading {
                let waited = now.saturating_duration_since(waiting.since);
                waits.add(reading, waited, waiting.is_delayed);
            }
        }
        waits
    }

    /// Returns whether a request of the given operations is in the table or was taken out of it
    /// since `since`.
    pub(crate) fn any_since(&self, since: Instant, wanted: impl Fn(u32) -> bool) -> bool {
        let state = self.state.lock();
        let waits = || state.waiting.values().any(|it| wanted(it.opcode));
        let mut taken = state.taken.iter();
        taken.any(|(operation, at)| *at >= since && wanted(*operation)) || waits()
    }

    /// Returns the number of waiting requests.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Waits until requests are past their deadline and returns copies of them. Each must be [taken
    /// out](RequestTable::take) and answered, or [postponed](RequestTable::postpone). Returns
    /// `None` once the table is closed.
    pub(crate) fn wait_expired(&self) -> Option<Vec<(u64, PendingRequest)>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let expired = state.expired(now);
            if !expired.is_empty() {
                return Some(expired);
            }
            state.asleep_until = state.deadlines.first().map(|(first, _)| *first);
            match state.asleep_until {
                None => self.changed.wait(&mut state),
                Some(first) => {
                    self.changed.wait_until(&mut state, first);
                }
            }
        }
    }

    /// Sets a new deadline for an expired request, unless it was answered meanwhile.
    pub(crate) fn postpone(&self, unique: u64, deadline: Instant) {
        let mut state = self.state.lock();
        if let Some(waiting) = state.waiting.get_mut(&unique) {
            waiting.deadline = deadline;
            state.deadlines.insert((deadline, unique));
        }
    }

    /// Closes the table and takes out all requests, to be answered.
    pub(crate) fn close(&self) -> Vec<(u64, PendingRequest)> {
        let mut state = self.state.lock();
        state.closed = true;
        state.deadlines.clear();
        self.changed.notify_all();
        state.waiting.drain().collect()
    }
}

impl TableState {
    fn take(&mut self, unique: u64) -> Option<PendingRequest> {
        let waiting = self.waiting.remove(&unique)?;
        self.deadlines.remove(&(waiting.deadline, unique));
        self.taken.insert(waiting.opcode, Instant::now());
        Some(waiting)
    }

    /// Returns the requests past their deadline. They have no deadline afterwards.
    fn expired(&mut self, now: Instant) -> Vec<(u64, PendingRequest)> {
        let mut expired = Vec::new();
        while let Some((deadline, unique)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            if let Some(waiting) = self.waiting.get(&unique) {
                expired.push((unique, waiting.clone()));
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const FAR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_request_is_taken_once() {
        let (table, now) = (RequestTable::default(), Instant::now());
        assert!(table.insert(2, PendingRequest::new(15, now, now + FAR)));
        assert_eq!(table.take(2).unwrap().opcode, 15);
        assert!(table.take(2).is_none());
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn requests_past_their_deadline_are_returned_and_others_stay() {
        let (table, now) = (RequestTable::default(), Instant::now());
        table.insert(2, PendingRequest::new(15, now, now));
        table.insert(4, PendingRequest::new(15, now, now + FAR));
        table.insert(6, PendingRequest::new(3, now, now));
        let expired: Vec<u64> = table
            .wait_expired()
            .unwrap()
            .into_iter()
            .map(|(unique, _)| unique)
            .collect();
        assert_eq!(expired, vec![2, 6]);
        let taken = expired.iter().filter_map(|id| table.take(*id));
        assert_eq!((taken.count(), table.count()), (2, 1));
    }

    #[test]
    fn a_postponed_request_returns_later_and_can_be_answered_meanwhile() {
        let (table, now) = (RequestTable::default(), Instant::now());
        for unique in [2, 4] {
            table.insert(unique, PendingRequest::new(15, now, now));
        }
        assert_eq!(table.wait_expired().unwrap().len(), 2);
        table.postpone(2, now);
        table.postpone(4, now);
        assert!(table.take(4).is_some());
        let again = table.wait_expired().unwrap();
        assert_eq!(again.len(), 1);
        assert!(table.take(2).is_some() && table.take(2).is_none());
        table.postpone(2, now);
        assert!(table.close().is_empty());
    }

    #[test]
    fn an_earlier_deadline_wakes_a_waiter_of_a_later_one() {
        let table = RequestTable::default();
        let now = Instant::now();
        table.insert(2, PendingRequest::new(15, now, now + FAR));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| table.wait_expired());
            table.insert(4, PendingRequest::new(15, now, now));
            let expired = waiter.join().unwrap().unwrap();
            assert_eq!(expired[0].0, 4);
        });
    }

    #[test]
    fn closing_returns_everything_and_accepts_no_more() {
        let (table, now) = (RequestTable::default(), Instant::now());
        table.insert(2, PendingRequest::new(15, now, now + FAR));
        assert_eq!(table.close().len(), 1);
        assert!(!table.insert(4, PendingRequest::new(15, now, now + FAR)));
        assert!(table.wait_expired().is_none());
    }
}
