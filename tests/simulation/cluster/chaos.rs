//! Clusters with mixed faults, from many seeds: after any sequence of faults they converge to one
//! cluster.

use std::time::Duration;

use p2pfs_membership::{ClusterConfig, Leave};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::network::Weather;
use crate::cluster::world::World;

const SECOND: Duration = Duration::from_secs(1);
/// Default number of seeds. `P2PFS_SEEDS` changes it.
const SEEDS: u64 = 120;

/// Injects one random fault.
fn disturb(world: &mut World, rng: &mut StdRng) {
    let node = rng.random_range(0..world.nodes.len());
    let runs = world.nodes[node].cluster.is_some();
    match rng.random_range(0..8) {
        0 | 1 if runs => world.crash(node),
        2 if runs => {
            let how = if rng.random_bool(0.5) {
                Leave::Away
            } else {
                Leave::Final
            };
            world.leave(node, how);
        }
        0..=3 if !runs => world.boot(node),
        4 => {
            let all: Vec<usize> = (0..world.nodes.len()).collect();
            let (one, other): (Vec<usize>, Vec<usize>) =
                all.into_iter().partition(|_| rng.random_bool(0.5));
            world.part(&[&one, &other]);
        }
        5 => world.heal(),
        6 => world.network.weather = Weather::stormy(rng.random_range(0.0..0.4)),
        _ if runs => {
            let id = world.nodes[node].id;
            let rank = world.nodes[node]
                .heads
                .get(&id)
                .map_or(1, |rank| rank.1 + 1);
            world.set_head(node, rank);
        }
        _ => {}
    }
    world.run_for(Duration::from_millis(rng.random_range(0..4000)));
}

/// Runs a cluster through faults and then calm. Returns the trace.
fn ordeal(seed: u64) -> blake3::Hash {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = rng.random_range(3..9);
    let mut world = World::new(seed, Weather::stormy(0.1));
    for _ in 0..count {
        let node = world.add(&[0, 1, 2], ClusterConfig::default());
        world.boot(node);
        world.run_for(Duration::from_millis(rng.random_range(0..500)));
    }
    for _ in 0..rng.random_range(3..10) {
        disturb(&mut world, &mut rng);
    }
    calm_down(&mut world);
    let took = world.run_until(120 * SECOND, |world| {
        world.is_converged() && heads_agree(world)
    });
    assert!(
        took.is_some(),
        "seed {seed}: {count} nodes did not become one"
    );
    world.trace()
}

fn calm_down(world: &mut World) {
    world.heal();
    world.network.weather = Weather::calm();
    // Nodes that are saying farewell finish it.
    world.run_for(SECOND);
    for node in 0..world.nodes.len() {
        if world.nodes[node].cluster.is_none() {
            world.boot(node);
        }
    }
}

/// Returns whether every node holds the newest head of every author.
fn heads_agree(world: &World) -> bool {
    let own = world
        .nodes
        .iter()
        .filter_map(|n| n.heads.get(&n.id).map(|rank| (n.id, *rank)));
    own.clone()
        .all(|(id, rank)| world.nodes.iter().all(|n| n.heads.get(&id) == Some(&rank)))
}

fn seeds() -> u64 {
    std::env::var("P2PFS_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEEDS)
}

#[test]
fn after_any_trouble_the_cluster_unites_and_agrees_on_every_head() {
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                (0..seeds())
                    .filter(|seed| seed % threads == thread)
                    .for_each(|seed| {
                        ordeal(seed);
                    });
            });
        }
    });
}

#[test]
fn the_same_seed_replays_exactly() {
    for seed in [1, 2, 3] {
        assert_eq!(ordeal(seed), ordeal(seed));
    }
    assert_ne!(ordeal(1), ordeal(2));
}
