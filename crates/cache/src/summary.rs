//! Size and pages of a file, as the index knows them while the file is closed.

use super::budget::charge_bytes;
use super::pages::Counts;

/// Properties of a closed file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileSummary {
    pub(super) size_bytes: u64,
    pub(super) cached_bytes: u64,
    /// Pages on disk, both present and in doubt.
    pub(super) counts: Counts,
    pub(super) in_doubt: bool,
}

impl FileSummary {
    pub(super) fn is_complete(&self) -> bool {
        self.cached_bytes == self.size_bytes
    }

    /// Returns the bytes that the file takes of the budget.
    pub(super) fn charge_bytes(&self) -> u64 {
        charge_bytes(self.size_bytes, self.counts)
    }
}
