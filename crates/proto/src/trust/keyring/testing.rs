//! A keyring for tests, whose disk answers at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Fault, InvitedNode, Keyring, KeyringFiles, TrustAction, TrustCommand, Welcome};
use crate::trust::epochs::Epochs;
use crate::trust::ledger::{Ledger, LedgerSigner};
use crate::trust::statement::SignedStatement;
use crate::trust::{
    EpochSecret, Grant, Known, NodeKey, StoredTrust, TrustError, TrustReader, TrustView,
};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

/// A keyring that several threads of a test share. Each call stores what it changes before it
/// returns.
#[derive(Debug)]
pub struct TestKeyring(Mutex<Stored>);

#[derive(Debug)]
struct Stored {
    keyring: Keyring,
    files: Option<KeyringFiles>,
    news: Vec<SignedStatement>,
}

impl Stored {
    /// Carries out the actions of the keyring.
    fn settle(&mut self) {
        while let Some(action) = self.keyring.poll_action() {
            match action {
                TrustAction::Store(write) => {
                    let stored = self.files.as_ref().map_or(Ok(()), |it| it.store(&write));
                    self.keyring.finish_write(stored);
                }
                TrustAction::Spread(statement) => self.news.push(statement),
                TrustAction::Enforce => {}
                TrustAction::Answer(answer) => answer(),
            }
        }
    }
}

fn clone_of(key: &NodeKey) -> Arc<NodeKey> {
    let seed = key.seed().try_into().expect("a seed has 32 bytes");
    Arc::new(NodeKey::from_seed(seed))
}

impl TestKeyring {
    fn of(keyring: Keyring, files: Option<KeyringFiles>) -> Self {
        let news = Vec::new();
        let stored = Mutex::new(Stored {
            keyring,
            files,
            news,
        });
        stored.lock().settle();
        Self(stored)
    }

    /// Loads a state directory as [`Keyring::load_or_create`] does.
    ///
    /// # Errors
    /// Those of [`Keyring::load_or_create`].
    pub fn load_or_create(
        directory: &Path,
        key: &NodeKey,
        name: &NodeName,
        now_s: u64,
    ) -> Result<Self, TrustError> {
        let (keyring, files) = Keyring::load_or_create(directory, clone_of(key), name, now_s)?;
        Ok(Self::of(keyring, Some(files)))
    }

    /// Loads a secret file as [`Keyring::from_secret_file`] does.
    ///
    /// # Errors
    /// Those of [`Keyring::from_secret_file`].
    pub fn from_secret_file(path: &Path) -> Result<Self, TrustError> {
        let keyring = Keyring::from_secret_file(path, Arc::new(NodeKey::random()))?;
        Ok(Self::of(keyring, None))
    }

    /// Creates a keyring with one secret and no ledger.
    pub fn in_memory(secret: EpochSecret) -> Self {
        let key = Arc::new(NodeKey::random());
        Self::of(Keyring::in_memory(secret, key), None)
    }

    /// Founds a cluster that is not stored.
    pub fn founded_in_memory(
        secret: EpochSecret,
        key: &NodeKey,
        name: NodeName,
        now_s: u64,
    ) -> Self {
        let stored = StoredTrust {
            secret,
            ledger: Ledger::found(key, name, now_s),
            former_names: BTreeSet::new(),
        };
        Self::of(Keyring::stored(clone_of(key), stored, now_s), None)
    }

    /// Signs commands with this key from now on.
    pub fn set_key(&self, key: &NodeKey) {
        self.0.lock().keyring.key = clone_of(key);
    }

    /// Returns what is known now.
    pub fn view(&self) -> Arc<TrustView> {
        Arc::clone(self.0.lock().keyring.view())
    }

    /// Returns the access to the view.
    pub fn reader(&self) -> TrustReader {
        self.0.lock().keyring.reader()
    }

    /// Returns the secrets.
    pub fn epochs(&self) -> Arc<Epochs> {
        Arc::clone(&self.view().epochs)
    }

    /// Returns the ledger.
    pub fn ledger(&self) -> Option<Ledger> {
        self.view().ledger.clone()
    }

