//! The calls that need privilege: mounting, unmounting, aborting a dead mount.
//!
//! Owns what a mount point must be like, the `mount(2)` call and its options, and the way out of a
//! mount whose daemon is gone. Knows nothing of ours: it takes plain values and gives a
//! descriptor, so that a separate process can serve the same calls. It never opens anything
//! beneath a mount.
//!
//! After an error nothing is mounted that was not before; a stale mount of ours may have been
//! taken away.

mod connection;
mod direct;
mod error;
mod fusermount;
mod place;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use connection::AbortSwitch;
pub use connection::Connection;
pub use error::BrokerError;

/// What the kernel calls our filesystem type in /proc/self/mountinfo.
pub const FILESYSTEM_TYPE: &str = "fuse.p2pfs";

/// The largest read in bytes that the kernel may ask: FUSE's default limit of 256 pages
/// (`FUSE_DEFAULT_MAX_PAGES_LIMIT`, fs/fuse/fuse_i.h).
pub const MAX_READ_BYTES: u32 = 1024 * 1024;

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

/// A mount that stands. Dropping it closes the device and leaves the mount, dead, in its place.
#[derive(Debug)]
pub struct Mounted {
    /// The /dev/fuse descriptor; the first message on it is FUSE_INIT.
    pub device: OwnedFd,
    /// How to take the mount away again.
    pub seat: Seat,
}

/// Where a mount stands: what is needed to take it away, without the device.
#[derive(Clone, Debug)]
pub struct Seat {
    dir: PathBuf,
    connection: Connection,
    abort: Option<AbortSwitch>,
    means: Means,
}

/// How a mount was made, and so how it is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Direct,
    Fusermount,
}

/// Mounts. A stale mount of ours in the same place, whose daemon is gone, is cleaned away first.
///
/// `mount(2)` is tried first; without the right to it, `fusermount3` is.
///
/// # Errors
/// [`BrokerError`], each naming the place and the remedy.
pub fn mount(request: &MountRequest) -> Result<Mounted, BrokerError> {
    let dir = place::prepare(&request.dir)?;
    let (device, means) = match direct::mount(&dir, request) {
        Ok(device) => (device, Means::Direct),
        Err(BrokerError::NoRight { .. }) => (fusermount::mount(&dir, request)?, Means::Fusermount),
        Err(error) => return Err(error),
    };
    let Some(connection) = place::connection_at(&dir)? else {
        return Err(BrokerError::Vanished { dir });
    };
    let abort = connection.abort_switch();
    let seat = Seat {
        dir,
        connection,
        abort,
        means,
    };
    Ok(Mounted { device, seat })
}

impl Seat {
    /// The mount point, without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets the kernel read so many bytes ahead; only once FUSE_INIT is answered, which sets it to
    /// the kernel's default of 128 KiB (`VM_READAHEAD_PAGES`, linux/mm.h): little for a network.
    ///
    /// # Errors
    /// Where this process may not; reads are as right without it, only slower.
    pub fn set_read_ahead(&self, bytes: u64) -> std::io::Result<()> {
        self.connection.set_read_ahead(bytes)
    }

    /// Whether our mount is still the one that is seen in its place.
    pub fn is_mounted(&self) -> bool {
        matches!(place::connection_at(&self.dir), Ok(Some(here)) if here == self.connection)
    }

    /// Takes the mount out of the tree, and ends every request that is still under way, so that
    /// nobody who waits in it is left standing. Files that are open stay open and fail from now
    /// on. Does nothing where the mount is gone already or another one stands in its place.
    ///
    /// # Errors
    /// [`BrokerError::Unmount`] where the kernel refuses.
    pub fn unmount(&self) -> Result<(), BrokerError> {
        let detached = match self.means {
            _ if !self.is_mounted() => Ok(()),
            Means::Direct => direct::unmount(&self.dir),
            Means::Fusermount => fusermount::unmount(&self.dir),
        };
        // Where it cannot be aborted, closing the device has the same effect.
        self.abort.iter().for_each(AbortSwitch::pull);
        detached
    }
}
