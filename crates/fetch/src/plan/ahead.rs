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
    /// Sets the bound of the read-ahead of all readers together, at most
    /// [`AHEAD_OF_ALL_MAX_BYTES`]. `None` restores that maximum.
    pub fn limit(&mut self, budget_bytes: Option<u64>) {
        self.budget_bytes = budget_bytes;
    }

    /// Returns the maximum read-ahead of one reader in bytes, at present.
    pub(super) fn of_each(&self) -> u64 {
        let own = self.budget_bytes.unwrap_or(AHEAD_OF_ALL_MAX_BYTES);
        let each = own.min(AHEAD_OF_ALL_MAX_BYTES) / self.streams.max(1) as u64;
        each.min(AHEAD_MAX_BYTES)
    }

    /// Records a read in its stream. Returns whether the read-ahead ends farther than before. Does
    /// nothing on a metered network, or if the whole file is here.
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

    /// Forgets the streams of a file, which ends its read-ahead.
    pub(super) fn forget(&mut self, file: &mut FileFetch) {
        self.streams -= file.streams.established();
        file.streams.clear();
    }
}
