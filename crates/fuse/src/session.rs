//! Session: implements the FUSE protocol behind the device. This is the only module that uses
//! `fuser`.
//!
//! Each handler converts its arguments into one call of the filesystem and one reply. A handler
//! never waits, not even for a disk. A panic in a handler becomes EIO, and the thread continues.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use fuser::{
    AccessFlags, Config, Errno, FileHandle, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request, Session,
    SessionACL,
};

use super::device::TRANSFER_MAX_BYTES;
use p2pfs_fs::{Filesystem, FsError, NAME_MAX_BYTES};

/// Maximum number of read-aheads in flight. With the kernel's default of 12, a dozen read-aheads of
/// an unreachable file would starve all other files.
pub const BACKGROUND_MAX: u16 = 8192;
/// Number of read-aheads in flight at which the kernel considers the mount congested and reduces
/// read-ahead.
const CONGESTION_THRESHOLD: u16 = 6144;
/// Number of threads for the handlers, which work in memory. The device handles operations that may
/// wait for a disk or for foreign peers.
const THREADS: usize = 2;
/// Block size of `statfs`.
const STATFS_BLOCK_BYTES: u32 = 4096;

/// Runs the session on its end of the socket pair until the device closes the other end.
///
/// # Errors
/// If the handshake fails or a thread cannot be started.
pub(super) fn run(pair: OwnedFd, handlers: Handlers) -> io::Result<()> {
    let agreed = handlers.agreed.clone();
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    let session = match Session::from_fd(handlers, pair, SessionACL::All, config) {
        Ok(session) => session,
        Err(error) => {
            let _ = agreed.send(Err(io::Error::new(error.kind(), error.to_string())));
            return Err(error);
        }
    };
    session.run()
}

/// Context of the session.
pub(super) struct Handlers {
    pub fs: Arc<Filesystem>,
    /// Whether the kernel may read complete files by passthrough.
    pub wants_passthrough: bool,
    /// Receives the result of the handshake: whether passthrough is wanted and supported.
    pub agreed: Sender<io::Result<bool>>,
}

/// Calls the filesystem. A panic becomes EIO, so that it does not end the thread of the session.
fn ask<T>(call: impl FnOnce() -> Result<T, FsError>) -> Result<T, Errno> {
    let called = catch_unwind(AssertUnwindSafe(call));
    called.unwrap_or(Err(FsError::Fault)).map_err(errno)
}

fn errno(error: FsError) -> Errno {
    Errno::from_i32(error.errno())
}

impl fuser::Filesystem for Handlers {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let passthrough = agree(config, self.wants_passthrough)?;
        let _ = self.agreed.send(Ok(passthrough));
        Ok(())
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match ask(|| self.fs.inodes.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // After one ENOSYS the kernel never sends FLUSH again, so close and exec never wait for it.
        reply.error(errno(FsError::Unsupported));
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        // The kernel then treats the whole file as data: uncached ranges are not holes.
        reply.error(errno(FsError::Unsupported));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // After one ENOSYS the kernel opens and closes directories by itself, and caches each
        // listing until it is invalidated.
        reply.error(errno(FsError::Unsupported));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match ask(|| Ok(self.fs.namespace.statfs())) {
            Ok(stat) => {
                let unit = u64::from(STATFS_BLOCK_BYTES);
                let used = stat.used_bytes.div_ceil(unit);
                let free = stat.available_bytes / unit;
                let names = u32::try_from(NAME_MAX_BYTES).unwrap_or(u32::MAX);
                let size = STATFS_BLOCK_BYTES;
                let (files, more) = (stat.entries + stat.free_entries, stat.free_entries);
                reply.statfs(used + free, free, free, files, more, size, names, size);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        let value = ask(|| self.fs.inodes.getxattr(ino.0, name.as_bytes()));
        answer_xattr(reply, value, room);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions by the attributes (default_permissions) and never sends
        // ACCESS again.
        reply.error(errno(FsError::Unsupported));
    }
}

/// Negotiates the features with the kernel. Returns whether passthrough is wanted and supported.
fn agree(config: &mut KernelConfig, wants_passthrough: bool) -> io::Result<bool> {
    // Lookups and listings of one directory must not wait for each other, and directories are never
    // opened here (Linux 5.1).
    let required = InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    config.add_capabilities(required).map_err(|missing| {
        io::Error::other(format!(
            "the kernel is too old for this filesystem: no {missing:?}"
        ))
    })?;
    // Not FUSE_ASYNC_DIO: with it, the kernel ignores all signals while it waits for an O_DIRECT
    // read (`fuse_direct_IO`, fs/fuse/file.c).
    // Not FUSE_WRITEBACK_CACHE: with it, the kernel keeps sizes and times of its own, which break
    // appends and files that change on the disk.
    for wanted in [
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        // An open with O_TRUNC is one request, so nothing is copied only to be cut off.
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        // Without it, each write asks for `security.capability` first. No file has such bits.
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        // File handles that outlive the inodes of the kernel, for NFS servers and similar programs.
        InitFlags::FUSE_EXPORT_SUPPORT,
    ] {
        let _ = config.add_capabilities(wanted);
    }
    let most = u32::try_from(TRANSFER_MAX_BYTES).unwrap_or(u32::MAX);
    let _ = config.set_max_write(most);
    if let Err(allowed) = config.set_max_readahead(most) {
        let _ = config.set_max_readahead(allowed);
    }
    let _ = config.set_max_background(BACKGROUND_MAX);
    let _ = config.set_congestion_threshold(CONGESTION_THRESHOLD);
    Ok(wants_passthrough
        && config.set_max_stack_depth(1).is_ok()
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok())
}

/// Replies as getxattr(2) requires: a buffer size of 0 requests the needed size.
fn answer_xattr(reply: ReplyXattr, value: Result<Vec<u8>, Errno>, room: u32) {
    match value {
        Ok(value) if room == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > room as usize => reply.error(errno(FsError::BufferTooSmall)),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_handler_causes_only_an_error() {
        let asked: Result<(), Errno> = ask(|| panic!("a bug"));
        assert_eq!(asked.map_err(i32::from), Err(libc::EIO));
    }
}
