//! Putting a node out with whom it let in.
//!
//! One statement does it: an expulsion that lets nothing stand of what its node has ever said, so
//! that none of its certificates counts. However many nodes a thief has admitted, it takes no more
//! room than one. Whoever has another's certificate too is in by that one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Certificate, Ledger, Membership};
use crate::trust::statement::{Claim, SignedStatement};
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::{NodeId, NodeName};

/// How often is looked for what has to be said again.
const LOST_ROUNDS_MAX: usize = 16;

impl Ledger {
    /// Puts a node out with all who are in by its word alone, directly or through others; one that
    /// is out already can be named too. Whom it had put out stays out. Gives what was signed.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`] of one that never was any,
    /// [`TrustError::Senior`], [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`]; nothing was
    /// changed then.
    pub fn expel_with_admitted(
        &mut self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.last_name_of(&node).ok_or(TrustError::NoMember)?;
        self.check_expels(key, &node, now_s)?;
        let theirs = self.last_term(&node);
        let over = self.standing.over.get(&node).copied();
        let term = theirs.or(over).ok_or(TrustError::NoMember)?;
        let mut after = self.clone();
        let stands = None;
        let claim = Claim::Expel { node, term, stands };
        let mut stated = vec![after.state(key, claim, now_s)?];
        if !after.counts(&stated[0]) {
            return Err(self.senior(&node));
        }
        stated.extend(after.say_lost(self, key, now_s)?);
        stated.extend(after.confirm_farewells(key, now_s));
        stated.extend(after.say_again(self, key, now_s));
        *self = after;
        Ok(stated)
    }

    /// Says again by what those were put out in `before` who would be in again.
    pub(super) fn say_lost(
        &mut self,
        before: &Self,
        key: &NodeKey,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let mut stated = Vec::new();
        // each can let another come to count no more
        for _ in 0..LOST_ROUNDS_MAX {
            let lost = before.expulsions_lost_in(self);
            // not on who was in before this node
            let said = self.state_what_counts(key, lost, now_s)?;
            if said.is_empty() {
                break;
            }
            stated.extend(said);
        }
        Ok(stated)
    }

    /// Who is in by this node's word alone, directly or through others: who would go with it.
    ///
    /// # Errors
    /// As [`Self::expel_with_admitted`].
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

    /// What put out those who would be in again, or would have again what they had before, since it
    /// was said by nodes that are not heard in `after`: the word on each membership. What stands is
    /// what does now, whatever the word named: more could come to stand of what nobody has seen.
    fn expulsions_lost_in(&self, after: &Self) -> Vec<Claim> {
        let (known, void) = after.ends();
        let mut lost: BTreeMap<Membership, bool> = BTreeMap::new();
        for (id, signed) in &self.statements {
            let Claim::Expel { node, term, .. } = signed.statement.claim else {
                continue;
            };
            if !self.standing.valid.contains(id) || after.standing.valid.contains(id) {
                continue;
            }
            // one that nobody has let in any more has nothing to lose, nor in later memberships
            let Some(had) = after.last_term(&node) else {
                continue;
            };
            let term = term.min(had);
            let is_void = self.standing.voiding.contains(id);
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

    /// Which memberships have a word that ends them, and up to which of each node another's word
    /// lets nothing stand.
    fn ends(&self) -> (BTreeSet<Membership>, BTreeMap<NodeId, u32>) {
        let (mut known, mut void) = (BTreeSet::new(), BTreeMap::new());
        let counting = |id| self.statements.get(id).map(|signed| (id, signed));
        for (id, signed) in self.standing.valid.iter().filter_map(counting) {
            if let Claim::Expel { node, term, .. } = signed.statement.claim {
                let had = self.last_term(&node).unwrap_or(term);
                known.insert((node, term.min(had)));
                if self.standing.voiding.contains(id) {
                    let up_to = void.entry(node).or_insert(term);
                    *up_to = term.max(*up_to);
                }
            }
        }
        (known, void)
    }

    /// What a node was last called by who admitted it, whether that counts or not.
    pub(in crate::trust) fn last_name_of(&self, who: &NodeId) -> Option<NodeName> {
        let all = self.statements.values().map(|signed| &signed.statement);
        let named = all.filter_map(|statement| match &statement.claim {
            Claim::Admit { node, name, .. } if node == who => Some((statement.at_s, name)),
            Claim::Found { name } if statement.by == *who => Some((statement.at_s, name)),
            _ => None,
        });
        named.max_by_key(|(at_s, _)| *at_s).map(|it| it.1.clone())
    }

    /// The last term of a node that went out with who had let it in, and whose own membership
    /// nobody has ended. None of a member.
    pub(super) fn fallen_term(&self, who: &NodeId) -> Option<u32> {
        let words = self.words();
        words.fell(who)?;
        let last = words.last_admitted(who)?;
        let over = self.standing.over_up_to(who);
        (last > over).then_some(last)
    }
}
