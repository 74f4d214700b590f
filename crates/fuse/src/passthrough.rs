//! Passthrough: files that the kernel reads without the daemon.
//!
//! Registering a file requires CAP_SYS_ADMIN and Linux 6.9. The permission is tested once, at the
//! start of the mount, with a file of our own. If it is refused, no further attempt is made, and
//! the daemon reads for its users. A single file can still be refused, such as one on another FUSE
//! filesystem; this says nothing about the next file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use rustix::fs::MemfdFlags;

use super::device::Device;
use super::mounter::Broker;
use crate::mounting::backing;
use p2pfs_fs::{BackingFile, BackingFiles};

/// Backing files of one mount.
pub(super) struct Passthrough {
    device: Weak<Device>,
    /// Broker that registers files, if this process does not have the permission.
    broker: Option<Arc<Broker>>,
    refusal: OnceLock<String>,
}

impl Passthrough {
    /// Creates the backing files for the mount of this device.
    pub(crate) fn new(device: Weak<Device>, broker: Option<Arc<Broker>>) -> Self {
        Self {
            device,
            broker,
            refusal: OnceLock::new(),
        }
    }

    /// Tests passthrough with an empty file in memory. `agreed` is whether the kernel supports it.
    pub(crate) fn attempt(&self, agreed: bool) -> bool {
        let tried = if agreed {
            rustix::fs::memfd_create("p2pfs-attempt", MemfdFlags::CLOEXEC)
                .map_err(io::Error::from)
                .and_then(|file| self.register(&File::from(file)))
                .map_err(|error| explain(&error))
        } else {
            Err("the kernel cannot do it (Linux 6.9 can)".to_owned())
        };
        match tried {
            Ok(file) => {
                self.release(file);
                true
            }
            Err(why) => {
                let _ = self.refusal.set(why);
                false
            }
        }
    }

    /// Returns why files of the file system of `dir` are read through the daemon, although others
    /// are not. Returns `None` if no file can be made there.
    pub(crate) fn refusal_in(&self, dir: &Path) -> Option<String> {
        let file = tempfile::tempfile_in(dir).ok()?;
        if self.refusal.get().is_some() {
            return None;
        }
        match self.register(&file) {
            Ok(registered) => {
                self.release(registered);
                None
            }
            Err(error) => Some(explain(&error)),
        }
    }

    /// Returns why all files are read through the daemon, if they are.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.get().cloned()
    }
}

impl BackingFiles for Passthrough {
    fn register(&self, file: &File) -> io::Result<BackingFile> {
        let device = self.device.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let registered = match &self.broker {
            Some(broker) => broker.register(file.as_fd()),
            None => backing::register(device.mount.kernel.fd(), file.as_fd()),
        };
        let number = registered.inspect_err(|error| {
            tracing::debug!(%error, "the kernel does not take this backing file");
        })?;
        Ok(BackingFile(number))
    }

    fn release(&self, file: BackingFile) {
        if let Some(device) = self.device.upgrade() {
            // A failure means that the connection is gone, and the registration with it.
            let _ = match &self.broker {
                Some(broker) => broker.release(file.0),
                None => backing::release(device.mount.kernel.fd(), file.0),
            };
        }
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "the daemon has no CAP_SYS_ADMIN".to_owned(),
        // fs/fuse/backing.c
        Some(libc::ELOOP) => {
            "the file system is stacked on another one, such as an overlay".to_owned()
        }
        _ => format!("the kernel says: {error}"),
    }
}
