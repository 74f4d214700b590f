//! Nodes that also want a file, offer parts of it and answer nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bench::{PATIENCE, file_named, node};
use super::{Answers, MIB, listed, step};
use crate::plan::{
    Decision, DemandId, Failure, Lane, Offer, PeerNews, Plan, PlanConfig, PlanEvent,
    URGENT_MAX_BYTES, patience::TURN_PATIENCE,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use p2pfs_types::id::NodeId;

const SIZE: u64 = MIB;
/// 1 Mbit/s, in bytes per second.
const SLOW: f64 = 125e3;
const DISTANCE: Duration = Duration::from_millis(40);
const HOLDER: u8 = 1;
/// Nodes that have most of the file and answer nothing.
const MUTES: std::ops::Range<u8> = 2..8;
/// Nodes that have only its end and want all of it.
const OTHERS: std::ops::Range<u8> = 8..60;

/// Plan among such nodes: only the full holder answers, and slowly.
struct Among {
    plan: Plan,
    now: Instant,
    content: ContentKey,
    answers: Answers,
    free_at: Instant,
    asked_of_mutes: u64,
}

impl Among {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let content = file_named(1, SIZE);
        let mut plan = Plan::new(PlanConfig::default(), seed);
        plan.open(now, content, ExtentSet::new()).unwrap();
        plan.record_holders(now, &content, &listed(&[node(HOLDER)]));
        let mut among = Self {
            plan,
            now,
            content,
            answers: Answers::new(),
            free_at: now,
            asked_of_mutes: 0,
        };
        // the first bytes arrive from the holder, so that its figures are known
        among.read(ByteRange::new(0, URGENT_MAX_BYTES));
        let end = SIZE - PAGE_BYTES;
        MUTES.for_each(|number| among.tell_of(number, ByteRange::new(0, end)));
        OTHERS.for_each(|number| among.tell_of(number, ByteRange::new(end, SIZE)));
        among
    }

    fn tell_of(&mut self, number: u8, range: ByteRange) {
        let offer = Offer {
            node: node(number),
            content: self.content,
            all: false,
            ranges: [range].into_iter().collect(),
            load: 0,
        };
        let (now, content) = (self.now, self.content);
        self.plan
            .record_peer_news(offer.node, PeerNews::Wants { now, content });
        self.plan.record_offer(self.now, &offer);
    }

    fn read(&mut self, range: ByteRange) {
        let deadline = self.now + PATIENCE;
        let demand = self.plan.demand(self.now, self.content, range, deadline);
        let ready = PlanEvent::Ready(demand.unwrap());
        self.run_until(&ready);
    }

    /// Advances time until this event.
    fn run_until(&mut self, end: &PlanEvent) {
        let limit = self.now + Duration::from_secs(600);
        while self.now < limit {
            while let Some(request) = self.plan.poll_request(self.now) {
                self.asked_of_mutes += u64::from(is_mute(&request.node));
                if request.node == node(HOLDER) {
                    let moving = Duration::from_secs_f64(request.range.len() as f64 / SLOW);
                    self.free_at = self.free_at.max(self.now + DISTANCE) + moving;
                    self.answers.insert((self.free_at, request.id));
                }
            }
            while let Some(event) = self.plan.state.out.poll_event() {
                if event == *end {
                    return;
                }
                let failed = matches!(event, PlanEvent::Failed(..) | PlanEvent::FillFailed(..));
                assert!(!failed, "{event:?} though the holder lives");
            }
            step(&mut self.plan, &mut self.now, &mut self.answers);
        }
        panic!("{end:?} never came");
    }
}

fn is_mute(id: &NodeId) -> bool {
    MUTES.map(node).any(|mute| mute == *id)
}

#[test]
fn mute_holders_keep_no_reader_from_a_holder_that_answers() {
    for seed in 0..4 {
        let mut among = Among::new(seed);
        for page in (64..128).rev() {
            among.read(ByteRange::at(page * PAGE_BYTES, PAGE_BYTES));
        }
    }
}

#[test]
fn mute_holders_keep_no_fill_from_a_holder_that_answers() {
    for seed in 0..4 {
        let mut among = Among::new(seed);
        let content = among.content;
        among.plan.fill(among.now, content, PATIENCE);
        among.run_until(&PlanEvent::Filled(content));
    }
}

