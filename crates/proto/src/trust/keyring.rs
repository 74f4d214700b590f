//! Keyring of a node: the secrets of its epochs and the ledger of admitted nodes.
//!
//! With a configured secret file there is no ledger: every node that has the secret is a member.
//! Otherwise a node is a member because the ledger says so, and a secret alone makes no node a
//! member. This node's own statements are stored on disk before they count. Statements of other
//! nodes count at once.
//!
//! [`Keyring::ledger`] and [`Keyring::epochs`] return what the keyring has now. A copy that a caller
//! holds does not change, so several questions to it have consistent answers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::epochs::Epochs;
use super::ledger::{CHAIN_MAX, Ledger, LedgerSigner};
use super::statement::{STATEMENT_MAX_BYTES, SignedStatement};
use super::{EpochSecret, NodeKey, TrustError};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

mod files;
mod former_names;
mod inviting;
mod member_exchange;
mod proofs;
pub use files::KeyringFiles;
use files::{KeyringStorage, StoredKeyring, read_secret};
pub use former_names::FormerNames;
pub use inviting::Welcome;
pub use member_exchange::MemberExchange;
pub use proofs::LedgerProofs;

/// Maximum size in bytes of the chain of certificates that a node shows.
pub const CHAIN_MAX_BYTES: usize = CHAIN_MAX * STATEMENT_MAX_BYTES;

/// A defect in bytes that a member sent. An honest member sends neither [`Self::Garbage`] nor
/// [`Self::Forged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes cannot be decoded.
    Garbage,
    /// A statement was not signed by the node that it names.
    Forged,
    /// The node with this id has signed more statements than one node may
    /// ([`STATEMENTS_PER_ADMIN_MAX`](super::STATEMENTS_PER_ADMIN_MAX)), or more that end one
    /// membership of it ([`FAREWELLS_PER_MEMBERSHIP_MAX`](super::FAREWELLS_PER_MEMBERSHIP_MAX)).
    Over(NodeId),
}

/// The secrets and the ledger of a node.
#[derive(Debug)]
pub struct Keyring {
    contents: RwLock<KeyringContents>,
    files: KeyringFiles,
    /// Statements to pass on to others: received as news or as proof of an expulsion, or made here.
    news: Mutex<Vec<SignedStatement>>,
    /// Counter of changes of the ledger, of the secrets that it names, and of the former names.
    revision: AtomicU64,
    now_s: AtomicU64,
    former_names: FormerNames,
}

/// The secrets and the ledger, which a join replaces together.
#[derive(Clone, Debug)]
struct KeyringContents {
    epochs: Arc<Epochs>,
    ledger: Option<Arc<Ledger>>,
}

