//! Room for bytes that nothing verifies.

use std::io;
use std::path::PathBuf;

use p2pfs_cache::{Cache, Reservation, Room, UNVERIFIED_DIR};

/// Room in the cache's folder and budget for files of peers whose bytes have no hash. These bytes
/// are not contents: the store neither reads nor proves them. Clones share their state.
#[derive(Clone)]
pub struct UnverifiedRoom {
    cache: Cache,
}

impl UnverifiedRoom {
    pub(super) fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// Returns the folder for the files, emptied of those that an earlier run left.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn emptied_dir(&self) -> io::Result<PathBuf> {
        let dir = self.cache.dir().join(UNVERIFIED_DIR);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Returns whether the cache could hold this many bytes if it evicted what it may. Blocking.
    pub fn could_hold(&self, bytes: u64) -> bool {
        Room::for_reservation(&self.cache).holds(bytes)
    }

    /// Creates an empty reservation, which grows with the bytes of a file.
    pub fn reservation(&self) -> Reservation {
        self.cache.reservation()
    }
}
