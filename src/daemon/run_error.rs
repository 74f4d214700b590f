//! Why a daemon ends by itself, and whether a next start may go better.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::control::ControlError;
use super::logging::LogError;
use p2pfs_fuse::MountError;
use p2pfs_node::NodeError;
use p2pfs_types::files::stays_refused;

/// Why the daemon stopped other than by being told to: one line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What was kept by command cannot be read.
    #[error("cannot read the shares kept in {}: {source}; {}", .dir.display(), mend(.source))]
    Saved {
        /// The state directory.
        dir: PathBuf,
        source: std::io::Error,
    },
    /// The system refuses something basic.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

impl RunError {
    /// Whether every next start ends in the same until somebody mends something.
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

/// What helps where the shares that were kept cannot be read.
fn mend(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotADirectory => "name a directory with --state",
        _ => "mend or remove shares.toml there",
    }
}
