//! Expulsion of a node together with the nodes that it admitted.
//!
//! One statement suffices: an expulsion that voids every statement of the node, so that no
//! certificate that the node issued counts. The room that this needs does not depend on the number
//! of nodes that were admitted with a stolen key. A node that also has a certificate by another
//! issuer stays a member by that one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Certificate, Ledger, Membership};
use crate::trust::statement::{Claim, SignedStatement};
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::{NodeId, NodeName};

/// Maximum number of rounds in which lost expulsions are stated again.
const LOST_ROUNDS_MAX: usize = 16;

impl Ledger {
    /// Expels a node with all nodes that are members only through it, directly or through others.
    /// The node may have left already. Nodes that it had expelled stay out. Returns the signed
    /// statements.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`] if the node was never a member,
    /// [`TrustError::Senior`], [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`]. The ledger
    /// is then unchanged.
    pub fn expel_with_admitted(
        &mut self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.last_name_of(&node).ok_or(TrustError::NoMember)?;
        self.check_expels(key, &node, now_s)?;
        let theirs = self.last_term(&node);
        let over = self.evaluation.over.get(&node).copied();
        let term = theirs.or(over).ok_or(TrustError::NoMember)?;
        let mut after = self.clone();
        let stands = None;
        let claim = Claim::Expel { node, term, stands };
        let mut stated = vec![after.state(key, claim, now_s)?];
        if !after.counts(&stated[0]) {
            return Err(self.senior(&node));
        }
        stated.extend(after.restate_lost_expulsions(self, key, now_s)?);
        stated.extend(after.confirm_farewells(key, now_s));
        stated.extend(after.restate_outdone(self, key, now_s));
        *self = after;
        Ok(stated)
    }

    /// States again those expulsions of `before` that no longer count, so that no expelled node
    /// returns.
    pub(super) fn restate_lost_expulsions(
        &mut self,
        before: &Self,
        key: &NodeKey,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let mut stated = Vec::new();
        // Each statement can make another expulsion lose its effect.
        for _ in 0..LOST_ROUNDS_MAX {
            let lost = before.expulsions_lost_in(self);
            // `state_what_counts` leaves out expulsions of nodes senior to this one.
            let said = self.state_what_counts(key, lost, now_s)?;
            if said.is_empty() {
                break;
            }
            stated.extend(said);
        }
        Ok(stated)
    }

    /// Returns the members that an expulsion with [`Self::expel_with_admitted`] would remove
    /// besides the node itself.
    ///
    /// # Errors
    /// Those of [`Self::expel_with_admitted`].
    pub fn admitted_by_it_alone(
        &self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<Certificate>, TrustError> {
        let mut after = self.clone();
        after.expel_with_admitted(key, node, now_s)?;
        let members = self.members().filter(|it| self.is_member(&it.node, now_s));
        let gone = members.filter(|it| it.node != node && after.certificate(&it.node).is_none());
        Ok(gone.cloned().collect())
    }

    /// Returns claims that replace the expulsions that count here and not in `after`: one for each
    /// membership that no other statement ends there. Each claim lets exactly those statements
    /// stand that stand here, whatever the original expulsion named. Otherwise statements that no
    /// node has seen could come to stand.
    fn expulsions_lost_in(&self, after: &Self) -> Vec<Claim> {
        let (known, void) = after.ends();
        let mut lost: BTreeMap<Membership, bool> = BTreeMap::new();
        for (id, signed) in &self.statements {
            let Claim::Expel { node, term, .. } = signed.statement.claim else {
                continue;
            };
            if !self.evaluation.valid.contains(id) || after.evaluation.valid.contains(id) {
                continue;
            }
            // Without a certificate that counts in `after`, a node cannot return. Beyond its last
            // such membership, nothing needs to be ended.
            let Some(had) = after.last_term(&node) else {
                continue;
            };
            let term = term.min(had);
            let is_void = self.evaluation.voiding.contains(id);
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
            let last = self.last_counting(&node, term).unwrap_or(self.cluster);
            let stands = (!is_void).then_some(last);
            Claim::Expel { node, term, stands }
        });
        claims.collect()
    }

    /// Returns the last membership that each counting statement ends, and for each node the last
    /// membership that another node's statement voids.
    fn ends(&self) -> (BTreeSet<Membership>, BTreeMap<NodeId, u32>) {
        let (mut known, mut void) = (BTreeSet::new(), BTreeMap::new());
        let counting = |id| self.statements.get(id).map(|signed| (id, signed));
        for (id, signed) in self.evaluation.valid.iter().filter_map(counting) {
            if let Claim::Expel { node, term, .. } = signed.statement.claim {
                let had = self.last_term(&node).unwrap_or(term);
                known.insert((node, term.min(had)));
                if self.evaluation.voiding.contains(id) {
                    let up_to = void.entry(node).or_insert(term);
                    *up_to = term.max(*up_to);
                }
            }
        }
        (known, void)
    }

    /// Returns the latest name by which a node was admitted, whether that certificate counts or
    /// not.
    pub(in crate::trust) fn last_name_of(&self, who: &NodeId) -> Option<NodeName> {
        let all = self.statements.values().map(|signed| &signed.statement);
        let named = all.filter_map(|statement| match &statement.claim {
            Claim::Admit { node, name, .. } if node == who => Some((statement.at_s, name)),
            Claim::Found { name } if statement.by == *who => Some((statement.at_s, name)),
            _ => None,
        });
        named.max_by_key(|(at_s, _)| *at_s).map(|it| it.1.clone())
    }

    /// Returns the last membership of a node that lost it because its issuer was expelled, if no
    /// statement ended that membership itself. Returns none for a member.
    pub(super) fn fallen_term(&self, who: &NodeId) -> Option<u32> {
        let index = self.departure_index();
        index.removal_of_issuer(who)?;
        let last = index.last_admitted(who)?;
        let over = self.evaluation.over_up_to(who);
        (last > over).then_some(last)
    }
}
