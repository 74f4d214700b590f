//! Batches of small files over real TLS on loopback.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::{Cluster, Serving, blocking, honest};
use crate::batches::{BATCHES_PER_NODE_MAX, Batches, SmallFile};
use crate::net::peer::{Incoming, Lane, PeerLimits};
use crate::tests::{Content, LONG, Outcome, TestCache, reply};
use crate::{FetchConfig, Fetcher, HoldersOf};
use p2pfs_fetch::session::Read;
use p2pfs_fetch::{FetchEvent, Holder};
use p2pfs_proto::wire::native::tcp::{BatchPart, PackedBatch, Request, Response, unpack_batch};
use p2pfs_types::extent::ByteRange;

struct Reader {
    batches: Batches,
    fetcher: Fetcher,
    events: mpsc::Receiver<FetchEvent>,
    cache: TestCache,
}

fn reader(
    cluster: &Cluster,
    nodes: &[&Serving],
    contents: &[Content],
    limits: PeerLimits,
) -> Reader {
    let (_, net, _incoming) = cluster.net_with(limits);
    let cache = TestCache::new(1 << 30);
    let nodes: Vec<_> = nodes.iter().map(|node| (node.id, node.address)).collect();
    let sizes: HashMap<_, _> = contents.iter().map(|it| (it.hash(), it.size())).collect();
    let holders: HoldersOf = Arc::new(move |hash| {
        let holder = |&(node, address)| Holder {
            node,
            address,
            size_bytes: sizes[hash],
            sequence: 1,
        };
        nodes.iter().map(holder).collect()
    });
    let kept = cache.store.clone();
    let (fetcher, events) = Fetcher::new(
        FetchConfig::new(7),
        net.clone(),
        kept.clone(),
        holders.clone(),
    );
    let batches = Batches::new(net, kept, holders, fetcher.clone());
    Reader {
        batches,
        fetcher,
        events,
        cache,
    }
}

fn small_files(count: u64) -> Vec<Content> {
    let size = |number: u64| 1 + (number * 7919 % 65_536) as usize;
    (0..count)
        .map(|number| Content::new(1000 + number, size(number)))
        .collect()
}

fn small(content: &Content) -> SmallFile {
    SmallFile {
        hash: content.hash(),
        size_bytes: content.size(),
    }
}

fn all_of(contents: &[Content]) -> Vec<SmallFile> {
    contents.iter().map(small).collect()
}

impl Reader {
    /// Reads a whole file as the mount does.
    fn begin(&self, content: &Content) -> Outcome {
        let (mut answer, outcome) = reply();
        let range = ByteRange::new(0, content.size());
        if let Some(bytes) = self.batches.here(&small(content)) {
            answer(Ok(bytes));
            return outcome;
        }
        let deadline = Instant::now() + LONG / 2;
        match self.batches.read(small(content), range, deadline, answer) {
            Ok(_wait) => return outcome,
            Err(given_back) => answer = given_back,
        }
        self.fetcher
            .read(Read::new(small(content), range, deadline, answer));
        outcome
    }

    async fn read_all(&self, contents: &[Content]) {
        for content in contents {
            let outcome = self.begin(content);
            let bytes = blocking(move || outcome.recv_timeout(LONG).unwrap()).await;
            assert!(bytes.unwrap() == content.bytes, "wrong bytes");
        }
    }
}

