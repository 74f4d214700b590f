//! Figures of a peer from earlier runs of this node.

use std::time::{Duration, Instant};

/// Point in time, possibly in an earlier run: the duration `before` before the instant `at`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgedInstant {
    pub at: Instant,
    pub before: Duration,
}

impl AgedInstant {
    pub(super) fn ago(&self, now: Instant) -> Duration {
        self.before
            .saturating_add(now.saturating_duration_since(self.at))
    }
}

/// Figures of a peer from earlier runs, and those to be saved for later runs.
#[derive(Debug, Default)]
pub(super) struct PastFigures {
    pub learnt: Option<AgedInstant>,
    pub lies: u64,
    pub lied: Option<AgedInstant>,
}

impl PastFigures {
    pub(super) fn record_lie(&mut self, now: Instant) {
        self.lies += 1;
        self.lied = Some(AgedInstant {
            at: now,
            before: Duration::ZERO,
        });
    }
}
