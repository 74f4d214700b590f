//! Tracks for each inode whether the kernel reads its bytes itself or requests them.
//!
//! The kernel does not allow both on one inode at a time, so the first open decides until the last
//! release (fs/fuse/iomode.c). The number of open handles bounds the table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;

use super::traits::BackingFile;

/// The way in which the kernel gets an inode's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The kernel requests the bytes from the daemon.
    Asked,
    /// The kernel reads this backing file.
    Backed(BackingFile),
}

/// The modes of all open inodes.
#[derive(Default)]
pub(crate) struct Modes {
    open: Mutex<HashMap<u64, Opens>>,
}

struct Opens {
    mode: Mode,
    count: u64,
    /// The own file that the first of these opens has open.
    live: Option<Arc<File>>,
}

impl Modes {
    /// Counts one more open of an inode and returns its mode, if the inode is open already.
    pub(crate) fn join(&self, ino: u64) -> Option<Mode> {
        let mut open = self.open.lock();
        let opens = open.get_mut(&ino)?;
        opens.count += 1;
        Some(opens.mode)
    }

    /// Counts one more open of an inode and returns its mode. The first open sets it to `wanted`.
    pub(crate) fn enter(&self, ino: u64, wanted: Mode, live: Option<Arc<File>>) -> Mode {
        let mut open = self.open.lock();
        let opens = open.entry(ino).or_insert(Opens {
            mode: wanted,
            count: 0,
            live,
        });
        opens.count += 1;
        opens.mode
    }

    /// Sets the own file that is open as this inode, if it is open and none is set.
    pub(crate) fn set_live(&self, ino: u64, file: &Arc<File>) {
        if let Some(opens) = self.open.lock().get_mut(&ino) {
            opens.live.get_or_insert_with(|| file.clone());
        }
    }

    /// Returns the own file that is open as this inode.
    pub(crate) fn live(&self, ino: u64) -> Option<Arc<File>> {
        self.open.lock().get(&ino)?.live.clone()
    }

    /// Returns whether the inode is open.
    pub(crate) fn is_open(&self, ino: u64) -> bool {
        self.open.lock().contains_key(&ino)
    }

    /// Counts one open less. After the last open, returns the backing file, which the caller must
    /// release.
    pub(crate) fn leave(&self, ino: u64) -> Option<BackingFile> {
        let mut open = self.open.lock();
        let Entry::Occupied(mut entry) = open.entry(ino) else {
            return None;
        };
        entry.get_mut().count -= 1;
        if entry.get().count > 0 {
            return None;
        }
        match entry.remove().mode {
            Mode::Backed(file) => Some(file),
            Mode::Asked => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_decides_the_mode_until_the_last_release() {
        let modes = Modes::default();
        let backed = |number| Mode::Backed(BackingFile(number));
        assert_eq!(modes.join(5), None);
        assert_eq!(modes.enter(5, Mode::Asked, None), Mode::Asked);
        assert_eq!(
            modes.enter(5, backed(1), None),
            Mode::Asked,
            "it was completed meanwhile"
        );
        assert_eq!(modes.leave(5), None);
        assert_eq!(modes.leave(5), None);
        assert_eq!(modes.enter(5, backed(2), None), backed(2));
        assert_eq!(modes.join(5), Some(backed(2)));
        assert_eq!(modes.leave(5), None, "still open");
        assert_eq!(modes.leave(5), Some(BackingFile(2)));
        assert_eq!(modes.leave(5), None, "a release too many does no harm");
    }

    #[test]
    fn an_own_file_is_known_until_the_last_release() {
        let modes = Modes::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let backed = Mode::Backed(BackingFile(1));
        assert_eq!(modes.enter(5, Mode::Asked, Some(file.clone())), Mode::Asked);
        assert_eq!(modes.enter(6, backed, Some(file)), backed);
        assert_eq!(modes.enter(7, backed, None), backed);
        assert!(modes.live(5).is_some() && modes.live(6).is_some() && modes.live(7).is_none());
        assert_eq!(modes.leave(6), Some(BackingFile(1)));
        assert!(modes.live(6).is_none());
    }
}
