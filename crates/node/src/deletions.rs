//! Deletions of versions of other nodes, for the threads of the mount.
//!
//! A deletion is a record of the own log. [`Deletions`] hands it to the event loop and waits until
//! the published view shows it. The deletions that wait at the same time are recorded together.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use p2pfs_catalogue::CatalogueError;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Maximum time that a deletion waits until the published view shows it. The view of a node that
/// merges a large log may take some seconds.
const SHOWN_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of deletions that the event loop records in one round.
pub(super) const DELETION_BATCH: usize = 256;

/// Reason why a deletion failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeletionError {
    /// The own log has no room for another deletion.
    #[error(
        "cannot delete versions of other nodes: the log of this node has as many deletions and \
         names as other nodes accept; delete the files on the nodes that share them"
    )]
    Full,
    /// The path is the root, or too deep for a log.
    #[error("cannot delete versions of other nodes: no log can name the path")]
    BadPath,
    /// The view did not show the deletion in time. It is recorded, and shown later.
    #[error(
        "cannot show the deletion within {} s: this node merges the logs of other nodes; look \
         again later",
        SHOWN_LIMIT.as_secs()
    )]
    Late,
    /// The node is stopping or has stopped.
    #[error("cannot delete versions of other nodes: the node is stopping")]
    Stopping,
}

impl From<CatalogueError> for DeletionError {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::BadFact => Self::BadPath,
            _ => Self::Full,
        }
    }
}

/// Deletes versions of other nodes. Clones share their state.
#[derive(Clone, Debug)]
pub struct Deletions {
    requests: mpsc::UnboundedSender<DeletionRequest>,
}

/// A deletion to record, and the thread that waits for it.
#[derive(Debug)]
pub(super) struct DeletionRequest {
    pub path: SharedPath,
    pub replaces: Vec<ContentHash>,
    /// Whether this node withdraws its deletion of the contents.
    pub is_withdrawn: bool,
    pub reply: DeletionReply,
}

/// The reply to a waiting thread.
#[derive(Debug)]
pub(super) struct DeletionReply(SyncSender<Result<(), DeletionError>>);

impl DeletionReply {
    pub(super) fn send(self, result: Result<(), DeletionError>) {
        // The thread may have stopped waiting.
        let _late = self.0.try_send(result);
    }
}

impl Deletions {
    /// Returns the handle, and the requests for the event loop. Each waiting thread has one request
    /// in the queue.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<DeletionRequest>) {
        let (requests, queue) = mpsc::unbounded_channel();
        (Self { requests }, queue)
    }

    /// Records that the versions of a path with these contents are deleted, in addition to those of
    /// an earlier deletion of this node. When it returns, the published view shows the deletion. At
    /// most [`REPLACES_MAX`] contents are kept, the first ones. Blocks for up to 10 s.
    ///
    /// # Errors
    /// [`DeletionError`]. Except after [`DeletionError::Late`], nothing was recorded.
    ///
    /// [`REPLACES_MAX`]: p2pfs_proto::wire::native::record::REPLACES_MAX
    pub fn delete(
        &self,
        path: SharedPath,
        replaces: Vec<ContentHash>,
    ) -> Result<(), DeletionError> {
        self.record(path, replaces, false)
    }

    /// Withdraws the deletion of the versions of a path with these contents by this node. When it
    /// returns, the published view shows them, unless other nodes deleted or replaced them too.
    /// Blocks for up to 10 s.
    ///
    /// # Errors
    /// [`DeletionError`]. Except after [`DeletionError::Late`], nothing was recorded.
    pub fn withdraw(
        &self,
        path: SharedPath,
        contents: Vec<ContentHash>,
    ) -> Result<(), DeletionError> {
        self.record(path, contents, true)
    }

    fn record(
        &self,
        path: SharedPath,
        replaces: Vec<ContentHash>,
        is_withdrawn: bool,
    ) -> Result<(), DeletionError> {
        let (reply, result) = sync_channel(1);
        let request = DeletionRequest {
            path,
            replaces,
            is_withdrawn,
            reply: DeletionReply(reply),
        };
        let sent = self.requests.send(request);
        sent.map_err(|_| DeletionError::Stopping)?;
        match result.recv_timeout(SHOWN_LIMIT) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(DeletionError::Late),
            Err(RecvTimeoutError::Disconnected) => Err(DeletionError::Stopping),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_ends_with_its_reply_or_with_the_node() {
        let (deletions, mut queue) = Deletions::new();
        for expected in [Ok(()), Err(DeletionError::Full)] {
            let waiting = deletions.clone();
            let path = SharedPath::new(*b"d/f").unwrap();
            let thread = std::thread::spawn(move || waiting.delete(path, Vec::new()));
            let request = queue.blocking_recv().unwrap();
            assert_eq!(request.path.as_bytes(), b"d/f");
            request.reply.send(expected);
            assert_eq!(thread.join().unwrap(), expected);
        }
        drop(queue);
        let ended = deletions.delete(SharedPath::root(), Vec::new());
        assert_eq!(ended, Err(DeletionError::Stopping));
    }
}
