//! Prompt answers of a node with a rate limit.

use super::*;

const PIECE_BYTES: u64 = 64 << 10;

/// Returns a node that has the first half of a content open and may send this many bytes per
/// second.
async fn limited(content: &Content, bytes_per_s: u64) -> (Server, TestCache, NodeId) {
    let cache = TestCache::new(1 << 30);
    cache.stock(content, ByteRange::new(0, content.size() / 2));
    let server = Server::new(cache.store.clone(), ServerLimits::default());
    let asker = NodeId::new([1; 32]);
    let first = server.answer(asker, Lane::Urgent, piece(content, 0)).await;
    assert!(matches!(first, Response::Data { .. }), "{first:?}");
    server.upload().set(Some(bytes_per_s));
    (server, cache, asker)
}

fn piece(content: &Content, at: u64) -> Request {
    Request::Range {
        hash: content.hash(),
        size_bytes: content.size(),
        range: ByteRange::at(at, PIECE_BYTES),
    }
}

#[tokio::test]
async fn data_that_could_not_be_sent_at_once_is_not_charged() {
    let content = Content::new(51, 1 << 20);
    let (server, _cache, asker) = limited(&content, PIECE_BYTES).await;
    let missing = piece(&content, content.size() / 2);
    for _ in 0..10 {
        assert_eq!(server.answer_at_once(asker, Lane::Urgent, &missing), None);
    }
    assert!(server.upload().pass_at_once(PIECE_BYTES, false));
}

#[tokio::test]
async fn an_answer_without_data_is_not_charged() {
    let content = Content::new(53, 1 << 20);
    let (server, _cache, asker) = limited(&content, PIECE_BYTES).await;
    let missing = piece(&content, content.size() / 2);
    for _ in 0..3 {
        let answer = server.answer(asker, Lane::Urgent, missing.clone()).await;
        assert!(!matches!(answer, Response::Data { .. }), "{answer:?}");
    }
    assert!(server.upload().pass_at_once(PIECE_BYTES, false));
}

#[tokio::test]
async fn bulk_is_not_sent_ahead_of_the_limit() {
    let content = Content::new(52, 1 << 20);
    let (server, _cache, asker) = limited(&content, PIECE_BYTES).await;
    let here = piece(&content, 0);
    let at_once = |lane| server.answer_at_once(asker, lane, &here).is_some();
    assert!(at_once(Lane::Bulk));
    assert!(!at_once(Lane::Bulk) && at_once(Lane::Urgent));
}
