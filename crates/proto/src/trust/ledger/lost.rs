//! Finds the claims that a change of the ledger leaves without effect, so that they can be stated
//! again.

use std::collections::{BTreeMap, BTreeSet};

use super::last_statement::last_counting;
use super::{Ledger, Membership};
use crate::trust::statement::{Claim, StatementId};
use p2pfs_types::id::NodeId;

/// A ledger before and after a change.
#[derive(Clone, Copy)]
pub(super) struct LostClaims<'a> {
    pub(super) before: &'a Ledger,
    pub(super) after: &'a Ledger,
}

impl LostClaims<'_> {
    /// Returns claims that replace the expulsions that count in `before` and not in `after`: one
    /// for each membership that no other statement ends there. Each claim names the last statement
    /// of the node that counts in `before`, or voids as the original did. Otherwise statements that
    /// no node has seen could come to stand.
    pub(super) fn expulsions(&self) -> Vec<Claim> {
        let Self { before, after } = *self;
        let (known, void) = self.ends();
        let mut lost: BTreeMap<Membership, bool> = BTreeMap::new();
        for (id, signed) in before.statements.iter() {
            let Claim::Expel { node, term, .. } = signed.statement.claim else {
                continue;
            };
            if !before.evaluation.valid.contains(id) || after.evaluation.valid.contains(id) {
                continue;
            }
            // Without a certificate that counts in `after`, a node cannot return. Beyond its last
            // such membership, nothing needs to be ended.
            let Some(had) = after.evaluation.last_term(&node) else {
                continue;
            };
            let term = term.min(had);
            let is_void = before.evaluation.voiding.contains(id);
            let is_known = if is_void {
                void.get(&node).is_some_and(|up_to| *up_to >= term)
            } else {
                known.contains(&(node, term))
            };
            if !is_known {
                *lost.entry((node, term)).or_default() |= is_void;
            }
        }
        let claims = lost.into_iter().map(|((node, term), is_void)| {
            let last = last_counting(before, &node, term).unwrap_or(before.cluster());
            let stands = (!is_void).then_some(last);
            Claim::Expel { node, term, stands }
        });
        claims.collect()
    }

    /// Returns the last membership that each counting statement of `after` ends, and for each node
    /// the last membership that another node's statement voids.
    fn ends(&self) -> (BTreeSet<Membership>, BTreeMap<NodeId, u32>) {
        let after = self.after;
        let (mut known, mut void) = (BTreeSet::new(), BTreeMap::new());
        let counting = |id| after.statements.get(id).map(|signed| (id, signed));
        for (id, signed) in after.evaluation.valid.iter().filter_map(counting) {
            if let Claim::Expel { node, term, .. } = signed.statement.claim {
                let had = after.evaluation.last_term(&node).unwrap_or(term);
                known.insert((node, term.min(had)));
                if after.evaluation.voiding.contains(id) {
                    let up_to = void.entry(node).or_insert(term);
                    *up_to = term.max(*up_to);
                }
            }
        }
        (known, void)
    }

    /// Returns the claims that decided their subjects in `before`, still count, and do not decide
    /// them in `after`. Each has the number that is next now.
    pub(super) fn outdone(&self) -> Vec<Claim> {
        let (now, then) = (&self.after.evaluation, &self.before.evaluation);
        let counts = |id: &StatementId| now.valid.contains(id);
        let mut outdone = Vec::new();
        if let Some(said) = then.rotations.last
            && counts(&said.id)
            && self.after.epoch() != Some(said.what)
        {
            outdone.push(Claim::Rotate {
                epoch: said.what,
                number: 1 + now.rotations.count,
            });
        }
        for (path, owned) in &then.owners {
            let Some(said) = owned.said.filter(|said| counts(&said.id)) else {
                continue;
            };
            let owner = said.what.filter(|it| now.is_in(it));
            let node = owner.map(|(node, _)| node);
            let on_it = now.owners.get(path);
            if on_it.is_none_or(|on_it| on_it.node != node) {
                outdone.push(Claim::Own {
                    path: path.clone(),
                    node,
                    term: owner.map_or(0, |(_, term)| term),
                    number: 1 + on_it.map_or(0, |on_it| on_it.words),
                });
            }
        }
        outdone
    }
}
