//! Letting in whoever comes with an invitation.

use std::sync::Arc;

use super::Keyring;
use crate::trust::invites::Known;
use crate::trust::statement::{SignedStatement, StatementId};
use crate::trust::{EpochSecret, Grant, Ledger, NodeKey, TrustError};
use p2pfs_types::id::{NodeId, NodeName};

/// What one that was let in is given.
#[derive(Debug)]
pub struct Welcome {
    /// The cluster's.
    pub secret: Arc<EpochSecret>,
    /// The certificates from the founding to its own; none where there is no ledger.
    pub chain: Vec<u8>,
}

impl Keyring {
    /// Which cluster this is; none where whoever has the secret is in.
    pub fn cluster(&self) -> Option<StatementId> {
        self.read_ledger(|ledger| ledger.cluster())
    }

    /// What an invitation that is made now is made with.
    pub fn known(&self) -> Known {
        let known = self.read_ledger(|ledger| Known {
            cluster: Some(ledger.cluster()),
            expulsions: ledger.expulsions(),
        });
        known.unwrap_or_default()
    }

    /// What has to be known to an invitation that lets this node in; no word of one that went by
    /// itself.
    pub fn needed_for(&self, node: &NodeId) -> Known {
        let needed = self.read_ledger(|ledger| Known::needed(ledger, node));
        needed.unwrap_or_default()
    }

    /// Whether a node was let in by this name before.
    pub fn was_called(&self, node: &NodeId, name: &NodeName) -> bool {
        let last = self.read_ledger(|ledger| ledger.last_name_of(node));
        last.flatten().as_ref() == Some(name)
    }

    /// Whether another member than this node has the name. Two members of one name could not be
    /// told apart as readers of a share.
    pub fn is_name_taken(&self, node: &NodeId, name: &NodeName) -> bool {
        self.read_ledger(|ledger| has_other(ledger, node, name)) == Some(true)
    }

    /// Admits a node by an invitation, where what was known when that was made still suffices.
    ///
    /// # Errors
    /// As [`Self::admit`], [`TrustError::Overtaken`], [`TrustError::NameTaken`].
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
            // it may have been put out, or this node gone elsewhere, since that was looked at
            if !known.covers(&Known::needed(ledger, &node)) {
                return Err(TrustError::Overtaken);
            }
            // two joiners may have given themselves one name at once
            if has_other(ledger, &node, &name) {
                return Err(TrustError::NameTaken { name });
            }
            let admitted = ledger.admit(key, node, name, grant.admin, now_s)?;
            // of this cluster, whichever this node is in a moment later
            welcome.secret = self.newest();
            welcome.chain = SignedStatement::encode_all(&ledger.chain(&node));
            Ok(admitted)
        })?;
        Ok(welcome)
    }
}

/// Whether another member than this node has the name.
fn has_other(ledger: &Ledger, node: &NodeId, name: &NodeName) -> bool {
    let mut members = ledger.members();
    members.any(|it| it.node != *node && it.name == *name)
}

impl Known {
    fn needed(ledger: &Ledger, node: &NodeId) -> Self {
        Self {
            cluster: Some(ledger.cluster()),
            expulsions: ledger.words_against(node),
        }
    }
}
