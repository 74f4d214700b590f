//! What a node is a member by: the secrets of its epochs, and the ledger of who was admitted.
//!
//! With a secret that was given by hand there is no ledger: whoever has the file is in. Else a node
//! is in because the ledger says so, and a secret alone makes nobody a member. What this node says
//! is kept on disk before it counts; what others say counts at once.

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
mod inviting;
mod kept;
mod owners;
mod stating;
pub use inviting::Welcome;
use kept::{line, read_ledger, read_secret, stated_at_start};

/// The name of the secret's file within the state directory.
const SECRET_FILE: &str = "secrets";
/// The name of the ledger's file within the state directory.
const LEDGER_FILE: &str = "members";
/// The longest ledger's file.
const LEDGER_MAX_BYTES: u64 = (STATEMENTS_MAX * STATEMENT_MAX_BYTES) as u64;
/// The longest chain of certificates that a node shows.
pub const CHAIN_MAX_BYTES: usize = CHAIN_MAX * STATEMENT_MAX_BYTES;

/// Where secrets and ledger are kept.
#[derive(Debug)]
enum Home {
    /// In our state directory.
    State(PathBuf),
    /// In a file that the administrator gave.
    Given(PathBuf),
    /// Nowhere.
    Memory,
}

/// What a member says of who is in that no honest one says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read.
    Garbage,
    /// A statement that was not signed by whom it names.
    Forged,
    /// This node has signed more than one may
    /// ([`STATEMENTS_PER_ADMIN_MAX`](super::STATEMENTS_PER_ADMIN_MAX)).
    Over(NodeId),
}

/// The secrets and the ledger.
#[derive(Debug)]
pub struct Keyring {
    epochs: RwLock<Epochs>,
    ledger: Option<RwLock<Ledger>>,
    home: Home,
    /// Statements that came one by one and that others should hear.
    news: Mutex<Vec<SignedStatement>>,
    /// Counts the changes of the ledger.
    revision: AtomicU64,
    now_s: AtomicU64,
    /// Nothing is kept on disk any more.
    forgotten: AtomicBool,
    /// Held while this node states something and while a file is written, so that nothing older
    /// takes a newer one's place.
    writing: Mutex<()>,
}

