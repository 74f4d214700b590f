//! Stores for tests.

use std::path::Path;

use super::admission::PublishedNames;
use super::store::ContentStore;
use p2pfs_cache::{Cache, CacheConfig};
use p2pfs_catalogue::Catalogue;
use p2pfs_share::{ShareConfig, ShareSet};
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::pool::PiecePool;

/// Creates the published state of a node that lists nothing.
pub fn empty_names() -> PublishedNames {
    let mut catalogue = Catalogue::new(NodeId::new([1; 32]), NodeName::from_host("me"));
    PublishedNames::new(catalogue.view())
}

/// Creates a store of a cache and shares, with a namespace that lists nothing.
pub fn store_of(cache: Cache, shares: ShareSet) -> ContentStore {
    ContentStore::new(cache, shares, empty_names(), PiecePool::default())
}

/// Creates a store of a cache, without shares. Their state is beside the cache.
pub fn store_of_cache(cache: Cache) -> ContentStore {
    let shares = share_set(&cache.dir().with_file_name("share-state"));
    shares.all_added();
    store_of(cache, shares)
}

/// Creates a store below a folder, with a cache of 64 MiB and without shares.
pub fn store_in(home: &Path, names: PublishedNames) -> ContentStore {
    let config = CacheConfig {
        dir: home.join("cache"),
        budget_bytes: 64 << 20,
        floor_bytes: 0,
    };
    let (cache, _events) = Cache::open(config).unwrap();
    let shares = share_set(&home.join("state"));
    ContentStore::new(cache, shares, names, PiecePool::default())
}

fn share_set(state: &Path) -> ShareSet {
    let (shares, mut events) = ShareSet::open(ShareConfig::new(state)).unwrap();
    std::thread::spawn(move || while events.blocking_recv().is_some() {});
    shares
}
