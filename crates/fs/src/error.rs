//! What can go wrong in the filesystem, and the errno that a program sees for it.
//!
//! [`FsError::errno`] is the only place where an errno is chosen. After any of these the
//! filesystem is as it was before the call.

/// Why a call on the filesystem failed, and whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FsError {
    /// No node knows the name. The caller may retry when the namespace has changed.
    #[error("no node knows this name")]
    NotFound,
    /// The caller's name is longer than a name can be.
    #[error("the name is too long")]
    NameTooLong,
    /// The caller used a file or link as a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The caller used a directory as a file.
    #[error("is a directory")]
    IsADirectory,
    /// The caller asked for the target of what is no symbolic link.
    #[error("not a symbolic link")]
    NotALink,
    /// The caller wanted to change something: a p2pfs folder is only changed through its shares.
    #[error("the folder is read-only")]
    ReadOnly,
    /// No holder of the missing bytes is reachable; retrying later may help.
    #[error("no holder of the missing bytes is reachable")]
    Unreachable,
    /// The deadline passed before the bytes came; retrying later may help.
    #[error("the bytes did not come before the deadline")]
    DeadlinePassed,
    /// The bytes that came are not the file's, and nobody else has it.
    #[error("the bytes that came do not fit the file's hash")]
    Unverified,
    /// The old version that is open is nowhere to be had any more. Opening anew helps.
    #[error("this version of the file is gone")]
    Gone,
    /// A signal came for the caller.
    #[error("interrupted")]
    Interrupted,
    /// By policy this program is served from the cache only.
    #[error("this program is served from the cache only")]
    Denied,
    /// There is no such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// There are no extended attributes of that kind at all. `ls -l` then asks no further file.
    #[error("no extended attributes of this kind")]
    NoAttributeKind,
    /// The caller's buffer is too small for the extended attribute.
    #[error("the buffer is too small")]
    BufferTooSmall,
    /// The caller gave a handle or inode that is not open: the kernel's fault or ours.
    #[error("not an open handle")]
    BadHandle,
    /// As many files are open as there may be.
    #[error("too many open files")]
    TooManyHandles,
    /// So many names are being asked of legacy peers that this one had no turn. Retrying helps.
    #[error("too many names are being asked for")]
    Busy,
    /// The call has no meaning here; the kernel then does without it.
    #[error("not supported")]
    Unsupported,
    /// What can be read only from the cache does not fit into it: a legacy peer's file.
    #[error("no room in the cache")]
    NoRoom,
    /// The local disk failed under the cache or a share.
    #[error("the local disk failed")]
    Disk,
    /// The mount is going away.
    #[error("the mount is going away")]
    Stopping,
    /// A fault of ours: a handler panicked or gave less than it promised.
    #[error("internal fault")]
    Fault,
}

impl FsError {
    /// The errno (positive) of each failure, after the table in p2pfs(7): every way in which
    /// bytes do not come is EIO, an old version that is gone ESTALE, a write EROFS.
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::NotALink => libc::EINVAL,
            Self::ReadOnly => libc::EROFS,
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

    /// Whether a failed read is remembered for a moment, so that the kernel's repeats of it, page
    /// by page, are answered at once.
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
    fn bytes_that_do_not_come_are_eio_and_a_lost_version_is_estale() {
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
    fn an_interrupt_is_never_remembered_as_a_failure_of_the_file() {
        assert_eq!(FsError::Interrupted.errno(), libc::EINTR);
        assert!(!FsError::Interrupted.is_worth_remembering());
    }
}
