//! One hash with several claimed sizes.

use super::*;
use p2pfs_fetch::plan::PlanError;
use p2pfs_fetch::{Offer, TransferError};
use p2pfs_types::extent::ExtentSet;

/// Answers every request with made-up data.
fn made_up(_: Response) -> Response {
    Response::Data {
        proof: vec![7; 4096].into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_claimed_size_hides_no_right_byte_from_readers_or_the_cache() {
    let content = Content::new(31, 3 << 20);
    let cluster = Cluster::new();
    let honest = cluster.serving(&[&content], honest);
    let liar = cluster.serving(&[&content], made_up);
    let wrong_size = content.size() + 5;
    let said = Holder {
        size_bytes: wrong_size,
        ..liar.holder(&content)
    };
    let cache = TestCache::new(1 << 30);
    let holders = vec![said, honest.holder(&content)];
    let (fetcher, mut events) = cluster.fetching(&cache, holders);
    let (reply, outcome) = crate::tests::reply();
    let deadline = Instant::now() + LONG;
    let first = ByteRange::new(0, 4096);
    let wrong = ContentKey::new(content.hash(), wrong_size);
    fetcher.read(Read::new(wrong, first, deadline, reply));
    let (reader, copy) = (fetcher.clone(), content.clone());
    blocking(move || read_through(&reader, &copy, 128 << 10)).await;
    let wrong = blocking(move || outcome.recv_timeout(LONG).unwrap()).await;
    assert_eq!(wrong, Err(TransferError::from(PlanError::OnlyLiars)));
    let (node, hash) = (liar.id, content.hash());
    while events.recv().await.unwrap() != (FetchEvent::Liar { node, hash }) {}
    // bytes that arrived while the cache's file had the other size arrive again
    while fetcher.fill(hash, content.size()).done().await.is_err() {}
    assert!(cache.cache.is_complete(&hash));
}

/// The node read the file by a size that a liar claimed. It has a part that verifies all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_partial_holder_under_a_wrong_size_is_not_called_a_liar() {
    let content = Content::new(32, 3 << 20);
    let cluster = Cluster::new();
    let honest = cluster.serving(&[&content], honest);
    let cache = TestCache::new(1 << 30);
    let (fetcher, mut events) = cluster.fetching(&cache, vec![honest.holder(&content)]);
    let (reply, outcome) = crate::tests::reply();
    let (deadline, first) = (Instant::now() + LONG, ByteRange::new(0, 4096));
    let mut just = Read::new(content.key(), first, deadline, reply);
    just.ahead = false;
    fetcher.read(just);
    blocking(move || outcome.recv_timeout(LONG).unwrap())
        .await
        .unwrap();
    let offer = Offer {
        node: NodeId::new([77; 32]),
        content: ContentKey::new(content.hash(), content.size() + 5),
        all: false,
        ranges: ExtentSet::of(ByteRange::new(0, 1 << 20)),
        load: 0,
    };
    fetcher.record_offer(offer, honest.address);
    let fill = fetcher.fill(content.hash(), content.size());
    fill.done().await.unwrap();
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, FetchEvent::Liar { .. }), "{event:?}");
    }
}
