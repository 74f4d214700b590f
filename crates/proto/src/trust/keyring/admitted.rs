//! Expulsion of a node together with the nodes that it admitted.

use super::Keyring;
use crate::trust::ledger::Ledger;
use crate::trust::{Certificate, NodeKey, TrustError};
use p2pfs_types::id::NodeId;

impl Keyring {
    /// Expels a node with all nodes that are members only through it, directly or through others.
    ///
    /// # Errors
    /// Those of [`Self::expel`].
    pub fn expel_with_admitted(&self, key: &NodeKey, node: NodeId) -> Result<(), TrustError> {
        let now_s = self.now_s();
        self.state_all(|ledger| ledger.signer(key, now_s).expel_with_admitted(node))
    }

    /// Returns the members that [`Self::expel_with_admitted`] would remove besides the node itself.
    /// Changes nothing.
    ///
    /// # Errors
    /// Those of [`Self::expel`].
    pub fn admitted_by_it_alone(
        &self,
        key: &NodeKey,
        node: NodeId,
    ) -> Result<Vec<Certificate>, TrustError> {
        let now_s = self.now_s();
        // A copy, so that readers of the membership do not wait.
        let ledger = self.read_ledger(Ledger::clone);
        let ledger = ledger.ok_or_else(|| self.not_admin())?;
        ledger.admitted_by_it_alone(key, node, now_s)
    }
}
