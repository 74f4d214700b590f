//! Promises about a log that a node takes in over many turns.

use std::time::Duration;

use rand::RngExt;

use crate::nodes::namespace::furnished;
use crate::nodes::network::Weather;
use crate::nodes::world::{Death, World, path};
use crate::support::seeds::each_seed;

const SECOND: Duration = Duration::from_secs(1);
/// Number of files. With the directories above them they take three turns.
const FILES: usize = 75;
/// The author of the log, an uninvolved node, and a node that takes the log in slowly.
const AUTHOR: usize = 0;
const OTHER: usize = 1;
const SLOW: usize = 2;

fn name_of(file: usize) -> String {
    format!("{file}{}/f", "/d".repeat(250))
}

fn put_all(world: &mut World) {
    for file in 0..FILES {
        let hash = world.content(10);
        world.put(AUTHOR, &name_of(file), hash);
    }
}

/// Returns how many of the files a node lists.
fn listed(world: &World, index: usize) -> usize {
    let view = &world.running(index).view;
    let is_listed = |file: &usize| view.lookup(&path(&name_of(*file))).is_some();
    (0..FILES).filter(is_listed).count()
}

/// Returns whether all nodes see each other, list all files, and have the same number of names.
fn is_one(world: &World) -> bool {
    let nodes = [AUTHOR, OTHER, SLOW];
    let totals = nodes.map(|index| world.running(index).view.totals().entries);
    let is_whole = |index| listed(world, index) == FILES;
    world.is_met() && totals.iter().all(|it| *it == totals[0]) && nodes.into_iter().all(is_whole)
}

/// Disturbs the intake of the log. Returns whether its author is gone.
fn disturb(world: &mut World, seed: u64) -> bool {
    match seed % 5 {
        0 => return false,
        // More of this log arrives, and some of another.
        1 => {
            let hash = world.content(20);
            world.put(AUTHOR, &name_of(FILES), hash);
            world.remove(AUTHOR, &name_of(FILES));
            world.put(OTHER, "meanwhile", hash);
            return false;
        }
        2 => {
            world.crash(SLOW, Death::Power);
            world.boot(SLOW);
            return false;
        }
        3 => world.crash(AUTHOR, Death::Power),
        _ => {
            world.crash(AUTHOR, Death::Power);
            world.lose_state(AUTHOR);
        }
    }
    let rest = Duration::from_millis(world.rng.random_range(0..20_000));
    world.run_for(rest);
    world.boot(AUTHOR);
    true
}

#[test]
fn a_long_log_is_listed_whole_or_not_at_all_in_any_circumstances() {
    each_seed(5, |seed| {
        let mut world = furnished(3, seed, Weather::calm());
        world.nodes[SLOW].pace = Some(Duration::from_millis(world.rng.random_range(20..300)));
        put_all(&mut world);
        let is_taking_in = |world: &World| {
            world
                .running(SLOW)
                .machine
                .known()
                .intake_queue()
                .is_taking_in()
        };
        assert!(world.run_until(10 * SECOND, is_taking_in).is_some());
        assert_eq!(listed(&world, SLOW), 0);
        let has_gone = disturb(&mut world, seed);
        let is_there = |world: &World| {
            let count = listed(world, SLOW);
            assert!(
                has_gone || count == 0 || count == FILES,
                "{count} are listed"
            );
            count == FILES
        };
        assert!(world.run_until(60 * SECOND, is_there).is_some());
        assert!(world.run_until(60 * SECOND, is_one).is_some());
    });
}
