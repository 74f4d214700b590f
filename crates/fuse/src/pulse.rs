//! Liveness check of the threads that serve a mount, without access to the mount.
//!
//! A probe takes the same path as a request of the kernel: through the socket pair to the session,
//! and back through the thread that returns answers. The threads that wait for the kernel are
//! counted, because a waiting thread would take the next request.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::abi;

/// Request number of the probe. The kernel counts from 2 in steps of 2, and marks resent requests
/// only by the highest bit.
pub(super) const PULSE_UNIQUE: u64 = u64::MAX;

/// Liveness state of the threads of one mount.
#[derive(Default)]
pub(super) struct Liveness {
    /// Number of threads that wait for the kernel.
    waiting: AtomicUsize,
    /// Number of times that a thread received a request.
    requests_taken: AtomicU64,
    /// Value of `requests_taken` at the last check.
    taken_at_last_check: AtomicU64,
    answers: Mutex<u64>,
    changed: Condvar,
}

impl Liveness {
    /// Records that a thread begins to wait for the kernel.
    pub(crate) fn begin_wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a thread received a request from the kernel.
    pub(crate) fn end_wait(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.requests_taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of threads that wait for the kernel.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Records the answer to the probe.
    pub(crate) fn answered(&self) {
        *self.answers.lock() += 1;
        self.changed.notify_all();
    }

    /// Returns whether the mount is alive. The session, probed through `ask_session`, must answer
    /// within `timeout`. In addition, a thread must wait for the kernel, or requests must have been
    /// taken since the last check.
    pub(crate) fn is_alive(
        &self,
        ask_session: impl FnOnce(&[u8]) -> bool,
        timeout: Duration,
    ) -> bool {
        let requests_taken = self.requests_taken.load(Ordering::Relaxed);
        let goes_on = self
            .taken_at_last_check
            .swap(requests_taken, Ordering::Relaxed)
            != requests_taken;
        let is_ready = goes_on || self.waiting() > 0;
        is_ready && self.session_answers(timeout, || ask_session(&question()))
    }

    fn session_answers(&self, timeout: Duration, ask: impl FnOnce() -> bool) -> bool {
        let mut answers = self.answers.lock();
        let before = *answers;
        if !ask() {
            return false;
        }
        let waited = self
            .changed
            .wait_while_for(&mut answers, |now| *now == before, timeout);
        !waited.timed_out()
    }
}

/// Encodes the probe: a STATFS of the root, which is answered from memory.
fn question() -> [u8; abi::IN_HEADER_BYTES] {
    abi::request(abi::opcode::STATFS, PULSE_UNIQUE, p2pfs_fs::ROOT_INO)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn an_answered_probe_proves_life_and_an_unanswered_one_does_not() {
        let pulse = Liveness::default();
        thread::scope(|scope| {
            let asked = || scope.spawn(|| pulse.answered()).join().is_err();
            // The answer may arrive before the wait begins, but not before the probe.
            assert!(!asked());
            assert!(pulse.session_answers(Duration::from_secs(60), || {
                scope.spawn(|| pulse.answered());
                true
            }));
        });
        assert!(!pulse.session_answers(Duration::from_millis(1), || true));
        assert!(!pulse.session_answers(Duration::from_secs(60), || false));
    }
}
