//! A node's disk: its own files, and a cache with a budget.

use std::collections::{BTreeMap, BTreeSet};

use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};

/// The disk of a node. It outlives the node's process.
#[derive(Default)]
pub(super) struct Disk {
    /// Files of its shares.
    pub own: BTreeSet<ContentKey>,
    pub budget_bytes: u64,
    pub pinned: BTreeSet<ContentKey>,
    cached: BTreeMap<ContentKey, ExtentSet>,
}

impl Disk {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            ..Self::default()
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.cached.values().map(ExtentSet::len).sum()
    }

    pub(super) fn present(&self, content: &ContentKey) -> ExtentSet {
        self.cached.get(content).cloned().unwrap_or_default()
    }

    pub(super) fn is_complete(&self, content: &ContentKey) -> bool {
        let all = ByteRange::new(0, content.size_bytes);
        let cached = self.cached.get(content);
        self.own.contains(content) || cached.is_some_and(|ranges| ranges.contains(all))
    }

    /// Returns whether a range can be read here.
    pub(super) fn has(&self, content: &ContentKey, range: ByteRange) -> bool {
        let cached = self.cached.get(content);
        self.own.contains(content) || cached.is_some_and(|ranges| ranges.contains(range))
    }

    /// Returns the ranges that can be given to others: whole chunks.
    pub(super) fn offered(&self, content: &ContentKey) -> ExtentSet {
        let all = ByteRange::new(0, content.size_bytes);
        if self.own.contains(content) {
            return ExtentSet::of(all);
        }
        let whole = |range: ByteRange| range.align_in(CHUNK_BYTES, content.size_bytes);
        let present = self.present(content);
        let ranges = present.iter().map(whole);
        ranges.filter(|range| !range.is_empty()).collect()
    }

    /// Stores a range if there is room after evicting files that are not held.
    pub(super) fn store(
        &mut self,
        content: ContentKey,
        range: ByteRange,
        is_held: impl Fn(&ContentKey) -> bool,
    ) -> bool {
        let new_bytes = range.len() - self.present(&content).present_in(range).len();
        while self.used_bytes() + new_bytes > self.budget_bytes {
            let is_idle = |other: &&ContentKey| {
                **other != content && !self.pinned.contains(*other) && !is_held(other)
            };
            let Some(idle) = self.cached.keys().find(is_idle).copied() else {
                return false;
            };
            self.cached.remove(&idle);
        }
        self.cached.entry(content).or_default().insert(range);
        true
    }
}
