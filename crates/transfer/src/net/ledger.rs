//! The ledger of this node, as connections and users reach it.
//!
//! The event loop owns the ledger. Others read the published view, and queue commands for the loop.
//! Whether a chain of certificates makes a node a member is checked here, against the view, so that
//! a stranger's chain costs the loop nothing.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use p2pfs_proto::trust::{Reply, TrustCommand, TrustReader, TrustView};
use p2pfs_types::id::NodeId;

/// Maximum number of commands queued for the owner of the ledger.
const COMMANDS_MAX: usize = 64;

/// The owner of the ledger has stopped. The command may or may not have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerStopped;

/// Access to the ledger of this node. Clones reach the same one.
#[derive(Clone, Debug)]
pub struct LedgerHandle {
    trust: TrustReader,
    commands: mpsc::Sender<TrustCommand>,
}

impl LedgerHandle {
    /// Returns the access to a ledger, and the queue of commands for its owner.
    pub fn new(trust: TrustReader) -> (Self, mpsc::Receiver<TrustCommand>) {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        (Self { trust, commands }, queue)
    }

    /// Returns what this node knows now.
    pub fn view(&self) -> Arc<TrustView> {
        self.trust.view()
    }

    /// Returns the access to the view alone.
    pub fn reader(&self) -> &TrustReader {
        &self.trust
    }

    /// Returns whether the node is a member now.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.trust.is_member(node)
    }

    /// Returns whether the owner of the ledger still runs.
    pub fn is_open(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Queues a command, and waits for its result. Except for received statements, that takes as
    /// long as the disk takes to store the change.
    ///
    /// # Errors
    /// [`LedgerStopped`].
    pub async fn run<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> TrustCommand,
    ) -> Result<T, LedgerStopped> {
        let (reply, result) = oneshot::channel();
        let command = command(Box::new(move |it| {
            let _gone = reply.send(it);
        }));
        let queued = self.commands.send(command).await;
        queued.map_err(|_| LedgerStopped)?;
        result.await.map_err(|_| LedgerStopped)
    }

    /// Takes in the certificates that a node shows, if it is not a member yet and they make it one.
    /// Returns whether the node is a member afterwards.
    pub async fn receive_certificates(&self, node: &NodeId, shown: &[u8]) -> bool {
        let view = self.view();
        if !view.is_member(node) && view.is_member_with(node, shown) {
            self.receive(shown, false).await;
        }
        self.is_member(node)
    }

    /// Takes in statements that expel `me`, and passes them on. Returns whether they do expel it.
    /// They are signed, so the sender need not be trusted.
    pub async fn receive_expulsion(&self, me: &NodeId, said: &[u8]) -> bool {
        let is_out = self.view().is_expelled_by(me, said);
        if is_out {
            self.receive(said, true).await;
        }
        is_out
    }

    async fn receive(&self, statements: &[u8], is_news: bool) {
        let statements = statements.to_vec();
        let received = self.run(|reply| TrustCommand::Receive {
            statements,
            is_news,
            reply,
        });
        // A stopping node needs no statements.
        let _stopping = received.await;
    }
}
