//! Statements of this node about the membership. They are stored on disk before they count and
//! before others receive them, so that nothing was stated after an error.

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

    /// Makes statements as [`Self::state_all`] does, with a new secret that the claims name.
    pub(super) fn state_with(
        &self,
        secret: Option<EpochSecret>,
        claims: impl FnOnce(&mut Ledger) -> Result<Vec<SignedStatement>, TrustError>,
    ) -> Result<(), TrustError> {
        let ledger = self.ledger.as_ref().ok_or_else(|| self.not_admin())?;
        let _writing = self.writing.lock();
        // A copy, so that readers of the membership do not wait for the disk.
        let mut after = ledger.read().clone();
        let stated = claims(&mut after)?;
        if stated.is_empty() && secret.is_none() {
            return Ok(());
        }
        self.store(secret.as_ref(), &after)?;
        if let Some(secret) = secret {
            self.epochs.write().adopt(secret, self.now_s());
        }
        {
            let mut ledger = ledger.write();
            // Statements may have arrived meanwhile. Their receiver waits for `writing` to store
            // them.
            after.merge(ledger.statements().cloned());
            *ledger = after;
        }
        self.news.lock().extend(stated);
        self.follow_ledger();
        Ok(())
    }

    /// Registers statements of other nodes and stores the ledger. They count even if that fails.
    pub(super) fn store_received(&self) -> Result<(), TrustError> {
        self.follow_ledger();
        let _writing = self.writing.lock();
        let ledger = self.read_ledger(Ledger::clone);
        ledger.map_or(Ok(()), |ledger| self.store(None, &ledger))
    }

    /// Adopts the secret that the ledger names and that was not known here. It counts even if it
    /// cannot be stored: the others drop the previous one, and it is requested again after the next
    /// start.
    pub(super) fn adopt_wanted(&self, secret: EpochSecret) -> Result<(), TrustError> {
        // Checked again, because a rotation may just have made another secret the cluster's.
        let _writing = self.writing.lock();
        if self.wanted_epoch() != Some(secret.id()) {
            return Ok(());
        }
        let kept = match self.storage_directory() {
            Some(directory) => file::replace(&directory.join(SECRET_FILE), &line(&secret)),
            None => Ok(()),
        };
        self.epochs.write().adopt(secret, self.now_s());
        self.revision.fetch_add(1, Ordering::AcqRel);
        kept
    }

    /// Stores both files or none. The secret comes first: after a crash between the two, only this
    /// node has a secret that no statement names, and it requests the others' secret. In the
    /// reverse order all nodes would look for a secret that no node has.
    pub(super) fn store(
        &self,
        secret: Option<&EpochSecret>,
        ledger: &Ledger,
    ) -> Result<(), TrustError> {
        let Some(directory) = self.storage_directory() else {
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
