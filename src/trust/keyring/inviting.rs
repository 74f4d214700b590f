//! Letting in whoever comes with an invitation.

use std::sync::Arc;

use super::Keyring;
use crate::id::{NodeId, NodeName};
use crate::trust::invites::Known;
use crate::trust::statement::{SignedStatement, StatementId};
use crate::trust::{EpochSecret, Grant, Ledger, NodeKey, TrustError};

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

    /// Admits a node by an invitation, where what was known when that was made still suffices.
    ///
    /// # Errors
    /// As [`Self::admit`], [`TrustError::Overtaken`].
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
            let admitted = ledger.admit(key, node, name, grant.admin, now_s)?;
            // of this cluster, whichever this node is in a moment later
            welcome.secret = self.newest();
            welcome.chain = SignedStatement::encode_all(&ledger.chain(&node));
            Ok(admitted)
        })?;
        Ok(welcome)
    }
}

impl Known {
    fn needed(ledger: &Ledger, node: &NodeId) -> Self {
        Self {
            cluster: Some(ledger.cluster()),
            expulsions: ledger.words_against(node),
        }
    }
}
