//! Errors of the filesystem, and the errno that a program gets for each.
//!
//! [`FsError::errno`] is the only place that selects an errno.

use std::io;

/// Reason why a call on the filesystem failed. The text says which side is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FsError {
    /// No node has the name. The caller may retry after the namespace has changed.
    #[error("no node knows this name")]
    NotFound,
    /// The caller's name exceeds the maximum length.
    #[error("the name is too long")]
    NameTooLong,
    /// The caller used a file or link as a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The caller used a directory as a file.
    #[error("is a directory")]
    IsADirectory,
    /// The caller asked for the target of an inode other than a symbolic link.
    #[error("not a symbolic link")]
    NotALink,
    /// The caller tried to write where this node has no writable share.
    #[error("this node has no writable share here")]
    ReadOnly,
    /// The name exists already.
    #[error("the name exists")]
    Exists,
    /// The caller tried to remove or replace a directory that is not empty.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The operation is not possible for this object: a hard link, a change of the owner, or the
    /// removal of a file that another node does not let others remove.
    #[error("not permitted")]
    NotPermitted,
    /// Another node owns the path, or the copy of a file for some readers would be for all.
    #[error("another node decides about this path")]
    OthersPath,
    /// A rename leads to another share, or the directory has files of other nodes. The caller must
    /// copy.
    #[error("a rename would lead to another share, or move files of other nodes")]
    OtherShare,
    /// The object is in use as the place of a writable share.
    #[error("a writable share is here")]
    InUse,
    /// The file of another node is too large to be copied before a change.
    #[error("the file is too large to be copied before the change")]
    TooLarge,
    /// The caller's arguments are invalid.
    #[error("invalid arguments")]
    Invalid,
    /// The log of this node has no room for a further deletion.
    #[error("the log has no room for a further deletion")]
    TooManyDeletions,
    /// The disk of the writable share refused the operation with this errno.
    #[error("the disk of the writable share refused it (errno {0})")]
    Refused(i32),
    /// No holder of the missing bytes is reachable. A later retry may succeed.
    #[error("no holder of the missing bytes is reachable")]
    Unreachable,
    /// The deadline passed before the bytes arrived. A later retry may succeed.
    #[error("the bytes did not come before the deadline")]
    DeadlinePassed,
    /// The received bytes do not match the file's hash, and no other node has the file.
    #[error("the bytes that came do not fit the file's hash")]
    Unverified,
    /// No node has the opened version any longer, or no inode has the number. Opening the file
    /// again by its name may help.
    #[error("this version of the file is gone")]
    Gone,
    /// The caller was interrupted by a signal.
    #[error("interrupted")]
    Interrupted,
    /// A policy restricts this program to cached bytes.
    #[error("this program is served from the cache only")]
    Denied,
    /// The extended attribute does not exist.
    #[error("no such extended attribute")]
    NoAttribute,
    /// Extended attributes of this kind do not exist on any file. `ls -l` then does not query
    /// further files.
    #[error("no extended attributes of this kind")]
    NoAttributeKind,
    /// The caller's buffer is too small for the extended attribute.
    #[error("the buffer is too small")]
    BufferTooSmall,
    /// The handle or inode in the request is not open. The kernel or p2pfs is at fault.
    #[error("not an open handle")]
    BadHandle,
    /// The maximum number of open files, or of reads that wait for bytes, is reached.
    #[error("too many open files or waiting reads")]
    TooManyHandles,
    /// The user's share of the queries to foreign peers is in use, so this query was not started. A
    /// retry helps.
    #[error("too many names are being asked for")]
    Busy,
    /// The call is not supported. The kernel continues without it.
    #[error("not supported")]
    Unsupported,
    /// A file that can be read only through the cache does not fit into it. This affects files of
    /// foreign peers.
    #[error("no room in the cache")]
    NoRoom,
    /// The local disk failed under the cache or a share.
    #[error("the local disk failed")]
    Disk,
    /// The mount is being removed.
    #[error("the mount is going away")]
    Stopping,
    /// An internal fault: a handler panicked or returned less than it promised.
    #[error("internal fault")]
    Fault,
}

impl FsError {
    /// Returns the (positive) errno of the error, as in the table of p2pfs(7). A failed fetch is
    /// EIO, a lost old version is ESTALE, and a write is EROFS.
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::NotALink => libc::EINVAL,
            Self::ReadOnly => libc::EROFS,
            Self::Exists => libc::EEXIST,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NotPermitted => libc::EPERM,
            Self::OthersPath => libc::EACCES,
            Self::OtherShare => libc::EXDEV,
            Self::InUse => libc::EBUSY,
            Self::TooLarge => libc::EFBIG,
            Self::Invalid => libc::EINVAL,
            Self::TooManyDeletions => libc::ENOSPC,
            Self::Refused(errno) => errno,
            Self::Unreachable | Self::DeadlinePassed | Self::Unverified => libc::EIO,
            Self::Gone => libc::ESTALE,
            Self::Interrupted => libc::EINTR,
            Self::Denied => libc::EACCES,
            Self::NoAttribute => libc::ENODATA,
            Self::NoAttributeKind => libc::EOPNOTSUPP,
            Self::BufferTooSmall => libc::ERANGE,
            Self::BadHandle => libc::EBADF,
            Self::TooManyHandles => libc::ENFILE,
            Self::Busy => libc::EAGAIN,
            Self::Unsupported => libc::ENOSYS,
            Self::NoRoom => libc::ENOSPC,
            Self::Stopping => libc::ENOTCONN,
            Self::Disk | Self::Fault => libc::EIO,
        }
    }

    /// Converts an error of the disk of a writable share. It keeps its errno.
    pub(crate) fn of_disk(error: &io::Error) -> Self {
        error.raw_os_error().map_or(Self::Disk, Self::Refused)
    }

    /// Returns whether a failed read is remembered for a short time. The kernel repeats a failed
    /// read page by page, and these repeats are then answered at once.
    pub const fn is_worth_remembering(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::DeadlinePassed | Self::Unverified | Self::Gone
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_bytes_are_eio_and_a_lost_version_is_estale() {
        for error in [
            FsError::Unreachable,
            FsError::DeadlinePassed,
            FsError::Unverified,
        ] {
            assert_eq!(error.errno(), libc::EIO, "{error}");
            assert!(error.is_worth_remembering(), "{error}");
        }
        assert_eq!(FsError::Gone.errno(), libc::ESTALE);
    }

    #[test]
    fn an_interrupt_is_not_remembered_as_a_failure_of_the_file() {
        assert_eq!(FsError::Interrupted.errno(), libc::EINTR);
        assert!(!FsError::Interrupted.is_worth_remembering());
    }
}
