//! Files that the kernel reads by itself.
//!
//! Registering one takes CAP_SYS_ADMIN and Linux 6.9. Whether we may is tried once, at the start
//! of the mount, with a file of our own; where we may not, no further attempt is made, and the
//! daemon reads for its users. A single file can be refused all the same (one on another FUSE
//! filesystem, say), which says nothing about the next.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{OnceLock, Weak};

use rustix::fs::MemfdFlags;

use super::device::Device;
use crate::fs::{BackingFile, BackingFiles};

/// `_IOW(229, 1, struct fuse_backing_map)` and `_IOW(229, 2, uint32_t)`: FUSE_DEV_IOC_BACKING_OPEN
/// and _CLOSE (include/uapi/linux/fuse.h).
const BACKING_OPEN: libc::c_ulong = request_code(1, size_of::<BackingMap>());
const BACKING_CLOSE: libc::c_ulong = request_code(2, size_of::<u32>());

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Backing files of one mount.
pub(super) struct Passthrough {
    device: Weak<Device>,
    refusal: OnceLock<String>,
}

impl Passthrough {
    /// For the mount of this device.
    pub fn new(device: Weak<Device>) -> Self {
        Self {
            device,
            refusal: OnceLock::new(),
        }
    }

    /// Tries it with an empty file in memory; `agreed` is whether the kernel knows of it at all.
    pub fn attempt(&self, agreed: bool) -> bool {
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
    pub fn refusal(&self) -> Option<String> {
        self.refusal.get().cloned()
    }
}

impl BackingFiles for Passthrough {
    fn register(&self, file: &File) -> io::Result<BackingFile> {
        let device = self.device.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let map = BackingMap {
            fd: file.as_raw_fd(),
            flags: 0,
            padding: 0,
        };
        let registered = control(device.kernel().as_raw_fd(), BACKING_OPEN, &raw const map);
        let number = registered.inspect_err(|error| {
            tracing::debug!(%error, "the kernel does not take this backing file");
        })?;
        let number = u32::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(BackingFile(number))
    }

    fn release(&self, file: BackingFile) {
        if let Some(device) = self.device.upgrade() {
            // Failure means that the connection is gone, and the registration with it.
            let _ = control(
                device.kernel().as_raw_fd(),
                BACKING_CLOSE,
                &raw const file.0,
            );
        }
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "the daemon has no CAP_SYS_ADMIN".to_owned(),
        _ => format!("the kernel says: {error}"),
    }
}

fn control<T>(device: RawFd, request: libc::c_ulong, argument: *const T) -> io::Result<i32> {
    // SAFETY: both requests read one value of the size that is in their code, and `argument`
    // points to one that lives until the call returns.
    let outcome = unsafe { libc::ioctl(device, request, argument) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(outcome)
    }
}

/// `_IOW` of include/uapi/asm-generic/ioctl.h for FUSE's number 229.
const fn request_code(number: libc::c_ulong, size_bytes: usize) -> libc::c_ulong {
    const WRITE: libc::c_ulong = 1;
    (WRITE << 30) | ((size_bytes as libc::c_ulong) << 16) | (229 << 8) | number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_are_those_of_the_kernel() {
        assert_eq!((BACKING_OPEN, BACKING_CLOSE), (0x4010_e501, 0x4004_e502));
    }
}
