//! Rate limits for other nodes' lists of readers. Each list that names this node costs it one key
//! agreement, and costs its author nothing. This module counts the lists of each author and does
//! not read their meaning.

use std::time::Instant;

use p2pfs_catalogue::PART_MAX_RECORDS;
use p2pfs_membership::MEMBERS_MAX;
use p2pfs_proto::wire::native::record::{Fact, Record};
use p2pfs_types::id::NodeId;
use p2pfs_types::keyed_buckets::KeyedBuckets;

/// Burst of reader lists naming this node that are accepted from one author. It is the maximum in
/// one part of a log, so that no part is too long forever.
pub const LISTS_AT_ONCE: u32 = PART_MAX_RECORDS as u32;
/// Long-term rate of these lists per second. Beyond it the author's log waits.
pub const LISTS_PER_S: u32 = 64;

/// The remaining allowance of each author. An author that is not in the map has its full allowance.
#[derive(Debug)]
pub(super) struct ListPaces(KeyedBuckets<NodeId>);

impl Default for ListPaces {
    fn default() -> Self {
        let paces = KeyedBuckets::per_second(LISTS_PER_S, LISTS_AT_ONCE, MEMBERS_MAX);
        Self(paces)
    }
}

impl ListPaces {
    /// Returns whether these records of an author may be accepted by `me` now. If so, they count as
    /// taken.
    pub(super) fn try_take(
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
        // A part that is too long is rejected as a whole, and other code reports it.
        match records
            .iter()
            .take(PART_MAX_RECORDS)
            .filter(is_named)
            .count()
        {
            0 => true,
            count => self.count_against_limit(now, author, count as u32),
        }
    }

    pub(super) fn count_against_limit(&mut self, now: Instant, author: NodeId, count: u32) -> bool {
        self.0.take(author, count, now)
    }
}
