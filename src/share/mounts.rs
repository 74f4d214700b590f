//! Which directories are mounts of p2pfs, known without touching them: a `stat` of our own mount
//! waits for ourselves, and one of a neighbour's may wait for ever.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The mount points of p2pfs in this mount namespace, kept up to date by the kernel's word that
/// the table changed (`proc_pid_mountinfo(5)`: the file polls with POLLPRI).
pub(super) struct MountTable {
    table: Option<File>,
    points: Vec<PathBuf>,
}

impl MountTable {
    /// Reads the table; without `/proc` it stays empty, and only what the caller refuses is known.
    pub(super) fn new() -> Self {
        let mut mounts = Self {
            table: File::open("/proc/self/mountinfo").ok(),
            points: vec![],
        };
        mounts.read();
        mounts
    }

    /// The mount points now.
    pub(super) fn points(&mut self) -> &[PathBuf] {
        if self.has_changed() {
            self.read();
        }
        &self.points
    }

    fn has_changed(&self) -> bool {
        let Some(table) = &self.table else {
            return false;
        };
        let mut polled = [PollFd::new(table, PollFlags::PRI)];
        let found = poll(
            &mut polled,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        );
        found.is_ok()
            && polled[0]
                .revents()
                .intersects(PollFlags::PRI | PollFlags::ERR)
    }

    fn read(&mut self) {
        let mut text = Vec::new();
        if let Some(table) = &mut self.table
            && table.rewind().is_ok()
            && table.read_to_end(&mut text).is_ok()
        {
            self.points = text
                .split(|b| *b == b'\n')
                .filter_map(p2pfs_mount_point)
                .collect();
        }
    }
}

/// The mount point of a line of mountinfo, where it is one of p2pfs.
fn p2pfs_mount_point(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|b| *b == b' ');
    let point = fields.nth(4)?;
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = after.next()?;
    let source = after.next().unwrap_or_default();
    let ours = kind == b"fuse.p2pfs" || kind == b"p2pfs" || (kind == b"fuse" && source == b"p2pfs");
    ours.then(|| PathBuf::from(OsString::from_vec(unescape(point))))
}

/// Undoes the `\040` of mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|d| first == b'\\' && d.iter().all(|b| *b < b'8'));
        match octal {
            Some(digits) => {
                let value = |d: &[u8]| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'));
                bytes.push(if digits.iter().all(|b| *b >= b'0') {
                    value(digits) as u8
                } else {
                    b'?'
                });
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_p2pfs_is_known_by_its_line() {
        let line = b"36 35 0:50 / /mnt/a\\040b rw,nosuid - fuse.p2pfs p2pfs rw,user_id=0";
        assert_eq!(p2pfs_mount_point(line), Some(PathBuf::from("/mnt/a b")));
        let shared = b"36 35 0:50 / /mnt rw shared:1 master:2 - fuse p2pfs rw";
        assert_eq!(p2pfs_mount_point(shared), Some(PathBuf::from("/mnt")));
    }

    #[test]
    fn another_mount_or_a_broken_line_is_none() {
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
    fn the_table_of_this_system_can_be_read_again_and_again() {
        let mut mounts = MountTable::new();
        let first = mounts.points().to_vec();
        mounts.read();
        assert_eq!(mounts.points, first);
    }
}
