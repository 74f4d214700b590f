//! Mounting and unmounting by this process: through the mount broker, mount(2) or fusermount3.

mod client;
mod fusermount;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use client::{Broker, KeptMountState, Notifiers};
use rustix::fs::Access;

use crate::broker;
use crate::mounting::{self, MountLocation, MountRequest, MountingError};

/// An existing mount. Dropping it closes the device. The mount stays in place, dead unless the
/// broker has the device too.
#[derive(Debug)]
pub(crate) struct AcquiredMount {
    /// The /dev/fuse descriptor. The first message of a new mount is FUSE_INIT.
    pub device: OwnedFd,
    /// Location of the mount and the means to unmount it.
    pub place: MountPlace,
    /// State that the mount broker keeps, if the broker mounted.
    pub held: Option<KeptMountState>,
}

impl AcquiredMount {
    /// Returns whether another process served the mount before.
    pub(crate) fn is_kept(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.greeting.is_some())
    }
}

/// Location of a mount, and the means by which it was made and is unmounted.
#[derive(Clone, Debug)]
pub(crate) struct MountPlace {
    pub(super) standing: MountLocation,
    means: MountMeans,
}

#[derive(Clone, Debug)]
enum MountMeans {
    Direct,
    Fusermount,
    Broker(Arc<Broker>),
}

/// Mounts. A stale p2pfs mount at the same place, whose daemon is gone, is removed first.
///
/// Asks the mount broker if this process has one. Otherwise tries `mount(2)`, and `fusermount3` if
/// the permission is missing.
///
/// The mount is read-only until [`MountPlace::set_writable`]. One of `fusermount3` cannot be changed
/// later, so it is made writable at once if it `may_be_written`.
///
/// # Errors
/// [`MountingError`], with the place and the remedy.
pub(crate) fn mount(
    request: &MountRequest,
    may_be_written: bool,
) -> Result<AcquiredMount, MountingError> {
    if let Some(socket) = broker_socket()
        && let Some(broker) = Broker::reach(&socket)?
    {
        return match broker.mount(&request.dir) {
            // A broker ends if it is asked for a mount point that only the next start may allow.
            // The broker that replaces it may then mount there.
            Err(_) if broker.has_hung_up() => broker.reach_next()?.mount(&request.dir),
            mounted => mounted,
        };
    }
    let (device, standing, means) = match mounting::mount(request, fusermount::unmount) {
        Ok((device, standing)) => (device, standing, MountMeans::Direct),
        Err(MountingError::NoRight { dir }) => {
            let device = fusermount::mount(&dir, may_be_written)?;
            (device, MountLocation::at(dir)?, MountMeans::Fusermount)
        }
        Err(error) => return Err(error),
    };
    let place = MountPlace { standing, means };
    Ok(AcquiredMount {
        device,
        place,
        held: None,
    })
}

/// Returns whether a broker mounts for this process.
pub fn has_broker() -> bool {
    broker_socket().is_some()
}

/// Returns why this process cannot open the device, with a remedy. Returns `None` if it can or if
/// it has a broker.
pub fn device_trouble() -> Option<MountingError> {
    if has_broker() {
        return None;
    }
    let why = open_device().err()?;
    Some(MountingError::NoDevice { why })
}

/// Checks whether this process can open the device.
///
/// # Errors
/// The error of the system, and a remedy.
pub fn check_device() -> Result<(), (std::io::Error, &'static str)> {
    let opened = open_device().map(drop);
    opened.map_err(|why| {
        let remedy = mounting::device_remedy(&why);
        (why, remedy)
    })
}

fn open_device() -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(mounting::DEVICE)
}

/// Returns the broker socket of this process; root needs none. A socket without write permission,
/// which connect(2) requires, belongs to another user, such as the system service.
fn broker_socket() -> Option<PathBuf> {
    let socket = match std::env::var_os("P2PFS_BROKER") {
        Some(none) if none.is_empty() => return None,
        Some(named) => PathBuf::from(named),
        None if rustix::process::geteuid().is_root() => return None,
        None => PathBuf::from(broker::SOCKET),
    };
    let is_ours = rustix::fs::access(&socket, Access::WRITE_OK).is_ok();
    is_ours.then_some(socket)
}

