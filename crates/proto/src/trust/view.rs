//! The cluster as this node knows it, for all its threads to read.
//!
//! [`TrustView`] is one state of the secrets and the ledger. It never changes, so several questions
//! to it have consistent answers. [`TrustReader`] gives the current one without a lock. Only the
//! [`Keyring`](super::Keyring) publishes views.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::epochs::Epochs;
use super::exchange::{TrustAnswer, TrustQuestion};
use super::invites::Known;
use super::keyring::Welcome;
use super::ledger::{CHAIN_MAX, CHAIN_MAX_BYTES, Ledger};
use super::statement::SignedStatement;
use super::{EpochSecret, TrustError};
use p2pfs_types::id::{EpochId, NodeId};

/// The secrets and the ledger of a node at one time.
///
/// With a configured secret file there is no ledger: every node that has the secret is a member.
/// Otherwise a node is a member because the ledger says so, and a secret alone makes no node a
/// member.
#[derive(Clone, Debug)]
pub struct TrustView {
    pub(super) epochs: Arc<Epochs>,
    pub(super) ledger: Option<Ledger>,
    pub(super) former_names: Arc<BTreeSet<String>>,
    /// The configured secret file, if there is one.
    pub(super) secret_file: Option<Arc<PathBuf>>,
    pub(super) now_s: u64,
}

impl TrustView {
    /// Returns the secrets.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Returns the ledger. Returns none if every node with the secret is a member.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// Returns whether a ledger defines the members. Otherwise every node with the secret is a
    /// member.
    pub fn has_ledger(&self) -> bool {
        self.ledger.is_some()
    }

    /// Returns the ledger, or the reason why this node cannot make statements.
    ///
    /// # Errors
    /// [`TrustError::NoLedger`] with a configured secret file, [`TrustError::NotAdmin`] with
    /// another keyring without a ledger.
    pub fn require_ledger(&self) -> Result<&Ledger, TrustError> {
        self.ledger.as_ref().ok_or_else(|| match &self.secret_file {
            Some(path) => TrustError::NoLedger {
                path: path.to_path_buf(),
            },
            None => TrustError::NotAdmin,
        })
    }

    /// Returns whether the node is a member by the ledger, at the time of this view. Without a
    /// ledger every node is one.
    pub fn is_member(&self, node: &NodeId) -> bool {
        let ledger = self.ledger.as_ref();
        ledger.is_none_or(|ledger| ledger.is_member(node, self.now_s))
    }

    /// Returns whether the node may admit and expel.
    pub fn is_admin(&self, node: &NodeId) -> bool {
        let ledger = self.ledger.as_ref();
        ledger.is_some_and(|ledger| ledger.is_admin(node, self.now_s))
    }

    /// Returns the time of this view in seconds since 1970.
    pub fn now_s(&self) -> u64 {
        self.now_s
    }

    /// Returns the epoch that the ledger names if its secret is not known here.
    pub fn wanted_epoch(&self) -> Option<EpochId> {
        let epoch = self.ledger.as_ref()?.epoch()?;
        let is_known = self.epochs.by_id(epoch).is_some();
        (!is_known).then_some(epoch)
    }

    /// Returns the names that the settings gave in an earlier cluster, and that were not confirmed
    /// since. Such a name, for example of a reader, means no member. Otherwise a node of the new
    /// cluster would get, by its name alone, the rights of a node of the earlier one.
    pub fn former_names(&self) -> &BTreeSet<String> {
        &self.former_names
    }

    /// Returns the encoded certificates from the founding to the node's own, for a member that may
    /// not know the node. Empty without a ledger or a certificate.
    pub fn certificates_of(&self, node: &NodeId) -> Vec<u8> {
        let ledger = self.ledger.as_ref();
        let chain = ledger.map(|ledger| SignedStatement::encode_all(&ledger.chain(node)));
        chain.unwrap_or_default()
    }

    /// Returns whether the node is a member, or would be one with the certificates that it shows.
    pub fn is_member_with(&self, node: &NodeId, certificates: &[u8]) -> bool {
        let is_short = certificates.len() <= CHAIN_MAX_BYTES;
        let would_be = || self.would_be_member(certificates, CHAIN_MAX, node) == Some(true);
        self.is_member(node) || (is_short && would_be())
    }

