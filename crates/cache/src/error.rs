//! What can go wrong in the cache, and whose fault it is.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use p2pfs_types::digest::{ContentHash, DigestError};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::{is_full, is_want, read_only_remedy};

/// Every failure of the cache. None of them leaves a wrong byte readable: what a failed call did
/// not finish is as if it had not begun.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another daemon works in the directory. The operator chooses; no retry.
    #[error(
        "the cache directory {} is in use by another daemon; stop that one or choose another \
         directory with --cache", dir.display()
    )]
    Locked {
        /// The cache directory.
        dir: PathBuf,
    },
    /// A newer p2pfs wrote the directory. Nothing was changed; the operator chooses.
    #[error(
        "the cache directory {} has format {found}, which this version does not know; install \
         the newer p2pfs or choose another directory with --cache; nothing was deleted",
        dir.display()
    )]
    NewerVersion {
        /// The cache directory.
        dir: PathBuf,
        /// The format number found, as written.
        found: String,
    },
    /// The directory's version file is not ours. Nothing was changed; the operator chooses.
    #[error(
        "{} holds a file named 'version' that is not of a p2pfs cache; choose another directory \
         with --cache", dir.display()
    )]
    NotACache {
        /// The directory.
        dir: PathBuf,
    },
    /// The file system refused. Retrying helps only after its cause is gone.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(path, source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The same hash is cached with another size, so one of the two sizes is a lie; the size of a
    /// file that is open, or whose end was verified, stays. The caller's source is suspect.
    #[error("{hash} is cached as {have_bytes} bytes, but was asked for as {asked_bytes} bytes")]
    SizeConflict {
        /// The content.
        hash: ContentHash,
        /// The size that the cache goes by.
        have_bytes: u64,
        /// The size asked for.
        asked_bytes: u64,
    },
    /// No file has this size and this hash, or the cache cannot hold one so large (see
    /// [`super::FILE_MAX_BYTES`]). The caller's source is at fault.
    #[error("a file of {size_bytes} bytes with the hash {hash} cannot be cached")]
    ImpossibleSize {
        /// The content.
        hash: ContentHash,
        /// The size claimed.
        size_bytes: u64,
    },
    /// The verified range is not in one piece, or not of this file. A defect of the caller.
    #[error("the range {}..{} does not fit its bytes or its file", range.start, range.end)]
    BadShape {
        /// The range claimed.
        range: ByteRange,
    },
    /// The range is not wholly in the cache, so it cannot be proven to others.
    #[error("the range {}..{} is not in the cache", range.start, range.end)]
    NotCached {
        /// The range asked for.
        range: ByteRange,
    },
    /// The bytes on our disk no longer match the hash. They are dropped and fetched anew; nobody
    /// was served them.
    #[error("the cached bytes of {hash} no longer match; the damaged part was dropped")]
    Damaged {
        /// The content.
        hash: ContentHash,
    },
    /// More pins than [`super::PINS_MAX`]. Unpin something first.
    #[error("no more than {} files can be pinned", super::PINS_MAX)]
    TooManyPins,
    /// A range that is not within the file, or a proof that cannot be made.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl CacheError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Whether it was this process's want alone: the same call may succeed a moment later.
    pub fn is_want(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_want(source))
    }

    /// Whether the disk has no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

/// What to do about what the file system said, where that is clear.
fn remedy(path: &Path, source: &io::Error) -> Cow<'static, str> {
    let remedy = match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            let remedy = read_only_remedy();
            return format!("; {remedy}, or choose another directory with --cache").into();
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "; move that file away, or choose another directory with --cache"
        }
        io::ErrorKind::NotFound if path.parent().is_some_and(|dir| !dir.exists()) => {
            "; its directory is gone: put it back, or restart p2pfs, which makes it anew"
        }
        _ if is_full(source) => "; free some of its disk, or choose another directory with --cache",
        _ => "",
    };
    remedy.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_made_or_written_says_what_to_do() {
        let said = |kind: io::ErrorKind| {
            CacheError::io("lock", "/var/cache/p2pfs/lock", kind.into()).to_string()
        };
        assert!(said(io::ErrorKind::ReadOnlyFilesystem).contains("make its filesystem writable"));
        assert!(said(io::ErrorKind::AlreadyExists).contains("move that file away"));
        assert!(!said(io::ErrorKind::Interrupted).contains(';'));
    }
}