fn serving(cluster: &Cluster, contents: &[Content], tamper: fn(Response) -> Response) -> Serving {
    cluster.serving(&contents.iter().collect::<Vec<_>>(), tamper)
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_arrive_correctly_in_batches_and_are_cached() {
    let cluster = Cluster::new();
    let contents = small_files(200);
    let node = serving(&cluster, &contents, honest);
    let reader = reader(&cluster, &[&node], &contents, PeerLimits::default());
    reader.batches.ask(&all_of(&contents));
    let all = || {
        contents
            .iter()
            .all(|it| reader.cache.cache.is_complete(&it.hash()))
    };
    // a reader during that time waits briefly, and a slow machine takes longer
    while !all() {
        tokio::task::yield_now().await;
    }
    reader.read_all(&contents).await;
    let fetches = reader.fetcher.fetches();
    let alone = fetches.iter().filter(|it| it.received_bytes() > 0).count();
    assert_eq!(alone, 0, "came alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_node_without_batches_are_fetched_singly() {
    let cluster = Cluster::new();
    let contents = small_files(20);
    let node = serving(&cluster, &contents, honest);
    let older = PeerLimits {
        batches: false,
        ..PeerLimits::default()
    };
    let reader = reader(&cluster, &[&node], &contents, older);
    reader.batches.ask(&all_of(&contents));
    reader.read_all(&contents).await;
    assert_eq!(reader.fetcher.fetches().len(), contents.len());
    reader.batches.ask(&all_of(&contents));
    assert!(
        reader.batches.read_is_refused(&contents[0]),
        "it is asked no more"
    );
}

impl Batches {
    fn read_is_refused(&self, content: &Content) -> bool {
        let (answer, _outcome) = reply();
        let range = ByteRange::new(0, content.size());
        self.read(small(content), range, Instant::now(), answer)
            .is_err()
    }
}

/// Changes one byte of the last file of a batch.
fn lying_at_the_end(response: Response) -> Response {
    let Response::Batch { packed } = response else {
        return response;
    };
    let mut parts = unpack_batch(&packed).unwrap();
    let last = parts.pop();
    let mut lie = PackedBatch::default();
    for part in parts.iter().chain(&last) {
        match part {
            BatchPart::Here(proof) if Some(part) == last.as_ref() => {
                let mut proof = proof.to_vec();
                proof[0] ^= 1;
                lie.push_here(&proof);
            }
            BatchPart::Here(proof) => lie.push_here(proof),
            BatchPart::Gone => lie.push_gone(),
            BatchPart::NotHere => lie.push_not_here(),
        }
    }
    let packed = lie.into_bytes().into();
    Response::Batch { packed }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_in_a_batch_names_the_node_and_the_file_comes_from_another() {
    let cluster = Cluster::new();
    let contents = small_files(8);
    let liar = serving(&cluster, &contents, lying_at_the_end);
    let honest = serving(&cluster, &contents, honest);
    let nodes = [&liar, &honest];
    let mut reader = reader(&cluster, &nodes, &contents, PeerLimits::default());
    reader.batches.ask(&all_of(&contents));
    reader.read_all(&contents).await;
    let is_named = |event| matches!(event, FetchEvent::Liar { node, .. } if node == liar.id);
    while !is_named(reader.events.recv().await.unwrap()) {}
    assert!(
        reader
            .fetcher
            .peers()
            .iter()
            .any(|it| it.node == liar.id && it.shunned)
    );
}

fn fewer_parts(response: Response) -> Response {
    match response {
        Response::Batch { .. } => Response::Batch {
            packed: Default::default(),
        },
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_batch_answer_loses_no_file() {
    let cluster = Cluster::new();
    let contents = small_files(8);
    let node = serving(&cluster, &contents, fewer_parts);
    let reader = reader(&cluster, &[&node], &contents, PeerLimits::default());
    reader.batches.ask(&all_of(&contents));
    reader.read_all(&contents).await;
}

/// Returns a node that accepts requests and never answers batches.
fn deaf_to_batches(cluster: &Cluster, contents: &[Content]) -> (Serving, mpsc::Receiver<Incoming>) {
    let node = serving(cluster, contents, honest);
    let (asked, questions) = mpsc::channel(64);
    let server = node.server.clone();
    node.net
        .set_answer_beside(Arc::new(move |incoming: Incoming| {
            match incoming.request {
                Request::Batch { .. } => {
                    // the request waits for its answer until the receiver is dropped
                    let _ = asked.try_send(incoming);
                    None
                }
                _ => server.serve(incoming, &(Arc::new(|_, _| {}) as crate::OnSent)),
            }
        }));
    (node, questions)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_killed_in_mid_batch_costs_its_readers_nothing() {
    let cluster = Cluster::new();
    let contents = small_files(8);
    let (dying, mut questions) = deaf_to_batches(&cluster, &contents);
    let other = serving(&cluster, &contents, honest);
    let nodes = [&dying, &other];
    let reader = reader(&cluster, &nodes, &contents, PeerLimits::default());
    reader.batches.ask(&all_of(&contents));
    let question = questions.recv().await.unwrap();
    assert_eq!(question.lane, Lane::Bulk);
    let outcomes: Vec<_> = contents
        .iter()
        .map(|content| reader.begin(content))
        .collect();
    dying.kill();
    for (outcome, content) in outcomes.into_iter().zip(&contents) {
        let bytes = blocking(move || outcome.recv_timeout(LONG).unwrap()).await;
        assert!(bytes.unwrap() == content.bytes);
    }
}

/// Returns limits of a node that gives no unanswered question up within a test.
fn patient() -> PeerLimits {
    let mut limits = PeerLimits::default();
    limits.times.unanswered_after = LONG * 10;
    limits
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_does_not_wait_long_for_a_missing_batch() {
    let cluster = Cluster::new();
    let contents = small_files(8);
    let (_node, mut questions) = deaf_to_batches(&cluster, &contents);
    let reader = reader(&cluster, &[&_node], &contents, patient());
    reader.batches.ask(&all_of(&contents));
    let _unanswered = questions.recv().await.unwrap();
    reader.read_all(&contents[..1]).await;
    let others = contents[1..].iter();
    assert!(
        others
            .into_iter()
            .all(|it| reader.batches.read_is_refused(it))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waiting_for_a_batch_can_be_cancelled() {
    let cluster = Cluster::new();
    let contents = small_files(2);
    let (node, mut questions) = deaf_to_batches(&cluster, &contents);
    let reader = reader(&cluster, &[&node], &contents, PeerLimits::default());
    reader.batches.ask(&all_of(&contents));
    let _unanswered = questions.recv().await.unwrap();
    let (answer, outcome) = reply();
    let range = ByteRange::new(0, contents[0].size());
    let deadline = Instant::now() + LONG;
    let wait = reader
        .batches
        .read(small(&contents[0]), range, deadline, answer);
    let wait = wait.ok().unwrap();
    assert_eq!(wait.until(), Some(deadline));
    wait.cancel();
    assert!(outcome.recv_timeout(LONG).unwrap().is_err());
    assert_eq!(wait.until(), None);
}

/// Returns which batch requests arrive until a file that is in none of them was read.
async fn others_until_read(
    reader: &Reader,
    content: &Content,
    questions: &mut mpsc::Receiver<Incoming>,
) -> usize {
    reader.read_all(std::slice::from_ref(content)).await;
    std::iter::from_fn(|| questions.try_recv().ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_awaited_in_vain_is_cancelled() {
    let cluster = Cluster::new();
    let contents = small_files(8);
    let (node, mut questions) = deaf_to_batches(&cluster, &contents);
    let reader = reader(&cluster, &[&node], &contents, patient());
    reader.batches.ask(&all_of(&contents));
    let unanswered = questions.recv().await.unwrap();
    let taken_back = unanswered.reply.unwanted();
    reader.read_all(&contents[..1]).await;
    let soon = tokio::time::timeout(LONG, taken_back).await;
    assert!(soon.is_ok(), "it comes still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_does_not_count_against_a_limit() {
    let cluster = Cluster::new();
    let contents = small_files(2);
    let (node, mut questions) = deaf_to_batches(&cluster, &contents);
    let reader = reader(&cluster, &[&node], &contents, PeerLimits::default());
    let limit = reader.fetcher.download();
    // the batch is paid for in more than the test's patience, and the read of its first file at once
    limit.set(Some(1));
    reader.batches.ask(&all_of(&contents));
    let _unanswered = questions.recv().await.unwrap();
    assert!(!limit.pass_at_once(1, false));
    reader.read_all(&contents[..1]).await;
    let begun = Instant::now();
    while !limit.pass_at_once(1, false) {
        assert!(begun.elapsed() < LONG, "the batch is paid for");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_leave_enough_of_a_limit_to_readers() {
    let cluster = Cluster::new();
    let contents = small_files(40);
    let (node, mut questions) = deaf_to_batches(&cluster, &contents);
    let reader = reader(&cluster, &[&node], &contents, PeerLimits::default());
    let limit = reader.fetcher.download();
    limit.set(Some(20_000));
    reader.batches.ask(&all_of(&contents));
    let _unanswered = questions.recv().await.unwrap();
    assert!(limit.pass_at_once(4096, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_fetched_singly_while_its_batch_was_throttled_is_not_requested_again() {
    let cluster = Cluster::new();
    let contents = small_files(3);
    let (node, mut questions) = deaf_to_batches(&cluster, &contents);
    let reader = reader(&cluster, &[&node], &contents, PeerLimits::default());
    let limit = reader.fetcher.download();
    limit.set(Some(100_000));
    assert!(limit.pass_at_once(300_000, true));
    reader.batches.ask(&all_of(&contents[..2]));
    reader.read_all(&contents[..2]).await;
    // this queues behind the batch, if the batch still waits
    limit.pass(1, false).await;
    assert_eq!(
        others_until_read(&reader, &contents[2], &mut questions).await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_batches_are_not_sent_on_a_metered_network() {
    let cluster = Cluster::new();
    let contents = small_files(100);
    let (node, mut questions) = deaf_to_batches(&cluster, &contents);
    let reader = reader(&cluster, &[&node], &contents, PeerLimits::default());
    let (last, asked) = contents.split_last().unwrap();
    reader.batches.ask(&all_of(asked));
    let mut open = Vec::new();
    for _ in 0..BATCHES_PER_NODE_MAX {
        open.push(questions.recv().await.unwrap());
    }
    reader.fetcher.set_metered(true);
    for question in open {
        question.reply.send(Response::NotHere);
    }
    reader.read_all(asked).await;
    assert_eq!(others_until_read(&reader, last, &mut questions).await, 0);
}
