//! The calls that need the right to mount: mounting, unmounting, aborting a dead mount, files that
//! the kernel reads by itself.
//!
//! Owns what a mount point must be like, the `mount(2)` call and its options, and the way out of a
//! mount whose daemon is gone. Two make these calls: a daemon that is root, for itself, and the
//! mount broker for one that is not. Takes plain values, gives a descriptor, talks to nobody,
//! starts no program, and never opens anything beneath a mount.
//!
//! After an error nothing is mounted that was not before; a stale mount of ours may have been
//! taken away.

pub mod backing;
mod connection;
mod direct;
mod error;
mod place;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use connection::{AbortSwitch, Connection};
pub use direct::unmount;
pub use error::{MountingError, device_remedy};

/// What the kernel calls our filesystem type in /proc/self/mountinfo.
pub const FILESYSTEM_TYPE: &str = "fuse.p2pfs";

/// Where the kernel's side of a mount is reached.
pub const DEVICE: &str = "/dev/fuse";

/// The largest read in bytes that the kernel may ask: FUSE's default limit of 256 pages
/// (`FUSE_DEFAULT_MAX_PAGES_LIMIT`, fs/fuse/fuse_i.h).
pub const READ_MAX_BYTES: u32 = 1024 * 1024;

/// What is to be mounted where. The mount is always read-only, `nosuid` and `nodev`, and the
/// kernel checks permissions by the attributes that we give.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// The mount point; made if it is missing.
    pub dir: PathBuf,
    /// Whose mount it is.
    pub uid: u32,
    /// The group of the same.
    pub gid: u32,
    /// Whether users other than `uid` may use it (root's mounts; otherwise ignored).
    pub allow_other: bool,
}

/// Another means to unmount, for who may not do it directly.
pub type Unmount = fn(&Path) -> Result<(), MountingError>;

/// Where a mount of ours stands: what is needed to take it away, without the device.
#[derive(Clone, Debug)]
pub struct Standing {
    dir: PathBuf,
    connection: Connection,
    abort: Option<AbortSwitch>,
}

/// Mounts, and gives the /dev/fuse descriptor; the first message on it is FUSE_INIT. Dropping that
/// leaves the mount, dead, in its place. A stale mount of ours in the same place, whose daemon is
/// gone, is cleaned away first, by `otherwise` where that takes another means.
///
/// # Errors
/// [`MountingError`], each naming the place and the remedy; `NoRight` has the place without
/// symbolic links, ready for somebody else to mount there.
pub fn mount(
    request: &MountRequest,
    otherwise: Unmount,
) -> Result<(OwnedFd, Standing), MountingError> {
    let dir = place::prepare(&request.dir, otherwise)?;
    let device = direct::mount(place::stage_for(&dir)?, request)?;
    Ok((device, Standing::at(dir)?))
}

impl Standing {
    /// Ours that was just mounted at this place.
    ///
    /// # Errors
    /// [`MountingError::Vanished`] where there is none.
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

    /// Somebody else's of this number, who alone has the means to end it.
    pub fn of_another(dir: PathBuf, connection: u32) -> Self {
        Self {
            dir,
            connection: Connection(connection),
            abort: None,
        }
    }

    /// The mount point, without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kernel's number of the mount.
    pub fn connection(&self) -> u32 {
        self.connection.0
    }

    /// Lets the kernel read so many bytes ahead; only once FUSE_INIT is answered, which sets it to
    /// the kernel's default of 128 KiB (`VM_READAHEAD_PAGES`, linux/mm.h): little for a network.
    ///
    /// # Errors
    /// Where this process may not; reads are as right without it, only slower.
    pub fn set_read_ahead(&self, bytes: u64) -> io::Result<()> {
        self.connection.set_read_ahead(bytes)
    }

    /// Ends every request that is under way, and leaves the mount, dead, in its place.
    pub fn abort(&self) {
        self.abort.iter().for_each(AbortSwitch::pull);
    }

    /// Whether our mount is still the one that is seen in its place. Where nobody can look, as at a
    /// limit of open files, nothing says that it is gone.
    pub fn is_mounted(&self) -> bool {
        place::connection_at(&self.dir).map_or(true, |seen| seen == Some(self.connection))
    }

    /// What filesystem is seen in its place instead of it; none where nothing is mounted there.
    pub fn covered_by(&self) -> Option<String> {
        let seen = place::mount_at(&self.dir).ok()??;
        let is_ours = seen.filesystem == FILESYSTEM_TYPE && seen.connection == self.connection;
        (!is_ours && seen.filesystem != place::AUTOMOUNT).then_some(seen.filesystem)
    }

    /// Takes the mount out of the tree, and ends every request that is still under way, so that
    /// nobody who waits in it is left standing. Files that are open stay open and fail from now
    /// on. Does nothing where the mount is gone already or another one stands in its place.
    ///
    /// # Errors
    /// [`MountingError::Unmount`] where the kernel refuses.
    pub fn unmount(&self) -> Result<(), MountingError> {
        self.unmount_by(direct::unmount)
    }

    /// The same by another means.
    ///
    /// # Errors
    /// What that means says.
    pub fn unmount_by(&self, unmount: Unmount) -> Result<(), MountingError> {
        let detached = if self.is_mounted() {
            unmount(&self.dir)
        } else {
            Ok(())
        };
        // Where it cannot be aborted, closing the device has the same effect.
        self.abort();
        detached
    }
}
