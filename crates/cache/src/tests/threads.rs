//! Many threads with little room.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::*;
use p2pfs_types::pool::PiecePool;

const THREADS: u64 = 8;
const ROUNDS: u64 = 150;

/// Runs one thread that opens files at random, reads them and stores missing ranges.
fn read_and_store(cache: &Cache, sources: &[Source], seed: u64) {
    for round in 0..ROUNDS {
        let dice = blake3::hash(&[seed.to_le_bytes(), round.to_le_bytes()].concat());
        let dice = dice.as_bytes();
        let source = &sources[dice[0] as usize % sources.len()];
        let file = open_file(cache, source);
        let start = u64::from(dice[1]) * source.size() / 256;
        let range = ByteRange::at(start, 30_000).intersection(&source.whole());
        let mut buffer = vec![0; range.len() as usize];
        if let ReadOutcome::Missing(gap) = file.read_at(start, &mut buffer).unwrap() {
            if source.store(&file, gap) == Stored::Kept {
                assert!(file.missing_in(gap).is_empty());
            }
            continue;
        }
        assert!(
            buffer == source.data[range.start as usize..range.end as usize],
            "wrong bytes"
        );
        if let Some(run) = file.offered().iter().next() {
            let proof = file.encode(run, &PiecePool::default()).unwrap();
            assert!(digest::decode(source.hash(), source.size(), run, proof).is_ok());
        }
    }
}

/// Runs one thread that pins, clears, resizes, flushes and verifies.
fn disturb(cache: &Cache, sources: &[Source], budget_bytes: u64) {
    for round in 0..ROUNDS {
        let hash = sources[round as usize % sources.len()].hash();
        match round % 6 {
            0 => pin(cache, hash, true).unwrap(),
            1 => drop(cache.clear()),
            2 => drop(cache.resize(budget_bytes / 2)),
            3 => drop(cache.resize(budget_bytes)),
            4 => unpin_everything(cache),
            _ => assert_eq!(cache.verify(|_| ControlFlow::Continue(())).dropped_bytes, 0),
        }
        cache.flush();
        let usage = cache.usage();
        let held_back = usage.used_bytes - usage.evictable_bytes;
        assert!(usage.used_bytes <= budget_bytes.max(held_back));
    }
}

fn unpin_everything(cache: &Cache) {
    cache.unpin_all(&cache.pins()).unwrap();
}

#[test]
fn many_threads_in_little_room_never_see_a_wrong_byte() {
    let budget_bytes = 500_000;
    let place = Place::new(budget_bytes);
    let sources: Vec<_> = (0..8).map(|seed| Source::new(seed, 150_000)).collect();
    let config = CacheConfig {
        dir: place.cache_dir(),
        budget_bytes,
        floor_bytes: 0,
    };
    let (cache, _events) = Cache::open(config.clone()).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..THREADS {
            let (cache, sources) = (&cache, &sources);
            scope.spawn(move || read_and_store(cache, sources, seed));
        }
        scope.spawn(|| disturb(&cache, &sources, budget_bytes));
    });
    unpin_everything(&cache);
    let begun = Instant::now();
    while cache.usage().evictable_bytes != cache.usage().used_bytes {
        assert!(
            begun.elapsed() < Duration::from_secs(400),
            "the background thread goes on"
        );
        std::thread::yield_now();
    }
    assert!(cache.usage().used_bytes <= budget_bytes);
    assert!(place.taken_bytes() <= cache.usage().used_bytes);
    let before: Vec<_> = cache
        .list()
        .iter()
        .map(|line| (line.hash, line.cached_bytes))
        .collect();
    drop(cache);
    let (cache, _events) = Cache::open(config).unwrap();
    for (hash, cached_bytes) in before {
        let source = sources.iter().find(|source| source.hash() == hash).unwrap();
        let file = cache.existing(&hash).unwrap().unwrap();
        assert_eq!(source.check_all(&file), cached_bytes);
    }
}
