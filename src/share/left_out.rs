//! What is not shared, why, and what its owner can do about it.

use std::path::PathBuf;

/// How many left-out names a status lists; the rest are only counted.
pub const LEFT_OUT_LIST_MAX: usize = 100;

/// A name that is not shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The absolute path.
    pub path: PathBuf,
    /// Why it is left out.
    pub why: LeftOutWhy,
    /// What its owner can do, as one line; empty where nothing helps.
    pub remedy: String,
}

/// Why a name is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum LeftOutWhy {
    /// A file without o+r, or a directory without o+r and o+x.
    #[error("others may not read it")]
    Private,
    /// This process may not read it, or reading failed.
    #[error("it cannot be read")]
    Unreadable,
    /// A fifo, socket or device; never opened.
    #[error("it is a fifo, a socket or a device")]
    Special,
    /// A symbolic link that leaves the share.
    #[error("the link leads out of the share")]
    LinkOut,
    /// A symbolic link that leads to itself, or a directory that contains itself.
    #[error("it leads back to itself")]
    Loop,
    /// A name or path that the namespace cannot carry.
    #[error("its path is too long or is the mount's own name")]
    BadName,
    /// A mount of p2pfs, or a directory of the node's own.
    #[error("it is a mount of p2pfs or this node's own state")]
    OwnMount,
}

impl LeftOutWhy {
    /// What the owner of `path` can do.
    pub(super) fn remedy(self, path: &std::path::Path, directory: bool) -> String {
        match self {
            Self::Private => {
                let mode = if directory { "o+rx" } else { "o+r" };
                format!(
                    "chmod {mode} '{}', or include_private = true",
                    path.display()
                )
            }
            Self::Unreadable => "let the daemon's user read it".to_owned(),
            Self::LinkOut => "share what it points to, or make it relative".to_owned(),
            Self::BadName => "rename it".to_owned(),
            Self::Special | Self::Loop | Self::OwnMount => String::new(),
        }
    }

    /// Whether its owner is told at once; the common, intended case is only listed.
    pub(super) const fn warns(self) -> bool {
        !matches!(self, Self::Private)
    }
}
