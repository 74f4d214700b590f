//! Mounting by this process (fsopen(2)), which requires CAP_SYS_ADMIN.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    fspick, move_mount,
};

use p2pfs_types::files::path_of;
use p2pfs_types::files::trusted_way::reach;

use super::{DEVICE, FILESYSTEM_TYPE, MountRequest, MountingError, READ_MAX_BYTES};

/// Opens the device and mounts it at `target`, which is a path of the mount point `dir` that no
/// other user can change. The mount is read-only until [`set_writable`].
pub(super) fn mount(
    target: &Path,
    dir: &Path,
    request: &MountRequest,
) -> Result<OwnedFd, MountingError> {
    let device = open_device(dir)?;
    match attach(target, device.as_raw_fd(), request) {
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

/// Makes a file system of the device and mounts it. The file system is read-only, so a write gets
/// EROFS in the kernel and never reaches the daemon. The mount is not. A service with a mount
/// namespace of its own has a copy of the mount, and only a change of the file system reaches that.
fn attach(target: &Path, device: i32, request: &MountRequest) -> rustix::io::Result<()> {
    let (kind, subtype) = FILESYSTEM_TYPE
        .split_once('.')
        .unwrap_or((FILESYSTEM_TYPE, ""));
    let made = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&made, "source", "p2pfs")?;
    fsconfig_set_string(&made, "subtype", subtype)?;
    for (key, value) in options(device, request) {
        match value {
            Some(value) => fsconfig_set_string(&made, key, value)?,
            None => fsconfig_set_flag(&made, key)?,
        }
    }
    fsconfig_create(&made)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    // `target` is a link in proc(5) to the opened mount point.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(&mount, "", CWD, target, flags)
}

/// Makes the file system that is mounted at `target` writable or read-only, for all its mounts.
pub(super) fn set_writable(target: &Path, is_writable: bool) -> rustix::io::Result<()> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_NO_AUTOMOUNT;
    let picked = fspick(CWD, target, flags)?;
    fsconfig_set_flag(&picked, if is_writable { "rw" } else { "ro" })?;
    fsconfig_reconfigure(&picked)
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

/// Returns the mount options of fs/fuse/inode.c (`fuse_fs_parameters`), with their values.
fn options(device: i32, request: &MountRequest) -> Vec<(&'static str, Option<String>)> {
    let valued = [
        ("fd", device.to_string()),
        ("rootmode", "40000".to_owned()),
        ("user_id", request.uid.to_string()),
        ("group_id", request.gid.to_string()),
        ("max_read", READ_MAX_BYTES.to_string()),
    ];
    let flags = ["ro", "default_permissions"].into_iter();
    let flags = flags.chain(request.allow_other.then_some("allow_other"));
    let flags = flags.map(|flag| (flag, None));
    let valued = valued.into_iter().map(|(key, value)| (key, Some(value)));
    valued.chain(flags).collect()
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
        for (key, value) in [("fd", "3"), ("user_id", "7"), ("group_id", "8")] {
            assert!(all.contains(&(key, Some(value.to_owned()))), "{all:?}");
        }
        for flag in ["ro", "default_permissions", "allow_other"] {
            assert!(all.contains(&(flag, None)), "{all:?}");
        }
        request.allow_other = false;
        assert!(!options(3, &request).contains(&("allow_other", None)));
    }
}
