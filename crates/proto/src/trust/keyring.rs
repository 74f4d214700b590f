//! Keyring of a node: the machine that owns its secrets and its ledger of admitted nodes.
//!
//! Statements of other nodes and commands of this node go in. Four kinds of [`TrustAction`] come
//! out: *store* a change, *spread* a statement, *enforce* the membership, and *answer* a command. The
//! keyring waits for no disk. Its owner hands each write to another thread, and reports the result
//! by [`Keyring::finish_write`]. At most one write is under way. All other parts of the node read
//! the [`TrustView`], which the keyring publishes with every change.
//!
//! ```text
//!   gossip, exchange, greetings ──▶ ┌─────────┐ ──▶ Store    the disk's thread ──┐
//!   commands of users           ──▶ │ Keyring │ ──▶ Spread   gossip              │
//!   result of the write         ──▶ └─────────┘ ──▶ Enforce  members, connections│
//!        ▲                               │     ──▶ Answer   the command          │
//!        │                               ▼                                       │
//!        │                           TrustView                                   │
//!        └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # What happens before a statement is on the disk
//!
//! | statement | counts here | is passed on | its command is answered |
//! |---|---|---|---|
//! | of another node | at once | at once | – |
//! | of this node | once stored | once stored | once stored |
//!
//! **Of another node.** Its author stored it before any other node saw it. If this node forgets it
//! in a crash, the exchange with any member at the next start brings it back. So an early effect
//! promises nothing that a crash could break. A late effect would be harmful: as long as a disk
//! hangs, an expelled node would stay connected to this one, and would not hear from this node that
//! it is out. No message to another node says that a statement is stored here. A node that leaves for
//! good therefore gives its farewell to several nodes.
//!
//! **Of this node.** A statement names the previous one of its author. If others had seen a
//! statement that a crash then lost, the next one would name the same predecessor. Two such branches
//! are the mark of a dishonest author, and only one of them stands after an expulsion. The user,
//! too, must not hear of an expulsion that is undone by a crash. So no other node, and no reader of
//! the view, sees the statement before it is stored. After a crash between storing and spreading,
//! the ledger has the statement at the next start, and the first exchange with each member spreads
//! it.
//!
//! **Secrets.** A fresh secret is stored in one write with the statement that names it, before the
//! statement. The secret of another node's rotation is used at once, because the others drop the
//! previous one. If it is not stored, this node requests it again after its next start.
//!
//! Commands take effect one after the other, each on the ledger that the one before has left. If a
//! write fails, its command fails and changes nothing. Statements of other nodes stay in force, and
//! are stored with the next change of the ledger or after [`RETRY_AFTER_S`].

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::mem;
use std::path::Path;
use std::sync::Arc;

use super::epochs::Epochs;
use super::exchange::{TrustAnswer, TrustQuestion};
use super::invites::{Grant, Known};
use super::ledger::{CHAIN_MAX, Ledger, LedgerSigner, STATEMENTS_MAX};
use super::statement::{Claim, SignedStatement};
use super::view::{TrustReader, TrustView};
use super::{EpochSecret, NodeKey, TrustError};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

mod files;
#[cfg(any(test, feature = "test-support"))]
mod testing;
pub use files::{KeyringFiles, StoredTrust, TrustWrite};
#[cfg(any(test, feature = "test-support"))]
pub use testing::TestKeyring;

/// Seconds after which received statements or a secret that the disk refused are stored again: a
/// full disk stays full for some time.
pub const RETRY_AFTER_S: u64 = 30;
/// Maximum number of commands that wait for a write. They are more than this node has invitations
/// and control connections, so only a disk that stands still for long makes so many wait.
pub const WAITING_MAX: usize = 256;

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

/// The reply to an admitted node.
#[derive(Debug)]
pub struct Welcome {
    /// The cluster's newest secret.
    pub secret: Arc<EpochSecret>,
    /// The encoded certificates from the founding to the node's own; empty without a ledger.
    pub chain: Vec<u8>,
}

/// Takes the result of a command. Runs on the thread that owns the keyring, so it must not wait.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// Signs the statements of a command. Called twice if the first result has no room.
pub type Claims =
    Box<dyn Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError> + Send>;

