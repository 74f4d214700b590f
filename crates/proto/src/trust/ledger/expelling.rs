//! Expulsion of a node, so that its unseen statements never come to count.
//!
//! A statement that ends a membership names the last statement that stands. The node itself, or an
//! accomplice that ends its membership, can name a statement that no other node has seen. That
//! statement and those before it would stand as soon as they are shown. Expelling the node or the
//! accomplice therefore also *closes* such open memberships: it ends them again, so that the
//! missing statements never stand.
//!
//! A node can also be expelled together with the nodes that it admitted. One statement suffices: an
//! expulsion that voids every statement of the node, so that no certificate that the node issued
//! counts. The room that this needs does not depend on the number of nodes that were admitted with
//! a stolen key. A node that also has a certificate by another issuer stays a member by that one.

use std::collections::{BTreeMap, BTreeSet};

use super::Ledger;
use super::last_statement::{last_counting, last_of};
use crate::trust::TrustError;
use crate::trust::statement::Claim;
use p2pfs_types::id::NodeId;

/// Returns the claim by which `me` expels a node. The node may have left by itself, unless it is
/// `me`.
pub(super) fn expulsion_of(
    ledger: &Ledger,
    me: &NodeId,
    node: NodeId,
) -> Result<Claim, TrustError> {
    // Includes memberships for which the node already has a certificate but that have not begun.
    let term = ledger.evaluation.last_term(&node);
    let term = term.ok_or(TrustError::NoMember)?;
    let stands = match ledger.certificate(&node).map(|it| it.id) {
        // If no statement of the node is known, names its certificate, so that no statement of the
        // node stands.
        Some(certificate) => last_of(ledger, &node).or(Some(certificate)),
        // The node may have signed more statements since it left, so the last one that counts is
        // named.
        None if node != *me && ledger.departed().has_resigned(&node) => {
            last_counting(ledger, &node, term).or(Some(ledger.cluster()))
        }
        None => return Err(TrustError::NoMember),
    };
    Ok(Claim::Expel { node, term, stands })
}

/// Returns the claim that voids every statement of a node, which may have left already.
pub(super) fn voiding_expulsion_of(ledger: &Ledger, node: NodeId) -> Result<Claim, TrustError> {
    let theirs = ledger.evaluation.last_term(&node);
    let over = ledger.evaluation.over.get(&node).copied();
    let term = theirs.or(over).ok_or(TrustError::NoMember)?;
    let stands = None;
    Ok(Claim::Expel { node, term, stands })
}

/// Returns the claims that end open memberships again, so that no statement that is unknown here
/// can still come to stand. These are the open memberships of the expelled node and of every node
/// that it admitted, directly or not, and those that it ended itself.
pub(super) fn ends_of_open_memberships(ledger: &Ledger, node: NodeId) -> Vec<Claim> {
    let let_in = with_admitted(ledger, node);
    let open = ledger.evaluation.open.iter();
    let open = open.filter(|((who, _), by)| **by == node || let_in.contains(who));
    let claims = open.map(|((node, term), _)| Claim::Expel {
        node: *node,
        term: *term,
        stands: Some(ledger.cluster()),
    });
    claims.collect()
}

/// Returns the node and all nodes admitted by it, directly or through others, by statements that
/// count.
fn with_admitted(ledger: &Ledger, node: NodeId) -> BTreeSet<NodeId> {
    let mut by: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for id in &ledger.evaluation.valid {
        let statement = ledger.statements.get(id).map(|signed| &signed.statement);
        if let Some(statement) = statement
            && let Claim::Admit { node, .. } = &statement.claim
        {
            by.entry(statement.by).or_default().push(*node);
        }
    }
    let (mut all, mut next) = (BTreeSet::new(), vec![node]);
    while let Some(node) = next.pop() {
        if all.insert(node) {
            next.extend(by.get(&node).into_iter().flatten());
        }
    }
    all
}

/// Checks that the certificate of the administrator `me` lets it expel the node.
pub(super) fn check_seniority(
    ledger: &Ledger,
    me: &NodeId,
    node: &NodeId,
) -> Result<(), TrustError> {
    let ours = ledger.certificate(me).ok_or(TrustError::NotAdmin)?;
    match ledger.certificate(node) {
        Some(theirs) if theirs.admin && theirs.rank < ours.rank => {
            let name = theirs.name.clone();
            Err(TrustError::Senior { name })
        }
        _ => Ok(()),
    }
}

/// Returns the error for an expulsion of `node` that does not count because `node` is senior.
pub(super) fn senior_refusal(ledger: &Ledger, node: &NodeId) -> TrustError {
    match ledger.last_name_of(node) {
        Some(name) if ledger.departed().has_resigned(node) => TrustError::SeniorLeft { name },
        Some(name) => TrustError::Senior { name },
        None => TrustError::NoMember,
    }
}
