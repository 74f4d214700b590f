//! Contents that are restricted to some nodes.

use std::collections::BTreeSet;

use super::*;
use p2pfs_content::sample::{empty_names, store_in};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_proto::wire::native::tcp::{PackedBatch, SmallFile};

#[tokio::test(flavor = "multi_thread")]
async fn a_content_is_served_and_offered_only_to_permitted_nodes() {
    let content = Content::new(41, 60_000);
    let home = tempfile::tempdir().unwrap();
    let (alice, bob) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
    let names = empty_names();
    let only = |node| Arc::new([(ShareIndex(0), BTreeSet::from([node]))].into());
    names.readers.store(only(alice));
    let store = store_in(home.path(), names.clone());
    let dir = home.path().join("share");
    std::fs::create_dir(&dir).unwrap();
    let whole = content.part(ByteRange::new(0, content.size()));
    std::fs::write(dir.join("it"), whole).unwrap();
    let spec = ShareSpec {
        readers: Some(vec!["alice".to_owned()]),
        ..ShareSpec::new(dir)
    };
    store.shares().add(spec).unwrap();
    assert!(store.shares().wait_settled(LONG));
    let server = Server::new(store, ServerLimits::default());
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
    // the file is open now
    assert!(server.answer_at_once(alice, Lane::Urgent, &range).is_some());
    assert_eq!(server.answer_at_once(bob, Lane::Urgent, &range), None);
    assert_eq!(server.offer_for(bob, &hash), None);
    assert!(server.offer_for(alice, &hash).unwrap().askers.is_empty());
    // the right changes between two ranges of an open file
    names.readers.store(only(bob));
    assert_eq!(server.answer_at_once(alice, Lane::Urgent, &range), None);
    let refused = server.answer(alice, Lane::Urgent, range.clone()).await;
    assert_eq!(refused, Response::NotHere);
    assert!(server.answer_at_once(bob, Lane::Urgent, &range).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_with_a_part_missing_does_not_hide_one_that_may_soon_be_complete() {
    let content = Content::new(42, 600_000);
    let cache = TestCache::new(1 << 30);
    cache.stock(&content, ByteRange::new(0, 65_536));
    let state = tempfile::tempdir().unwrap();
    let (shares, _events) = ShareSet::open(ShareConfig::new(state.path())).unwrap();
    let store = store_of(cache.cache.clone(), shares.clone());
    let server = Server::new(store, ServerLimits::default());
    let (hash, size_bytes) = (content.hash(), content.size());
    let ask = |range| {
        let request = Request::Range {
            hash,
            size_bytes,
            range,
        };
        server.answer(NodeId::new([1; 32]), Lane::Urgent, request)
    };
    let (here, elsewhere) = (ByteRange::new(0, 4096), ByteRange::new(131_072, 135_168));
    assert!(matches!(ask(here).await, Response::Data { .. }));
    // the shares of this node were not added yet
    assert_eq!(ask(elsewhere).await, Response::Busy);
    shares.all_added();
    assert_eq!(ask(elsewhere).await, Response::NotHere);
    assert!(matches!(ask(here).await, Response::Data { .. }));
}
