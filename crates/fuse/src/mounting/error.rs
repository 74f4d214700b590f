//! Errors of mounting, with remedies.

use std::io;
use std::path::PathBuf;

use super::DEVICE;

/// Failure to mount or unmount. A failure to mount leaves no new mount behind.
#[derive(Debug, thiserror::Error)]
pub enum MountingError {
    /// The mount point cannot be created.
    #[error(
        "cannot make the mount point {}: {why}: make it by hand, or choose another",
        dir.display()
    )]
    CannotCreate {
        /// Mount point.
        dir: PathBuf,
        /// Error of the system.
        why: io::Error,
    },
    /// The mount point is not a directory.
    #[error("the mount point {} is not a directory: choose another", dir.display())]
    NotADirectory {
        /// Mount point.
        dir: PathBuf,
    },
    /// The mount would hide existing files.
    #[error(
        "the mount point {} is not empty: move its files away, or choose another",
        dir.display()
    )]
    NotEmpty {
        /// Mount point.
        dir: PathBuf,
    },
    /// Another filesystem is mounted there.
    #[error(
        "{} is in use by a mount of type {filesystem}: unmount that, or choose another",
        dir.display()
    )]
    Busy {
        /// Mount point.
        dir: PathBuf,
        /// Type of the mounted filesystem.
        filesystem: String,
    },
    /// Another daemon serves this mount point.
    #[error(
        "another p2pfs daemon serves {}: stop that one, or choose another mount point",
        dir.display()
    )]
    AlreadyServed {
        /// Mount point.
        dir: PathBuf,
    },
    /// A p2pfs mount exists there that neither answers nor fails.
    #[error(
        "the p2pfs mount at {} does not answer: stop its daemon, or end it with \
         'echo 1 > /sys/fs/fuse/connections/{connection}/abort'", dir.display()
    )]
    Silent {
        /// Mount point.
        dir: PathBuf,
        /// Number of its connection.
        connection: u32,
    },
    /// /dev/fuse cannot be opened.
    #[error("cannot open {}: {why}: {}", DEVICE, device_remedy(why))]
    NoDevice {
        /// Error of the system.
        why: io::Error,
    },
    /// This process lacks the permission to mount directly.
    #[error("no right to mount at {}: run as root, or install fuse3", dir.display())]
    NoRight {
        /// Mount point.
        dir: PathBuf,
    },
    /// The kernel refused the mount.
    #[error("cannot mount at {}: {why}: see 'dmesg' for the kernel's reason", dir.display())]
    Mount {
        /// Mount point.
        dir: PathBuf,
        /// Error of the kernel.
        why: io::Error,
    },
    /// The socket of the mount broker exists, but no process answers.
    #[error(
        "the mount broker does not answer at {}: {why}: systemctl start p2pfs-broker.socket",
        socket.display()
    )]
    NoBroker {
        /// Socket of the broker.
        socket: PathBuf,
        /// Error of the connection.
        why: io::Error,
    },
    /// The mount broker refused, or did not answer.
    #[error("{why}")]
    Refused {
        /// Message of the broker, or error of the connection.
        why: io::Error,
    },
    /// An ordinary user needs fusermount3 to mount.
    #[error(
        "no right to mount, and fusermount3 is not installed: 'apt install fuse3' (or your \
         system's package of that name), or run the daemon as root"
    )]
    FusermountMissing,
    /// fusermount3 refused.
    #[error("fusermount3 cannot mount at {}: {said}", dir.display())]
    Fusermount {
        /// Mount point.
        dir: PathBuf,
        /// Message of fusermount3 with a remedy, or the failure to run it.
        said: String,
    },
    /// The mount is missing from the list of mounts although mounting succeeded.
    #[error("the mount at {} was taken away while it was made: try again", dir.display())]
    Vanished {
        /// Mount point.
        dir: PathBuf,
    },
    /// The list of mounts cannot be read.
    #[error("cannot read /proc/self/mountinfo: {why}: is /proc mounted?")]
    NoMountList {
        /// Error of the system.
        why: io::Error,
    },
    /// The mount cannot be removed.
    #[error("cannot unmount {}: {why}: try 'umount -l' as root", dir.display())]
    Unmount {
        /// Mount point.
        dir: PathBuf,
        /// Error of the kernel or of fusermount3.
        why: io::Error,
    },
}

/// Returns a remedy for a device that cannot be opened.
pub fn device_remedy(why: &io::Error) -> &'static str {
    let is_for_all = rustix::fs::stat(DEVICE).is_ok_and(|it| it.st_mode & 0o6 == 0o6);
    // This file is visible even if the device itself is hidden.
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    remedy_where(why.kind(), is_for_all, known.contains("\tfuse\n"))
}

fn remedy_where(why: io::ErrorKind, is_for_all: bool, is_loaded: bool) -> &'static str {
    match why {
        io::ErrorKind::PermissionDenied if is_for_all => {
            "its mode allows it; container, unit (DeviceAllow=/dev/fuse rw), Landlock must too"
        }
        io::ErrorKind::PermissionDenied => {
            "let the daemon's user have it ('chmod 0666 /dev/fuse' as root), or run it as root"
        }
        io::ErrorKind::NotFound if is_loaded => {
            "hidden by the container (start it with --device /dev/fuse) or by the unit (start \
             p2pfs-broker.socket), or its node is gone (mknod -m 666 /dev/fuse c 10 229)"
        }
        _ => "load its module ('modprobe fuse'), or give the container the device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_hidden_or_forbidden_device_has_its_own_true_remedy() {
        let denied = io::ErrorKind::PermissionDenied;
        let missing = io::ErrorKind::NotFound;
        for (why, is_for_all, is_loaded, helps, misleads) in [
            (
                missing,
                false,
                false,
                "modprobe fuse",
                "p2pfs-broker.socket",
            ),
            (missing, false, true, "p2pfs-broker.socket", "modprobe"),
            (missing, false, true, "--device /dev/fuse", "modprobe"),
            (missing, false, true, "mknod", "modprobe"),
            (denied, false, true, "chmod 0666 /dev/fuse", "modprobe"),
            (denied, true, true, "DeviceAllow=/dev/fuse rw", "chmod"),
        ] {
            let told = remedy_where(why, is_for_all, is_loaded);
            assert!(told.contains(helps) && !told.contains(misleads), "{told}");
        }
        let told = MountingError::NoDevice {
            why: missing.into(),
        }
        .to_string();
        assert!(told.starts_with("cannot open /dev/fuse: "), "{told}");
    }
}
