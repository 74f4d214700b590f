//! How much more the cache can take, and what keeps it from more.

use rustix::fs::StatVfsMountFlags;

use super::Cache;
use super::budget::cost_bytes;
use super::disk::Disk;
use super::index::Entry;
use super::layout::Layout;
use p2pfs_types::digest::ContentHash;

/// Why bytes do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The budget is too small for them beside what has to stay.
    Budget {
        budget_bytes: u64,
        /// What has to stay.
        kept_bytes: u64,
    },
    /// The disk is too small or too full.
    Disk {
        /// What it has free, with what the cache would give up.
        free_bytes: u64,
        /// What of it stays free.
        floor_bytes: u64,
    },
    /// The disk takes no writes.
    Refused {
        /// What the system says.
        why: String,
    },
}

/// What is free for more, as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct Room {
    budget_bytes: u64,
    kept_bytes: u64,
    free_bytes: Result<u64, String>,
    floor_bytes: u64,
    taken_bytes: u64,
}

impl Room {
    /// What keeps so many bytes more out; none where they fit.
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

    /// From now on so many are taken.
    pub fn take(&mut self, bytes: u64) {
        self.taken_bytes = self.taken_bytes.saturating_add(bytes);
    }
}

/// What is not evicted, in bytes of the budget.
struct Kept {
    /// Of what is open and not pinned, and what is reserved.
    in_use_bytes: u64,
    /// Of what is pinned and begun: what it takes, and what it takes once it is whole.
    pinned_charge_bytes: u64,
    pinned_cost_bytes: u64,
}

impl Cache {
    /// Room for what is to come now, were all evicted that may be: beside what is open, and what
    /// is pinned, which counts as if it were whole. Waits for the disk.
    pub fn room(&self) -> Room {
        self.look(|kept| kept.in_use_bytes.saturating_add(kept.pinned_cost_bytes))
    }

    /// Room for what is to stay: beside what is pinned. Waits for the disk.
    pub fn room_to_stay(&self) -> Room {
        self.look(|kept| kept.pinned_cost_bytes)
    }

    /// Whether so many bytes could be reserved now, were all evicted that may be. Not a promise.
    /// Waits for the disk.
    pub fn could_hold(&self, bytes: u64) -> bool {
        let room = self.look(|kept| kept.in_use_bytes.saturating_add(kept.pinned_charge_bytes));
        room.lack(bytes).is_none()
    }

    /// What the pinned contents of which something is here take of the budget once they are whole.
    pub fn pinned_cost_bytes(&self) -> u64 {
        self.core().index.lock().tally().pinned_cost_bytes
    }

    /// What a content takes beside what stays now, were it to be whole.
    pub fn bytes_to_come(&self, hash: &ContentHash, size_bytes: u64) -> u64 {
        let index = self.core().index.lock();
        let kept = index.get(hash).filter(|_| !index.is_evictable(hash));
        let kept_bytes = kept.map_or(0, Entry::charge_bytes);
        cost_bytes(size_bytes).saturating_sub(kept_bytes)
    }

    fn look(&self, kept: impl Fn(&Kept) -> u64) -> Room {
        let core = self.core();
        let index = core.index_at_rest();
        let (tally, charged_bytes) = (index.tally(), index.charged_bytes);
        let passing_bytes = index
            .evictable_bytes
            .saturating_add(tally.pinned_charge_bytes);
        let kept_bytes = kept(&Kept {
            in_use_bytes: charged_bytes.saturating_sub(passing_bytes),
            pinned_charge_bytes: tally.pinned_charge_bytes,
            pinned_cost_bytes: tally.pinned_cost_bytes,
        });
        let (budget_bytes, floor_bytes) = (index.budget_bytes, index.floor_bytes);
        drop(index);
        let free_bytes = writable_bytes(&core.context.disk, &core.context.layout);
        // what is charged is given up, but for what is kept, which the disk must yet take
        let free_bytes = free_bytes.map(|free_bytes| {
            let in_all_bytes = free_bytes.saturating_add(charged_bytes);
            in_all_bytes.saturating_sub(kept_bytes)
        });
        Room {
            budget_bytes,
            kept_bytes,
            free_bytes,
            floor_bytes,
            taken_bytes: 0,
        }
    }
}

/// What the disk has free for writes, or why it takes none.
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
    fn what_does_not_fit_is_blamed_on_the_disk_or_on_the_budget_as_it_is() {
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
    fn what_was_taken_is_there_no_more() {
        let mut narrow = room(Ok(30));
        narrow.take(15);
        assert_eq!(narrow.lack(5), None);
        assert!(matches!(
            narrow.lack(6),
            Some(Lack::Disk { free_bytes: 15, .. })
        ));
    }
}
