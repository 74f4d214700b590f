//! The numbers of removed shares, until the removal of their entries is stored.

use p2pfs_content::shares::FormerNumbers;
use p2pfs_proto::wire::native::record::ShareIndex;

/// Removed shares of which the own log has no entries, while the stored log may still have some.
pub(super) struct VacatedShares {
    numbers: FormerNumbers,
    waiting: Vec<(ShareIndex, u64)>,
}

impl VacatedShares {
    pub(super) fn new(numbers: FormerNumbers) -> Self {
        let waiting = Vec::new();
        Self { numbers, waiting }
    }

    /// Adds a share whose removal number `removal` is recorded in the own log.
    pub(super) fn push(&mut self, share: ShareIndex, removal: u64) {
        self.waiting.push((share, removal));
    }

    /// Frees the numbers of all these shares. The own log must be stored.
    pub(super) fn release_all(&mut self) {
        for (share, removal) in self.waiting.drain(..) {
            self.numbers.release(share, removal);
        }
    }
}
