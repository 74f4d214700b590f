//! What this node states of who is in: kept on disk before it counts and before others hear of it,
//! so that after an error nothing was said.

use std::sync::atomic::Ordering;

use super::{Keyring, LEDGER_FILE, SECRET_FILE, line};
use crate::trust::ledger::Ledger;
use crate::trust::statement::SignedStatement;
use crate::trust::{EpochSecret, TrustError, file};

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
        self.state_with(None, claims)
    }

    /// The same, with a new secret that the claims name.
    pub(super) fn state_with(
        &self,
        secret: Option<EpochSecret>,
        claims: impl FnOnce(&mut Ledger) -> Result<Vec<SignedStatement>, TrustError>,
    ) -> Result<(), TrustError> {
        let ledger = self.ledger.as_ref().ok_or_else(|| self.not_admin())?;
        let _writing = self.writing.lock();
        // a copy, so that nobody waits for the disk who only wants to know who is in
        let mut after = ledger.read().clone();
        let stated = claims(&mut after)?;
        self.keep(secret.as_ref(), &after)?;
        if let Some(secret) = secret {
            self.epochs.write().adopt(secret, self.now_s());
        }
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
        let ledger = self.read_ledger(Ledger::clone);
        ledger.map_or(Ok(()), |ledger| self.keep(None, &ledger))
    }

    /// Takes the secret that the ledger names and that was not known here; one that cannot be kept
    /// counts all the same: the others drop the one before, and it is asked for again after the
    /// next start.
    pub(super) fn adopt_wanted(&self, secret: EpochSecret) -> Result<(), TrustError> {
        // looked at again: a rotation may just have made another one the cluster's
        let _writing = self.writing.lock();
        if self.wanted_epoch() != Some(secret.id()) {
            return Ok(());
        }
        let kept = match self.kept_in() {
            Some(directory) => file::replace(&directory.join(SECRET_FILE), &line(&secret)),
            None => Ok(()),
        };
        self.epochs.write().adopt(secret, self.now_s());
        self.revision.fetch_add(1, Ordering::AcqRel);
        kept
    }

    /// Both are kept or none. The secret comes first: after a crash between the two this node
    /// alone has one that nobody named, and asks the others for theirs. The other way round all
    /// would look for one that nobody has.
    pub(super) fn keep(
        &self,
        secret: Option<&EpochSecret>,
        ledger: &Ledger,
    ) -> Result<(), TrustError> {
        let Some(directory) = self.kept_in() else {
            return Ok(());
        };
        let path = directory.join(LEDGER_FILE);
        let statements = SignedStatement::encode_all(ledger.statements());
        match secret {
            Some(secret) => file::replace_both(
                (&directory.join(SECRET_FILE), &line(secret)),
                (&path, &statements),
            ),
            None => file::replace(&path, &statements),
        }
    }
}
