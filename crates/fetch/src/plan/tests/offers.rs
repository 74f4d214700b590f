//! Unusual offers of holders.

use std::time::Duration;

use super::bench::{Bench, PATIENCE, Reader, node};
use super::listed;
use super::peers::SimPeer;
use super::*;
use p2pfs_types::extent::PAGE_BYTES;

fn offering(ranges: impl IntoIterator<Item = ByteRange>) -> SimPeer {
    SimPeer {
        offers: Some(ranges.into_iter().collect()),
        ..SimPeer::new(1, LAN)
    }
}

/// Returns how many ranges of a file are known of a node.
fn runs(plan: &Plan, content: &ContentKey, node: NodeId) -> usize {
    match plan
        .state
        .files
        .get(content)
        .unwrap()
        .holders()
        .get(&node)
        .unwrap()
    {
        Coverage::Part(ranges) => ranges.iter().count(),
        Coverage::All => panic!("it has but parts"),
    }
}

#[test]
fn requests_begin_and_end_at_pages_whatever_a_holder_claims_to_have() {
    let size = 4 * MIB + 1000;
    let odd: [&[ByteRange]; 3] = [
        &[ByteRange::new(0, 1000)],
        &[
            ByteRange::new(100, 70_000),
            ByteRange::new(130_001, 900_000),
        ],
        &[ByteRange::new(2 * MIB + 1, u64::MAX)],
    ];
    for ranges in odd {
        for fills in [false, true] {
            let mut bench = Bench::new(1);
            let odd = bench.peer(1, offering(ranges.iter().copied()));
            let author = bench.peer(2, SimPeer::new(80, LAN));
            let content = bench.file(1, size, &[author]);
            bench.offer(odd, content);
            if fills {
                bench.plan.fill(bench.now, content, PATIENCE)
            } else {
                let _reader = bench.read(Reader::sequential(content, size));
            }
            bench.run(Duration::from_secs(30));
            // the bench checks each request
            assert_eq!(bench.requested_bytes(), size, "{ranges:?}");
        }
    }
}

#[test]
fn the_recorded_ranges_of_a_holder_are_bounded() {
    let mut bench = Bench::new(1);
    let content = bench.file(1, 1 << 40, &[]);
    let mut offer = |node, range| {
        let (all, load, ranges) = (false, 0, ExtentSet::of(range));
        let offer = Offer {
            node,
            content,
            all,
            ranges,
            load,
        };
        bench.plan.record_offer(bench.now, &offer);
    };
    for number in 0..6000 {
        offer(node(1), ByteRange::at(number * 7 * PAGE_BYTES, 1));
        offer(
            node(2),
            ByteRange::at(number * 2 * CHUNK_BYTES, CHUNK_BYTES),
        );
    }
    offer(node(2), ByteRange::at(1 << 39, MIB));
    assert_eq!(runs(&bench.plan, &content, node(1)), 0);
    assert_eq!(runs(&bench.plan, &content, node(2)), RUNS_MAX);
    let long = bench
        .plan
        .state
        .files
        .get(&content)
        .unwrap()
        .holders()
        .get(&node(2))
        .unwrap()
        .first_in(ByteRange::at(1 << 39, 1));
    assert!(long.is_some(), "the longest are kept");
}

#[test]
fn a_swarm_peer_that_claims_bytes_beyond_the_end_breaks_nothing() {
    let (now, content) = (Instant::now(), file_named(1, 1024 * MIB));
    let mut plan = Plan::new(PlanConfig::default(), 1);
    let present = ExtentSet::of(ByteRange::new(0, 512 * MIB));
    plan.open(now, content, present).unwrap();
    plan.record_holders(now, &content, &listed(&[node(1)]));
    plan.record_peer_news(node(2), PeerNews::Wants { now, content });
    let offer = Offer {
        node: node(2),
        content,
        all: false,
        ranges: ExtentSet::of(ByteRange::new(600 * MIB, u64::MAX)),
        load: 0,
    };
    plan.record_offer(now, &offer);
    plan.fill(now, content, PATIENCE);
    assert!(plan.poll_request(now).is_some());
}

#[test]
fn a_file_waiting_for_unavailable_bytes_is_not_rescanned_in_a_loop() {
    let (begin, content) = (Instant::now(), file_named(1, 1024 * MIB));
    let (mut now, mut plan) = (begin, Plan::new(PlanConfig::default(), 1));
    plan.open(now, content, ExtentSet::new()).unwrap();
    let offer = Offer {
        node: node(1),
        content,
        all: false,
        ranges: ExtentSet::of(ByteRange::new(0, MIB)),
        load: 0,
    };
    plan.record_offer(now, &offer);
    let patience = Duration::from_secs(1);
    for number in 0..600 {
        let range = page(1000 + number);
        plan.demand(now, content, range, now + patience).unwrap();
    }
    let mut at_one_time = 0;
    while now < begin + patience * 5 {
        assert_eq!(plan.poll_request(now), None);
        while plan.state.out.poll_event().is_some() {}
        let due = plan.poll_timeout().unwrap().max(now);
        let next = due.min(now + patience / 10);
        at_one_time = if next > now { 0 } else { at_one_time + 1 };
        assert!(at_one_time < 100, "after {:?}", now - begin);
        now = next;
        // it works for other requests
        plan.arrived(now, node(1), RequestId(u64::MAX), 1);
        plan.handle_timeout(now);
    }
    assert!(
        plan.state.files.get(&content).unwrap().readers.is_overdue(),
        "it stays the first"
    );
}

/// Models the kernel reading around a page of a mapping whose only remaining holder has the end of
/// that range.
#[test]
fn available_bytes_arrive_although_earlier_ones_are_unavailable() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut bench = Bench::new(1);
        let has = ByteRange::new(2 * MIB, 4 * MIB);
        let part = bench.peer(1, offering([has]));
        let content = bench.file(1, 4 * MIB, &[]);
        bench.offer(part, content);
        let reads = order.map(|number| {
            let range = ByteRange::at(number * MIB, MIB);
            bench.read(Reader::new(content, vec![range]))
        });
        bench.run(PATIENCE * 2);
        for (number, read) in order.into_iter().zip(reads) {
            let reader = &bench.readers[read];
            assert_eq!(reader.errors.is_empty(), number == 2, "{order:?}: {number}");
        }
    }
}
