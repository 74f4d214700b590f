//! Promises about listings: fast, equal on all nodes, and only of files that can be read.

use std::time::Duration;

use p2pfs_membership::Leave;
use p2pfs_node::NotForgotten;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use rand::RngExt;

use crate::nodes::model::{agrees, explain};
use crate::nodes::network::Weather;
use crate::nodes::world::{Death, World, live_of, path};
use crate::support::seeds::each_seed;

const SECOND: Duration = Duration::from_secs(1);

/// Returns the number of running nodes on which a name has a content.
fn listed_by(world: &World, name: &str, hash: ContentHash) -> usize {
    let shows = |index: &usize| {
        let found = world.running(*index).view.lookup(&path(name));
        let kind = found.map(|found| found.kind);
        matches!(kind, Some(p2pfs_proto::wire::native::record::Kind::File { hash: h, .. }) if h == hash)
    };
    world.live().iter().filter(|index| shows(index)).count()
}

fn is_listed_by_none(world: &World, name: &str) -> bool {
    let nodes = world.live().into_iter();
    nodes
        .map(|index| world.running(index).view.lookup(&path(name)))
        .all(|found| found.is_none())
}

/// Returns a world of nodes with some files each. All nodes agree.
pub(super) fn furnished(count: usize, seed: u64, weather: Weather) -> World {
    let mut world = World::of(count, seed, weather);
    for node in 0..count {
        for file in 0..world.rng.random_range(1..4) {
            let size = world.rng.random_range(0..200_000);
            let hash = world.content(size);
            world.put(node, &format!("of{node}/file{file}"), hash);
        }
    }
    settle(&mut world, 30 * SECOND);
    world
}

/// Runs until all nodes agree.
pub(super) fn settle(world: &mut World, limit: Duration) -> Duration {
    let took = world.run_until(limit, agrees);
    took.unwrap_or_else(|| panic!("not agreed after {limit:?}: {}", explain(world)))
}

#[test]
fn a_file_is_listed_by_all_within_two_seconds_of_its_change() {
    each_seed(30, |seed| {
        let mut world = furnished(3 + seed as usize % 4, seed, Weather::calm());
        let count = world.nodes.len();
        for change in 0..4 {
            let wait = Duration::from_millis(world.rng.random_range(0..3000));
            world.run_for(wait);
            let node = world.rng.random_range(0..count);
            let hash = world.content(1000 + change);
            world.put(node, "a/changing.txt", hash);
            let all = |world: &World| listed_by(world, "a/changing.txt", hash) == count;
            // The newest version wins. Two versions of one second are ordered by hash.
            let settled = |world: &World| all(world) || agrees(world);
            assert!(world.run_until(2 * SECOND, settled).is_some());
        }
        for node in 0..count {
            world.remove(node, "a/changing.txt");
        }
        let gone = |world: &World| is_listed_by_none(world, "a/changing.txt");
        assert!(world.run_until(2 * SECOND, gone).is_some());
        assert!(agrees(&world), "{}", explain(&world));
    });
}

#[test]
fn others_follow_a_continuously_changing_node_within_a_second() {
    each_seed(4, |seed| {
        let mut world = furnished(3, seed, Weather::calm());
        let hash = world.content(10);
        let pause = Duration::from_micros(500 + 1000 * seed);
        let in_a_second = (SECOND.as_micros() / pause.as_micros()) as u64;
        for change in 0..4 * in_a_second {
            world.put(0, &format!("many/{change}"), hash);
            world.run_for(pause);
            if change >= in_a_second && change % 50 == 0 {
                let name = format!("many/{}", change - in_a_second);
                let lag = "a change is not listed after a second";
                assert_eq!(listed_by(&world, &name, hash), 3, "{lag}: {name}");
            }
        }
        settle(&mut world, 2 * SECOND);
    });
}

