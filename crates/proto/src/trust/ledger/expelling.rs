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

use super::Ledger;
use super::chains::{last_counting, last_of};
use super::lost::LostClaims;
use super::signer::LedgerSigner;
use crate::trust::TrustError;
use crate::trust::statement::{Claim, SignedStatement};
use p2pfs_types::id::NodeId;

/// Maximum number of rounds in which lost expulsions are stated again.
const LOST_ROUNDS_MAX: usize = 16;

impl LedgerSigner<'_> {
    /// Expels a node; a node expels itself to leave. A node that left by itself can be expelled
    /// too: then nothing that it signs afterwards counts. Returns the signed statements, the
    /// expulsion first.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::NoMember`],
    /// [`TrustError::Senior`], [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`].
    pub fn expel(&mut self, node: NodeId) -> Result<Vec<SignedStatement>, TrustError> {
        let is_own = node == self.key.node_id();
        // Includes memberships for which the node already has a certificate but that have not
        // begun.
        let term = self
            .ledger
            .evaluation
            .last_term(&node)
            .ok_or(TrustError::NoMember)?;
        let stands = match self.ledger.certificate(&node).map(|it| it.id) {
            // If no statement of the node is known, names its certificate, so that no statement of
            // the node stands.
            Some(certificate) => last_of(self.ledger, &node).or(Some(certificate)),
            // The node may have signed more statements since it left, so the last one that counts
            // is named.
            None if !is_own && self.ledger.departed().has_resigned(&node) => {
                last_counting(self.ledger, &node, term).or(Some(self.ledger.cluster()))
            }
            None => return Err(TrustError::NoMember),
        };
        if !is_own {
            self.check_expels(&node)?;
        }
        self.attempt(|before, after| {
            let said = after.state(Claim::Expel { node, term, stands })?;
            if !is_own && !after.ledger.counts(&said) {
                return Err(before.senior(&node));
            }
            let mut stated = vec![said];
            if !is_own {
                // A dishonest node can sign several successors of one statement, so that its chain
                // of statements has branches. From this expulsion on, only the branch that ends
                // with `stands` counts, so lost expulsions on the others are stated again.
                stated.extend(after.restate_lost_expulsions(before)?);
                stated.extend(after.close_open_memberships(node));
                stated.extend(after.confirm_farewells());
                stated.extend(after.restate_outdone(before));
            }
            Ok(stated)
        })
    }

    /// Ends open memberships again, so that no statement that is unknown here can still come to
    /// stand. These are the open memberships of the expelled node and of every node that it
    /// admitted, directly or not, and those that it ended itself. Ends as many as fit, so a full
    /// ledger does not prevent the expulsion.
    fn close_open_memberships(&mut self, node: NodeId) -> Vec<SignedStatement> {
        let let_in = self.ledger.with_admitted(node);
        let open = self.ledger.evaluation.open.iter();
        let open = open.filter(|((who, _), by)| **by == node || let_in.contains(who));
        let claims = open
            .map(|((node, term), _)| Claim::Expel {
                node: *node,
                term: *term,
                stands: Some(self.ledger.cluster()),
            })
            .collect();
        self.close(claims)
    }

    /// Checks that the key's node may expel the node.
    pub(super) fn check_expels(&self, node: &NodeId) -> Result<(), TrustError> {
        self.check_admin()?;
        let ours = self.ledger.certificate(&self.key.node_id());
        let ours = ours.ok_or(TrustError::NotAdmin)?;
        match self.ledger.certificate(node) {
            Some(theirs) if theirs.admin && theirs.rank < ours.rank => {
                let name = theirs.name.clone();
                Err(TrustError::Senior { name })
            }
            _ => Ok(()),
        }
    }

    /// Expels a node with all nodes that are members only through it, directly or through others.
    /// The node may have left already. Nodes that it had expelled stay out. Returns the signed
    /// statements.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::NoMember`] if the node
    /// was never a member, [`TrustError::Senior`], [`TrustError::SeniorLeft`],
    /// [`TrustError::LedgerFull`]. The ledger is then unchanged.
    pub fn expel_with_admitted(
        &mut self,
        node: NodeId,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.ledger
            .last_name_of(&node)
            .ok_or(TrustError::NoMember)?;
        self.check_expels(&node)?;
        let theirs = self.ledger.evaluation.last_term(&node);
        let over = self.ledger.evaluation.over.get(&node).copied();
        let term = theirs.or(over).ok_or(TrustError::NoMember)?;
        self.attempt(|before, after| {
            let stands = None;
            let said = after.state(Claim::Expel { node, term, stands })?;
            if !after.ledger.counts(&said) {
                return Err(before.senior(&node));
            }
            let mut stated = vec![said];
            stated.extend(after.restate_lost_expulsions(before)?);
            stated.extend(after.confirm_farewells());
            stated.extend(after.restate_outdone(before));
            Ok(stated)
        })
    }

    /// States again those expulsions of `before` that no longer count, so that no expelled node
    /// returns. Leaves out those that would not count.
    pub(super) fn restate_lost_expulsions(
        &mut self,
        before: &Ledger,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let mut stated = Vec::new();
        // Each statement can make another expulsion lose its effect.
        for _ in 0..LOST_ROUNDS_MAX {
            let after = &*self.ledger;
            let lost = LostClaims { before, after }.expulsions();
            // This leaves out expulsions of nodes senior to this one.
            let said = self.state_what_counts(lost)?;
            if said.is_empty() {
                break;
            }
            stated.extend(said);
        }
        Ok(stated)
    }
}
