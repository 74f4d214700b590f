//! Whether the threads that serve a mount go on, found out without touching the mount.
//!
//! A question of our own goes the way of the kernel's: through the pair to the session, and back by
//! the thread that returns answers. The threads that read from the kernel are counted: one that
//! waits for it would take the next request.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::abi;

/// The number of our own question. The kernel counts from 2 in steps of 2, and marks what it
/// repeats by the highest bit alone.
pub(super) const PULSE_UNIQUE: u64 = u64::MAX;

/// What is known of the threads of one mount.
#[derive(Default)]
pub(super) struct Pulse {
    /// The threads that wait for the kernel.
    waiting: AtomicUsize,
    /// How often one of them got something.
    taken: AtomicU64,
    /// The same when it was last asked.
    seen: AtomicU64,
    answers: Mutex<u64>,
    changed: Condvar,
}

impl Pulse {
    /// A thread begins to wait for the kernel.
    pub(crate) fn waits(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread has got something from it.
    pub(crate) fn works(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// How many threads wait for the kernel.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Our question came back.
    pub(crate) fn answered(&self) {
        *self.answers.lock() += 1;
        self.changed.notify_all();
    }

    /// Whether the session, asked by `ask_session`, answers within `timeout`, and a thread waits
    /// for the kernel or some took requests since this was last asked.
    pub(crate) fn is_alive(
        &self,
        ask_session: impl FnOnce(&[u8]) -> bool,
        timeout: Duration,
    ) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        let goes_on = self.seen.swap(taken, Ordering::Relaxed) != taken;
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

/// STATFS of the root: answered from memory.
fn question() -> [u8; abi::IN_HEADER_BYTES] {
    abi::request(abi::opcode::STATFS, PULSE_UNIQUE, p2pfs_fs::ROOT_INO)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_question_that_comes_back_is_a_sign_of_life_and_one_that_does_not_is_none() {
        let pulse = Pulse::default();
        thread::scope(|scope| {
            let asked = || scope.spawn(|| pulse.answered()).join().is_err();
            // the answer may come before the wait begins, but not before the question
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
