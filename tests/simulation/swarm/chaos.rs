//! Swarms of many sizes with random faults, each from its seed.

use std::cell::Cell;
use std::time::Duration;

use p2pfs_fetch::plan::IN_FLIGHT_MAX_BYTES;
use p2pfs_types::digest::ContentKey;
use rand::RngExt;

use crate::support::seeds::each_seed;
use crate::swarm::node::Manner;
use crate::swarm::world::{Deed, World, node_id};

const MIB: u64 = 1 << 20;
/// Time after which no new fault begins, in milliseconds.
const TROUBLE: u64 = 4_000;
/// Maximum bytes received for whole fetches, as a multiple of their size, while nodes die, fall
/// silent and pause in the middle of answers. Measured: 1.023, and 1.043 with twice as many
/// schedules.
const WHOLE_MULTIPLE_MAX: f64 = 1.1;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Returns the maximum rate of one connection in bytes a second, on a path with this round trip
/// that loses one packet in `one_in` (Mathis and others, 1997), with packets of 1460 bytes.
fn carried_with_loss(round_trip: Duration, one_in: f64) -> f64 {
    1460.0 * 1.22 * one_in.sqrt() / round_trip.as_secs_f64().max(1e-6)
}

/// Creates a swarm around one file, with one honest holder that stays alive. The first nodes have
/// the file, the others want it.
fn swarm(seed: u64) -> World {
    let mut world = World::new(seed);
    let most = [3, 5, 9, 17, 33, 65][seed as usize % 6];
    let count = world.rng.random_range(most / 2 + 1..most);
    let seeds = world.rng.random_range(1..count.min(5));
    let rate = 10f64.powf(world.rng.random_range(5.7..8.0));
    let size = world
        .rng
        .random_range(1..(48 / count as u64).clamp(2, 12) * MIB);
    for _ in 0..count {
        let delay = ms(world.rng.random_range(0..60));
        // Some links are slower than others, and some caches are smaller than the file.
        let own = rate / [1.0, 1.0, 1.0, 4.0][world.rng.random_range(0..4)];
        let budget = [size * 2, size * 2, size * 2, size / 3][world.rng.random_range(0..4)];
        let node = world.add(delay, own, budget);
        if world.rng.random_bool(0.1) {
            let each = carried_with_loss(delay.max(ms(2)), world.rng.random_range(50.0..5000.0));
            world.links.each.insert(node, each);
        }
    }
    let holders: Vec<usize> = (0..seeds).collect();
    let content = world.file(seed, size, &holders);
    // The first holder stays honest and alive.
    (1..count).for_each(|node| trouble(&mut world, node));
    (seeds..count).for_each(|node| want(&mut world, node, content));
    world
}

fn trouble(world: &mut World, node: usize) {
    let when = ms(world.rng.random_range(0..TROUBLE));
    match world.rng.random_range(0..12) {
        0 => world.nodes[node].manner = Manner::Liar,
        1 => world.nodes[node].manner = Manner::Mute,
        2 => world.later(when, node, Deed::Dies),
        3 => world.later(when, node, Deed::GoesOff),
        4 => {
            let deed = [Deed::Dies, Deed::GoesOff][world.rng.random_range(0..2)].clone();
            world.later(when, node, deed);
            let back = when + ms(world.rng.random_range(100..5000));
            world.later(back, node, Deed::Boots);
        }
        5 => {
            let pause = ms(world.rng.random_range(100..4000));
            world.later(when, node, Deed::Pauses(pause));
        }
        _ => {}
    }
}

fn want(world: &mut World, node: usize, content: ContentKey) {
    let when = ms(world.rng.random_range(0..TROUBLE / 2));
    match world.rng.random_range(0..8) {
        0 | 1 if world.nodes[node].disk.budget_bytes > content.size_bytes => {
            world.later(when, node, Deed::Fills(content));
        }
        2 => {
            let pages = content.size_bytes.div_ceil(4096);
            let parts = (0..60).map(|_| {
                let start = world.rng.random_range(0..pages) * 4096;
                (start, (start + 4096).min(content.size_bytes))
            });
            let parts = parts.collect();
            world.later(when, node, Deed::ReadsParts(content, parts));
        }
        3 => {
            world.later(when, node, Deed::Reads(content));
            let gone = when + ms(world.rng.random_range(0..1000));
            world.later(gone, node, Deed::Cancels);
            world.later(gone + ms(1), node, Deed::Reads(content));
        }
        _ => world.later(when, node, Deed::Reads(content)),
    }
}

