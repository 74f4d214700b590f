//! Promises about what members say of nodes that are gone, or that are falsely called so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pfs_membership::{Cluster, ClusterConfig};
use p2pfs_proto::trust::{EpochSecret, NodeKey, TestKeyring};
use p2pfs_types::id::{Generation, NodeId};

use crate::cluster::network::Weather;
use crate::cluster::world::World;

const SECOND: Duration = Duration::from_secs(1);

fn converge(world: &mut World) {
    let took = world.run_until(10 * SECOND, World::is_converged);
    assert!(took.is_some(), "not converged");
}

#[test]
fn a_dead_node_is_removed_in_time_although_others_restart() {
    let mut world = World::new(3, Weather::calm());
    for _ in 0..4 {
        let config = ClusterConfig {
            remember_down: 30 * SECOND,
            ..ClusterConfig::default()
        };
        let node = world.add(&[0], config);
        world.boot(node);
    }
    converge(&mut world);
    world.crash(3);
    converge(&mut world);
    world.run_for(15 * SECOND);
    world.crash(2);
    world.run_for(SECOND);
    world.boot(2);
    world.run_for(20 * SECOND);
    for _ in 0..90 {
        for node in world.running() {
            let members = node.cluster.as_ref().unwrap().members();
            assert_eq!(members.len(), 2, "{}: {members:?}", node.address);
        }
        world.run_for(SECOND);
    }
}

#[test]
fn a_crash_of_a_far_node_is_known_to_all_within_eight_seconds() {
    let mut slowest = Duration::ZERO;
    for seed in 0..20 {
        let mut world = World::of(3, seed, Weather::calm());
        let far = Duration::from_millis(120);
        world.network.fill_queue(World::address(2), far, 0.0);
        converge(&mut world);
        world.run_for(Duration::from_millis(3000 + 137 * seed));
        world.crash(2);
        let took = world.run_until(8 * SECOND, World::is_converged);
        slowest = slowest.max(took.unwrap_or_else(|| panic!("seed {seed}")));
    }
    println!("slowest: {slowest:?}");
}

/// Returns a member list in which the second node calls the second life of the third gone.
fn calls_the_second_life_gone() -> (NodeId, Bytes) {
    let mut world = World::of(3, 1, Weather::calm());
    converge(&mut world);
    for starts_anew in [true, false] {
        world.crash(2);
        converge(&mut world);
        if starts_anew {
            world.boot(2);
            converge(&mut world);
        }
    }
    let teller = world.nodes[1].cluster.as_ref().unwrap();
    (teller.me().node, teller.export_members())
}

#[test]
fn a_restarting_far_node_is_not_given_up_on_a_near_nodes_word() {
    let (teller, list) = calls_the_second_life_gone();
    for is_known in [true, false] {
        let mut world = World::of(3, 1, Weather::calm());
        let far = Duration::from_millis(120);
        world.network.fill_queue(World::address(2), far, 0.0);
        converge(&mut world);
        world.run_for(5 * SECOND);
        world.crash(2);
        converge(&mut world);
        if !is_known {
            world.crash(0);
            world.run_for(SECOND);
            world.boot(0);
            converge(&mut world);
            world.run_for(5 * SECOND);
        }
        world.boot(2);
        let (id, since) = (world.nodes[2].id, world.now);
        let is_met = |world: &World| {
            let cluster = world.nodes[0].cluster.as_ref().unwrap();
            cluster.live().any(|member| member.node == id)
        };
        assert!(world.run_until(5 * SECOND, is_met).is_some());
        for _ in 0..200 {
            let merged = world.with(0, |cluster, now| cluster.merge_members(now, teller, &list));
            assert_eq!(merged, Ok(()));
            world.run_for(Duration::from_millis(10));
        }
        world.run_for(5 * SECOND);
        let told = world.told_down(id, since);
        assert!(told.is_empty(), "{is_known}: {told:?}");
    }
}

/// Returns the lists of many made-up nodes, each signed with a key of its own.
fn made_up_nodes(count: u16) -> Vec<Bytes> {
    let trust = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
    let made_up = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let key = NodeKey::from_seed(blake3::hash(&[high, low]).as_bytes());
        let cluster = Cluster::new(
            ClusterConfig::default(),
            Arc::new(key),
            ([10, 9, high, low], 1378).into(),
            Generation(7),
            trust.clone(),
            7,
            Instant::now(),
        );
        cluster.export_members().to_vec()
    };
    let numbers: Vec<u16> = (0..count).collect();
    let lists = numbers.chunks(usize::from(count).div_ceil(2));
    lists
        .map(|some| some.iter().flat_map(|n| made_up(*n)).collect())
        .collect()
}

/// Returns whether every running node counts every other one as live.
fn all_meet(world: &World) -> bool {
    let running: Vec<NodeId> = world.running().map(|node| node.id).collect();
    let clusters = world.running().filter_map(|node| node.cluster.as_ref());
    let meets_all = |cluster: &Cluster| {
        let live: BTreeSet<NodeId> = cluster.live().map(|member| member.node).collect();
        running
            .iter()
            .all(|node| *node == cluster.me().node || live.contains(node))
    };
    clusters.into_iter().all(meets_all)
}

#[test]
fn a_member_that_makes_up_thousands_of_nodes_hides_no_newcomer_and_delays_no_head() {
    let lists = made_up_nodes(4100);
    let mut world = World::of(4, 1, Weather::calm());
    converge(&mut world);
    let liar = world.nodes[3].id;
    let newcomer = world.add(&[0], ClusterConfig::default());
    world.boot(newcomer);
    for index in [0, 1, 2, newcomer] {
        for list in &lists {
            let merged = world.with(index, |cluster, now| cluster.merge_members(now, liar, list));
            assert_eq!(merged, Ok(()));
        }
    }
    let met = world.run_until(10 * SECOND, all_meet);
    assert!(met.is_some(), "the newcomer is not met");
    for round in 1..=5 {
        world.run_for(20 * SECOND);
        world.set_head(newcomer, round);
        let id = world.nodes[newcomer].id;
        let took = world.run_until(2 * SECOND, |world| {
            world
                .running()
                .all(|node| node.heads.get(&id) == Some(&(1, round)))
        });
        assert!(took.is_some(), "head {round}");
        for node in world.running() {
            let known = node.cluster.as_ref().unwrap().members().len();
            assert!(known < 20, "{known} members at {}", node.address);
        }
    }
}
