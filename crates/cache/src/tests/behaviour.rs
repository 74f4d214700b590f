//! Behaviour visible to callers: reads, room, eviction order, and a full disk.

use std::fs;
use std::time::{Duration, SystemTime};

use super::*;
use p2pfs_types::pool::PiecePool;

#[test]
fn stored_bytes_are_read_and_missing_ones_are_named() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 100_000);
    let file = open_file(&cache, &source);
    assert_eq!(
        source.store(&file, ByteRange::new(8192, 20_480)),
        Stored::Kept
    );
    let mut buffer = vec![0; 10_000];
    assert_eq!(
        file.read_at(9_000, &mut buffer).unwrap(),
        ReadOutcome::Ready(10_000)
    );
    assert_eq!(buffer, source.data[9_000..19_000]);
    let missing = |start, end| ReadOutcome::Missing(ByteRange::new(start, end));
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), missing(0, 8192));
    assert_eq!(
        file.read_at(19_000, &mut buffer).unwrap(),
        missing(20_480, 32_768)
    );
    assert_eq!(
        file.read_at(99_000, &mut buffer).unwrap(),
        missing(98_304, 100_000)
    );
    assert_eq!(
        file.read_at(100_000, &mut buffer).unwrap(),
        ReadOutcome::Ready(0)
    );
    assert_eq!(file.present(), ExtentSet::of(ByteRange::new(8192, 20_480)));
    assert_eq!(
        file.missing_in(ByteRange::new(8000, 9000)),
        ExtentSet::of((4096, 8192).into())
    );
    assert_eq!(cache.cached_bytes(&source.hash()), 12_288);
}

#[test]
fn only_whole_pages_and_the_short_last_one_are_kept() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 10_000);
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(1024, 9_000));
    assert_eq!(file.present(), ExtentSet::of(ByteRange::new(4096, 8192)));
    source.store(&file, ByteRange::new(8192, 10_000));
    assert_eq!(file.present(), ExtentSet::of(ByteRange::new(4096, 10_000)));
}

#[test]
fn a_range_of_another_length_than_its_bytes_is_refused() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 10_000);
    let file = open_file(&cache, &source);
    let good = source.verified(ByteRange::new(0, 8192));
    let mut long = good.clone();
    long.range.end = 9216;
    let mut short = good.clone();
    short.bytes.truncate(8191);
    let mut pair = source.verified(source.whole());
    pair.pairs.push(digest::HashPair {
        offset: 1 << 40,
        bytes: [0; 64],
    });
    for bad in [long, short, pair] {
        assert!(matches!(file.store(&bad), Err(CacheError::BadShape { .. })));
    }
    assert!(file.present().is_empty());
}

#[test]
fn a_complete_file_is_an_ordinary_file() {
    let place = Place::new(1 << 20);
    let (cache, events) = place.open();
    let source = Source::new(1, 100_000);
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(0, 65_536));
    assert!(file.backing().is_none() && !file.is_complete());
    source.store(&file, ByteRange::new(65_536, 100_000));
    let completed = CacheEvent::Completed {
        hash: source.hash(),
        size_bytes: 100_000,
    };
    assert_eq!(events.try_iter().collect::<Vec<_>>(), [completed]);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &*file.backing().unwrap(), &mut bytes).unwrap();
    assert_eq!(bytes, source.data);
    assert!(rustix::io::write(&*file.backing().unwrap(), b"x").is_err());
    assert_eq!(cache.complete(), [(source.hash(), 100_000)]);
}

#[test]
fn whole_chunks_are_offered_with_proofs_that_others_can_verify() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 300_000);
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(60_000, 200_000));
    assert_eq!(
        file.offered(),
        ExtentSet::of(ByteRange::new(65_536, 196_608))
    );
    for _ in 0..2 {
        let range = ByteRange::new(70_000, 80_000);
        let proof = file.encode(range, &PiecePool::default()).unwrap();
        assert!(digest::decode(source.hash(), 300_000, range, proof).is_ok());
        let elsewhere = file.encode(ByteRange::new(190_000, 197_000), &PiecePool::default());
        assert!(matches!(elsewhere, Err(CacheError::NotCached { .. })));
        // The second time, the pairs are read from the disk.
        cache.flush();
    }
}

