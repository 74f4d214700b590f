//! Exchange between two members, so that both know the same statements and secret.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Fault, Keyring, KeyringContents};
use crate::trust::ledger::STATEMENTS_MAX;
use crate::trust::statement::SignedStatement;
use crate::trust::{EpochSecret, TrustError, exchange};

/// The exchange of a keyring with other members. [`Keyring::exchange`] returns it.
#[derive(Clone, Copy, Debug)]
pub struct MemberExchange<'a>(pub(super) &'a Keyring);

impl MemberExchange<'_> {
    /// Builds the question to another member, with all statements if `all` is set. Empty without a
    /// ledger.
    pub fn question(self, all: bool) -> Vec<u8> {
        let KeyringContents { epochs, ledger } = self.0.contents.read().clone();
        let question = ledger.map(|ledger| exchange::TrustQuestion {
            digest: ledger.digest(),
            epoch: epochs.newest().id(),
            statements: if all {
                SignedStatement::encode_all(ledger.statements())
            } else {
                Vec::new()
            },
        });
        question.map_or_else(Vec::new, |question| question.encode())
    }

    /// Takes in the statements of a member's question. Returns the answer, and the question's
    /// defect if it has one. The answer is none if the bytes are not a question or there is no
    /// ledger.
    pub fn answer(self, bytes: &[u8]) -> (Option<Vec<u8>>, Option<Fault>) {
        let Some(question) = exchange::TrustQuestion::decode(bytes) else {
            return (None, self.0.has_ledger().then_some(Fault::Garbage));
        };
        let (_new, fault) = self.0.receive(&question.statements, STATEMENTS_MAX);
        let KeyringContents { epochs, ledger } = self.0.contents.read().clone();
        let newest = epochs.newest();
        let answer = ledger.map(|ledger| {
            let digest = ledger.digest();
            let is_the_clusters = ledger.epoch().is_none_or(|epoch| epoch == newest.id());
            exchange::TrustAnswer {
                digest,
                secret: (is_the_clusters && question.epoch != newest.id())
                    .then(|| *newest.as_bytes()),
                statements: if digest == question.digest {
                    Vec::new()
                } else {
                    SignedStatement::encode_all(ledger.statements())
                },
            }
        });
        (answer.map(|answer| answer.encode()), fault)
    }

    /// Takes in an answer. Returns whether this node's statements still differ from those of the
    /// other member, and the answer's defect if it has one.
    pub fn receive_answer(self, bytes: &[u8]) -> (bool, Option<Fault>) {
        let Some(answer) = exchange::TrustAnswer::decode(bytes) else {
            return (false, Some(Fault::Garbage));
        };
        let (_new, fault) = self.0.receive(&answer.statements, STATEMENTS_MAX);
        if let Some(secret) = answer.secret {
            let secret = EpochSecret::new(secret);
            if self.0.wanted_epoch() == Some(secret.id()) {
                let _unkept = self.adopt_wanted(secret);
            }
        }
        let ledger = self.0.ledger();
        let lacks_some = ledger.is_some_and(|ledger| ledger.digest() != answer.digest);
        (lacks_some, fault)
    }

    /// Takes in one statement that arrived as news, and queues it for others if it is new. Returns
    /// its defect if it has one. A statement that cannot be stored on disk counts until the next
    /// start.
    pub fn receive_news(self, bytes: &[u8]) -> Option<Fault> {
        let (taken, fault) = self.0.receive(bytes, 1);
        self.0.news.lock().extend(taken);
        fault
    }

    /// Adopts `secret` if the ledger names its epoch and it was not known here. Uses it even if it
    /// cannot be stored, because the others drop the previous secret. After its next start, this
    /// node then requests the secret again.
    fn adopt_wanted(self, secret: EpochSecret) -> Result<(), TrustError> {
        let keyring = self.0;
        // The caller has checked this without the lock. Since then a rotation may have given the
        // cluster another secret.
        let writer = keyring.files.lock();
        if keyring.wanted_epoch() != Some(secret.id()) {
            return Ok(());
        }
        let kept = writer.store_secret(&secret);
        Arc::make_mut(&mut keyring.contents.write().epochs).adopt(secret, keyring.now_s());
        keyring.revision.fetch_add(1, Ordering::AcqRel);
        kept
    }
}
