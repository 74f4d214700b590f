//! Recent askers of each file. They may have parts of it by now.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use p2pfs_proto::wire::native::udp::OFFER_ASKERS_MAX;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Maximum files with remembered askers. The least recently requested one is forgotten first.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Maximum askers remembered for one file: as many as an offer can name.
pub const ASKERS_MAX: usize = OFFER_ASKERS_MAX;
/// How long an asker is remembered.
const LATELY: Duration = Duration::from_secs(120);

pub(super) struct Askers {
    files: LruCache<ContentHash, VecDeque<(NodeId, Instant)>>,
}

impl Askers {
    pub(super) fn new() -> Self {
        Self {
            files: LruCache::new(FILES_MAX),
        }
    }

    pub(super) fn record(&mut self, now: Instant, hash: ContentHash, node: NodeId) {
        let list = self.files.get_or_insert_mut(hash, VecDeque::new);
        list.retain(|(known, _)| *known != node);
        list.push_back((node, now));
        if list.len() > ASKERS_MAX {
            list.pop_front();
        }
    }

    /// Returns the recent askers of a content except `asker`.
    pub(super) fn of(&self, now: Instant, hash: &ContentHash, asker: &NodeId) -> Vec<NodeId> {
        let Some(list) = self.files.peek(hash) else {
            return vec![];
        };
        let lately = |at: &Instant| now.saturating_duration_since(*at) < LATELY;
        list.iter()
            .filter(|(n, at)| n != asker && lately(at))
            .map(|(n, _)| *n)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_askers_are_named_except_to_themselves() {
        let (mut askers, now) = (Askers::new(), Instant::now());
        let hash = ContentHash::of(b"x");
        for i in 0..20 {
            askers.record(now, hash, NodeId::new([i; 32]));
        }
        let others = askers.of(now, &hash, &NodeId::new([19; 32]));
        assert_eq!(others.len(), ASKERS_MAX - 1);
        assert!(
            askers
                .of(now + LATELY, &hash, &NodeId::new([0; 32]))
                .is_empty()
        );
    }

    #[test]
    fn an_asker_that_asks_again_is_forgotten_last() {
        let (mut askers, now) = (Askers::new(), Instant::now());
        let hash = ContentHash::of(b"x");
        let node = |number| NodeId::new([number; 32]);
        let last = ASKERS_MAX as u8;
        for number in (0..last).chain([0, last]) {
            askers.record(now, hash, node(number));
        }
        let others = askers.of(now, &hash, &node(last));
        assert!(others.contains(&node(0)) && !others.contains(&node(1)));
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let (mut askers, now) = (Askers::new(), Instant::now());
        for i in 0..5000u32 {
            askers.record(now, ContentHash::of(&i.to_le_bytes()), NodeId::new([1; 32]));
        }
        assert_eq!(askers.files.len(), FILES_MAX.get());
    }
}
