//! The calls that need privilege: mounting, unmounting, aborting a dead mount.
//!
//! Owns what a mount point must be like, the `mount(2)` call and its options, and the way out of a
//! mount whose daemon is gone. Knows nothing of ours: it takes plain values and gives a
//! descriptor, so that a separate process can serve the same calls. It never opens anything
//! beneath a mount.
//!
//! After an error nothing is mounted that was not before; a stale mount of ours may have been
//! taken away.
//!
//! `process` is that separate process, `client` the daemon's side of it. The process keeps a mount
//! from one daemon to the next; without it a mount ends with its daemon.

pub mod backing;
mod client;
mod connection;
mod direct;
mod error;
mod filter;
mod fusermount;
mod kept;
mod place;
pub mod process;
mod protocol;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use client::{Broker, Held};
use connection::AbortSwitch;
pub use connection::Connection;
pub use error::BrokerError;

/// What the kernel calls our filesystem type in /proc/self/mountinfo.
pub const FILESYSTEM_TYPE: &str = "fuse.p2pfs";

/// The largest read in bytes that the kernel may ask: FUSE's default limit of 256 pages
/// (`FUSE_DEFAULT_MAX_PAGES_LIMIT`, fs/fuse/fuse_i.h).
pub const MAX_READ_BYTES: u32 = 1024 * 1024;

impl Mounted {
    /// Whether another process served it before.
    pub fn is_kept(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.greeting.is_some())
    }
}

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
    /// What the mount broker keeps for it, where one mounted.
    pub held: Option<Held>,
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
#[derive(Clone, Debug)]
enum Means {
    Direct,
    Fusermount,
    Broker(Arc<Broker>),
}

/// The mount broker's socket, unless `P2PFS_BROKER` names another.
pub const BROKER_SOCKET: &str = "/run/p2pfs-broker.sock";

/// Mounts. A stale mount of ours in the same place, whose daemon is gone, is cleaned away first.
///
/// The mount broker is asked first, for a user other than root who has one; then `mount(2)` is
/// tried, and without the right to it, `fusermount3`.
///
/// # Errors
/// [`BrokerError`], each naming the place and the remedy.
pub fn mount(request: &MountRequest) -> Result<Mounted, BrokerError> {
    if let Some(socket) = broker_socket()
        && let Some(broker) = Broker::reach(&socket)?
    {
        return broker.mount(&request.dir);
    }
    match mount_directly(request) {
        Err(BrokerError::NoRight { dir }) => {
            let device = fusermount::mount(&dir, request)?;
            seated(dir, device, Means::Fusermount)
        }
        other => other,
    }
}

/// Mounts with `mount(2)`.
fn mount_directly(request: &MountRequest) -> Result<Mounted, BrokerError> {
    let dir = place::prepare(&request.dir)?;
    let device = direct::mount(place::stage_for(&dir)?, request)?;
    seated(dir, device, Means::Direct)
}

fn seated(dir: PathBuf, device: OwnedFd, means: Means) -> Result<Mounted, BrokerError> {
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
    Ok(Mounted {
        device,
        seat,
        held: None,
    })
}

/// Whether a broker mounts for this process.
pub fn has_broker() -> bool {
    broker_socket().is_some_and(|socket| socket.exists())
}

/// Where the broker for this process would be; root needs none.
fn broker_socket() -> Option<PathBuf> {
    let named = std::env::var_os("P2PFS_BROKER").map(PathBuf::from);
    let is_root = rustix::process::geteuid().is_root();
    named.or_else(|| (!is_root).then(|| PathBuf::from(BROKER_SOCKET)))
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
        match &self.means {
            Means::Broker(broker) => broker.set_read_ahead(bytes),
            Means::Direct | Means::Fusermount => self.connection.set_read_ahead(bytes),
        }
    }

    /// A new mount in place of one that the broker kept and that could not be taken up.
    ///
    /// # Errors
    /// [`BrokerError`] where there is no broker, or in its words.
    pub fn mount_anew(&self) -> Result<Mounted, BrokerError> {
        match &self.means {
            Means::Broker(broker) => broker.mount_anew(),
            Means::Direct | Means::Fusermount => Err(BrokerError::Vanished {
                dir: self.dir.clone(),
            }),
        }
    }

    /// Whether the mount outlives its daemon.
    pub fn outlives_us(&self) -> bool {
        matches!(self.means, Means::Broker(_))
    }

    /// The kernel's number of the mount.
    fn connection(&self) -> Connection {
        self.connection
    }

    /// Ends every request that is under way, and leaves the mount, dead, in its place.
    fn abort(&self) {
        self.abort.iter().for_each(AbortSwitch::pull);
    }

    /// Whether our mount is still the one that is seen in its place.
    pub fn is_mounted(&self) -> bool {
        matches!(place::connection_at(&self.dir), Ok(Some(here)) if here == self.connection)
    }

    /// Takes the mount out of the tree (but a broker's, which is the broker's to take), and ends
    /// every request that is still under way, so that nobody who waits in it is left standing.
    /// Files that are open stay open and fail from now on. Does nothing where the mount is gone
    /// already or another one stands in its place.
    ///
    /// # Errors
    /// [`BrokerError::Unmount`] where the kernel refuses.
    pub fn unmount(&self) -> Result<(), BrokerError> {
        let detached = match self.means {
            _ if !self.is_mounted() => Ok(()),
            Means::Broker(_) => Ok(()),
            Means::Direct => direct::unmount(&self.dir),
            Means::Fusermount => fusermount::unmount(&self.dir),
        };
        // Where it cannot be aborted, closing the device has the same effect.
        self.abort();
        detached
    }
}
