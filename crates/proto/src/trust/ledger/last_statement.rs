//! The last statement of a node, which its next statement and an expulsion of the node name.

use super::Ledger;
use super::chains::last_whole;
use crate::trust::statement::StatementId;
use p2pfs_types::id::NodeId;

/// Returns the last statement of a node whose chain is completely known, of the memberships up to
/// its last certificate that counts. Prefers the latest membership, then the longest chain.
/// Statements that arrive later cannot be inserted before the returned one.
pub(super) fn last_of(ledger: &Ledger, node: &NodeId) -> Option<StatementId> {
    let had = ledger.evaluation.last_term(node).unwrap_or(u32::MAX);
    last_whole(&ledger.statements, node, |_, statement| {
        statement.by_term <= had
    })
}

/// Returns the last statement of a node that counts, among those of its memberships up to
/// `up_to_term`. Leaves out farewells, and statements of which an earlier one of the node is not
/// known.
pub(super) fn last_counting(
    ledger: &Ledger,
    node: &NodeId,
    up_to_term: u32,
) -> Option<StatementId> {
    last_whole(&ledger.statements, node, |id, statement| {
        let is_in_time = statement.by_term <= up_to_term;
        let is_farewell = statement.farewell_term().is_some();
        is_in_time && !is_farewell && ledger.evaluation.valid.contains(id)
    })
}
