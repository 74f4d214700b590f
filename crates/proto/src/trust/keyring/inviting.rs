//! Admission of nodes that present an invitation.

use std::sync::Arc;

use super::{Keyring, KeyringContents};
use crate::trust::invites::Known;
use crate::trust::statement::SignedStatement;
use crate::trust::{EpochSecret, Grant, NodeKey, TrustError};
use p2pfs_types::id::{NodeId, NodeName};

/// The reply to an admitted node.
#[derive(Debug)]
pub struct Welcome {
    /// The cluster's newest secret.
    pub secret: Arc<EpochSecret>,
    /// The encoded certificates from the founding to the node's own; empty without a ledger.
    pub chain: Vec<u8>,
}

impl Welcome {
    /// Admits a node by an invitation. `known` is this node's knowledge when it made the
    /// invitation, and must cover [`Known::needed_for`] the joining node. Without a ledger, checks
    /// and states nothing.
    ///
    /// # Errors
    /// Those of [`Keyring::state`] and
    /// [`LedgerSigner::admit`](crate::trust::ledger::LedgerSigner::admit),
    /// [`TrustError::Overtaken`], [`TrustError::NameTaken`].
    pub fn admit(
        keyring: &Keyring,
        key: &NodeKey,
        node: NodeId,
        name: NodeName,
        grant: &Grant,
        known: &Known,
    ) -> Result<Self, TrustError> {
        let mut welcome = Self {
            secret: keyring.epochs().newest(),
            chain: Vec::new(),
        };
        if !keyring.has_ledger() {
            return Ok(welcome);
        }
        let name = grant.name.clone().unwrap_or(name);
        keyring.state(key, |signer| {
            // The joining node may have been expelled, or this node may have changed its cluster,
            // since the caller's check.
            if !known.covers(&Known::needed_for(&node, Some(signer.ledger()))) {
                return Err(TrustError::Overtaken);
            }
            // Two joining nodes may have chosen the same name at once.
            if signer.ledger().is_name_taken(&node, &name) {
                return Err(TrustError::NameTaken { name });
            }
            let admitted = signer.admit(node, name, grant.admin)?;
            // The secret and the chain are of this cluster, even if this node changes its cluster
            // right after.
            welcome.secret = keyring.epochs().newest();
            welcome.chain = SignedStatement::encode_all(&signer.ledger().chain(&node));
            Ok(admitted)
        })?;
        Ok(welcome)
    }

    /// Returns the reply to a node that this node admitted before and that did not receive it.
    /// States nothing.
    ///
    /// # Errors
    /// [`TrustError::Overtaken`] if the node is not a member any longer, or `known` does not cover
    /// [`Known::needed_for`] the node.
    pub fn again(keyring: &Keyring, node: &NodeId, known: &Known) -> Result<Self, TrustError> {
        // The secret is of this cluster, even if this node changes its cluster right after.
        let KeyringContents { epochs, ledger } = keyring.contents.read().clone();
        let chain = match ledger {
            None => Vec::new(),
            Some(ledger) => {
                let is_member = ledger.is_member(node, keyring.now_s());
                if !is_member || !known.covers(&Known::needed_for(node, Some(&ledger))) {
                    return Err(TrustError::Overtaken);
                }
                SignedStatement::encode_all(&ledger.chain(node))
            }
        };
        Ok(Self {
            secret: epochs.newest(),
            chain,
        })
    }
}
