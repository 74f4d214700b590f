//! Cost of files in the cache, queried before they arrive.

use std::time::{Duration, Instant};

use super::*;
use crate::index::ReserveDecision;
use crate::{Lack, cost_bytes};

#[test]
fn the_cost_of_a_file_is_known_before_it_arrives() {
    let sizes = [0, 1, 4096, 4097, 20_000, 65_536, 65_537, 300_000, 3 << 20];
    for (seed, size) in (0..).zip(sizes) {
        let place = Place::new(64 << 20);
        let (cache, _events) = place.open();
        fill(&cache, &Source::new(seed, size));
        assert_eq!(cache.usage().used_bytes, cost_bytes(size as u64), "{size}");
    }
}

#[test]
fn a_budget_of_exactly_its_cost_keeps_a_file_whole_and_a_smaller_one_does_not() {
    let source = Source::new(1, 300_000);
    let cost_bytes = cost_bytes(source.size());
    for (budget_bytes, wanted) in [(cost_bytes, true), (cost_bytes - 1, false)] {
        let place = Place::new(budget_bytes);
        let (cache, _events) = place.open();
        let room = Room::for_pins(&cache);
        let to_come_bytes = cache.bytes_to_come(&source.hash(), source.size());
        assert_eq!(room.lack(to_come_bytes).is_none(), wanted);
        fill(&cache, &source);
        assert_eq!(cache.is_complete(&source.hash()), wanted);
    }
}

#[test]
fn a_pinned_file_counts_whole_as_soon_as_it_is_begun() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let pinned = Source::new(1, 600_000);
    pin(&cache, pinned.hash(), true).unwrap();
    assert!(cache.size_bytes(&pinned.hash()).is_none());
    let file = open_file(&cache, &pinned);
    pinned.store(&file, ByteRange::new(0, 65_536));
    let free_bytes = (1 << 20) - cost_bytes(pinned.size());
    for room in [Room::for_files(&cache), Room::for_pins(&cache)] {
        assert_eq!(room.lack(free_bytes), None);
        let lack = room.lack(free_bytes + 1);
        assert!(matches!(lack, Some(Lack::Budget { .. })), "{lack:?}");
    }
    // Bytes that the file already takes are not counted again.
    let to_come_bytes = cache.bytes_to_come(&pinned.hash(), pinned.size());
    assert!(
        to_come_bytes < cost_bytes(pinned.size())
            && Room::for_reservation(&cache).holds(to_come_bytes)
    );
}

#[test]
fn an_open_file_counts_by_the_space_it_takes() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let (open, passing) = (Source::new(1, 600_000), Source::new(2, 300_000));
    fill(&cache, &passing);
    let file = open_file(&cache, &open);
    open.store(&file, ByteRange::new(0, 65_536));
    let taken_bytes = cost_bytes(open.size()) - cache.bytes_to_come(&open.hash(), open.size());
    assert!((65_536..100_000).contains(&taken_bytes), "{taken_bytes}");
    let room = Room::for_files(&cache);
    assert_eq!(room.lack((1 << 20) - taken_bytes), None);
    assert!(room.lack((1 << 20) - taken_bytes + 1).is_some());
    // An evictable file counts as absent.
    let to_come_bytes = cache.bytes_to_come(&passing.hash(), passing.size());
    assert_eq!(to_come_bytes, cost_bytes(passing.size()));
}

#[test]
fn the_floor_evicts_no_further_files_when_the_disk_reports_free_room_late() {
    const FLOOR_BYTES: u64 = 1 << 20;
    let place = Place {
        floor_bytes: FLOOR_BYTES,
        ..Place::new(64 << 20)
    };
    let faults = Arc::new(Faults::none());
    let (cache, events) = place.try_open(Some(faults.clone())).unwrap();
    for seed in 0..10 {
        fill(&cache, &Source::new(seed, 200_000));
    }
    faults.set_free_bytes(FLOOR_BYTES - 4096);
    cache.core().index.lock().forget_measure();
    assert_eq!(fill(&cache, &Source::new(10, 100_000)), Stored::Kept);
    let is_eviction = |event: &CacheEvent| matches!(event, CacheEvent::Evicted { .. });
    assert_eq!(events.try_iter().filter(is_eviction).count(), 1);
    // Space that is still not free after that was taken by other programs.
    let mut index = cache.core().index.lock();
    let later = Instant::now() + Duration::from_secs(61);
    index.measured(FLOOR_BYTES - 4096, later);
    let ReserveDecision::Evict(victim) = index.reserve(4096, later) else {
        panic!("the floor is not kept");
    };
    index.spared(victim);
}
