//! Putting a node out with whom it let in.

use super::Keyring;
use crate::id::NodeId;
use crate::trust::{Certificate, NodeKey, TrustError};

impl Keyring {
    /// Puts a node out with all who are in by its word alone, directly or through others.
    ///
    /// # Errors
    /// As [`Self::expel`].
    pub fn expel_with_admitted(&self, key: &NodeKey, node: NodeId) -> Result<(), TrustError> {
        let now_s = self.now_s();
        self.state_all(|ledger| ledger.expel_with_admitted(key, node, now_s))
    }

    /// Who would go with the node then.
    ///
    /// # Errors
    /// As [`Self::expel`]; nothing is changed in any case.
    pub fn admitted_by_it_alone(
        &self,
        key: &NodeKey,
        node: NodeId,
    ) -> Result<Vec<Certificate>, TrustError> {
        let now_s = self.now_s();
        let found = self.read_ledger(|ledger| ledger.admitted_by_it_alone(key, node, now_s));
        found.unwrap_or_else(|| Err(self.not_admin()))
    }
}
