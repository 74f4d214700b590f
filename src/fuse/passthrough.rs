//! Files that the kernel reads by itself.
//!
//! Registering one takes CAP_SYS_ADMIN and Linux 6.9. Where that is missing, the first attempt
//! says so, no further one is made, and the daemon reads for its users as before.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

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
    refused: AtomicBool,
    /// Why the kernel refused the first.
    why: Mutex<Option<String>>,
}

impl Passthrough {
    /// For the mount of this device.
    pub fn new(device: Weak<Device>) -> Self {
        Self {
            device,
            refused: AtomicBool::new(false),
            why: Mutex::default(),
        }
    }

    /// Why complete files are read through the daemon, if the kernel refused one.
    pub fn refusal(&self) -> Option<String> {
        self.why
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl BackingFiles for Passthrough {
    fn register(&self, file: &File) -> io::Result<BackingFile> {
        if self.refused.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let device = self.device.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let map = BackingMap {
            fd: file.as_raw_fd(),
            flags: 0,
            padding: 0,
        };
        let registered = control(device.kernel().as_raw_fd(), BACKING_OPEN, &raw const map);
        match registered.map(u32::try_from) {
            Ok(Ok(number)) => Ok(BackingFile(number)),
            Ok(Err(_)) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => {
                self.refused.store(true, Ordering::Relaxed);
                let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
                *why = Some(error.to_string());
                tracing::debug!(%error, "the kernel takes no backing file");
                Err(error)
            }
        }
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
