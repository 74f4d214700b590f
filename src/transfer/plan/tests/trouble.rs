//! Peers that die, lie, stall, lose the file or are merely slow.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{LAN, MIB, page};
use crate::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use crate::transfer::plan::simulation::{
    Death, PATIENCE, Reader, SimPeer, World, file_named, node,
};
use crate::transfer::plan::{Failure, Offer, PlanError, PlanEvent};

#[test]
fn a_reset_holder_costs_less_than_half_a_second_where_another_has_the_file() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let dying = SimPeer::new(1, LAN).dying(100 + seed * 3, Death::Reset);
        let peers = [world.peer(1, dying), world.peer(2, SimPeer::new(1, LAN))];
        let content = world.file(1, 64 * MIB, &peers);
        world.read(Reader::sequential(content, 64 * MIB));
        world.run(Duration::from_secs(60));
        let reader = &world.readers[0];
        assert!(
            reader.errors.is_empty() && reader.done_at.is_some(),
            "seed {seed}"
        );
        assert!(
            reader.longest_wait <= Duration::from_millis(500),
            "seed {seed}"
        );
    }
}

#[test]
fn a_silent_holder_costs_less_than_two_seconds_where_another_has_the_file() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let dying = SimPeer::new(1, LAN).dying(100 + seed * 3, Death::Silence);
        let peers = [world.peer(1, dying), world.peer(2, SimPeer::new(1, LAN))];
        let content = world.file(1, 64 * MIB, &peers);
        world.read(Reader::sequential(content, 64 * MIB));
        world.run(Duration::from_secs(60));
        let reader = &world.readers[0];
        assert!(
            reader.errors.is_empty() && reader.done_at.is_some(),
            "seed {seed}"
        );
        let wait = reader.longest_wait;
        assert!(wait <= Duration::from_secs(2), "seed {seed}: {wait:?}");
        let took = world.now - world.start;
        assert!(took < Duration::from_secs(5), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_liar_is_shunned_at_once_and_another_is_asked() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        let liar = SimPeer {
            lies: true,
            ..SimPeer::new(1, LAN)
        };
        let peers = [world.peer(1, liar), world.peer(2, SimPeer::new(1, LAN))];
        let content = world.file(1, 16 * MIB, &peers);
        world.read(Reader::sequential(content, 16 * MIB));
        world.run(Duration::from_secs(60));
        assert!(world.readers[0].errors.is_empty(), "seed {seed}");
        let told = world
            .events
            .iter()
            .filter(|e| matches!(e, PlanEvent::Liar(..)))
            .count();
        assert!(told <= 1);
        let shunned = world.plan.peers(world.now).iter().any(|p| p.shunned);
        assert_eq!(shunned, told == 1);
    }
}

#[test]
fn a_liar_alone_is_an_error_by_the_deadline() {
    let mut world = World::new(6);
    let liar = world.peer(
        1,
        SimPeer {
            lies: true,
            ..SimPeer::new(1, LAN)
        },
    );
    let content = world.file(1, MIB, &[liar]);
    world.read(Reader::new(content, vec![page(0)]));
    world.run(Duration::from_secs(60));
    assert_eq!(world.readers[0].errors, [PlanError::OnlyLiars]);
    let wait = world.readers[0].longest_wait;
    assert!(wait >= PATIENCE && wait <= PATIENCE + Duration::from_millis(100));
    assert_eq!(world.requests.len(), 1);
}

#[test]
fn without_a_holder_a_read_fails_at_its_deadline_and_its_repeats_at_once() {
    let mut world = World::new(7);
    let content = world.file(1, MIB, &[]);
    let mut reads = vec![ByteRange::at(0, 131072)];
    reads.extend((0..32).map(page));
    world.read(Reader::new(content, reads));
    world.run(Duration::from_secs(60));
    assert_eq!(world.readers[0].errors, vec![PlanError::NoHolder; 33]);
    assert_eq!(world.now - world.start, PATIENCE);
    let gets = world
        .events
        .iter()
        .filter(|e| matches!(e, PlanEvent::Wanted(_)))
        .count();
    assert!((3..12).contains(&gets), "{gets} broadcasts");
}

#[test]
fn a_holder_that_offers_late_is_asked_at_once() {
    let mut world = World::new(8);
    let content = world.file(1, MIB, &[]);
    world.read(Reader::new(content, vec![page(3), page(9)]));
    world.run(Duration::from_secs(3));
    let ranges = ExtentSet::of(ByteRange::new(0, MIB));
    let late = world.peer(
        1,
        SimPeer {
            offers: Some(ranges),
            ..SimPeer::new(1, LAN)
        },
    );
    world.offer(late, content);
    world.run(Duration::from_millis(100));
    assert!(world.readers[0].done_at.is_some() && world.readers[0].errors.is_empty());
}

#[test]
fn an_offer_of_another_size_or_unasked_is_not_heard() {
    let mut world = World::new(9);
    let content = world.file(1, MIB, &[]);
    let offer = Offer {
        node: node(1),
        content: file_named(1, 7),
        all: true,
        ranges: ExtentSet::new(),
        load: 0,
    };
    assert!(!world.plan.offer(world.now, &offer));
    let unasked = Offer {
        content: file_named(9, MIB),
        ..offer.clone()
    };
    assert!(!world.plan.offer(world.now, &unasked));
    assert!(world.plan.offer(world.now, &Offer { content, ..offer }));
}

