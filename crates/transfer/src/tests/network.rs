//! Fetchers and servers over real TLS on loopback.

mod admits;
mod batches;
mod limits;
mod narrow;
mod sizes;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::{Content, LONG, TestCache, read_now, read_through};
use crate::client::{FetchConfig, Fetcher, HoldersOf};
use crate::net::LedgerHandle;
use crate::net::peer::{Incoming, PeerLimits, PeerNet};
use crate::server::{Server, ServerLimits};
use p2pfs_content::sample::store_of;
use p2pfs_fetch::session::{FetchEvent, Holder, Read};
use p2pfs_proto::trust::{EpochSecret, NodeKey, TestKeyring};
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_share::{ShareConfig, ShareSet, ShareSpec};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

struct Cluster {
    keyring: TestKeyring,
}

/// Serving node.
struct Serving {
    id: NodeId,
    address: SocketAddr,
    net: PeerNet,
    cache: TestCache,
    server: Server,
    task: JoinHandle<()>,
    /// Requests that were answered on the task of their connection.
    prompt: Arc<AtomicU64>,
}

impl Serving {
    fn holder(&self, content: &Content) -> Holder {
        Holder {
            node: self.id,
            address: self.address,
            size_bytes: content.size(),
            sequence: 1,
        }
    }

    /// Stops the node as if its process were killed.
    fn kill(&self) {
        self.task.abort();
        self.net.close();
    }
}

/// Creates shares of these folders, fully hashed.
fn shares(state: &Path, folders: &[&Path]) -> ShareSet {
    let (shares, mut events) = ShareSet::open(ShareConfig::new(state)).unwrap();
    for dir in folders {
        shares.add(ShareSpec::new(*dir)).unwrap();
    }
    std::thread::spawn(move || while events.blocking_recv().is_some() {});
    assert!(shares.wait_settled(LONG));
    shares
}

impl Cluster {
    fn new() -> Self {
        Self {
            keyring: TestKeyring::in_memory(EpochSecret::random()),
        }
    }

    fn net(&self) -> (NodeId, PeerNet, mpsc::Receiver<Incoming>) {
        self.net_with(PeerLimits::default())
    }

    fn net_with(&self, limits: PeerLimits) -> (NodeId, PeerNet, mpsc::Receiver<Incoming>) {
        let key = NodeKey::random();
        let id = key.node_id();
        let anywhere = ([127, 0, 0, 1], 0).into();
        let (ledger, _commands) = LedgerHandle::new(self.keyring.reader());
        let (net, incoming) = PeerNet::bind(anywhere, &key, ledger, limits).unwrap();
        (id, net, incoming)
    }

    fn serving(&self, contents: &[&Content], tamper: fn(Response) -> Response) -> Serving {
        let cache = TestCache::new(4 << 30);
        contents.iter().for_each(|content| cache.stock_all(content));
        let state = tempfile::tempdir().unwrap();
        self.serving_shares(shares(state.path(), &[]), cache, tamper)
    }

    fn serving_shares(
        &self,
        shares: ShareSet,
        cache: TestCache,
        tamper: fn(Response) -> Response,
    ) -> Serving {
        let (id, net, incoming) = self.net();
        let store = store_of(cache.cache.clone(), shares);
        let server = Server::new(store, ServerLimits::default());
        let task = tokio::spawn(serve(server.clone(), incoming, tamper));
        let (prompt, at_once) = (Arc::new(AtomicU64::new(0)), server.clone());
        let count = prompt.clone();
        net.set_answer_beside(Arc::new(move |incoming| {
            let Incoming { from, lane, .. } = incoming;
            match at_once.answer_at_once(from, lane, &incoming.request) {
                Some(answer) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    incoming.reply.send(tamper(answer));
                    None
                }
                None => Some(incoming),
            }
        }));
        Serving {
            id,
            address: net.local_addr(),
            net,
            cache,
            server,
            task,
            prompt,
        }
    }

    fn fetching(
        &self,
        cache: &TestCache,
        holders: Vec<Holder>,
    ) -> (Fetcher, mpsc::Receiver<FetchEvent>) {
        let (_, net, _incoming) = self.net();
        let holders: HoldersOf = Arc::new(move |_| holders.clone());
        Fetcher::new(FetchConfig::new(7), net, cache.store.clone(), holders)
    }
}

