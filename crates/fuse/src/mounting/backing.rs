//! Registration of backing files for passthrough: the two system calls that register and release
//! one.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// FUSE_DEV_IOC_BACKING_OPEN: `_IOW(229, 1, struct fuse_backing_map)` (include/uapi/linux/fuse.h).
pub const BACKING_OPEN: libc::c_ulong = request_code(1, size_of::<BackingMap>());
/// FUSE_DEV_IOC_BACKING_CLOSE: `_IOW(229, 2, uint32_t)` (include/uapi/linux/fuse.h).
pub const BACKING_CLOSE: libc::c_ulong = request_code(2, size_of::<u32>());

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Registers a file with the mount of this device and returns the number that the kernel assigns.
/// Requires CAP_SYS_ADMIN and Linux 6.9.
///
/// # Errors
/// The error of the kernel.
pub fn register(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<u32> {
    let map = BackingMap {
        fd: file.as_raw_fd(),
        flags: 0,
        padding: 0,
    };
    let number = control(device, BACKING_OPEN, &raw const map)?;
    u32::try_from(number).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Releases a registration. Programs that have the file open keep it.
///
/// # Errors
/// The error of the kernel if the registration is gone with its connection.
pub fn release(device: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    control(device, BACKING_CLOSE, &raw const number).map(drop)
}

fn control<T>(
    device: BorrowedFd<'_>,
    request: libc::c_ulong,
    argument: *const T,
) -> io::Result<i32> {
    // SAFETY: both requests read one value of the size in their code, and `argument` points to such
    // a value, which lives until the call returns.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), request, argument) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(outcome)
    }
}

/// Encodes `_IOW` of include/uapi/asm-generic/ioctl.h for the FUSE type number 229.
const fn request_code(number: libc::c_ulong, size_bytes: usize) -> libc::c_ulong {
    const WRITE: libc::c_ulong = 1;
    (WRITE << 30) | ((size_bytes as libc::c_ulong) << 16) | (229 << 8) | number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_match_the_kernel() {
        assert_eq!((BACKING_OPEN, BACKING_CLOSE), (0x4010_e501, 0x4004_e502));
    }
}
