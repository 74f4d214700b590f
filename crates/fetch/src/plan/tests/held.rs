//! Requests that a limit of this node delays.

use crate::plan::RequestStage;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bench::{Bench, PATIENCE};
use super::peers::SimPeer;
use super::{LAN, MIB, listed};
use crate::plan::{Failure, Lane, Plan, PlanEvent, patience::TURN_PATIENCE};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};

/// Returns how long a reader waits in vain at one holder if every request fails with these failures
/// in turn. The result is `longest` if the reader waits at least that long.
fn waited_in_vain(failures: &[Failure], longest: Duration) -> Duration {
    let mut bench = Bench::new(6);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let content = bench.file(1, 3 * MIB, &[peer]);
    let (begin, mut failures) = (bench.now, failures.iter().cycle());
    waited_in_vain_for(&mut bench, content, longest, |plan, now| {
        if let Some(request) = plan.poll_request(now) {
            plan.failed(now, request.id, *failures.next().unwrap());
        }
    });
    bench.now - begin
}

/// Returns how long a reader waits for the beginning of a file while `now_and_then` is called
/// repeatedly. The result is `longest` if the reader waits at least that long.
fn waited_in_vain_for(
    bench: &mut Bench,
    content: ContentKey,
    longest: Duration,
    mut now_and_then: impl FnMut(&mut Plan, Instant),
) {
    let range = ByteRange::new(0, MIB);
    let end = bench.now + longest;
    let demand = bench.demand(content, range, PATIENCE);
    while bench.now < end {
        bench.now += PATIENCE / 16;
        bench.plan.handle_timeout(bench.now);
        if bench.plan.waits_until(bench.now, demand).is_none() {
            break;
        }
        now_and_then(&mut bench.plan, bench.now);
    }
}

/// Models many requests that our own limit lets through one by one.
#[test]
fn a_reader_throttled_by_a_local_limit_waits_as_long_as_the_limit_holds() {
    let longest = PATIENCE * 20;
    assert!(waited_in_vain(&[Failure::Limited], longest) >= longest);
}

#[test]
fn a_local_limit_does_not_delay_the_error_for_a_dead_holder() {
    for held_back in 1..4 {
        let mut failures = vec![Failure::Limited; held_back];
        failures.push(Failure::Unreachable);
        let waited = waited_in_vain(&failures, PATIENCE * 20);
        assert!(waited <= PATIENCE * TURN_PATIENCE, "{waited:?}");
    }
}

#[test]
fn a_limit_on_one_holder_does_not_keep_readers_of_a_dead_holder_waiting() {
    let mut bench = Bench::new(6);
    let gone = bench.peer(1, SimPeer::new(20, LAN));
    let part = SimPeer {
        offers: Some(ExtentSet::of(ByteRange::new(3 * MIB, 4 * MIB))),
        ..SimPeer::new(20, LAN)
    };
    let part = bench.peer(2, part);
    let content = bench.file(1, 4 * MIB, &[gone]);
    let other = bench.file(2, 4 * MIB, &[part]);
    bench.offer(part, content);
    let begin = bench.now;
    // it serves the file that it has
    bench.plan.fill(begin, other, PATIENCE * 100);
    waited_in_vain_for(&mut bench, content, PATIENCE * 20, |plan, now| {
        while let Some(request) = plan.poll_request(now) {
            let failure = if request.node == part {
                Failure::Limited
            } else {
                Failure::Unreachable
            };
            plan.failed(now, request.id, failure);
        }
    });
    let waited = bench.now - begin;
    assert!(waited <= PATIENCE * TURN_PATIENCE, "{waited:?}");
}

