//! Requests for heads in place of live members that do not answer, such as a member in a network to
//! which this node has no route.
//!
//! The other members know the logs of such a member. So one of them is asked for all heads that it
//! knows. The first such request follows [`PATIENCE`] after a request to the member itself.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, Instant};

use p2pfs_types::id::NodeId;

/// How long a member may take to tell its heads before another member is asked, and the pause until
/// the next request if that member does not answer either.
const PATIENCE: Duration = Duration::from_secs(1);

/// The members whose heads are late, and the schedule of the requests to others.
#[derive(Default)]
pub(super) struct LateHeads {
    /// When to check for late members. `None` if no member was asked since the last check.
    due: Option<Instant>,
    /// The members for which the request in flight asks. `None` if no request is in flight.
    asked_for: Option<BTreeSet<NodeId>>,
    /// The members for which another member has answered since they became live.
    covered: BTreeSet<NodeId>,
    /// The member that was asked last. The next request goes to the member after it.
    last: Option<NodeId>,
}

impl LateHeads {
    /// Schedules a check, because a member is asked for its heads now.
    pub(super) fn expect(&mut self, now: Instant) {
        self.due.get_or_insert(now + PATIENCE);
    }

    /// Returns when [`Self::begin`] should be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.filter(|_| self.asked_for.is_none())
    }

    /// Returns whether a check is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|due| due <= now)
    }

    /// Begins a request in place of the `late` members for which no other member has answered.
    /// Returns the member to ask, one of `others` in turn. Without one, schedules the next check.
    /// `others` are in ascending order.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        late: impl Iterator<Item = NodeId>,
        others: &BTreeSet<NodeId>,
    ) -> Option<NodeId> {
        let uncovered: BTreeSet<NodeId> = late.filter(|it| !self.covered.contains(it)).collect();
        self.due = None;
        if uncovered.is_empty() {
            return None;
        }
        let after = |node| (Bound::Excluded(node), Bound::Unbounded);
        let next = self.last.and_then(|last| others.range(after(last)).next());
        let Some(next) = next.or_else(|| others.first()).copied() else {
            self.expect(now);
            return None;
        };
        (self.asked_for, self.last) = (Some(uncovered), Some(next));
        Some(next)
    }

    /// Ends an answered request, and returns the members for which it was.
    pub(super) fn take_answered(&mut self) -> BTreeSet<NodeId> {
        let asked_for = self.asked_for.take().unwrap_or_default();
        self.covered.extend(&asked_for);
        asked_for
    }

    /// Ends a request without an answer, and schedules the next check.
    pub(super) fn fail(&mut self, now: Instant) {
        self.asked_for = None;
        self.expect(now);
    }

    /// Returns whether another member has answered in place of this one.
    pub(super) fn covers(&self, node: &NodeId) -> bool {
        self.covered.contains(node)
    }

    /// Forgets a member that is gone or that is new.
    pub(super) fn forget(&mut self, node: &NodeId) {
        if let Some(asked_for) = &mut self.asked_for {
            asked_for.remove(node);
        }
        self.covered.remove(node);
    }
}
