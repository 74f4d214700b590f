//! Why a daemon ends by itself, and whether another start may succeed.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::logging::LogError;
use crate::daemon::control::ControlError;
use p2pfs_fuse::MountError;
use p2pfs_node::NodeError;
use p2pfs_types::files::stays_refused;

/// Why the daemon stopped without being told to: one line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log cannot start.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node cannot start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The folder cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The shares added by command cannot be read.
    #[error("cannot read the shares kept in {}: {source}; {}", .dir.display(), mend(.source))]
    Saved {
        /// The state directory.
        dir: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The system refuses a basic operation.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
}

impl RunError {
    /// Returns whether every further start fails in the same way until the user corrects the cause.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Node(error) => error.is_permanent(),
            Self::Saved { dir, source } => {
                source.kind() == ErrorKind::InvalidData || stays_refused(dir, source)
            }
            Self::Log(_) | Self::Mount(_) | Self::Control(_) | Self::System { .. } => false,
        }
    }
}

/// Returns the remedy for saved shares that cannot be read.
fn mend(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotADirectory => "name a directory with --state",
        _ => "mend or remove shares.toml there",
    }
}
