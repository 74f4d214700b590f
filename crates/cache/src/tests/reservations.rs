//! Unverified bytes of foreign files beside those of the cache.

use super::*;

fn could_hold(cache: &Cache, bytes: u64) -> bool {
    Room::for_reservation(cache).holds(bytes)
}

#[test]
fn a_reservation_evicts_the_least_recently_used_files_and_returns_the_room() {
    let place = Place::new(400_000);
    let sources: Vec<_> = (0..2).map(|seed| Source::new(seed, 150_000)).collect();
    let (cache, _events) = place.open();
    sources.iter().for_each(|source| {
        fill(&cache, source);
    });
    let mut reserved = cache.reservation();
    assert!(could_hold(&cache, 200_000) && reserved.grow_to(1) && reserved.grow_to(200_000));
    assert!(cache.usage().used_bytes <= 400_000);
    assert!(!cache.is_complete(&sources[0].hash()));
    assert!(cache.is_complete(&sources[1].hash()));
    // A cached file does not evict the reservation.
    assert_eq!(fill(&cache, &sources[0]), Stored::Kept);
    assert!(!cache.is_complete(&sources[1].hash()) && cache.usage().used_bytes >= 350_000);
    drop(reserved);
    assert!(cache.usage().used_bytes < 200_000);
}

#[test]
fn a_reservation_finds_no_room_beyond_the_budget_or_beside_open_files() {
    let place = Place::new(400_000);
    let source = Source::new(1, 150_000);
    let (cache, _events) = place.open();
    let open = open_file(&cache, &source);
    source.store(&open, source.whole());
    let mut reserved = cache.reservation();
    assert!(!could_hold(&cache, 300_000) && !could_hold(&cache, u64::MAX));
    assert!(!reserved.grow_to(300_000) && reserved.grow_to(200_000));
    let before = cache.usage();
    assert!(!reserved.grow_to(300_000));
    assert_eq!(cache.usage(), before, "refused, it is as before");
    drop(open);
    assert!(could_hold(&cache, 100_000) && reserved.grow_to(300_000));
}

#[test]
fn a_reservation_respects_the_free_space_floor() {
    let mut place = Place::new(10 << 20);
    place.floor_bytes = 1 << 20;
    let faults = Arc::new(Faults::none());
    faults.set_free_bytes((1 << 20) + 300_000);
    let (cache, _events) = place.try_open(Some(faults)).unwrap();
    let mut reserved = cache.reservation();
    assert!(could_hold(&cache, 250_000) && !could_hold(&cache, 350_000));
    assert!(reserved.grow_to(250_000) && !reserved.grow_to(350_000));
}

#[test]
fn a_disk_that_does_not_report_its_free_space_is_a_disk_error_and_not_a_lack_of_room() {
    let place = Place::new(10 << 20);
    let (cache, events) = place.open();
    std::fs::remove_dir_all(place.cache_dir()).unwrap();
    assert!(!cache.reservation().grow_to(1));
    assert_eq!(cache.usage().disk_errors, 1);
    let told: Vec<_> = events.try_iter().collect();
    assert!(
        matches!(told[..], [CacheEvent::DiskTrouble { .. }]),
        "{told:?}"
    );
}