/// A node that presented a valid invitation.
#[derive(Debug)]
pub struct InvitedNode {
    /// Its key, which TLS has proven.
    pub node: NodeId,
    /// The name that it gives itself.
    pub name: NodeName,
    /// The rights and the name promised with the invitation.
    pub grant: Grant,
    /// This node's knowledge when it made the invitation.
    pub known: Known,
    /// Whether the invitation has admitted the node before, and the answer was lost.
    pub is_repeated: bool,
}

/// A request to the keyring. Every reply follows after the change is stored, except that of
/// [`Self::Receive`].
pub enum TrustCommand {
    /// Takes in statements that a connection has shown, and replies at once.
    Receive {
        /// The encoded statements, at most [`CHAIN_MAX`] and one.
        statements: Vec<u8>,
        /// Whether other nodes may lack the statements, so that they are spread.
        is_news: bool,
        /// Takes the end of the command.
        reply: Reply<()>,
    },
    /// Takes in the answer to a question, as [`Keyring::receive_answer`] does.
    ReceiveAnswer {
        /// The encoded answer.
        answer: Vec<u8>,
        /// Takes the defect of the answer, if it has one.
        reply: Reply<Option<Fault>>,
    },
    /// Makes statements.
    State {
        /// The statements.
        claims: Claims,
        /// Takes the result: the errors of `claims` and of [`TrustView::require_ledger`],
        /// [`TrustError::File`].
        reply: Reply<Result<(), TrustError>>,
    },
    /// Makes statements, and makes a fresh random secret the cluster's. Both are stored together, so
    /// that no crash or full disk leaves an expelled node with the current secret.
    StateAndRotate {
        /// The statements.
        claims: Claims,
        /// Takes the new epoch. If the ledger has room for the statements without the rotation,
        /// they are made, and the error is [`TrustError::NoFreshSecret`].
        reply: Reply<Result<EpochId, TrustError>>,
    },
    /// Admits a node by an invitation. Without a ledger, checks and states nothing.
    Admit {
        /// The node.
        invited: InvitedNode,
        /// Takes the reply to the node: the errors of [`LedgerSigner::admit`],
        /// [`TrustError::Overtaken`], [`TrustError::NameTaken`], [`TrustError::File`].
        reply: Reply<Result<Welcome, TrustError>>,
    },
    /// Joins another cluster. The secrets and the statements of the previous cluster are dropped
    /// from memory and disk. A node that joins its own cluster again keeps the statements that it
    /// knows, if it is a member by them and `chain` together.
    Join {
        /// The newest secret of the cluster.
        secret: EpochSecret,
        /// The certificates from the founding of the cluster to this node's own.
        chain: Vec<u8>,
        /// Names that the settings give. If the cluster is another one, and the previous ledger has
        /// an admission, they become [`TrustView::former_names`].
        given: BTreeSet<String>,
        /// Takes the result: [`TrustError::Given`] if the secret comes from a configured file,
        /// [`TrustError::BadChain`], [`TrustError::File`].
        reply: Reply<Result<(), TrustError>>,
    },
    /// Removes the secret and the ledger from the disk: the node leaves its cluster, and its next
    /// start founds a new one. Until then the keyring works as before in memory, so that the node
    /// can announce that it leaves, and writes no file.
    Forget {
        /// Names that the settings give. They become [`TrustView::former_names`], if the ledger has
        /// an admission.
        given: BTreeSet<String>,
        /// Takes false if the secret is in a configured file, which p2pfs must not remove. After
        /// [`TrustError::File`] a file may remain.
        reply: Reply<Result<bool, TrustError>>,
    },
    /// Keeps only these [`TrustView::former_names`]. The others mean members of this cluster from
    /// now on.
    RetainFormerNames {
        /// Whether a name stays.
        is_former: Box<dyn Fn(&str) -> bool + Send>,
        /// Takes the result: [`TrustError::File`].
        reply: Reply<Result<(), TrustError>>,
    },
}

impl fmt::Debug for TrustCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Receive { .. } => "Receive",
            Self::ReceiveAnswer { .. } => "ReceiveAnswer",
            Self::State { .. } => "State",
            Self::StateAndRotate { .. } => "StateAndRotate",
            Self::Admit { .. } => "Admit",
            Self::Join { .. } => "Join",
            Self::Forget { .. } => "Forget",
            Self::RetainFormerNames { .. } => "RetainFormerNames",
        })
    }
}

