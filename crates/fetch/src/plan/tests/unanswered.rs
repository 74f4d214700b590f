//! Conditions under which a content counts as unanswered by all holders.

use crate::plan::RequestStage;
use std::cell::Cell;
use std::time::{Duration, Instant};

use super::bench::{PATIENCE, file_named, node};
use super::{MIB, listed};
use crate::plan::{Failure, Plan, PlanConfig, PlanEvent, RangeRequest};
use p2pfs_types::extent::{ByteRange, ExtentSet};

const HOLDER: u8 = 1;
const MOMENT: Duration = Duration::from_millis(1);

/// Lets a read of a file of one holder end, and returns whether the content counts as unanswered.
/// `answer` handles each request when it was sent.
fn is_unanswered(answer: impl Fn(&mut Plan, Instant, &RangeRequest)) -> bool {
    let (begin, content) = (Instant::now(), file_named(1, MIB));
    let mut now = begin;
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.open(now, content, ExtentSet::new()).unwrap();
    plan.holders(now, &content, &listed(&[node(HOLDER)]));
    let range = ByteRange::new(0, MIB);
    let demand = plan.demand(now, content, range, now + PATIENCE);
    let demand = demand.unwrap();
    let mut is_unanswered = false;
    loop {
        while let Some(request) = plan.poll_request(now) {
            answer(&mut plan, now, &request);
        }
        while let Some(event) = plan.state.out.poll_event() {
            is_unanswered |= event == PlanEvent::Unanswered(content);
            if matches!(event, PlanEvent::Failed(id, _) if id == demand) {
                return is_unanswered;
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
    assert!(is_unanswered(|_, _, _| {}));
    assert!(is_unanswered(|plan, now, request| {
        plan.failed(now, request.id, Failure::Unreachable);
    }));
}

#[test]
fn content_of_a_holder_that_refuses_or_sends_some_bytes_is_not_unanswered() {
    // Faults of this node do not end a read.
    for refusal in [Failure::Busy, Failure::Refused, Failure::Gone] {
        let refuses = |plan: &mut Plan, now: Instant, request: &RangeRequest| {
            plan.failed(now, request.id, refusal);
        };
        assert!(!is_unanswered(refuses), "{refusal:?}");
    }
    let is_first = Cell::new(true);
    assert!(!is_unanswered(|plan, now, request| {
        if is_first.replace(false) {
            plan.arrived(now, request.node, request.id, 1);
        }
        plan.failed(now, request.id, Failure::Busy);
    }));
}

#[test]
fn content_whose_requests_a_limit_of_this_node_delays_is_not_unanswered() {
    assert!(!is_unanswered(|plan, _, request| {
        plan.request_is(request.id, RequestStage::Throttled);
    }));
}

#[test]
fn content_without_any_holder_is_not_unanswered() {
    let (now, content) = (Instant::now(), file_named(1, MIB));
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.open(now, content, ExtentSet::new()).unwrap();
    let range = ByteRange::new(0, MIB);
    plan.demand(now, content, range, now + PATIENCE).unwrap();
    assert!(plan.poll_request(now).is_none());
    plan.handle_timeout(now + PATIENCE);
    let events: Vec<PlanEvent> = std::iter::from_fn(|| plan.state.out.poll_event()).collect();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, PlanEvent::Failed(..)))
    );
    assert!(!events.contains(&PlanEvent::Unanswered(content)));
}
