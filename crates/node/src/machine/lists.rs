//! Rate limits for other nodes' lists of readers. A list that names this node costs this node a key
//! agreement, and its author almost nothing. So this module limits such lists for each author.

use std::time::Instant;

use p2pfs_catalogue::PART_MAX_RECORDS;
use p2pfs_membership::MEMBERS_MAX;
use p2pfs_proto::wire::native::record::{Fact, Record};
use p2pfs_types::id::NodeId;
use p2pfs_types::keyed_buckets::KeyedBuckets;

/// Maximum burst of reader lists that name this node, for each author. One part of a log can
/// contain this many. With a smaller burst, such a part would be refused at each retry.
pub const LISTS_AT_ONCE: u32 = PART_MAX_RECORDS as u32;
/// Long-term rate of reader lists that name this node, per second and author. The log of an author
/// that exceeds it is pulled again later.
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
    /// Returns whether the reader lists that name `me` in these records of an author are within the
    /// limit now. If so, subtracts them from the author's allowance.
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
        // The catalogue refuses a longer part as a whole.
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