/// Holder that serves one file part by part to a reader, and nothing of another file, because its
/// disk hangs below that file alone.
struct OneOfTwo {
    plan: Plan,
    begin: Instant,
    now: Instant,
    read: ContentKey,
    wanted: ContentKey,
    /// Another holder of the wanted file, if there is one.
    other: Option<NodeId>,
    /// Whether the holder serves urgent requests for the wanted file.
    gives_what_is_urgent: bool,
    part_bytes: u64,
    took: Duration,
    parts: u64,
    demand: Option<DemandId>,
    answers: Answers,
}

impl OneOfTwo {
    /// Creates the trial. The reader requests parts of `part_bytes`, each of which arrives after
    /// `took`.
    fn new(part_bytes: u64, took: Duration) -> Self {
        let begin = Instant::now();
        let [read, wanted] = [1, 2].map(|number| file_named(number, 64 * MIB));
        let mut plan = Plan::new(PlanConfig::default(), 1);
        for content in [read, wanted] {
            plan.open(begin, content, ExtentSet::new()).unwrap();
            plan.record_holders(begin, &content, &listed(&[node(HOLDER)]));
        }
        Self {
            plan,
            begin,
            now: begin,
            read,
            wanted,
            other: None,
            gives_what_is_urgent: false,
            part_bytes,
            took,
            parts: 0,
            demand: None,
            answers: Answers::new(),
        }
    }

    /// Goes on reading until an event that is not the reader's, for at most `limit`.
    fn next_event(&mut self, limit: Duration) -> Option<PlanEvent> {
        while self.now < self.begin + limit {
            while let Some(event) = self.plan.state.out.poll_event() {
                match event {
                    PlanEvent::Ready(id) if self.demand == Some(id) => self.demand = None,
                    PlanEvent::Failed(..) => panic!("{event:?} after {:?}", self.now - self.begin),
                    _ => return Some(event),
                }
            }
            if self.demand.is_none() {
                let part = ByteRange::at(self.parts * self.part_bytes, self.part_bytes);
                self.parts += 1;
                let deadline = self.now + PATIENCE;
                let next = self.plan.demand(self.now, self.read, part, deadline);
                self.demand = Some(next.unwrap());
            }
            while let Some(request) = self.plan.poll_request(self.now) {
                let is_urgent = request.lane == Lane::Urgent && self.gives_what_is_urgent;
                let comes = request.content == self.read || Some(request.node) == self.other;
                if comes || is_urgent {
                    self.answers.insert((self.now + self.took, request.id));
                }
            }
            step(&mut self.plan, &mut self.now, &mut self.answers);
        }
        None
    }
}

#[test]
fn a_holder_mute_for_one_file_fails_its_fill_though_it_serves_other_files() {
    let mut trial = OneOfTwo::new(PAGE_BYTES, Duration::from_millis(200));
    let wanted = trial.wanted;
    trial.plan.fill(trial.begin, wanted, PATIENCE);
    while let Some(event) = trial.next_event(PATIENCE * TURN_PATIENCE * 3) {
        if let PlanEvent::FillFailed(content, _) = event {
            assert_eq!(content, wanted);
            // not before its last request could have had its turn
            let took = trial.now - trial.begin;
            assert!(took >= PATIENCE * TURN_PATIENCE, "{took:?}");
            return;
        }
    }
    panic!("it never ends");
}

/// A peer that serves other files is neither unreachable nor counted as failed, and the fault is
/// not on this node.
#[test]
fn a_request_ends_as_stalled_if_its_holder_answers_only_others_and_as_unreachable_if_none() {
    let mut trial = OneOfTwo::new(PAGE_BYTES, Duration::from_millis(200));
    let (begin, wanted) = (trial.begin, trial.wanted);
    trial.plan.state.out.set_traced(true);
    trial.plan.fill(begin, wanted, PATIENCE);
    let mut failures = Vec::new();
    while failures.is_empty() && trial.now < begin + PATIENCE * TURN_PATIENCE * 3 {
        trial.next_event(trial.now - begin + Duration::from_secs(1));
        failures = failures_in(&mut trial.plan);
    }
    assert!(
        !failures.is_empty() && failures.iter().all(|it| *it == Failure::Stalled),
        "{failures:?}"
    );
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.state.out.set_traced(true);
    plan.open(begin, wanted, ExtentSet::new()).unwrap();
    plan.record_holders(begin, &wanted, &listed(&[node(HOLDER)]));
    plan.fill(begin, wanted, PATIENCE);
    let (mut now, mut failures) = (begin, Vec::new());
    while failures.is_empty() {
        while plan.poll_request(now).is_some() {}
        now = plan.poll_timeout().unwrap();
        plan.handle_timeout(now);
        failures = failures_in(&mut plan);
    }
    assert!(
        failures.iter().all(|it| *it == Failure::Unreachable),
        "{failures:?}"
    );
}

