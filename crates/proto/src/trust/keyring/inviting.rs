//! Admission of nodes that present an invitation.

use std::sync::Arc;

use super::Keyring;
use crate::trust::invites::Known;
use crate::trust::statement::{SignedStatement, StatementId};
use crate::trust::{EpochSecret, Grant, Ledger, NodeKey, TrustError};
use p2pfs_types::id::{NodeId, NodeName};

/// The reply to an admitted node.
#[derive(Debug)]
pub struct Welcome {
    /// The cluster's newest secret.
    pub secret: Arc<EpochSecret>,
    /// The encoded certificates from the founding to the node's own; empty without a ledger.
    pub chain: Vec<u8>,
}

impl Keyring {
    /// Returns the cluster's id, or none without a ledger.
    pub fn cluster(&self) -> Option<StatementId> {
        self.read_ledger(|ledger| ledger.cluster())
    }

    /// Returns the cluster's id and the expulsions that this node knows now, to be kept with an
    /// invitation that it makes.
    pub fn known(&self) -> Known {
        let known = self.read_ledger(|ledger| Known {
            cluster: Some(ledger.cluster()),
            expulsions: ledger.expulsions(),
        });
        known.unwrap_or_default()
    }

    /// Returns the knowledge that an invitation must be based on to admit a node. For a node that
    /// only left by itself, this includes no expulsion.
    pub fn needed_for(&self, node: &NodeId) -> Known {
        let needed = self.read_ledger(|ledger| Known::needed(ledger, node));
        needed.unwrap_or_default()
    }

    /// Returns whether the node was last admitted under this name.
    pub fn was_called(&self, node: &NodeId, name: &NodeName) -> bool {
        let last = self.read_ledger(|ledger| ledger.last_name_of(node));
        last.flatten().as_ref() == Some(name)
    }

    /// Returns whether a member other than `node` has the name. Two members with one name would be
    /// indistinguishable as readers of a share.
    pub fn is_name_taken(&self, node: &NodeId, name: &NodeName) -> bool {
        self.read_ledger(|ledger| has_other(ledger, node, name)) == Some(true)
    }

    /// Admits a node by an invitation. `known` is this node's knowledge when it made the
    /// invitation, and must cover [`Self::needed_for`] the joining node.
    ///
    /// # Errors
    /// Those of [`Self::admit`], [`TrustError::Overtaken`], [`TrustError::NameTaken`].
    pub fn welcome(
        &self,
        key: &NodeKey,
        node: NodeId,
        name: NodeName,
        grant: &Grant,
        known: &Known,
    ) -> Result<Welcome, TrustError> {
        let mut welcome = Welcome {
            secret: self.newest(),
            chain: Vec::new(),
        };
        if !self.has_ledger() {
            return Ok(welcome);
        }
        let (now_s, name) = (self.now_s(), grant.name.clone().unwrap_or(name));
        self.state(|ledger| {
            // The joining node may have been expelled, or this node may have changed its cluster,
            // since the caller's check.
            if !known.covers(&Known::needed(ledger, &node)) {
                return Err(TrustError::Overtaken);
            }
            // Two joining nodes may have chosen the same name at once.
            if has_other(ledger, &node, &name) {
                return Err(TrustError::NameTaken { name });
            }
            let admitted = ledger.signer(key, now_s).admit(node, name, grant.admin)?;
            // The secret and the chain are of this cluster, even if this node changes its cluster
            // right after.
            welcome.secret = self.newest();
            welcome.chain = SignedStatement::encode_all(&ledger.chain(&node));
            Ok(admitted)
        })?;
        Ok(welcome)
    }

    /// Returns the reply to a node that this node admitted before and that did not receive it.
    /// States nothing.
    ///
    /// # Errors
    /// [`TrustError::Overtaken`] if the node is not a member any longer.
    pub fn welcome_again(&self, node: &NodeId, known: &Known) -> Result<Welcome, TrustError> {
        let now_s = self.now_s();
        let welcome = |chain| Welcome {
            secret: self.newest(),
            chain,
        };
        let again = self.read_ledger(|ledger| {
            let is_member = ledger.is_member(node, now_s);
            let stands = is_member && known.covers(&Known::needed(ledger, node));
            // The secret is of this cluster, even if this node changes its cluster right after.
            stands.then(|| welcome(SignedStatement::encode_all(&ledger.chain(node))))
        });
        again
            .unwrap_or_else(|| Some(welcome(Vec::new())))
            .ok_or(TrustError::Overtaken)
    }
}

/// Returns whether a member other than `node` has the name.
fn has_other(ledger: &Ledger, node: &NodeId, name: &NodeName) -> bool {
    let mut members = ledger.members();
    members.any(|it| it.node != *node && it.name == *name)
}

impl Known {
    fn needed(ledger: &Ledger, node: &NodeId) -> Self {
        Self {
            cluster: Some(ledger.cluster()),
            expulsions: ledger.departure_index().words_against(node),
        }
    }
}
