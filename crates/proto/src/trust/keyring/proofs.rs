//! Statements that two nodes show each other before either is known to be a member.

use super::{CHAIN_MAX_BYTES, Keyring};
use crate::trust::ledger::{CHAIN_MAX, Ledger};
use crate::trust::statement::SignedStatement;
use p2pfs_types::id::NodeId;

/// Proofs by statements of the ledger that a node is a member, or that it is out.
/// [`Keyring::proofs`] returns it.
#[derive(Clone, Copy, Debug)]
pub struct LedgerProofs<'a>(pub(super) &'a Keyring);

impl LedgerProofs<'_> {
    /// Returns the certificates from the founding to the node's own, for a member that may not know
    /// the node. Empty without a ledger or a certificate.
    pub fn of_membership(self, node: &NodeId) -> Vec<u8> {
        let ledger = self.0.ledger();
        let chain = ledger.map(|ledger| SignedStatement::encode_all(&ledger.chain(node)));
        chain.unwrap_or_default()
    }

    /// Takes in the chain of certificates that a node shows, if the node is not a member yet and
    /// the chain makes it one. Returns whether the node is a member afterwards.
    pub fn receive_membership(self, node: &NodeId, chain: &[u8]) -> bool {
        if self.0.is_member(node) {
            return true;
        }
        let is_long = chain.len() > CHAIN_MAX_BYTES;
        if is_long || self.is_member_with(chain, CHAIN_MAX, node) != Some(true) {
            return false;
        }
        let _heard = self.0.receive(chain, CHAIN_MAX);
        self.0.is_member(node)
    }

    /// Returns the statements to send to a node that is a former member; empty for other nodes. The
    /// first is the statement by which the node is out. The chain of certificates of that
    /// statement's issuer follows, without the founding, which the node has.
    pub fn of_expulsion(self, node: &NodeId) -> Vec<SignedStatement> {
        let ledger = self.0.ledger();
        let told = ledger.and_then(|ledger| {
            let word = ledger.departed().expulsion(node)?;
            let mut told = ledger.chain_behind(&word.statement);
            told.retain(|it| it.id() != ledger.cluster());
            told.insert(0, word.clone());
            Some(told)
        });
        told.unwrap_or_default()
    }

    /// Returns whether statements that another node sent prove that this node is no longer a
    /// member. If they do, takes them in.
    pub fn receive_expulsion(self, me: &NodeId, said: &[u8]) -> bool {
        let most = CHAIN_MAX + 1;
        let is_out = self.is_member_with(said, most, me) == Some(false);
        if is_out {
            // The statements are signed, so the sender need not be trusted. They count even if they
            // cannot be stored.
            let (taken, _wrong) = self.0.receive(said, most);
            self.0.news.lock().extend(taken);
        }
        is_out
    }

    /// Returns whether a node would be a member with these statements. Returns none if they cannot
    /// be decoded or there is no ledger.
    fn is_member_with(self, statements: &[u8], most: usize, node: &NodeId) -> Option<bool> {
        let statements = SignedStatement::decode_all(statements, most)?;
        let mut after = Ledger::clone(&*self.0.ledger()?);
        after.merge(statements);
        Some(after.is_member(node, self.0.now_s()))
    }
}
