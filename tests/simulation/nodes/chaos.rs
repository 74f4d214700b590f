//! All faults at once, from many seeds. In the end the nodes agree on exactly the existing files,
//! and no reader ever got a wrong byte.

use std::time::Duration;

use p2pfs_catalogue::Rule;
use p2pfs_membership::Leave;
use p2pfs_node::machine::UNSERVED_FOR;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex};
use rand::RngExt;

use crate::nodes::fetching::PATIENCE;
use crate::nodes::model::{agrees, explain};
use crate::nodes::namespace::{furnished, settle};
use crate::nodes::network::Weather;
use crate::nodes::running::Manner;
use crate::nodes::world::{Death, World, path};
use crate::support::seeds::each_seed;

const SECOND: Duration = Duration::from_secs(1);
/// Few names, so that nodes often share the same. One is a file on one node and a directory on
/// another.
const NAMES: &[&str] = &[
    "a", "a/b", "a/b.txt", "c.tar.gz", "d/e/f", "d/e", "g~node1", "g",
];

/// Writes, replaces or removes a file, in a share or through the mount.
fn edit(world: &mut World, node: usize) {
    let name = NAMES[world.rng.random_range(0..NAMES.len())];
    if world.nodes[node].running.is_some() {
        match world.rng.random_range(0..6) {
            0 => return world.delete(node, name),
            1 | 2 => {
                let number = world.rng.random_range(0..6);
                let hash = world.library.write(number, 40_000 * number as usize);
                return world.replace(node, name, hash);
            }
            _ => {}
        }
    }
    let name = path(name);
    let share = ShareIndex(world.rng.random_range(0..2));
    let kind = match world.rng.random_range(0..10) {
        0 | 1 => return world.edit(node, (share, name), None),
        2 => Kind::Directory,
        3 => Kind::Symlink {
            target: bytes::Bytes::from_static(b"b.txt"),
        },
        number => {
            // Few contents, so that they are often equal.
            let number = number % 4 + 4 * world.rng.random_range(0..2);
            let hash = world.library.write(number, 40_000 * number as usize);
            world.file_entry(hash).kind
        }
    };
    let entry = world.entry(kind);
    world.edit(node, (share, name), Some(entry));
}

fn read_something(world: &mut World, node: usize) {
    let listed = crate::nodes::model::listing(&world.running(node).view);
    let hashes: Vec<_> = listed
        .values()
        .filter_map(|(kind, _)| match kind {
            Kind::File { hash, .. } if !world.nodes[node].shares_content(hash) => Some(*hash),
            _ => None,
        })
        .collect();
    if !hashes.is_empty() {
        let hash = hashes[world.rng.random_range(0..hashes.len())];
        world.read(node, hash);
    }
}

/// Injects one random fault.
fn disturb(world: &mut World) {
    let node = world.rng.random_range(0..world.nodes.len());
    let runs = world.nodes[node].running.is_some();
    match world.rng.random_range(0..16) {
        0..=5 => edit(world, node),
        6..=8 if runs => read_something(world, node),
        9 if runs => world.crash(node, Death::Process),
        10 if runs => world.crash(node, Death::Power),
        11 if runs => {
            let how = [Leave::Away, Leave::Final][world.rng.random_range(0..2)];
            world.leave(node, how);
        }
        9..=11 => {
            if world.rng.random_bool(0.2) {
                world.lose_state(node);
            }
            world.boot(node);
        }
        12 => {
            let all = 0..world.nodes.len();
            let (one, other): (Vec<usize>, Vec<usize>) =
                all.partition(|_| world.rng.random_bool(0.5));
            world.part(&[&one, &other]);
        }
        13 => world.heal(),
        14 => world.network.weather = Weather::stormy(world.rng.random_range(0.0..0.4)),
        _ => {
            let manners = [Manner::Honest, Manner::Liar, Manner::Mute];
            world.nodes[node].manner = manners[world.rng.random_range(0..3)];
        }
    }
    let wait = Duration::from_millis(world.rng.random_range(0..2000));
    world.run_for(wait);
    no_reader_waits_too_long(world);
}

/// Asserts that a wait ends by its deadline. The deadline moves only while the file makes progress.
fn no_reader_waits_too_long(world: &World) {
    for node in world.live() {
        for reader in &world.running(node).readers {
            assert!(
                reader.longest_wait <= PATIENCE * 3,
                "{:?}",
                reader.longest_wait
            );
        }
    }
}

/// Returns whether a running node ranks a version behind, because it could not be had.
fn ranks_behind(world: &World) -> bool {
    let live = world.live().into_iter();
    let views = live.map(|node| &world.running(node).view);
    let mut versions =
        views.flat_map(|view| NAMES.iter().flat_map(|name| view.versions(&path(name))));
    versions.any(|version| version.rule == Rule::Served)
}

