//! The mounts of this machine, read from [`MOUNTINFO`] without accessing them. [`MountTable`] finds
//! the mounts of p2pfs: a `stat` of this node's own mount waits for this process, and a `stat` of
//! another node's mount may wait forever. It also finds filesystems that may wait for a server, and
//! filesystems that invent inode numbers. [`MountChanges`] finds where anything was mounted or
//! unmounted, which inotify does not report.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::makedev;

use super::filesystems::Filesystems;
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};

/// The mounts of this mount namespace that need special care. They are read again when the kernel
/// signals that the table changed (`proc_pid_mountinfo(5)`: the file polls with POLLPRI).
pub(super) struct MountTable {
    table: Option<File>,
    /// Mount points of p2pfs.
    points: Vec<PathBuf>,
    /// Mount points of filesystems that are not in [`LOCAL`].
    far: Vec<PathBuf>,
    /// Devices of filesystems in [`MAKING_UP`].
    making_up: Vec<u64>,
    filesystems: Arc<Filesystems>,
}

/// Types of filesystems that wait only for this machine's disks and memory. A filesystem of any
/// other type counts as one that may wait for a server.
const LOCAL: &[u8] = b"ext2 ext3 ext4 xfs btrfs bcachefs f2fs zfs jfs tmpfs ramfs rootfs overlay \
    squashfs erofs vfat exfat ntfs3 iso9660 udf";

/// Types of filesystems that store no inode numbers (FAT), or that get them from a FUSE server,
/// which may have none. The kernel then assigns a number by counting when it first sees a file, and
/// may give this number to another file after the next mount.
const MAKING_UP: &[u8] = b"msdos vfat exfat fuse fuseblk";

impl MountTable {
    /// Reads the table. Without `/proc` it stays empty, and only the caller's protected paths are
    /// known.
    pub(super) fn new(filesystems: Arc<Filesystems>) -> Self {
        let mut mounts = Self {
            table: File::open(MOUNTINFO).ok(),
            points: vec![],
            far: vec![],
            making_up: vec![],
            filesystems,
        };
        mounts.read();
        mounts
    }

    /// Returns the current mount points of p2pfs.
    pub(super) fn points(&mut self) -> &[PathBuf] {
        if self.has_changed() {
            self.read();
        }
        &self.points
    }

    /// Returns whether a mount at, above or below a directory may wait for a server.
    pub(super) fn is_far(&mut self, dir: &Path) -> bool {
        if self.has_changed() {
            self.read();
        }
        let mut far = self.far.iter();
        far.any(|point| point.starts_with(dir) || dir.starts_with(point))
    }

    /// Returns the devices of filesystems that invent inode numbers.
    pub(super) fn making_up(&mut self) -> &[u64] {
        if self.has_changed() {
            self.read();
        }
        &self.making_up
    }

    fn has_changed(&self) -> bool {
        self.table.as_ref().is_some_and(has_changed)
    }

    fn read(&mut self) {
        if let Some(text) = self.table.as_mut().and_then(read_table) {
            self.points = lines(&text).filter_map(p2pfs_mount_point).collect();
            self.far = lines(&text).filter_map(far_mount_point).collect();
            self.making_up = lines(&text).filter_map(making_up_device).collect();
            self.filesystems.invalidate();
        }
    }
}

/// All mounts of this mount namespace, for detecting mounts and unmounts.
pub(super) struct MountChanges {
    table: Option<File>,
    /// Whether a poll signalled that the table changed since it was last read.
    told: bool,
    mounts: BTreeSet<(Vec<u8>, PathBuf)>,
}

impl MountChanges {
    /// Reads the table. Without `/proc` it stays empty, and changes are found by the rescan alone.
    pub(super) fn new() -> Self {
        let mut changes = Self {
            table: File::open(MOUNTINFO).ok(),
            told: true,
            mounts: BTreeSet::new(),
        };
        changes.take();
        changes
    }

    /// Returns the descriptor to poll for a change of the table. Report a change to
    /// [`MountChanges::mark_changed`].
    pub(super) fn polled(&self) -> Option<PollFd<'_>> {
        let table = self.table.as_ref()?;
        Some(PollFd::new(table, PollFlags::PRI))
    }

    /// Records that a poll signalled a change. The kernel signals each change once, so
    /// [`Self::take`] would not see it.
    pub(super) fn mark_changed(&mut self) {
        self.told = true;
    }

    /// Returns the points where something was mounted or unmounted since the last call.
    pub(super) fn take(&mut self) -> BTreeSet<PathBuf> {
        if !std::mem::take(&mut self.told) && !self.table.as_ref().is_some_and(has_changed) {
            return BTreeSet::new();
        }
        let Some(text) = self.table.as_mut().and_then(read_table) else {
            return BTreeSet::new();
        };
        let now: BTreeSet<(Vec<u8>, PathBuf)> = lines(&text).filter_map(mount).collect();
        let changed = now.symmetric_difference(&self.mounts);
        let changed = changed.map(|(_, point)| point.clone()).collect();
        self.mounts = now;
        changed
    }
}

fn has_changed(table: &File) -> bool {
    let mut polled = [PollFd::new(table, PollFlags::PRI)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut polled, Some(&at_once)).is_ok() && says_changed(&polled[0])
}

