//! Pauses of this node: it was stopped or frozen, or other programs had the processors. Bytes that
//! arrived meanwhile wait in its sockets, so no reader may fail because nothing arrived.

use std::time::{Duration, Instant};

use super::Plan;

/// End and length of the last pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    end: Instant,
    took: Duration,
}

impl Plan {
    /// Records that this node did not run for `took` until `now`. Must be called before deadlines
    /// are checked.
    pub fn note_pause(&mut self, now: Instant, took: Duration) {
        self.pause = Some(Pause { end: now, took });
    }

    /// Returns until when the last pause extends a wait: by the length of the pause, but at most by
    /// the wait's patience. Otherwise repeated pauses could extend a wait for ever.
    pub(super) fn excused_until(&self, patience: Duration) -> Option<Instant> {
        let Pause { end, took } = self.pause?;
        Some(end + took.min(patience))
    }
}