/// Runs nodes through faults and then calm. Returns the trace.
fn ordeal(seed: u64) -> blake3::Hash {
    let count = 3 + (seed % 4) as usize;
    let mut world = furnished(count, seed, Weather::stormy(0.1));
    for _ in 0..world.rng.random_range(5..25) {
        disturb(&mut world);
    }
    world.heal();
    world.network.weather = Weather::calm();
    world.run_for(SECOND);
    // Some stopped nodes stay stopped until their grace time is over.
    for node in 0..count {
        // Facts that only a silent node has cannot be learned, so all nodes are honest now.
        world.nodes[node].manner = Manner::Honest;
        if world.nodes[node].running.is_none() && (node < 2 || world.rng.random_bool(0.5)) {
            world.boot(node);
        }
    }
    world.run_for(31 * SECOND);
    let agreed = world.run_until(60 * SECOND, agrees);
    if agreed.is_none() {
        // Such a mark ends by itself, and only this node has it.
        assert!(ranks_behind(&world), "{}", explain(&world));
        world.run_for(UNSERVED_FOR);
    }
    settle(&mut world, 60 * SECOND);
    world.run_for(10 * SECOND);
    assert!(agrees(&world), "{}", explain(&world));
    no_reader_waits_too_long(&world);
    world.trace()
}

#[test]
fn after_any_trouble_the_nodes_agree_on_the_actual_content() {
    each_seed(50, |seed| assert_ne!(ordeal(seed), blake3::hash(b"")));
}

#[test]
fn the_same_seed_replays_exactly() {
    for seed in [3, 4] {
        assert_eq!(ordeal(seed), ordeal(seed));
    }
    assert_ne!(ordeal(3), ordeal(4));
}

#[test]
fn partitioned_nodes_agree_within_a_minute_of_healing() {
    each_seed(20, |seed| {
        let mut world = furnished(6, seed, Weather::calm());
        world.part(&[&[0, 2, 4], &[1, 3, 5]]);
        world.run_for(Duration::from_secs(10 + seed));
        for node in 0..6 {
            let hash = world.content(100 + node);
            world.put(node, "both sides wrote this", hash);
            world.run_for(SECOND);
        }
        world.remove(2, "of2/file0");
        world.heal();
        settle(&mut world, 60 * SECOND);
    });
}

#[test]
fn idle_nodes_send_less_than_a_kilobyte_a_second() {
    each_seed(8, |seed| {
        let mut world = furnished(8, seed, Weather::calm());
        world.run_for(60 * SECOND);
        let sent = |world: &World| world.network.sent_bytes.values().sum::<u64>();
        let before = sent(&world);
        world.run_for(120 * SECOND);
        let each_s = (sent(&world) - before) / 8 / 120;
        assert!(each_s < 1000, "{each_s} B/s from each");
    });
}

#[test]
fn nodes_that_lost_one_of_them_are_as_quiet_as_before() {
    each_seed(8, |seed| {
        let mut world = furnished(5, seed, Weather::calm());
        world.crash(4, Death::Power);
        world.run_for(60 * SECOND);
        let sent = |world: &World| world.network.sent_bytes.values().sum::<u64>();
        let before = sent(&world);
        world.run_for(120 * SECOND);
        let each_s = (sent(&world) - before) / 4 / 120;
        assert!(each_s < 1000, "{each_s} B/s from each");
    });
}

/// Returns the listed names that begin with `start`, which all running nodes list.
fn names_from(world: &World, start: &str) -> Vec<String> {
    let listed = |node| crate::nodes::model::listing(&world.running(node).view);
    let live = world.live();
    assert!(live.iter().all(|node| listed(*node) == listed(live[0])));
    let names = listed(live[0]).into_keys().map(|name| name.to_string());
    names.filter(|name| name.starts_with(start)).collect()
}

#[test]
fn edits_on_both_sides_of_a_partition_keep_both_and_a_deletion_hides_only_what_it_saw() {
    each_seed(20, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        for name in ["edited", "deleted", "resolved"] {
            let hash = world.content(1000);
            world.replace(0, name, hash);
        }
        settle(&mut world, 30 * SECOND);
        world.part(&[&[0, 1], &[2, 3]]);
        world.run_for(SECOND);
        for (node, name) in [
            (1, "edited"),
            (2, "edited"),
            (2, "deleted"),
            (3, "resolved"),
        ] {
            let hash = world.content(1000 + node);
            world.replace(node, name, hash);
            world.run_for(2 * SECOND);
        }
        world.delete(3, "deleted");
        world.delete(1, "resolved");
        world.run_for(30 * SECOND);
        world.heal();
        settle(&mut world, 60 * SECOND);
        assert_eq!(names_from(&world, "edited"), ["edited", "edited~node1"]);
        assert_eq!(names_from(&world, "deleted"), [""; 0]);
        assert_eq!(names_from(&world, "resolved"), ["resolved"]);
        let both = world.content(3000);
        world.replace(0, "edited", both);
        settle(&mut world, 30 * SECOND);
        assert_eq!(names_from(&world, "edited"), ["edited"]);
    });
}

#[test]
fn a_node_that_was_away_or_lost_its_state_brings_nothing_back() {
    each_seed(8, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        for (node, name) in [(2, "away"), (3, "lost"), (2, "away/gone"), (3, "lost gone")] {
            let hash = world.content(1000);
            world.replace(node, name, hash);
        }
        settle(&mut world, 30 * SECOND);
        world.crash(2, Death::Power);
        world.crash(3, Death::Process);
        world.run_for(60 * SECOND);
        let hash = world.content(2000);
        world.replace(0, "lost", hash);
        world.delete(1, "lost gone");
        world.delete(0, "away/gone");
        world.delete(1, "away");
        world.run_for(600 * SECOND);
        world.lose_state(3);
        world.boot(2);
        world.boot(3);
        settle(&mut world, 60 * SECOND);
        assert_eq!(names_from(&world, "lost"), ["lost"]);
        assert_eq!(names_from(&world, "away"), [""; 0]);
    });
}
