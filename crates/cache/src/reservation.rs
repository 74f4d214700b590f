//! Room in the budget for bytes that are not the cache's own: unverified ones of legacy peers.
//!
//! They are charged like cached pages, by the same rules: the budget and the free-space floor hold,
//! and the least recently used files make room. What is reserved is never evicted; its owner
//! drops it.

use std::sync::Arc;

use super::Cache;
use super::core::Core;
use p2pfs_types::extent::PAGE_BYTES;

/// Bytes of the budget; given back when dropped.
pub struct Reservation {
    core: Arc<Core>,
    charged_bytes: u64,
}

impl Cache {
    /// An empty room, to grow.
    pub fn reservation(&self) -> Reservation {
        Reservation {
            core: self.core().clone(),
            charged_bytes: 0,
        }
    }
}

impl Reservation {
    /// Grows until it holds so many bytes, evicting cached files for them. False where there is no
    /// room: it is as before then.
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let wanted_bytes = bytes.next_multiple_of(PAGE_BYTES);
        let more_bytes = wanted_bytes.saturating_sub(self.charged_bytes);
        let is_granted = self.core.reserve(more_bytes);
        if is_granted {
            self.charged_bytes += more_bytes;
        }
        is_granted
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut index = self.core.index.lock();
        index.recharge(self.charged_bytes, 0);
        // how much that freed is for the file system to say
        index.forget_measure();
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({} bytes)", self.charged_bytes)
    }
}
