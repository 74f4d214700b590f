//! What is fetched ahead of all readers together: the more they are, the less for each.

use std::time::Instant;

use super::turns::Want;
use super::{AHEAD_MAX_BYTES, AHEAD_OF_ALL_MAX_BYTES, Plan};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;

impl Plan {
    /// A reader has read, or is about to read, `range` of an open file: keep ahead of it.
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
            self.call_up(content, Want::Ahead);
        }
    }

    /// Bounds what is fetched ahead for all readers together, while the cache keeps nothing, to
    /// less than [`AHEAD_OF_ALL_MAX_BYTES`]; `None` lifts that bound.
    pub fn limit_read_ahead(&mut self, budget_bytes: Option<u64>) {
        self.ahead_budget_bytes = budget_bytes;
    }

    /// The most that is fetched ahead of one reader now.
    pub(super) fn ahead_limit_bytes(&self) -> u64 {
        let own = self.ahead_budget_bytes.unwrap_or(AHEAD_OF_ALL_MAX_BYTES);
        let each = own.min(AHEAD_OF_ALL_MAX_BYTES) / self.established_streams.max(1) as u64;
        each.min(AHEAD_MAX_BYTES)
    }

    /// Nothing is fetched ahead in a file any more, until it is read on.
    pub(super) fn forget_streams(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.fetches.get_mut(content) {
            self.established_streams -= fetch.streams.established();
            fetch.streams.clear();
        }
    }
}
