//! Files that the kernel reads by itself.
//!
//! Registering one takes CAP_SYS_ADMIN and Linux 6.9. Whether we may is tried once, at the start
//! of the mount, with a file of our own; where we may not, no further attempt is made, and the
//! daemon reads for its users. A single file can be refused all the same (one on another FUSE
//! filesystem, say), which says nothing about the next.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock, Weak};

use rustix::fs::MemfdFlags;

use super::device::Device;
use super::mounter::Broker;
use crate::mounting::backing;
use p2pfs_fs::{BackingFile, BackingFiles};

/// Backing files of one mount.
pub(super) struct Passthrough {
    device: Weak<Device>,
    /// Who has the right to register, where we have not.
    broker: Option<Arc<Broker>>,
    refusal: OnceLock<String>,
}

impl Passthrough {
    /// For the mount of this device.
    pub(crate) fn new(device: Weak<Device>, broker: Option<Arc<Broker>>) -> Self {
        Self {
            device,
            broker,
            refusal: OnceLock::new(),
        }
    }

    /// Tries it with an empty file in memory; `agreed` is whether the kernel knows of it at all.
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

    /// Why all files are read through the daemon, if they are.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.get().cloned()
    }
}

impl BackingFiles for Passthrough {
    fn register(&self, file: &File) -> io::Result<BackingFile> {
        let device = self.device.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let registered = match &self.broker {
            Some(broker) => broker.register(file.as_fd()),
            None => backing::register(device.kernel(), file.as_fd()),
        };
        let number = registered.inspect_err(|error| {
            tracing::debug!(%error, "the kernel does not take this backing file");
        })?;
        Ok(BackingFile(number))
    }

    fn release(&self, file: BackingFile) {
        if let Some(device) = self.device.upgrade() {
            // Failure means that the connection is gone, and the registration with it.
            let _ = match &self.broker {
                Some(broker) => broker.release(file.0),
                None => backing::release(device.kernel(), file.0),
            };
        }
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "the daemon has no CAP_SYS_ADMIN".to_owned(),
        _ => format!("the kernel says: {error}"),
    }
}
