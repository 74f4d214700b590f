//! Tests of the fetcher with scripted peers, without a network.

mod disks;
mod doubt;
mod fills;
mod idle;
mod traced;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::asking::{Ask, AskAtOnce};
use super::*;
use crate::tests::{Content, LONG, TestCache, read_now, read_through, reply};
use p2pfs_fetch::plan::{Failure, PlanError, SHUN};
use p2pfs_fetch::session::Holder;
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_types::extent::{CHUNK_BYTES, ExtentSet, PAGE_BYTES};

/// Behaviour of a scripted peer.
#[derive(Clone)]
enum Manner {
    Honest,
    Lying,
    Silent,
    Broken,
    Gone,
    Busy,
    /// Answers when the test permits it.
    Held(Arc<Semaphore>),
    /// Honest this many times, then silent for ever.
    FallsSilentAfter(usize),
    /// Honest this many times, then every connection breaks.
    BreaksAfter(usize),
}

struct Scene {
    fetcher: Fetcher,
    events: mpsc::Receiver<FetchEvent>,
    asked: Arc<Mutex<Vec<(NodeId, Lane, Request)>>>,
    cache: TestCache,
}

fn node(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 1378).into()
}

fn scene(content: &Content, budget: u64, peers: &[Manner]) -> Scene {
    scene_with(FetchConfig::new(1), content, budget, peers)
}

fn scene_with(config: FetchConfig, content: &Content, budget: u64, peers: &[Manner]) -> Scene {
    scene_on(config, content, TestCache::new(budget), peers)
}

fn scene_on(config: FetchConfig, content: &Content, cache: TestCache, peers: &[Manner]) -> Scene {
    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    let manners: HashMap<NodeId, (Manner, AtomicUsize)> = (1u8..)
        .zip(peers)
        .map(|(number, manner)| (node(number), (manner.clone(), AtomicUsize::new(0))))
        .collect();
    let holders: Vec<_> = manners
        .keys()
        .map(|node| Holder {
            node: *node,
            address: address(),
            size_bytes: content.size(),
            sequence: 1,
        })
        .collect();
    let (content, log) = (content.clone(), asked.clone());
    let ask: Ask = Arc::new(move |node, _, lane, request, _| {
        log.lock().push((node, lane, request.clone()));
        let (manner, count) = &manners[&node];
        let turn = count.fetch_add(1, Ordering::Relaxed);
        let manner = match manner {
            Manner::FallsSilentAfter(turns) if turn >= *turns => Manner::Silent,
            Manner::BreaksAfter(turns) if turn >= *turns => Manner::Broken,
            Manner::FallsSilentAfter(_) | Manner::BreaksAfter(_) => Manner::Honest,
            other => other.clone(),
        };
        Box::pin(answer(content.clone(), manner, request))
    });
    let holders: HoldersOf = Arc::new(move |_| holders.clone());
    let at_once: AskAtOnce = Arc::new(|_, _, _, reply, _| Err(reply));
    let asking = RequestSender { ask, at_once };
    let (fetcher, events) = Fetcher::with_asking(config, asking, cache.store.clone(), holders);
    Scene {
        fetcher,
        events,
        asked,
        cache,
    }
}

async fn answer(content: Content, manner: Manner, request: Request) -> Result<Response, Failure> {
    let Request::Range { range, .. } = request else {
        return Ok(Response::NotHere);
    };
    let mut proof = content.encode(range);
    match manner {
        Manner::Honest | Manner::FallsSilentAfter(_) | Manner::BreaksAfter(_) => {}
        Manner::Lying => {
            let last = proof.len() - 1;
            proof[last] ^= 1;
        }
        Manner::Silent => std::future::pending().await,
        Manner::Broken => return Err(Failure::Unreachable),
        Manner::Gone => return Ok(Response::Gone),
        Manner::Busy => return Ok(Response::Busy),
        Manner::Held(gate) => gate.acquire().await.unwrap().forget(),
    }
    Ok(Response::Data {
        proof: proof.into(),
    })
}

impl Scene {
    async fn read_through(&self, content: &Content, step: u64) {
        let (fetcher, content) = (self.fetcher.clone(), content.clone());
        let reading = tokio::task::spawn_blocking(move || read_through(&fetcher, &content, step));
        reading.await.unwrap();
    }

    async fn read(&self, content: &Content, range: ByteRange) -> Result<Bytes, TransferError> {
        let (fetcher, content) = (self.fetcher.clone(), content.clone());
        let reading = tokio::task::spawn_blocking(move || read_now(&fetcher, &content, range));
        reading.await.unwrap()
    }

