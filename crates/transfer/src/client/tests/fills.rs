//! Fills of whole files.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_ends_when_the_cache_holds_every_byte() {
    let content = Content::new(3, 10_000_000);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    let fill = scene.fetcher.fill(content.hash(), content.size());
    let progress = fill.progress();
    fill.done().await.unwrap();
    assert!(scene.cache.cache.is_complete(&content.hash()));
    assert_eq!(progress.borrow().ready_bytes, content.size());
    assert_eq!(scene.asked_bytes(), content.size());
    scene
        .fetcher
        .fill(content.hash(), content.size())
        .done()
        .await
        .unwrap();
    assert_eq!(scene.asked_bytes(), content.size());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_does_not_fit_the_cache_says_so() {
    let content = Content::new(5, 4 << 20);
    let scene = scene(&content, 0, &[Manner::Honest]);
    let outcome = scene
        .fetcher
        .fill(content.hash(), content.size())
        .done()
        .await;
    assert_eq!(outcome, Err(TransferError::CacheFull));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_refused_by_a_full_cache_completes_once_there_is_room() {
    let content = Content::new(5, 4 << 20);
    let scene = scene(&content, 0, &[Manner::Honest]);
    let fill = || scene.fetcher.fill(content.hash(), content.size()).done();
    assert_eq!(fill().await, Err(TransferError::CacheFull));
    scene.cache.cache.resize(1 << 30);
    assert_eq!(fill().await, Ok(()));
    assert!(scene.cache.cache.is_complete(&content.hash()));
}

#[test]
fn a_fill_dropped_before_its_file_is_open_requests_nothing() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.max_blocking_threads(1).enable_all().build();
    runtime.unwrap().block_on(async {
        let content = Content::new(6, 4 << 20);
        let scene = scene(&content, 1 << 30, &[Manner::Honest]);
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.recv());
        drop(scene.fetcher.fill(content.hash(), content.size()));
        go_on.send(()).unwrap();
        holding.await.unwrap().unwrap();
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        assert!(scene.fetcher.fetches().iter().all(|it| !it.is_filling));
        assert_eq!(scene.asked_bytes(), 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_fill_requests_no_more() {
    let content = Content::new(6, 64 << 20);
    let gate = Arc::new(Semaphore::new(0));
    let scene = scene(&content, 1 << 30, &[Manner::Held(gate.clone())]);
    let fill = scene.fetcher.fill(content.hash(), content.size());
    while scene.in_flight_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    drop(fill);
    assert_eq!(scene.in_flight_bytes(), 0, "nothing had begun to come");
    gate.add_permits(1000);
    let read = scene.read(&content, ByteRange::new(0, 1)).await;
    assert!(read.is_ok(), "{read:?}");
    assert!(scene.asked_bytes() < content.size());
}
