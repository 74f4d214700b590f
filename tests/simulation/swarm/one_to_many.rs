//! One holder, many readers: how many copies leave the holders, and how long all readers take.

use std::time::Duration;

use p2pfs_types::digest::ContentKey;

use crate::support::seeds::each_seed;
use crate::swarm::node::Node;
use crate::swarm::world::{Deed, World};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 32 * MIB;
/// 50 Mbit/s in bytes a second, for every link in each direction.
const RATE: f64 = 6.25e6;
const AMPLE: u64 = 1 << 30;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Returns the time that one link needs for the file, in seconds.
fn least(rate: f64) -> f64 {
    SIZE as f64 / rate
}

/// Returns idle nodes that have one file.
fn world_of(holders: usize) -> (World, ContentKey) {
    world_from(1, holders)
}

fn world_from(seed: u64, holders: usize) -> (World, ContentKey) {
    let mut world = World::new(seed);
    let holders: Vec<_> = (0..holders).map(|_| world.add(ms(2), RATE, 0)).collect();
    let content = world.file(1, SIZE, &holders);
    (world, content)
}

/// Adds a node that does `deed` from `begins` on.
fn join(world: &mut World, rate: f64, begins: Duration, deed: Deed) -> usize {
    let node = world.add(ms(2), rate, AMPLE);
    world.later(begins, node, deed);
    node
}

/// Returns how long a node took, in seconds from its start. Asserts that it finished without an
/// error.
fn took(world: &World, node: &Node, begins: Duration) -> f64 {
    let reader = node.readers.iter().map(|reader| {
        assert!(reader.errors.is_empty(), "{:?}", reader.errors);
        reader.done_at
    });
    let fill = node.fills.iter().map(|fill| {
        let (at, outcome) = fill.outcome.as_ref()?;
        assert_eq!(*outcome, Ok(()));
        Some(*at)
    });
    let ended = reader.chain(fill).map(|at| at.expect("it is through"));
    let last = ended.max().expect("it wants the file");
    (last - world.start - begins).as_secs_f64()
}

/// Returns the longest time of a living node among those, and how many copies left the first
/// holder.
fn run(world: &mut World, begun: &[(usize, Duration)], what: &str) -> (f64, f64) {
    world.run(Duration::from_secs(600));
    let living = |(node, _): &&(usize, Duration)| world.nodes[*node].session.is_some();
    let through = begun.iter().filter(living);
    let each = through.map(|(node, begins)| took(world, &world.nodes[*node], *begins));
    let last = each.fold(0.0, f64::max);
    let copies = world.links.moved_bytes[&0] / SIZE as f64;
    println!("{what}: {last:.2} s, {copies:.2} copies");
    (last, copies)
}

/// Adds `count` nodes that begin at once.
fn crowd(world: &mut World, count: usize, deed: &Deed) -> Vec<(usize, Duration)> {
    let mut one = || join(world, RATE, Duration::ZERO, deed.clone());
    (0..count).map(|_| (one(), Duration::ZERO)).collect()
}

#[test]
fn many_readers_of_one_file_take_little_longer_than_one() {
    let ways = [Deed::Reads, Deed::Copies, Deed::Fills];
    for (readers, way) in [(2, 0), (2, 1), (2, 2), (8, 0), (8, 1)] {
        let (mut world, content) = world_of(1);
        let deed = ways[way](content);
        let begun = crowd(&mut world, readers, &deed);
        let what = format!("{readers} readers, {deed:?}");
        let (last, copies) = run(&mut world, &begun, &what);
        assert!(last <= least(RATE) * 1.5, "{what}: {last} s");
        assert!(copies <= 1.3, "{what}: {copies} copies");
        let moved: f64 = world.links.moved_bytes.values().sum();
        let most = readers as f64 * SIZE as f64 * 1.2;
        assert!(moved <= most, "{what}: {moved} moved");
    }
}

#[test]
fn the_first_bytes_reach_each_of_many_readers_at_once() {
    let (mut world, content) = world_of(1);
    let begun = crowd(&mut world, 8, &Deed::Reads(content));
    run(&mut world, &begun, "first bytes");
    for node in &world.nodes[1..] {
        let reader = &node.readers[0];
        let first = reader.first_at.expect("it read") - world.start;
        // Eight times 128 KiB pass over the holder's link first.
        assert!(first <= ms(250), "{first:?}");
        let longest = reader.longest_wait;
        assert!(longest <= ms(1500), "{longest:?}");
    }
}

#[test]
fn late_readers_take_little_longer_than_one_and_cost_the_holder_little() {
    let (mut world, content) = world_of(1);
    let begins = (0..8).map(|number| ms(number * 650));
    let begun: Vec<_> = begins
        .map(|begins| (join(&mut world, RATE, begins, Deed::Reads(content)), begins))
        .collect();
    let (last, copies) = run(&mut world, &begun, "0 to 5 s late");
    assert!(last <= least(RATE) * 2.0, "{last}");
    assert!(copies <= 2.0, "{copies}");
}

#[test]
fn readers_that_leave_midway_delay_no_other() {
    each_seed(10, |seed| {
        let (mut world, content) = world_from(seed, 1);
        let begun: Vec<_> = (0..8)
            .map(|number| match number % 2 {
                0 => Deed::Fills(content),
                _ => Deed::Reads(content),
            })
            .map(|deed| join(&mut world, RATE, Duration::ZERO, deed))
            .map(|node| (node, Duration::ZERO))
            .collect();
        for number in [1, 2, 5] {
            let when = ms(2000 + number as u64 * 700);
            world.later(when, begun[number].0, Deed::Dies);
        }
        let (last, copies) = run(&mut world, &begun, "three of eight end");
        assert!(last <= least(RATE) * 1.5, "{last}");
        assert!(copies <= 2.0, "{copies}");
    });
}

#[test]
fn a_narrow_member_delays_no_other() {
    let (mut world, content) = world_of(1);
    let begun = crowd(&mut world, 6, &Deed::Reads(content));
    let narrow = join(&mut world, 125e3, Duration::ZERO, Deed::Reads(content));
    let (last, _) = run(&mut world, &begun, "beside a narrow one");
    assert!(last <= least(RATE) * 1.9, "{last}");
    // It is slow without an error.
    took(&world, &world.nodes[narrow], Duration::ZERO);
}

#[test]
fn with_as_many_holders_as_readers_all_holders_are_asked() {
    let (mut world, content) = world_of(4);
    let mut one = || join(&mut world, RATE * 4.0, Duration::ZERO, Deed::Fills(content));
    let begun = [(one(), Duration::ZERO), (one(), Duration::ZERO)];
    let (last, _) = run(&mut world, &begun, "two of four");
    assert!(last <= least(RATE * 2.0) * 1.3, "{last}");
}
