//! Errors of operations on files of the namespace.

use std::path::PathBuf;

use p2pfs_content::cache::CacheError;
use p2pfs_fetch::TransferError;
use p2pfs_fs::FsError;
use p2pfs_types::path::SharedPath;

/// A failure of an operation on a name. Bytes that have arrived may stay in the cache.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No node shares the name. A node that starts later may share it.
    #[error("{path}: no node shares such a name")]
    NotFound {
        /// The requested path.
        path: SharedPath,
    },
    /// The path is or contains a link whose target is outside of the namespace or is not shared by
    /// any node.
    #[error(
        "{path} is a link to nothing: no node shares {}",
        String::from_utf8_lossy(target)
    )]
    LinkToNothing {
        /// The requested path.
        path: SharedPath,
        /// The target of that link, as stored in the link.
        target: Box<[u8]>,
    },
    /// The operation needs a file and the path is a directory or a link, or it needs a directory
    /// and the path is not one.
    #[error("{path} is {what}")]
    WrongKind {
        /// The requested path.
        path: SharedPath,
        /// The actual kind.
        what: &'static str,
    },
    /// The path leads through more than 40 links. The links may form a loop.
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
    /// The cache failed to pin or unpin the file.
    #[error("{path}: {source}")]
    NotKept {
        /// The requested path.
        path: SharedPath,
        /// The error of the cache.
        source: CacheError,
    },
    /// The cache has no room for this many additional bytes, even if everything evictable were
    /// evicted. Its budget or its disk is too small.
    #[error("{path}: the cache has no room for the {bytes} bytes that it takes there")]
    NoRoom {
        /// The path to be pinned.
        path: SharedPath,
        /// The room needed, in bytes.
        bytes: u64,
    },
    /// The call covers more than [`super::FILES_MAX`] files. Call it for smaller directories.
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
