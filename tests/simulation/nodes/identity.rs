//! Promises about identity: nodes that lost their state, and keys that are used twice.

use std::time::Duration;

use p2pfs_membership::Leave;
use p2pfs_node::machine::NodeEvent;
use p2pfs_types::id::NodeId;
use rand::RngExt;

use crate::nodes::disk::Disk;
use crate::nodes::model::{agrees, explain, listing};
use crate::nodes::namespace::{furnished, settle};
use crate::nodes::network::Weather;
use crate::nodes::world::{Death, World};
use crate::support::seeds::each_seed;

const SECOND: Duration = Duration::from_secs(1);

fn epoch_of(world: &mut World, index: usize) -> u64 {
    world.with(index, |machine, _| machine.catalogue().own().head().epoch)
}

/// Returns the nodes that were told of a copied key of `node`.
fn told_of_copy(world: &World, node: NodeId) -> Vec<usize> {
    let told = |index: &usize| {
        let mut events = world.running(*index).events.iter();
        events.any(|(_, event)| matches!(event, NodeEvent::CopiedKey { node: n, .. } if *n == node))
    };
    world.live().into_iter().filter(told).collect()
}

#[test]
fn a_node_that_lost_its_state_continues_from_a_higher_epoch_correctly() {
    each_seed(50, |seed| {
        let weather = Weather::stormy((seed % 3) as f64 / 10.0);
        let mut world = furnished(4, seed, weather);
        let before = epoch_of(&mut world, 2);
        world.crash(2, Death::Process);
        // Changes of its files while it is down may leave their number unchanged.
        for change in 0..seed % 4 {
            let names: Vec<_> = world.nodes[2].shares.keys().cloned().collect();
            let name = names[change as usize % names.len()].clone();
            let hash = world.content(100);
            let entry = world.file_entry(hash);
            world.edit(2, name, Some(entry));
        }
        if seed % 5 == 0 {
            world.remove(2, "of2/file0");
        }
        world.lose_state(2);
        let down = Duration::from_millis(world.rng.random_range(0..20_000));
        world.run_for(down);
        world.boot(2);
        settle(&mut world, 30 * SECOND);
        world.run_for(10 * SECOND);
        assert!(agrees(&world), "{}", explain(&world));
        let id = world.nodes[2].id;
        assert_eq!(told_of_copy(&world, id), Vec::<usize>::new());
        let after = epoch_of(&mut world, 2);
        assert!(after > before, "{after} is not above {before}");
        // Other nodes accept its later entries.
        let hash = world.content(77);
        world.put(2, "after", hash);
        settle(&mut world, 10 * SECOND);
    });
}

#[test]
fn a_node_whose_disk_went_back_to_an_older_state_is_correct_everywhere() {
    each_seed(30, |seed| {
        let mut world = furnished(4, seed, Weather::stormy(0.1));
        world.run_for(2 * SECOND);
        let old: Disk = world.nodes[2].disk.clone();
        for change in 0..1 + seed % 5 {
            let hash = world.content(50);
            world.put(2, &format!("since{change}"), hash);
            world.run_for(SECOND);
        }
        if seed % 2 == 0 {
            world.remove(2, "since0");
            world.run_for(SECOND);
        }
        world.crash(2, Death::Power);
        world.nodes[2].disk = old;
        world.boot(2);
        settle(&mut world, 40 * SECOND);
        let id = world.nodes[2].id;
        assert_eq!(told_of_copy(&world, id), Vec::<usize>::new());
    });
}

#[test]
fn a_disk_that_always_returns_to_one_state_is_correct_everywhere() {
    each_seed(30, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        world.run_for(2 * SECOND);
        let old: Disk = world.nodes[2].disk.clone();
        for change in 0..3 {
            world.crash(2, Death::Power);
            world.nodes[2].disk = old.clone();
            let hash = world.content(40 + change);
            world.put(2, "of2/file0", hash);
            let down = Duration::from_millis(world.rng.random_range(0..9000));
            world.run_for(down);
            world.boot(2);
            settle(&mut world, 30 * SECOND);
        }
    });
}

