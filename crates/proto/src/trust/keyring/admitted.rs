//! Putting a node out with whom it let in.

use super::Keyring;
use crate::trust::ledger::Ledger;
use crate::trust::{Certificate, NodeKey, TrustError};
use p2pfs_types::id::NodeId;

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
        // a copy, so that nobody waits who only wants to know who is in
        let ledger = self.read_ledger(Ledger::clone);
        let ledger = ledger.ok_or_else(|| self.not_admin())?;
        ledger.admitted_by_it_alone(key, node, now_s)
    }
}
