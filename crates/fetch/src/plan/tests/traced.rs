//! Decisions as data.

use super::*;
use crate::plan::{Decision, RequestCause, TakeBackReason};

#[test]
fn a_plan_that_is_not_traced_records_no_decision() {
    let mut plan = Plan::new(PlanConfig::default(), 1);
    let (now, content) = (
        Instant::now(),
        ContentKey::new(ContentHash::new([1; 32]), 1 << 20),
    );
    plan.open(now, content, ExtentSet::new()).unwrap();
    let range = ByteRange::at(0, 4096);
    let read = plan.demand_ahead(now, content, range, now + Duration::from_secs(1));
    let read = read.unwrap();
    assert_eq!(plan.poll_request(now), None);
    assert_eq!(plan.state.out.take_decisions(), []);
    plan.state.out.set_traced(true);
    plan.cancel(read);
    assert_eq!(
        plan.state.out.take_decisions(),
        [Decision::ReadCancelled(read)]
    );
    assert_eq!(plan.state.out.take_decisions(), []);
}

#[test]
fn a_silent_holder_is_named_with_the_request_that_was_taken_back_for_it() {
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.state.out.set_traced(true);
    let (mut now, content) = (
        Instant::now(),
        ContentKey::new(ContentHash::new([1; 32]), 64 << 10),
    );
    plan.open(now, content, ExtentSet::new()).unwrap();
    let listed = [1, 2].map(|number| Listed {
        node: NodeId::new([number; 32]),
        sequence: 1,
    });
    plan.record_holders(now, &content, &listed);
    let range = ByteRange::new(0, 64 << 10);
    let read = plan.demand_ahead(now, content, range, now + Duration::from_secs(10));
    let read = read.unwrap();
    let first = plan.poll_request(now).unwrap();
    let second = loop {
        now = plan.poll_timeout().unwrap();
        plan.handle_timeout(now);
        if let Some(request) = plan.poll_request(now) {
            break request;
        }
    };
    assert_ne!(first.node, second.node);
    // the other holder sends a little all the time, so it is not silent
    while plan.state.requests.contains(first.id) {
        now += Duration::from_millis(10);
        plan.arrived(now, second.node, second.id, 1);
        plan.handle_timeout(now);
        assert_eq!(plan.poll_request(now), None);
    }
    assert!(plan.answered(now, second.id));
    let decisions = plan.state.out.take_decisions();
    let chosen = Decision::Chosen {
        request: first,
        cause: RequestCause::Demand,
        readers: vec![read],
    };
    let taken_back = Decision::TakenBack {
        request: first.id,
        why: TakeBackReason::SilentPeer,
    };
    let mut told = decisions.iter();
    for decision in [
        chosen,
        Decision::Silent(first.node),
        taken_back,
        Decision::Answered(second.id),
        Decision::ReadReady(read),
    ] {
        assert!(
            told.any(|it| *it == decision),
            "{decision:?} in {decisions:#?}"
        );
    }
}
