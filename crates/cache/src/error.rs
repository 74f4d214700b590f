//! Errors of the cache and their causes.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use p2pfs_types::digest::{ContentHash, DigestError};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::{is_full, is_want, read_only_remedy};

/// Failure of a cache operation. No failure makes a wrong byte readable.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another daemon uses the directory. The operator must choose; do not retry.
    #[error(
        "the cache directory {} is in use by another daemon; stop that one or choose another \
         directory with --cache", dir.display()
    )]
    Locked {
        /// The cache directory.
        dir: PathBuf,
    },
    /// This version does not know the format of the directory, which a newer one probably wrote.
    /// Nothing was changed; the operator must choose.
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
    /// The version file of the directory is from another program. Nothing was changed; the operator
    /// must choose.
    #[error(
        "{} holds a file named 'version' that is not of a p2pfs cache; choose another directory \
         with --cache", dir.display()
    )]
    NotACache {
        /// The directory.
        dir: PathBuf,
    },
    /// The file system refused an operation. A retry helps only after the cause is gone.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(path, source))]
    Io {
        /// Attempted operation.
        action: &'static str,
        /// Path of the operation.
        path: PathBuf,
        /// Error of the file system.
        source: io::Error,
    },
    /// The same hash is cached with another size, so one of the two sizes is wrong. The cache keeps
    /// its size if the file is open or its end was verified. The source of the requested size is
    /// suspect.
    #[error("{hash} is cached as {have_bytes} bytes, but was asked for as {asked_bytes} bytes")]
    SizeConflict {
        /// Content hash.
        hash: ContentHash,
        /// Size that the cache uses.
        have_bytes: u64,
        /// Requested size.
        asked_bytes: u64,
    },
    /// No file has this size and this hash, or the file is too large for the cache (see
    /// [`super::FILE_MAX_BYTES`]). The source of the claimed size is at fault.
    #[error("a file of {size_bytes} bytes with the hash {hash} cannot be cached")]
    ImpossibleSize {
        /// Content hash.
        hash: ContentHash,
        /// Claimed size.
        size_bytes: u64,
    },
    /// The verified range does not match its bytes, or it or a hash pair is not within this file.
    /// This is a bug of the caller.
    #[error("the range {}..{} does not fit its bytes or its file", range.start, range.end)]
    BadShape {
        /// Claimed range.
        range: ByteRange,
    },
    /// The range is not completely in the cache, so it cannot be proven to peers.
    #[error("the range {}..{} is not in the cache", range.start, range.end)]
    NotCached {
        /// Requested range.
        range: ByteRange,
    },
    /// The bytes on the disk no longer match the hash. The damaged chunks were dropped before the
    /// caller received any of the bytes, and are missing now.
    #[error("the cached bytes of {hash} no longer match; the damaged part was dropped")]
    Damaged {
        /// Content hash.
        hash: ContentHash,
    },
    /// More pins than [`super::PINS_MAX`]. Unpin a file first.
    #[error("no more than {} files can be pinned", super::PINS_MAX)]
    TooManyPins,
    /// The range is not within the file, or the proof cannot be made.
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

    /// Returns whether only a resource of this process was missing. The same call may succeed
    /// shortly after.
    pub fn is_want(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_want(source))
    }

    /// Returns whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

/// Returns a remedy for an error of the file system, or an empty string.
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
            "; its directory is gone: put it back, or restart p2pfs, which creates it"
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
    fn a_directory_that_cannot_be_created_or_written_is_reported_with_a_remedy() {
        let said = |kind: io::ErrorKind| {
            CacheError::io("lock", "/var/cache/p2pfs/lock", kind.into()).to_string()
        };
        assert!(said(io::ErrorKind::ReadOnlyFilesystem).contains("make its filesystem writable"));
        assert!(said(io::ErrorKind::AlreadyExists).contains("move that file away"));
        assert!(!said(io::ErrorKind::Interrupted).contains(';'));
    }
}
