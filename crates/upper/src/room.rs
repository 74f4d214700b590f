//! The room that programs have for what they write: a budget of all upper folders, and a floor of
//! their disks.
//!
//! The budget counts the sizes of the files in the folders. They are counted at the first write,
//! and then only their growth through the mount. They are counted again before a write is refused
//! and once a minute, so that files that were removed, or put into a folder directly, count too.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::fstatvfs;
use rustix::io::Errno;

use super::folder::Space;
use super::kept::KEPT_TIME;

/// Default of [`WriteLimits::floor_bytes`]: 256 MiB.
pub const FLOOR_BYTES: u64 = 256 << 20;
/// Default of [`WriteLimits::copy_max_bytes`]: 256 MiB. A program waits for the copy in its open.
pub const COPY_MAX_BYTES: u64 = 256 << 20;
/// The floor takes at most one part in this many of a filesystem. As much as ext4 keeps for root.
pub const FLOOR_PART: u64 = 20;
/// Bytes above the floor below which the daemon sees each write. A file that was opened with more
/// room is written by the kernel itself, if it can.
pub const SEEN_ROOM_BYTES: u64 = 1 << 30;
/// Maximum age of a count of the files while they grow through the mount alone.
const COUNT_MAX_AGE: Duration = Duration::from_secs(60);
/// Minimum interval between two counts if no file shrank.
const COUNT_PERIOD: Duration = Duration::from_secs(1);

/// Limits of what programs write into the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteLimits {
    /// Maximum total size in bytes of the files in the upper folders. `None` is no limit.
    pub budget_bytes: Option<u64>,
    /// Bytes that writes leave free on a disk.
    pub floor_bytes: u64,
    /// Maximum size in bytes of another node's file that is copied before a change of it.
    pub copy_max_bytes: u64,
    /// How long a removed or replaced file is kept.
    pub kept_time: Duration,
}

impl Default for WriteLimits {
    fn default() -> Self {
        Self {
            budget_bytes: None,
            floor_bytes: FLOOR_BYTES,
            copy_max_bytes: COPY_MAX_BYTES,
            kept_time: KEPT_TIME,
        }
    }
}

/// The room for what programs write.
#[derive(Debug, Default)]
pub struct WriteRoom {
    limits: WriteLimits,
    count: Mutex<Option<Count>>,
}

/// A count of the files in the folders.
#[derive(Debug)]
struct Count {
    bytes: u64,
    made: Instant,
    /// Whether a file shrank or was removed since.
    is_high: bool,
}

impl Count {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            made: Instant::now(),
            is_high: false,
        }
    }
}

impl WriteRoom {
    /// Creates the room for these limits.
    pub fn new(limits: WriteLimits) -> Self {
        Self {
            limits,
            count: Mutex::default(),
        }
    }

    /// Returns the limits.
    pub fn limits(&self) -> &WriteLimits {
        &self.limits
    }

    /// Returns whether the daemon must see each write into a file on this disk. Without a budget
    /// and with much room, the kernel may write by itself.
    pub fn sees_each_write(&self, disk: impl AsFd) -> bool {
        self.limits.budget_bytes.is_some()
            || self
                .above_floor(disk)
                .is_ok_and(|room| room < SEEN_ROOM_BYTES)
    }

    /// Takes the room for a file on this disk that grows. `count` returns the total size of the
    /// files in the folders.
    ///
    /// # Errors
    /// ENOSPC if there is not so much room, or the error of the disk.
    pub fn take(
        &self,
        disk: impl AsFd,
        growth_bytes: u64,
        count: impl FnOnce() -> u64,
    ) -> io::Result<()> {
        if growth_bytes == 0 {
            return Ok(());
        }
        if self.above_floor(disk)? < growth_bytes {
            return Err(Errno::NOSPC.into());
        }
        let Some(budget_bytes) = self.limits.budget_bytes else {
            return Ok(());
        };
        let mut known = self.count.lock();
        let fits = |known: &Count| known.bytes.saturating_add(growth_bytes) <= budget_bytes;
        let is_usable = known.as_ref().is_some_and(|known| {
            let age = known.made.elapsed();
            let is_known_full = !fits(known) && !known.is_high && age < COUNT_PERIOD;
            is_known_full || (fits(known) && age < COUNT_MAX_AGE)
        });
        if !is_usable {
            *known = None;
        }
        let known = known.get_or_insert_with(|| Count::new(count()));
        if !fits(known) {
            return Err(Errno::NOSPC.into());
        }
        known.bytes += growth_bytes;
        Ok(())
    }

