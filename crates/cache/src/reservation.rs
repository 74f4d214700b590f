//! Room in the budget that is reserved for bytes outside the cache: the unverified bytes of foreign
//! files.
//!
//! Reservations are charged like cached pages, under the same rules: the budget and the free-space
//! floor hold, and the least recently used files are evicted. A reservation is never evicted; its
//! owner drops it.

use std::sync::Arc;

use super::core::CacheCore;
use p2pfs_types::extent::PAGE_BYTES;

/// Reserved bytes of the budget; released when dropped.
pub struct Reservation {
    pub(super) core: Arc<CacheCore>,
    pub(super) charged_bytes: u64,
}

impl Reservation {
    /// Grows the reservation to `bytes` and evicts cached files if needed. Returns `false` if they
    /// do not fit; the reservation is unchanged then.
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
        // Only the file system knows how much space this freed.
        index.forget_measure();
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({} bytes)", self.charged_bytes)
    }
}
