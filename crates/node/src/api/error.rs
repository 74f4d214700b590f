//! Errors of operations on files of the namespace.

use std::path::PathBuf;

use p2pfs_cache::CacheError;
use p2pfs_fetch::TransferError;
use p2pfs_fs::FsError;
use p2pfs_types::path::SharedPath;

/// A failure about one name. The node is in the state before the call, except that bytes that
/// arrived stay in the cache.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No node shares the name. A node that starts later may share it.
    #[error("{path}: no node shares such a name")]
    NotFound {
        /// The requested path.
        path: SharedPath,
    },
    /// The path is a link, or leads through one, whose target no node shares or is outside of the
    /// namespace.
    #[error(
        "{path} is a link to nothing: no node shares {}",
        String::from_utf8_lossy(target)
    )]
    LinkToNothing {
        /// The requested path.
        path: SharedPath,
        /// The target of the failing link, as it is written.
        target: Box<[u8]>,
    },
    /// The path is a directory or a link where a file is needed, or is not a directory where one is
    /// needed.
    #[error("{path} is {what}")]
    WrongKind {
        /// The requested path.
        path: SharedPath,
        /// The actual kind.
        what: &'static str,
    },
    /// The path leads through more links than are followed. The links may form a loop.
    #[error("{path}: too many links one after another")]
    TooManyLinks {
        /// The requested path.
        path: SharedPath,
    },
    /// The bytes could not be read. The inner error states the cause.
    #[error("{path}: {source}")]
    Unreadable {
        /// The requested path.
        path: SharedPath,
        /// The error of the read.
        source: FsError,
    },
    /// The file could not be fetched into the cache.
    #[error("{path}: {source}")]
    NotFetched {
        /// The requested path.
        path: SharedPath,
        /// The error of the fetch.
        source: TransferError,
    },
    /// The cache failed to pin the file.
    #[error("{path}: {source}")]
    NotKept {
        /// The requested path.
        path: SharedPath,
        /// The error of the cache.
        source: CacheError,
    },
    /// The cache has no room for this many bytes beside what is pinned or open. A larger budget
    /// helps.
    #[error("{path}: the cache has no room for the {bytes} bytes that it takes there")]
    NoRoom {
        /// The path to be pinned.
        path: SharedPath,
        /// The room needed, in bytes.
        bytes: u64,
    },
    /// More files in one call than [`super::FILES_MAX`]. Name fewer directories.
    #[error("more than {} files in one call", super::FILES_MAX)]
    TooMany,
    /// A local file could not be written.
    #[error("cannot write {}: {source}", file.display())]
    Local {
        /// The local file.
        file: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
}
