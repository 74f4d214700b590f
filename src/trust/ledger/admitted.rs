//! Putting a node out with whom it let in, and the word by which those are out.
//!
//! One statement does it: an expulsion that lets nothing stand of what its node has ever said, so
//! that none of its certificates counts. However many nodes a thief has admitted, it takes no more
//! room than one. Whoever has another's certificate too is in by that one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Certificate, Ledger};
use crate::id::{NodeId, NodeName};
use crate::trust::statement::{Claim, SignedStatement};
use crate::trust::{NodeKey, TrustError};

impl Ledger {
    /// Puts a node out with all who are in by its word alone, directly or through others; one that
    /// is out already can be named too. Whom it had put out stays out. Gives what was signed.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`] of one that never was any,
    /// [`TrustError::Senior`], [`TrustError::LedgerFull`]; nothing was changed then.
    pub fn expel_with_admitted(
        &mut self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let name = self.last_name_of(&node).ok_or(TrustError::NoMember)?;
        self.check_expels(key, &node, now_s)?;
        let theirs = self.last_term(&node);
        let over = self.standing.over.get(&node).copied();
        let term = theirs.max(over).ok_or(TrustError::NoMember)?;
        let mut after = self.clone();
        let stands = None;
        let claim = Claim::Expel { node, term, stands };
        let mut stated = vec![after.state(key, claim, now_s)?];
        if !after.counts(&stated[0]) {
            return Err(TrustError::Senior { name });
        }
        for claim in self.expulsions_lost_in(&after) {
            stated.push(after.state(key, claim, now_s)?);
        }
        *self = after;
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

    /// What put out those who would be in again, since it was said by nodes that are not heard in
    /// `after`.
    fn expulsions_lost_in(&self, after: &Self) -> Vec<Claim> {
        let back = after.members().filter(|it| self.is_expelled(&it.node));
        let words = back.filter_map(|it| self.expulsion(&it.node));
        words.map(|signed| signed.statement.claim.clone()).collect()
    }

    /// What a node was last called by who admitted it, whether that counts or not.
    fn last_name_of(&self, who: &NodeId) -> Option<NodeName> {
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
        self.fell_with(who)?;
        let last = self.last_admitted(who)?;
        let over = self.standing.over.get(who).copied().unwrap_or(0);
        (last > over).then_some(last)
    }

    /// Who was let in and is no member, and the word by which that is so: about the node itself, or
    /// about who had let it in. By time.
    pub fn departed(&self) -> Vec<(NodeId, SignedStatement)> {
        let issuers = self.issuers();
        let let_in: BTreeSet<_> = issuers.keys().chain([&self.founder]).collect();
        let gone = let_in.into_iter().filter_map(|who| {
            let word = self.own_expulsion(who);
            Some((*who, word.or_else(|| self.fell(who, &issuers))?.clone()))
        });
        let mut gone: Vec<_> = gone.collect();
        gone.sort_by_cached_key(|(who, word)| (word.statement.at_s, word.id(), *who));
        gone
    }

    /// The word by which those are out whose certificate counts no more, so that this node's does
    /// not either; none of a member, and of one that nobody ever admitted.
    pub(super) fn fell_with(&self, who: &NodeId) -> Option<&SignedStatement> {
        self.fell(who, &self.issuers())
    }

    /// Who ever admitted each node.
    fn issuers(&self) -> BTreeMap<NodeId, Vec<NodeId>> {
        let mut issuers: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for signed in self.statements.values() {
            if let Claim::Admit { node, .. } = signed.statement.claim {
                issuers.entry(node).or_default().push(signed.statement.by);
            }
        }
        issuers
    }

    fn fell(
        &self,
        who: &NodeId,
        issuers: &BTreeMap<NodeId, Vec<NodeId>>,
    ) -> Option<&SignedStatement> {
        if self.standing.members.contains_key(who) {
            return None;
        }
        let of = |who: &NodeId| issuers.get(who).into_iter().flatten().copied();
        let (mut seen, mut next) = (BTreeSet::new(), of(who).collect::<Vec<_>>());
        let mut other = None;
        while let Some(issuer) = next.pop() {
            // also of one that is in again: what it had said before counts no more
            let word = self.last_void(&issuer);
            if word.is_some() {
                return word;
            }
            other = other.or_else(|| self.own_expulsion(&issuer));
            if seen.insert(issuer) {
                next.extend(of(&issuer));
            }
        }
        other
    }

    /// The last word that lets nothing stand of what a node had said.
    fn last_void(&self, who: &NodeId) -> Option<&SignedStatement> {
        let about = self.statements.values().filter(|signed| {
            let claim = &signed.statement.claim;
            let is_void = matches!(claim, Claim::Expel { node, stands: None, .. } if node == who);
            is_void && self.counts(signed)
        });
        about.max_by_key(|signed| signed.statement.at_s)
    }
}