/// Models other requests of this node that use up its limit.
#[test]
fn a_request_throttled_locally_does_not_make_its_holder_silent() {
    let mut bench = Bench::new(6);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let content = bench.file(1, 3 * MIB, &[peer]);
    let (begin, longest) = (bench.now, PATIENCE * 20);
    bench.plan.fill(begin, content, PATIENCE);
    let mut held = VecDeque::new();
    waited_in_vain_for(&mut bench, content, longest, |plan, now| {
        while held.front().is_some_and(|(_, until)| *until <= now) {
            let (id, _) = held.pop_front().unwrap();
            plan.failed(now, id, Failure::Limited);
        }
        while let Some(request) = plan.poll_request(now) {
            plan.record_stage(request.id, RequestStage::Throttled);
            held.push_back((request.id, now + PATIENCE * 2 / 5));
        }
        while let Some(event) = plan.state.out.poll_event() {
            let failed = matches!(event, PlanEvent::Failed(..) | PlanEvent::FillFailed(..));
            assert!(!failed, "{event:?}");
        }
    });
    assert!(bench.now >= begin + longest);
}

#[test]
fn bytes_that_arrive_during_throttling_do_not_raise_the_holders_rate() {
    let mut bench = Bench::new(6);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let content = bench.file(1, 3 * MIB, &[peer]);
    bench.demand(content, ByteRange::new(0, MIB), PATIENCE);
    let plan = &mut bench.plan;
    let [first, held] = [(); 2].map(|()| plan.poll_request(bench.now).unwrap());
    plan.record_stage(held.id, RequestStage::Throttled);
    bench.now += Duration::from_secs(1);
    plan.arrived(bench.now, peer, first.id, MIB);
    plan.record_stage(held.id, RequestStage::Sent { at: bench.now });
    bench.now += Duration::from_millis(100);
    plan.arrived(bench.now, peer, held.id, held.range.len());
    assert!(plan.answered(bench.now, held.id));
    let rate = plan.state.peers.rates(bench.now)[0]
        .rate_bytes_per_s
        .unwrap();
    let most = held.range.len() as f64 * 10.0;
    assert!(rate <= most, "{rate}, of {most} bytes a second");
}

#[test]
fn a_throttled_fill_becomes_urgent_when_a_reader_waits_for_it() {
    let mut bench = Bench::new(6);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let content = bench.file(1, 3 * MIB, &[peer]);
    bench.plan.fill(bench.now, content, PATIENCE);
    let later = bench.plan.poll_request(bench.now).unwrap();
    assert_eq!(later.lane, Lane::Bulk);
    bench.plan.record_stage(later.id, RequestStage::Throttled);
    let page = ByteRange::at(later.range.start, PAGE_BYTES);
    bench.demand(content, page, PATIENCE);
    bench.now += Duration::from_millis(500);
    bench.plan.handle_timeout(bench.now);
    let first = bench.plan.poll_request(bench.now).unwrap();
    assert_eq!((first.lane, first.range.start), (Lane::Urgent, page.start));
    let taken_back = PlanEvent::Cancel(later.id);
    let mut events = std::iter::from_fn(|| bench.plan.state.out.poll_event());
    assert!(events.any(|event| event == taken_back));
}

#[test]
fn a_throttled_request_moves_to_another_holder_when_its_own_falls_silent() {
    let mut bench = Bench::new(6);
    let [mute, other] = [1, 2].map(|number| bench.peer(number, SimPeer::new(20, LAN)));
    let content = bench.file(1, 3 * MIB, &[mute]);
    bench.plan.fill(bench.now, content, PATIENCE);
    let [first, held] = [(); 2].map(|()| bench.plan.poll_request(bench.now).unwrap());
    bench.plan.record_stage(held.id, RequestStage::Throttled);
    let page = |of: ByteRange| ByteRange::at(of.start, PAGE_BYTES);
    bench.demand(content, page(first.range), PATIENCE);
    bench.now += Duration::from_secs(1);
    bench.plan.handle_timeout(bench.now);
    let both = listed(&[mute, other]);
    bench.plan.record_holders(bench.now, &content, &both);
    bench.demand(content, page(held.range), PATIENCE);
    bench.now += Duration::from_millis(300);
    bench.plan.handle_timeout(bench.now);
    let mut asked = std::iter::from_fn(|| bench.plan.poll_request(bench.now));
    let anew = asked.find(|it| it.lane == Lane::Urgent && it.range.start == held.range.start);
    assert_eq!(anew.map(|it| it.node), Some(other));
}
