//! What a plan promises, shown in virtual time.

mod chaos;
mod links;
mod mute;
mod record;
mod swarm;
mod trouble;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::digest::ContentHash;

use super::simulation::{PATIENCE, Reader, SimPeer, World, file_named};
use super::*;

const MIB: u64 = 1 << 20;
const LAN: f64 = 100e6;

fn rate_of(world: &World, bytes: u64) -> f64 {
    bytes as f64 / (world.now - world.start).as_secs_f64()
}

fn page(number: u64) -> ByteRange {
    ByteRange::at(number * PAGE_BYTES, PAGE_BYTES)
}

#[test]
fn a_sequential_reader_keeps_a_far_fast_peer_busy() {
    let mut world = World::new(1);
    let peer = world.peer(1, SimPeer::new(20, LAN));
    let content = world.file(1, 256 * MIB, &[peer]);
    world.read(Reader::sequential(content, 256 * MIB));
    world.run(Duration::from_secs(60));
    assert!(world.readers[0].errors.is_empty());
    let rate = rate_of(&world, 256 * MIB);
    assert!(rate >= 0.85 * LAN, "{rate:.0} bytes a second");
    assert!(world.requested_bytes() <= 257 * MIB);
}

#[test]
fn closing_what_is_idle_leaves_what_a_reader_waits_for() {
    let mut world = World::new(1);
    let peer = world.peer(1, SimPeer::new(20, LAN));
    let read = world.file(1, MIB, &[peer]);
    world.read(Reader::sequential(read, MIB));
    world.run(Duration::from_secs(5));
    assert!(world.plan.is_open(&read));
    let waited_for = world.file(2, 64 * MIB, &[peer]);
    world.plan.fill(world.now, waited_for, PATIENCE);
    world.plan.close_idle();
    assert!(!world.plan.is_open(&read) && world.plan.is_open(&waited_for));
}

#[test]
fn where_the_cache_is_full_files_that_nobody_reads_are_let_go_of() {
    let mut world = World::new(1);
    let peer = world.peer(1, SimPeer::new(1, LAN));
    let [old, new] = [1, 2].map(|number| world.file(number, MIB, &[peer]));
    world.plan.shed_idle(world.now, &new);
    assert!(world.plan.is_open(&old), "it was used a moment ago");
    let later = world.now + Duration::from_secs(1);
    world.plan.shed_idle(later, &new);
    assert!(!world.plan.is_open(&old) && world.plan.is_open(&new));
}

#[test]
fn a_fill_keeps_a_far_fast_peer_busy() {
    let mut world = World::new(1);
    let peer = world.peer(1, SimPeer::new(20, LAN));
    let content = world.file(1, 256 * MIB, &[peer]);
    world.plan.fill(world.now, content, PATIENCE);
    world.run(Duration::from_secs(60));
    assert!(world.events.contains(&PlanEvent::Filled(content)));
    let rate = rate_of(&world, 256 * MIB);
    assert!(rate >= 0.85 * LAN, "{rate:.0} bytes a second");
    assert_eq!(world.requested_bytes(), 256 * MIB);
}

#[test]
fn four_holders_give_nearly_the_sum_of_their_links() {
    for sequential in [false, true] {
        let mut world = World::new(3);
        let peers: Vec<_> = (1..=4)
            .map(|i| world.peer(i, SimPeer::new(2, 25e6)))
            .collect();
        let content = world.file(1, 512 * MIB, &peers);
        match sequential {
            true => drop(world.read(Reader::sequential(content, 512 * MIB))),
            false => world.plan.fill(world.now, content, PATIENCE),
        }
        world.run(Duration::from_secs(60));
        let rate = rate_of(&world, 512 * MIB);
        assert!(
            rate >= 90e6,
            "{rate:.0} bytes a second, sequential: {sequential}"
        );
    }
}

#[test]
fn random_pages_ask_for_hardly_more_than_themselves() {
    let mut world = World::new(4);
    let peer = world.peer(1, SimPeer::new(1, LAN));
    let content = world.file(1, 256 * MIB, &[peer]);
    let mut rng = StdRng::seed_from_u64(4);
    let reads = (0..5000)
        .map(|_| page(rng.random_range(0..65536)))
        .collect();
    world.read(Reader::new(content, reads));
    world.run(Duration::from_secs(60));
    assert!(world.requested_bytes() <= 5000 * PAGE_BYTES * 11 / 10);
    assert!(
        world
            .requests
            .iter()
            .filter(|r| r.lane == Lane::Urgent)
            .count()
            > 4000
    );
}

#[test]
fn many_readers_of_one_range_share_one_request() {
    let mut world = World::new(5);
    let peer = world.peer(1, SimPeer::new(20, LAN));
    let content = world.file(1, MIB, &[peer]);
    for _ in 0..64 {
        world.read(Reader::new(content, vec![ByteRange::at(262144, 131072)]));
    }
    world.run(Duration::from_secs(5));
    assert!(
        world
            .readers
            .iter()
            .all(|r| r.errors.is_empty() && r.done_at.is_some())
    );
    assert_eq!(world.requested_bytes(), 131072);
}

