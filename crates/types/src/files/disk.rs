//! Names of disks for messages: the device and its mount point, and the command that shows how full
//! it is.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::mountinfo::{self, MOUNTINFO};
use super::shell_word;

/// Names the disk of a directory, as `/dev/sda2, mounted at /var`. The directory must be given by
/// its real path. Reads the list of mounts and not the disk, which may hang. Returns `None` if the
/// list cannot be read.
pub fn disk_of(dir: &Path) -> Option<String> {
    let list = fs::read(MOUNTINFO).ok()?;
    let (point, source) = mount_of(&list, dir)?;
    let source = String::from_utf8_lossy(&source).into_owned();
    Some(format!("{source}, mounted at {}", point.display()))
}

/// Returns the command that shows the free space of the disk of a directory.
pub fn usage_command(dir: &Path) -> String {
    format!("df -h {}", shell_word(dir))
}

/// Returns the command that shows what the disk of a directory lacks after a write failed: inodes if
/// none is left, else free space. Asks the disk, so it blocks on one that hangs.
pub fn usage_command_after_failure(dir: &Path) -> String {
    let found = statvfs(dir);
    if found.is_ok_and(|disk| lacks_inodes(disk.f_files, disk.f_favail)) {
        format!("df -i {}", shell_word(dir))
    } else {
        usage_command(dir)
    }
}

/// Returns whether a filesystem has no inodes left. A filesystem without a limit has a total of 0.
fn lacks_inodes(total: u64, free: u64) -> bool {
    total > 0 && free == 0
}

/// Returns the mount point and the source of the mount that a path belongs to. Of several mounts at
/// one point, the last one covers the others.
fn mount_of(list: &[u8], path: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let lines = list.split(|byte| *byte == b'\n');
    let mounts = lines.filter_map(|line| {
        let (_, source) = mountinfo::filesystem(line)?;
        Some((mountinfo::point(line)?, source.to_owned()))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_of_a_path_is_its_closest_mount_and_the_last_one_there() {
        let list = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 21 8:2 / /var rw - ext4 /dev/sda2 rw\n\
            31 30 8:3 / /var/lib rw - xfs /dev/sdb1 rw\n\
            32 31 0:9 / /var/lib rw - tmpfs tmpfs rw\n\
            33 21 8:4 / /variable rw - ext4 /dev/sdc1 rw\n";
        for (path, point, source) in [
            ("/home/ann", "/", "/dev/sda1"),
            ("/var/cache/p2pfs", "/var", "/dev/sda2"),
            ("/var/lib/p2pfs", "/var/lib", "tmpfs"),
        ] {
            let (found, of) = mount_of(list, Path::new(path)).unwrap();
            assert_eq!((found.to_str(), &*of), (Some(point), source.as_bytes()));
        }
    }

    #[test]
    fn disk_of_the_root_directory_is_mounted_there() {
        let disk = disk_of(Path::new("/")).unwrap();
        assert!(disk.ends_with(", mounted at /"), "{disk}");
    }

    #[test]
    fn a_full_disk_with_free_inodes_lacks_space() {
        assert!(lacks_inodes(100, 0));
        assert!(!lacks_inodes(100, 1));
        assert!(!lacks_inodes(0, 0), "btrfs has no limit");
        let here = Path::new("/");
        let usage = usage_command_after_failure(here);
        assert_eq!(usage, usage_command(here));
    }

    #[test]
    fn command_names_the_directory_as_one_word_of_a_shell() {
        assert_eq!(
            usage_command(Path::new("/var/lib/p2pfs")),
            "df -h /var/lib/p2pfs"
        );
        assert_eq!(usage_command(Path::new("/my disk")), "df -h '/my disk'");
    }
}
