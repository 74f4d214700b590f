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

use super::signer::LedgerSigner;
use super::{Certificate, Ledger, Membership};
use crate::trust::statement::{Claim, SignedStatement};
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::NodeId;

/// Maximum number of rounds in which lost expulsions are stated again.
const LOST_ROUNDS_MAX: usize = 16;

impl LedgerSigner<'_> {
    /// Expels a node; a node expels itself to leave. A node that left by itself can be expelled
    /// too: nothing that it signs afterwards counts then. Returns the signed statements, the
    /// expulsion first.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`], [`TrustError::Senior`],
    /// [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`].
    pub fn expel(&mut self, node: NodeId) -> Result<Vec<SignedStatement>, TrustError> {
        let is_own = node == self.key.node_id();
        // Includes memberships for which the node already has a certificate but that have not
        // begun.
        let term = self.ledger.last_term(&node).ok_or(TrustError::NoMember)?;
        let stands = match self.ledger.certificate(&node).map(|it| it.id) {
            // If no statement of the node is known, names its certificate, so that no statement of
            // the node stands.
            Some(certificate) => self.ledger.last_of(&node).or(Some(certificate)),
            // The node may have signed more statements since it left, so the last one that counts
            // is named.
            None if !is_own && self.ledger.has_resigned(&node) => self
                .ledger
                .last_counting(&node, term)
                .or(Some(self.ledger.cluster)),
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
                // If the node has forked its chain, only one branch stands, and expulsions on the
                // others no longer count.
                stated.extend(after.restate_lost_expulsions(before)?);
                stated.extend(after.close_open_memberships(node));
                stated.extend(after.confirm_farewells());
                stated.extend(after.restate_outdone(before));
            }
            Ok(stated)
        })
    }

    /// Closes the open memberships of the expelled node and of the nodes that it had admitted, and
    /// those whose cut it had set. Their missing statements are unknown here, so nothing that
    /// counts is lost. Closes as many as there is room for, so a full ledger does not prevent the
    /// expulsion.
    fn close_open_memberships(&mut self, node: NodeId) -> Vec<SignedStatement> {
        let let_in = self.ledger.with_admitted(node);
        let open = self.ledger.evaluation.open.iter();
        let open = open.filter(|((who, _), by)| **by == node || let_in.contains(who));
        let claims = open
            .map(|((node, term), _)| Claim::Expel {
                node: *node,
                term: *term,
                stands: Some(self.ledger.cluster),
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
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`] if the node was never a member,
    /// [`TrustError::Senior`], [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`]. The ledger
    /// is then unchanged.
    pub fn expel_with_admitted(
        &mut self,
        node: NodeId,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.ledger
            .last_name_of(&node)
            .ok_or(TrustError::NoMember)?;
        self.check_expels(&node)?;
        let theirs = self.ledger.last_term(&node);
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
    /// returns.
    pub(super) fn restate_lost_expulsions(
        &mut self,
        before: &Ledger,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let mut stated = Vec::new();
        // Each statement can make another expulsion lose its effect.
        for _ in 0..LOST_ROUNDS_MAX {
            let lost = before.expulsions_lost_in(self.ledger);
            // `state_what_counts` leaves out expulsions of nodes senior to this one.
            let said = self.state_what_counts(lost)?;
            if said.is_empty() {
                break;
            }
            stated.extend(said);
        }
        Ok(stated)
    }
}

impl Ledger {
    /// Returns the members that [`LedgerSigner::expel_with_admitted`] would remove besides the node
    /// itself.
    ///
    /// # Errors
    /// Those of [`LedgerSigner::expel_with_admitted`].
    pub fn admitted_by_it_alone(
        &self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<Certificate>, TrustError> {
        let mut after = self.clone();
        after.signer(key, now_s).expel_with_admitted(node)?;
        let members = self.members().filter(|it| self.is_member(&it.node, now_s));
        let gone = members.filter(|it| it.node != node && after.certificate(&it.node).is_none());
        Ok(gone.cloned().collect())
    }

    /// Returns why this node's expulsion of another does not count.
    fn senior(&self, node: &NodeId) -> TrustError {
        match self.last_name_of(node) {
            Some(name) if self.has_resigned(node) => TrustError::SeniorLeft { name },
            Some(name) => TrustError::Senior { name },
            None => TrustError::NoMember,
        }
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
}
