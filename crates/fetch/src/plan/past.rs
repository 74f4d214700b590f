//! What a peer brings from earlier lives of this node.

use std::time::{Duration, Instant};

/// A moment, perhaps of an earlier life: so long before an instant of this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub at: Instant,
    pub before: Duration,
}

impl Moment {
    pub(super) fn ago(&self, now: Instant) -> Duration {
        self.before
            .saturating_add(now.saturating_duration_since(self.at))
    }
}

/// What a peer brings from earlier lives of this node, and what is to be kept for later ones.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Latency and rate are of an earlier life: no answer came in this one.
    pub is_guess: bool,
    pub learnt: Option<Moment>,
    pub lies: u64,
    pub lied: Option<Moment>,
}

impl Past {
    pub(super) fn note_lie(&mut self, now: Instant) {
        self.lies += 1;
        self.lied = Some(Moment {
            at: now,
            before: Duration::ZERO,
        });
    }
}
