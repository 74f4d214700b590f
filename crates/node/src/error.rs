//! Errors of starting and using a node.

use std::path::PathBuf;

use p2pfs_content::cache::CacheError;
use p2pfs_content::shares::ShareError;
use p2pfs_proto::trust::TrustError;
use p2pfs_transfer::net::{LedgerStopped, NetError};
use p2pfs_types::files::{stays_refused, with_remedy};

use super::not_forgotten::NotForgotten;
use super::store::StoreError;

/// A failure of a node. A failed start leaves nothing that a later start could not use.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The state directory cannot be created or read.
    #[error("cannot use the state directory {}: {}", dir.display(), state_trouble(source))]
    StateDir {
        /// The state directory.
        dir: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// Another daemon uses the same state directory.
    #[error(
        "the state directory {} belongs to a running daemon; stop that one, or give this one \
         another with --state",
        dir.display()
    )]
    StateLocked {
        /// The state directory.
        dir: PathBuf,
    },
    /// Keys, secrets or tokens.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Sockets or another node.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The cache directory.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A share.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The stored state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node takes its secret from a file, which a token cannot change.
    #[error(
        "this node takes its secret from {}; give it the other cluster's file instead, or start \
         it without --secret-file and join again",
        file.display()
    )]
    SecretFromFile {
        /// The file with the secret.
        file: PathBuf,
    },
    /// The listings of a node stay.
    #[error("cannot forget the entries of the node: {0}")]
    NotForgotten(#[from] NotForgotten),
    /// The node is stopping or has stopped.
    #[error("the node is stopping")]
    Stopping,
}

impl NodeError {
    /// Returns true if the cause of a failed start does not pass by itself: stored data is
    /// unusable, the secret file is missing, or this user may not use a path of the state or the
    /// cache. Returns false for other causes, such as a disk that is mounted later, an address in
    /// use, or a device that fails.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::StateDir { dir, source } => stays_refused(dir, source),
            Self::Trust(error) => match error {
                TrustError::File { path, source, .. } => stays_refused(path, source),
                TrustError::Exposed { .. }
                | TrustError::BadFile { .. }
                | TrustError::NoSecretFile { .. } => true,
                _ => false,
            },
            Self::Cache(error) => match error {
                CacheError::Io { path, source, .. } => stays_refused(path, source),
                CacheError::NewerVersion { .. } | CacheError::NotACache { .. } => true,
                _ => false,
            },
            Self::Store(error) => matches!(error, StoreError::Version { .. }),
            _ => false,
        }
    }
}

impl From<LedgerStopped> for NodeError {
    fn from(_: LedgerStopped) -> Self {
        Self::Stopping
    }
}

/// Describes what is wrong with a state directory, with a remedy if it is known.
fn state_trouble(source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
            "it, or what it is in, is a file; move that away, or name another directory with \
             --state"
                .to_owned()
        }
        _ => with_remedy(source),
    }
}
