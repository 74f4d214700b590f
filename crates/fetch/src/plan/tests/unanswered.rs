//! Conditions under which a content counts as unanswered by all holders.

use crate::plan::RequestStage;
use std::cell::Cell;
use std::time::{Duration, Instant};

use super::bench::{PATIENCE, file_named, node};
use super::{MIB, listed};
use crate::plan::{Failure, Plan, PlanConfig, PlanError, PlanEvent, RangeRequest};
use p2pfs_types::extent::{ByteRange, ExtentSet};

const HOLDER: u8 = 1;
const MOMENT: Duration = Duration::from_millis(1);

/// Lets a read of a file of one holder end, and returns the reason. `answer` handles each request
/// when it was sent.
fn reason(answer: impl Fn(&mut Plan, Instant, &RangeRequest)) -> PlanError {
    let (begin, content) = (Instant::now(), file_named(1, MIB));
    let mut now = begin;
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.open(now, content, ExtentSet::new()).unwrap();
    plan.holders(now, &content, &listed(&[node(HOLDER)]));
    let range = ByteRange::new(0, MIB);
    let demand = plan.demand(now, content, range, now + PATIENCE);
    let demand = demand.unwrap();
    loop {
        while let Some(request) = plan.poll_request(now) {
            answer(&mut plan, now, &request);
        }
        while let Some(event) = plan.state.out.poll_event() {
            match event {
                PlanEvent::Failed(id, why) if id == demand => return why,
                _ => {}
            }
        }
        let next = plan.poll_timeout().expect("the read ends");
        now = next.max(now + MOMENT);
        assert!(now < begin + 20 * PATIENCE, "the read ends");
        plan.handle_timeout(now);
    }
}

#[test]
fn content_of_a_silent_or_unreachable_holder_is_unanswered() {
    assert_eq!(reason(|_, _, _| {}), PlanError::Unanswered);
    let unreachable = reason(|plan, now, request| {
        plan.failed(now, request.id, Failure::Unreachable);
    });
    assert_eq!(unreachable, PlanError::Unanswered);
}

#[test]
fn content_of_a_holder_that_refuses_or_sends_some_bytes_is_not_unanswered() {
    // Faults of this node do not end a read.
    for (refusal, expected) in [
        (Failure::Busy, PlanError::Refused),
        (Failure::Refused, PlanError::Refused),
        (Failure::Gone, PlanError::Gone),
    ] {
        let refuses = |plan: &mut Plan, now: Instant, request: &RangeRequest| {
            plan.failed(now, request.id, refusal);
        };
        assert_eq!(reason(refuses), expected, "{refusal:?}");
    }
    let is_first = Cell::new(true);
    let begins = reason(|plan, now, request| {
        if is_first.replace(false) {
            plan.arrived(now, request.node, request.id, 1);
        }
        plan.failed(now, request.id, Failure::Busy);
    });
    assert_ne!(begins, PlanError::Unanswered);
}

#[test]
fn content_whose_requests_a_limit_of_this_node_delays_is_neither_unanswered_nor_refused() {
    let delayed = reason(|plan, _, request| {
        plan.request_is(request.id, RequestStage::Throttled);
    });
    assert!(matches!(delayed, PlanError::TimedOut | PlanError::NoHolder));
}

#[test]
fn content_without_any_holder_is_not_unanswered() {
    let (now, content) = (Instant::now(), file_named(1, MIB));
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.open(now, content, ExtentSet::new()).unwrap();
    let range = ByteRange::new(0, MIB);
    let demand = plan.demand(now, content, range, now + PATIENCE).unwrap();
    assert!(plan.poll_request(now).is_none());
    plan.handle_timeout(now + PATIENCE);
    let mut events = std::iter::from_fn(|| plan.state.out.poll_event());
    let failed = PlanEvent::Failed(demand, PlanError::NoHolder);
    assert!(events.any(|event| event == failed));
}

#[test]
fn nodes_that_were_asked_are_known_with_the_bytes_that_each_gave() {
    let (now, content) = (Instant::now(), file_named(1, MIB));
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.open(now, content, ExtentSet::new()).unwrap();
    assert!(plan.files().received(&content).is_empty());
    plan.holders(now, &content, &listed(&[node(HOLDER)]));
    let range = ByteRange::new(0, MIB);
    plan.demand(now, content, range, now + PATIENCE).unwrap();
    let request = plan.poll_request(now).unwrap();
    assert_eq!(plan.files().received(&content), [(node(HOLDER), 0)]);
    assert!(plan.answered(now, request.id));
    let given = request.range.len();
    assert_eq!(plan.files().received(&content), [(node(HOLDER), given)]);
}
