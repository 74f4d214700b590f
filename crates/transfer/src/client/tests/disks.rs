//! A cache without room, or on a hung disk.

use super::*;
use p2pfs_cache::faults::Faults;

/// Guard that restarts a halted disk when the test ends in any way, so that waiting stores end too.
struct Halted(Arc<Faults>);

impl Drop for Halted {
    fn drop(&mut self) {
        self.0.halt(false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_slows_nothing_down_and_stores_nothing() {
    let content = Content::new(2, 24 << 20);
    let config = FetchConfig {
        uncached_max_bytes: 4 << 20,
        ..FetchConfig::new(2)
    };
    let scene = scene_with(config, &content, 0, &[Manner::Honest]);
    scene.read_through(&content, 128 << 10).await;
    assert_eq!(scene.cache.cache.cached_bytes(&content.hash()), 0);
    assert!(
        scene.asked_bytes() <= content.size() * 5 / 4,
        "{}",
        scene.asked_bytes()
    );
    assert!(scene.fetcher.inner.state.lock().session.uncached_bytes() <= 4 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_more_than_cache_and_memory_get_every_byte() {
    let content = Content::new(22, 32 << 20);
    let config = FetchConfig {
        uncached_max_bytes: 4 << 20,
        ..FetchConfig::new(2)
    };
    let scene = scene_with(config, &content, 8 << 20, &[Manner::Honest]);
    let readers = (0..4u64).map(|number| {
        let (fetcher, content) = (scene.fetcher.clone(), content.clone());
        tokio::task::spawn_blocking(move || {
            let quarter = content.size() / 4;
            for step in 0..content.size() / (128 << 10) {
                let at = (number * quarter + step * (128 << 10)) % content.size();
                let range = ByteRange::at(at, 128 << 10);
                let bytes = read_now(&fetcher, &content, range).unwrap();
                assert!(bytes == content.part(range), "wrong bytes at {at}");
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_cache_disk_blocks_no_uncached_reads() {
    let content = Content::new(18, 64 << 20);
    let (cache, disk) = TestCache::that_can_halt(1 << 30);
    let scene = scene_on(FetchConfig::new(18), &content, cache, &[Manner::Honest]);
    disk.halt(true);
    let halted = Halted(disk);
    scene.read_through(&content, 128 << 10).await;
    assert_eq!(scene.cache.cache.cached_bytes(&content.hash()), 0);
    drop(halted);
    let fill = || scene.fetcher.fill(content.hash(), content.size()).done();
    // earlier stores may still wait for the disk
    while fill().await != Ok(()) {}
    assert!(scene.cache.cache.is_complete(&content.hash()));
}
