//! Policy for late requests. They are hedged within a budget, or moved to other peers if their peer
//! is silent.
//!
//! A hedge is a second request for a range, to another peer, while the first request is still open.
//! It transfers bytes twice. It is therefore sent only if it is much faster than the rest of the
//! first request. It is paid from a credit that all readers share, and it never exceeds the limit
//! of bytes in flight. A request to a silent peer is not hedged if another live peer has the bytes:
//! it is cancelled, and its range is requested there.
//!
//! Lateness alone does not justify a hedge. If this node's own link is full, the answers of all
//! peers are late, and a second request would delay them further. The decision therefore compares
//! when the rest of the late answer and when the hedge are expected.

use std::time::Duration;

use super::pause::GrowingPause;
use super::schedule::WORSE_MULTIPLE;
use super::{PlanConfig, WINDOW_START_BYTES};

/// Each answer adds 1/`HEDGE_SHARE` of its bytes to the credit for hedges, so in the long run
/// hedges request at most one of this many bytes. Otherwise a slow cluster would be asked for
/// everything twice. The credit is at most [`WINDOW_START_BYTES`].
const HEDGE_SHARE: u64 = 10;
/// Minimum time for which a peer with an open request may send nothing before it counts as silent. A
/// peer that pauses for longer now and then gets more ([`Peer::silent_min`]).
///
/// [`Peer::silent_min`]: super::peer::Peer::silent_min
pub(super) const SILENT_MIN: Duration = Duration::from_millis(200);
/// Minimum time for which a peer may send nothing before it loses its stripes of a swarm's file for
/// its silence, and maximum wait of a reader for a stripe of another node. It is longer than
/// [`SILENT_MIN`]: if many nodes begin at once, each is quiet for longer than that now and then.
pub(super) const LOST_MIN: Duration = Duration::from_secs(1);

/// Maximum time between two checks of one request. A request without an answer is checked less and
/// less often up to this limit.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(16);

/// Figures of a request that is due for a check.
#[derive(Clone, Copy, Debug)]
pub(super) struct LateRequest {
    /// Whether this node delays it: a limit throttles it, or its answer waits for verification.
    pub is_delayed_here: bool,
    /// Whether a reader waits for a part of its range, or a fill has everything in flight that it
    /// lacks.
    pub is_waited_for: bool,
    /// Expected duration of the request when it was sent.
    pub usual: Duration,
    /// How long its peer has sent nothing.
    pub quiet: Duration,
    /// Minimum time for which its peer may send nothing before it counts as silent.
    pub silent_min: Duration,
    /// Number of checks before this one.
    pub checks: u32,
    /// Expected time until the rest of its answer arrives, or `None` if there is no estimate.
    pub remaining: Option<Duration>,
    /// Whether another live holder has the beginning of its range. Always false if its peer is not
    /// silent.
    pub is_elsewhere: bool,
}

/// Action on a late request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HedgeAction {
    /// Nothing, until its next check.
    Wait,
    /// Requests its first missing part from another peer too, if that is much faster and
    /// affordable. Without a hedge, the request may be reissued as for [`HedgeAction::Reissue`].
    Hedge,
    /// Cancels it, so that its range is requested elsewhere.
    TakeBack,
    /// Sends it again as urgent, under the conditions of `hedge::reissue_as_urgent`.
    Reissue,
}

/// Decides about late requests. It has the credit for hedges, and no other state.
#[derive(Debug)]
pub(super) struct HedgePolicy {
    config: PlanConfig,
    credit_bytes: u64,
}

impl HedgePolicy {
    pub(super) fn new(config: PlanConfig) -> Self {
        Self {
            config,
            credit_bytes: WINDOW_START_BYTES,
        }
    }

    /// Returns how long the peer of a request may send nothing before it counts as silent.
    fn silent_after(&self, late: &LateRequest) -> Duration {
        let usual = self.config.late_after(late.usual, late.is_waited_for);
        usual.max(late.silent_min)
    }

    /// Returns whether the peer of a request counts as silent.
    pub(super) fn is_silent(&self, late: &LateRequest) -> bool {
        !late.is_delayed_here && late.quiet >= self.silent_after(late)
    }

