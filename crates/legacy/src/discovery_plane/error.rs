//! Errors of transfers from legacy peers, and which of them are the peer's fault.

use crate::discovery::DiscoveryOffence;
use crate::net::discovery::LegacyError;
use p2pfs_fs::FsError;

/// Why the bytes of a legacy peer's file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The transfer failed; another one may succeed.
    #[error("{why}")]
    Transfer {
        /// Description of the failure.
        why: String,
        /// The rule that the peer broke, if the failure is its fault.
        offence: Option<DiscoveryOffence>,
    },
    /// The peer refuses to send the file.
    #[error("the legacy peer does not give it any more")]
    Refused,
    /// The cache has no room for the file.
    #[error("no room in the cache for its {size_bytes} bytes")]
    NoRoom {
        /// Bytes needed.
        size_bytes: u64,
    },
    /// `COPIES_MAX` copies are open.
    #[error("too many files of legacy peers are open")]
    Busy,
    /// The local disk failed.
    #[error("the cache's disk: {0}")]
    Disk(String),
}

impl CopyError {
    /// Returns the error for a program on the mount.
    pub(super) fn as_fs_error(&self) -> FsError {
        match self {
            Self::Transfer { .. } => FsError::Unreachable,
            Self::Refused => FsError::NotFound,
            Self::NoRoom { .. } => FsError::NoRoom,
            Self::Busy => FsError::TooManyHandles,
            Self::Disk(_) => FsError::Disk,
        }
    }

    /// Returns the error of a transfer that ended early.
    pub(super) fn interrupted(why: &str) -> Self {
        Self::Transfer {
            why: why.to_owned(),
            offence: None,
        }
    }

    /// Returns whether the failure is that of the peer, so that another peer may succeed.
    pub fn is_the_peers(&self) -> bool {
        matches!(self, Self::Transfer { .. } | Self::Refused)
    }
}

impl From<LegacyError> for CopyError {
    fn from(error: LegacyError) -> Self {
        if matches!(error, LegacyError::NotThere { .. }) {
            return Self::Refused;
        }
        Self::Transfer {
            why: error.to_string(),
            offence: offence(&error),
        }
    }
}

/// Returns the rule that a peer broke. Returns `None` if the peer is only unreachable or lacks the
/// file.
pub(super) fn offence(error: &LegacyError) -> Option<DiscoveryOffence> {
    match error {
        LegacyError::Unreachable { .. } | LegacyError::NotThere { .. } => None,
        LegacyError::Header { .. } => Some(DiscoveryOffence::WrongHeader),
        LegacyError::Early { .. } => Some(DiscoveryOffence::EarlyEnd),
        LegacyError::Surplus { .. } => Some(DiscoveryOffence::Surplus),
        LegacyError::TooSlow { .. } => Some(DiscoveryOffence::TooSlow),
    }
}