#[test]
fn the_least_recently_used_file_is_evicted_first_even_after_a_restart() {
    let place = Place::new(600_000);
    let sources: Vec<_> = (0..4).map(|seed| Source::new(seed, 150_000)).collect();
    let (cache, _events) = place.open();
    for source in &sources[..3] {
        fill(&cache, source);
    }
    drop(cache.existing(&sources[0].hash()).unwrap());
    drop(cache);
    // The file system may count time in ticks, so set the time that the order depends on.
    let layout = super::super::layout::Layout {
        dir: place.cache_dir(),
    };
    for (age, index) in [(3, 1), (2, 2), (1, 0)] {
        let map = fs::File::open(layout.paths(&sources[index].hash()).map).unwrap();
        map.set_modified(SystemTime::now() - Duration::from_secs(age))
            .unwrap();
    }
    let (cache, events) = place.open();
    fill(&cache, &sources[3]);
    let evicted = CacheEvent::Evicted {
        hash: sources[1].hash(),
        was_complete: true,
    };
    assert_eq!(events.try_iter().next(), Some(evicted));
    assert!(cache.is_complete(&sources[0].hash()) && cache.is_complete(&sources[3].hash()));
    assert_eq!(cache.cached_bytes(&sources[1].hash()), 0);
}

#[test]
fn open_and_pinned_files_stay_and_a_store_over_budget_changes_nothing() {
    let place = Place::new(400_000);
    let sources: Vec<_> = (0..4).map(|seed| Source::new(seed, 150_000)).collect();
    let (cache, _events) = place.open();
    pin(&cache, sources[0].hash(), true).unwrap();
    fill(&cache, &sources[0]);
    let open = open_file(&cache, &sources[1]);
    sources[1].store(&open, sources[1].whole());
    let before = cache.usage();
    assert_eq!(fill(&cache, &sources[2]), Stored::Full);
    assert_eq!(cache.usage(), before);
    assert_eq!(
        cache.resize(1),
        CacheUsage {
            budget_bytes: 1,
            ..before
        }
    );
    let cleared = cache.clear();
    assert_eq!(
        (
            cleared.removed_files,
            cleared.open_files,
            cleared.pinned_files
        ),
        (0, 1, 1)
    );
    drop(open);
    assert!(
        !cache.is_complete(&sources[1].hash()),
        "over the budget, it goes when it is closed"
    );
    pin(&cache, sources[0].hash(), false).unwrap();
    assert_eq!(cache.usage().used_bytes, 0);
}

#[test]
fn a_file_larger_than_the_budget_keeps_what_fits() {
    let place = Place::new(300_000);
    let (cache, _events) = place.open();
    fill(&cache, &Source::new(9, 100_000));
    let source = Source::new(1, 1_000_000);
    let file = open_file(&cache, &source);
    let mut kept = 0;
    for start in (0..1_000_000).step_by(65_536) {
        let range = ByteRange::at(start, 65_536).intersection(&source.whole());
        if source.store(&file, range) == Stored::Kept {
            kept += range.len();
        }
        assert!(cache.usage().used_bytes <= 300_000);
    }
    assert!(kept >= 200_000, "{kept}");
    assert_eq!(source.check_all(&file), kept);
}

#[test]
fn the_free_space_floor_is_respected() {
    let mut place = Place::new(10 << 20);
    place.floor_bytes = 1 << 20;
    let faults = Arc::new(Faults::none());
    faults.set_free_bytes((1 << 20) + 300_000);
    let (cache, _events) = place.try_open(Some(faults.clone())).unwrap();
    let sources: Vec<_> = (0..3).map(|seed| Source::new(seed, 150_000)).collect();
    let file = open_file(&cache, &sources[0]);
    assert_eq!(sources[0].store(&file, sources[0].whole()), Stored::Kept);
    let other = open_file(&cache, &sources[1]);
    assert_eq!(sources[1].store(&other, sources[1].whole()), Stored::Full);
    faults.set_free_bytes((1 << 20) + 150_000);
    drop(file);
    assert_eq!(sources[1].store(&other, sources[1].whole()), Stored::Kept);
    assert_eq!(cache.usage().files, 1, "what was closed made room");
    let third = open_file(&cache, &sources[2]);
    assert_eq!(sources[2].store(&third, sources[2].whole()), Stored::Full);
}

