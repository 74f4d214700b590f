//! Regressions: schedules that once ended reads with errors although a holder could serve.

use std::time::Duration;

use p2pfs_fetch::plan::IN_FLIGHT_MAX_BYTES;
use rand::RngExt;

use crate::support::seeds::each_seed;
use crate::swarm::node::{Manner, PATIENCE};
use crate::swarm::world::{Deed, World};

const MIB: u64 = 1 << 20;
const LAN: f64 = 100e6;
/// 2 Mbit/s and 256 kbit/s, in bytes a second.
const TWO_MBIT: f64 = 250e3;
const NARROW: f64 = 32e3;
const AMPLE: u64 = 1 << 30;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Asserts that every reader at a node has finished without an error.
fn assert_read(world: &World, node: usize) {
    for (number, reader) in world.nodes[node].readers.iter().enumerate() {
        let errors = &reader.errors;
        assert!(
            errors.is_empty(),
            "node {node}, reader {number}: {errors:?}"
        );
        assert!(
            reader.done_at.is_some(),
            "node {node}, reader {number} waits"
        );
    }
}

#[test]
fn readers_of_more_than_cache_and_memory_get_every_byte() {
    each_seed(12, |seed| {
        let mut world = World::new(seed);
        let holder = world.add(ms(2), LAN, 0);
        let budget = world.rng.random_range(0..8) * MIB;
        let reader = world.add(ms(2), LAN, budget);
        let size = 12 * MIB;
        let readers = 1 + seed % 4;
        for number in 0..readers {
            // The readers read one file in turn or several at once, and some parts more than once.
            let content = world.file(number * (seed % 2), size, &[holder]);
            world.later(ms(number), reader, Deed::Reads(content));
            let parts = (0..24).map(|_| {
                let start = world.rng.random_range(0..(size / 131_072)) * 131_072;
                (start, start + 131_072)
            });
            let parts = parts.collect();
            world.later(ms(number), reader, Deed::ReadsParts(content, parts));
        }
        world.run(Duration::from_secs(300));
        assert_read(&world, reader);
        let node = &world.nodes[reader];
        assert!(node.disk.used_bytes() <= budget);
    });
}

/// Starts many readers of many holders. All holders pause at the same time, each with a half-sent
/// answer, and continue some seconds later.
fn halting(seed: u64) -> World {
    let mut world = World::new(seed);
    let holders: Vec<_> = (0..48).map(|_| world.add(ms(4), 2e6, 0)).collect();
    let reader = world.add(ms(4), LAN, AMPLE);
    for holder in &holders {
        for turn in 0..3 {
            let pause = world.rng.random_range(2500..3000);
            let from = ms(500 + turn * 5000);
            world.later(from, *holder, Deed::Pauses(ms(pause)));
        }
    }
    for number in 0..32 {
        let content = world.file(number, 2 * MIB, &holders);
        world.later(Duration::ZERO, reader, Deed::Reads(content));
    }
    world
}

#[test]
fn holders_that_halt_in_mid_answer_are_not_asked_endlessly_and_cost_little() {
    each_seed(3, |seed| {
        let mut world = halting(seed);
        world.run(Duration::from_secs(120));
        let reader = world.nodes.len() - 1;
        assert_read(&world, reader);
        let cost = &world.nodes[reader].cost;
        let in_flight = cost.most_in_flight_bytes;
        assert!(in_flight <= IN_FLIGHT_MAX_BYTES, "{in_flight} in flight");
        let sends = cost.most_sends_in_a_second;
        assert!(sends <= 600, "{sends} requests in a second");
        let steps = cost.most_steps;
        assert!(steps <= 8000, "{steps} steps in one call");
        let requested = cost.requested_bytes;
        assert!(requested <= 4 * 64 * MIB, "{requested} bytes asked for");
    });
}

