//! How this process comes to its mount, and how it lets go of it: by the mount broker, by mount(2)
//! or by fusermount3.

mod client;
mod fusermount;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use client::{Broker, Held};
use rustix::fs::Access;

use crate::broker;
use crate::mounting::{self, MountRequest, MountingError, Standing};

/// A mount that stands. Dropping it closes the device and leaves the mount, dead, in its place.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// The /dev/fuse descriptor; the first message on it is FUSE_INIT.
    pub device: OwnedFd,
    /// How to take the mount away again.
    pub place: MountPlace,
    /// What the mount broker keeps for it, where one mounted.
    pub held: Option<Held>,
}

impl Mounted {
    /// Whether another process served it before.
    pub(crate) fn is_kept(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.greeting.is_some())
    }
}

/// Where a mount stands, and how it was made and so is taken away.
#[derive(Clone, Debug)]
pub(crate) struct MountPlace {
    pub(super) standing: Standing,
    means: Means,
}

#[derive(Clone, Debug)]
enum Means {
    Direct,
    Fusermount,
    Broker(Arc<Broker>),
}

/// Mounts. A stale mount of ours in the same place, whose daemon is gone, is cleaned away first.
///
/// The mount broker is asked first, for a user other than root who has one; then `mount(2)` is
/// tried, and without the right to it, `fusermount3`.
///
/// # Errors
/// [`MountingError`], each naming the place and the remedy.
pub(crate) fn mount(request: &MountRequest) -> Result<Mounted, MountingError> {
    if let Some(socket) = broker_socket()
        && let Some(broker) = Broker::reach(&socket)?
    {
        return match broker.mount(&request.dir) {
            // told of another mount point than its own it ends, and the next may know that one
            Err(_) if broker.has_hung_up() => broker.reach_next()?.mount(&request.dir),
            mounted => mounted,
        };
    }
    let (device, standing, means) = match mounting::mount(request, fusermount::unmount) {
        Ok((device, standing)) => (device, standing, Means::Direct),
        Err(MountingError::NoRight { dir }) => {
            let device = fusermount::mount(&dir)?;
            (device, Standing::at(dir)?, Means::Fusermount)
        }
        Err(error) => return Err(error),
    };
    let place = MountPlace { standing, means };
    Ok(Mounted {
        device,
        place,
        held: None,
    })
}

/// Whether a broker mounts for this process.
pub fn has_broker() -> bool {
    broker_socket().is_some()
}

/// Why this process, which has no broker, cannot open the device, if it cannot; with what helps.
pub fn device_trouble() -> Option<MountingError> {
    if has_broker() {
        return None;
    }
    let why = open_device().err()?;
    Some(MountingError::NoDevice { why })
}

/// Whether this process can open the device; why not, and what helps.
///
/// # Errors
/// What the system says, and what to do about it.
pub fn look_at_device() -> Result<(), (std::io::Error, &'static str)> {
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

/// The socket of the broker for this process; root needs none. One that this process may not write
/// to, which is what connect(2) asks for, is another user's: of the service of the whole machine.
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
    /// Lets the kernel read so many bytes ahead; only once FUSE_INIT is answered.
    ///
    /// # Errors
    /// Where this process may not; reads are as right without it, only slower.
    pub(crate) fn set_read_ahead(&self, bytes: u64) -> std::io::Result<()> {
        match &self.means {
            Means::Broker(broker) => broker.set_read_ahead(bytes),
            Means::Direct | Means::Fusermount => self.standing.set_read_ahead(bytes),
        }
    }

    /// A new mount in place of one that the broker kept and that could not be taken up.
    ///
    /// # Errors
    /// [`MountingError`] where there is no broker, or in its words.
    pub(crate) fn mount_anew(&self) -> Result<Mounted, MountingError> {
        self.broker()?.mount_anew()
    }

    /// A new mount, asked for at `dir`, by the broker that came after the one that has ended.
    ///
    /// # Errors
    /// [`MountingError`] where there is no broker, or in its words.
    pub(crate) fn mount_by_next(&self, dir: &Path) -> Result<Mounted, MountingError> {
        self.broker()?.reach_next()?.mount(dir)
    }

    fn broker(&self) -> Result<&Arc<Broker>, MountingError> {
        match &self.means {
            Means::Broker(broker) => Ok(broker),
            Means::Direct | Means::Fusermount => Err(MountingError::Vanished {
                dir: self.standing.dir().to_owned(),
            }),
        }
    }

    /// Whether the broker ended and took the mount with it; waits for its answer.
    pub(crate) fn broker_ended(&self) -> bool {
        match &self.means {
            Means::Broker(broker) => broker.ended_the_mount(),
            Means::Direct | Means::Fusermount => false,
        }
    }

    /// Looks whether the broker still is there: about once a second, so that what ends the mount
    /// can be told. Never waits.
    pub(crate) fn look_at_broker(&self) {
        if let Means::Broker(broker) = &self.means {
            broker.look(|| self.standing.is_mounted());
        }
    }

    /// Whether the mount outlives its daemon.
    pub(crate) fn outlives_us(&self) -> bool {
        matches!(self.means, Means::Broker(_))
    }

    /// Takes the mount away, as [`Standing::unmount`] says; a broker's is the broker's to take.
    ///
    /// # Errors
    /// [`MountingError::Unmount`] where the kernel refuses.
    pub(crate) fn unmount(&self) -> Result<(), MountingError> {
        match self.means {
            Means::Broker(_) => Ok(()),
            Means::Direct => self.standing.unmount(),
            Means::Fusermount => self.standing.unmount_by(fusermount::unmount),
        }
    }
}