#[test]
fn holders_of_parts_together_give_the_whole() {
    let mut world = World::new(10);
    let size = 64 * MIB;
    for (number, offset) in [(1u8, 0), (2, 1), (3, 2)] {
        let runs = (0..size / MIB).filter(|i| i % 3 == offset);
        let ranges: ExtentSet = runs.map(|i| ByteRange::at(i * MIB, MIB)).collect();
        world.peer(
            number,
            SimPeer {
                offers: Some(ranges),
                ..SimPeer::new(2, LAN)
            },
        );
    }
    let content = world.file(1, size, &[]);
    world.plan.fill(world.now, content, PATIENCE);
    world.run(Duration::from_secs(60));
    assert!(
        world.events.contains(&PlanEvent::Filled(content)),
        "{:?}",
        world.events
    );
    assert!(world.peers.values().all(|p| p.served_bytes >= 15 * MIB));
}

#[test]
fn two_readers_of_two_files_get_equal_shares_of_one_peer() {
    let mut world = World::new(11);
    let peer = world.peer(1, SimPeer::new(2, 25e6));
    let contents = [
        world.file(1, 256 * MIB, &[peer]),
        world.file(2, 256 * MIB, &[peer]),
    ];
    for content in contents {
        world.read(Reader::sequential(content, 256 * MIB));
    }
    world.run(Duration::from_secs(6));
    let [a, b] = [0, 1].map(|i| world.readers[i].bytes_read() as f64);
    assert!(a / b > 0.7 && a / b < 1.4, "{a} against {b}");
}

#[test]
fn a_demand_does_not_wait_behind_bulk() {
    let mut world = World::new(12);
    let peer = world.peer(1, SimPeer::new(1, 25e6));
    let big = world.file(1, 256 * MIB, &[peer]);
    let small = world.file(2, MIB, &[peer]);
    world.plan.fill(world.now, big, PATIENCE);
    world.read(Reader::new(file_named(9, 0), vec![]));
    world.readers.clear();
    world.run(Duration::from_secs(1));
    world.read(Reader::new(small, vec![page(1), page(77), page(130)]));
    world.run(Duration::from_secs(1));
    assert!(world.readers[0].longest_wait < Duration::from_millis(20));
}

#[test]
fn nothing_more_is_asked_for_a_reader_that_has_gone() {
    let mut world = World::new(15);
    let peer = world.peer(1, SimPeer::new(20, 1e6));
    let content = world.file(1, 64 * MIB, &[peer]);
    for i in 0..4 {
        world
            .plan
            .read_ahead(world.now, &content, ByteRange::at(i * 131072, 131072));
    }
    let range = ByteRange::at(4 * 131072, 131072);
    let id = world
        .plan
        .demand(world.now, content, range, world.now + PATIENCE)
        .unwrap();
    world.plan.cancel(id);
    assert_eq!(world.plan.poll_request(world.now), None);
    assert_eq!(world.plan.poll_event(), Some(PlanEvent::Wanted(content)));
    assert_eq!(world.plan.poll_event(), None);
}

#[test]
fn an_unused_fetch_is_forgotten() {
    let mut world = World::new(16);
    let peer = world.peer(1, SimPeer::new(1, LAN));
    let content = world.file(1, MIB, &[peer]);
    world.read(Reader::sequential(content, MIB));
    world.run(Duration::from_secs(5));
    world.readers.clear();
    world.run(Duration::from_secs(70));
    assert!(world.events.contains(&PlanEvent::Closed(content)));
    assert!(!world.plan.is_open(&content) && world.plan.timers.is_empty());
}

#[test]
fn the_numbers_of_fetches_and_waits_are_bounded() {
    let mut world = World::new(17);
    let content = world.file(1, 1 << 40, &[]);
    for i in 0..DEMANDS_MAX as u64 {
        let at = page(i * 64);
        world
            .plan
            .demand(world.now, content, at, world.now + PATIENCE)
            .unwrap();
    }
    let one_more = world
        .plan
        .demand(world.now, content, page(1), world.now + PATIENCE);
    assert_eq!(one_more, Err(PlanError::TooMany));
    for i in 0..2 * FETCHES_MAX {
        let name = ContentKey::new(ContentHash::of(&i.to_le_bytes()), 1);
        world.plan.open(world.now, name, ExtentSet::new()).unwrap();
    }
    assert_eq!(world.plan.fetches.len(), FETCHES_MAX);
    assert!(
        world.plan.is_open(&content),
        "a file that readers wait for stays"
    );
}

#[test]
fn bytes_that_the_cache_lost_are_asked_again() {
    let mut world = World::new(18);
    let peer = world.peer(1, SimPeer::new(1, LAN));
    let content = world.file(1, MIB, &[peer]);
    world.read(Reader::new(content, vec![page(5)]));
    world.run(Duration::from_secs(1));
    world.plan.lost(&content, page(5));
    world.read(Reader::new(content, vec![page(5)]));
    world.run(Duration::from_secs(1));
    assert_eq!(world.requests.len(), 2);
    assert!(world.readers[1].done_at.is_some());
}

