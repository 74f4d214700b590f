//! Why there is no mount, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::DEVICE;

/// Why mounting or unmounting failed. Each says what the user can do; none leaves a mount behind.
#[derive(Debug, thiserror::Error)]
pub enum MountingError {
    /// The mount point cannot be made.
    #[error(
        "cannot make the mount point {}: {why}: make it by hand, or choose another",
        dir.display()
    )]
    CannotCreate {
        /// The mount point.
        dir: PathBuf,
        why: io::Error,
    },
    /// The mount point is no directory.
    #[error("the mount point {} is not a directory: choose another", dir.display())]
    NotADirectory {
        /// The mount point.
        dir: PathBuf,
    },
    /// Files would be hidden beneath the mount.
    #[error(
        "the mount point {} is not empty: move its files away, or choose another",
        dir.display()
    )]
    NotEmpty {
        /// The mount point.
        dir: PathBuf,
    },
    /// Something else is mounted there.
    #[error(
        "{} is in use by a mount of type {filesystem}: unmount that, or choose another",
        dir.display()
    )]
    Busy {
        /// The mount point.
        dir: PathBuf,
        /// What is there.
        filesystem: String,
    },
    /// Another daemon serves this mount point.
    #[error(
        "another p2pfs daemon serves {}: stop that one, or choose another mount point",
        dir.display()
    )]
    AlreadyServed {
        /// The mount point.
        dir: PathBuf,
    },
    /// A p2pfs mount is there that neither answers nor fails.
    #[error(
        "the p2pfs mount at {} does not answer: stop its daemon, or end it with \
         'echo 1 > /sys/fs/fuse/connections/{connection}/abort'", dir.display()
    )]
    Silent {
        /// The mount point.
        dir: PathBuf,
        /// The number of its connection.
        connection: u32,
    },
    /// /dev/fuse cannot be opened.
    #[error("cannot open {}: {why}: {}", DEVICE, device_remedy(why))]
    NoDevice { why: io::Error },
    /// This process may not mount directly.
    #[error("no right to mount at {}: run as root, or install fuse3", dir.display())]
    NoRight {
        /// The mount point.
        dir: PathBuf,
    },
    /// The kernel refused the mount.
    #[error("cannot mount at {}: {why}: see 'dmesg' for the kernel's reason", dir.display())]
    Mount {
        /// The mount point.
        dir: PathBuf,
        why: io::Error,
    },
    /// The mount broker's socket is there, and nobody behind it.
    #[error(
        "the mount broker does not answer at {}: {why}: systemctl start p2pfs-broker.socket",
        socket.display()
    )]
    NoBroker {
        /// Its socket.
        socket: PathBuf,
        why: io::Error,
    },
    /// The mount broker said no.
    #[error("{why}")]
    Refused {
        /// Its own words.
        why: io::Error,
    },
    /// An ordinary user needs fusermount3 to mount.
    #[error(
        "no right to mount, and fusermount3 is not installed: 'apt install fuse3' (or your \
         system's package of that name), or run the daemon as root"
    )]
    FusermountMissing,
    /// fusermount3 said no.
    #[error("fusermount3 cannot mount at {}: {said}", dir.display())]
    Fusermount {
        /// The mount point.
        dir: PathBuf,
        /// Its own words with what to do, or what went wrong with it.
        said: String,
    },
    /// The mount is not in the list of mounts although mounting went well.
    #[error("the mount at {} was taken away while it was made: try again", dir.display())]
    Vanished {
        /// The mount point.
        dir: PathBuf,
    },
    /// The list of mounts cannot be read.
    #[error("cannot read /proc/self/mountinfo: {why}: is /proc mounted?")]
    NoMountList { why: io::Error },
    /// The mount cannot be taken away.
    #[error("cannot unmount {}: {why}: try 'umount -l' as root", dir.display())]
    Unmount {
        /// The mount point.
        dir: PathBuf,
        why: io::Error,
    },
}

/// What to do about a device that cannot be opened.
pub fn device_remedy(why: &io::Error) -> &'static str {
    let is_for_all = rustix::fs::stat(DEVICE).is_ok_and(|it| it.st_mode & 0o6 == 0o6);
    // which is seen also where the device itself is hidden
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
    fn a_device_that_is_missing_hidden_or_forbidden_has_a_remedy_each_that_is_true() {
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
