//! Identities of filesystems, by which the ledger stores hashes. A disk may return under another
//! device number, and btrfs and overlayfs get a new device number at each mount. If the identity of
//! the filesystem stays the same ([`identity_of`]), the hashes of its files are found again.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use parking_lot::RwLock;
use rustix::fs::{fstat, fstatvfs};

/// Device numbers and the identities of their filesystems.
#[derive(Default)]
pub(super) struct Filesystems(RwLock<KnownFilesystems>);

#[derive(Default)]
struct KnownFilesystems {
    by_device: HashMap<u64, LearnedFilesystem>,
    /// Number of changes of the mount table.
    changes: u64,
}

struct LearnedFilesystem {
    identity: u64,
    /// Value of [`KnownFilesystems::changes`] when it was learned.
    at: u64,
}

impl Filesystems {
    /// Learns the identity of the filesystem of an open directory, unless it is known.
    pub(super) fn learn(&self, directory: BorrowedFd<'_>) {
        let Ok(stat) = fstat(directory) else {
            return;
        };
        let at = {
            let known = self.0.read();
            let learned = known.by_device.get(&stat.st_dev);
            if learned.is_some_and(|learned| learned.at == known.changes) {
                return;
            }
            known.changes
        };
        let identity = identity_of(directory).unwrap_or(stat.st_dev);
        let learned = LearnedFilesystem { identity, at };
        self.0.write().by_device.insert(stat.st_dev, learned);
    }

    /// Records that the mount table changed, so a device number may stand for another filesystem.
    pub(super) fn invalidate(&self) {
        self.0.write().changes += 1;
    }

    /// Returns the identity of the filesystem with this device number, or the device number itself
    /// if no identity is known.
    pub(super) fn identity(&self, device: u64) -> u64 {
        let known = self.0.read();
        let learned = known.by_device.get(&device);
        learned.map_or(device, |learned| learned.identity)
    }

    /// Makes a device number known as that of a filesystem.
    #[cfg(test)]
    pub(super) fn set(&self, device: u64, identity: u64) {
        let mut known = self.0.write();
        let at = known.changes;
        known
            .by_device
            .insert(device, LearnedFilesystem { identity, at });
    }
}

/// Returns `f_fsid` (`statvfs(3)`). On ext4 and btrfs it comes from the UUID of the filesystem, and
/// on btrfs also from the subvolume. On XFS, F2FS and FAT it is a device number. Returns `None` for
/// filesystems that set none.
fn identity_of(directory: BorrowedFd<'_>) -> Option<u64> {
    let identity = fstatvfs(directory).ok()?.f_fsid;
    (identity != 0).then_some(identity)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_identity_is_learned_again_after_a_change_of_mounts() {
        let dir = std::fs::File::open("/proc/self").unwrap();
        let device = fstat(&dir).unwrap().st_dev;
        let filesystems = Filesystems::default();
        assert_eq!(filesystems.identity(device), device);
        filesystems.set(device, 99);
        filesystems.learn(dir.as_fd());
        assert_eq!(filesystems.identity(device), 99);
        filesystems.invalidate();
        assert_eq!(filesystems.identity(device), 99);
        filesystems.learn(dir.as_fd());
        assert_ne!(filesystems.identity(device), 99);
    }
}
