//! Many worlds in which anything may be wrong, each from its seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{MIB, page};
use crate::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use crate::transfer::plan::RangeRequest;
use crate::transfer::plan::simulation::{Death, Reader, SimPeer, World};

/// A world in which anything may be wrong with any peer but one.
fn chaotic(seed: u64) -> World {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed);
    let size = rng.random_range(1..24 * MIB);
    let mut listed = Vec::new();
    for number in 1..rng.random_range(2..6) {
        let mut peer = SimPeer::new(
            rng.random_range(0..80),
            10f64.powf(rng.random_range(5.5..8.5)),
        );
        let after = rng.random_range(0..1500);
        match rng.random_range(0..6) {
            0 => peer = peer.dying(after, Death::Reset),
            1 => peer = peer.dying(after, Death::Silence),
            2 => peer.lies = true,
            3 => peer.gone = true,
            4 => peer.offers = Some(ExtentSet::of(ByteRange::new(0, size / 131072 * 65536))),
            _ => {}
        }
        let offers = peer.offers.is_some();
        let name = world.peer(number, peer);
        if !offers {
            listed.push(name);
        }
    }
    listed.push(world.peer(99, SimPeer::new(rng.random_range(0..50), 20e6)));
    let content = world.file(1, size, &listed);
    for _ in 0..rng.random_range(1..4) {
        let reader = match rng.random_bool(0.6) {
            true => Reader::sequential(content, size),
            false => {
                let whole = size.div_ceil(PAGE_BYTES);
                let pages = (0..100).map(|_| page(rng.random_range(0..whole)));
                let cut = |range: ByteRange| range.intersection(&ByteRange::new(0, size));
                Reader::new(content, pages.map(cut).collect())
            }
        };
        world.read(reader);
    }
    world
}

#[test]
fn while_one_honest_holder_lives_every_reader_gets_every_byte() {
    for seed in 0..600 {
        let mut world = chaotic(seed);
        world.run(Duration::from_secs(120));
        for reader in &world.readers {
            assert!(reader.done_at.is_some(), "seed {seed}: not done");
            assert!(reader.errors.is_empty(), "seed {seed}: {:?}", reader.errors);
            assert!(reader.longest_wait <= Duration::from_secs(3), "seed {seed}");
        }
        let served: u64 = world.peers.values().map(|p| p.served_bytes).sum();
        let content = world.readers[0].content;
        let size = world.plan.ready_bytes(&content).unwrap_or_default();
        assert!(
            served <= size + size / 4 + 4 * MIB,
            "seed {seed}: {served} served for {size}"
        );
    }
}

#[test]
fn one_seed_gives_one_run() {
    let trace = |seed| {
        let mut world = chaotic(seed);
        world.run(Duration::from_secs(120));
        let place = |r: &RangeRequest| (r.id, r.node, r.range);
        (
            world.requests.iter().map(place).collect::<Vec<_>>(),
            world.now - world.start,
        )
    };
    for seed in [3, 17, 99] {
        assert_eq!(trace(seed), trace(seed));
    }
}
