//! What this node states of who is in: kept on disk before it counts and before others hear of it,
//! so that after an error nothing was said.

use super::{Keyring, LEDGER_FILE};
use crate::trust::ledger::Ledger;
use crate::trust::statement::SignedStatement;
use crate::trust::{TrustError, file};

impl Keyring {
    pub(super) fn state(
        &self,
        claim: impl FnOnce(&mut Ledger) -> Result<SignedStatement, TrustError>,
    ) -> Result<(), TrustError> {
        self.state_all(|ledger| Ok(vec![claim(ledger)?]))
    }

    pub(super) fn state_all(
        &self,
        claims: impl FnOnce(&mut Ledger) -> Result<Vec<SignedStatement>, TrustError>,
    ) -> Result<(), TrustError> {
        let ledger = self.ledger.as_ref().ok_or_else(|| self.not_admin())?;
        let _writing = self.writing.lock();
        // a copy, so that nobody waits for the disk who only wants to know who is in
        let mut after = ledger.read().clone();
        let stated = claims(&mut after)?;
        self.keep(&SignedStatement::encode_all(after.statements()))?;
        {
            let mut ledger = ledger.write();
            // what was heard meanwhile; who has heard it waits to write it down
            after.merge(ledger.statements().cloned());
            *ledger = after;
        }
        self.news.lock().extend(stated);
        self.follow_ledger();
        Ok(())
    }

    /// The ledger is another by what others said: it is kept, and counts also where it cannot be.
    pub(super) fn changed(&self) -> Result<(), TrustError> {
        self.follow_ledger();
        let _writing = self.writing.lock();
        let bytes = self.read_ledger(|ledger| SignedStatement::encode_all(ledger.statements()));
        bytes.map_or(Ok(()), |bytes| self.keep(&bytes))
    }

    fn keep(&self, statements: &[u8]) -> Result<(), TrustError> {
        match self.kept_in() {
            Some(directory) => file::replace(&directory.join(LEDGER_FILE), statements),
            None => Ok(()),
        }
    }
}
