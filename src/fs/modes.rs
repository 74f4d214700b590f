//! Whether the kernel reads an inode's bytes itself or asks for them.
//!
//! The kernel does not allow both on one inode at a time, so the first open decides until the last
//! release (fs/fuse/iomode.c). The open handles bound the table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::traits::BackingFile;

/// How an inode's bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel asks us.
    Asked,
    /// The kernel reads this file.
    Backed(BackingFile),
}

/// The modes of all inodes that are open.
#[derive(Default)]
pub struct Modes {
    open: Mutex<HashMap<u64, (Mode, u64)>>,
}

impl Modes {
    /// One more open of an inode that is open already.
    pub fn join(&self, ino: u64) -> Option<Mode> {
        let mut open = self.lock();
        let (mode, opens) = open.get_mut(&ino)?;
        *opens += 1;
        Some(*mode)
    }

    /// One more open of an inode: of this mode if it is the first, else of the one that it has.
    pub fn enter(&self, ino: u64, wanted: Mode) -> Mode {
        let mut open = self.lock();
        let (mode, opens) = open.entry(ino).or_insert((wanted, 0));
        *opens += 1;
        *mode
    }

    /// One less; the last gives back the backing file, to be released.
    pub fn leave(&self, ino: u64) -> Option<BackingFile> {
        let mut open = self.lock();
        let Entry::Occupied(mut entry) = open.entry(ino) else {
            return None;
        };
        entry.get_mut().1 -= 1;
        if entry.get().1 > 0 {
            return None;
        }
        match entry.remove().0 {
            Mode::Backed(file) => Some(file),
            Mode::Asked => None,
        }
    }

    // A panic elsewhere cannot leave the map torn: each step under the lock is complete.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Mode, u64)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_decides_until_the_last_release() {
        let modes = Modes::default();
        let backed = |number| Mode::Backed(BackingFile(number));
        assert_eq!(modes.join(5), None);
        assert_eq!(modes.enter(5, Mode::Asked), Mode::Asked);
        assert_eq!(
            modes.enter(5, backed(1)),
            Mode::Asked,
            "it was completed meanwhile"
        );
        assert_eq!(modes.leave(5), None);
        assert_eq!(modes.leave(5), None);
        assert_eq!(modes.enter(5, backed(2)), backed(2));
        assert_eq!(modes.join(5), Some(backed(2)));
        assert_eq!(modes.leave(5), None, "still open");
        assert_eq!(modes.leave(5), Some(BackingFile(2)));
        assert_eq!(modes.leave(5), None, "a release too many does no harm");
    }
}
