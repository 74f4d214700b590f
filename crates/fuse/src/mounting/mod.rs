//! Calls that require the permission to mount: mounting, unmounting, aborting a dead mount, and
//! registering passthrough files.
//!
//! The module owns the requirements for a mount point, the calls that mount and their options, and
//! the cleanup of a mount whose daemon is gone. Two processes have this permission: a daemon that runs
//! as root, and the mount broker for a daemon that does not. The module takes plain values and
//! returns a descriptor. It does not communicate, starts no program, and never opens anything
//! beneath a mount.
//!
//! A failed call leaves no new mount that works. It may have removed a stale p2pfs mount.

pub mod backing;
mod connection;
mod direct;
mod error;
mod place;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use connection::{AbortSwitch, FuseConnection};
pub use direct::unmount;
pub use error::{MountingError, device_remedy};

/// Name of the filesystem type in /proc/self/mountinfo.
pub const FILESYSTEM_TYPE: &str = "fuse.p2pfs";

/// Device through which the kernel is reached.
pub const DEVICE: &str = "/dev/fuse";

/// Maximum size of a read in bytes: the default FUSE limit of 256 pages
/// (`FUSE_DEFAULT_MAX_PAGES_LIMIT`, fs/fuse/fuse_i.h).
pub const READ_MAX_BYTES: u32 = 1024 * 1024;

/// Parameters of a mount. The mount is always `nosuid` and `nodev`, read-only at first, and the
/// kernel checks permissions by the attributes of the files.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// Mount point; created if it is missing.
    pub dir: PathBuf,
    /// User that owns the mount.
    pub uid: u32,
    /// Group that owns the mount.
    pub gid: u32,
    /// Whether users other than `uid` may access the mount (only for root; otherwise ignored).
    pub allow_other: bool,
}

/// Alternative unmount function, for processes that may not unmount directly.
pub type Unmount = fn(&Path) -> Result<(), MountingError>;

/// Location of a p2pfs mount, with the means to unmount it without the device.
#[derive(Clone, Debug)]
pub struct MountLocation {
    dir: PathBuf,
    connection: FuseConnection,
    abort: Option<AbortSwitch>,
}

/// Mounts and returns the /dev/fuse descriptor, on which the first message is FUSE_INIT. Dropping
/// the descriptor leaves a dead mount in place. A stale p2pfs mount at the same place, whose daemon
/// is gone, is removed first, with `otherwise` if the direct unmount fails.
///
/// # Errors
/// [`MountingError`], with the place and the remedy. `NoRight` has the place without symbolic
/// links, ready for another process to mount there.
pub fn mount(
    request: &MountRequest,
    otherwise: Unmount,
) -> Result<(OwnedFd, MountLocation), MountingError> {
    let point = place::prepare(&request.dir, otherwise)?;
    let dir = point.dir().to_owned();
    let device = direct::mount(point.target()?, &dir, request)?;
    let location = MountLocation::at(dir).inspect_err(|_| point.take_away())?;
    Ok((device, location))
}

impl MountLocation {
    /// Locates the p2pfs mount that was just made at this place.
    ///
    /// # Errors
    /// [`MountingError::Vanished`] if there is none.
    pub fn at(dir: PathBuf) -> Result<Self, MountingError> {
        let Some(connection) = place::connection_at(&dir)? else {
            return Err(MountingError::Vanished { dir });
        };
        let abort = connection.abort_switch();
        Ok(Self {
            dir,
            connection,
            abort,
        })
    }

    /// Describes a mount of another process, which alone can end it.
    pub fn of_another(dir: PathBuf, connection: u32) -> Self {
        Self {
            dir,
            connection: FuseConnection(connection),
            abort: None,
        }
    }

    /// Returns the mount point without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the connection number of the mount.
    pub fn connection(&self) -> u32 {
        self.connection.0
    }

    /// Sets the read-ahead of the kernel in bytes. Takes effect only after the answer to FUSE_INIT,
    /// which sets the kernel's default of 128 KiB (`VM_READAHEAD_PAGES`, linux/mm.h). That is
    /// little for a network.
    ///
    /// # Errors
    /// If this process lacks the permission. Reads are correct without it, only slower.
    pub fn set_read_ahead(&self, bytes: u64) -> io::Result<()> {
        self.connection.set_read_ahead(bytes)
    }

    /// Makes the file system writable or read-only, for all its mounts.
    ///
    /// # Errors
    /// [`MountingError::Remount`], for example if a program has a file open for writing and the
    /// mount is to be read-only. [`MountingError::Vanished`] if the mount is gone.
    pub fn set_writable(&self, is_writable: bool) -> Result<(), MountingError> {
        let (mount, at) = place::present(&self.dir, self.connection)?;
        if mount.is_read_only != is_writable {
            return Ok(());
        }
        direct::set_writable(&at.path, is_writable).map_err(|why| MountingError::Remount {
            dir: self.dir.clone(),
            is_writable,
            why: why.into(),
        })
    }

    /// Returns whether the mount is there and its file system is read-only.
    pub fn is_read_only(&self) -> bool {
        let present = place::present(&self.dir, self.connection);
        present.is_ok_and(|(mount, _)| mount.is_read_only)
    }

    /// Ends all requests in flight and leaves a dead mount in place. Has no effect if the control
    /// file was not accessible.
    pub fn abort(&self) {
        self.abort.iter().for_each(AbortSwitch::pull);
    }

    /// Returns whether this mount is still the visible one at its place. If the check fails, for
    /// example at a limit of open files, the mount counts as present.
    pub fn is_mounted(&self) -> bool {
        place::connection_at(&self.dir).map_or(true, |seen| seen == Some(self.connection))
    }

    /// Returns the type of another filesystem that is visible at the place instead, if any.
    pub fn covered_by(&self) -> Option<String> {
        let seen = place::mount_at(&self.dir).ok()??;
        let is_ours = seen.filesystem == FILESYSTEM_TYPE && seen.connection == self.connection;
        (!is_ours && seen.filesystem != place::AUTOMOUNT).then_some(seen.filesystem)
    }

    /// Detaches the mount and ends all requests in flight, so that no process keeps waiting in it.
    /// Open files stay open and fail from now on. Has no effect if the mount is gone or another one
    /// is in its place.
    ///
    /// # Errors
    /// [`MountingError::Unmount`] if the kernel refuses.
    pub fn unmount(&self) -> Result<(), MountingError> {
        self.unmount_by(direct::unmount)
    }

    /// Unmounts with another function, otherwise as [`MountLocation::unmount`].
    ///
    /// # Errors
    /// The error of that function.
    pub fn unmount_by(&self, unmount: Unmount) -> Result<(), MountingError> {
        let detached = if self.is_mounted() {
            unmount(&self.dir)
        } else {
            Ok(())
        };
        // If it cannot be aborted, closing the device has the same effect.
        self.abort();
        detached
    }
}