    /// Returns whether the node is a member.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.view().is_member(node)
    }

    /// Removes and returns the statements to spread.
    pub fn take_news(&self) -> Vec<SignedStatement> {
        std::mem::take(&mut self.0.lock().news)
    }

    fn with<T>(&self, call: impl FnOnce(&mut Keyring) -> T) -> T {
        let mut stored = self.0.lock();
        let result = call(&mut stored.keyring);
        stored.settle();
        result
    }

    /// Returns the answer to a command.
    fn answer_to<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Keyring, super::Reply<T>),
    ) -> T {
        let answer = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&answer);
        let reply = Box::new(move |result| *slot.lock() = Some(result));
        self.with(|keyring| command(keyring, reply));
        let answer = answer.lock().take();
        answer.expect("the disk of a test answers at once")
    }

    /// Carries out a command.
    pub fn command(&self, command: TrustCommand) {
        self.with(|keyring| keyring.command(command));
    }

    /// Sets the time.
    pub fn tick(&self, now_s: u64) {
        self.with(|keyring| keyring.tick(now_s));
    }

    /// Makes statements with this key, which need not be that of the keyring.
    ///
    /// # Errors
    /// Those of [`TrustCommand::State`].
    pub fn state(
        &self,
        key: &NodeKey,
        claims: impl FnOnce(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>,
    ) -> Result<(), TrustError> {
        self.answer_to(|keyring, reply| {
            let own = std::mem::replace(&mut keyring.key, clone_of(key));
            let signed = keyring.sign(claims, None);
            keyring.key = own;
            keyring.submit(signed, reply);
        })
    }

    /// Makes statements and a fresh secret with this key.
    ///
    /// # Errors
    /// Those of [`TrustCommand::StateAndRotate`].
    pub fn state_and_rotate(
        &self,
        key: &NodeKey,
        claims: impl Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>
        + Send
        + 'static,
    ) -> Result<EpochId, TrustError> {
        self.answer_to(|keyring, reply| {
            let own = std::mem::replace(&mut keyring.key, clone_of(key));
            let claims = Box::new(claims);
            keyring.command(TrustCommand::StateAndRotate { claims, reply });
            keyring.key = own;
        })
    }

    /// Makes a fresh secret with this key.
    ///
    /// # Errors
    /// Those of [`TrustCommand::StateAndRotate`].
    pub fn rotate(&self, key: &NodeKey) -> Result<EpochId, TrustError> {
        self.state_and_rotate(key, |_| Ok(Vec::new()))
    }

    /// Joins a cluster.
    ///
    /// # Errors
    /// Those of [`TrustCommand::Join`].
    pub fn join(
        &self,
        secret: EpochSecret,
        chain: &[u8],
        given: &BTreeSet<String>,
    ) -> Result<(), TrustError> {
        let (chain, given) = (chain.to_vec(), given.clone());
        self.answer_to(|keyring, reply| {
            keyring.command(TrustCommand::Join {
                secret,
                chain,
                given,
                reply,
            });
        })
    }

    /// Admits a node by an invitation.
    ///
    /// # Errors
    /// Those of [`TrustCommand::Admit`].
    pub fn admit(
        &self,
        node: NodeId,
        name: NodeName,
        grant: Grant,
        known: Known,
    ) -> Result<Welcome, TrustError> {
        let invited = InvitedNode {
            node,
            name,
            grant,
            known,
            is_repeated: false,
        };
        self.answer_to(|keyring, reply| {
            keyring.command(TrustCommand::Admit { invited, reply });
        })
    }

    /// Removes the membership.
    ///
    /// # Errors
    /// Those of [`TrustCommand::Forget`].
    pub fn forget(&self, given: &BTreeSet<String>) -> Result<bool, TrustError> {
        let given = given.clone();
        self.answer_to(|keyring, reply| keyring.command(TrustCommand::Forget { given, reply }))
    }

    /// Keeps only these former names.
    ///
    /// # Errors
    /// Those of [`TrustCommand::RetainFormerNames`].
    pub fn retain_former_names(
        &self,
        is_former: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), TrustError> {
        let is_former = Box::new(is_former);
        self.answer_to(|keyring, reply| {
            keyring.command(TrustCommand::RetainFormerNames { is_former, reply });
        })
    }

    /// Answers a question as [`Keyring::answer`] does.
    pub fn answer(&self, question: &[u8]) -> (Option<Vec<u8>>, Option<Fault>) {
        self.with(|keyring| keyring.answer(question))
    }

    /// Takes in an answer as [`Keyring::receive_answer`] does.
    pub fn receive_answer(&self, answer: &[u8]) -> (bool, Option<Fault>) {
        self.with(|keyring| keyring.receive_answer(answer))
    }

    /// Takes in news as [`Keyring::receive_news`] does.
    pub fn receive_news(&self, bytes: &[u8]) -> Option<Fault> {
        self.with(|keyring| keyring.receive_news(bytes))
    }

    /// Takes in certificates that make the node a member. Returns whether it is one.
    pub fn receive_certificates(&self, node: &NodeId, chain: &[u8]) -> bool {
        if self.view().is_member_with(node, chain) {
            self.receive_shown(chain, false);
        }
        self.is_member(node)
    }

    /// Takes in statements that expel the node. Returns whether they do.
    pub fn receive_expulsion(&self, node: &NodeId, said: &[u8]) -> bool {
        let is_out = self.view().is_expelled_by(node, said);
        if is_out {
            self.receive_shown(said, true);
        }
        is_out
    }

    fn receive_shown(&self, statements: &[u8], is_news: bool) {
        let statements = statements.to_vec();
        self.answer_to(|keyring, reply| {
            keyring.command(TrustCommand::Receive {
                statements,
                is_news,
                reply,
            });
        });
    }
}
