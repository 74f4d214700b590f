//! Read-ahead of all readers together. The more readers, the smaller each one's share.

use super::fetch::FileFetch;
use super::{AHEAD_MAX_BYTES, AHEAD_OF_ALL_MAX_BYTES};
use p2pfs_types::extent::ByteRange;

/// Bounds of the read-ahead of all readers together.
#[derive(Debug, Default)]
pub struct ReadAheadBudget {
    /// Number of readers with read-ahead.
    streams: usize,
    budget_bytes: Option<u64>,
    /// Whether the network is metered (billed by the byte). Read-ahead is off then.
    pub(super) is_metered: bool,
}

impl ReadAheadBudget {
    /// Bounds the read-ahead of all readers together below [`AHEAD_OF_ALL_MAX_BYTES`] while the
    /// cache has no room. `None` lifts the bound.
    pub fn limit(&mut self, budget_bytes: Option<u64>) {
        self.budget_bytes = budget_bytes;
    }

    /// Returns the maximum read-ahead of one reader in bytes, at present.
    pub(super) fn of_each(&self) -> u64 {
        let own = self.budget_bytes.unwrap_or(AHEAD_OF_ALL_MAX_BYTES);
        let each = own.min(AHEAD_OF_ALL_MAX_BYTES) / self.streams.max(1) as u64;
        each.min(AHEAD_MAX_BYTES)
    }

    /// Extends the read-ahead of the reader of a range. Returns whether there is more to fetch
    /// ahead than before.
    pub(super) fn extend(&mut self, file: &mut FileFetch, range: ByteRange) -> bool {
        if self.is_metered || file.presence.is_whole() {
            return false;
        }
        let limit = self.of_each();
        let before = file.streams.established();
        let more = file.streams.read(range, file.size_bytes, limit);
        self.streams = self.streams + file.streams.established() - before;
        more
    }

    /// Forgets the streams of a file, so that its read-ahead stops until its next read.
    pub(super) fn forget(&mut self, file: &mut FileFetch) {
        self.streams -= file.streams.established();
        file.streams.clear();
    }
}
