//! Owners of paths in the shared folder, according to the ledger.

use super::Keyring;
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::NodeId;

impl Keyring {
    /// Returns each path that has an owner, with its owner.
    pub fn owners(&self) -> Vec<(Vec<u8>, NodeId)> {
        let owners = self.read_ledger(|ledger| {
            let each = ledger.owners();
            each.map(|(path, node)| (path.to_vec(), node)).collect()
        });
        owners.unwrap_or_default()
    }

    /// Makes a member the owner of a path, or removes the owner.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`], [`TrustError::OwnedPath`],
    /// [`TrustError::LedgerFull`], [`TrustError::NoLedger`], [`TrustError::File`].
    pub fn own(&self, key: &NodeKey, path: &[u8], node: Option<NodeId>) -> Result<(), TrustError> {
        let now_s = self.now_s();
        self.state_all(|ledger| ledger.signer(key, now_s).own(path.to_vec(), node))
    }
}
