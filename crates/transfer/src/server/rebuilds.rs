//! Rebuilds of outboards. A range of an own file without a stored outboard can be proven only after
//! the whole file was hashed, however few bytes are requested.
//!
//! Rebuilds wait in a queue of their own and hold no turn of the other answers. Otherwise a few
//! requests for single bytes would occupy all turns, and their disk would count as hung. The asker
//! is told `Busy` until the rebuild ends, which extends the wait of its reader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use p2pfs_content::ContentStore;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Number of files that are hashed at once to rebuild their outboards. Each occupies a processor.
const RUNNING_MAX: usize = 2;
/// Maximum rebuilds of one asker, running or waiting. A file is hashed at about 1 GB/s, so another
/// asker waits a moment for ordinary files.
pub(crate) const REBUILDS_PER_NODE_MAX: usize = 4;
/// Maximum rebuilds, running or waiting.
pub(crate) const REBUILDS_MAX: usize = 256;
/// How long a request waits for its rebuild before it is answered as `Busy`. Most files take less.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The rebuilds that run or wait. Clones share their state.
#[derive(Clone)]
pub(super) struct Rebuilds {
    /// The asker of each content.
    open: Arc<Mutex<BTreeMap<ContentHash, NodeId>>>,
    running: Arc<Semaphore>,
}

/// The place of one rebuild, until it is dropped.
struct RebuildPlace {
    of: Rebuilds,
    hash: ContentHash,
}

impl Drop for RebuildPlace {
    fn drop(&mut self) {
        self.of.open.lock().remove(&self.hash);
    }
}

impl Rebuilds {
    pub(super) fn new() -> Self {
        Self {
            open: Arc::default(),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
        }
    }

    /// Returns a place. Returns `None` if the content has one, or a limit is reached.
    fn enter(&self, from: NodeId, hash: ContentHash) -> Option<RebuildPlace> {
        let mut open = self.open.lock();
        let of_asker = open.values().filter(|asker| **asker == from).count();
        let is_refused = open.contains_key(&hash)
            || of_asker >= REBUILDS_PER_NODE_MAX
            || open.len() >= REBUILDS_MAX;
        if is_refused {
            return None;
        }
        open.insert(hash, from);
        let of = self.clone();
        Some(RebuildPlace { of, hash })
    }

    /// Rebuilds the outboard of a content. Returns whether the rebuild ended within [`WAIT_MAX`];
    /// otherwise it goes on.
    pub(super) async fn rebuild(
        &self,
        contents: &ContentStore,
        from: NodeId,
        content: ContentKey,
        range: ByteRange,
    ) -> bool {
        let Some(place) = self.enter(from, content.hash) else {
            return false;
        };
        let (contents, running) = (contents.clone(), self.running.clone());
        let job = tokio::spawn(async move {
            let _turn = running.acquire_owned().await;
            let hashing = move || {
                contents.rebuild_outboard(&content, range);
                drop(place);
            };
            tokio::task::spawn_blocking(hashing).await
        });
        timeout(WAIT_MAX, job).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::server::{Server, ServerLimits};
    use p2pfs_cache::{Cache, CacheConfig};
    use p2pfs_content::sample::store_of;
    use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
    use p2pfs_share::{ShareConfig, ShareSet, ShareSpec};

    const PATIENCE: Duration = Duration::from_secs(600);

    fn range_of(hash: ContentHash, size_bytes: u64) -> Request {
        let range = ByteRange::new(0, size_bytes.min(4096));
        Request::Range {
            hash,
            size_bytes,
            range,
        }
    }

    /// Creates a server of a folder with a small file and with large ones whose outboards are not
    /// stored. Returns their contents too, the small file first.
    fn server_of(folder: &Path) -> (Server, Vec<(ContentHash, u64)>) {
        let at = |name: &str| folder.join(name);
        std::fs::create_dir(at("share")).unwrap();
        std::fs::create_dir(at("state")).unwrap();
        let file = |number: u8| {
            let bytes = vec![number; if number == 0 { 5 } else { 2 << 20 }];
            std::fs::write(at("share").join(number.to_string()), &bytes).unwrap();
            (ContentHash::of(&bytes), bytes.len() as u64)
        };
        let files = (0..24).map(file).collect();
        let config = ShareConfig {
            outboard_budget_bytes: 0,
            ..ShareConfig::new(at("state"))
        };
        let (shares, mut events) = ShareSet::open(config).unwrap();
        shares.add(ShareSpec::new(at("share"))).unwrap();
        std::thread::spawn(move || while events.blocking_recv().is_some() {});
        assert!(shares.wait_settled(PATIENCE));
        let config = CacheConfig {
            dir: at("cache"),
            budget_bytes: 1 << 20,
            floor_bytes: 0,
        };
        let cache = Cache::open(config).unwrap().0;
        let server = Server::new(store_of(cache, shares), ServerLimits::default());
        (server, files)
    }

    #[tokio::test]
    async fn small_files_of_a_share_are_served_while_outboards_of_large_ones_are_rebuilt() {
        let folder = tempfile::tempdir().unwrap();
        let (server, files) = server_of(folder.path());
        let asker = NodeId::new([1; 32]);
        let answer =
            |(hash, size_bytes)| server.answer(asker, Lane::Urgent, range_of(hash, size_bytes));
        let rebuilds = server.inner.rebuilds.running.clone();
        let stopped = rebuilds.acquire_many(RUNNING_MAX as u32).await.unwrap();
        for large in &files[1..] {
            assert!(matches!(answer(*large).await, Response::Busy));
        }
        let later = std::time::Instant::now() + PATIENCE;
        let stuck = server.inner.queues.stuck_for(Duration::ZERO, later);
        assert!(stuck.is_empty(), "no rebuild counts as a hung disk");
        assert!(matches!(answer(files[0]).await, Response::Data { .. }));
        drop(stopped);
        for large in &files[1..] {
            while matches!(answer(*large).await, Response::Busy) {
                tokio::task::yield_now().await;
            }
            assert!(matches!(answer(*large).await, Response::Data { .. }));
        }
    }

    #[test]
    fn rebuilds_are_bounded_by_asker_and_in_total_and_each_content_has_one() {
        let (rebuilds, node) = (Rebuilds::new(), |n: u8| NodeId::new([n; 32]));
        let hash = |n: usize| ContentHash::of(&n.to_le_bytes());
        let of_one = |n| rebuilds.enter(node(1), hash(n));
        let mut places: Vec<_> = (0..10 * REBUILDS_PER_NODE_MAX).filter_map(of_one).collect();
        assert_eq!(places.len(), REBUILDS_PER_NODE_MAX);
        assert!(rebuilds.enter(node(2), hash(0)).is_none(), "it is rebuilt");
        let of_many = |n: usize| rebuilds.enter(node((n / 2) as u8), hash(n + 1000));
        places.extend((4..512).filter_map(of_many));
        assert_eq!(places.len(), REBUILDS_MAX);
        places.clear();
        assert!(rebuilds.enter(node(1), hash(0)).is_some());
    }
}
