//! Putting a node out, so that nothing comes by its word that nobody has seen.
//!
//! A word that ends a membership names the last statement that stands. One that nobody has shown
//! can be named too, by the node itself or by another that is as bad: what leads up to it would
//! stand whenever it is shown. Who puts one of them out ends that for good.

use std::collections::{BTreeMap, BTreeSet};

use super::Ledger;
use crate::trust::statement::{Claim, SignedStatement};
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::NodeId;

impl Ledger {
    /// Expels a node; a node expels itself to leave. A node that left by itself can be expelled too:
    /// nothing that it signs afterwards counts then. Returns what was signed, the expulsion first.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`], [`TrustError::Senior`],
    /// [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`].
    pub fn expel(
        &mut self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let is_own = node == key.node_id();
        // also those for which it was given a certificate before their time
        let term = self.last_term(&node).ok_or(TrustError::NoMember)?;
        let stands = match self.certificate(&node).map(|it| it.id) {
            // of one that is not known to have said anything: up to its own certificate
            Some(certificate) => self.last_of(&node).or(Some(certificate)),
            // it may have signed more since it left
            None if !is_own && self.has_resigned(&node) => {
                self.last_counting(&node, term).or(Some(self.cluster))
            }
            None => return Err(TrustError::NoMember),
        };
        if !is_own {
            self.check_expels(key, &node, now_s)?;
        }
        let mut after = self.clone();
        let said = after.state(key, Claim::Expel { node, term, stands }, now_s)?;
        if !is_own && !after.counts(&said) {
            return Err(self.senior(&node));
        }
        let mut stated = vec![said];
        if !is_own {
            // of two ways in which one has gone on, one stands
            stated.extend(after.say_lost(self, key, now_s)?);
            stated.extend(after.close(key, node, now_s));
            stated.extend(after.confirm_farewells(key, now_s));
            stated.extend(after.say_again(self, key, now_s));
        }
        *self = after;
        Ok(stated)
    }

    /// Returns why this node's expulsion of another does not count.
    pub(super) fn senior(&self, node: &NodeId) -> TrustError {
        match self.last_name_of(node) {
            Some(name) if self.has_resigned(node) => TrustError::SeniorLeft { name },
            Some(name) => TrustError::Senior { name },
            None => TrustError::NoMember,
        }
    }

    /// Ends what could still come to stand of what was said by a node that is put out, by those
    /// whom it had let in, and by those on whom it had the word: none of that is known here, so
    /// nothing that counts is lost. As much of it as there is room for: who fills the record keeps
    /// nobody from putting it out.
    fn close(&mut self, key: &NodeKey, node: NodeId, now_s: u64) -> Vec<SignedStatement> {
        let let_in = self.let_in_by(node);
        let open = self.standing.open.iter();
        let open = open.filter(|((who, _), by)| **by == node || let_in.contains(who));
        let claims = open
            .map(|((node, term), _)| Claim::Expel {
                node: *node,
                term: *term,
                stands: Some(self.cluster),
            })
            .collect();
        self.state_as_many(key, claims, now_s)
    }

    /// A node, and who was let in by it or by those whom it had let in.
    fn let_in_by(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut by: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for id in &self.standing.valid {
            let statement = self.statements.get(id).map(|signed| &signed.statement);
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

    /// The last membership for which a node has a certificate that counts.
    pub(super) fn last_term(&self, node: &NodeId) -> Option<u32> {
        self.standing.last_terms.get(node).copied()
    }

    /// Whether the node may be put out by the key's.
    pub(super) fn check_expels(
        &self,
        key: &NodeKey,
        node: &NodeId,
        now_s: u64,
    ) -> Result<(), TrustError> {
        self.check_admin(key, now_s)?;
        let ours = self.certificate(&key.node_id());
        let ours = ours.ok_or(TrustError::NotAdmin)?;
        match self.certificate(node) {
            Some(theirs) if theirs.admin && theirs.rank < ours.rank => {
                let name = theirs.name.clone();
                Err(TrustError::Senior { name })
            }
            _ => Ok(()),
        }
    }
}