impl Keyring {
    /// Loads the secret and the ledger from `directory`. The file `secrets` has 64 hexadecimal
    /// digits and a newline; `members` has the statements; both have mode 0600. Without `members`,
    /// the call founds a new cluster with a new secret.
    ///
    /// If the ledger names no epoch yet, the call states that the secret's epoch is the cluster's.
    /// If `members` exists without `secrets`, it makes a new secret and states a rotation to it.
    /// Other members can then request the secret. A node that is not an administrator makes neither
    /// statement.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub fn load_or_create(
        directory: &Path,
        key: &NodeKey,
        name: &NodeName,
        now_s: u64,
    ) -> Result<Self, TrustError> {
        let stored = StoredKeyring::load_or_create(directory, key, name, now_s)?;
        let storage = KeyringStorage::State(directory.into());
        Ok(Self {
            former_names: FormerNames::new(stored.former_names),
            ..Self::with(stored.secret, Some(stored.ledger), storage, now_s)
        })
    }

    /// Loads the one secret of a configured file: 64 hexadecimal digits and a newline, mode 0600.
    ///
    /// # Errors
    /// [`TrustError::NoSecretFile`], [`TrustError::Exposed`], [`TrustError::BadFile`],
    /// [`TrustError::File`].
    pub fn from_secret_file(path: &Path) -> Result<Self, TrustError> {
        Ok(Self::with(
            read_secret(path)?,
            None,
            KeyringStorage::Given(path.into()),
            0,
        ))
    }

    /// Creates a keyring with one secret and no ledger, not stored on disk. Nodes with that secret
    /// accept each other.
    pub fn in_memory(secret: EpochSecret) -> Self {
        Self::with(secret, None, KeyringStorage::Memory, 0)
    }

    /// Founds a cluster that is not stored on disk.
    pub fn founded_in_memory(
        secret: EpochSecret,
        key: &NodeKey,
        name: NodeName,
        now_s: u64,
    ) -> Self {
        Self::with(
            secret,
            Some(Ledger::found(key, name, now_s)),
            KeyringStorage::Memory,
            now_s,
        )
    }

    fn with(
        secret: EpochSecret,
        ledger: Option<Ledger>,
        storage: KeyringStorage,
        now_s: u64,
    ) -> Self {
        Self {
            contents: RwLock::new(KeyringContents {
                epochs: Arc::new(Epochs::new(secret)),
                ledger: ledger.map(Arc::new),
            }),
            files: KeyringFiles::new(storage),
            news: Mutex::default(),
            revision: AtomicU64::new(1),
            now_s: AtomicU64::new(now_s),
            former_names: FormerNames::default(),
        }
    }

    /// Returns the secrets that are known now.
    pub fn epochs(&self) -> Arc<Epochs> {
        Arc::clone(&self.contents.read().epochs)
    }

    /// Returns the ledger as it is now. Returns none if every node with the secret is a member.
    pub fn ledger(&self) -> Option<Arc<Ledger>> {
        self.contents.read().ledger.clone()
    }

    /// Returns whether a ledger defines the members. Otherwise every node with the secret is a
    /// member.
    pub fn has_ledger(&self) -> bool {
        self.contents.read().ledger.is_some()
    }

    /// Returns the ledger, or the reason why this node cannot make statements.
    ///
    /// # Errors
    /// [`TrustError::NoLedger`] with a configured secret file, [`TrustError::NotAdmin`] with
    /// another keyring without a ledger.
    pub fn require_ledger(&self) -> Result<Arc<Ledger>, TrustError> {
        self.ledger().ok_or_else(|| self.files.no_ledger())
    }

    /// Returns whether the node is a member by the ledger, at the time of the last [`Self::tick`].
    /// Without a ledger every node is one.
    pub fn is_member(&self, node: &NodeId) -> bool {
        let contents = self.contents.read();
        let ledger = contents.ledger.as_ref();
        ledger.is_none_or(|ledger| ledger.is_member(node, self.now_s()))
    }

    /// Returns whether the node may admit and expel.
    pub fn is_admin(&self, node: &NodeId) -> bool {
        let contents = self.contents.read();
        let ledger = contents.ledger.as_ref();
        ledger.is_some_and(|ledger| ledger.is_admin(node, self.now_s()))
    }

    /// Returns the epoch that the ledger names if its secret is not known here.
    pub fn wanted_epoch(&self) -> Option<EpochId> {
        let contents = self.contents.read();
        let epoch = contents.ledger.as_ref()?.epoch()?;
        let is_known = contents.epochs.by_id(epoch).is_some();
        (!is_known).then_some(epoch)
    }

    /// Returns the proofs of membership for nodes that do not know each other yet.
    pub fn proofs(&self) -> LedgerProofs<'_> {
        LedgerProofs(self)
    }

    /// Returns the exchange of statements and secrets with other members.
    pub fn exchange(&self) -> MemberExchange<'_> {
        MemberExchange(self)
    }

    /// Returns the names that the settings gave in an earlier cluster.
    pub fn former_names(&self) -> &FormerNames {
        &self.former_names
    }

    /// Sets the time in seconds since 1970. Secrets that are due at that time come into use or
    /// expire.
    pub fn tick(&self, now_s: u64) {
        self.now_s.store(now_s, Ordering::Relaxed);
        let is_due = self.contents.read().epochs.is_due(now_s);
        if is_due {
            Arc::make_mut(&mut self.contents.write().epochs).tick(now_s);
        }
    }

    /// Returns the time in seconds since 1970, as [`Self::tick`] set it.
    pub fn now_s(&self) -> u64 {
        self.now_s.load(Ordering::Relaxed)
    }

    /// Returns a counter that grows with each change of the ledger and of the secrets that it
    /// names, and when former names are confirmed.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Removes and returns the statements that this node must pass on to others.
    pub fn take_news(&self) -> Vec<SignedStatement> {
        std::mem::take(&mut *self.news.lock())
    }

    /// Makes the statements that `claims` signs: stores them, lets them count, and queues them for
    /// others. After an error, none of them counts.
    ///
    /// # Errors
    /// Those of `claims` and of [`Self::require_ledger`], [`TrustError::File`].
    pub fn state<S: Into<Vec<SignedStatement>>>(
        &self,
        key: &NodeKey,
        claims: impl FnOnce(&mut LedgerSigner<'_>) -> Result<S, TrustError>,
    ) -> Result<(), TrustError> {
        self.state_with(None, key, claims)
    }

    /// Makes statements as [`Self::state`] does, and makes a fresh random secret the cluster's. Both
    /// are stored together, so that no crash or full disk leaves an expelled node with the current
    /// secret. Returns the new epoch.
    ///
    /// # Errors
    /// Those of [`Self::state`] and of [`LedgerSigner::rotate`]: nothing was stated.
    /// [`TrustError::NoFreshSecret`] if the ledger had room for the statements without the rotation:
    /// they are made.
    pub fn state_and_rotate(
        &self,
        key: &NodeKey,
        claims: impl Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>,
    ) -> Result<EpochId, TrustError> {
        match self.state_with_rotation(key, &claims) {
            Err(TrustError::LedgerFull) => {
                self.state(key, claims)?;
                Err(TrustError::NoFreshSecret)
            }
            outcome => outcome,
        }
    }

    /// Makes a fresh random secret the cluster's, and returns its epoch.
    ///
    /// # Errors
    /// Those of [`Self::state`] and of [`LedgerSigner::rotate`].
    pub fn rotate(&self, key: &NodeKey) -> Result<EpochId, TrustError> {
        self.state_with_rotation(key, |_| Ok(Vec::new()))
    }

    /// Makes statements and the rotation to a fresh random secret, all or none. Returns its epoch.
    fn state_with_rotation(
        &self,
        key: &NodeKey,
        claims: impl FnOnce(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>,
    ) -> Result<EpochId, TrustError> {
        let secret = EpochSecret::random();
        let epoch = secret.id();
        self.state_with(Some(secret), key, |signer| {
            let mut stated = claims(signer)?;
            stated.extend(signer.rotate(epoch)?);
            Ok(stated)
        })?;
        Ok(epoch)
    }

    /// Confirms farewells (statements by which nodes left), as [`LedgerSigner::confirm_received`]
    /// describes. Without a confirmation, a node that left could withdraw its expulsions and
    /// rotations.
    ///
    /// # Errors
    /// [`TrustError::File`]: nothing was stated.
    pub fn confirm_departures(&self, key: &NodeKey) -> Result<(), TrustError> {
        let me = key.node_id();
        match self.ledger() {
            Some(ledger) if ledger.has_unconfirmed(&me) => {
                self.state(key, |signer| Ok(signer.confirm_received()))
            }
            _ => Ok(()),
        }
    }

    /// Makes statements as [`Self::state`] does. `secret` is a new secret that the claims name. It
    /// is stored with them and becomes the newest one.
    fn state_with<S: Into<Vec<SignedStatement>>>(
        &self,
        secret: Option<EpochSecret>,
        key: &NodeKey,
        claims: impl FnOnce(&mut LedgerSigner<'_>) -> Result<S, TrustError>,
    ) -> Result<(), TrustError> {
        let writer = self.files.lock();
        // A copy, so that readers of the membership do not wait for the disk.
        let mut after = Ledger::clone(&*self.require_ledger()?);
        let stated = claims(&mut after.signer(key, self.now_s()))?.into();
        if stated.is_empty() && secret.is_none() {
            return Ok(());
        }
        writer.store(secret.as_ref(), &after)?;
        {
            let mut contents = self.contents.write();
            if let Some(secret) = secret {
                Arc::make_mut(&mut contents.epochs).adopt(secret, self.now_s());
            }
            // Statements may have arrived meanwhile. `receive` waits for this writer and then
            // stores them.
            if let Some(ledger) = &contents.ledger {
                after.merge(ledger.statements().cloned());
            }
            contents.ledger = Some(Arc::new(after));
            self.register_change(&mut contents);
        }
        self.news.lock().extend(stated);
        Ok(())
    }

    /// Takes in statements, or none if there are more than `most`. Returns those that were new, and
    /// a defect of the bytes if there is one.
    fn receive(&self, bytes: &[u8], most: usize) -> (Vec<SignedStatement>, Option<Fault>) {
        if !self.has_ledger() {
            return (Vec::new(), None);
        }
        let Some(statements) = SignedStatement::decode_all(bytes, most) else {
            return (Vec::new(), Some(Fault::Garbage));
        };
        let taken = {
            let mut contents = self.contents.write();
            let Some(ledger) = &mut contents.ledger else {
                return (Vec::new(), None);
            };
            let taken = Arc::make_mut(ledger).take_in(statements);
            if !taken.new.is_empty() {
                self.register_change(&mut contents);
            }
            taken
        };
        if !taken.new.is_empty() {
            // Statements that cannot be stored count all the same: the others act on them, and an
            // expelled node is out.
            let writer = self.files.lock();
            let ledger = self.ledger();
            let _unkept = ledger.map(|ledger| writer.store(None, &ledger));
        }
        let fault = if taken.is_forged {
            Some(Fault::Forged)
        } else {
            taken.over.map(Fault::Over)
        };
        (taken.new, fault)
    }

    /// Joins another cluster. `chain` leads from the founding of that cluster to this node's own
    /// certificate. Drops the secrets and the statements of the previous cluster from memory and
    /// disk. A node that joins its own cluster again keeps the statements that it knows, if it is a
    /// member by them and `chain` together. If the cluster is another one, the names `given` by the
    /// settings become [`FormerNames`], if the previous ledger has an admission.
    ///
    /// # Errors
    /// [`TrustError::Given`] if the secret comes from a configured file, [`TrustError::BadChain`],
    /// [`TrustError::File`].
    pub fn join(
        &self,
        me: &NodeId,
        secret: EpochSecret,
        chain: &[u8],
        given: &BTreeSet<String>,
    ) -> Result<(), TrustError> {
        if !self.has_ledger() {
            return Err(self.files.no_join());
        }
        let statements = SignedStatement::decode_all(chain, CHAIN_MAX);
        let joined = statements
            .and_then(Ledger::of)
            .ok_or(TrustError::BadChain)?;
        if !joined.is_member(me, self.now_s()) {
            return Err(TrustError::BadChain);
        }
        let writer = self.files.lock();
        let before = self.require_ledger()?;
        let is_the_same = before.cluster() == joined.cluster();
        let mut known = Ledger::clone(&before);
        known.merge(joined.statements().cloned());
        let joined = if is_the_same && known.is_member(me, self.now_s()) {
            known
        } else {
            joined
        };
        // Before the change: a crash in between leaves too many names without a meaning, not too
        // few.
        if !is_the_same {
            self.former_names.add_of(&before, &writer, given)?;
        }
        writer.store(Some(&secret), &joined)?;
        let mut contents = self.contents.write();
        *contents = KeyringContents {
            epochs: Arc::new(Epochs::new(secret)),
            ledger: Some(Arc::new(joined)),
        };
        self.news.lock().clear();
        self.register_change(&mut contents);
        Ok(())
    }

    /// Removes the secret and the ledger from the disk: the node leaves its cluster, and its next
    /// start founds a new one. Until then the keyring in memory works as before, so that the node
    /// can announce that it leaves. The names `given` by the settings become [`FormerNames`], if
    /// the ledger has an admission. Returns false if the secret comes from a configured file, which
    /// p2pfs must not remove.
    ///
    /// # Errors
    /// [`TrustError::File`]. A file may remain then.
    pub fn forget(&self, given: &BTreeSet<String>) -> Result<bool, TrustError> {
        let mut writer = self.files.lock();
        if let Some(ledger) = self.ledger() {
            self.former_names.add_of(&ledger, &writer, given)?;
        }
        writer.remove()
    }

    /// Keeps only those [`FormerNames`] (names of nodes from an earlier cluster) for which
    /// `is_former` is true. The others mean members of this cluster from now on.
    ///
    /// # Errors
    /// [`TrustError::File`]. All names stay as they were.
    pub fn retain_former_names(&self, is_former: impl Fn(&str) -> bool) -> Result<(), TrustError> {
        let writer = self.files.lock();
        if self.former_names.retain(&writer, is_former)? {
            self.revision.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Registers a change of the ledger. If the secret of the epoch that the ledger names is known
    /// here, makes it the newest one.
    fn register_change(&self, contents: &mut KeyringContents) {
        self.revision.fetch_add(1, Ordering::AcqRel);
        if let Some(epoch) = contents.ledger.as_ref().and_then(|it| it.epoch()) {
            Arc::make_mut(&mut contents.epochs).prefer(epoch, self.now_s());
        }
    }
}

#[cfg(test)]
mod tests;
