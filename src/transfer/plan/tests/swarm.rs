//! One to many: how often a file leaves those that have it, and how long it takes all.

use std::time::Duration;

use super::MIB;
use crate::transfer::plan::simulation::many::Many;

/// 50 Mbit/s, as bytes.
const RATE: f64 = 6.25e6;
const SIZE: u64 = 32 * MIB;

fn seconds(bytes: u64, rate: f64) -> f64 {
    bytes as f64 / rate
}

/// All done, by when, and how often the file left its only seed.
fn run(world: &mut Many, what: &str) -> (f64, f64) {
    world.run(Duration::from_secs(600));
    for (id, member) in &world.members {
        assert!(
            member.errors.is_empty(),
            "{what}: {id}: {:?}",
            member.errors
        );
    }
    let through = world.members.values().filter(|member| !member.is_dead);
    let ends = through.map(|member| member.done_after.expect(what).as_secs_f64());
    let last = ends.fold(0.0, f64::max);
    let copies = world.copies_from(&world.seeds[0].clone());
    println!("{what}: {last:.2} s, {copies:.2} copies");
    (last, copies)
}

#[test]
fn many_readers_of_one_file_take_little_longer_than_one() {
    for (readers, fills) in [(2u8, false), (2, true), (8, false)] {
        let mut world = Many::new(1, SIZE, RATE);
        for number in 0..readers {
            world.join(number, RATE, Duration::ZERO, fills);
        }
        let what = format!("{readers} readers, fills: {fills}");
        let (took, copies) = run(&mut world, &what);
        let least = seconds(SIZE, RATE);
        assert!(took <= least * 1.5, "{what}: {took} s for {least} s");
        assert!(copies <= 1.3, "{what}: {copies} copies");
        let moved: f64 = world.links.moved_bytes.values().sum();
        let most = f64::from(readers) * SIZE as f64 * 1.2;
        assert!(moved <= most, "{what}: {moved} moved");
    }
}

#[test]
fn the_first_bytes_come_at_once_to_each_of_many_readers() {
    let mut world = Many::new(1, SIZE, RATE);
    for number in 0..8 {
        world.join(number, RATE, Duration::ZERO, false);
    }
    run(&mut world, "first bytes");
    for member in world.members.values() {
        let first = member.first_bytes_after.unwrap();
        // eight times 128 KiB over the link of the seed
        assert!(first <= Duration::from_millis(250), "{first:?}");
        assert!(
            member.longest_wait <= Duration::from_millis(1500),
            "{:?}",
            member.longest_wait
        );
    }
}

#[test]
fn readers_that_come_later_take_little_longer_than_one_and_cost_the_seed_little() {
    let mut world = Many::new(1, SIZE, RATE);
    for number in 0..8u8 {
        let begins = Duration::from_millis(u64::from(number) * 650);
        world.join(number, RATE, begins, false);
    }
    let (took, copies) = run(&mut world, "0 to 5 s late");
    assert!(took <= seconds(SIZE, RATE) * 2.0, "{took}");
    assert!(copies <= 2.0, "{copies}");
}

#[test]
fn readers_that_end_in_the_middle_hold_nobody_up_for_long() {
    let mut world = Many::new(1, SIZE, RATE);
    for number in 0..8u8 {
        world.join(number, RATE, Duration::ZERO, number % 2 == 0);
    }
    for number in [1, 2, 5] {
        world.kill(
            number,
            Duration::from_millis(2000 + u64::from(number) * 700),
        );
    }
    let (took, copies) = run(&mut world, "three of eight end");
    assert!(took <= seconds(SIZE, RATE) * 2.1, "{took}");
    assert!(copies <= 2.0, "{copies}");
}

#[test]
fn a_narrow_member_holds_nobody_else_up() {
    let mut world = Many::new(1, SIZE, RATE);
    for number in 0..6u8 {
        world.join(number, RATE, Duration::ZERO, false);
    }
    world.join(6, 125e3, Duration::ZERO, false);
    world.run(Duration::from_secs(600));
    let least = seconds(SIZE, RATE);
    let ends = world.members.values().map(|m| m.done_after.unwrap());
    println!("a narrow one: {:?}", ends.collect::<Vec<_>>());
    let slow = crate::transfer::plan::simulation::node(6);
    for (id, member) in &world.members {
        let took = member.done_after.unwrap().as_secs_f64();
        assert!(member.errors.is_empty());
        assert!(*id == slow || took <= least * 1.9, "{took} s for {least} s");
    }
}

#[test]
fn where_as_many_have_a_file_as_want_it_all_of_them_are_asked() {
    let mut world = Many::new(4, SIZE, RATE);
    for number in 0..2 {
        world.join(number, RATE * 4.0, Duration::ZERO, true);
    }
    let (took, _) = run(&mut world, "two of four");
    assert!(took <= seconds(SIZE, RATE * 2.0) * 1.3, "{took}");
}
