//! Requests that change the filesystem.
//!
//! The kernel has applied the umask to the modes, because `FUSE_DONT_MASK` is off.

use super::{IN_HEADER_BYTES, RequestHeader, opcode, u32_at, u64_at};
use p2pfs_fs::{FsError, NewAttributes, NewTime, Timestamp};
use p2pfs_types::extent::ByteRange;

/// Bits of `fuse_setattr_in.valid` (`FATTR_…`). Those for atime and ctime have no effect here, and
/// `FATTR_KILL_SUIDGID` has none because no file has these bits.
mod valid {
    pub(super) const MODE: u32 = 1;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const HANDLE: u32 = 1 << 6;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
}

/// Bit of `fuse_write_in.write_flags` for pages that were changed through a mapping.
const FROM_PAGES: u32 = 1;
/// Bit of `fuse_fsync_in.fsync_flags`.
const ONLY_DATA: u32 = 1;

/// A request that changes the filesystem, or makes changes durable. Names and bytes borrow from the
/// message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ChangeRequest<'a> {
    SetAttributes(NewAttributes),
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MakeNode {
        name: &'a [u8],
        mode: u32,
    },
    MakeDirectory {
        name: &'a [u8],
        mode: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RemoveDirectory {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Open {
        flags: i32,
    },
    Create {
        name: &'a [u8],
        mode: u32,
        flags: i32,
    },
    Write {
        handle: u64,
        offset: u64,
        bytes: &'a [u8],
        flags: i32,
    },
    Allocate {
        handle: u64,
        range: ByteRange,
        mode: i32,
    },
    Sync {
        handle: u64,
        only_data: bool,
    },
    SyncDirectory,
}

impl<'a> ChangeRequest<'a> {
    /// Decodes a request with one of the operations in [`opcode::CHANGING`], or an OPEN.
    ///
    /// # Errors
    /// The errno of a request that is always refused, and EIO for a short message.
    pub(crate) fn parse(header: &RequestHeader, message: &'a [u8]) -> Result<Self, FsError> {
        match header.opcode {
            opcode::LINK => Err(FsError::NotPermitted),
            // After one ENOSYS the kernel never sends these again. The program gets EOPNOTSUPP, and
            // for a copy the kernel reads and writes.
            opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::TMPFILE
            | opcode::COPY_FILE_RANGE
            | opcode::COPY_FILE_RANGE_64 => Err(FsError::Unsupported),
            operation => {
                let body = message.get(IN_HEADER_BYTES..).unwrap_or(&[]);
                Self::decode(operation, body).ok_or(FsError::Fault)
            }
        }
    }

    fn decode(operation: u32, body: &'a [u8]) -> Option<Self> {
        Some(match operation {
            opcode::SETATTR => Self::SetAttributes(new_attributes(body)?),
            opcode::SYMLINK => {
                let (name, target) = two_names(body)?;
                Self::Symlink { name, target }
            }
            opcode::MKNOD => Self::MakeNode {
                mode: u32_at(body, 0)?,
                name: one_name(body.get(16..)?)?,
            },
            opcode::MKDIR => Self::MakeDirectory {
                mode: u32_at(body, 0)?,
                name: one_name(body.get(8..)?)?,
            },
            opcode::UNLINK => Self::Unlink {
                name: one_name(body)?,
            },
            opcode::RMDIR => Self::RemoveDirectory {
                name: one_name(body)?,
            },
            opcode::RENAME => Self::rename(body, 0, body.get(8..)?)?,
            opcode::RENAME2 => Self::rename(body, u32_at(body, 8)?, body.get(16..)?)?,
            opcode::OPEN => Self::Open {
                flags: u32_at(body, 0)?.cast_signed(),
            },
            opcode::CREATE => Self::Create {
                flags: u32_at(body, 0)?.cast_signed(),
                mode: u32_at(body, 4)?,
                name: one_name(body.get(16..)?)?,
            },
            opcode::WRITE => Self::write(body)?,
            opcode::FALLOCATE => Self::Allocate {
                handle: u64_at(body, 0)?,
                range: ByteRange::at(u64_at(body, 8)?, u64_at(body, 16)?),
                mode: u32_at(body, 24)?.cast_signed(),
            },
            opcode::FSYNC => Self::Sync {
                handle: u64_at(body, 0)?,
                only_data: u32_at(body, 8)? & ONLY_DATA != 0,
            },
            opcode::FSYNCDIR => Self::SyncDirectory,
            _ => return None,
        })
    }

    fn rename(body: &'a [u8], flags: u32, names: &'a [u8]) -> Option<Self> {
        let (name, new_name) = two_names(names)?;
        Some(Self::Rename {
            name,
            new_parent: u64_at(body, 0)?,
            new_name,
            flags,
        })
    }

    /// Decodes `struct fuse_write_in` and the bytes behind it. Changed pages of a mapping have an
    /// offset of their own, even if the file was opened to append.
    fn write(body: &'a [u8]) -> Option<Self> {
        let size_bytes = u32_at(body, 16)? as usize;
        let from_pages = u32_at(body, 20)? & FROM_PAGES != 0;
        let flags = u32_at(body, 32)?.cast_signed();
        Some(Self::Write {
            handle: u64_at(body, 0)?,
            offset: u64_at(body, 8)?,
            bytes: body.get(40..)?.get(..size_bytes)?,
            flags: if from_pages {
                flags & !libc::O_APPEND
            } else {
                flags
            },
        })
    }

    /// Returns whether a signal that the program catches may end the wait. After any other change
    /// the program could not repeat the call, because the change happens nevertheless.
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self, Self::Open { flags } if flags & libc::O_TRUNC == 0)
    }

    /// Returns the names whose entries the request changes, each with its directory. `parent` is
    /// the inode of the request.
    pub(crate) fn names(&self, parent: u64) -> Vec<(u64, &'a [u8])> {
        match *self {
            Self::Symlink { name, .. }
            | Self::MakeNode { name, .. }
            | Self::MakeDirectory { name, .. }
            | Self::Unlink { name }
            | Self::RemoveDirectory { name }
            | Self::Create { name, .. } => vec![(parent, name)],
            Self::Rename {
                name,
                new_parent,
                new_name,
                ..
            } => vec![(parent, name), (new_parent, new_name)],
            _ => Vec::new(),
        }
    }

    /// Returns the request as it is to be carried out if a previous process may have done so
    /// already.
    pub(crate) fn as_repeated(self) -> Self {
        match self {
            Self::Create { name, mode, flags } => Self::Create {
                name,
                mode,
                flags: flags & !libc::O_EXCL,
            },
            // The offset is the end of the file before the first attempt.
            Self::Write {
                handle,
                offset,
                bytes,
                flags,
            } => Self::Write {
                handle,
                offset,
                bytes,
                flags: flags & !libc::O_APPEND,
            },
            other => other,
        }
    }
}

