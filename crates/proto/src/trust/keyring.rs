//! Keyring of a node: the secrets of its epochs and the ledger of admitted nodes.
//!
//! With a configured secret file there is no ledger: every node that has the file is a member.
//! Otherwise a node is a member because the ledger says so, and a secret alone makes no node a
//! member. This node's own statements are stored on disk before they count. Statements of other
//! nodes count at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::epochs::Epochs;
use super::ledger::{CHAIN_MAX, Certificate, Ledger, STATEMENTS_MAX};
use super::statement::{STATEMENT_MAX_BYTES, SignedStatement};
use super::{EpochSecret, NodeKey, TrustError, file};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

mod admitted;
mod asking;
mod doorstep;
mod former;
mod inviting;
mod kept;
mod owners;
mod stating;
use former::{had_others, read_former_names};
pub use inviting::Welcome;
use kept::{line, read_ledger, read_secret, stated_at_start};

/// Name of the secret's file within the state directory.
const SECRET_FILE: &str = "secrets";
/// Name of the ledger's file within the state directory.
const LEDGER_FILE: &str = "members";
/// Maximum size of the ledger's file in bytes.
const LEDGER_MAX_BYTES: u64 = (STATEMENTS_MAX * STATEMENT_MAX_BYTES) as u64;
/// Maximum size in bytes of the chain of certificates that a node shows.
pub const CHAIN_MAX_BYTES: usize = CHAIN_MAX * STATEMENT_MAX_BYTES;

/// Storage of the secrets and the ledger.
#[derive(Debug)]
enum KeyringStorage {
    /// In this node's state directory.
    State(PathBuf),
    /// In a file that the administrator configured.
    Given(PathBuf),
    /// Not stored.
    Memory,
}

/// A defect in bytes that a member sent. An honest member never sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes cannot be decoded.
    Garbage,
    /// A statement was not signed by the node that it names.
    Forged,
    /// The node with this id has signed more statements than one node may
    /// ([`STATEMENTS_PER_ADMIN_MAX`](super::STATEMENTS_PER_ADMIN_MAX)).
    Over(NodeId),
}

/// The secrets and the ledger of a node.
#[derive(Debug)]
pub struct Keyring {
    epochs: RwLock<Epochs>,
    ledger: Option<RwLock<Ledger>>,
    home: KeyringStorage,
    /// Statements to pass on to others: received singly, or made here.
    news: Mutex<Vec<SignedStatement>>,
    /// Counter of changes of the ledger, of the secrets that it names, and of the former names.
    revision: AtomicU64,
    now_s: AtomicU64,
    /// Whether the files were removed, so nothing may be written to disk.
    forgotten: AtomicBool,
    /// Held while this node makes a statement and while a file is written, so that an older state
    /// never replaces a newer one.
    writing: Mutex<()>,
    /// Names that the settings gave in an earlier cluster.
    former_names: RwLock<BTreeSet<String>>,
}

