//! Back-off from a peer that failed, is busy or lied.

use std::time::{Duration, Instant};

use super::pause::GrowingPause;

/// Back-off after failures. It is short enough for several tries of a peer while a reader waits,
/// usually for 10 s.
pub(super) const BACKOFF: GrowingPause = GrowingPause {
    first: Duration::from_millis(200),
    most: Duration::from_secs(3),
};
/// Back-off after `Busy`. It is shorter, because a busy peer is alive.
const BUSY: GrowingPause = GrowingPause {
    first: Duration::from_millis(25),
    most: Duration::from_millis(800),
};
/// How long a peer is shunned after wrong bytes.
pub const SHUN: Duration = Duration::from_secs(600);

/// Back-off from a live peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spared {
    /// End of the back-off.
    pub until: Instant,
    /// Whether it began now. Otherwise it was under way, and is unchanged.
    pub is_new: bool,
}

/// Back-off from one peer.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Failures since its last answer. Requests that failed together count once.
    failures: u32,
    /// When the first of these failures was.
    failing_since: Option<Instant>,
    failed_at: Option<Instant>,
    failures_total: u64,
    busy: u32,
    busy_at: Option<Instant>,
    /// When a limit of this node last delayed a request to the peer while the peer had no failures.
    limited_at: Option<Instant>,
    not_before: Option<Instant>,
    shunned_until: Option<Instant>,
}

impl Backoff {
    /// Returns the number of failures since its last answer.
    pub(super) fn unanswered(&self) -> u32 {
        self.failures
    }

    /// Returns when the first failure since its last answer was.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        self.failing_since
    }

    pub(super) fn failures_total(&self) -> u64 {
        self.failures_total
    }

    pub(super) fn failed_at(&self) -> Option<Instant> {
        self.failed_at
    }

    /// Restores the failures and the shunning of an earlier run.
    pub(super) fn recall(&mut self, failures_total: u64, shunned_until: Option<Instant>) {
        (self.failures_total, self.shunned_until) = (failures_total, shunned_until);
    }

    /// Returns the end of the back-off or shunning, if the peer rests now.
    pub(super) fn resting_until(&self, now: Instant) -> Option<Instant> {
        self.not_before
            .max(self.shunned_until)
            .filter(|until| *until > now)
    }

    pub(super) fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| until > now)
    }

    /// Returns whether the peer is shunned or was shunned before.
    pub(super) fn was_shunned(&self) -> bool {
        self.shunned_until.is_some()
    }

    /// Ends the back-off, but not the shunning.
    pub(super) fn end(&mut self) {
        (self.failures, self.busy, self.not_before) = (0, 0, None);
        self.failing_since = None;
    }

    /// Records that the request sent at `sent_at` failed as `Unreachable`. A request that was sent
    /// before the last failure is not counted. `jitter` is in 0..1. Returns the end of the
    /// back-off.
    pub(super) fn rest(&mut self, now: Instant, sent_at: Instant, jitter: f64) -> Instant {
        self.limited_at = None;
        if self.failed_at.is_some_and(|failed| sent_at <= failed) {
            // the failure that broke the earlier request broke this one too
            return self.not_before.unwrap_or(now);
        }
        self.failed_at = Some(now);
        self.failing_since.get_or_insert(now);
        self.failures += 1;
        self.failures_total += 1;
        let until = now
            + BACKOFF
                .after(self.failures - 1)
                .mul_f64(0.75 + jitter / 2.0);
        self.not_before = Some(until);
        until
    }

    /// Backs off from a live peer without counting a failure. A request that was sent before the
    /// last such back-off began brings no news, and its failure changes nothing.
    pub(super) fn spare(&mut self, now: Instant, sent_at: Instant, jitter: f64) -> Spared {
        if let (Some(at), Some(until)) = (self.busy_at, self.not_before)
            && sent_at < at
        {
            let is_new = false;
            return Spared { until, is_new };
        }
        self.busy_at = Some(now);
        self.busy += 1;
        let until = now + BUSY.after(self.busy - 1).mul_f64(0.75 + jitter / 2.0);
        self.not_before = Some(until);
        let is_new = true;
        Spared { until, is_new }
    }

    /// Records that a limit of this node delayed a request, unless the peer has failures.
    pub(super) fn record_limited(&mut self, now: Instant) {
        if self.failures == 0 {
            self.limited_at = Some(now);
        }
    }

    /// Returns whether a limit of this node delayed a request to the peer within this time before
    /// now, and no request has failed to reach it since.
    pub(super) fn was_limited(&self, now: Instant, within: Duration) -> bool {
        self.limited_at.is_some_and(|at| at + within > now)
    }

    /// Shuns the peer for wrong bytes. Returns until when.
    pub(super) fn shun(&mut self, now: Instant) -> Instant {
        self.failures_total += 1;
        let until = now + SHUN;
        self.shunned_until = Some(until);
        until
    }
}