impl Keyring {
    /// The secret and the ledger kept in `directory` (files `secrets`, 64 hexadecimal digits and a
    /// newline, and `members`, both of mode 0600); at the first call this node begins a cluster
    /// of its own there. Where no statement names that secret, and this node may, it says that it
    /// is the cluster's, so that the others can be given it.
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
                // a secret without a ledger is of no cluster that this node can prove to be in
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
        let ledger = if is_lost && !is_new {
            stated_at_start(ledger, &members, |it| it.rotate(key, secret.id(), now_s))
        } else {
            stated_at_start(ledger, &members, |it| {
                it.name_epoch(key, secret.id(), now_s)
            })
        };
        Ok(Self::with(
            secret,
            Some(ledger),
            Home::State(directory.into()),
            now_s,
        ))
    }

    /// Whether [`Keyring::load_or_create`] would drop the secret there: it has no ledger beside it.
    pub fn drops_secret(directory: &Path) -> bool {
        directory.join(SECRET_FILE).exists() && !directory.join(LEDGER_FILE).exists()
    }

    /// The one secret in a file given by hand: 64 hexadecimal digits and a newline, mode 0600.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub fn from_secret_file(path: &Path) -> Result<Self, TrustError> {
        Ok(Self::with(
            read_secret(path)?,
            None,
            Home::Given(path.into()),
            0,
        ))
    }

    /// One secret that is kept nowhere, and whose holders admit each other.
    pub fn in_memory(secret: EpochSecret) -> Self {
        Self::with(secret, None, Home::Memory, 0)
    }

    /// A cluster of its own that is kept nowhere.
    pub fn founded_in_memory(
        secret: EpochSecret,
        key: &NodeKey,
        name: NodeName,
        now_s: u64,
    ) -> Self {
        Self::with(
            secret,
            Some(Ledger::found(key, name, now_s)),
            Home::Memory,
            now_s,
        )
    }

    fn with(secret: EpochSecret, ledger: Option<Ledger>, home: Home, now_s: u64) -> Self {
        Self {
            epochs: RwLock::new(Epochs::new(secret)),
            ledger: ledger.map(RwLock::new),
            home,
            news: Mutex::default(),
            revision: AtomicU64::new(1),
            now_s: AtomicU64::new(now_s),
            forgotten: AtomicBool::new(false),
            writing: Mutex::default(),
        }
    }

    /// The secret that we prove and seal with.
    pub fn current(&self) -> Arc<EpochSecret> {
        self.epochs.read().sealing()
    }

    /// The secret that whoever joins now is given: it may not seal yet.
    pub fn newest(&self) -> Arc<EpochSecret> {
        self.epochs.read().newest()
    }

    /// The secret of an epoch that we know.
    pub fn by_id(&self, id: EpochId) -> Option<Arc<EpochSecret>> {
        self.epochs
            .read()
            .all()
            .find(|secret| secret.id() == id)
            .cloned()
    }

    /// All secrets, the current one first.
    pub fn all(&self) -> Vec<Arc<EpochSecret>> {
        self.epochs.read().all().cloned().collect()
    }

    /// Says what time it is, in seconds since 1970: new secrets come into use and old ones end.
    pub fn tick(&self, now_s: u64) {
        self.now_s.store(now_s, Ordering::Relaxed);
        if self.epochs.read().is_due(now_s) {
            self.epochs.write().tick(now_s);
        }
    }

    /// Whether members are those of a ledger, rather than whoever has the secret.
    pub fn has_ledger(&self) -> bool {
        self.ledger.is_some()
    }

    /// Whether there is a ledger to write in.
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

    /// Whether the node belongs here: by the ledger, or anyone where there is none.
    pub fn is_member(&self, node: &NodeId) -> bool {
        let now_s = self.now_s();
        self.read_ledger(|ledger| ledger.is_member(node, now_s))
            .unwrap_or(true)
    }

    /// Whether the node is a member or was one; anyone where there is no ledger.
    pub fn was_member(&self, node: &NodeId) -> bool {
        // by its own end or that of who had let it in
        let was_in = |ledger: &Ledger| {
            ledger.certificate(node).is_some() || ledger.expulsion(node).is_some()
        };
        self.read_ledger(was_in).unwrap_or(true)
    }

    /// Whether a node that is no member any more went by its own word.
    pub fn has_resigned(&self, node: &NodeId) -> bool {
        self.read_ledger(|ledger| ledger.has_resigned(node)) == Some(true)
    }

    /// Whether the node may admit and expel.
    pub fn is_admin(&self, node: &NodeId) -> bool {
        let now_s = self.now_s();
        self.read_ledger(|ledger| ledger.is_admin(node, now_s))
            .unwrap_or(false)
    }

    /// Whether the node may admit another.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::TooFar`], [`TrustError::NoLedger`].
    pub fn check_admits(&self, node: &NodeId) -> Result<(), TrustError> {
        let now_s = self.now_s();
        let may = self.read_ledger(|ledger| ledger.check_admits(node, now_s));
        may.unwrap_or_else(|| Err(self.not_admin()))
    }

    /// Whether the node was put out, or went.
    pub fn is_expelled(&self, node: &NodeId) -> bool {
        self.read_ledger(|ledger| ledger.is_expelled(node))
            .unwrap_or(false)
    }

    /// The word by which the node was put out, or went.
    pub fn expulsion_of(&self, node: &NodeId) -> Option<SignedStatement> {
        self.read_ledger(|ledger| ledger.expulsion(node).cloned())
            .flatten()
    }

    /// The members' certificates, those that have ended included.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.read_ledger(|ledger| ledger.members().cloned().collect())
            .unwrap_or_default()
    }

    /// All statements by time, and whether each counts: the audit trail.
    pub fn history(&self) -> Vec<(SignedStatement, bool)> {
        self.read_ledger(Ledger::history).unwrap_or_default()
    }

    /// Confirms the farewells that were received, if this node is an administrator senior to their
    /// nodes. Without a confirmation, a node that left could withdraw its expulsions and rotations.
    ///
    /// # Errors
    /// The statement cannot be written to the disk: nothing was said, and the next change of the
    /// ledger tries again.
    pub fn confirm_departures(&self, key: &NodeKey) -> Result<(), TrustError> {
        let me = key.node_id();
        if self.read_ledger(|ledger| ledger.has_unconfirmed(&me)) != Some(true) {
            return Ok(());
        }
        let now_s = self.now_s();
        let confirm = |ledger: &mut Ledger| ledger.confirm_received(key, now_s);
        // on a copy first: most changes confirm nothing, and need no write
        let is_due = self
            .read_ledger(Ledger::clone)
            .is_some_and(|mut it| !confirm(&mut it).is_empty());
        if is_due {
            self.state_all(|ledger| Ok(confirm(ledger)))?;
        }
        Ok(())
    }

    /// Whether a statement only confirms that a node left by itself.
    pub fn confirms(&self, signed: &SignedStatement) -> bool {
        self.read_ledger(|ledger| ledger.confirms(signed)) == Some(true)
    }

    /// Who was let in and is no member, and the word by which that is so; by time.
    pub fn departed(&self) -> Vec<(NodeId, SignedStatement)> {
        self.read_ledger(Ledger::departed).unwrap_or_default()
    }

    /// Grows with each change of the ledger and of the secrets that it asks for.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Statements that others should hear, each once.
    pub fn take_news(&self) -> Vec<SignedStatement> {
        std::mem::take(&mut *self.news.lock())
    }

    /// Takes in one statement that came as news; others hear of it if it is new. One that cannot be
    /// kept on disk counts nevertheless, until the next start.
    pub fn hear_news(&self, bytes: &[u8]) -> Option<Fault> {
        let (taken, fault) = self.hear(bytes, 1);
        self.news.lock().extend(taken);
        fault
    }

    /// Takes in statements; gives those that were new, and what is wrong with the others.
    fn hear(&self, bytes: &[u8], most: usize) -> (Vec<SignedStatement>, Option<Fault>) {
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
            // what cannot be kept counts all the same: the others hold to it, whoever was put out
            // is out, and after the next start it is heard again
            let _unkept = self.changed();
        }
        let fault = if taken.is_forged {
            Some(Fault::Forged)
        } else {
            taken.over.map(Fault::Over)
        };
        (taken.new, fault)
    }

    /// The epoch that the ledger names and whose secret is not known here.
    pub fn wanted_epoch(&self) -> Option<EpochId> {
        let epoch = self.read_ledger(Ledger::epoch).flatten()?;
        self.by_id(epoch).is_none().then_some(epoch)
    }

    /// Admits a node, as an administrator of the cluster.
    ///
    /// # Errors
    /// As [`Self::check_admits`], [`TrustError::LedgerFull`], [`TrustError::File`].
    pub fn admit(
        &self,
        key: &NodeKey,
        node: NodeId,
        name: NodeName,
        admin: bool,
    ) -> Result<(), TrustError> {
        let now_s = self.now_s();
        self.state(|ledger| ledger.admit(key, node, name, admin, now_s))
    }

    /// Puts a node out; of itself a node says so that it goes.
    ///
    /// # Errors
    /// As [`Self::admit`], [`TrustError::NoMember`], [`TrustError::Senior`].
    pub fn expel(&self, key: &NodeKey, node: NodeId) -> Result<(), TrustError> {
        let now_s = self.now_s();
        self.state_all(|ledger| ledger.expel(key, node, now_s))
    }

    /// Makes a fresh random secret the cluster's.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub fn rotate(&self, key: &NodeKey) -> Result<EpochId, TrustError> {
        let (secret, now_s) = (EpochSecret::random(), self.now_s());
        let epoch = secret.id();
        self.state_with(Some(secret), |ledger| ledger.rotate(key, epoch, now_s))?;
        Ok(epoch)
    }

    fn not_admin(&self) -> TrustError {
        match &self.home {
            Home::Given(path) => TrustError::NoLedger { path: path.clone() },
            Home::State(_) | Home::Memory => TrustError::NotAdmin,
        }
    }

    /// Becomes a member of another cluster, whose founding and our own certificate `chain` holds:
    /// everything of the one before is dropped, from memory and from the disk. Who joins the same
    /// cluster again keeps what it knows of who is out.
    ///
    /// # Errors
    /// [`TrustError::Given`] where the secret comes from a file given by hand,
    /// [`TrustError::BadChain`], [`TrustError::File`].
    pub fn join(&self, me: &NodeId, secret: EpochSecret, chain: &[u8]) -> Result<(), TrustError> {
        let Some(ledger) = &self.ledger else {
            return Err(match &self.home {
                Home::Given(path) => TrustError::Given { path: path.clone() },
                Home::State(_) | Home::Memory => TrustError::BadChain,
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
        known.merge(joined.statements().cloned());
        let is_the_same = known.cluster() == joined.cluster();
        let joined = if is_the_same && known.is_member(me, self.now_s()) {
            known
        } else {
            joined
        };
        self.keep(Some(&secret), &joined)?;
        *ledger.write() = joined;
        *self.epochs.write() = Epochs::new(secret);
        self.news.lock().clear();
        self.follow_ledger();
        Ok(())
    }

    /// Forgets what is kept on disk: the next start begins a cluster of its own, and is no member
    /// of what this one was. Until then all serves as before, to say farewell with. False where
    /// the secret comes from a file given by hand, which is not ours to remove.
    ///
    /// # Errors
    /// [`TrustError::File`]; it is then still kept.
    pub fn forget(&self) -> Result<bool, TrustError> {
        self.forgotten.store(true, Ordering::Relaxed);
        let _writing = self.writing.lock();
        match &self.home {
            Home::State(directory) => {
                file::remove(&directory.join(LEDGER_FILE))?;
                file::remove(&directory.join(SECRET_FILE)).map(|()| true)
            }
            Home::Given(_) => Ok(false),
            Home::Memory => Ok(true),
        }
    }

    /// The ledger is another: the secret that it names is used if it is known.
    fn follow_ledger(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
        if let Some(epoch) = self.read_ledger(Ledger::epoch).flatten() {
            self.epochs.write().prefer(epoch, self.now_s());
        }
    }

    fn kept_in(&self) -> Option<&Path> {
        match &self.home {
            Home::State(directory) if !self.forgotten.load(Ordering::Relaxed) => Some(directory),
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