async fn serve(
    server: Server,
    mut incoming: mpsc::Receiver<Incoming>,
    tamper: fn(Response) -> Response,
) {
    let mut answers = JoinSet::new();
    while let Some(question) = incoming.recv().await {
        let server = server.clone();
        answers.spawn(async move {
            let Incoming { from, lane, .. } = question;
            let answer = server.answer(from, lane, question.request).await;
            question.reply.send(tamper(answer));
        });
        while answers.try_join_next().is_some() {}
    }
}

fn honest(response: Response) -> Response {
    response
}

fn lying(response: Response) -> Response {
    match response {
        Response::Data { proof } => {
            let mut proof = proof.to_vec();
            let middle = proof.len() / 2;
            proof[middle] ^= 0x40;
            Response::Data {
                proof: proof.into(),
            }
        }
        other => other,
    }
}

/// Corrupts all answers but the first. The first one opens the file, so it does not take the short
/// way.
fn lying_of_all_but_the_beginning(response: Response) -> Response {
    static FIRST: std::sync::Once = std::sync::Once::new();
    let mut is_first = false;
    FIRST.call_once(|| is_first = true);
    if is_first { response } else { lying(response) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_arrives_unchanged() {
    let content = Content::new(1, 64 << 20);
    let cluster = Cluster::new();
    let serving = cluster.serving(&[&content], honest);
    let cache = TestCache::new(1 << 30);
    let (fetcher, mut events) = cluster.fetching(&cache, vec![serving.holder(&content)]);
    let done = FetchEvent::Done {
        hash: content.hash(),
        size_bytes: content.size(),
    };
    blocking(move || read_through(&fetcher, &content, 128 << 10)).await;
    while tokio::time::timeout(LONG, events.recv())
        .await
        .unwrap()
        .unwrap()
        != done
    {}
    assert_eq!(cache.cache.complete().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_continues_at_another_holder_when_one_is_killed() {
    let content = Content::new(2, 48 << 20);
    let cluster = Cluster::new();
    let nodes = [
        cluster.serving(&[&content], honest),
        cluster.serving(&[&content], honest),
    ];
    let cache = TestCache::new(1 << 30);
    let holders = nodes.iter().map(|node| node.holder(&content)).collect();
    let (fetcher, _events) = cluster.fetching(&cache, holders);
    let (reader, copy) = (fetcher.clone(), content.clone());
    let begun = ByteRange::new(0, 128 << 10);
    blocking(move || read_now(&reader, &copy, begun))
        .await
        .unwrap();
    let first = fetcher
        .peers()
        .into_iter()
        .max_by_key(|p| p.delivered_bytes)
        .unwrap()
        .node;
    nodes.iter().find(|n| n.id == first).unwrap().kill();
    blocking(move || read_through(&fetcher, &content, 128 << 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_holder_is_excluded_and_no_wrong_byte_is_read() {
    let content = Content::new(3, 8 << 20);
    let cluster = Cluster::new();
    let nodes = [
        cluster.serving(&[&content], lying),
        cluster.serving(&[&content], honest),
    ];
    let cache = TestCache::new(1 << 30);
    let (fetcher, mut events) = cluster.fetching(&cache, vec![nodes[0].holder(&content)]);
    let hash = content.hash();
    let (reply, outcome) = super::reply();
    let deadline = Instant::now() + LONG;
    let first = ByteRange::new(0, 4096);
    fetcher.read(Read::new(content.key(), first, deadline, reply));
    let liar = FetchEvent::Liar {
        node: nodes[0].id,
        hash,
    };
    while events.recv().await.unwrap() != liar {}
    assert!(outcome.try_recv().is_err(), "it waits for another");
    let offer = p2pfs_fetch::Offer {
        node: nodes[1].id,
        content: ContentKey::new(hash, content.size()),
        all: true,
        ranges: Default::default(),
        load: 0,
    };
    fetcher.record_offer(offer, nodes[1].address);
    let reader = fetcher.clone();
    blocking(move || {
        let bytes = outcome.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(bytes, content.part(first));
        read_through(&reader, &content, 128 << 10);
    })
    .await;
    let shunned = fetcher.peers().into_iter().find(|p| p.shunned).unwrap();
    assert_eq!((shunned.node, shunned.delivered_bytes), (nodes[0].id, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_reads_take_the_short_path_correctly_and_are_cached() {
    let content = Content::new(10, 8 << 20);
    let cluster = Cluster::new();
    let serving = cluster.serving(&[&content], honest);
    let cache = TestCache::new(1 << 30);
    let (fetcher, _events) = cluster.fetching(&cache, vec![serving.holder(&content)]);
    let pages: Vec<_> = (0..200u64).map(|n| n * 977 % 2048 * 4096).collect();
    let (reader, copy) = (fetcher.clone(), content.clone());
    blocking(move || {
        for start in pages {
            let range = ByteRange::at(start, 4096);
            assert_eq!(read_now(&reader, &copy, range).unwrap(), copy.part(range));
        }
    })
    .await;
    assert!(serving.prompt.load(Ordering::Relaxed) > 150);
    let begun = Instant::now();
    while cache.cache.cached_bytes(&content.hash()) < 200 * 4096 {
        assert!(begun.elapsed() < LONG, "what was read is not kept");
        tokio::task::yield_now().await;
    }
    assert!(fetcher.peers()[0].delivered_bytes <= 250 * 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_on_the_short_path_is_found_and_another_holder_asked() {
    let content = Content::new(11, 4 << 20);
    let cluster = Cluster::new();
    let nodes = [
        cluster.serving(&[&content], honest),
        cluster.serving(&[&content], lying_of_all_but_the_beginning),
    ];
    let cache = TestCache::new(1 << 30);
    let (fetcher, mut events) = cluster.fetching(&cache, vec![nodes[1].holder(&content)]);
    let (reader, copy) = (fetcher.clone(), content.clone());
    let first = ByteRange::new(0, 4096);
    blocking(move || read_now(&reader, &copy, first).unwrap()).await;
    let offer = p2pfs_fetch::Offer {
        node: nodes[0].id,
        content: ContentKey::new(content.hash(), content.size()),
        all: true,
        ranges: Default::default(),
        load: 0,
    };
    let (reader, copy) = (fetcher.clone(), content.clone());
    let (address, range) = (nodes[0].address, ByteRange::at(2 << 20, 4096));
    let read = tokio::task::spawn_blocking(move || read_now(&reader, &copy, range).unwrap());
    let hash = content.hash();
    let node = nodes[1].id;
    while events.recv().await.unwrap() != (FetchEvent::Liar { node, hash }) {}
    fetcher.record_offer(offer, address);
    assert_eq!(read.await.unwrap(), content.part(range));
    assert_eq!(nodes[1].prompt.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_what_it_has_fetched() {
    let content = Content::new(4, 6 << 20);
    let cluster = Cluster::new();
    let seed = cluster.serving(&[&content], honest);
    let relay = cluster.serving(&[], honest);
    let (relay_fetcher, _a) = cluster.fetching(&relay.cache, vec![seed.holder(&content)]);
    relay_fetcher
        .fill(content.hash(), content.size())
        .done()
        .await
        .unwrap();
    seed.kill();
    let cache = TestCache::new(1 << 30);
    let (fetcher, _b) = cluster.fetching(&cache, vec![relay.holder(&content)]);
    blocking(move || read_through(&fetcher, &content, 1 << 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_readers_of_one_range_share_one_fetch() {
    let content = Content::new(5, 4 << 20);
    let cluster = Cluster::new();
    let serving = cluster.serving(&[&content], honest);
    let cache = TestCache::new(1 << 30);
    let (fetcher, _events) = cluster.fetching(&cache, vec![serving.holder(&content)]);
    let range = ByteRange::at(1 << 20, 128 << 10);
    let mut readers = JoinSet::new();
    for _ in 0..64 {
        let (fetcher, content) = (fetcher.clone(), content.clone());
        readers.spawn_blocking(move || {
            assert_eq!(
                read_now(&fetcher, &content, range).unwrap(),
                content.part(range)
            );
        });
    }
    readers.join_all().await;
    assert_eq!(fetcher.peers()[0].delivered_bytes, range.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_offers_its_files_and_names_their_askers() {
    let (whole, part) = (Content::new(6, 300_000), Content::new(7, 400_000));
    let cluster = Cluster::new();
    let serving = cluster.serving(&[&whole], honest);
    serving.cache.stock(&part, ByteRange::new(65536, 200_704));
    let (alice, bob) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
    let offer = serving.server.offer_for(alice, &whole.hash()).unwrap();
    assert!(offer.all && offer.size_bytes == 300_000 && offer.askers.is_empty());
    let offer = serving.server.offer_for(bob, &part.hash()).unwrap();
    assert_eq!(offer.ranges, [ByteRange::new(65536, 196_608)]);
    let again = serving.server.offer_for(bob, &whole.hash()).unwrap();
    assert_eq!(again.askers, [alice]);
    let unknown = p2pfs_types::digest::ContentHash::of(b"unknown");
    assert_eq!(serving.server.offer_for(bob, &unknown), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn meaningless_requests_are_refused() {
    let content = Content::new(8, 3 << 20);
    let cluster = Cluster::new();
    let serving = cluster.serving(&[&content], honest);
    let (from, hash) = (NodeId::new([1; 32]), content.hash());
    let ask = |size_bytes, range| {
        serving.server.answer(
            from,
            Lane::Bulk,
            Request::Range {
                hash,
                size_bytes,
                range,
            },
        )
    };
    let too_long = ask(3 << 20, ByteRange::new(0, 2 << 20)).await;
    assert!(matches!(too_long, Response::Refused { .. }));
    let outside = ask(100, ByteRange::new(50, 101)).await;
    assert!(matches!(outside, Response::Refused { .. }));
    let other_size = ask(2 << 20, ByteRange::new(0, 4096)).await;
    assert_eq!(other_size, Response::NotHere);
    let other = serving
        .server
        .answer(from, Lane::Bulk, Request::Heads { heads: vec![] })
        .await;
    assert!(matches!(other, Response::Refused { .. }));
    let holdings = serving
        .server
        .answer(from, Lane::Bulk, Request::Holdings { hash })
        .await;
    let ranges = [ByteRange::new(0, 3 << 20)].into_iter().collect();
    assert_eq!(
        holdings,
        Response::Holdings {
            ranges,
            size_bytes: 3 << 20
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_file_is_served_until_it_changes_and_never_mixed() {
    let content = Content::new(9, 6 << 20);
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = folder.path().join("film.mkv");
    std::fs::write(&path, &content.bytes).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let shared = (state.path().to_owned(), folder.path().to_owned());
    let set = blocking(move || shares(&shared.0, &[&shared.1])).await;
    let cluster = Cluster::new();
    let serving = cluster.serving_shares(set, TestCache::new(1 << 30), honest);
    let cache = TestCache::new(1 << 30);
    let (fetcher, mut events) = cluster.fetching(&cache, vec![serving.holder(&content)]);
    let (reader, copy) = (fetcher.clone(), content.clone());
    let first = ByteRange::new(0, 4096);
    let bytes = blocking(move || read_now(&reader, &copy, first))
        .await
        .unwrap();
    assert_eq!(bytes, content.part(first));

    std::fs::write(&path, vec![7; 6 << 20]).unwrap();
    let (reply, outcome) = super::reply();
    let deadline = Instant::now() + Duration::from_millis(400);
    let later = ByteRange::at(4 << 20, 4096);
    fetcher.read(Read::new(content.key(), later, deadline, reply));
    blocking(move || outcome.recv_timeout(LONG).unwrap())
        .await
        .unwrap_err();
    let blamed = std::iter::from_fn(|| events.try_recv().ok());
    assert!(
        !blamed
            .into_iter()
            .any(|event| matches!(event, FetchEvent::Liar { .. }))
    );
}
