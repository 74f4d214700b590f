//! Times in which this node did not run: it was stopped or frozen, or other programs had the
//! processors. What came meanwhile waits in its sockets, so nobody is to be told that nothing came.

use std::time::{Duration, Instant};

use super::Plan;

/// The last pause: when it was over, and how long it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    end: Instant,
    took: Duration,
}

impl Plan {
    /// This node did not run for so long until now. To be told before anything is too late.
    pub fn note_pause(&mut self, now: Instant, took: Duration) {
        self.pause = Some(Pause { end: now, took });
    }

    /// Until when a wait goes on because of the last pause: for as long as that took, but no longer
    /// than a wait has patience, so that one pause after the other lets nobody wait for ever.
    pub(super) fn excused_until(&self, patience: Duration) -> Option<Instant> {
        let Pause { end, took } = self.pause?;
        Some(end + took.min(patience))
    }
}
