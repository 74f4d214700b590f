//! Why something could not be done with a file of the namespace.

use std::path::PathBuf;

use p2pfs_cache::CacheError;
use p2pfs_fetch::TransferError;
use p2pfs_fs::FsError;
use p2pfs_types::path::SharedPath;

/// A failure about one name. The node is as it was before, but for bytes that came: those stay in
/// the cache.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No node shares the name; one that begins later may.
    #[error("{path}: no node shares such a name")]
    NotFound { path: SharedPath },
    /// It is a link, or leads over one, to what no node shares, or out of the namespace.
    #[error(
        "{path} is a link to nothing: no node shares {}",
        String::from_utf8_lossy(target)
    )]
    LinkToNothing {
        path: SharedPath,
        /// Where the link that fails leads, as it is written.
        target: Box<[u8]>,
    },
    /// It is a directory or a link, where a file was wanted; or no directory, where one was.
    #[error("{path} is {what}")]
    WrongKind {
        path: SharedPath,
        /// What it is.
        what: &'static str,
    },
    /// More links lead to each other than anyone follows; they may be a ring.
    #[error("{path}: too many links one after another")]
    TooManyLinks { path: SharedPath },
    /// Its bytes could not be read; the inner error says whose fault it is.
    #[error("{path}: {source}")]
    Unreadable { path: SharedPath, source: FsError },
    /// It could not be brought into the cache.
    #[error("{path}: {source}")]
    NotFetched {
        path: SharedPath,
        source: TransferError,
    },
    /// The cache refuses to keep it.
    #[error("{path}: {source}")]
    NotKept {
        path: SharedPath,
        source: CacheError,
    },
    /// The cache cannot hold that much beside what is pinned or open. A larger budget helps.
    #[error("{path}: the cache has no room for the {bytes} bytes that it takes there")]
    NoRoom {
        /// What was to be kept.
        path: SharedPath,
        /// How much that is.
        bytes: u64,
    },
    /// More files in one call than [`super::FILES_MAX`]; name fewer directories.
    #[error("more than {} files in one call", super::FILES_MAX)]
    TooMany,
    /// A local file could not be written.
    #[error("cannot write {}: {source}", file.display())]
    Local {
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