    /// Returns the statements to send to a node that is a former member; empty for other nodes. The
    /// first is the statement by which the node is out. The chain of certificates of that
    /// statement's issuer follows, without the founding, which the node has.
    pub fn expulsion_of(&self, node: &NodeId) -> Vec<SignedStatement> {
        let told = self.ledger.as_ref().and_then(|ledger| {
            let word = ledger.departed().expulsion(node)?;
            let mut told = ledger.chain_behind(&word.statement);
            told.retain(|it| it.id() != ledger.cluster());
            told.insert(0, word.clone());
            Some(told)
        });
        told.unwrap_or_default()
    }

    /// Returns whether statements that another node sent prove that the node is no longer a member.
    pub fn is_expelled_by(&self, node: &NodeId, said: &[u8]) -> bool {
        self.would_be_member(said, CHAIN_MAX + 1, node) == Some(false)
    }

    /// Returns whether a node would be a member with these statements. Returns none if they cannot
    /// be decoded or there is no ledger.
    fn would_be_member(&self, statements: &[u8], most: usize, node: &NodeId) -> Option<bool> {
        let statements = SignedStatement::decode_all(statements, most)?;
        let mut after = self.ledger.clone()?;
        after.merge(statements);
        Some(after.is_member(node, self.now_s))
    }

    /// Builds the question to another member, with all statements if `all` is set. Empty without a
    /// ledger.
    pub fn question(&self, all: bool) -> Vec<u8> {
        let question = self.ledger.as_ref().map(|ledger| TrustQuestion {
            digest: ledger.digest(),
            epoch: self.epochs.newest().id(),
            statements: if all {
                SignedStatement::encode_all(ledger.statements())
            } else {
                Vec::new()
            },
        });
        question.map_or_else(Vec::new, |question| question.encode())
    }

    /// Builds the answer to a member's question, whose statements are in the ledger already. Returns
    /// none without a ledger.
    pub(super) fn answer(&self, question: &TrustQuestion) -> Option<Vec<u8>> {
        let ledger = self.ledger.as_ref()?;
        let (digest, newest) = (ledger.digest(), self.epochs.newest());
        let is_the_clusters = ledger.epoch().is_none_or(|epoch| epoch == newest.id());
        let answer = TrustAnswer {
            digest,
            secret: (is_the_clusters && question.epoch != newest.id()).then(|| *newest.as_bytes()),
            statements: if digest == question.digest {
                Vec::new()
            } else {
                SignedStatement::encode_all(ledger.statements())
            },
        };
        Some(answer.encode())
    }

    /// Returns whether the answer of another member says that it has the statements of this view.
    pub fn is_shared_by(&self, answer: &[u8]) -> bool {
        let answer = TrustAnswer::decode(answer);
        let ledger = self.ledger.as_ref();
        answer.is_some_and(|answer| ledger.is_some_and(|it| it.digest() == answer.digest))
    }

    /// Returns the reply to a node that this node admitted before and that did not receive it.
    pub(super) fn welcome_again(
        &self,
        node: &NodeId,
        known: &Known,
    ) -> Result<Welcome, TrustError> {
        let ledger = self.ledger.as_ref();
        if !self.is_member(node) || !known.covers(&Known::needed_for(node, ledger)) {
            return Err(TrustError::Overtaken);
        }
        Ok(Welcome {
            secret: self.epochs.newest(),
            chain: self.certificates_of(node),
        })
    }

    /// Makes the secret of the epoch that the ledger names the newest one, if it is known here.
    pub(super) fn prefer_named_epoch(&mut self) {
        if let Some(epoch) = self.ledger.as_ref().and_then(Ledger::epoch) {
            Arc::make_mut(&mut self.epochs).prefer(epoch, self.now_s);
        }
    }

    /// Makes `secret` the newest one.
    pub(super) fn adopt(&mut self, secret: EpochSecret) {
        Arc::make_mut(&mut self.epochs).adopt(secret, self.now_s);
    }
}

/// Access to the current [`TrustView`]. Clones read the same one.
#[derive(Clone, Debug)]
pub struct TrustReader(Arc<ArcSwap<TrustView>>);

impl TrustReader {
    pub(super) fn new(view: Arc<TrustView>) -> Self {
        Self(Arc::new(ArcSwap::new(view)))
    }

    pub(super) fn publish(&self, view: Arc<TrustView>) {
        self.0.store(view);
    }

    /// Returns the current view for a short use.
    pub fn load(&self) -> Guard<Arc<TrustView>> {
        self.0.load()
    }

    /// Returns the current view.
    pub fn view(&self) -> Arc<TrustView> {
        self.0.load_full()
    }

    /// Returns whether the node is a member now.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.load().is_member(node)
    }

    /// Returns whether a ledger defines the members.
    pub fn has_ledger(&self) -> bool {
        self.load().has_ledger()
    }
}
