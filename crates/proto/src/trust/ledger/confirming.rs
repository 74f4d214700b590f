//! Confirmation that a node left, so that its key can change nothing more.
//!
//! A node that left still has its key, and can sign another farewell with an earlier time. All
//! farewells of a node hold together, so another farewell cannot let a statement stand that the
//! first one ended. But it can end more statements, which undoes expulsions and rotations by the
//! node. The first farewell may also name a statement that no other node has seen. A *confirmation*
//! is an expulsion of the node by a senior that names its farewell. The confirmation prevents both,
//! because a farewell beyond it does not count.
//!
//! A farewell is confirmed either alone, when it and every statement before it are known
//! ([`confirmations_of_received`]), or with an expulsion or a rotation, whatever is known
//! ([`all_confirmations`]).

use std::collections::BTreeMap;

use super::last_statement::last_counting;
use super::{Ledger, Membership};
use crate::trust::statement::{Claim, StatementId};
use p2pfs_types::id::NodeId;

/// Returns the claims by which `me` confirms every unconfirmed farewell: expulsions that end the
/// same memberships and let stand exactly the statements that stand now. Also confirms open
/// memberships, which are ended ones for which further statements could become valid, if the node
/// that ended them is no longer a member.
pub(super) fn all_confirmations(ledger: &Ledger, me: &NodeId) -> Vec<Claim> {
    let members = &ledger.evaluation.members;
    let open = ledger.evaluation.open.iter();
    let open = open.filter(|(_, by)| !members.contains_key(by));
    let mut ends: BTreeMap<Membership, Option<StatementId>> =
        open.map(|(it, _)| (*it, None)).collect();
    for membership in &ledger.evaluation.unconfirmed {
        // The farewell may also end later memberships. Such a farewell would not count beside a cut
        // of this membership alone, so the last membership is ended too.
        for ended in [*membership, last_ended(ledger, *membership)] {
            ends.insert(ended, farewell_to_confirm(ledger, ended));
        }
    }
    ends.retain(|(node, _), _| node != me);
    let claims = ends.into_iter().map(|((node, term), farewell)| {
        let last = || last_counting(ledger, &node, term).unwrap_or(ledger.cluster());
        let stands = Some(farewell.unwrap_or_else(last));
        Claim::Expel { node, term, stands }
    });
    claims.collect()
}

/// Returns the claims by which `me` confirms each farewell of which every earlier statement is
/// known, so that no statement of the node that has not arrived yet is cut off.
pub(super) fn confirmations_of_received(ledger: &Ledger, me: &NodeId) -> Vec<Claim> {
    let unconfirmed = ledger.evaluation.unconfirmed.iter();
    let claims = unconfirmed
        .filter(|(node, _)| node != me)
        .filter_map(|membership| {
            let (node, term) = last_ended(ledger, *membership);
            let stands = Some(farewell_to_confirm(ledger, (node, term))?);
            Some(Claim::Expel { node, term, stands })
        });
    claims.collect()
}

/// Returns the last membership of a node that is over, if the node is not a member. Otherwise
/// returns the given membership.
fn last_ended(ledger: &Ledger, (node, term): Membership) -> Membership {
    if ledger.certificate(&node).is_some() {
        return (node, term);
    }
    let over = ledger.evaluation.over_up_to(&node);
    let last = ledger.evaluation.last_term(&node).unwrap_or(term).min(over);
    (node, last.max(term))
}

/// Returns the only farewell of a membership, if a cut at it lets stand exactly what stands now. A
/// node that signed several farewells, or one that skips statements, did not simply leave.
fn farewell_to_confirm(ledger: &Ledger, (node, term): Membership) -> Option<StatementId> {
    let (statements, valid) = (&ledger.statements, &ledger.evaluation.valid);
    let own = statements.by(&node).map(|(id, _)| id);
    let mut farewells = own.filter(|id| {
        let ends = statements.farewell_term(&node, id);
        valid.contains(id) && ends.is_some_and(|it| it >= term)
    });
    let farewell = farewells.next().filter(|_| farewells.next().is_none())?;
    let (mut last, mut next) = (None, statements.get(&farewell)?.statement.before);
    while let Some(id) = next {
        let statement = &statements.get(&id)?.statement;
        let is_farewell = statements.farewell_term(&node, &id).is_some();
        if statement.by != node || !valid.contains(&id) {
            return None;
        }
        if !is_farewell {
            last = last.or(Some(id));
        }
        next = statement.before;
    }
    (last == last_counting(ledger, &node, term)).then_some(farewell)
}
