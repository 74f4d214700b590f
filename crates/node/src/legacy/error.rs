//! Why the bytes of a legacy peer's file do not come, and whose fault that is.

use p2pfs_fs::FsError;
use p2pfs_legacy::discovery::Offence;
use p2pfs_legacy::net::discovery::LegacyError;

/// Why a copy has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The transfer failed; another may not.
    #[error("{why}")]
    Transfer {
        /// What happened.
        why: String,
        /// Whose fault it is, where it is the peer's.
        offence: Option<Offence>,
    },
    /// The peer says that it does not give the file.
    #[error("the legacy peer does not give it any more")]
    Refused,
    /// It does not fit.
    #[error("no room in the cache for its {size_bytes} bytes")]
    NoRoom {
        /// How many are needed.
        size_bytes: u64,
    },
    /// `COPIES_MAX` are open.
    #[error("too many files of legacy peers are open")]
    Busy,
    /// The local disk.
    #[error("the cache's disk: {0}")]
    Disk(String),
}

impl CopyError {
    /// As a program on the mount is told.
    pub(super) fn as_fs_error(&self) -> FsError {
        match self {
            Self::Transfer { .. } => FsError::Unreachable,
            Self::Refused => FsError::NotFound,
            Self::NoRoom { .. } => FsError::NoRoom,
            Self::Busy => FsError::TooManyHandles,
            Self::Disk(_) => FsError::Disk,
        }
    }

    /// The transfer ended before its time.
    pub(super) fn interrupted(why: &str) -> Self {
        Self::Transfer {
            why: why.to_owned(),
            offence: None,
        }
    }

    /// Whether another peer could do better.
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

/// What a peer did wrong, where it is not just out of reach or without the file.
pub(super) fn offence(error: &LegacyError) -> Option<Offence> {
    match error {
        LegacyError::Unreachable { .. } | LegacyError::NotThere { .. } => None,
        LegacyError::Header { .. } => Some(Offence::WrongHeader),
        LegacyError::Early { .. } => Some(Offence::EarlyEnd),
        LegacyError::Surplus { .. } => Some(Offence::Surplus),
        LegacyError::TooSlow { .. } => Some(Offence::TooSlow),
    }
}
