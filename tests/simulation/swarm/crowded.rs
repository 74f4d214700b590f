//! Very many readers at one node whose cache and memory hold only a small part of the files.

use std::time::Duration;

use rand::RngExt;

use crate::support::seeds::each_seed;
use crate::swarm::world::{Deed, WINDOW_BYTES, World};

const MIB: u64 = 1 << 20;
/// 80 Mbit/s, in bytes a second.
const RATE: f64 = 10e6;
const READERS: u64 = 60;
const FILE_BYTES: u64 = 2 * MIB;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Starts one reader for each of `READERS` files of one holder. Each reads its file in large reads.
fn crowd(seed: u64) -> World {
    let mut world = World::new(seed);
    let holder = world.add(ms(1), RATE, 0);
    let budget = (1 + seed * 4) * MIB;
    let reader = world.add(ms(1), RATE, budget);
    for number in 0..READERS {
        let content = world.file(number, FILE_BYTES, &[holder]);
        let when = ms(world.rng.random_range(0..50));
        let parts = vec![(0, MIB), (MIB, FILE_BYTES)];
        world.later(when, reader, Deed::ReadsParts(content, parts));
    }
    world
}

#[test]
fn readers_beyond_memory_and_cache_fetch_little_more_than_they_read() {
    // Otherwise the test proves nothing.
    const { assert!(READERS * MIB > 8 * WINDOW_BYTES) };
    each_seed(3, |seed| {
        let mut world = crowd(seed);
        world.run(Duration::from_secs(300));
        let node = &world.nodes[1];
        for (number, reader) in node.readers.iter().enumerate() {
            let errors = &reader.errors;
            assert!(errors.is_empty(), "reader {number}: {errors:?}");
            assert!(reader.done_at.is_some(), "reader {number} waits for ever");
        }
        let multiple = node.received_bytes as f64 / (READERS * FILE_BYTES) as f64;
        assert!(multiple <= 1.6, "{multiple:.2} times what was read came");
    });
}
