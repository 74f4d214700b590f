//! The cache is killed or loses power at every single step of its work.

use std::collections::BTreeMap;

use super::*;
use p2pfs_types::pool::PiecePool;

/// State that the interrupted work was told is on disk.
#[derive(Default)]
struct Promised {
    /// Last result of each pin call; absent if the last call failed.
    pins: BTreeMap<ContentHash, Option<bool>>,
}

/// Files used by the work.
struct Files {
    sources: Vec<Source>,
    /// Verified ranges of each file, proven once.
    pieces: Vec<Vec<Verified>>,
}

impl Files {
    fn new() -> Self {
        let sizes = [0, 5_000, 70_000, 200_000, 131_072, 40_000];
        let sources: Vec<_> = (0..)
            .zip(sizes)
            .map(|(seed, size)| Source::new(seed, size))
            .collect();
        let pieces = sources.iter().map(pieces_of).collect();
        Self { sources, pieces }
    }
}

fn pieces_of(source: &Source) -> Vec<Verified> {
    // A small file is stored in parts too, although the fetcher requests all of it at once.
    let step = match source.size() {
        0..=65_536 => 3 * PAGE_BYTES,
        _ => 3 * PAGE_BYTES * 5,
    };
    let ranges = cut(source.size(), step).into_iter();
    ranges.map(|range| source.verified(range)).collect()
}

/// Makes every kind of change: opens, stores, pins, syncs, evicts and clears.
fn work(place: &Place, files: &Files, faults: &Arc<Faults>) -> Promised {
    let mut promised = Promised::default();
    let Ok((cache, _events)) = place.try_open(Some(faults.clone())) else {
        return promised;
    };
    let pin = |promised: &mut Promised, index: usize, pinned| {
        let hash = files.sources[index].hash();
        let result = pin(&cache, hash, pinned);
        promised.pins.insert(hash, result.is_ok().then_some(pinned));
    };
    let store = |index: usize, pieces: std::ops::Range<usize>| {
        let source = &files.sources[index];
        if let Ok(file) = cache.file(source.hash(), source.size()) {
            for piece in &files.pieces[index][pieces] {
                let _ = file.store(piece);
            }
            return Some(file);
        }
        None
    };
    drop(store(0, 0..0));
    pin(&mut promised, 1, true);
    drop(store(1, 0..1));
    let open = store(3, 0..2);
    cache.flush();
    drop(store(2, 0..2));
    if let Some(file) = &open {
        let _ = file.shared().sync(&cache.core().context);
    }
    drop(store(3, 2..4));
    drop(open);
    drop(store(4, 0..3));
    drop(store(5, 1..3));
    if let Some(file) = store(5, 0..4) {
        file.shared()
            .drop_range(&cache.core().context, ByteRange::new(0, 40_000));
    }
    drop(store(5, 0..4));
    pin(&mut promised, 3, true);
    drop(store(2, 1..2));
    pin(&mut promised, 1, false);
    if let Some(file) = store(3, 1..4) {
        file.shared()
            .drop_range(&cache.core().context, ByteRange::new(65_536, 131_072));
        let _ = file.store(&files.pieces[3][1]);
    }
    cache.resize(200_000);
    let _ = cache.verify(|_| std::ops::ControlFlow::Continue(()));
    drop(store(4, 0..3));
    drop(store(2, 0..2));
    cache.clear();
    drop(store(1, 0..1));
    promised
}

/// Opens the cache as after a restart and compares it with the true content.
fn check(place: &Place, files: &Files, promised: &Promised, what: &str) {
    let (cache, _events) = place.open();
    assert!(
        place.taken_bytes() <= cache.usage().used_bytes,
        "{what}: uncounted bytes"
    );
    let pinned_bytes = 250_000 + 5_000 + 10 * PAGE_BYTES;
    assert!(
        cache.usage().used_bytes <= place.budget_bytes.max(pinned_bytes),
        "{what}: budget"
    );
    for (hash, pinned) in &promised.pins {
        if let Some(pinned) = pinned {
            assert_eq!(cache.is_pinned(hash), *pinned, "{what}: lost pin");
        }
    }
    assert!(
        cache.problems().is_empty(),
        "{what}: {:?}",
        cache.problems()
    );
    for source in &files.sources {
        let complete = cache.is_complete(&source.hash());
        let Some(file) = cache.existing(&source.hash()).unwrap() else {
            continue;
        };
        let good = source.check_all(&file);
        assert_eq!(
            good == source.size(),
            file.is_complete(),
            "{what}: dishonest"
        );
        assert!(!complete || file.is_complete(), "{what}: complete no more");
        for run in file.offered().iter() {
            let proof = file
                .encode(run, &PiecePool::default())
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(digest::decode(source.hash(), source.size(), run, proof).is_ok());
        }
    }
    let report = cache.verify(|_| std::ops::ControlFlow::Continue(()));
    assert_eq!(report.dropped_bytes, 0, "{what}: damage");
}

fn count_steps(files: &Files) -> u64 {
    let place = Place::new(260_000);
    let faults = Arc::new(Faults::none());
    let promised = work(&place, files, &faults);
    check(&place, files, &promised, "uncut");
    faults.steps()
}

