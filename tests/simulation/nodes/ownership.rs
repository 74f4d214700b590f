//! Promises about owned paths under partitions: after concurrent statements about owners and
//! expulsions, all nodes list the same files below the path, and only the owner's.

use std::collections::BTreeSet;
use std::time::Duration;

use p2pfs_proto::wire::native::record::Kind;
use p2pfs_types::id::NodeId;
use rand::RngExt;

use crate::nodes::expulsion::{BOUND, SECOND, assert_shut_out, certified, expel, rotate, state};
use crate::nodes::model::listing;
use crate::nodes::network::Weather;
use crate::nodes::world::{World, live_of};
use crate::support::seeds::each_seed;

/// The files and links at and below a path in a node's listing, each with its author.
type Below = BTreeSet<(String, NodeId)>;

/// Starts a cluster in which each node has a version of `d/x` and `b.x`, and its own file in `d`.
fn quarrelling(count: usize, seed: u64, weather: Weather) -> World {
    let mut world = certified(count, seed, weather);
    for index in 0..count {
        for (at, name) in ["d/x", "b.x", &format!("d/{index}")].iter().enumerate() {
            let hash = world.content(2000 + 10 * index + at);
            world.put(index, name, hash);
        }
    }
    let all: Vec<usize> = (0..count).collect();
    let is_listed = |world: &World| all.iter().all(|n| below(world, *n, "d").len() == 2 * count);
    let met = world.run_until(120 * SECOND, is_listed);
    assert!(met.is_some(), "they list what all of them have");
    world
}

fn own(world: &mut World, admin: usize, path: &str, owner: usize) {
    let owner = world.nodes[owner].id;
    let path = path.as_bytes().to_vec();
    state(world, admin, move |it| it.own(path.clone(), Some(owner)));
}

fn below(world: &World, index: usize, top: &str) -> Below {
    let listed = listing(&world.running(index).view).into_iter();
    let named = listed.filter_map(|(path, (kind, shown))| {
        let author = shown.map(|(_, author)| author);
        author
            .filter(|_| kind != Kind::Directory)
            .map(|it| (path.to_string(), it))
    });
    let is_there = |name: &str| {
        let rest = name.strip_prefix(top);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    named.filter(|(name, _)| is_there(name)).collect()
}

/// Returns whether all of them list exactly this below a path.
fn all_list(world: &World, nodes: &[usize], top: &str, expected: &Below) -> bool {
    nodes.iter().all(|n| below(world, *n, top) == *expected)
}

/// Returns the expected listing of `d` with this owner.
fn of_owner(world: &World, owner: usize) -> Below {
    let id = world.nodes[owner].id;
    ["d/x".to_owned(), format!("d/{owner}")]
        .map(|name| (name, id))
        .into()
}

fn are_one(world: &World, nodes: &[usize]) -> bool {
    let first = listing(&world.running(nodes[0]).view);
    nodes.iter().all(|n| {
        let running = world.running(*n);
        live_of(running).len() + 1 == nodes.len() && listing(&running.view) == first
    })
}

#[test]
fn concurrently_named_owners_converge_and_no_others_file_stands_below() {
    each_seed(6, |seed| {
        let weather = if seed % 2 == 0 {
            Weather::calm()
        } else {
            Weather::stormy(0.05)
        };
        let mut world = quarrelling(6, seed, weather);
        let sides = [[0, 2, 4], [1, 3, 5]];
        world.part(&[&sides[0], &sides[1]]);
        for (admin, owner) in [(0, 2), (1, 3)] {
            let rest = Duration::from_secs(world.rng.random_range(0..60));
            world.run_for(rest);
            own(&mut world, admin, "d", owner);
        }
        for (side, owner) in sides.iter().zip([2, 3]) {
            let expected = of_owner(&world, owner);
            let is_held = |world: &World| all_list(world, side, "d", &expected);
            let held = world.run_until(180 * SECOND, is_held);
            assert!(
                held.is_some(),
                "each side holds to what its administrator said"
            );
        }
        world.heal();
        let all = [0, 1, 2, 3, 4, 5];
        let expected = of_owner(&world, 2);
        let is_settled =
            |world: &World| are_one(world, &all) && all_list(world, &all, "d", &expected);
        let settled = world.run_until(240 * SECOND, is_settled);
        assert!(settled.is_some(), "the founder's word counts everywhere");
        // A losing version does not get a conflict name below another owner's path.
        let loser = world.nodes[4].id;
        let listed = listing(&world.running(0).view);
        let of_loser = listed.iter().find(|(path, (_, shown))| {
            let is_its = shown.is_some_and(|(_, author)| author == loser);
            is_its && path.to_string().starts_with("b~")
        });
        if let Some((alias, _)) = of_loser {
            let alias = alias.to_string();
            own(&mut world, 1, &alias, 5);
            let is_gone = |world: &World| all_list(world, &all, &alias, &Below::new());
            let gone = world.run_until(120 * SECOND, is_gone);
            assert!(gone.is_some(), "{alias} is another's");
            assert!(are_one(&world, &all));
        }
    });
}

#[test]
fn an_owner_expelled_across_a_partition_owns_nothing_afterwards() {
    each_seed(6, |seed| {
        let mut world = quarrelling(6, seed, Weather::calm());
        let out = 5;
        own(&mut world, 1, "d", out);
        let all = [0, 1, 2, 3, 4, 5];
        let expected = of_owner(&world, out);
        let is_held = |world: &World| all_list(world, &all, "d", &expected);
        assert!(world.run_until(120 * SECOND, is_held).is_some());
        // The expelled owner is in the part that does not learn of the expulsion.
        world.part(&[&[0, 2], &[1, 3, 4, 5]]);
        let apart = Duration::from_secs(world.rng.random_range(1..200));
        expel(&mut world, 0, out);
        world.run_for(apart);
        assert!(
            all_list(&world, &[1, 3, 4], "d", &expected),
            "there it still is the owner"
        );
        if seed % 3 == 0 {
            rotate(&mut world, 1);
            let rest = Duration::from_secs(world.rng.random_range(0..100));
            world.run_for(rest);
        }
        world.heal();
        let members = [0, 1, 2, 3, 4];
        let id = world.nodes[out].id;
        let is_over = |world: &World| {
            let all = below(world, 0, "d");
            let each = members.iter().all(|n| {
                let own = (format!("d/{n}"), world.nodes[*n].id);
                all.contains(&own)
            });
            each && all.iter().all(|(_, author)| *author != id) && are_one(world, &members)
        };
        let over = world.run_until(240 * SECOND, is_over);
        assert!(
            over.is_some(),
            "what each has is listed again, and nothing of who was put out"
        );
        world.run_for(BOUND);
        assert!(is_over(&world));
        assert_shut_out(&mut world, out, &members.into());
    });
}