#[test]
fn a_repeatedly_crashing_node_is_correct_everywhere_and_not_a_copy() {
    each_seed(30, |seed| {
        let mut world = furnished(3, seed, Weather::calm());
        for change in 0..6 {
            let hash = world.content(30 + change);
            world.put(2, &format!("of2/{}", change % 2), hash);
            let wait = Duration::from_millis(world.rng.random_range(0..1500));
            world.run_for(wait);
            let death = [Death::Process, Death::Power][change % 2];
            world.crash(2, death);
            if change % 3 == 0 {
                world.remove(2, &format!("of2/{}", change % 2));
            }
            world.boot(2);
            let wait = Duration::from_millis(world.rng.random_range(0..1500));
            world.run_for(wait);
        }
        settle(&mut world, 20 * SECOND);
        let id = world.nodes[2].id;
        assert_eq!(told_of_copy(&world, id), Vec::<usize>::new());
    });
}

#[test]
fn a_copied_key_is_reported_and_nothing_is_mixed() {
    each_seed(24, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        let twin = world.add();
        let id = world.nodes[2].id;
        world.nodes[twin].key = world.nodes[2].key.clone();
        world.nodes[twin].id = id;
        let hash = world.content(1000);
        world.put(twin, "of the twin", hash);
        if seed % 2 == 0 {
            world.nodes[twin].disk = world.nodes[2].disk.clone();
        }
        world.boot(twin);
        world.run_for(20 * SECOND);
        assert!(!told_of_copy(&world, id).is_empty(), "nobody was told");
        // The listing of that key is always from one machine, never from both.
        for index in [0, 1, 3] {
            let listed = listing(&world.running(index).view);
            let by_it = listed
                .iter()
                .filter(|(_, (_, shown))| shown.is_some_and(|s| s.1 == id));
            let names: Vec<_> = by_it.map(|(path, _)| path.clone()).collect();
            let of_twin = names.iter().any(|n| n.as_bytes() == b"of the twin");
            let of_first = names.iter().any(|n| n.as_bytes().starts_with(b"of2/"));
            assert!(!(of_twin && of_first), "{names:?}");
        }
        // The other nodes are not disturbed.
        world.crash(twin, Death::Process);
        let hash = world.content(2000);
        world.put(0, "still works", hash);
        let shown = |world: &World| {
            [0, 1, 3].iter().all(|n| {
                let path = crate::nodes::world::path("still works");
                world.running(*n).view.lookup(&path).is_some()
            })
        };
        assert!(world.run_until(2 * SECOND, shown).is_some());
    });
}

#[test]
fn a_node_whose_copy_left_is_listed_with_all_its_shares() {
    each_seed(12, |seed| {
        let mut world = furnished(4, seed, Weather::calm());
        let twin = world.add();
        world.nodes[twin].key = world.nodes[2].key.clone();
        world.nodes[twin].id = world.nodes[2].id;
        world.nodes[twin].disk = world.nodes[2].disk.clone();
        world.boot(twin);
        // This is long enough for both to stop outbidding each other's log.
        world.run_for(90 * SECOND);
        match seed % 2 {
            0 => world.crash(twin, Death::Process),
            _ => world.leave(twin, Leave::Away),
        }
        world.run_for(180 * SECOND);
        let hash = world.content(3000);
        world.put(2, "after all", hash);
        let listed = |world: &World| {
            [0, 1, 3].iter().all(|n| {
                let view = &world.running(*n).view;
                ["after all", "of2/file0"].iter().all(|name| {
                    let path = crate::nodes::world::path(name);
                    view.lookup(&path).is_some()
                })
            })
        };
        // A log that both wrote may have to be pulled again from its beginning, one round later.
        let took = world.run_until(30 * SECOND, listed);
        assert!(took.is_some(), "seed {seed}: {}", explain(&world));
    });
}
