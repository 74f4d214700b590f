//! Two holders of which one answers nothing, and later the other.

use std::time::{Duration, Instant};

use super::bench::{PATIENCE, file_named, node};
use super::{Answers, MIB, listed, step};
use crate::digest::ContentKey;
use crate::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use crate::id::NodeId;
use crate::transfer::plan::peer::Peer;
use crate::transfer::plan::{Plan, PlanConfig, PlanEvent};

const NEAR: Duration = Duration::from_millis(1);
/// Long enough for another to count as silent meanwhile.
const FAR: Duration = Duration::from_millis(500);
/// What a reader waits for where one that has the rest falls silent.
const STALL_MAX: Duration = Duration::from_secs(2);

struct Two {
    plan: Plan,
    now: Instant,
    content: ContentKey,
    /// Who answers nothing.
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
        plan.holders(now, &content, &listed(&[node(1), node(2)]));
        Self {
            plan,
            now,
            content,
            deaf: None,
            distance: NEAR,
            answers: Answers::new(),
        }
    }

    /// Reads a page: who was asked first, who last, and how long that took.
    fn read(&mut self, page: u64) -> (NodeId, NodeId, Duration) {
        let (begun, range) = (self.now, ByteRange::at(page * PAGE_BYTES, PAGE_BYTES));
        let deadline = begun + PATIENCE;
        let demand = self.plan.demand_just(begun, self.content, range, deadline);
        let ready = PlanEvent::Ready(demand.unwrap());
        let mut asked = Vec::new();
        loop {
            while let Some(request) = self.plan.poll_request(self.now) {
                asked.push(request.node);
                if Some(request.node) != self.deaf {
                    self.answers.insert((self.now + self.distance, request.id));
                }
            }
            while let Some(event) = self.plan.poll_event() {
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
fn one_that_was_silent_before_is_asked_where_the_other_falls_silent() {
    for seed in 0..50 {
        let mut two = Two::new(seed);
        let (first, ..) = two.read(0);
        (two.deaf, two.distance) = (Some(first), FAR);
        let (_, other, waited) = two.read(100);
        assert!(other != first && waited <= STALL_MAX, "{waited:?}");
        let silent = two.plan.peers.get(&first).map(Peer::is_silent);
        assert_eq!(silent, Some(true));
        // well again, and nobody knows
        (two.deaf, two.distance) = (Some(other), NEAR);
        two.now += Duration::from_secs(5);
        let (asked, answered, waited) = two.read(200);
        assert_eq!((asked, answered), (other, first), "seed {seed}");
        assert!(waited <= STALL_MAX, "seed {seed}: {waited:?}");
    }
}

#[test]
fn a_read_of_holders_that_are_all_slow_takes_what_the_slowness_takes() {
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