#[test]
fn thousands_of_changing_names_leave_nothing_behind() {
    each_seed(3, |seed| {
        let mut world = furnished(3, seed, Weather::calm());
        let hash = world.content(10);
        for round in 0..4 {
            // One node is away while tombstones expire, and one must pull from the beginning.
            world.part(&[&[round % 3]]);
            for file in 0..600 {
                world.put(0, &format!("tmp/{round}-{file}"), hash);
            }
            world.run_for(Duration::from_millis(300));
            for file in 0..600 {
                world.remove(0, &format!("tmp/{round}-{file}"));
            }
            world.run_for(Duration::from_millis(300 + 700 * seed));
            world.heal();
            settle(&mut world, 60 * SECOND);
        }
        world.crash(0, Death::Process);
        world.boot(0);
        settle(&mut world, 20 * SECOND);
    });
}

#[test]
fn a_member_that_never_answers_hides_no_names_from_a_newcomer_for_long() {
    each_seed(15, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        world.nodes[3].manner = crate::nodes::running::Manner::Mute;
        let newcomer = world.add();
        world.boot(newcomer);
        settle(&mut world, 20 * SECOND);
    });
}

#[test]
fn a_multi_part_log_is_listed_whole_although_its_author_dies_in_mid_pull() {
    each_seed(2, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        let hash = world.content(10);
        world.leave(3, Leave::Final);
        world.run_for(SECOND);
        for file in 0..6000 {
            world.put(0, &format!("many/{}/{file}", file % 7), hash);
        }
        settle(&mut world, 10 * SECOND);
        // The new node begins to pull from the author and continues from another node.
        world.boot(3);
        world.run_for(Duration::from_millis(100 * seed));
        world.crash(0, Death::Power);
        settle(&mut world, 30 * SECOND);
        world.put(1, "the same content", hash);
        settle(&mut world, 2 * SECOND);
        assert_eq!(listed_by(&world, "many/3/3", hash), 3);
    });
}

#[test]
fn with_a_fifth_of_the_datagrams_lost_a_change_is_listed_within_ten_seconds() {
    each_seed(20, |seed| {
        let mut world = furnished(5, seed, Weather::stormy(0.2));
        let hash = world.content(5000);
        world.put(2, "new/file", hash);
        let all = |world: &World| listed_by(world, "new/file", hash) == 5;
        let took = world.run_until(10 * SECOND, all);
        assert!(took.is_some(), "{}", explain(&world));
    });
}

#[test]
fn the_entries_of_a_dead_node_disappear_within_ten_seconds() {
    each_seed(20, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        let death = [Death::Process, Death::Power][seed as usize % 2];
        world.crash(3, death);
        let gone = |world: &World| is_listed_by_none(world, "of3/file0");
        assert!(world.run_until(10 * SECOND, gone).is_some());
        settle(&mut world, SECOND);
    });
}

#[test]
fn a_dead_nodes_entries_held_by_a_live_cache_stay_readable() {
    each_seed(20, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        let kept = world.content(150_000);
        world.put(3, "of3/kept", kept);
        settle(&mut world, 10 * SECOND);
        assert_eq!(world.read_to_end(1, kept), Ok(()));
        settle(&mut world, 10 * SECOND);
        world.crash(3, Death::Process);
        let gone = |world: &World| is_listed_by_none(world, "of3/file0");
        assert!(world.run_until(10 * SECOND, gone).is_some());
        assert_eq!(listed_by(&world, "of3/kept", kept), 3);
        assert_eq!(world.read_to_end(2, kept), Ok(()));
        // Node 2 has it too now, so it stays listed when node 1 evicts it.
        world.run_for(60 * SECOND);
        let now = world.now;
        world.nodes[1].evict(now, &kept);
        world.settle(1);
        settle(&mut world, 10 * SECOND);
        assert_eq!(listed_by(&world, "of3/kept", kept), 3);
        world.nodes[2].evict(world.now, &kept);
        world.settle(2);
        let gone = |world: &World| is_listed_by_none(world, "of3/kept");
        assert!(world.run_until(2 * SECOND, gone).is_some());
    });
}

