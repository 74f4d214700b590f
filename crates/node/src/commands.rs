//! The sender of commands to the event loop.

use tokio::sync::mpsc;

use super::NodeError;
use super::run::LoopCommand;

/// A sender of commands. The event loop ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct CommandSender {
    queue: mpsc::Sender<LoopCommand>,
}

impl CommandSender {
    pub(super) fn new(queue: mpsc::Sender<LoopCommand>) -> Self {
        Self { queue }
    }

    /// Queues a command.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub(super) async fn send(&self, command: LoopCommand) -> Result<(), NodeError> {
        self.queue
            .send(command)
            .await
            .map_err(|_| NodeError::Stopping)
    }
}