fn failures_in(plan: &mut Plan) -> Vec<Failure> {
    let decisions = plan.state.out.take_decisions().into_iter();
    let failed = decisions.filter_map(|decision| match decision {
        Decision::Failed { failure, .. } => Some(failure),
        _ => None,
    });
    failed.collect()
}

/// Arrivals of the other file say nothing about when this one arrives.
#[test]
fn a_holder_mute_for_one_file_keeps_no_reader_from_another_holder() {
    let mut trial = OneOfTwo::new(URGENT_MAX_BYTES, Duration::from_millis(5));
    let (begin, wanted, other) = (trial.begin, trial.wanted, node(HOLDER + 1));
    let range = ByteRange::new(0, URGENT_MAX_BYTES);
    let deadline = begin + PATIENCE;
    let demand = trial.plan.demand(begin, wanted, range, deadline);
    let demand = demand.unwrap();
    let first = trial.plan.poll_request(begin).unwrap();
    assert_eq!((first.content, first.node), (wanted, node(HOLDER)));
    // from now on another holder is known
    let both = listed(&[node(HOLDER), other]);
    trial.plan.record_holders(begin, &wanted, &both);
    trial.other = Some(other);
    while let Some(event) = trial.next_event(Duration::from_secs(2)) {
        if event == PlanEvent::Ready(demand) {
            return;
        }
    }
    panic!("it was never asked of the other");
}

/// Models a holder with a rate limit, which serves waiting readers first.
#[test]
fn a_reader_of_an_earlier_request_is_not_overtaken_by_later_requests() {
    let mut trial = OneOfTwo::new(URGENT_MAX_BYTES, Duration::from_millis(5));
    let (begin, wanted) = (trial.begin, trial.wanted);
    trial.plan.fill(begin, wanted, PATIENCE);
    let ahead = trial.plan.poll_request(begin).unwrap();
    assert_eq!((ahead.content, ahead.lane), (wanted, Lane::Bulk));
    let range = ByteRange::at(ahead.range.start, PAGE_BYTES);
    let demand = trial.plan.demand(begin, wanted, range, begin + PATIENCE);
    let demand = demand.unwrap();
    trial.gives_what_is_urgent = true;
    while let Some(event) = trial.next_event(Duration::from_secs(2)) {
        if event == PlanEvent::Ready(demand) {
            return;
        }
    }
    panic!("it was never asked for as what a reader waits for");
}

/// The holder is full of another reader's urgent requests, and the file is also wanted whole.
#[test]
fn a_reader_of_a_fill_in_flight_is_not_sent_to_the_end_of_the_queue_repeatedly() {
    let mut trial = OneOfTwo::new(64 * MIB, Duration::ZERO);
    let (begin, wanted) = (trial.begin, trial.wanted);
    let plan = &mut trial.plan;
    let deadline = begin + PATIENCE * 10;
    // a reader that always wants more than there is room for
    let all = ByteRange::new(0, 64 * MIB);
    plan.demand(begin, trial.read, all, deadline).unwrap();
    let (mut now, mut asked, mut ahead) = (begin, VecDeque::new(), None);
    let mut demand = None;
    for round in 0..200 {
        now += Duration::from_millis(50);
        plan.handle_timeout(now);
        // requests before there is room again, and after
        for has_room in [false, true] {
            if has_room && let Some(next) = asked.pop_front() {
                assert!(plan.answered(now, next));
            }
            while let Some(request) = plan.poll_request(now) {
                let is_first =
                    ahead.is_none_or(|ahead: ByteRange| ahead.start == request.range.start);
                match (request.content == wanted, request.lane) {
                    (false, _) => asked.push_back(request.id),
                    (true, Lane::Urgent) => assert!(plan.answered(now, request.id)),
                    (true, Lane::Bulk) if is_first => {
                        assert!(demand.is_none(), "it is asked for behind all others again");
                        ahead = Some(request.range);
                    }
                    (true, Lane::Bulk) => {}
                }
            }
        }
        match (round, ahead) {
            (5, _) => plan.fill(now, wanted, PATIENCE),
            (6, Some(range)) => demand = plan.demand(now, wanted, range, deadline).ok(),
            _ => {}
        }
        let mut events = std::iter::from_fn(|| plan.state.out.poll_event());
        let is_ready = |event| demand.is_some_and(|demand| event == PlanEvent::Ready(demand));
        if events.any(is_ready) {
            return;
        }
    }
    panic!("it was never asked for as what a reader waits for");
}