#[test]
fn five_hundred_readers_at_once_all_get_on_within_the_memory_limit() {
    let mut world = World::new(20);
    let peers: Vec<_> = (1..=8)
        .map(|i| world.peer(i, SimPeer::new(2, LAN)))
        .collect();
    for number in 0..250u8 {
        let content = world.file(number, 2 * MIB, &peers);
        world.read(Reader::sequential(content, 2 * MIB));
        world.read(Reader::sequential(content, 2 * MIB));
    }
    world.run(Duration::from_secs(60));
    assert!(
        world
            .readers
            .iter()
            .all(|r| r.errors.is_empty() && r.done_at.is_some())
    );
    assert!(world.requested_bytes() <= 250 * 2 * MIB * 11 / 10);
}

#[test]
fn what_is_fetched_ahead_of_very_many_readers_together_is_bounded() {
    let mut world = World::new(23);
    let peer = world.peer(1, SimPeer::new(1, LAN));
    let contents: Vec<_> = (0..200)
        .map(|number| world.file(number, 64 * MIB, &[peer]))
        .collect();
    for step in 0..100 {
        for content in &contents {
            let range = ByteRange::at(step * 131072, 131072);
            world.plan.read_ahead(world.now, content, range);
        }
    }
    let ahead = |world: &World| -> u64 {
        let limit = world.plan.ahead_limit_bytes();
        let fetches = contents.iter().map(|content| &world.plan.fetches[content]);
        let ranges = fetches.flat_map(|fetch| fetch.streams.ahead(limit));
        ranges.map(|range| range.len()).sum()
    };
    let all = ahead(&world);
    assert!(all <= super::AHEAD_OF_ALL_MAX_BYTES, "{all}");
    assert!(all >= super::AHEAD_OF_ALL_MAX_BYTES / 2, "{all}");
    // a smaller bound holds for what was to be fetched before it, too
    world.plan.limit_read_ahead(Some(16 * MIB));
    assert!(ahead(&world) <= 16 * MIB);
    // who goes leaves its part to the others
    world.plan.limit_read_ahead(None);
    for content in &contents[1..] {
        world.plan.forget(content);
    }
    assert_eq!(world.plan.ahead_limit_bytes(), super::AHEAD_MAX_BYTES);
}

#[test]
fn without_room_in_the_cache_read_ahead_is_bounded_for_all_readers_together() {
    let mut world = World::new(22);
    let peer = world.peer(1, SimPeer::new(1, LAN));
    let content = world.file(1, 1 << 30, &[peer]);
    world.plan.limit_read_ahead(Some(4 * MIB));
    for step in 0..200 {
        for reader in 0..4 {
            let range = ByteRange::at(reader * (200 * MIB) + step * 131072, 131072);
            world.plan.read_ahead(world.now, &content, range);
        }
    }
    let ahead = world.plan.fetches[&content].streams.ahead(MIB);
    assert!(ahead.iter().map(ByteRange::len).sum::<u64>() <= 4 * MIB);
    assert_eq!(ahead.len(), 4);
}

#[test]
fn on_a_metered_network_nothing_is_fetched_but_what_is_read_or_wanted_whole() {
    let mut world = World::new(1);
    let peer = world.peer(1, SimPeer::new(5, LAN));
    let content = world.file(1, 64 * MIB, &[peer]);
    world.read(Reader::sequential(content, 4 * MIB));
    world.run(Duration::from_secs(60));
    let before = world.requested_bytes();
    assert!(before > 6 * MIB, "a reader is kept ahead of: {before}");
    world.plan.set_metered(true);
    let read = world.file(2, 64 * MIB, &[peer]);
    world.read(Reader::sequential(read, 8 * MIB));
    let whole = world.file(3, 16 * MIB, &[peer]);
    world.plan.fill(world.now, whole, PATIENCE);
    world.run(Duration::from_secs(60));
    assert!(
        world
            .readers
            .iter()
            .all(|it| it.errors.is_empty() && it.done_at.is_some())
    );
    assert!(world.events.contains(&PlanEvent::Filled(whole)));
    assert_eq!(world.requested_bytes(), before + 8 * MIB + 16 * MIB);
    world.plan.set_metered(false);
    let again = world.file(4, 64 * MIB, &[peer]);
    world.read(Reader::sequential(again, 4 * MIB));
    world.run(Duration::from_secs(60));
    assert!(world.requested_bytes() > before + 24 * MIB + 6 * MIB);
}

#[test]
fn a_network_that_becomes_metered_ends_what_is_fetched_ahead_of_a_reader() {
    let mut world = World::new(2);
    let peer = world.peer(1, SimPeer::new(5, 1e6));
    let content = world.file(1, 64 * MIB, &[peer]);
    world.read(Reader::sequential(content, 64 * MIB));
    world.run(Duration::from_secs(5));
    let asked = world.requested_bytes();
    world.plan.set_metered(true);
    let read_before = world.readers[0].bytes_read();
    world.run(Duration::from_secs(20));
    let read = world.readers[0].bytes_read();
    assert!(read > read_before, "it reads on");
    // what was asked before, and one read that waits
    assert!(world.requested_bytes() <= asked.max(read + 128 * 1024));
}