#[test]
fn the_entries_of_a_node_that_went_away_stay_for_the_grace_time() {
    each_seed(20, |seed| {
        let mut world = furnished(4, seed, Weather::stormy(0.1));
        let hash = world.content(10);
        world.put(3, "of3/mark", hash);
        settle(&mut world, 20 * SECOND);
        world.leave(3, Leave::Away);
        for _ in 0..28 {
            world.run_for(SECOND);
            assert!(world.live().len() < 4);
            assert_eq!(listed_by(&world, "of3/mark", hash), 3);
        }
        let gone = |world: &World| is_listed_by_none(world, "of3/mark");
        assert!(world.run_until(6 * SECOND, gone).is_some());
    });
}

#[test]
fn the_entries_of_a_node_that_restarts_in_time_are_never_missing() {
    each_seed(20, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        let hash = world.content(10);
        world.put(3, "of3/mark", hash);
        settle(&mut world, 20 * SECOND);
        world.leave(3, Leave::Away);
        let (pause, down) = (Duration::from_millis(100), 2 + seed as usize % 250);
        for step in 0..300 {
            if step == down {
                world.boot(3);
            }
            world.run_for(pause);
            let others = world.live().iter().filter(|n| **n != 3).count();
            assert!(listed_by(&world, "of3/mark", hash) >= others);
        }
        settle(&mut world, 10 * SECOND);
    });
}

#[test]
fn the_entries_of_a_node_that_left_for_good_are_gone_within_two_seconds() {
    each_seed(20, |seed| {
        let mut world = furnished(4, seed, Weather::stormy(0.1));
        world.leave(3, Leave::Final);
        let gone = |world: &World| is_listed_by_none(world, "of3/file0");
        assert!(world.run_until(2 * SECOND, gone).is_some());
    });
}

#[test]
fn a_newcomer_lists_everything_within_two_seconds() {
    each_seed(20, |seed| {
        let mut world = furnished(5, seed, Weather::calm());
        let newcomer = world.add();
        world.boot(newcomer);
        settle(&mut world, 2 * SECOND);
    });
}

/// Returns whether a node lists any entry of another.
fn knows(world: &World, index: usize, other: usize) -> bool {
    let known = world.running(index).machine.known();
    known.logs().authors().contains(&world.nodes[other].id)
}

#[test]
fn forgotten_entries_return_only_with_their_author() {
    each_seed(20, |seed| {
        let mut world = furnished(3, seed, Weather::stormy((seed % 3) as f64 / 10.0));
        let gone = world.nodes[2].id;
        let forget = |world: &mut World, node: NodeId| {
            world.with(0, |machine, now| machine.intake(now).forget_node(&node))
        };
        let me = world.nodes[0].id;
        assert_eq!(forget(&mut world, me), Err(NotForgotten::Own));
        let stranger = NodeId::new([0; 32]);
        assert_eq!(forget(&mut world, stranger), Err(NotForgotten::Unlisted));
        let is_cut_off = seed % 2 == 0;
        if is_cut_off {
            // After its return the node announces nothing newer.
            world.part(&[&[2]])
        } else {
            world.crash(2, Death::Power)
        }
        // Just after its end the node still counts as live.
        let early = forget(&mut world, gone);
        assert!(matches!(early, Err(NotForgotten::Live(_))), "{early:?}");
        let is_gone = |world: &World| {
            let mut others = [0, 1].iter().map(|index| live_of(world.running(*index)));
            others.all(|live| live.len() == 1 && !live.contains(&gone))
        };
        assert!(world.run_until(120 * SECOND, is_gone).is_some());
        assert_eq!(forget(&mut world, gone), Ok(()));
        for second in 0..90 {
            world.run_for(SECOND);
            assert!(!knows(&world, 0, 2), "it is back after {second} s");
            if second == 30 {
                world.crash(0, Death::Process);
                world.boot(0);
            }
        }
        assert!(knows(&world, 1, 2), "each node forgets for itself");
        if is_cut_off {
            world.heal()
        } else {
            world.boot(2)
        }
        let is_back = |world: &World| knows(world, 0, 2) && world.is_met() && agrees(world);
        let back = world.run_until(120 * SECOND, is_back);
        assert!(back.is_some(), "{}", explain(&world));
    });
}
