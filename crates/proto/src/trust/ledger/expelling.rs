//! Expulsion of a node, so that its unseen statements never come to count.
//!
//! A statement that ends a membership names the last statement that stands. The node itself, or an
//! accomplice that ends its membership, can name a statement that no other node has seen. That
//! statement and those before it would stand as soon as they are shown. Expelling the node or the
//! accomplice therefore also *closes* such open memberships: it ends them again, so that the
//! missing statements never stand.

use std::collections::{BTreeMap, BTreeSet};

use super::Ledger;
use crate::trust::statement::{Claim, SignedStatement};
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::NodeId;

impl Ledger {
    /// Expels a node; a node expels itself to leave. A node that left by itself can be expelled
    /// too: nothing that it signs afterwards counts then. Returns the signed statements, the
    /// expulsion first.
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
        // Includes memberships for which the node already has a certificate but that have not
        // begun.
        let term = self.last_term(&node).ok_or(TrustError::NoMember)?;
        let stands = match self.certificate(&node).map(|it| it.id) {
            // If no statement of the node is known, names its certificate, so that no statement of
            // the node stands.
            Some(certificate) => self.last_of(&node).or(Some(certificate)),
            // The node may have signed more statements since it left, so the last one that counts
            // is named.
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
            // If the node has forked its chain, only one branch stands, and expulsions on the
            // others no longer count.
            stated.extend(after.restate_lost_expulsions(self, key, now_s)?);
            stated.extend(after.close_open_memberships(key, node, now_s));
            stated.extend(after.confirm_farewells(key, now_s));
            stated.extend(after.restate_outdone(self, key, now_s));
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

    /// Closes the open memberships of the expelled node and of the nodes that it had admitted, and
    /// those whose cut it had set. Their missing statements are unknown here, so nothing that
    /// counts is lost. Closes as many as there is room for, so a full ledger does not prevent the
    /// expulsion.
    fn close_open_memberships(
        &mut self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Vec<SignedStatement> {
        let let_in = self.with_admitted(node);
        let open = self.evaluation.open.iter();
        let open = open.filter(|((who, _), by)| **by == node || let_in.contains(who));
        let claims = open
            .map(|((node, term), _)| Claim::Expel {
                node: *node,
                term: *term,
                stands: Some(self.cluster),
            })
            .collect();
        self.close(key, claims, now_s)
    }

    /// Returns the node and all nodes admitted by it, directly or through others.
    fn with_admitted(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut by: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for id in &self.evaluation.valid {
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

    /// Returns the last membership for which a node has a certificate that counts.
    pub(super) fn last_term(&self, node: &NodeId) -> Option<u32> {
        self.evaluation.last_terms.get(node).copied()
    }

    /// Checks that the key's node may expel the node.
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