/// An action for the owner of the keyring.
pub enum TrustAction {
    /// Write this to the disk, and report the result by [`Keyring::finish_write`].
    Store(TrustWrite),
    /// Pass a statement on to the other members: news, the proof of an expulsion, or a stored
    /// statement of this node.
    Spread(SignedStatement),
    /// The members, the secrets or the meaning of names changed.
    Enforce,
    /// Call this once the changes are enforced. It replies to a command.
    Answer(Box<dyn FnOnce() + Send>),
}

/// A change that takes effect once the write under way is done.
enum UnstoredChange {
    /// Statements and secrets of other nodes, which are in force already.
    None,
    /// Statements of this node.
    Stated {
        before: Ledger,
        after: Ledger,
        secret: Option<EpochSecret>,
        stated: Vec<SignedStatement>,
        reply: Reply<Result<(), TrustError>>,
    },
    Joined {
        secret: EpochSecret,
        ledger: Ledger,
        former_names: Arc<BTreeSet<String>>,
        reply: Reply<Result<(), TrustError>>,
    },
    /// Other former names.
    Named {
        former_names: Arc<BTreeSet<String>>,
        reply: Reply<Result<(), TrustError>>,
    },
}

/// Which changes the keyring stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    /// None. Each change takes effect at once.
    Memory,
    /// All.
    Disk,
    /// None but a repeated removal, because the files were removed.
    Removed,
}