#[test]
fn a_full_disk_is_reported_once_and_reads_continue() {
    let place = Place::new(1 << 20);
    let faults = Arc::new(Faults::none());
    let (cache, events) = place.try_open(Some(faults.clone())).unwrap();
    let source = Source::new(1, 100_000);
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(0, 8192));
    faults.refuse(true);
    for _ in 0..3 {
        assert_eq!(
            source.store(&file, ByteRange::new(16_384, 40_000)),
            Stored::Full
        );
    }
    assert_eq!(source.check_all(&file), 8192);
    let told: Vec<_> = events.try_iter().collect();
    assert!(
        matches!(told[..], [CacheEvent::DiskTrouble { .. }]),
        "{told:?}"
    );
    assert_eq!(cache.usage().disk_errors, 3);
    faults.refuse(false);
    assert_eq!(
        source.store(&file, ByteRange::new(16_384, 40_000)),
        Stored::Kept
    );
    drop(file);
    assert!(place.taken_bytes() <= cache.usage().used_bytes);
}

#[test]
fn the_end_of_disk_trouble_is_reported_even_without_further_stores() {
    let place = Place::new(1 << 20);
    let faults = Arc::new(Faults::none());
    let disk = Disk {
        faults: Some(faults.clone()),
    };
    let (cache, events) = place.open_on(disk, true).unwrap();
    let source = Source::new(1, 100_000);
    let file = open_file(&cache, &source);
    faults.refuse(true);
    assert_eq!(source.store(&file, source.whole()), Stored::Full);
    let told = || events.recv_timeout(Duration::from_secs(400)).unwrap();
    let CacheEvent::DiskTrouble { why } = told() else {
        panic!("no trouble is told");
    };
    assert!(why.contains("the cache's disk refuses writes"), "{why}");
    faults.refuse(false);
    assert_eq!(told(), CacheEvent::DiskRecovered);
    faults.refuse(true);
    assert_eq!(source.store(&file, source.whole()), Stored::Full);
    assert!(matches!(told(), CacheEvent::DiskTrouble { .. }));
}

#[test]
fn a_cache_without_a_floor_evicts_when_its_disk_lacks_room() {
    let place = Place::new(1 << 30);
    let faults = Arc::new(Faults::none());
    let (cache, events) = place.try_open(Some(faults.clone())).unwrap();
    let (old, new) = (Source::new(1, 70_000), Source::new(2, 250_000));
    fill(&cache, &old);
    faults.set_free_bytes(100_000);
    cache.core().index.lock().forget_measure();
    let file = open_file(&cache, &new);
    assert_eq!(new.store(&file, ByteRange::new(0, 8192)), Stored::Kept);
    assert_eq!(cache.cached_bytes(&old.hash()), 70_000);
    assert_eq!(new.store(&file, new.whole()), Stored::Full);
    assert_eq!(
        cache.cached_bytes(&old.hash()),
        0,
        "it went for it, in vain"
    );
    assert!(!events.try_iter().any(is_trouble));
}

#[test]
fn a_disk_reported_full_accepts_data_after_an_eviction() {
    let place = Place::new(1 << 30);
    let faults = Arc::new(Faults::none());
    let (cache, events) = place.try_open(Some(faults.clone())).unwrap();
    let (old, new) = (Source::new(1, 250_000), Source::new(2, 250_000));
    fill(&cache, &old);
    let file = open_file(&cache, &new);
    assert_eq!(new.store(&file, ByteRange::new(0, 8192)), Stored::Kept);
    faults.fill();
    let next = ByteRange::new(8192, 12_288);
    assert_eq!(new.store(&file, next), Stored::Kept);
    assert_eq!(cache.cached_bytes(&old.hash()), 0, "it gave its room");
    assert!(!events.try_iter().any(is_trouble));
    // Without anything to evict, the store reports a full cache.
    faults.fill();
    let next = ByteRange::new(12_288, 16_384);
    assert_eq!(new.store(&file, next), Stored::Full);
    assert!(events.try_iter().any(is_trouble));
    assert_eq!(new.check_all(&file), 12_288);
}

fn is_trouble(event: CacheEvent) -> bool {
    matches!(event, CacheEvent::DiskTrouble { .. })
}

#[test]
fn a_disk_that_refuses_evictions_loses_no_file() {
    let place = Place::new(250_000);
    let faults = Arc::new(Faults::none());
    let (cache, _events) = place.try_open(Some(faults.clone())).unwrap();
    let (old, new) = (Source::new(1, 150_000), Source::new(2, 150_000));
    fill(&cache, &old);
    let file = open_file(&cache, &new);
    faults.refuse(true);
    assert_eq!(new.store(&file, new.whole()), Stored::Full);
    assert_eq!(
        cache.clear(),
        Cleared {
            open_files: 1,
            ..Cleared::default()
        }
    );
    assert_eq!(old.check_all(&open_file(&cache, &old)), 150_000);
}