#[test]
fn a_slow_holder_is_not_an_error_however_many_read_from_it() {
    for (readers, rate, size) in [(8, TWO_MBIT, 2 * MIB), (1, NARROW, MIB), (3, NARROW, MIB)] {
        let mut world = World::new(1);
        let holder = world.add(ms(40), rate, 0);
        let reader = world.add(ms(2), LAN, AMPLE);
        for number in 0..readers {
            let content = world.file(number, size, &[holder]);
            world.later(Duration::ZERO, reader, Deed::Reads(content));
        }
        world.run(Duration::from_secs(1200));
        assert_read(&world, reader);
        let (all, took) = (readers * size, (world.now - world.start).as_secs_f64());
        let received = world.nodes[reader].received_bytes;
        assert!(received <= all * 11 / 10, "{received} of {all} came");
        let least = all as f64 / rate;
        assert!(took <= least * 1.2 + 1.0, "{took} s for {least} s");
    }
}

#[test]
fn a_mute_holder_keeps_no_reader_from_a_very_slow_one() {
    each_seed(4, |seed| {
        let mut world = World::new(seed);
        let slow = world.add(ms(2), NARROW / 8.0, 0);
        let mute = world.add(ms(2), LAN, 0);
        world.nodes[mute].manner = Manner::Mute;
        let reader = world.add(ms(2), LAN, AMPLE);
        let content = world.file(1, MIB / 2, &[slow, mute]);
        world.later(Duration::ZERO, reader, Deed::Reads(content));
        world.run(Duration::from_secs(1200));
        assert_read(&world, reader);
    });
}

#[test]
fn many_nodes_at_one_slow_holder_get_every_byte() {
    let mut world = World::new(1);
    let holder = world.add(ms(40), TWO_MBIT, 0);
    let content = world.file(1, 2 * MIB, &[holder]);
    for _ in 0..8 {
        let node = world.add(ms(2), LAN, AMPLE);
        world.later(Duration::ZERO, node, Deed::Reads(content));
    }
    world.run(Duration::from_secs(600));
    (1..=8).for_each(|node| assert_read(&world, node));
    let copies = world.links.moved_bytes[&holder] / content.size_bytes as f64;
    assert!(copies <= 6.0, "{copies} copies from the slow one");
}

#[test]
fn a_holder_that_stops_is_an_error_at_the_deadline_and_not_before() {
    let mut world = World::new(1);
    let holder = world.add(ms(40), NARROW, 0);
    let reader = world.add(ms(2), LAN, AMPLE);
    let content = world.file(1, 4 * MIB, &[holder]);
    world.later(
        Duration::ZERO,
        reader,
        Deed::ReadsParts(content, vec![(0, 2 * MIB)]),
    );
    world.later(ms(30_000), holder, Deed::GoesOff);
    world.run(Duration::from_secs(600));
    let reader = &world.nodes[reader].readers[0];
    assert_eq!(reader.errors.len(), 1);
    let ceased = ms(30_000) + PATIENCE;
    let wait = reader.longest_wait;
    assert!(
        wait >= ceased - ms(200) && wait <= ceased + ms(1000),
        "{wait:?}"
    );
}

/// The requests to a fast holder at one time exceed what a slow holder delivers in a long time.
#[test]
fn a_fast_holder_that_falls_silent_beside_a_slow_one_delays_no_reader_for_long() {
    each_seed(12, |seed| {
        let mut world = World::new(seed);
        let fast = world.add(ms(2), 6.25e6, 0);
        let slow = world.add(ms(2), 125e3, 0);
        let content = world.file(1, 64 * MIB, &[fast, slow]);
        let reader = world.add(ms(2), LAN, AMPLE);
        world.later(Duration::ZERO, reader, Deed::Reads(content));
        world.later(ms(600 + seed * 40), fast, Deed::GoesOff);
        world.run(Duration::from_secs(40));
        let reader = &world.nodes[reader].readers[0];
        assert!(reader.errors.is_empty(), "{:?}", reader.errors);
        let wait = reader.longest_wait;
        assert!(wait <= Duration::from_secs(4), "{wait:?}");
    });
}
