//! How much more the cache can take, and what keeps it from more.

use rustix::fs::StatVfsMountFlags;

use super::Cache;
use super::disk::Disk;
use super::layout::Layout;

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

impl Cache {
    /// Room for what is to come now, were all evicted that may be: beside what is pinned or open.
    /// Waits for the disk.
    pub fn room(&self) -> Room {
        self.look(|kept_bytes, _| kept_bytes)
    }

    /// Room for what is to stay: beside what is pinned. Waits for the disk.
    pub fn room_to_stay(&self) -> Room {
        self.look(|_, pinned_bytes| pinned_bytes)
    }

    fn look(&self, kept: impl Fn(u64, u64) -> u64) -> Room {
        let core = self.core();
        let index = core.index_at_rest();
        let fixed_bytes = index.charged_bytes.saturating_sub(index.evictable_bytes);
        let kept_bytes = kept(fixed_bytes, index.tally().pinned_bytes);
        let given_up_bytes = index.charged_bytes.saturating_sub(kept_bytes);
        let (budget_bytes, floor_bytes) = (index.budget_bytes, index.floor_bytes);
        drop(index);
        let free_bytes = writable_bytes(&core.works.disk, &core.works.layout);
        Room {
            budget_bytes,
            kept_bytes,
            free_bytes: free_bytes.map(|free_bytes| free_bytes.saturating_add(given_up_bytes)),
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
