//! Errors of mounting, with remedies.

use std::io;
use std::path::{Path, PathBuf};

use super::DEVICE;
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};

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
    /// The mount cannot be made writable or read-only.
    #[error(
        "cannot make {} {}: {why}{}", dir.display(),
        if *is_writable { "writable" } else { "read-only" }, remount_remedy(why)
    )]
    Remount {
        /// Mount point.
        dir: PathBuf,
        /// Whether it was to be writable.
        is_writable: bool,
        /// Error of the kernel.
        why: io::Error,
    },
    /// The mount was made by fusermount3, which changes no mount.
    #[error("cannot make {} writable: fusermount3 mounted it read-only; restart the daemon", dir.display())]
    NoRemount {
        /// Mount point.
        dir: PathBuf,
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

fn remount_remedy(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::ResourceBusy => "; close the files in it that are open for writing",
        _ => "; restart the daemon",
    }
}

/// Files that exist only in a container: of systemd-nspawn and LXC, Docker, and Podman.
const CONTAINER_MARKS: &[&str] = &[
    "/run/systemd/container",
    "/.dockerenv",
    "/run/.containerenv",
];

/// Returns a remedy for a device that cannot be opened.
pub fn device_remedy(why: &io::Error) -> &'static str {
    let is_for_all = rustix::fs::stat(DEVICE).is_ok_and(|it| it.st_mode & 0o6 == 0o6);
    // This file is visible even if the device itself is hidden.
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let mounts = std::fs::read(MOUNTINFO).unwrap_or_default();
    let is_in_container = CONTAINER_MARKS.iter().any(|it| Path::new(it).exists());
    // The broker runs as root, and its unit hides no device.
    let is_unit_of_user =
        std::env::var_os("INVOCATION_ID").is_some() && !rustix::process::geteuid().is_root();
    let devices = DeviceDirectory::of(is_in_container, is_unit_of_user, &mounts);
    remedy_where(why.kind(), is_for_all, known.contains("\tfuse\n"), devices)
}

/// The kind of the directory /dev that this process sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeviceDirectory {
    /// The directory /dev of the machine. It has all devices, unless one was removed.
    Machine,
    /// That of a container, which has only the devices that the container was given.
    Container,
    /// That of a unit with `PrivateDevices=`, which has only pseudo devices.
    Unit,
}

impl DeviceDirectory {
    /// Returns the kind of /dev, from the list of mounts of this process. `is_unit_of_user` is
    /// whether a service manager started the process as an ordinary user.
    fn of(is_in_container: bool, is_unit_of_user: bool, mounts: &[u8]) -> Self {
        let of_devices =
            |line: &&[u8]| mountinfo::point(line).is_some_and(|point| point == Path::new("/dev"));
        // The last mount covers the others.
        let mount = mounts.split(|byte| *byte == b'\n').rfind(of_devices);
        // A /dev without a mount is part of the root file system.
        let kind = mount.and_then(mountinfo::filesystem);
        let is_machine = kind.is_none_or(|(kind, _)| kind == b"devtmpfs");
        if is_machine {
            Self::Machine
        } else if is_unit_of_user {
            Self::Unit
        } else if is_in_container {
            Self::Container
        } else {
            Self::Machine
        }
    }
}

fn remedy_where(
    why: io::ErrorKind,
    is_for_all: bool,
    is_loaded: bool,
    devices: DeviceDirectory,
) -> &'static str {
    match (why, devices) {
        (io::ErrorKind::PermissionDenied, _) if is_for_all => {
            "its mode allows it; container, unit (DeviceAllow=/dev/fuse rw), Landlock must too"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "let the daemon's user have it ('chmod 0666 /dev/fuse' as root), or run it as root"
        }
        (_, DeviceDirectory::Container) => "start the container with --device /dev/fuse",
        (io::ErrorKind::NotFound, DeviceDirectory::Unit) => {
            "its unit hides it: systemctl start p2pfs-broker.socket"
        }
        (io::ErrorKind::NotFound, DeviceDirectory::Machine) if is_loaded => {
            "its node is gone: mknod -m 666 /dev/fuse c 10 229"
        }
        _ => "load its module: modprobe fuse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_hidden_or_forbidden_device_has_its_own_true_remedy() {
        let denied = io::ErrorKind::PermissionDenied;
        let missing = io::ErrorKind::NotFound;
        let (machine, unit, container) = (
            DeviceDirectory::Machine,
            DeviceDirectory::Unit,
            DeviceDirectory::Container,
        );
        for (why, is_for_all, is_loaded, devices, helps) in [
            (missing, false, false, machine, "modprobe fuse"),
            (missing, false, true, machine, "mknod -m 666"),
            (missing, false, true, unit, "p2pfs-broker.socket"),
            (missing, false, true, container, "--device /dev/fuse"),
            (missing, false, false, container, "--device /dev/fuse"),
            (denied, false, true, machine, "chmod 0666 /dev/fuse"),
            (denied, true, true, unit, "DeviceAllow=/dev/fuse rw"),
        ] {
            let told = remedy_where(why, is_for_all, is_loaded, devices);
            assert!(told.contains(helps), "{told}");
            let others = [
                "modprobe",
                "mknod",
                "broker.socket",
                "--device",
                "chmod",
                "DeviceAllow",
            ];
            let count = others.iter().filter(|it| told.contains(**it)).count();
            assert_eq!(count, 1, "{told}");
        }
        let told = MountingError::NoDevice {
            why: missing.into(),
        }
        .to_string();
        assert!(told.starts_with("cannot open /dev/fuse: "), "{told}");
    }

    #[test]
    fn hidden_devices_are_told_apart_by_the_mount_of_their_directory() {
        let machine = "22 1 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw\n\
                       23 22 0:21 / /dev/pts rw - devpts devpts rw\n";
        let unit = format!("{machine}90 22 0:40 / /dev ro,nosuid - tmpfs tmpfs rw,mode=755\n");
        let of = |is_in_container, is_unit_of_user, mounts: &str| {
            DeviceDirectory::of(is_in_container, is_unit_of_user, mounts.as_bytes())
        };
        assert_eq!(of(false, true, machine), DeviceDirectory::Machine);
        assert_eq!(of(false, true, ""), DeviceDirectory::Machine);
        assert_eq!(of(false, true, &unit), DeviceDirectory::Unit);
        assert_eq!(of(false, false, &unit), DeviceDirectory::Machine);
        assert_eq!(of(true, true, &unit), DeviceDirectory::Unit);
        assert_eq!(of(true, false, &unit), DeviceDirectory::Container);
        assert_eq!(of(true, false, machine), DeviceDirectory::Machine);
    }
}