/// The machine that owns the secrets and the ledger of a node.
pub struct Keyring {
    key: Arc<NodeKey>,
    view: Arc<TrustView>,
    reader: TrustReader,
    storage: Storage,
    /// Commands that wait for the ones before them.
    commands: VecDeque<TrustCommand>,
    /// The change whose write is under way.
    unstored: Option<UnstoredChange>,
    /// Write to hand out.
    write: Option<TrustWrite>,
    /// Whether the ledger in force, or its newest secret, must be written.
    is_ledger_dirty: bool,
    is_secret_dirty: bool,
    /// When a refused write of the ledger or the secret may be repeated, in seconds since 1970.
    retry_s: u64,
    /// Whether farewells may be unconfirmed since the last change of the ledger.
    may_confirm: bool,
    news: VecDeque<SignedStatement>,
    must_enforce: bool,
    answers: VecDeque<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyring = &mut f.debug_struct("Keyring");
        keyring.field("view", &self.view).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Loads the secret and the ledger from `directory`. The file `secrets` has 64 hexadecimal
    /// digits and a newline; `members` has the statements; both have mode 0600. Without `members`,
    /// the call founds a new cluster with a new secret. Returns the keyring and its files.
    ///
    /// If the ledger names no epoch yet, the call states that the secret's epoch is the cluster's.
    /// If `members` exists without `secrets`, it makes a new secret and states a rotation to it.
    /// Other members can then request the secret. A node that is not an administrator makes neither
    /// statement. This is the only call that waits for the disk.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub fn load_or_create(
        directory: &Path,
        key: Arc<NodeKey>,
        name: &NodeName,
        now_s: u64,
    ) -> Result<(Self, KeyringFiles), TrustError> {
        let (stored, files) = KeyringFiles::load_or_create(directory, &key, name, now_s)?;
        Ok((Self::stored(key, stored, now_s), files))
    }

    /// Loads the one secret of a configured file: 64 hexadecimal digits and a newline, mode 0600.
    ///
    /// # Errors
    /// [`TrustError::NoSecretFile`], [`TrustError::Exposed`], [`TrustError::BadFile`],
    /// [`TrustError::File`].
    pub fn from_secret_file(path: &Path, key: Arc<NodeKey>) -> Result<Self, TrustError> {
        let mut keyring = Self::in_memory(files::read_secret(path)?, key);
        keyring.change(|view| view.secret_file = Some(Arc::new(path.to_owned())));
        Ok(keyring)
    }

    /// Creates a keyring with one secret and no ledger. Nodes with that secret accept each other.
    pub fn in_memory(secret: EpochSecret, key: Arc<NodeKey>) -> Self {
        Self::with(key, secret, None, BTreeSet::new(), 0)
    }

    /// Creates the keyring of stored secrets and statements.
    pub fn stored(key: Arc<NodeKey>, stored: StoredTrust, now_s: u64) -> Self {
        let StoredTrust {
            secret,
            ledger,
            former_names,
        } = stored;
        Self {
            storage: Storage::Disk,
            ..Self::with(key, secret, Some(ledger), former_names, now_s)
        }
    }

    fn with(
        key: Arc<NodeKey>,
        secret: EpochSecret,
        ledger: Option<Ledger>,
        former_names: BTreeSet<String>,
        now_s: u64,
    ) -> Self {
        let has_ledger = ledger.is_some();
        let view = Arc::new(TrustView {
            epochs: Arc::new(Epochs::new(secret)),
            ledger,
            former_names: Arc::new(former_names),
            secret_file: None,
            now_s,
        });
        Self {
            key,
            reader: TrustReader::new(Arc::clone(&view)),
            view,
            storage: Storage::Memory,
            commands: VecDeque::new(),
            unstored: None,
            write: None,
            is_ledger_dirty: false,
            is_secret_dirty: false,
            retry_s: 0,
            may_confirm: has_ledger,
            news: VecDeque::new(),
            // Members may have left while this node was stopped.
            must_enforce: has_ledger,
            answers: VecDeque::new(),
        }
    }

    /// Returns what is known now.
    pub fn view(&self) -> &Arc<TrustView> {
        &self.view
    }

    /// Returns the access of other threads to the view.
    pub fn reader(&self) -> TrustReader {
        self.reader.clone()
    }

    /// Sets the time in seconds since 1970. Secrets that are due at that time come into use or
    /// expire.
    pub fn tick(&mut self, now_s: u64) {
        if now_s != self.view.now_s {
            self.change(|view| {
                view.now_s = now_s;
                if view.epochs.is_due(now_s) {
                    Arc::make_mut(&mut view.epochs).tick(now_s);
                }
            });
            self.begin_next();
        }
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<TrustAction> {
        if let Some(write) = self.write.take() {
            return Some(TrustAction::Store(write));
        }
        if let Some(statement) = self.news.pop_front() {
            return Some(TrustAction::Spread(statement));
        }
        if mem::take(&mut self.must_enforce) {
            return Some(TrustAction::Enforce);
        }
        self.answers.pop_front().map(TrustAction::Answer)
    }

    /// Takes in one statement that arrived as news, and spreads it if it is new. Returns its defect
    /// if it has one.
    pub fn receive_news(&mut self, bytes: &[u8]) -> Option<Fault> {
        let (taken, fault) = self.receive(bytes, 1);
        self.news.extend(taken);
        self.begin_next();
        fault
    }

    /// Takes in the statements of a member's question. Returns the answer, and the question's
    /// defect if it has one. The answer is none if the bytes are not a question or there is no
    /// ledger.
    pub fn answer(&mut self, bytes: &[u8]) -> (Option<Vec<u8>>, Option<Fault>) {
        let Some(question) = TrustQuestion::decode(bytes) else {
            return (None, self.view.has_ledger().then_some(Fault::Garbage));
        };
        let (_new, fault) = self.receive(&question.statements, STATEMENTS_MAX);
        self.begin_next();
        (self.view.answer(&question), fault)
    }

    /// Takes in an answer. Returns whether this node's statements still differ from those of the
    /// other member, and the answer's defect if it has one.
    pub fn receive_answer(&mut self, bytes: &[u8]) -> (bool, Option<Fault>) {
        let Some(answer) = TrustAnswer::decode(bytes) else {
            return (false, Some(Fault::Garbage));
        };
        let (_new, fault) = self.receive(&answer.statements, STATEMENTS_MAX);
        if let Some(secret) = answer.secret.map(EpochSecret::new)
            && self.view.wanted_epoch() == Some(secret.id())
        {
            self.change(|view| view.adopt(secret));
            self.is_secret_dirty = true;
            self.must_enforce = true;
        }
        self.begin_next();
        let ledger = self.view.ledger();
        let lacks_some = ledger.is_some_and(|ledger| ledger.digest() != answer.digest);
        (lacks_some, fault)
    }

    /// Carries out a command. One that changes what is stored waits for the commands before it.
    pub fn command(&mut self, command: TrustCommand) {
        match command {
            TrustCommand::Receive { .. } | TrustCommand::ReceiveAnswer { .. } => {
                self.begin(command)
            }
            _ if self.commands.len() >= WAITING_MAX => self.refuse(command),
            _ => self.commands.push_back(command),
        }
        self.begin_next();
    }

    /// Refuses a command because too many others wait.
    fn refuse(&mut self, command: TrustCommand) {
        let busy = TrustError::StandsStill;
        match command {
            TrustCommand::Receive { .. } | TrustCommand::ReceiveAnswer { .. } => {}
            TrustCommand::State { reply, .. }
            | TrustCommand::Join { reply, .. }
            | TrustCommand::RetainFormerNames { reply, .. } => self.reply(reply, Err(busy)),
            TrustCommand::StateAndRotate { reply, .. } => self.reply(reply, Err(busy)),
            TrustCommand::Admit { reply, .. } => self.reply(reply, Err(busy)),
            TrustCommand::Forget { reply, .. } => self.reply(reply, Err(busy)),
        }
    }

    /// Handles the result of the write under way.
    pub fn finish_write(&mut self, result: Result<(), TrustError>) {
        if let Some(change) = self.unstored.take() {
            self.finish(change, result);
        }
        self.begin_next();
    }

    /// Begins what waits for the write that is done now: commands in their order, then
    /// confirmations of farewells, then what the disk lacks of the statements of other nodes.
    fn begin_next(&mut self) {
        while self.unstored.is_none() {
            if let Some(command) = self.commands.pop_front() {
                self.begin(command);
            } else if mem::take(&mut self.may_confirm) && self.has_unconfirmed() {
                // Without a confirmation, a node that left could withdraw its expulsions and
                // rotations. If the disk refuses the confirmations, the next change of the ledger
                // tries again.
                let stated = self.sign(|signer| Ok(signer.confirm_received()), None);
                self.submit(stated, Box::new(|_unsaid| {}));
            } else if !self.begin_write_of_received() {
                return;
            }
        }
    }

    fn has_unconfirmed(&self) -> bool {
        let (me, ledger) = (self.key.node_id(), self.view.ledger());
        ledger.is_some_and(|ledger| ledger.has_unconfirmed(&me))
    }

    fn begin(&mut self, command: TrustCommand) {
        match command {
            TrustCommand::State { claims, reply } => {
                let stated = self.sign(&claims, None);
                self.submit(stated, reply);
            }
            TrustCommand::StateAndRotate { claims, reply } => self.begin_rotation(&claims, reply),
            TrustCommand::Admit { invited, reply } => self.begin_admission(invited, reply),
            TrustCommand::Join {
                secret,
                chain,
                given,
                reply,
            } => match self.joined(&chain) {
                Ok(ledger) => self.begin_join(secret, ledger, &given, reply),
                Err(error) => self.reply(reply, Err(error)),
            },
            TrustCommand::Forget { given, reply } => self.begin_removal(&given, reply),
            TrustCommand::RetainFormerNames { is_former, reply } => {
                let mut names = BTreeSet::clone(self.view.former_names());
                names.retain(|name| is_former(name));
                self.begin_naming(names, reply);
            }
            TrustCommand::Receive {
                statements,
                is_news,
                reply,
            } => {
                let (taken, _wrong) = self.receive(&statements, CHAIN_MAX + 1);
                if is_news {
                    self.news.extend(taken);
                }
                self.reply(reply, ());
            }
            TrustCommand::ReceiveAnswer { answer, reply } => {
                let (_lacks_some, fault) = self.receive_answer(&answer);
                self.reply(reply, fault);
            }
        }
    }

    /// Signs statements on a copy of the ledger. `secret` is a new secret that they name.
    fn sign(
        &self,
        claims: impl FnOnce(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>,
        secret: Option<EpochSecret>,
    ) -> Result<SignedChange, TrustError> {
        let mut after = self.view.require_ledger()?.clone();
        let stated = claims(&mut after.signer(&self.key, self.view.now_s))?;
        Ok(SignedChange {
            after,
            secret,
            stated,
        })
    }

    /// Stores signed statements. They take effect once they are stored.
    fn submit(
        &mut self,
        signed: Result<SignedChange, TrustError>,
        reply: Reply<Result<(), TrustError>>,
    ) {
        let (signed, before) = match (signed, self.view.ledger()) {
            (Ok(signed), Some(before)) => (signed, before.clone()),
            (Ok(_), None) => return self.reply(reply, Ok(())),
            (Err(error), _) => return self.reply(reply, Err(error)),
        };
        let SignedChange {
            after,
            secret,
            stated,
        } = signed;
        if stated.is_empty() && secret.is_none() {
            return self.reply(reply, Ok(()));
        }
        let write = TrustWrite {
            secret: secret.clone(),
            ledger: Some(after.clone()),
            ..TrustWrite::default()
        };
        let change = UnstoredChange::Stated {
            before,
            after,
            secret,
            stated,
            reply,
        };
        self.store(write, change);
    }

    fn begin_rotation(&mut self, claims: &Claims, reply: Reply<Result<EpochId, TrustError>>) {
        let secret = EpochSecret::random();
        let epoch = secret.id();
        let with_rotation = |signer: &mut LedgerSigner<'_>| {
            let mut stated = claims(signer)?;
            stated.extend(signer.rotate(epoch)?);
            Ok(stated)
        };
        match self.sign(with_rotation, Some(secret)) {
            Err(TrustError::LedgerFull) => {
                let stated = self.sign(claims, None);
                let is_some = stated.as_ref().is_ok_and(|it| !it.stated.is_empty());
                let without = move |made: Result<(), TrustError>| {
                    // A rotation alone has no statements to fall back to.
                    let why = if is_some {
                        TrustError::NoFreshSecret
                    } else {
                        TrustError::LedgerFull
                    };
                    reply(made.and(Err(why)));
                };
                self.submit(stated, Box::new(without));
            }
            stated => self.submit(stated, Box::new(move |made| reply(made.map(|()| epoch)))),
        }
    }

    fn begin_admission(&mut self, invited: InvitedNode, reply: Reply<Result<Welcome, TrustError>>) {
        let InvitedNode {
            node,
            name,
            grant,
            known,
            is_repeated,
        } = invited;
        if is_repeated || !self.view.has_ledger() {
            let welcome = self.view.welcome_again(&node, &known);
            return self.reply(reply, welcome);
        }
        let name = grant.name.unwrap_or(name);
        let admit = |signer: &mut LedgerSigner<'_>| {
            let ledger = signer.ledger();
            // The joining node may have been expelled, or this node may have changed its cluster,
            // since the invitation was checked.
            if !known.covers(&Known::needed_for(&node, Some(ledger))) {
                return Err(TrustError::Overtaken);
            }
            // Two joining nodes may have chosen the same name at once.
            if ledger.is_name_taken(&node, &name) {
                return Err(TrustError::NameTaken { name });
            }
            signer.admit(node, name, grant.admin)
        };
        let signed = self.sign(admit, None);
        let chain = signed.as_ref().map(|signed| signed.after.chain(&node));
        let chain = chain.map(|chain| SignedStatement::encode_all(&chain));
        // The secret and the chain are of this cluster, even if this node changes its cluster right
        // after.
        let welcome = Welcome {
            secret: self.view.epochs().newest(),
            chain: chain.unwrap_or_default(),
        };
        self.submit(signed, Box::new(move |made| reply(made.map(|()| welcome))));
    }

    /// Returns the ledger that this node has after it joined the cluster of a chain of certificates.
    fn joined(&self, chain: &[u8]) -> Result<Ledger, TrustError> {
        let Some(known) = self.view.ledger() else {
            return Err(match &self.view.secret_file {
                Some(path) => TrustError::Given {
                    path: path.to_path_buf(),
                },
                None => TrustError::BadChain,
            });
        };
        let (me, now_s) = (self.key.node_id(), self.view.now_s);
        let statements = SignedStatement::decode_all(chain, CHAIN_MAX);
        let joined = statements.and_then(Ledger::of);
        let joined = joined.filter(|joined| joined.is_member(&me, now_s));
        let joined = joined.ok_or(TrustError::BadChain)?;
        Ok(self.with_known(known, joined))
    }

    /// Returns a joined ledger together with the statements of `known`, if both are of one cluster
    /// and this node is a member by them together.
    fn with_known(&self, known: &Ledger, joined: Ledger) -> Ledger {
        let mut together = known.clone();
        together.merge(joined.statements().cloned());
        let is_the_same = known.cluster() == joined.cluster();
        if is_the_same && together.is_member(&self.key.node_id(), self.view.now_s) {
            together
        } else {
            joined
        }
    }

    fn begin_join(
        &mut self,
        secret: EpochSecret,
        ledger: Ledger,
        given: &BTreeSet<String>,
        reply: Reply<Result<(), TrustError>>,
    ) {
        let before = self.view.ledger();
        let is_the_same = before.is_some_and(|it| it.cluster() == ledger.cluster());
        let former_names = if is_the_same {
            Arc::clone(&self.view.former_names)
        } else {
            self.former_names_with(given)
        };
        let write = TrustWrite {
            former_names: self.unless_in_force(&former_names),
            secret: Some(secret.clone()),
            ledger: Some(ledger.clone()),
            ..TrustWrite::default()
        };
        let change = UnstoredChange::Joined {
            secret,
            ledger,
            former_names,
            reply,
        };
        self.store(write, change);
    }

    fn begin_removal(&mut self, given: &BTreeSet<String>, reply: Reply<Result<bool, TrustError>>) {
        if self.view.secret_file.is_some() {
            return self.reply(reply, Ok(false));
        }
        let former_names = self.former_names_with(given);
        let write = TrustWrite {
            former_names: self.unless_in_force(&former_names),
            removes_membership: true,
            ..TrustWrite::default()
        };
        let reply = Box::new(move |removed: Result<(), TrustError>| reply(removed.map(|()| true)));
        let change = UnstoredChange::Named {
            former_names,
            reply,
        };
        self.store(write, change);
        if self.storage == Storage::Disk {
            self.storage = Storage::Removed;
        }
    }

    fn begin_naming(
        &mut self,
        former_names: BTreeSet<String>,
        reply: Reply<Result<(), TrustError>>,
    ) {
        if former_names == *self.view.former_names {
            return self.reply(reply, Ok(()));
        }
        let former_names = Arc::new(former_names);
        let write = TrustWrite {
            former_names: Some(Arc::clone(&former_names)),
            ..TrustWrite::default()
        };
        let change = UnstoredChange::Named {
            former_names,
            reply,
        };
        self.store(write, change);
    }

    /// Returns the former names together with the names that the settings give, if the ledger of
    /// the cluster that this node leaves has an admission. Otherwise no name meant another node.
    fn former_names_with(&self, given: &BTreeSet<String>) -> Arc<BTreeSet<String>> {
        let is_admission = |it: &SignedStatement| matches!(it.statement.claim, Claim::Admit { .. });
        let mut names = BTreeSet::clone(self.view.former_names());
        if (self.view.ledger()).is_some_and(|ledger| ledger.statements().any(is_admission)) {
            let given = given.iter().filter(|it| !it.contains('\n'));
            names.extend(given.cloned());
        }
        Arc::new(names)
    }

    /// Returns former names to store, unless they are the ones in force.
    fn unless_in_force(&self, names: &Arc<BTreeSet<String>>) -> Option<Arc<BTreeSet<String>>> {
        (*names != self.view.former_names).then(|| Arc::clone(names))
    }

    /// Begins to write the ledger in force or its secret, if the disk lacks it. Returns whether it
    /// did.
    fn begin_write_of_received(&mut self) -> bool {
        if self.view.now_s < self.retry_s {
            return false;
        }
        let write = if mem::take(&mut self.is_ledger_dirty) {
            TrustWrite {
                ledger: self.view.ledger.clone(),
                ..TrustWrite::default()
            }
        } else if mem::take(&mut self.is_secret_dirty) {
            TrustWrite {
                secret: Some(EpochSecret::clone(&self.view.epochs().newest())),
                ..TrustWrite::default()
            }
        } else {
            return false;
        };
        self.store(write, UnstoredChange::None);
        true
    }

    /// Stores a change, which takes effect once it is stored.
    fn store(&mut self, write: TrustWrite, change: UnstoredChange) {
        let is_stored = match self.storage {
            Storage::Memory => false,
            Storage::Disk => true,
            Storage::Removed => write.removes_membership,
        };
        if is_stored {
            self.write = Some(write);
            self.unstored = Some(change);
        } else {
            self.finish(change, Ok(()));
        }
    }

    /// Ends the write of a change.
    fn finish(&mut self, change: UnstoredChange, result: Result<(), TrustError>) {
        match change {
            UnstoredChange::None => {
                if result.is_err() {
                    // One of the two is stored once more than needed, which does no harm.
                    self.is_ledger_dirty = true;
                    self.is_secret_dirty = true;
                    self.retry_s = self.view.now_s.saturating_add(RETRY_AFTER_S);
                }
            }
            UnstoredChange::Stated {
                before,
                after,
                secret,
                stated,
                reply,
            } => {
                if result.is_ok() {
                    self.let_count(&before, after, secret);
                    self.news.extend(stated);
                }
                self.reply(reply, result);
            }
            UnstoredChange::Joined {
                secret,
                ledger,
                former_names,
                reply,
            } => {
                if result.is_ok() {
                    let ledger = match self.view.ledger() {
                        // Statements may have arrived during the write.
                        Some(known) if known.cluster() == ledger.cluster() => {
                            self.is_ledger_dirty = true;
                            self.with_known(known, ledger)
                        }
                        _ => ledger,
                    };
                    self.news.clear();
                    self.change(|view| {
                        view.epochs = Arc::new(Epochs::new(secret));
                        view.former_names = former_names;
                    });
                    self.set_ledger(ledger, None);
                }
                self.reply(reply, result);
            }
            UnstoredChange::Named {
                former_names,
                reply,
            } => {
                if result.is_ok() {
                    self.change(|view| view.former_names = former_names);
                    self.must_enforce = true;
                }
                self.reply(reply, result);
            }
        }
    }

    /// Lets stored statements of this node count, together with those that arrived during the write.
    fn let_count(&mut self, before: &Ledger, mut after: Ledger, secret: Option<EpochSecret>) {
        match self.view.ledger() {
            Some(now) if !now.is_shared_with(before) => {
                after.merge(now.statements().cloned());
            }
            _ => self.is_ledger_dirty = false,
        }
        self.set_ledger(after, secret);
    }

    /// Takes in statements, or none if there are more than `most`. Returns those that were new, and
    /// a defect of the bytes if there is one.
    fn receive(&mut self, bytes: &[u8], most: usize) -> (Vec<SignedStatement>, Option<Fault>) {
        let Some(mut ledger) = self.view.ledger.clone() else {
            return (Vec::new(), None);
        };
        let Some(statements) = SignedStatement::decode_all(bytes, most) else {
            return (Vec::new(), Some(Fault::Garbage));
        };
        let taken = ledger.take_in(statements);
        if !taken.new.is_empty() {
            self.set_ledger(ledger, None);
            self.is_ledger_dirty = true;
            self.retry_s = 0;
        }
        let fault = if taken.is_forged {
            Some(Fault::Forged)
        } else {
            taken.over.map(Fault::Over)
        };
        (taken.new, fault)
    }

    /// Puts a changed ledger in force, and a new secret that it names. If the secret of the epoch
    /// that the ledger names is known here, makes it the newest one.
    fn set_ledger(&mut self, ledger: Ledger, secret: Option<EpochSecret>) {
        self.change(|view| {
            if let Some(secret) = secret {
                view.adopt(secret);
            }
            view.ledger = Some(ledger);
            view.prefer_named_epoch();
        });
        self.must_enforce = true;
        self.may_confirm = true;
    }

    /// Changes the view and publishes it.
    fn change(&mut self, change: impl FnOnce(&mut TrustView)) {
        change(Arc::make_mut(&mut self.view));
        self.reader.publish(Arc::clone(&self.view));
    }

    fn reply<T: Send + 'static>(&mut self, reply: Reply<T>, result: T) {
        self.answers.push_back(Box::new(move || reply(result)));
    }
}

/// Statements signed on a copy of the ledger, and a new secret that they name.
struct SignedChange {
    after: Ledger,
    secret: Option<EpochSecret>,
    stated: Vec<SignedStatement>,
}

#[cfg(test)]
mod tests;
