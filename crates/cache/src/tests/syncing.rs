//! A disk with slow syncs, and files that are needed meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::syncing::sync_to_disk;

const SIZE: usize = 150_000;

/// A cache with room for one file of `SIZE`, on a disk that completes a number of syncs and then
/// waits.
struct Slow {
    place: Place,
    faults: Arc<Faults>,
    cache: Cache,
    sources: [Source; 2],
}

impl Slow {
    fn new(syncs: u64) -> Self {
        let place = Place::new(250_000);
        let faults = Arc::new(Faults::none());
        let disk = Disk {
            faults: Some(faults.clone()),
        };
        let (cache, _events) = place.open_on(disk, true).unwrap();
        faults.allow_syncs(syncs);
        Self {
            place,
            faults,
            cache,
            sources: [1, 2].map(|seed| Source::new(seed, SIZE)),
        }
    }

    /// Fills a file and closes it, and returns while the disk syncs it.
    fn while_syncing(syncs: u64) -> Self {
        let slow = Self::new(syncs);
        assert_eq!(fill(&slow.cache, &slow.sources[0]), Stored::Kept);
        slow.faults.await_a_sync();
        slow
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // The cache waits for its thread, even after a failed test.
        self.faults.allow_syncs(u64::MAX);
    }
}

#[test]
fn a_file_being_synced_does_not_count_as_in_use() {
    let slow = Slow::while_syncing(0);
    assert!(!slow.cache.list()[0].open);
    assert_eq!(Room::for_files(&slow.cache).lack(200_000), None);
    assert_eq!(fill(&slow.cache, &slow.sources[1]), Stored::Kept);
    assert!(!slow.cache.is_complete(&slow.sources[0].hash()));
    assert_eq!(slow.cache.clear().open_files, 0);
    assert_eq!(slow.cache.usage().used_bytes, 0);
}

#[test]
fn a_store_waits_for_the_map_write_of_a_file_whose_room_it_needs() {
    // The bytes and hash pairs are synced, so the file is open while its map is written.
    let slow = Slow::while_syncing(2);
    thread::scope(|scope| {
        let stored = scope.spawn(|| fill(&slow.cache, &slow.sources[1]));
        let listed = scope.spawn(|| slow.cache.list());
        slow.faults.allow_syncs(u64::MAX);
        assert!(
            listed
                .join()
                .unwrap()
                .iter()
                .all(|line| line.hash != slow.sources[0].hash() || !line.open)
        );
        assert_eq!(stored.join().unwrap(), Stored::Kept);
    });
    assert!(slow.cache.is_complete(&slow.sources[1].hash()));
}

#[test]
fn a_file_closed_before_its_sync_survives_a_power_cut_without_doubt() {
    let mut slow = Slow::while_syncing(0);
    slow.faults.allow_syncs(u64::MAX);
    let begun = Instant::now();
    let hash = slow.sources[0].hash();
    while slow
        .cache
        .existing(&hash)
        .unwrap()
        .unwrap()
        .shared()
        .pages
        .lock()
        .unsynced
    {
        assert!(
            begun.elapsed() < Duration::from_secs(400),
            "it was not synced"
        );
        thread::yield_now();
    }
    slow.faults.lose_power(1);
    slow.place.boot = "second";
    let other = Place::new(1);
    drop(std::mem::replace(&mut slow.cache, other.open().0));
    let (cache, _events) = slow.place.open();
    assert_eq!(
        slow.sources[0].check_all(&cache.existing(&hash).unwrap().unwrap()),
        SIZE as u64
    );
    assert_eq!(cache.unverified(), []);
}

#[test]
fn a_disk_that_refuses_to_sync_is_not_retried_in_a_loop() {
    let place = Place::new(250_000);
    let faults = Arc::new(Faults::none());
    let disk = Disk {
        faults: Some(faults.clone()),
    };
    // The test does the work of the background thread.
    let (cache, _events) = place.open_on(disk, false).unwrap();
    assert_eq!(fill(&cache, &Source::new(1, SIZE)), Stored::Kept);
    let mut syncs = 0;
    while let Some(hash) = cache.core().context.write_behind.take_sync() {
        // The disk syncs the bytes and hash pairs, and refuses the map.
        faults.refuse_after(2);
        sync_to_disk(cache.core(), &hash);
        syncs += 1;
        // The close queues one more sync at most.
        assert!(syncs <= 2, "it is retried in a loop");
    }
    assert_ne!(syncs, 0);
    assert_ne!(cache.usage().disk_errors, 0);
}