#[test]
fn a_complete_file_whose_map_cannot_be_written_is_reported_lost_at_close() {
    let place = Place::new(1 << 20);
    let faults = Arc::new(Faults::none());
    let (cache, events) = place.try_open(Some(faults.clone())).unwrap();
    let source = Source::new(1, 100_000);
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(0, 65_536));
    cache.flush();
    faults.refuse_after(1);
    source.store(&file, ByteRange::new(65_536, 100_000));
    assert!(file.is_complete());
    assert_eq!(source.check_all(&file), 100_000);
    drop(file);
    assert_eq!(cache.cached_bytes(&source.hash()), 65_536);
    let lost = |event: &CacheEvent| {
        matches!(
            event,
            CacheEvent::Dropped {
                was_complete: true,
                ..
            }
        )
    };
    assert!(events.try_iter().any(|event| lost(&event)));
}

#[test]
fn a_wrong_size_is_refused_or_replaced() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 100_000);
    source.store(&open_file(&cache, &source), ByteRange::new(0, 65_536));
    let liar = cache.file(source.hash(), 120_000).unwrap();
    assert!(
        liar.present().is_empty(),
        "the end of neither was seen: the last one asked counts"
    );
    let conflict = cache.file(source.hash(), 100_000);
    assert!(matches!(conflict, Err(CacheError::SizeConflict { .. })));
    drop((conflict, liar));
    fill(&cache, &source);
    let conflict = cache.file(source.hash(), 120_000);
    assert!(matches!(
        conflict,
        Err(CacheError::SizeConflict {
            have_bytes: 100_000,
            ..
        })
    ));
    let huge = cache.file(source.hash(), u64::MAX);
    assert!(matches!(huge, Err(CacheError::ImpossibleSize { .. })));
}

#[test]
fn a_wrong_size_does_not_replace_a_file_awaiting_its_check_after_a_restart() {
    let mut place = Place::new(1 << 20);
    let source = Source::new(1, 10_000);
    let (cache, _events) = place.open();
    fill(&cache, &source);
    drop(cache);
    place.boot = "second";
    let (cache, _events) = place.open();
    assert!(!cache.is_complete(&source.hash()));
    let conflict = cache.file(source.hash(), 12_000);
    assert!(matches!(conflict, Err(CacheError::SizeConflict { .. })));
    drop(conflict);
    assert_eq!(source.check_all(&open_file(&cache, &source)), 10_000);
}

#[test]
fn the_background_thread_writes_the_map_and_syncs_unprompted() {
    let place = Place::new(1 << 20);
    let source = Source::new(1, 100_000);
    let config = CacheConfig {
        dir: place.cache_dir(),
        budget_bytes: 1 << 20,
        floor_bytes: 0,
    };
    let (cache, _events) = Cache::open(config).unwrap();
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(0, 8192));
    let map = file.shared().files.paths.map.clone();
    let begun = std::time::Instant::now();
    while !map.exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(400),
            "no map was written"
        );
        std::thread::yield_now();
    }
    source.store(&file, source.whole());
    while file.shared().pages.lock().unsynced {
        assert!(
            begun.elapsed() < Duration::from_secs(400),
            "the file was not synced"
        );
        std::thread::yield_now();
    }
}

#[test]
fn the_list_describes_each_file_correctly() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let (part, whole) = (Source::new(1, 100_000), Source::new(2, 5_000));
    pin(&cache, whole.hash(), true).unwrap();
    fill(&cache, &whole);
    let file = open_file(&cache, &part);
    part.store(&file, ByteRange::new(0, 8192));
    let lines = cache.list();
    let line = |source: &Source| {
        lines
            .iter()
            .find(|line| line.hash == source.hash())
            .cloned()
            .unwrap()
    };
    let (part, whole) = (line(&part), line(&whole));
    assert_eq!(
        (part.cached_bytes, part.complete, part.open, part.pinned),
        (8192, false, true, false)
    );
    assert_eq!(
        (whole.cached_bytes, whole.complete, whole.open, whole.pinned),
        (5_000, true, false, true)
    );
}