impl Keyring {
    /// Loads the secret and the ledger from `directory`. The file `secrets` has 64 hexadecimal
    /// digits and a newline; `members` has the statements; both have mode 0600. Without `members`,
    /// the call founds a new cluster with a new secret.
    ///
    /// If the ledger names no epoch yet, an administrator states that the secret's epoch is the
    /// cluster's. If `members` exists without `secrets`, the call makes a new secret, and an
    /// administrator rotates the cluster to it. In both cases the others can then request the
    /// secret.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub fn load_or_create(
        directory: &Path,
        key: &NodeKey,
        name: &NodeName,
        now_s: u64,
    ) -> Result<Self, TrustError> {
        let (secret, members) = (directory.join(SECRET_FILE), directory.join(LEDGER_FILE));
        let known = file::read_up_to(&members, LEDGER_MAX_BYTES)?;
        let is_new = known.is_none();
        let ledger = match known {
            Some(bytes) => read_ledger(&members, &bytes)?,
            None => {
                // A secret without a ledger belongs to a cluster in which this node cannot prove
                // membership.
                file::remove(&secret)?;
                let ledger = Ledger::found(key, name.clone(), now_s);
                file::replace(&members, &SignedStatement::encode_all(ledger.statements()))?;
                ledger
            }
        };
        let is_lost = file::read(&secret)?.is_none();
        if is_lost {
            file::create(&secret, &line(&EpochSecret::random()))?;
        }
        let secret = read_secret(&secret)?;
        let former_names = read_former_names(directory)?;
        let ledger = if is_lost && !is_new {
            stated_at_start(ledger, &members, |it| {
                it.signer(key, now_s).rotate(secret.id())
            })
        } else {
            stated_at_start(ledger, &members, |it| {
                it.signer(key, now_s).name_epoch(secret.id())
            })
        };
        let home = KeyringStorage::State(directory.into());
        Ok(Self {
            former_names: RwLock::new(former_names),
            ..Self::with(secret, Some(ledger), home, now_s)
        })
    }

    /// Returns whether [`Keyring::load_or_create`] would remove the secret in `directory`, because
    /// it has no ledger beside it.
    pub fn drops_secret(directory: &Path) -> bool {
        directory.join(SECRET_FILE).exists() && !directory.join(LEDGER_FILE).exists()
    }

    /// Reads the members' certificates of a node that does not run, from its state directory.
    /// Writes nothing. A directory without a ledger has none.
    ///
    /// # Errors
    /// [`TrustError::BadFile`], [`TrustError::File`].
    pub fn certificates_in(directory: &Path) -> Result<Vec<Certificate>, TrustError> {
        let members = directory.join(LEDGER_FILE);
        let Some(bytes) = file::read_up_to(&members, LEDGER_MAX_BYTES)? else {
            return Ok(Vec::new());
        };
        let ledger = read_ledger(&members, &bytes)?;
        Ok(ledger.members().cloned().collect())
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

    fn with(secret: EpochSecret, ledger: Option<Ledger>, home: KeyringStorage, now_s: u64) -> Self {
        Self {
            epochs: RwLock::new(Epochs::new(secret)),
            ledger: ledger.map(RwLock::new),
            home,
            news: Mutex::default(),
            revision: AtomicU64::new(1),
            now_s: AtomicU64::new(now_s),
            forgotten: AtomicBool::new(false),
            writing: Mutex::default(),
            former_names: RwLock::default(),
        }
    }

    /// Returns the secret that this node proves and seals with.
    pub fn current(&self) -> Arc<EpochSecret> {
        self.epochs.read().sealing()
    }

    /// Returns the newest secret, which a joining node receives. This node may not seal with it
    /// yet.
    pub fn newest(&self) -> Arc<EpochSecret> {
        self.epochs.read().newest()
    }

    /// Returns the secret of an epoch, if it is known here.
    pub fn by_id(&self, id: EpochId) -> Option<Arc<EpochSecret>> {
        self.epochs
            .read()
            .all()
            .find(|secret| secret.id() == id)
            .cloned()
    }

    /// Returns all secrets, the current one first.
    pub fn all(&self) -> Vec<Arc<EpochSecret>> {
        self.epochs.read().all().cloned().collect()
    }

    /// Sets the time in seconds since 1970. New secrets come into use and old ones expire.
    pub fn tick(&self, now_s: u64) {
        self.now_s.store(now_s, Ordering::Relaxed);
        if self.epochs.read().is_due(now_s) {
            self.epochs.write().tick(now_s);
        }
    }

    /// Returns whether a ledger defines the members. Otherwise every node with the secret is a
    /// member.
    pub fn has_ledger(&self) -> bool {
        self.ledger.is_some()
    }

    /// Checks that there is a ledger to write to.
    ///
    /// # Errors
    /// [`TrustError::NoLedger`].
    pub fn check_ledger(&self) -> Result<(), TrustError> {
        if self.has_ledger() {
            Ok(())
        } else {
            Err(self.not_admin())
        }
    }

    /// Returns whether the node is a member by the ledger. Without a ledger every node is one.
    pub fn is_member(&self, node: &NodeId) -> bool {
        let now_s = self.now_s();
        self.read_ledger(|ledger| ledger.is_member(node, now_s))
            .unwrap_or(true)
    }

    /// Returns whether the node is or was a member. Without a ledger this holds for every node.
    pub fn was_member(&self, node: &NodeId) -> bool {
        // `expulsion` finds the end of the node itself or of an issuer of its certificates.
        let was_in = |ledger: &Ledger| {
            ledger.certificate(node).is_some() || ledger.expulsion(node).is_some()
        };
        self.read_ledger(was_in).unwrap_or(true)
    }

    /// Returns whether a former member left by its own statement.
    pub fn has_resigned(&self, node: &NodeId) -> bool {
        self.read_ledger(|ledger| ledger.has_resigned(node)) == Some(true)
    }

    /// Returns whether the node may admit and expel.
    pub fn is_admin(&self, node: &NodeId) -> bool {
        let now_s = self.now_s();
        self.read_ledger(|ledger| ledger.is_admin(node, now_s))
            .unwrap_or(false)
    }

    /// Checks that the node may admit another one.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::TooFar`],
    /// [`TrustError::NoLedger`].
    pub fn check_admits(&self, node: &NodeId) -> Result<(), TrustError> {
        let now_s = self.now_s();
        let may = self.read_ledger(|ledger| ledger.check_admits(node, now_s));
        may.unwrap_or_else(|| Err(self.not_admin()))
    }

    /// Returns whether the node is out because it was expelled or left. A node that is out only
    /// because an issuer of its certificates was expelled does not count.
    pub fn is_expelled(&self, node: &NodeId) -> bool {
        self.read_ledger(|ledger| ledger.is_expelled(node))
            .unwrap_or(false)
    }

    /// Returns the statement by which the node is out: about the node or about an issuer of its
    /// certificates. Returns none for a member.
    pub fn expulsion_of(&self, node: &NodeId) -> Option<SignedStatement> {
        self.read_ledger(|ledger| ledger.expulsion(node).cloned())
            .flatten()
    }

    /// Returns the members' certificates, including those that have ended.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.read_ledger(|ledger| ledger.members().cloned().collect())
            .unwrap_or_default()
    }

    /// Returns all statements by time, and whether each counts. This is the audit trail.
    pub fn history(&self) -> Vec<(SignedStatement, bool)> {
        self.read_ledger(Ledger::history).unwrap_or_default()
    }

    /// Confirms the received farewells (statements by which nodes left), if this node is an
    /// administrator senior to the nodes that left. Without a confirmation, a node that left could
    /// withdraw its expulsions and rotations.
    ///
    /// # Errors
    /// [`TrustError::File`]: nothing was stated, and the next change of the ledger tries again.
    pub fn confirm_departures(&self, key: &NodeKey) -> Result<(), TrustError> {
        let me = key.node_id();
        if self.read_ledger(|ledger| ledger.has_unconfirmed(&me)) != Some(true) {
            return Ok(());
        }
        let now_s = self.now_s();
        self.state_all(|ledger| Ok(ledger.signer(key, now_s).confirm_received()))
    }

    /// Returns whether a statement only confirms that a node left by itself.
    pub fn confirms(&self, signed: &SignedStatement) -> bool {
        self.read_ledger(|ledger| ledger.confirms(signed)) == Some(true)
    }

    /// Returns the nodes that were admitted and are not members, each with the statement by which
    /// it is out. Sorted by time.
    pub fn departed(&self) -> Vec<(NodeId, SignedStatement)> {
        self.read_ledger(Ledger::departed).unwrap_or_default()
    }

    /// Returns a counter that grows with each change of the ledger and of the secrets that it
    /// names.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Removes and returns the statements that this node must pass on to others.
    pub fn take_news(&self) -> Vec<SignedStatement> {
        std::mem::take(&mut *self.news.lock())
    }

    /// Takes in one statement that arrived as news, and queues it for others if it is new. A
    /// statement that cannot be stored on disk counts until the next start.
    pub fn receive_news(&self, bytes: &[u8]) -> Option<Fault> {
        let (taken, fault) = self.receive(bytes, 1);
        self.news.lock().extend(taken);
        fault
    }

    /// Takes in statements, or none if there are more than `most`. Returns those that were new, and
    /// the first defect of the others.
    fn receive(&self, bytes: &[u8], most: usize) -> (Vec<SignedStatement>, Option<Fault>) {
        let Some(ledger) = &self.ledger else {
            return (Vec::new(), None);
        };
        let Some(statements) = SignedStatement::decode_all(bytes, most) else {
            return (Vec::new(), Some(Fault::Garbage));
        };
        let taken = {
            let mut ledger = ledger.write();
            ledger.take_in(statements)
        };
        if !taken.new.is_empty() {
            // Statements that cannot be stored count all the same: the others act on them, and an
            // expelled node is out. After the next start they are received again.
            let _unkept = self.store_received();
        }
        let fault = if taken.is_forged {
            Some(Fault::Forged)
        } else {
            taken.over.map(Fault::Over)
        };
        (taken.new, fault)
    }

    /// Returns the epoch that the ledger names if its secret is not known here.
    pub fn wanted_epoch(&self) -> Option<EpochId> {
        let epoch = self.read_ledger(Ledger::epoch).flatten()?;
        self.by_id(epoch).is_none().then_some(epoch)
    }

    /// Admits a node, as an administrator of the cluster.
    ///
    /// # Errors
    /// Those of [`Self::check_admits`], [`TrustError::LedgerFull`], [`TrustError::KeyWorn`],
    /// [`TrustError::File`].
    pub fn admit(
        &self,
        key: &NodeKey,
        node: NodeId,
        name: NodeName,
        admin: bool,
    ) -> Result<(), TrustError> {
        let now_s = self.now_s();
        self.state(|ledger| ledger.signer(key, now_s).admit(node, name, admin))
    }

    /// Expels a node. A node that expels itself leaves.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`], [`TrustError::Senior`],
    /// [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`], [`TrustError::NoLedger`],
    /// [`TrustError::File`].
    pub fn expel(&self, key: &NodeKey, node: NodeId) -> Result<(), TrustError> {
        let now_s = self.now_s();
        self.state_all(|ledger| ledger.signer(key, now_s).expel(node))
    }

    /// Makes a fresh random secret the cluster's, and returns its epoch.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::LedgerFull`], [`TrustError::NoLedger`],
    /// [`TrustError::File`].
    pub fn rotate(&self, key: &NodeKey) -> Result<EpochId, TrustError> {
        let (secret, now_s) = (EpochSecret::random(), self.now_s());
        let epoch = secret.id();
        self.state_with(Some(secret), |ledger| {
            ledger.signer(key, now_s).rotate(epoch)
        })?;
        Ok(epoch)
    }

    fn not_admin(&self) -> TrustError {
        match &self.home {
            KeyringStorage::Given(path) => TrustError::NoLedger { path: path.clone() },
            KeyringStorage::State(_) | KeyringStorage::Memory => TrustError::NotAdmin,
        }
    }

    /// Joins another cluster. `chain` leads from the founding of that cluster to this node's own
    /// certificate. Drops all state of the previous cluster from memory and disk. A node that joins
    /// its own cluster again keeps the statements that it knows, if it is a member by them and
    /// `chain` together. In another cluster, the names `given` by the
    /// settings mean no member until they are confirmed ([`Self::is_former_name`]).
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
        let Some(ledger) = &self.ledger else {
            return Err(match &self.home {
                KeyringStorage::Given(path) => TrustError::Given { path: path.clone() },
                KeyringStorage::State(_) | KeyringStorage::Memory => TrustError::BadChain,
            });
        };
        let statements = SignedStatement::decode_all(chain, CHAIN_MAX);
        let joined = statements
            .and_then(Ledger::of)
            .ok_or(TrustError::BadChain)?;
        if !joined.is_member(me, self.now_s()) {
            return Err(TrustError::BadChain);
        }
        let _writing = self.writing.lock();
        let mut known = ledger.read().clone();
        let had_others = had_others(&known);
        known.merge(joined.statements().cloned());
        let is_the_same = known.cluster() == joined.cluster();
        let joined = if is_the_same && known.is_member(me, self.now_s()) {
            known
        } else {
            joined
        };
        // Before the change: a crash in between leaves too many names without a meaning, not too
        // few.
        if had_others && !is_the_same {
            self.add_former_names(given)?;
        }
        self.store(Some(&secret), &joined)?;
        *ledger.write() = joined;
        *self.epochs.write() = Epochs::new(secret);
        self.news.lock().clear();
        self.follow_ledger();
        Ok(())
    }

    /// Removes the files: the next start founds a new cluster, and the node leaves this one. Until
    /// then the keyring works as before, so that the node can announce that it leaves. Returns
    /// false if the secret comes from a configured file, which p2pfs must not remove. From the next
    /// start, the names `given` by the settings mean no member until they are confirmed
    /// ([`Self::is_former_name`]).
    ///
    /// # Errors
    /// [`TrustError::File`]. A file may remain then.
    pub fn forget(&self, given: &BTreeSet<String>) -> Result<bool, TrustError> {
        let _writing = self.writing.lock();
        if self.read_ledger(had_others) == Some(true) {
            self.add_former_names(given)?;
        }
        self.forgotten.store(true, Ordering::Relaxed);
        match &self.home {
            KeyringStorage::State(directory) => {
                file::remove(&directory.join(LEDGER_FILE))?;
                file::remove(&directory.join(SECRET_FILE)).map(|()| true)
            }
            KeyringStorage::Given(_) => Ok(false),
            KeyringStorage::Memory => Ok(true),
        }
    }

    /// Registers a change of the ledger. If the secret of the epoch that the ledger names is known
    /// here, makes it the next secret.
    fn follow_ledger(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
        if let Some(epoch) = self.read_ledger(Ledger::epoch).flatten() {
            self.epochs.write().prefer(epoch, self.now_s());
        }
    }

    fn storage_directory(&self) -> Option<&Path> {
        match &self.home {
            KeyringStorage::State(directory) if !self.forgotten.load(Ordering::Relaxed) => {
                Some(directory)
            }
            _ => None,
        }
    }

    fn now_s(&self) -> u64 {
        self.now_s.load(Ordering::Relaxed)
    }

    fn read_ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> Option<T> {
        let ledger = self.ledger.as_ref()?;
        Some(look(&ledger.read()))
    }
}

#[cfg(test)]
mod tests;
