//! How fast other nodes' lists of readers are taken in: each that names this node costs it one
//! agreement on a key, and its author nothing. Knows how many came of whom, nothing of what they
//! mean.

use std::collections::BTreeMap;
use std::time::Instant;

use p2pfs_catalogue::PART_MAX_RECORDS;
use p2pfs_proto::wire::native::record::{Fact, Record};
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::NodeId;

/// Lists of readers that name this node which are taken from one author at once: as many as one
/// part of a log can have, so that none is too long for ever.
pub const LISTS_AT_ONCE: u32 = PART_MAX_RECORDS as u32;
/// And a second in the long run; the author's log waits until then.
pub const LISTS_PER_S: u32 = 64;

/// What each author may say still; who is not in it, all.
#[derive(Debug, Default)]
pub(super) struct ListPaces(BTreeMap<NodeId, TokenBucket>);

impl ListPaces {
    /// Whether these records of an author may be taken in by `me` now; then they count as taken.
    pub(super) fn take(
        &mut self,
        now: Instant,
        author: NodeId,
        me: &NodeId,
        records: &[Record],
    ) -> bool {
        let is_named = |record: &&Record| match &record.fact {
            Fact::Readers { readers, .. } => readers.iter().any(|reader| reader.node == *me),
            _ => false,
        };
        // of a part that is too long nothing is taken in: that is told elsewhere
        match records
            .iter()
            .take(PART_MAX_RECORDS)
            .filter(is_named)
            .count()
        {
            0 => true,
            count => self.take_count(now, author, count as u32),
        }
    }

    pub(super) fn take_count(&mut self, now: Instant, author: NodeId, count: u32) -> bool {
        self.0.retain(|_, bucket| !bucket.is_full(now));
        let full = || TokenBucket::per_second(LISTS_PER_S, LISTS_AT_ONCE, now);
        let bucket = self.0.entry(author).or_insert_with(full);
        bucket.take(count, now)
    }
}