/// Returns whether an OPEN writes or truncates.
pub(crate) fn opens_for_writing(message: &[u8]) -> bool {
    super::open_flags(message).is_some_and(|flags| {
        flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
    })
}

/// Decodes `struct fuse_setattr_in`.
fn new_attributes(body: &[u8]) -> Option<NewAttributes> {
    let asked = u32_at(body, 0)?;
    let mtime = NewTime::At(Timestamp {
        seconds: u64_at(body, 40)?.cast_signed(),
        nanoseconds: u32_at(body, 60)?,
    });
    let mtime = if asked & valid::MTIME_NOW != 0 {
        NewTime::Now
    } else {
        mtime
    };
    let (handle, size_bytes) = (u64_at(body, 8)?, u64_at(body, 16)?);
    let (mode, uid, gid) = (u32_at(body, 68)?, u32_at(body, 76)?, u32_at(body, 80)?);
    let has = |bit: u32| asked & bit != 0;
    Some(NewAttributes {
        size_bytes: has(valid::SIZE).then_some(size_bytes),
        mtime: has(valid::MTIME).then_some(mtime),
        mode: has(valid::MODE).then_some(mode),
        uid: has(valid::UID).then_some(uid),
        gid: has(valid::GID).then_some(gid),
        handle: has(valid::HANDLE).then_some(handle),
    })
}

/// Splits a name with its NUL from what follows.
fn split_name(names: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = names.iter().position(|byte| *byte == 0)?;
    Some((&names[..end], &names[end + 1..]))
}

fn one_name(names: &[u8]) -> Option<&[u8]> {
    Some(split_name(names)?.0)
}

fn two_names(names: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = split_name(names)?;
    Some((first, one_name(rest)?))
}

#[cfg(test)]
mod tests;