#[test]
fn a_slow_responder_is_hedged_within_half_a_second() {
    let mut world = World::new(13);
    let peers = [
        world.peer(1, SimPeer::new(4000, LAN)),
        world.peer(2, SimPeer::new(1, LAN)),
    ];
    let content = world.file(1, 64 * MIB, &peers);
    let mut rng = StdRng::seed_from_u64(13);
    let reads = (0..500).map(|_| page(rng.random_range(0..16384))).collect();
    world.read(Reader::new(content, reads));
    world.run(Duration::from_secs(60));
    assert!(world.readers[0].longest_wait <= Duration::from_millis(510));
    assert!(world.requested_bytes() <= 500 * PAGE_BYTES * 12 / 10);
}

#[test]
fn what_is_gone_at_one_holder_is_asked_of_the_next() {
    let mut world = World::new(14);
    let gone = SimPeer {
        gone: true,
        ..SimPeer::new(1, LAN)
    };
    let peers = [world.peer(1, gone), world.peer(2, SimPeer::new(1, LAN))];
    let content = world.file(1, 4 * MIB, &peers);
    world.read(Reader::sequential(content, 4 * MIB));
    world.run(Duration::from_secs(60));
    assert!(world.readers[0].errors.is_empty());
    let asked = world.requests.iter().filter(|r| r.node == node(1)).count();
    assert!(
        asked <= 4,
        "{asked} requests to a node that said it has it no more"
    );
    assert!(!world.plan.peers(world.now).iter().any(|p| p.shunned));
}

#[test]
fn a_slow_link_alone_is_slow_and_not_an_error() {
    for rate in [30e3, 100e3, 400e3] {
        let mut world = World::new(19);
        let peer = world.peer(1, SimPeer::new(50, rate));
        let content = world.file(1, 4 * MIB, &[peer]);
        world.read(Reader::sequential(content, 4 * MIB));
        world.run(Duration::from_secs(600));
        let reader = &world.readers[0];
        assert!(
            reader.errors.is_empty() && reader.done_at.is_some(),
            "{rate}: {reader:?}"
        );
        assert!(
            world.requested_bytes() <= 8 * MIB,
            "{rate}: {}",
            world.requested_bytes()
        );
    }
}

#[test]
fn a_peer_that_returned_is_asked_without_waiting_out_its_rest() {
    let mut world = World::new(21);
    let peer = world.peer(1, SimPeer::new(1, LAN));
    let content = world.file(1, MIB, &[peer]);
    world
        .plan
        .demand(world.now, content, page(1), world.now + PATIENCE)
        .unwrap();
    let request = world.plan.poll_request(world.now).unwrap();
    world
        .plan
        .failed(world.now, request.id, Failure::Unreachable);
    assert_eq!(world.plan.poll_request(world.now), None);
    world.plan.returned(&peer);
    assert!(world.plan.poll_request(world.now).is_some());
}

#[test]
fn readers_of_a_holder_that_is_at_work_for_others_wait_their_turn_beyond_the_deadline() {
    let mut world = World::new(1);
    let peer = world.peer(1, SimPeer::new(1, 10e6));
    for number in 0..200 {
        let content = world.file(number, MIB, &[peer]);
        world.read(Reader::sequential(content, MIB));
    }
    world.run(Duration::from_secs(60));
    let took = world.now - world.start;
    assert!(took > PATIENCE * 2, "{took:?}: none had to wait long");
    for (number, reader) in world.readers.iter().enumerate() {
        let errors = &reader.errors;
        assert!(errors.is_empty(), "reader {number}: {errors:?}");
        assert!(reader.done_at.is_some(), "reader {number}");
    }
}

#[test]
fn a_holder_that_brings_nothing_to_anybody_is_given_up_at_the_deadline() {
    let mut world = World::new(1);
    let dying = SimPeer::new(1, LAN).dying(1000, Death::Silence);
    let peer = world.peer(1, dying);
    for number in 0..40 {
        let content = world.file(number, 4 * MIB, &[peer]);
        world.read(Reader::new(content, vec![ByteRange::at(0, 4 * MIB)]));
    }
    world.run(Duration::from_secs(60));
    let failed = world.readers.iter().filter(|r| !r.errors.is_empty());
    let longest = failed.map(|reader| reader.longest_wait).max();
    assert!(
        longest.is_some_and(|wait| wait <= PATIENCE + Duration::from_secs(2)),
        "{longest:?}"
    );
}

#[test]
fn a_version_that_all_its_holders_say_is_gone_fails_at_once_and_so_do_the_reads_after_it() {
    let mut world = World::new(1);
    let lost = || SimPeer {
        gone: true,
        ..SimPeer::new(1, LAN)
    };
    let peers = [world.peer(1, lost()), world.peer(2, lost())];
    let content = world.file(1, 64 * MIB, &peers);
    world.read(Reader::sequential(content, 64 * MIB));
    world.run(PATIENCE / 2);
    let reader = &world.readers[0];
    assert!(reader.errors.len() > 1, "it reads on");
    assert!(reader.errors.iter().all(|why| *why == PlanError::Gone));
}

#[test]
fn a_version_that_one_holder_has_no_more_comes_from_the_other() {
    let mut world = World::new(1);
    let lost = SimPeer {
        gone: true,
        ..SimPeer::new(1, LAN)
    };
    let peers = [world.peer(1, lost), world.peer(2, SimPeer::new(1, LAN))];
    let content = world.file(1, 4 * MIB, &peers);
    world.read(Reader::sequential(content, 4 * MIB));
    world.run(Duration::from_secs(30));
    assert!(world.readers[0].errors.is_empty() && world.readers[0].done_at.is_some());
}