/// Returns the bytes received by nodes that fetched the file once and whole, and the bytes that
/// they wanted. All bytes count, including those of cut, repeated or cancelled answers. Some nodes
/// are left out, because they need another sum: nodes that restarted, that have readers which gave
/// up or read parts, that have a cache smaller than the file, or that got an answer from a liar.
fn fetched_whole(world: &World) -> (u64, u64) {
    let mut sums = (0, 0);
    for node in &world.nodes {
        let read = node.readers.iter().map(|it| (it.content, it.is_whole()));
        let wishes: Vec<_> = read
            .chain(node.fills.iter().map(|it| (it.content, true)))
            .collect();
        let [(content, true)] = wishes[..] else {
            continue;
        };
        let holds_it = node.disk.budget_bytes >= content.size_bytes;
        if node.session.is_some() && node.life == 1 && holds_it && node.lies.is_empty() {
            sums.0 += node.received_bytes;
            sums.1 += content.size_bytes;
        }
    }
    sums
}

#[test]
fn in_any_swarm_with_an_honest_holder_every_fetch_gets_the_right_bytes() {
    let (came, wanted) = (Cell::new(0), Cell::new(0));
    each_seed(30, |seed| {
        let mut world = swarm(seed);
        world.run(Duration::from_secs(3600));
        let of_one = fetched_whole(&world);
        came.set(came.get() + of_one.0);
        wanted.set(wanted.get() + of_one.1);
        for (index, node) in world
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| n.session.is_some())
        {
            for reader in &node.readers {
                assert!(
                    reader.errors.is_empty(),
                    "node {index}: {:?}",
                    reader.errors
                );
                let is_over = reader.is_gone || reader.done_at.is_some();
                assert!(is_over, "node {index}: a reader waits for ever");
            }
            for fill in &node.fills {
                let outcome = fill.outcome.as_ref().map(|(_, outcome)| outcome);
                assert_eq!(outcome, Some(&Ok(())), "node {index}");
            }
            for (liar, lies) in &node.lies {
                let named = node.shunned.contains(liar);
                assert!(named, "node {index} trusts a liar");
                // These answers were in flight at the same time.
                assert!(
                    *lies <= 3,
                    "node {index} took {lies} wrong answers of one liar"
                );
            }
            let honest = |index: usize| world.nodes[index].manner != Manner::Liar;
            let named = (0..world.nodes.len())
                .filter(|other| honest(*other))
                .map(node_id);
            assert!(named.into_iter().all(|id| !node.shunned.contains(&id)));
            assert!(node.cost.most_in_flight_bytes <= IN_FLIGHT_MAX_BYTES);
            assert!(
                node.cost.most_steps <= 8000,
                "{} steps",
                node.cost.most_steps
            );
        }
    });
    let multiple = came.get() as f64 / wanted.get() as f64;
    println!("{multiple:.3} times what was wanted came to whole fetches");
    // Fewer schedules cannot test the rule.
    let asked = ["P2PFS_SEED", "P2PFS_SEEDS"].map(std::env::var_os);
    if asked.iter().all(Option::is_none) {
        assert!(
            multiple <= WHOLE_MULTIPLE_MAX,
            "{multiple:.3} times what was wanted came"
        );
    }
}

#[test]
fn one_seed_reproduces_one_swarm_run() {
    let trace = |seed| {
        let mut world = swarm(seed);
        world.run(Duration::from_secs(3600));
        let received: Vec<_> = world.nodes.iter().map(|node| node.received_bytes).collect();
        (received, world.now - world.start)
    };
    for seed in [3, 8] {
        assert_eq!(trace(seed), trace(seed));
    }
}
