//! Bounds of read-ahead over all readers together. The more readers, the smaller each one's share.

use std::time::Instant;

use super::queue::WorkClass;
use super::{AHEAD_MAX_BYTES, AHEAD_OF_ALL_MAX_BYTES, Plan};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;

impl Plan {
    /// Records that a reader has read, or is about to read, `range` of an open file, and extends
    /// its read-ahead.
    pub fn note_read(&mut self, now: Instant, content: &ContentKey, range: ByteRange) {
        let limit = self.ahead_limit_bytes();
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        fetch.last_used = now;
        if self.metered || fetch.is_complete() {
            return;
        }
        let before = fetch.streams.established();
        let more = fetch.streams.read(range, fetch.size_bytes, limit);
        let after = fetch.streams.established();
        self.established_streams = self.established_streams + after - before;
        if more {
            self.enqueue(content, WorkClass::ReadAhead);
        }
    }

    /// Bounds the read-ahead of all readers together below [`AHEAD_OF_ALL_MAX_BYTES`] while the
    /// cache has no room. `None` lifts the bound.
    pub fn limit_read_ahead(&mut self, budget_bytes: Option<u64>) {
        self.ahead_budget_bytes = budget_bytes;
    }

    /// Returns the maximum read-ahead of one reader in bytes, at present.
    pub(super) fn ahead_limit_bytes(&self) -> u64 {
        let own = self.ahead_budget_bytes.unwrap_or(AHEAD_OF_ALL_MAX_BYTES);
        let each = own.min(AHEAD_OF_ALL_MAX_BYTES) / self.established_streams.max(1) as u64;
        each.min(AHEAD_MAX_BYTES)
    }

    /// Forgets the streams of a file, so that its read-ahead stops until its next read.
    pub(super) fn forget_streams(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.fetches.get_mut(content) {
            self.established_streams -= fetch.streams.established();
            fetch.streams.clear();
        }
    }
}
