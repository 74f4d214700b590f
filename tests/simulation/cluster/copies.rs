//! Promises about a key that two processes use, and about situations that only look like that.
//! Worlds without a copy must never report one; the world itself asserts that.

use std::time::Duration;

use p2pfs_membership::{Cluster, Event, Leave};
use p2pfs_types::id::Generation;

use crate::cluster::network::Weather;
use crate::cluster::world::World;

const SECOND: Duration = Duration::from_secs(1);
/// Index of the node whose key is copied, among five.
const COPIED: usize = 3;

/// Starts five nodes, and `later` a copy of one of them. The copy's generation is greater by
/// `higher`.
fn copied(seed: u64, weather: Weather, later: Duration, higher: u64) -> (World, usize) {
    let mut world = World::of(5, seed, weather);
    world.run_for(10 * SECOND);
    world.crash(COPIED);
    let copy = world.add_copy(COPIED, &[0, 1]);
    world.boot(COPIED);
    world.run_for(later);
    let generation = world.nodes[COPIED]
        .cluster
        .as_ref()
        .unwrap()
        .me()
        .generation;
    world.boot_as(copy, Generation(generation.0 + higher), 1);
    (world, copy)
}

/// Returns the addresses that a node reported as users of the copied key.
fn told_of(world: &World, index: usize) -> Vec<std::net::SocketAddr> {
    let copied = world.nodes[COPIED].id;
    let mut told = Vec::new();
    for (_, event) in &world.nodes[index].events {
        match event {
            Event::CopiedKey { node, addresses } => {
                assert_eq!(*node, copied, "{index}: {event:?}");
                told.clone_from(addresses);
            }
            Event::CopyGone { .. } => told.clear(),
            _ => {}
        }
    }
    told
}

/// Returns whether each copy names the other, and every other node names both.
fn all_name_it(world: &World, copy: usize) -> bool {
    let both = vec![World::address(COPIED), World::address(copy)];
    (0..world.nodes.len()).all(|index| {
        let told = told_of(world, index);
        match index {
            COPIED => told == both[1..],
            _ if index == copy => told == both[..1],
            _ => told == both,
        }
    })
}

/// Asserts that since `since` no node was told that one of the others is gone, or that the copied
/// one is, and that all see all alive.
fn nobody_is_missed(world: &World, since: std::time::Instant, seed: u64) {
    for index in 0..5 {
        let told = world.told_down(world.nodes[index].id, since);
        assert_eq!(told, [], "seed {seed}: {index} was called gone");
    }
    let live = |cluster: &Cluster| cluster.live().count();
    for node in world.running() {
        let count = node.cluster.as_ref().map(live);
        assert_eq!(count, Some(4), "seed {seed}: {}", node.address);
    }
}

#[test]
fn a_copied_key_is_named_by_all_within_half_a_minute_and_no_node_is_lost() {
    let mut slowest = Duration::ZERO;
    for seed in 0..12 {
        let (later, higher) = ((seed % 3) as u32 * 5 * SECOND, seed % 4 * 7);
        let (mut world, copy) = copied(seed, Weather::calm(), later, higher);
        world.run_for(SECOND);
        let since = world.now;
        let took = world.run_until(30 * SECOND, |world| all_name_it(world, copy));
        slowest = slowest.max(took.unwrap_or_else(|| {
            let told: Vec<_> = (0..6).map(|index| told_of(&world, index)).collect();
            panic!("seed {seed}: not named: {told:?}")
        }));
        world.run_for(300 * SECOND);
        assert!(all_name_it(&world, copy), "seed {seed}: not named any more");
        nobody_is_missed(&world, since, seed);
    }
    println!("named after {slowest:?} at most");
}

#[test]
fn a_copied_key_is_named_even_under_loss() {
    for seed in 0..8 {
        let (mut world, copy) = copied(seed, Weather::stormy(0.1), 5 * SECOND, 20);
        let took = world.run_until(60 * SECOND, |world| all_name_it(world, copy));
        assert!(took.is_some(), "seed {seed}");
    }
}

#[test]
fn two_copies_that_cannot_reach_each_other_are_named() {
    for seed in 0..6 {
        let (mut world, copy) = copied(seed, Weather::calm(), SECOND, seed % 2);
        world
            .network
            .block(World::address(COPIED), World::address(copy));
        let took = world.run_until(60 * SECOND, |world| all_name_it(world, copy));
        assert!(took.is_some(), "seed {seed}");
    }
}

#[test]
fn when_one_of_two_copies_leaves_the_warning_ends() {
    for seed in 0..6 {
        for gone_is_copy in [true, false] {
            let (mut world, copy) = copied(seed, Weather::calm(), SECOND, 3);
            let named = |world: &World| all_name_it(world, copy);
            assert!(world.run_until(30 * SECOND, named).is_some(), "seed {seed}");
            let gone = if gone_is_copy { copy } else { COPIED };
            if seed % 2 == 0 {
                world.leave(gone, Leave::Away);
                let left = |world: &World| {
                    let mut others = (0..6).filter(|index| *index != gone);
                    others.all(|index| told_of(world, index).is_empty())
                };
                assert!(world.run_until(SECOND, left).is_some(), "seed {seed}");
                let back = world.run_until(SECOND, World::is_converged);
                assert!(back.is_some(), "seed {seed}: not back at once");
                continue;
            }
            world.crash(gone);
            let back = world.run_until(60 * SECOND, World::is_converged);
            assert!(
                back.is_some(),
                "seed {seed}: the one that is left is not back"
            );
            world.run_for(150 * SECOND);
            for index in (0..6).filter(|index| *index != gone) {
                let told = told_of(&world, index);
                assert!(told.is_empty(), "seed {seed}: {index} says {told:?}");
            }
            assert!(world.is_converged());
        }
    }
}

#[test]
fn a_moved_node_with_an_older_state_and_clock_is_not_a_copy() {
    for seed in 0..20 {
        let mut world = World::of(5, seed, Weather::stormy(seed as f64 / 100.0));
        world.run_for(10 * SECOND);
        for life in 0..6 {
            world.crash(COPIED);
            world.run_for(SECOND * (life * 3));
            // Some generations repeat.
            let generation = 1_700_000_000_000 - u64::from(life % 3);
            world.boot_as(COPIED, Generation(generation), 1);
            world.run_for(5 * SECOND);
            let elsewhere = std::net::SocketAddr::from(([10, 1, 0, life as u8], 1378));
            world.relocate(COPIED, elsewhere);
            world.run_for(8 * SECOND);
        }
        let back = world.run_until(60 * SECOND, World::is_converged);
        assert!(back.is_some(), "seed {seed}");
    }
}
