//! Conditions under which a content counts as unanswered by all holders.

use crate::plan::RequestStage;
use std::cell::Cell;
use std::time::{Duration, Instant};

use super::bench::{PATIENCE, file_named, node};
use super::{MIB, listed};
use crate::plan::{Failure, Offer, Plan, PlanConfig, PlanError, PlanEvent, RangeRequest, Supply};
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
    plan.record_holders(now, &content, &listed(&[node(HOLDER)]));
    let range = ByteRange::new(0, MIB);
    let demand = plan.demand(now, content, range, now + PATIENCE);
    let demand = demand.unwrap();
    loop {
        // All requests are in flight before the first answer.
        let asked: Vec<_> = std::iter::from_fn(|| plan.poll_request(now)).collect();
        for request in asked {
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
fn content_of_a_holder_that_falls_silent_after_its_first_bytes_is_unanswered() {
    for first in [1, 1000] {
        let is_first = Cell::new(true);
        let begins = reason(|plan, now, request| {
            if is_first.replace(false) {
                plan.arrived(now, request.node, request.id, first);
            }
        });
        assert_eq!(begins, PlanError::Unanswered, "{first}");
    }
    let is_first = Cell::new(true);
    let answers_once = reason(|plan, now, request| {
        if is_first.replace(false) {
            assert!(plan.answered(now, request.id));
        }
    });
    assert_eq!(answers_once, PlanError::Unanswered);
}

/// A holder gives the beginning of a file, and later nothing of it. Meanwhile it serves another
/// file, which extends the wait of the reader.
#[test]
fn content_of_a_holder_that_answers_for_other_files_only_is_unanswered() {
    let (begin, content, other) = (Instant::now(), file_named(1, MIB), file_named(2, 64 * MIB));
    let mut now = begin;
    let mut plan = Plan::new(PlanConfig::default(), 1);
    for content in [content, other] {
        plan.open(now, content, ExtentSet::new()).unwrap();
        plan.record_holders(now, &content, &listed(&[node(HOLDER)]));
    }
    let first = ByteRange::new(0, MIB / 4);
    plan.record_read(now, &content, first);
    let ready = plan.demand(now, content, first, now + PATIENCE).unwrap();
    let (mut waiting, mut given) = (ready, 0);
    plan.fill(now, other, PATIENCE);
    loop {
        while let Some(request) = plan.poll_request(now) {
            if request.content == other || request.range.end <= first.end {
                given += 1;
                let rest = request.range;
                assert!(plan.answered(now, request.id), "{rest:?}");
            }
        }
        while let Some(event) = plan.state.out.poll_event() {
            match event {
                PlanEvent::Ready(id) if id == ready => {
                    let rest = ByteRange::new(first.end, MIB);
                    waiting = plan.demand(now, content, rest, now + PATIENCE).unwrap();
                }
                PlanEvent::Failed(id, why) if id == waiting => {
                    assert_eq!(why, PlanError::Unanswered);
                    let supply = plan.files().supply(&content);
                    assert!(supply.suppliers.iter().all(|it| it.left_reader));
                    return;
                }
                PlanEvent::Filled(filled) if filled == other => {
                    plan.mark_lost(&other, ByteRange::new(0, 64 * MIB));
                    plan.fill(now, other, PATIENCE);
                }
                _ => {}
            }
        }
        assert!(now < begin + 20 * PATIENCE, "the read ends ({given})");
        now += Duration::from_millis(500);
        plan.handle_timeout(now);
    }
}

#[test]
fn only_the_holder_that_owes_an_answer_left_the_reader() {
    let (begin, content) = (Instant::now(), file_named(1, MIB));
    let mut now = begin;
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.open(now, content, ExtentSet::new()).unwrap();
    plan.record_holders(now, &content, &listed(&[node(HOLDER)]));
    let part = ByteRange::new(0, MIB / 2);
    let offer = Offer {
        node: node(HOLDER + 1),
        content,
        all: false,
        ranges: [part].into_iter().collect(),
        load: 0,
    };
    plan.record_offer(now, &offer);
    let whole = ByteRange::new(0, MIB);
    let demand = plan.demand(now, content, whole, now + PATIENCE).unwrap();
    loop {
        while let Some(request) = plan.poll_request(now) {
            if request.node == offer.node {
                assert!(plan.answered(now, request.id));
            }
        }
        let mut events = std::iter::from_fn(|| plan.state.out.poll_event());
        if events.any(|event| event == PlanEvent::Failed(demand, PlanError::Unanswered)) {
            break;
        }
        assert!(now < begin + 20 * PATIENCE, "the read ends");
        now += Duration::from_millis(100);
        plan.handle_timeout(now);
    }
    let supply = plan.files().supply(&content);
    let left = supply.suppliers.iter().filter(|it| it.left_reader);
    let left: Vec<_> = left.map(|it| it.node).collect();
    assert_eq!(left, [node(HOLDER)]);
    let other = supply.suppliers.iter().find(|it| it.node == offer.node);
    assert!(other.is_some_and(|it| it.received_bytes > 0));
}

#[test]
fn content_of_a_holder_that_refuses_is_not_unanswered() {
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
    assert_eq!(begins, PlanError::Refused);
}

#[test]
fn content_whose_requests_a_limit_of_this_node_delays_is_neither_unanswered_nor_refused() {
    let delayed = reason(|plan, _, request| {
        plan.record_stage(request.id, RequestStage::Throttled);
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
    assert_eq!(plan.files().supply(&content), Supply::default());
    plan.record_holders(now, &content, &listed(&[node(HOLDER)]));
    let range = ByteRange::new(0, MIB);
    plan.demand(now, content, range, now + PATIENCE).unwrap();
    let request = plan.poll_request(now).unwrap();
    let received = |plan: &Plan| {
        let suppliers = plan.files().supply(&content).suppliers;
        let received = suppliers.iter().map(|it| (it.node, it.received_bytes));
        received.collect::<Vec<_>>()
    };
    assert_eq!(received(&plan), [(node(HOLDER), 0)]);
    assert!(plan.answered(now, request.id));
    assert_eq!(received(&plan), [(node(HOLDER), request.range.len())]);
}
