//! Nodes that were asked for bytes of one file: what each of them gave, and which of them owe an
//! answer.
//!
//! A node owes an answer from the time of its oldest open request, or of its last answer if further
//! requests are open then. Bytes, refusals, and delays by this node count as answers. A lost
//! connection does not, but a node that has returned owes nothing from before. So a node that gives
//! the beginning of a file and then nothing is as silent as a node that gives nothing at all.

use std::collections::BTreeMap;
use std::time::Instant;

use super::PlanError;
use super::patience::Waiting;
use p2pfs_types::id::NodeId;

/// Bytes of an open file on this node, and the nodes that were asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Whether this node has all of the file.
    pub is_whole: bool,
    /// Nodes that were asked for bytes of the file since its fetch began.
    pub suppliers: Vec<Supplier>,
}

/// Node that was asked for bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supplier {
    /// The node.
    pub node: NodeId,
    /// Verified bytes that it gave.
    pub received_bytes: u64,
    /// Whether a wait of a reader ended with [`PlanError::Unanswered`] while it owed an answer. Its
    /// next answer ends this.
    pub left_reader: bool,
}

#[derive(Debug, Default)]
struct SupplierState {
    received_bytes: u64,
    /// Requests that were sent to it and are neither ended nor completely received.
    open: usize,
    asked_at: Option<Instant>,
    owes_since: Option<Instant>,
    left_reader: bool,
}

impl SupplierState {
    fn answer(&mut self, now: Instant) {
        self.owes_since = (self.open > 0).then_some(now);
        self.left_reader = false;
    }

    /// Returns whether requests to the node went unanswered for at least half of the limit of a
    /// wait. A request that was sent shortly before the deadline proves nothing.
    fn left(&self, now: Instant, waiting: Waiting) -> bool {
        let was_asked = self.open > 0 || self.asked_at.is_some_and(|at| at >= waiting.since);
        let owes_since = self.owes_since.filter(|_| was_asked);
        owes_since.is_some_and(|at| is_long_ago(now, at, waiting))
    }
}

/// Returns whether at least half of the limit of a wait is over since a time, or since the wait
/// began.
fn is_long_ago(now: Instant, at: Instant, waiting: Waiting) -> bool {
    at.max(waiting.since) + waiting.limit / 2 <= now
}

/// Nodes that were asked for bytes of a file; see the module documentation.
#[derive(Debug, Default)]
pub(super) struct SupplierSet {
    nodes: BTreeMap<NodeId, SupplierState>,
    /// When a request for bytes of the file was last answered, by any node.
    answered_at: Option<Instant>,
    /// When a holder last refused a request. `None` if bytes arrived since, or a limit or fault of
    /// this node delayed a request since.
    refused_at: Option<Instant>,
}

impl SupplierSet {
    /// Records that a request was sent to a node.
    pub(super) fn record_request(&mut self, now: Instant, node: NodeId) {
        let state = self.nodes.entry(node).or_default();
        state.open += 1;
        state.asked_at = Some(now);
        state.owes_since.get_or_insert(now);
    }

    /// Records that an open request to a node ended.
    pub(super) fn record_end(&mut self, node: &NodeId) {
        if let Some(state) = self.nodes.get_mut(node) {
            state.open = state.open.saturating_sub(1);
        }
    }

    /// Records that the answer to an open request is complete and waits for this node.
    pub(super) fn record_received(&mut self, node: &NodeId) {
        self.record_end(node);
        self.record_unneeded(node);
    }

    /// Records that a limit of this node delays an open request. Until the next request or answer
    /// of a node, its silence may be due to that limit.
    pub(super) fn record_delay(&mut self, node: &NodeId) {
        self.record_end(node);
        self.refused_at = None;
        let states = self.nodes.values_mut();
        states.for_each(|state| state.owes_since = None);
    }

    /// Records that this node cancelled a request to a node because it does not need the answer.
    pub(super) fn record_unneeded(&mut self, node: &NodeId) {
        if let Some(state) = self.nodes.get_mut(node).filter(|it| it.open == 0) {
            state.owes_since = None;
        }
    }

    /// Records that bytes arrived from a node, or that a limit or fault of this node delays a
    /// request to it.
    pub(super) fn record_answer(&mut self, now: Instant, node: &NodeId) {
        self.answered_at = Some(now);
        self.refused_at = None;
        if let Some(state) = self.nodes.get_mut(node) {
            state.answer(now);
        }
    }

    /// Records that a node refused a request.
    pub(super) fn record_refusal(&mut self, now: Instant, node: &NodeId) {
        self.record_answer(now, node);
        self.refused_at = Some(now);
    }

    /// Records that a node has returned, perhaps after a crash. It owes no answer from before.
    pub(super) fn record_return(&mut self, node: &NodeId) {
        if let Some(state) = self.nodes.get_mut(node) {
            state.owes_since = None;
        }
    }

    /// Records verified bytes of a node.
    pub(super) fn record_bytes(&mut self, node: NodeId, bytes: u64) {
        self.nodes.entry(node).or_default().received_bytes += bytes;
    }

    /// Returns the reason of a reader's wait that ends now, and records which nodes left the reader
    /// without an answer. The result is more exact than the `reason` of the range: only what
    /// happened during the wait counts.
    pub(super) fn end_wait(
        &mut self,
        now: Instant,
        waiting: Waiting,
        reason: PlanError,
    ) -> PlanError {
        if !matches!(reason, PlanError::NoHolder | PlanError::TimedOut) {
            return reason;
        }
        let is_quiet = |at| is_long_ago(now, at, waiting);
        if self.answered_at.is_none_or(is_quiet) {
            let states = self.nodes.values_mut();
            let silent = states.filter(|state| state.left(now, waiting));
            if silent.map(|state| state.left_reader = true).count() > 0 {
                return PlanError::Unanswered;
            }
        }
        if self.refused_at.is_some_and(|at| at >= waiting.since) {
            return PlanError::Refused;
        }
        reason
    }

    /// Returns the nodes that gave bytes, and how many each gave.
    pub(super) fn received(&self) -> impl Iterator<Item = (NodeId, u64)> {
        let given = self
            .nodes
            .iter()
            .map(|(node, it)| (*node, it.received_bytes));
        given.filter(|(_, bytes)| *bytes > 0)
    }

    /// Returns all nodes that were asked.
    pub(super) fn all(&self) -> Vec<Supplier> {
        let supplier = |(node, state): (&NodeId, &SupplierState)| Supplier {
            node: *node,
            received_bytes: state.received_bytes,
            left_reader: state.left_reader,
        };
        self.nodes.iter().map(supplier).collect()
    }
}
