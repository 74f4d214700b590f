//! Two holders: first one of them is silent, later the other.

use crate::plan::RequestStage;
use std::time::{Duration, Instant};

use super::bench::{Bench, PATIENCE, Reader, file_named, node};
use super::peers::{Death, SimPeer};
use super::{Answers, MIB, listed, step};
use crate::plan::peer::Peer;
use crate::plan::{Plan, PlanConfig, PlanEvent, RangeRequest};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use p2pfs_types::id::NodeId;

const NEAR: Duration = Duration::from_millis(1);
/// Long enough for the other holder to count as silent meanwhile.
const FAR: Duration = Duration::from_millis(500);
/// Maximum wait of a reader after one of two full holders falls silent.
const STALL_MAX: Duration = Duration::from_secs(2);

struct Two {
    plan: Plan,
    now: Instant,
    content: ContentKey,
    /// Node that answers nothing.
    deaf: Option<NodeId>,
    distance: Duration,
    answers: Answers,
}

impl Two {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let content = file_named(1, 64 * MIB);
        let mut plan = Plan::new(PlanConfig::default(), seed);
        plan.open(now, content, ExtentSet::new()).unwrap();
        plan.record_holders(now, &content, &listed(&[node(1), node(2)]));
        Self {
            plan,
            now,
            content,
            deaf: None,
            distance: NEAR,
            answers: Answers::new(),
        }
    }

    /// Reads a page. Returns the first and the last peer asked, and the duration.
    fn read(&mut self, page: u64) -> (NodeId, NodeId, Duration) {
        let (begun, range) = (self.now, ByteRange::at(page * PAGE_BYTES, PAGE_BYTES));
        let deadline = begun + PATIENCE;
        let demand = self.plan.demand(begun, self.content, range, deadline);
        let ready = PlanEvent::Ready(demand.unwrap());
        let mut asked = Vec::new();
        loop {
            while let Some(request) = self.plan.poll_request(self.now) {
                asked.push(request.node);
                if Some(request.node) != self.deaf {
                    self.answers.insert((self.now + self.distance, request.id));
                }
            }
            while let Some(event) = self.plan.state.out.poll_event() {
                assert!(!matches!(event, PlanEvent::Failed(..)), "{event:?}");
                if event == ready {
                    return (asked[0], asked[asked.len() - 1], self.now - begun);
                }
            }
            step(&mut self.plan, &mut self.now, &mut self.answers);
        }
    }
}

#[test]
fn a_formerly_silent_holder_is_asked_when_the_other_falls_silent() {
    for seed in 0..50 {
        let mut two = Two::new(seed);
        let (first, ..) = two.read(0);
        (two.deaf, two.distance) = (Some(first), FAR);
        let (_, other, waited) = two.read(100);
        assert!(other != first && waited <= STALL_MAX, "{waited:?}");
        let silent = two.plan.state.peers.get(&first).map(Peer::is_silent);
        assert_eq!(silent, Some(true));
        // it is healthy again, and no node knows that
        (two.deaf, two.distance) = (Some(other), NEAR);
        two.now += Duration::from_secs(5);
        let (asked, answered, waited) = two.read(200);
        assert_eq!((asked, answered), (other, first), "seed {seed}");
        assert!(waited <= STALL_MAX, "seed {seed}: {waited:?}");
    }
}

#[test]
fn a_read_from_slow_holders_takes_only_as_long_as_they_need() {
    for seed in 0..20 {
        let mut two = Two::new(seed);
        for slow in [1, 3, 6] {
            two.distance = Duration::from_secs(slow);
            for page in 0..6 {
                let (.., waited) = two.read(100 * slow + 10 * page);
                let most = two.distance + Duration::from_millis(600);
                assert!(waited <= most, "seed {seed}: {slow} s, {waited:?}");
            }
        }
    }
}

/// Returns a holder that sends 2 kB/s, and one that sent 50 MB/s until it fell silent.
fn slow_and_silent(seed: u64, size: u64) -> (Bench, [NodeId; 2]) {
    let mut bench = Bench::new(seed);
    let slow = bench.peer(1, SimPeer::new(5, 2e3));
    let dying = SimPeer::new(1, 50e6).dying(100_000, Death::Silence);
    let fast = bench.peer(2, dying);
    for (number, holder) in [(1, slow), (2, fast)] {
        let content = bench.file(number, size, &[holder]);
        bench.read(Reader::new(content, vec![ByteRange::new(0, 128 << 10)]));
    }
    bench.run(Duration::from_secs(100));
    bench.now = bench.start + Duration::from_secs(100);
    let lost = bench.file(3, 128 << 10, &[fast]);
    bench.read(Reader::sequential(lost, 128 << 10));
    bench.run(Duration::from_secs(60));
    bench.readers.clear();
    assert!(bench.plan.state.peers.get(&fast).unwrap().is_silent());
    (bench, [slow, fast])
}

/// The silent holder would be much faster if it answered.
#[test]
fn the_rest_of_a_fill_comes_from_a_very_slow_holder_beside_a_silent_one() {
    for seed in 0..20 {
        let (mut bench, peers) = slow_and_silent(seed, 128 << 10);
        let content = bench.file(4, 64 << 10, &peers);
        bench.plan.fill(bench.now, content, PATIENCE);
        bench.run(Duration::from_secs(300));
        let filled = PlanEvent::Filled(content);
        assert!(bench.events.contains(&filled), "seed {seed}");
    }
}

#[test]
fn a_request_waiting_for_a_slow_holder_does_not_go_to_a_silent_one_repeatedly() {
    for seed in 0..20 {
        // the slow one serves what another reader was about to read
        let (mut bench, peers) = slow_and_silent(seed, MIB);
        let content = bench.file(4, 64 << 10, &peers);
        let before = bench.requests.len();
        bench.plan.fill(bench.now, content, PATIENCE);
        bench.run(Duration::from_secs(40));
        let asked = &bench.requests[before..];
        let silent = asked.iter().filter(|request| request.node == peers[1]);
        assert!(silent.count() <= 8, "seed {seed}");
    }
}

#[test]
fn an_answer_waiting_for_the_disk_is_not_silence_and_is_not_requested_again() {
    let mut two = Two::new(1);
    two.read(0);
    let (begun, range) = (two.now, ByteRange::at(MIB, 4 * MIB));
    let plan = &mut two.plan;
    plan.demand(begun, two.content, range, begun + PATIENCE)
        .unwrap();
    let mut asked = Vec::new();
    while let Some(request) = plan.poll_request(begun) {
        plan.arrived(begun, request.node, request.id, request.range.len());
        plan.record_stage(request.id, RequestStage::Received);
        asked.push(request);
    }
    let bytes: u64 = asked.iter().map(|request| request.range.len()).sum();
    assert_eq!(bytes, range.len());
    let mut now = begun;
    while now < begun + 5 * STALL_MAX {
        now = plan.poll_timeout().unwrap().max(now);
        plan.handle_timeout(now);
        assert_eq!(plan.poll_request(now), None);
        let events = std::iter::from_fn(|| plan.state.out.poll_event());
        let mut taken_back = events.filter(|event| matches!(event, PlanEvent::Cancel(_)));
        assert_eq!(taken_back.next(), None);
    }
    let silent = |request: &RangeRequest| plan.state.peers.get(&request.node).unwrap().is_silent();
    assert!(!asked.iter().any(silent));
    assert!(asked.iter().all(|request| plan.answered(now, request.id)));
}