/// Returns whether a poll of the table signalled a change.
pub(super) fn says_changed(polled: &PollFd<'_>) -> bool {
    (polled.revents()).intersects(PollFlags::PRI | PollFlags::ERR)
}

fn read_table(table: &mut File) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    table.rewind().ok()?;
    table.read_to_end(&mut text).ok()?;
    Some(text)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
}

/// Returns the id of a mount and its point.
fn mount(line: &[u8]) -> Option<(Vec<u8>, PathBuf)> {
    let number = line.split(|b| *b == b' ').next()?;
    Some((number.to_vec(), mountinfo::point(line)?))
}

/// Returns the mount point of a line of mountinfo, if it is a mount of p2pfs.
fn p2pfs_mount_point(line: &[u8]) -> Option<PathBuf> {
    let ours = match mountinfo::filesystem(line)? {
        (b"fuse.p2pfs" | b"p2pfs", _) => true,
        (kind, source) => kind == b"fuse" && source == b"p2pfs",
    };
    mountinfo::point(line).filter(|_| ours)
}

fn far_mount_point(line: &[u8]) -> Option<PathBuf> {
    let (kind, _) = mountinfo::filesystem(line)?;
    mountinfo::point(line).filter(|_| !is_among(LOCAL, kind))
}

fn making_up_device(line: &[u8]) -> Option<u64> {
    let (kind, _) = mountinfo::filesystem(line)?;
    // for example `fuse.sshfs`
    let family = kind.split(|byte| *byte == b'.').next()?;
    let device = line.split(|byte| *byte == b' ').nth(2)?;
    let (major, minor) = str::from_utf8(device).ok()?.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    is_among(MAKING_UP, family).then_some(device)
}

fn is_among(kinds: &[u8], kind: &[u8]) -> bool {
    kinds.split(|byte| *byte == b' ').any(|it| it == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p2pfs_mount_is_recognized_by_its_line() {
        let line = b"36 35 0:50 / /mnt/a\\040b rw,nosuid - fuse.p2pfs p2pfs rw,user_id=0";
        assert_eq!(p2pfs_mount_point(line), Some(PathBuf::from("/mnt/a b")));
        let shared = b"36 35 0:50 / /mnt rw shared:1 master:2 - fuse p2pfs rw";
        assert_eq!(p2pfs_mount_point(shared), Some(PathBuf::from("/mnt")));
    }

    #[test]
    fn any_mount_is_recognized_by_its_number_and_place() {
        let line = b"36 35 8:1 / /srv/a\\040b rw - ext4 /dev/sda1 rw";
        let known = Some((b"36".to_vec(), PathBuf::from("/srv/a b")));
        assert_eq!(mount(line), known);
        assert_eq!(mount(b""), None);
        let mut changes = MountChanges::new();
        changes.mark_changed();
        assert!(changes.take().is_empty());
    }

    #[test]
    fn a_network_mount_is_remote_and_one_of_a_local_disk_is_not() {
        let line = |kind: &str| format!("36 35 0:9 / /srv/far rw - {kind} x rw").into_bytes();
        for kind in ["nfs4", "cifs", "fuse.sshfs", "fuse", "9p", "ceph"] {
            assert!(far_mount_point(&line(kind)).is_some(), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay"] {
            assert_eq!(far_mount_point(&line(kind)), None, "{kind}");
        }
        let mut table = MountTable {
            filesystems: Arc::default(),
            table: None,
            points: vec![],
            far: vec![PathBuf::from("/srv/far")],
            making_up: vec![],
        };
        for (dir, is_far) in [("/srv", true), ("/srv/far/a", true), ("/srv/near", false)] {
            assert_eq!(table.is_far(Path::new(dir)), is_far, "{dir}");
        }
    }

    #[test]
    fn a_filesystem_with_invented_inode_numbers_is_recognized_by_its_device() {
        let line = |kind: &str| format!("36 35 8:17 / /srv rw - {kind} x rw").into_bytes();
        for kind in ["vfat", "exfat", "fuse.sshfs", "fuse", "fuseblk"] {
            let device = making_up_device(&line(kind));
            assert_eq!(device, Some(makedev(8, 17)), "{kind}");
        }
        for kind in ["ext4", "nfs4", "virtiofs", "tmpfs"] {
            assert_eq!(making_up_device(&line(kind)), None, "{kind}");
        }
        assert_eq!(making_up_device(b"36 35 / /srv rw - vfat x rw"), None);
    }

    #[test]
    fn another_mount_or_a_malformed_line_is_ignored() {
        for line in [
            &b"36 35 8:1 / /mnt rw - ext4 /dev/sda1 rw"[..],
            b"36 35 0:9 / /mnt rw - fuse.sshfs p2pfs rw",
            b"36 35 0:9 / /p2pfs rw",
            b"",
        ] {
            assert_eq!(p2pfs_mount_point(line), None);
        }
    }

    #[test]
    fn the_systems_mount_table_can_be_read_repeatedly() {
        let mut mounts = MountTable::new(Arc::default());
        let first = mounts.points().to_vec();
        mounts.read();
        assert_eq!(mounts.points, first);
    }
}
