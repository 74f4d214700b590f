//! Nodes that begin to fetch a file later than others.

use std::time::Duration;

use crate::swarm::world::{Deed, World};

const MIB: u64 = 1 << 20;
/// 12.5 Mbit/s, in bytes a second.
const RATE: f64 = 12.5e6 / 8.0;
const FILE_BYTES: u64 = 16 * MIB;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Runs eight nodes that begin to fetch a file within five seconds. Returns how many copies left
/// the holder.
fn copies(fills: bool) -> f64 {
    let mut world = World::new(8);
    let holder = world.add(ms(4), RATE, 0);
    let content = world.file(1, FILE_BYTES, &[holder]);
    for number in 0..8 {
        let node = world.add(ms(4), RATE, 1 << 30);
        let deed = if fills {
            Deed::Fills(content)
        } else {
            Deed::Reads(content)
        };
        world.later(ms(5000 * number / 7), node, deed);
    }
    world.run(Duration::from_secs(600));
    for node in &world.nodes[1..] {
        assert!(node.readers.iter().all(|reader| reader.errors.is_empty()));
        assert!(node.is_through());
    }
    let copies = world.links.moved_bytes[&holder] / FILE_BYTES as f64;
    let took = world.now - world.start;
    println!("fills: {fills}: {copies:.2} copies in {took:?}");
    copies
}

#[test]
fn a_late_reader_fetches_from_the_others() {
    // It would be 1.33 and 1.73 if each node requested its own parts from the holder, even those
    // that other nodes already have.
    assert!(copies(true) <= 1.3);
    assert!(copies(false) <= 1.5);
}

/// Returns the time of a node that begins to fetch a file eight seconds after a slow node, if there
/// is one. The slow node may have stopped by then with a part of the file.
fn took_beside(slow_one: bool, reads_on: bool) -> Duration {
    let mut world = World::new(1);
    let holder = world.add(ms(4), 8.0 * RATE, 0);
    let content = world.file(1, FILE_BYTES, &[holder]);
    if slow_one {
        let slow = world.add(ms(4), RATE / 2.0, 1 << 30);
        world.later(Duration::ZERO, slow, Deed::Reads(content));
        if !reads_on {
            world.later(ms(7000), slow, Deed::Cancels);
        }
    }
    let late = world.add(ms(4), 8.0 * RATE, 1 << 30);
    let from = Duration::from_secs(8);
    world.later(from, late, Deed::Reads(content));
    world.run(Duration::from_secs(600));
    let reader = &world.nodes[late].readers[0];
    assert!(reader.errors.is_empty());
    reader.done_at.expect("it is through") - world.start - from
}

#[test]
fn a_slow_partial_holder_slows_no_late_reader() {
    let alone = took_beside(false, false);
    let (ended, reading) = (took_beside(true, false), took_beside(true, true));
    println!("{alone:?} alone, beside a slow one {ended:?} when it has ended, else {reading:?}");
    assert!(ended <= alone * 3 / 2, "{ended:?} where {alone:?} alone");
    // These links give each reader half of the holder's rate, even if it cannot use that.
    assert!(
        reading <= alone * 5 / 2,
        "{reading:?} where {alone:?} alone"
    );
}