    /// Records that a file shrank or was removed. The next write that would be refused counts
    /// the files again.
    pub fn record_shrunk(&self) {
        if let Some(known) = self.count.lock().as_mut() {
            known.is_high = true;
        }
    }

    /// Returns the size and the room of a disk as programs see it. `count` is as in
    /// [`Self::take`].
    pub fn shown(&self, space: Space, count: impl FnOnce() -> u64) -> Space {
        let left = |budget_bytes: u64| {
            let mut known = self.count.lock();
            let is_usable = |known: &Count| !known.is_high && known.made.elapsed() < COUNT_MAX_AGE;
            if !known.as_ref().is_some_and(is_usable) {
                *known = Some(Count::new(count()));
            }
            budget_bytes.saturating_sub(known.as_ref().map_or(0, |known| known.bytes))
        };
        let left = self.limits.budget_bytes.map_or(u64::MAX, left);
        let above_floor = space.available_bytes.saturating_sub(self.floor_of(space));
        Space {
            available_bytes: above_floor.min(left),
            ..space
        }
    }

    /// Returns the free bytes of a disk above the floor.
    fn above_floor(&self, disk: impl AsFd) -> rustix::io::Result<u64> {
        let space = Space::of(&fstatvfs(disk)?);
        Ok(space.available_bytes.saturating_sub(self.floor_of(space)))
    }

    fn floor_of(&self, space: Space) -> u64 {
        self.limits.floor_bytes.min(space.total_bytes / FLOOR_PART)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn room(budget_bytes: Option<u64>, floor_bytes: u64) -> WriteRoom {
        WriteRoom::new(WriteLimits {
            budget_bytes,
            floor_bytes,
            ..WriteLimits::default()
        })
    }

    #[test]
    fn a_budget_holds_for_growth_and_is_counted_again_after_a_removal() {
        let disk = tempfile::tempfile().unwrap();
        let room = room(Some(100), 0);
        let (on_disk, counts) = (Cell::new(40), Cell::new(0));
        let take = |bytes| {
            let taken = room.take(&disk, bytes, || {
                counts.set(counts.get() + 1);
                on_disk.get()
            });
            taken.map_err(|error| error.raw_os_error().unwrap())
        };
        assert_eq!(take(50), Ok(()));
        on_disk.set(90);
        assert_eq!(take(10), Ok(()));
        on_disk.set(100);
        assert_eq!(counts.get(), 1, "growth is added to the first count");
        assert_eq!(take(1), Err(Errno::NOSPC.raw_os_error()));
        assert_eq!(take(0), Ok(()));
        on_disk.set(99);
        room.record_shrunk();
        assert_eq!(take(1), Ok(()));
        assert!(room.sees_each_write(&disk));
    }

    #[test]
    fn a_floor_takes_at_most_a_part_of_a_small_disk() {
        let space = Space {
            total_bytes: 1000,
            available_bytes: 300,
        };
        let shown = |room: WriteRoom| room.shown(space, || 90).available_bytes;
        assert_eq!(shown(room(None, 10)), 290);
        assert_eq!(shown(room(None, u64::MAX)), 250);
        assert_eq!(shown(room(Some(100), 10)), 10);
        assert_eq!(shown(room(Some(80), 10)), 0);
        let disk = tempfile::tempfile().unwrap();
        assert!(room(None, 0).take(&disk, u64::MAX, || 0).is_err());
        room(None, 0).take(&disk, 1, || 0).unwrap();
    }
}
