//! Cached ranges in doubt after a power cut: they are verified, and the right ones are used.

use super::*;
use p2pfs_cache::CachedBytes;

const SIZE: u64 = 8 << 20;
const HALF: ByteRange = ByteRange {
    start: 0,
    end: SIZE / 2,
};

/// Returns a node that had half of a file in its cache when the power was cut.
fn scene_after_a_power_cut(content: &Content) -> Scene {
    let cache = TestCache::after_a_power_cut(1 << 30, |cache| cache.stock(content, HALF));
    let file = cache.cache.existing(&content.hash()).unwrap().unwrap();
    assert_eq!(file.cached_bytes(), 0, "it is in doubt");
    assert_eq!(file.on_disk().len(), HALF.len());
    scene_on(FetchConfig::new(1), content, cache, &[Manner::Honest])
}

/// Damages one chunk of the file in the cache, as a disk may in a power cut.
fn spoil(scene: &Scene, content: &Content, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = scene.cache.data_file(content);
    file.write_all_at(b"lost", at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_after_a_power_cut_requests_nothing_that_is_intact_on_disk() {
    let content = Content::new(31, SIZE as usize);
    let scene = scene_after_a_power_cut(&content);
    let fill = scene.fetcher.fill(content.hash(), content.size());
    fill.done().await.unwrap();
    assert!(scene.cache.cache.is_complete(&content.hash()));
    assert_eq!(scene.asked_bytes(), SIZE - HALF.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_after_a_power_cut_requests_damaged_bytes() {
    let content = Content::new(32, SIZE as usize);
    let scene = scene_after_a_power_cut(&content);
    spoil(&scene, &content, HALF.len() / 2);
    let fill = scene.fetcher.fill(content.hash(), content.size());
    fill.done().await.unwrap();
    assert!(scene.cache.cache.is_complete(&content.hash()));
    let asked = scene.asked_bytes();
    assert!(asked > SIZE - HALF.len() && asked < SIZE, "{asked}");
    scene.read_through(&content, 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_ahead_after_a_power_cut_fetches_nothing_that_is_intact_on_disk() {
    let content = Content::new(33, SIZE as usize);
    let scene = scene_after_a_power_cut(&content);
    scene.read_through(&content, 128 << 10).await;
    assert_eq!(scene.asked_bytes(), SIZE - HALF.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_after_a_power_cut_gets_correct_bytes_for_damaged_ones() {
    let content = Content::new(34, SIZE as usize);
    let scene = scene_after_a_power_cut(&content);
    for at in [0, 1 << 20, HALF.len() - 1000] {
        spoil(&scene, &content, at);
    }
    scene.read_through(&content, 128 << 10).await;
}

/// The damage may be anywhere, and in several places of one read.
#[tokio::test(flavor = "multi_thread")]
async fn a_largely_damaged_read_after_a_power_cut_gets_correct_bytes() {
    let content = Content::new(36, SIZE as usize);
    let scene = scene_after_a_power_cut(&content);
    let read = ByteRange::at(1 << 20, 1 << 20);
    for number in 0..8 {
        spoil(&scene, &content, read.start + number * 2 * CHUNK_BYTES);
    }
    assert_eq!(
        scene.read(&content, read).await.unwrap(),
        content.part(read)
    );
    // intact ranges between them are not requested
    let asked = scene.asked.lock();
    let start = |(.., request): &(NodeId, Lane, Request)| match request {
        Request::Range { range, .. } => range.start,
        _ => panic!("{request:?}"),
    };
    let of_read = asked
        .iter()
        .map(start)
        .filter(|start| read.start <= *start && *start < read.end);
    assert_eq!(of_read.count(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_beside_a_reader_after_a_power_cut_completes() {
    let content = Content::new(35, SIZE as usize);
    let scene = scene_after_a_power_cut(&content);
    spoil(&scene, &content, 1 << 20);
    // the reader finds the damage before the fill begins
    let page = ByteRange::at(1 << 20, 4096);
    scene.read(&content, page).await.unwrap();
    let fill = scene.fetcher.fill(content.hash(), content.size());
    fill.done().await.unwrap();
    assert!(scene.cache.cache.is_complete(&content.hash()));
    scene.read_through(&content, 1 << 20).await;
}
