//! Errors of the store.

use std::io;
use std::path::{Path, PathBuf};

use super::{STORE_VERSION, VALUE_MAX_BYTES};
use p2pfs_catalogue::CatalogueError;
use p2pfs_types::files::with_remedy;

/// The reason why state could not be stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open: two daemons use one state directory.
    #[error(
        "{path} is in use: another p2pfs runs on this state directory; stop it, or give this \
         one its own with --state",
        path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer p2pfs wrote the file.
    #[error(
        "{path} is of version {version}, and this p2pfs reads version {STORE_VERSION}: \
         install the newer p2pfs again, or move the file aside to pull everything anew",
        path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// The file cannot be decoded.
    #[error("{path} is damaged ({why}): move it aside; p2pfs then scans and pulls everything again",
        path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The part that is wrong.
        why: String,
    },
    /// The disk failed; a retry may succeed.
    #[error("cannot read or write {path}: {why}", path = path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        why: String,
    },
    /// The value is longer than [`VALUE_MAX_BYTES`]; an error of the caller.
    #[error("a stored value of {length_bytes} bytes is over the limit of {VALUE_MAX_BYTES}")]
    TooLong {
        /// Length of the value.
        length_bytes: usize,
    },
    /// More nodes are stored than a catalogue can hold.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

impl StoreError {
    /// Returns the error of the disk, with a remedy if it is known.
    pub(super) fn disk(path: &Path, error: &io::Error) -> Self {
        Self::Disk {
            path: path.to_owned(),
            why: with_remedy(error),
        }
    }
}
