//! Remaining capacity of the cache and its limits.

use rustix::fs::StatVfsMountFlags;

use super::Cache;
use super::disk::Disk;
use super::layout::Layout;

/// Reason why bytes do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The budget is too small for the bytes in addition to the retained ones.
    Budget {
        /// Budget in bytes.
        budget_bytes: u64,
        /// Budget bytes that cannot be evicted, and those that [`Room::take`] deducted.
        kept_bytes: u64,
    },
    /// The disk is too small or too full.
    Disk {
        /// Free bytes of the disk after all evictions, less those that incomplete pinned files
        /// still need and those that [`Room::take`] deducted.
        free_bytes: u64,
        /// Bytes of the disk that must stay free.
        floor_bytes: u64,
    },
    /// The disk refuses writes.
    Refused {
        /// Error of the system.
        why: String,
    },
}

/// Snapshot of the remaining capacity.
#[derive(Clone, Debug)]
pub struct Room {
    budget_bytes: u64,
    kept_bytes: u64,
    free_bytes: Result<u64, String>,
    floor_bytes: u64,
    taken_bytes: u64,
}

impl Room {
    /// Returns the capacity for new files if all evictable files were evicted. Open files and
    /// pinned files remain, and pinned files count as complete. Waits for the disk.
    pub fn for_files(cache: &Cache) -> Self {
        Self::measure(cache, |kept| {
            kept.in_use_bytes.saturating_add(kept.pinned_cost_bytes)
        })
    }

    /// Returns the capacity for files that will be pinned. Pinned files remain and count as
    /// complete. Reservations and unpinned files, even open ones, do not count. Waits for the disk.
    pub fn for_pins(cache: &Cache) -> Self {
        Self::measure(cache, |kept| kept.pinned_cost_bytes)
    }

    /// Returns the capacity for bytes that are reserved now if all evictable files were evicted.
    /// This is not a promise. Waits for the disk.
    pub fn for_reservation(cache: &Cache) -> Self {
        Self::measure(cache, |kept| {
            kept.in_use_bytes.saturating_add(kept.pinned_charge_bytes)
        })
    }

    fn measure(cache: &Cache, kept: impl Fn(&RetainedBytes) -> u64) -> Self {
        let core = cache.core();
        let index = core.index.lock_idle();
        let (tally, charged_bytes) = (index.tally(), index.space.charged_bytes);
        let passing_bytes = index
            .space
            .evictable_bytes
            .saturating_add(tally.pinned_charge_bytes);
        let kept_bytes = kept(&RetainedBytes {
            in_use_bytes: charged_bytes.saturating_sub(passing_bytes),
            pinned_charge_bytes: tally.pinned_charge_bytes,
            pinned_cost_bytes: tally.pinned_cost_bytes,
        });
        let (budget_bytes, floor_bytes) = (index.space.budget_bytes, index.space.floor_bytes);
        drop(index);
        let free_bytes = writable_bytes(&core.context.disk, &core.context.layout);
        // Free space once all but the retained bytes are evicted. Retained bytes of incomplete
        // pinned files still need space.
        let free_bytes = free_bytes.map(|free_bytes| {
            let in_all_bytes = free_bytes.saturating_add(charged_bytes);
            in_all_bytes.saturating_sub(kept_bytes)
        });
        Self {
            budget_bytes,
            kept_bytes,
            free_bytes,
            floor_bytes,
            taken_bytes: 0,
        }
    }

    /// Returns whether `bytes` more bytes fit.
    pub fn holds(&self, bytes: u64) -> bool {
        self.lack(bytes).is_none()
    }

    /// Returns the reason why `bytes` more bytes do not fit, or `None` if they fit.
    pub fn lack(&self, bytes: u64) -> Option<Lack> {
        let bytes = self.taken_bytes.saturating_add(bytes);
        let (budget_bytes, kept_bytes) = (self.budget_bytes, self.kept_bytes);
        let floor_bytes = self.floor_bytes;
        match &self.free_bytes {
            Err(why) => Some(Lack::Refused { why: why.clone() }),
            _ if kept_bytes.saturating_add(bytes) > budget_bytes => Some(Lack::Budget {
                budget_bytes,
                kept_bytes: kept_bytes.saturating_add(self.taken_bytes),
            }),
            Ok(free_bytes) if *free_bytes < bytes.saturating_add(floor_bytes) => Some(Lack::Disk {
                free_bytes: free_bytes.saturating_sub(self.taken_bytes),
                floor_bytes,
            }),
            Ok(_) => None,
        }
    }

    /// Deducts `bytes` from the capacity.
    pub fn take(&mut self, bytes: u64) {
        self.taken_bytes = self.taken_bytes.saturating_add(bytes);
    }
}

/// Budget bytes that are not evicted.
struct RetainedBytes {
    /// Bytes of open, unpinned files and of reservations.
    in_use_bytes: u64,
    /// Current charge of pinned files that have an entry.
    pinned_charge_bytes: u64,
    /// Charge of these pinned files once they are complete.
    pinned_cost_bytes: u64,
}

/// Returns the free bytes of the disk, or the reason why it refuses writes.
fn writable_bytes(disk: &Disk, layout: &Layout) -> Result<u64, String> {
    let dir = &layout.dir;
    let stat = rustix::fs::statvfs(dir).map_err(|errno| errno.to_string())?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(format!("{} is on a read-only filesystem", dir.display()));
    }
    disk.free_bytes(dir).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(free_bytes: Result<u64, String>) -> Room {
        Room {
            budget_bytes: 100,
            kept_bytes: 40,
            free_bytes,
            floor_bytes: 10,
            taken_bytes: 0,
        }
    }

    #[test]
    fn a_refused_file_is_blamed_on_the_disk_or_the_budget_as_appropriate() {
        let wide = room(Ok(1000));
        assert_eq!(wide.lack(60), None);
        assert!(matches!(
            wide.lack(61),
            Some(Lack::Budget { kept_bytes: 40, .. })
        ));
        let narrow = room(Ok(30));
        assert_eq!(narrow.lack(20), None);
        assert!(matches!(
            narrow.lack(21),
            Some(Lack::Disk { free_bytes: 30, .. })
        ));
        let refused = room(Err("read-only".to_owned()));
        assert!(matches!(refused.lack(0), Some(Lack::Refused { .. })));
    }

    #[test]
    fn reserved_room_is_no_longer_available() {
        let mut narrow = room(Ok(30));
        narrow.take(15);
        assert_eq!(narrow.lack(5), None);
        assert!(matches!(
            narrow.lack(6),
            Some(Lack::Disk { free_bytes: 15, .. })
        ));
    }
}
