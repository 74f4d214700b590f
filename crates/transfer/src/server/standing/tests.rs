//! Hung disks, and what is served from others meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::server::fair_queue::{QueuedRequest, STANDS_STILL, ServeTurn};
use crate::server::{Server, ServerLimits};
use p2pfs_cache::{Cache, CacheConfig};
use p2pfs_content::sample::store_of;
use p2pfs_proto::wire::native::tcp::{Lane, PackedBatch, Request, Response, SmallFile};
use p2pfs_share::{ShareConfig, ShareSet, ShareSpec};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

const PATIENCE: Duration = Duration::from_secs(400);

struct World {
    _folder: tempfile::TempDir,
    server: Server,
}

fn asker() -> NodeId {
    NodeId::new([1; 32])
}

fn content(name: &str) -> ContentHash {
    ContentHash::of(name.as_bytes())
}

/// Creates a server of two folders: one with many files, one with few.
fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let put = |dir: &Path, name: &str| std::fs::write(dir.join(name), name).unwrap();
    for dir in ["far", "near", "state"] {
        std::fs::create_dir(at(dir)).unwrap();
    }
    (0..3 * STANDING_OF_DISK_MAX).for_each(|n| put(&at("far"), &format!("far-{n}")));
    put(&at("near"), "near");
    let (shares, mut events) = ShareSet::open(ShareConfig::new(at("state"))).unwrap();
    for dir in ["far", "near"] {
        shares.add(ShareSpec::new(at(dir))).unwrap();
    }
    std::thread::spawn(move || while events.blocking_recv().is_some() {});
    assert!(shares.wait_settled(PATIENCE));
    let config = CacheConfig {
        dir: at("cache"),
        budget_bytes: 1 << 20,
        floor_bytes: 0,
    };
    let limits = ServerLimits {
        makers_max: 2 * STANDING_OF_DISK_MAX,
        ..ServerLimits::default()
    };
    let cache = Cache::open(config).unwrap().0;
    let server = Server::new(store_of(cache, shares), limits);
    World {
        _folder: folder,
        server,
    }
}

impl World {
    /// Begins to read this many files of the first folder. The reads end when the turns are
    /// dropped.
    fn stuck(&self, count: usize) -> BTreeMap<usize, ServeTurn> {
        let begin = |n| {
            let of = (Lane::Bulk, asker());
            let hash = content(&format!("far-{n}"));
            let asked = QueuedRequest::of_range(of, hash, ByteRange::at(0, 5));
            (
                n,
                self.server
                    .inner
                    .queues
                    .answers
                    .pass_at_once(asked)
                    .unwrap(),
            )
        };
        (0..count).map(begin).collect()
    }

    fn is_stuck(&self, name: &str) -> bool {
        let soon = Instant::now() + STANDS_STILL;
        let inner = &self.server.inner;
        (inner.queues).is_stuck(&inner.contents, &content(name), soon)
    }
}

#[tokio::test]
async fn no_more_requests_start_on_a_disk_with_many_stalled_ones() {
    let world = world();
    let last = STANDING_OF_DISK_MAX - 1;
    let next = format!("far-{STANDING_OF_DISK_MAX}");
    let mut stuck = world.stuck(last);
    assert!(world.is_stuck("far-0"));
    assert!(!world.is_stuck(&next), "its disk may be well");
    stuck = stuck.into_iter().chain(world.stuck(last + 1)).collect();
    assert!(world.is_stuck(&next));
    assert!(!world.is_stuck("near"), "another disk");
    assert!(!world.is_stuck("nobody has it"));
    stuck.remove(&0);
    assert!(!world.is_stuck(&next), "some of it has ended");
}

#[tokio::test]
async fn files_on_a_stalled_disk_are_refused_and_others_served() {
    let world = world();
    let server = &world.server;
    let _stuck = world.stuck(STANDING_OF_DISK_MAX);
    let stands_by_now = || {
        let all = server.inner.queues.stuck_for(STANDS_STILL, Instant::now());
        all.len() == STANDING_OF_DISK_MAX
    };
    while !stands_by_now() {
        std::thread::yield_now();
    }
    let (far, near) = (content("far-40"), content("near"));
    let range = |hash, size_bytes| Request::Range {
        hash,
        size_bytes,
        range: ByteRange::new(0, size_bytes),
    };
    let answer = |request| server.answer(asker(), Lane::Urgent, request);
    for request in [range(far, 6), Request::Holdings { hash: far }] {
        let answer = answer(request).await;
        assert!(matches!(answer, Response::Refused { .. }), "{answer:?}");
    }
    assert!(matches!(
        answer(range(near, 4)).await,
        Response::Data { .. }
    ));
    assert!(server.offer_for(asker(), &far).is_none());
    assert!(server.offer_for(asker(), &near).is_some());
    let files = [(far, 6), (near, 4)];
    let files = files.map(|(hash, size_bytes)| SmallFile { hash, size_bytes });
    let batch = answer(Request::Batch {
        files: files.into(),
    });
    let Response::Batch { packed } = batch.await else {
        panic!("no batch");
    };
    let mut first = PackedBatch::with_capacity(0);
    first.push_not_here();
    let first = first.into_bytes();
    assert!(packed.starts_with(&first) && packed.len() > first.len() + 4);
}