    fn asked_bytes(&self) -> u64 {
        let length = |(.., request): &(NodeId, Lane, Request)| match request {
            Request::Range { range, .. } => range.len(),
            _ => 0,
        };
        self.asked.lock().iter().map(length).sum()
    }

    fn in_flight_bytes(&self) -> u64 {
        self.fetcher
            .peers()
            .iter()
            .map(|peer| peer.in_flight_bytes)
            .sum()
    }

    /// Waits for an event. Returns it and the events before it.
    async fn events_until(&mut self, last: &FetchEvent) -> Vec<FetchEvent> {
        let mut seen = Vec::new();
        while seen.last() != Some(last) {
            let event = tokio::time::timeout(LONG, self.events.recv()).await;
            seen.push(event.expect("it happens").expect("the fetcher lives"));
        }
        seen
    }

    fn events(&mut self) -> Vec<FetchEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_read_in_order_is_correct_and_requested_once() {
    let content = Content::new(1, 20_000_001);
    let mut scene = scene(&content, 1 << 30, &[Manner::Honest, Manner::Honest]);
    scene.read_through(&content, 128 << 10).await;
    assert!(
        scene.asked_bytes() <= content.size() * 5 / 4,
        "{}",
        scene.asked_bytes()
    );
    let before = scene.asked_bytes();
    scene.read_through(&content, 100_000).await;
    assert_eq!(
        scene.asked_bytes(),
        before,
        "the second time it comes from the cache"
    );
    let (hash, size_bytes) = (content.hash(), content.size());
    let events = scene
        .events_until(&FetchEvent::Done { hash, size_bytes })
        .await;
    assert!(events.contains(&FetchEvent::Started { hash, size_bytes }));
    assert!(scene.cache.cache.is_complete(&hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_needs_no_holder() {
    let content = Content::new(4, 0);
    let scene = scene(&content, 1 << 30, &[]);
    assert_eq!(
        scene.read(&content, ByteRange::new(0, 0)).await,
        Ok(Bytes::new())
    );
    scene.fetcher.fill(content.hash(), 0).done().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_range_cost_one_request() {
    let content = Content::new(7, 1 << 20);
    let gate = Arc::new(Semaphore::new(0));
    let scene = scene(&content, 1 << 30, &[Manner::Held(gate.clone())]);
    let range = ByteRange::at(256 << 10, 128 << 10);
    let waits: Vec<_> = (0..64)
        .map(|_| {
            let (reply, outcome) = reply();
            let deadline = Instant::now() + LONG;
            scene
                .fetcher
                .read(Read::new(content.key(), range, deadline, reply));
            outcome
        })
        .collect();
    gate.add_permits(64);
    for wait in waits {
        let bytes = tokio::task::spawn_blocking(move || wait.recv_timeout(LONG).unwrap());
        assert_eq!(bytes.await.unwrap().unwrap(), content.part(range));
    }
    assert_eq!(scene.asked_bytes(), range.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_named_and_excluded_and_another_holder_is_asked() {
    for seed in 0..8 {
        let content = Content::new(seed, 3 << 20);
        let config = FetchConfig::new(seed);
        let peers = [Manner::Lying, Manner::Honest];
        let mut scene = scene_with(config, &content, 1 << 30, &peers);
        scene.read_through(&content, 128 << 10).await;
        let hash = content.hash();
        let liar = FetchEvent::Liar {
            node: node(1),
            hash,
        };
        let caught = scene.events().contains(&liar);
        let rates = scene.fetcher.peers();
        let shunned: Vec<_> = rates.iter().filter(|p| p.shunned).map(|p| p.node).collect();
        assert_eq!(shunned, if caught { vec![node(1)] } else { vec![] });
        assert!(SHUN > Duration::from_secs(60));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_liar_causes_an_error_at_the_deadline() {
    let content = Content::new(9, 1 << 20);
    let mut scene = scene(&content, 1 << 30, &[Manner::Lying]);
    let (hash, range) = (content.hash(), ByteRange::at(0, 4096));
    let (patient, _unanswered) = reply();
    let deadline = Instant::now() + LONG;
    scene
        .fetcher
        .read(Read::new(content.key(), range, deadline, patient));
    let node = node(1);
    while scene.events.recv().await.unwrap() != (FetchEvent::Liar { node, hash }) {}
    let (reply, outcome) = reply();
    let deadline = Instant::now() + Duration::from_millis(200);
    scene
        .fetcher
        .read(Read::new(content.key(), range, deadline, reply));
    let outcome = tokio::task::spawn_blocking(move || outcome.recv_timeout(LONG).unwrap());
    assert_eq!(outcome.await.unwrap(), Err(PlanError::OnlyLiars.into()));
    assert!(Instant::now() >= deadline);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_holder_a_read_fails_at_its_deadline_and_its_repeat_at_once() {
    let content = Content::new(10, 1 << 20);
    let mut scene = scene(&content, 1 << 30, &[]);
    let (first, outcome) = reply();
    let deadline = Instant::now() + Duration::from_millis(300);
    let range = ByteRange::at(0, 128 << 10);
    scene
        .fetcher
        .read(Read::new(content.key(), range, deadline, first));
    let waited = tokio::task::spawn_blocking(move || outcome.recv_timeout(LONG).unwrap());
    assert_eq!(waited.await.unwrap(), Err(PlanError::NoHolder.into()));
    let (again, outcome) = reply();
    let page = ByteRange::at(4096, 4096);
    let wait = scene
        .fetcher
        .read(Read::new(content.key(), page, deadline + LONG, again));
    assert_eq!(outcome.try_recv().unwrap(), Err(PlanError::NoHolder.into()));
    assert_eq!(wait.until(), None);
    let hashes = vec![content.hash()];
    assert!(scene.events().contains(&FetchEvent::Wanted { hashes }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_holders_offer_ends_the_wait() {
    let content = Content::new(11, 1 << 20);
    let mut scene = scene(&content, 1 << 30, &[Manner::Honest]);
    let silent: HoldersOf = Arc::new(|_| vec![]);
    let asking = scene.fetcher.inner.asking.clone();
    let store = scene.cache.store.clone();
    let (fetcher, events) = Fetcher::with_asking(FetchConfig::new(1), asking, store, silent);
    (scene.fetcher, scene.events) = (fetcher, events);
    let (reply, outcome) = reply();
    let range = ByteRange::at(65536, 4096);
    let deadline = Instant::now() + LONG;
    scene
        .fetcher
        .read(Read::new(content.key(), range, deadline, reply));
    while !matches!(scene.events.recv().await, Some(FetchEvent::Wanted { .. })) {}
    let (hash, size_bytes) = (content.hash(), content.size());
    let ranges = ExtentSet::of(ByteRange::new(65536, 131072));
    let offer = Offer {
        node: node(1),
        content: ContentKey::new(hash, size_bytes),
        all: false,
        ranges,
        load: 0,
    };
    scene.fetcher.record_offer(offer, address());
    let bytes = tokio::task::spawn_blocking(move || outcome.recv_timeout(LONG).unwrap());
    assert_eq!(bytes.await.unwrap().unwrap(), content.part(range));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_silent_busy_or_emptied_peers_are_replaced() {
    let troubles = [
        Manner::Broken,
        Manner::Gone,
        Manner::Busy,
        Manner::Silent,
        Manner::BreaksAfter(3),
        Manner::FallsSilentAfter(3),
    ];
    for (seed, trouble) in troubles.into_iter().enumerate() {
        let content = Content::new(seed as u64, 8 << 20);
        let scene = scene(&content, 1 << 30, &[trouble, Manner::Honest]);
        scene.read_through(&content, 128 << 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_read_is_answered_at_once_and_once_only() {
    let content = Content::new(12, 1 << 20);
    let gate = Arc::new(Semaphore::new(0));
    let scene = scene(&content, 1 << 30, &[Manner::Held(gate.clone())]);
    let (reply, outcome) = reply();
    let deadline = Instant::now() + LONG;
    let range = ByteRange::at(0, 4096);
    let wait = scene
        .fetcher
        .read(Read::new(content.key(), range, deadline, reply));
    wait.cancel();
    assert_eq!(outcome.try_recv().unwrap(), Err(TransferError::Cancelled));
    wait.cancel();
    gate.add_permits(10);
    assert_eq!(
        scene.read(&content, range).await.unwrap(),
        content.part(range)
    );
    assert!(outcome.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_every_wait() {
    let content = Content::new(13, 1 << 20);
    let scene = scene(&content, 1 << 30, &[Manner::Silent]);
    let (first, outcome) = reply();
    let deadline = Instant::now() + LONG;
    let range = ByteRange::at(0, 4096);
    scene
        .fetcher
        .read(Read::new(content.key(), range, deadline, first));
    scene.fetcher.stop();
    assert_eq!(outcome.try_recv().unwrap(), Err(TransferError::Stopped));
    assert_eq!(
        scene.read(&content, range).await,
        Err(TransferError::Stopped)
    );
    let fill = scene
        .fetcher
        .fill(content.hash(), content.size())
        .done()
        .await;
    assert_eq!(fill, Err(TransferError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_outside_the_file_is_refused() {
    let content = Content::new(14, 5000);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    let outside = scene.read(&content, ByteRange::new(4096, 5001)).await;
    assert!(matches!(outside, Err(TransferError::OutOfRange { .. })));
    scene.read(&content, ByteRange::new(0, 5000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_claimed_size_leaves_the_right_bytes_readable() {
    let content = Content::new(14, 200_000);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    let first = ByteRange::new(0, 4096);
    let (first_reply, wrong) = reply();
    let deadline = Instant::now() + Duration::from_millis(300);
    let larger = ContentKey::new(content.hash(), 300_000);
    scene
        .fetcher
        .read(Read::new(larger, first, deadline, first_reply));
    scene.read_through(&content, 64 << 10).await;
    let wrong = tokio::task::spawn_blocking(move || wrong.recv_timeout(LONG).unwrap());
    assert!(
        wrong.await.unwrap().is_err(),
        "nobody says that it has this size"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn random_pages_request_little_more_than_themselves() {
    let content = Content::new(15, 16 << 20);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    let (fetcher, copy) = (scene.fetcher.clone(), content.clone());
    let reading = tokio::task::spawn_blocking(move || {
        for i in 0..300u64 {
            let page = ByteRange::at((i * 2_654_435_761 % 4096) * 4096, 4096);
            assert_eq!(read_now(&fetcher, &copy, page).unwrap(), copy.part(page));
        }
    });
    reading.await.unwrap();
    assert!(
        scene.asked_bytes() <= 300 * 4096 * 5 / 4,
        "{}",
        scene.asked_bytes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_remains_after_everything_was_read() {
    let content = Content::new(16, 6 << 20);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    scene.read_through(&content, 128 << 10).await;
    while scene.in_flight_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    let state = scene.fetcher.inner.state.lock();
    assert_eq!(state.session.plan.requests().bytes(), 0);
    assert_eq!(state.session.uncached_bytes(), 0);
}

/// A limit at which a page is paid for in more than [`LONG`].
const LIMIT_BYTES_PER_S: u64 = 8;

/// A small read overtakes requests that wait for the limit, even those of a fill of the same file.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_fill_is_requested_early_when_a_reader_needs_it() {
    let content = Content::new(18, 1 << 20);
    let scene = scene(&content, 1 << 30, &[Manner::Honest]);
    let limit = scene.fetcher.download();
    limit.set(Some(LIMIT_BYTES_PER_S));
    let _fill = scene.fetcher.fill(content.hash(), content.size());
    while scene.in_flight_bytes() == 0 || scene.asked_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    // the fill's next chunk waits until the first one is paid for
    let page = ByteRange::at(CHUNK_BYTES, PAGE_BYTES);
    let read = scene.read(&content, page).await.unwrap();
    assert_eq!(read, content.part(page));
    assert!(!limit.pass_at_once(1, false), "it waited for the limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_futile_request_does_not_count_against_a_limit() {
    let content = Content::new(17, 1 << 20);
    let scene = scene(&content, 1 << 30, &[Manner::Busy]);
    let limit = scene.fetcher.download();
    limit.set(Some(LIMIT_BYTES_PER_S));
    let (reply, _outcome) = reply();
    let (page, deadline) = (ByteRange::new(0, 4096), Instant::now() + LONG);
    scene
        .fetcher
        .read(Read::new(content.key(), page, deadline, reply));
    while scene.asked_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    wait_until_paid(limit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_does_not_count_against_a_limit() {
    let content = Content::new(19, 1 << 20);
    let scene = scene(&content, 1 << 30, &[Manner::Silent]);
    let limit = scene.fetcher.download();
    limit.set(Some(LIMIT_BYTES_PER_S));
    let fill = scene.fetcher.fill(content.hash(), content.size());
    while scene.asked_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!limit.pass_at_once(1, false));
    drop(fill);
    wait_until_paid(limit).await;
}

/// Waits until a limit lets a background byte pass, which takes longer than [`LONG`] if a request is
/// charged.
async fn wait_until_paid(limit: &Pace) {
    let begun = Instant::now();
    while !limit.pass_at_once(1, false) {
        assert!(begun.elapsed() < LONG, "it is paid for");
        tokio::task::yield_now().await;
    }
}