#[test]
fn a_kill_at_any_step_invents_no_byte_and_keeps_every_pin() {
    let files = Files::new();
    let steps = count_steps(&files);
    assert!(steps > 150, "the work has grown thin: {steps} steps");
    for cut_at in 0..steps {
        for torn_eighths in 0..8 {
            let place = Place::new(260_000);
            let faults = Arc::new(Faults::cut(cut_at, torn_eighths));
            let promised = work(&place, &files, &faults);
            check(
                &place,
                &files,
                &promised,
                &format!("cut at {cut_at}, torn {torn_eighths}"),
            );
        }
    }
}

#[test]
fn a_power_cut_at_any_step_invents_no_byte_and_keeps_every_pin() {
    let files = Files::new();
    for cut_at in 0..count_steps(&files) {
        for seed in 0..6 {
            let mut place = Place::new(260_000);
            let faults = Arc::new(Faults::cut(cut_at, seed as usize));
            let promised = work(&place, &files, &faults);
            faults.lose_power(seed);
            place.boot = "second";
            check(
                &place,
                &files,
                &promised,
                &format!("power cut at {cut_at}, seed {seed}"),
            );
        }
    }
}

#[test]
fn a_small_file_is_checked_after_a_power_cut_and_drops_its_lost_bytes() {
    let mut seen = [false; 2];
    for seed in 0..20 {
        let mut place = Place::new(1 << 20);
        let source = Source::new(1, 9_000);
        let faults = Arc::new(Faults::none());
        let (cache, _events) = place.try_open(Some(faults.clone())).unwrap();
        fill(&cache, &source);
        drop(cache);
        faults.lose_power(seed);
        place.boot = "second";
        let (cache, _events) = place.open();
        assert!(!cache.is_complete(&source.hash()));
        assert_eq!(cache.unverified(), [(source.hash(), source.size())]);
        cache.verify_unverified(|_| std::ops::ControlFlow::Continue(()));
        let good = cache
            .existing(&source.hash())
            .unwrap()
            .map_or(0, |file| source.check_all(&file));
        assert_eq!(good == 9_000, cache.is_complete(&source.hash()));
        assert!(good == 0 || good == 9_000);
        seen[usize::from(good > 0)] = true;
        drop(cache);
        let (cache, _events) = place.open();
        assert_eq!(
            good > 0,
            cache.is_complete(&source.hash()),
            "now it is believed"
        );
    }
    assert!(seen[0], "no seed lost a sector");
}

#[test]
fn synced_bytes_survive_a_power_cut_and_are_trusted_at_once() {
    let mut place = Place::new(1 << 20);
    let source = Source::new(1, 300_000);
    let faults = Arc::new(Faults::none());
    let (cache, _events) = place.try_open(Some(faults.clone())).unwrap();
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(0, 150_000));
    file.shared().sync(&cache.core().context).unwrap();
    drop((file, cache));
    faults.lose_power(2);
    place.boot = "second";
    let (cache, _events) = place.open();
    assert!(cache.unverified().is_empty());
    assert_eq!(cache.cached_bytes(&source.hash()), 36 * PAGE_BYTES);
    assert_eq!(
        source.check_all(&open_file(&cache, &source)),
        36 * PAGE_BYTES
    );
}

#[test]
fn unsynced_bytes_are_checked_after_a_power_cut_before_they_are_read() {
    let mut place = Place::new(1 << 20);
    let source = Source::new(1, 300_000);
    let (cache, _events) = place.open();
    fill(&cache, &source);
    drop(cache);
    place.boot = "second";
    let (cache, events) = place.open();
    assert_eq!(cache.unverified(), [(source.hash(), source.size())]);
    assert!(!cache.is_complete(&source.hash()));
    assert_eq!(cache.usage().used_bytes, 74 * PAGE_BYTES + 2 * PAGE_BYTES);
    let file = open_file(&cache, &source);
    let mut page = [0; 4096];
    assert_eq!(
        file.read_at(70_000, &mut page).unwrap(),
        ReadOutcome::Ready(4096)
    );
    assert_eq!(file.cached_bytes(), 65_536);
    drop(file);
    cache.verify_unverified(|_| std::ops::ControlFlow::Continue(()));
    assert!(cache.is_complete(&source.hash()) && cache.unverified().is_empty());
    let completed = CacheEvent::Completed {
        hash: source.hash(),
        size_bytes: 300_000,
    };
    assert!(events.try_iter().any(|event| event == completed));
}

#[test]
fn pages_written_but_never_recorded_are_freed_at_the_next_start() {
    let place = Place::new(1 << 20);
    let source = Source::new(1, 80_000);
    let faults = Arc::new(Faults::none());
    let (cache, _events) = place.try_open(Some(faults.clone())).unwrap();
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(0, 4096));
    cache.flush();
    source.store(&file, ByteRange::new(4096, 70_000));
    faults.refuse(true);
    drop((file, cache));
    let (cache, _events) = place.open();
    assert_eq!(cache.cached_bytes(&source.hash()), 4096);
    assert!(place.taken_bytes() <= cache.usage().used_bytes);
}