impl MountPlace {
    /// Sets the read-ahead of the kernel in bytes. Takes effect only after the answer to FUSE_INIT.
    ///
    /// # Errors
    /// If the process that mounted lacks the permission. Reads are correct without it, only slower.
    pub(crate) fn set_read_ahead(&self, bytes: u64) -> std::io::Result<()> {
        match &self.means {
            MountMeans::Broker(broker) => broker.set_read_ahead(bytes),
            MountMeans::Direct | MountMeans::Fusermount => self.standing.set_read_ahead(bytes),
        }
    }

    /// Makes the mount writable or read-only. A writable mount of `fusermount3` stays writable.
    ///
    /// # Errors
    /// [`MountingError::Remount`] if the kernel or the broker refuses, and
    /// [`MountingError::NoRemount`] for a read-only mount of `fusermount3`.
    pub(crate) fn set_writable(&self, is_writable: bool) -> Result<(), MountingError> {
        let dir = || self.standing.dir().to_owned();
        match &self.means {
            MountMeans::Direct => self.standing.set_writable(is_writable),
            MountMeans::Broker(_) if self.standing.is_read_only() != is_writable => Ok(()),
            MountMeans::Broker(broker) => {
                let changed = broker.set_writable(is_writable);
                changed.map_err(|why| MountingError::Remount {
                    dir: dir(),
                    is_writable,
                    why,
                })
            }
            MountMeans::Fusermount if is_writable && self.standing.is_read_only() => {
                Err(MountingError::NoRemount { dir: dir() })
            }
            MountMeans::Fusermount => Ok(()),
        }
    }

    /// Requests a new mount in place of one that the broker kept and that could not be taken over.
    ///
    /// # Errors
    /// [`MountingError`] if there is no broker, or with its message.
    pub(crate) fn mount_anew(&self) -> Result<AcquiredMount, MountingError> {
        self.broker()?.mount_anew()
    }

    /// Requests a new mount at `dir` from the broker that replaced the ended one.
    ///
    /// # Errors
    /// [`MountingError`] if there is no broker, or with its message.
    pub(crate) fn mount_by_next(&self, dir: &Path) -> Result<AcquiredMount, MountingError> {
        self.broker()?.reach_next()?.mount(dir)
    }

    fn broker(&self) -> Result<&Arc<Broker>, MountingError> {
        match &self.means {
            MountMeans::Broker(broker) => Ok(broker),
            MountMeans::Direct | MountMeans::Fusermount => Err(MountingError::Vanished {
                dir: self.standing.dir().to_owned(),
            }),
        }
    }

    /// Returns whether the broker ended and unmounted. Waits for its answer.
    pub(crate) fn broker_ended(&self) -> bool {
        match &self.means {
            MountMeans::Broker(broker) => broker.ended_with_mount(),
            MountMeans::Direct | MountMeans::Fusermount => false,
        }
    }

    /// Checks whether the broker is still running. To be called about once a second, so that the
    /// cause of an ended mount is known. Never waits.
    pub(crate) fn check_broker(&self) {
        if let MountMeans::Broker(broker) = &self.means {
            broker.record_hangup(|| self.standing.is_mounted());
        }
    }

    /// Returns whether the mount outlives its daemon.
    pub(crate) fn outlives_us(&self) -> bool {
        matches!(self.means, MountMeans::Broker(_))
    }

    /// Unmounts, as [`MountLocation::unmount`]. A mount of the broker is left to the broker.
    ///
    /// # Errors
    /// [`MountingError::Unmount`] if the kernel refuses.
    pub(crate) fn unmount(&self) -> Result<(), MountingError> {
        match self.means {
            MountMeans::Broker(_) => Ok(()),
            MountMeans::Direct => self.standing.unmount(),
            MountMeans::Fusermount => self.standing.unmount_by(fusermount::unmount),
        }
    }
}
