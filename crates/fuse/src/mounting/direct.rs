//! Mounting with `mount(2)`, which requires CAP_SYS_ADMIN.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use p2pfs_types::files::path_of;
use p2pfs_types::files::trusted_way::reach;

use super::{DEVICE, FILESYSTEM_TYPE, MountRequest, MountingError, READ_MAX_BYTES};

/// Opens the device and mounts it at `target`, which is a path of the mount point `dir` that no
/// other user can change.
pub(super) fn mount(
    target: &Path,
    dir: &Path,
    request: &MountRequest,
) -> Result<OwnedFd, MountingError> {
    let device = open_device(dir)?;
    let data = CString::new(options(device.as_raw_fd(), request)).expect("options hold no NUL");
    // Read-only in the VFS: a write gets EROFS there and never reaches the daemon.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
    match rustix::mount::mount("p2pfs", target, FILESYSTEM_TYPE, flags, data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(Errno::PERM | Errno::ACCESS) => Err(MountingError::NoRight {
            dir: dir.to_owned(),
        }),
        Err(why) => Err(MountingError::Mount {
            dir: dir.to_owned(),
            why: why.into(),
        }),
    }
}

/// Detaches the topmost mount at once. Programs that still use it keep it. Follows no link of
/// another user.
///
/// # Errors
/// [`MountingError::Unmount`] if the kernel refuses.
pub fn unmount(dir: &Path) -> Result<(), MountingError> {
    let failed = |why| MountingError::Unmount {
        dir: dir.to_owned(),
        why,
    };
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let above = reach(dir.parent().unwrap_or(dir)).map_err(|why| failed(why.into()))?;
    let target = Path::new(&path_of(above.dir())).join(dir.file_name().unwrap_or_default());
    match rustix::mount::unmount(&target, flags) {
        // No longer a mount point: another process unmounted it first.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(why) => Err(failed(why.into())),
    }
}

fn open_device(dir: &Path) -> Result<OwnedFd, MountingError> {
    match rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(device) => Ok(device),
        // The setuid helper may still be able to open it.
        Err(Errno::PERM | Errno::ACCESS) => Err(MountingError::NoRight {
            dir: dir.to_owned(),
        }),
        Err(why) => Err(MountingError::NoDevice {
            why: io::Error::from(why),
        }),
    }
}

/// Returns the mount options of fs/fuse/inode.c (`fuse_fs_parameters`).
fn options(device: i32, request: &MountRequest) -> String {
    let MountRequest {
        uid,
        gid,
        allow_other,
        ..
    } = request;
    let allow_other = if *allow_other { ",allow_other" } else { "" };
    format!(
        "fd={device},rootmode=40000,user_id={uid},group_id={gid},default_permissions,\
         max_read={READ_MAX_BYTES}{allow_other}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_are_admitted_only_on_request() {
        let mut request = MountRequest {
            dir: "/mnt".into(),
            uid: 7,
            gid: 8,
            allow_other: true,
        };
        let all = options(3, &request);
        assert!(
            all.starts_with("fd=3,rootmode=40000,user_id=7,group_id=8,"),
            "{all}"
        );
        assert!(
            all.contains(",allow_other") && all.contains(",default_permissions"),
            "{all}"
        );
        request.allow_other = false;
        assert!(!options(3, &request).contains("allow_other"));
    }
}
