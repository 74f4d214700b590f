//! Read-ahead of all readers together. The more readers, the smaller each one's share.

use std::time::Instant;

use super::fetch::FileFetch;
use super::queue::WorkClass;
use super::{AHEAD_MAX_BYTES, AHEAD_OF_ALL_MAX_BYTES, Plan};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;

/// Bounds of the read-ahead of all readers together.
#[derive(Debug, Default)]
pub struct ReadAheadBudget {
    /// Number of readers with read-ahead.
    streams: usize,
    budget_bytes: Option<u64>,
    /// Whether the network is metered, which costs by the byte. Read-ahead is off then.
    is_metered: bool,
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
    fn extend(&mut self, file: &mut FileFetch, range: ByteRange) -> bool {
        if self.is_metered || file.is_complete() {
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

impl Plan {
    /// Records that a reader has read, or is about to read, `range` of an open file, and extends
    /// its read-ahead.
    pub fn note_read(&mut self, now: Instant, content: &ContentKey, range: ByteRange) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        fetch.times.last_used = now;
        if self.read_ahead.extend(fetch, range) {
            self.enqueue(content, WorkClass::ReadAhead);
        }
    }

    /// Forgets the streams of a file; see [`ReadAheadBudget::forget`].
    pub(super) fn forget_streams(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.files.get_mut(content) {
            self.read_ahead.forget(fetch);
        }
    }

    /// Turns read-ahead off on a metered network, or on again. Answers in flight may still arrive.
    /// Whole files are still fetched, because a user requested them.
    pub fn set_metered(&mut self, metered: bool) {
        self.read_ahead.is_metered = metered;
        if !metered {
            return;
        }
        for content in self.files.contents() {
            self.forget_streams(&content);
            self.queue.dequeue(&content, WorkClass::ReadAhead);
        }
    }
}
