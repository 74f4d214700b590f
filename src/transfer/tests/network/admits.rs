//! Contents that are for some nodes alone.

use super::*;
use crate::wire::native::tcp::{PackedBatch, SmallFile};

#[tokio::test(flavor = "multi_thread")]
async fn a_content_is_given_and_offered_to_those_alone_who_may_have_it() {
    let content = Content::new(41, 60_000);
    let cache = TestCache::new(1 << 30);
    cache.stock_all(&content);
    let state = tempfile::tempdir().unwrap();
    let (alice, bob) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
    let server = Server::new(
        cache.cache.clone(),
        shares(state.path(), &[]),
        ServerLimits::default(),
        Arc::new(move |node, _| *node == alice),
    );
    let (hash, size_bytes) = (content.hash(), content.size());
    let range = Request::Range {
        hash,
        size_bytes,
        range: ByteRange::new(0, size_bytes),
    };
    let files = vec![SmallFile { hash, size_bytes }];
    let questions = [
        range.clone(),
        Request::Holdings { hash },
        Request::Batch { files },
    ];
    let mut nothing = PackedBatch::with_capacity(0);
    nothing.push_not_here();
    let nothing = Response::Batch {
        packed: nothing.into_bytes().into(),
    };
    for question in questions {
        let refused = server.answer(bob, Lane::Urgent, question.clone()).await;
        assert!(
            refused == Response::NotHere || refused == nothing,
            "{refused:?}"
        );
        let given = server.answer(alice, Lane::Urgent, question).await;
        assert!(given != Response::NotHere && given != nothing, "{given:?}");
    }
    // it is open now
    assert!(server.answer_at_once(alice, Lane::Urgent, &range).is_some());
    assert_eq!(server.answer_at_once(bob, Lane::Urgent, &range), None);
    assert_eq!(server.offer_for(bob, &hash), None);
    assert!(server.offer_for(alice, &hash).unwrap().askers.is_empty());
}
