//! Statements of this node about the membership. They are stored on disk before they count and
//! before others receive them. An error therefore means that nothing was stated.

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

    /// Makes the statements that `claims` signs: stores them, lets them count, and queues them for
    /// others. `secret` is a new secret that the claims name. It is stored with them and becomes
    /// the next one.
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

    /// Registers statements of other nodes and stores the ledger. The statements count even if the
    /// ledger cannot be stored.
    pub(super) fn store_received(&self) -> Result<(), TrustError> {
        self.follow_ledger();
        let _writing = self.writing.lock();
        let ledger = self.read_ledger(Ledger::clone);
        ledger.map_or(Ok(()), |ledger| self.store(None, &ledger))
    }

    /// Adopts `secret` if its epoch is the one that the ledger names and it was not known here.
    /// This node uses it even if it cannot store it: the others drop the previous secret, and this
    /// node requests the secret again after its next start.
    pub(super) fn adopt_wanted(&self, secret: EpochSecret) -> Result<(), TrustError> {
        // The caller has checked this without the lock. A rotation may have made another secret the
        // cluster's since.
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

    /// Stores the ledger, and with a `secret` both files or none. The secret is replaced first:
    /// after a crash between the two, this node has a secret that no statement names, and requests
    /// the others' secret. In the reverse order, a stored statement could name a secret that no
    /// node has, and all nodes would look for it.
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