    /// Returns whether the peer of a request has been silent for so long that it loses its stripes.
    pub(super) fn is_lost(&self, late: &LateRequest) -> bool {
        self.is_silent(late) && late.quiet >= LOST_MIN
    }

    /// Returns the action on a late request.
    pub(super) fn decide(&self, late: &LateRequest) -> HedgeAction {
        if late.is_delayed_here {
            HedgeAction::Reissue
        } else if self.is_silent(late) && late.is_elsewhere {
            HedgeAction::TakeBack
        } else if late.is_waited_for {
            HedgeAction::Hedge
        } else {
            HedgeAction::Wait
        }
    }

    /// Returns the time until the next check of a request.
    pub(super) fn next_check(&self, late: &LateRequest) -> Duration {
        if late.is_delayed_here {
            return SILENT_MIN;
        }
        let span = self.silent_after(late);
        // a peer that has been quiet for most of the span is checked when it would count as silent
        if late.quiet > span / 2 && late.quiet < span {
            return span - late.quiet;
        }
        let growing = GrowingPause {
            first: span,
            most: CHECK_INTERVAL_MAX,
        };
        let doubled = growing.after(late.checks);
        let rest = late.remaining.map(|rest| rest.max(span));
        rest.map_or(doubled, |rest| doubled.min(rest))
    }

    /// Returns whether another peer would deliver a late range so much sooner that a second request
    /// pays. If `remaining` is `None`, it pays. A hedge that saves little is not worth its bytes.
    pub(super) fn is_worth(expected: Duration, remaining: Option<Duration>) -> bool {
        remaining.is_none_or(|rest| expected * WORSE_MULTIPLE < rest)
    }

    /// Returns whether the credit pays for a hedge.
    pub(super) fn can_pay(&self, bytes: u64) -> bool {
        self.credit_bytes >= bytes
    }

    /// Pays for a hedge.
    pub(super) fn pay(&mut self, bytes: u64) {
        self.credit_bytes -= bytes;
    }

    /// Earns credit by an answer.
    pub(super) fn earn(&mut self, bytes: u64) {
        let credit_bytes = self.credit_bytes + bytes / HEDGE_SHARE;
        self.credit_bytes = credit_bytes.min(WINDOW_START_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> HedgePolicy {
        HedgePolicy::new(PlanConfig::default())
    }

    /// A request whose bytes arrive slowly while a reader waits.
    const SLOW: LateRequest = LateRequest {
        is_delayed_here: false,
        is_waited_for: true,
        usual: Duration::from_millis(100),
        quiet: Duration::ZERO,
        silent_min: SILENT_MIN,
        checks: 0,
        remaining: Some(Duration::from_secs(2)),
        is_elsewhere: true,
    };

    #[test]
    fn each_kind_of_late_request_has_its_action() {
        let quiet = Duration::from_secs(1);
        let is_waited_for = false;
        let cases = [
            (SLOW, HedgeAction::Hedge),
            (
                LateRequest {
                    is_waited_for,
                    ..SLOW
                },
                HedgeAction::Wait,
            ),
            (LateRequest { quiet, ..SLOW }, HedgeAction::TakeBack),
            (
                LateRequest {
                    quiet,
                    is_elsewhere: false,
                    ..SLOW
                },
                HedgeAction::Hedge,
            ),
            (
                LateRequest {
                    quiet,
                    is_delayed_here: true,
                    ..SLOW
                },
                HedgeAction::Reissue,
            ),
        ];
        for (late, action) in cases {
            assert_eq!(policy().decide(&late), action, "{late:?}");
        }
    }

    #[test]
    fn a_quiet_peer_is_checked_when_it_would_count_as_silent() {
        let (policy, quiet) = (policy(), Duration::from_millis(200));
        let late = LateRequest { quiet, ..SLOW };
        assert!(!policy.is_silent(&late));
        let next = policy.next_check(&late);
        let then = LateRequest {
            quiet: quiet + next,
            ..SLOW
        };
        assert!(policy.is_silent(&then));
    }

    #[test]
    fn hedges_cost_one_byte_in_ten_in_the_long_run() {
        let mut policy = policy();
        policy.pay(WINDOW_START_BYTES);
        assert!(!policy.can_pay(1));
        policy.earn(1000);
        assert!(policy.can_pay(100) && !policy.can_pay(101));
    }
}
