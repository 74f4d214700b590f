//! Disk space that is allocated before the bytes arrive.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::FallocateFlags;

use super::direct::{arrived, place, went_past_pages};
use super::*;

const MIB: u64 = 1 << 20;
/// Not a multiple of the page size, so that the last piece goes through the page cache.
const SIZE_BYTES: u64 = 24 * MIB + 777;

fn pieces_of(source: &Source) -> Vec<ByteRange> {
    cut(source.size(), MIB)
}

fn ahead_bytes(cache: &Cache) -> u64 {
    cache.core().context.preallocated.bytes()
}

/// Stores the first pieces as a stream delivers them. Returns `None` if the disk does not
/// preallocate.
fn stream(cache: &Cache, place: &Place, source: &Source, pieces: usize) -> Option<CacheFile> {
    let file = open_file(cache, source);
    for piece in &pieces_of(source)[..pieces] {
        file.store(&arrived(source, *piece)).unwrap();
        assert!(place.taken_bytes() <= cache.usage().used_bytes);
    }
    if ahead_bytes(cache) == 0 && went_past_pages(&file, place) {
        eprintln!("SKIPPED: the disk was busy, or gives no space before it is written to");
    }
    (ahead_bytes(cache) > 0).then_some(file)
}

#[test]
fn preallocated_space_counts_until_its_bytes_arrive() {
    let (place, source) = (place(), Source::new(21, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let Some(file) = stream(&cache, &place, &source, 5) else {
        return;
    };
    let used_bytes = cache.usage().used_bytes;
    assert!(used_bytes >= 5 * MIB + ahead_bytes(&cache));
    assert_eq!(source.check_all(&file), 5 * MIB, "space is not bytes");
    assert_eq!(file.cached_bytes(), 5 * MIB);
    for piece in &pieces_of(&source)[5..] {
        file.store(&arrived(&source, *piece)).unwrap();
        assert!(place.taken_bytes() <= cache.usage().used_bytes);
        assert!(ahead_bytes(&cache) <= piece.start);
    }
    assert!(file.is_complete());
    assert_eq!(ahead_bytes(&cache), 0);
    assert_eq!(source.check_all(&file), SIZE_BYTES);
}

#[test]
fn closing_a_file_frees_its_unused_preallocation() {
    let (place, source) = (place(), Source::new(22, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let Some(file) = stream(&cache, &place, &source, 5) else {
        return;
    };
    let (ahead, used) = (ahead_bytes(&cache), cache.usage().used_bytes);
    let taken = place.taken_bytes();
    assert!(taken >= 5 * MIB + ahead);
    drop(file);
    assert_eq!(ahead_bytes(&cache), 0);
    assert!(place.taken_bytes() <= taken - ahead);
    assert!(cache.usage().used_bytes <= used - ahead);
    drop(cache);
    let (cache, _events) = place.open();
    assert_eq!(
        source.check_all(&open_file(&cache, &source)),
        5 * MIB,
        "what came stays"
    );
}

/// A killed process frees nothing.
#[test]
fn preallocation_left_by_a_killed_cache_is_freed_by_the_next() {
    let (place, source) = (place(), Source::new(23, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    source.store(&file, ByteRange::new(0, MIB));
    let path = file.shared().paths.data.clone();
    drop(file);
    drop(cache);
    let data = std::fs::File::options().write(true).open(path).unwrap();
    let mode = FallocateFlags::KEEP_SIZE;
    if let Err(error) = rustix::fs::fallocate(&data, mode, MIB, 8 * MIB) {
        eprintln!("SKIPPED: the disk gives no space before it is written to: {error}");
        return;
    }
    assert!(place.taken_bytes() >= 9 * MIB);
    let (cache, _events) = place.open();
    assert_eq!(source.check_all(&open_file(&cache, &source)), MIB);
    assert!(place.taken_bytes() <= cache.usage().used_bytes);
    assert!(place.taken_bytes() < 2 * MIB);
}

#[test]
fn random_reads_preallocate_no_more_than_precedes_them() {
    let (place, source) = (place(), Source::new(24, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    let pieces = pieces_of(&source);
    for number in [20, 9, 1, 13, 4, 17] {
        file.store(&arrived(&source, pieces[number])).unwrap();
        assert_eq!(ahead_bytes(&cache), 0, "nothing is a stream yet");
    }
    for number in [5, 6, 7, 8] {
        file.store(&arrived(&source, pieces[number])).unwrap();
        assert!(place.taken_bytes() <= cache.usage().used_bytes);
        assert!(
            ahead_bytes(&cache) <= 4 * MIB,
            "no more than up to the next"
        );
    }
}

/// Preallocated space never takes room from other files.
#[test]
fn a_small_budget_disables_preallocation() {
    let source = Source::new(25, SIZE_BYTES as usize);
    let place = Place {
        budget_bytes: 32 * MIB,
        ..place()
    };
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    for piece in pieces_of(&source) {
        assert_eq!(file.store(&arrived(&source, piece)).unwrap(), Stored::Kept);
        assert_eq!(ahead_bytes(&cache), 0);
        assert!(cache.usage().used_bytes <= place.budget_bytes);
    }
    assert_eq!(source.check_all(&file), SIZE_BYTES);
}

#[test]
fn preallocation_of_all_files_stays_within_its_part_of_the_budget() {
    let place = Place {
        budget_bytes: 160 * MIB,
        ..place()
    };
    let sources: Vec<_> = (26..29)
        .map(|seed| Source::new(seed, SIZE_BYTES as usize))
        .collect();
    let (cache, _events) = place.open();
    let files: Vec<_> = sources
        .iter()
        .map(|source| open_file(&cache, source))
        .collect();
    for number in 0..SIZE_BYTES.div_ceil(MIB) as usize {
        for (source, file) in sources.iter().zip(&files) {
            let piece = pieces_of(source)[number];
            assert_eq!(file.store(&arrived(source, piece)).unwrap(), Stored::Kept);
            assert!(ahead_bytes(&cache) <= place.budget_bytes / 16);
            assert!(place.taken_bytes() <= cache.usage().used_bytes);
        }
    }
    for (source, file) in sources.iter().zip(&files) {
        assert_eq!(source.check_all(file), SIZE_BYTES);
    }
}

/// Creates a cache with part of a file, on a disk that fails preallocation with `errno`.
fn begun(errno: i32, source: &Source) -> (Place, Cache, CacheFile) {
    let (place, faults) = (Place::new(1 << 30), Arc::new(Faults::none()));
    faults.refuse_allocation(errno);
    let (cache, _events) = place.try_open(Some(faults)).unwrap();
    let file = open_file(&cache, source);
    source.store(&file, ByteRange::new(0, 8 * MIB));
    (place, cache, file)
}

/// Returns whether space is preallocated for the MiB after the present bytes.
fn asks_for_next(cache: &Cache, file: &CacheFile) -> bool {
    let next = 8 * MIB / PAGE_BYTES..9 * MIB / PAGE_BYTES;
    let shared = file.shared();
    shared.is_preallocated(cache.core(), shared.data().unwrap(), &next)
}

#[test]
fn a_disk_without_preallocation_is_written_normally() {
    let source = Source::new(29, SIZE_BYTES as usize);
    let (_place, cache, file) = begun(libc::EOPNOTSUPP, &source);
    let used_bytes = cache.usage().used_bytes;
    for _ in 0..2 {
        assert!(!asks_for_next(&cache, &file));
        assert_eq!(
            (ahead_bytes(&cache), cache.usage().used_bytes),
            (0, used_bytes)
        );
    }
    source.store(&file, source.whole());
    assert_eq!(source.check_all(&file), SIZE_BYTES);
}

/// The disk may have allocated part of the space (fallocate(2) undoes nothing).
#[test]
fn space_that_a_full_disk_may_have_granted_counts_and_is_requested_once() {
    let source = Source::new(34, SIZE_BYTES as usize);
    let (place, cache, file) = begun(libc::ENOSPC, &source);
    let used_bytes = cache.usage().used_bytes;
    assert!(!asks_for_next(&cache, &file));
    assert_eq!(ahead_bytes(&cache), 8 * MIB);
    assert!(cache.usage().used_bytes >= used_bytes + 8 * MIB);
    assert_eq!(source.check_all(&file), 8 * MIB);
    source.store(&file, source.whole());
    assert_eq!(ahead_bytes(&cache), 0);
    assert_eq!(source.check_all(&file), SIZE_BYTES);
    assert!(place.taken_bytes() <= cache.usage().used_bytes);
}

/// Several threads write at the same time into allocated space.
#[test]
fn threads_that_store_one_stream_together_store_it_correctly() {
    for seed in 30..33 {
        let (place, source) = (place(), Source::new(seed, SIZE_BYTES as usize));
        let (cache, _events) = place.open();
        let file = open_file(&cache, &source);
        let (pieces, next) = (pieces_of(&source), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let stored = file.store(&arrived(&source, *piece)).unwrap();
                        assert_eq!(stored, Stored::Kept);
                        assert!(ahead_bytes(&cache) <= SIZE_BYTES);
                    }
                });
            }
        });
        assert!(file.is_complete());
        assert_eq!(ahead_bytes(&cache), 0);
        assert!(place.taken_bytes() <= cache.usage().used_bytes);
        drop(file);
        drop(cache);
        let (cache, _events) = place.open();
        assert_eq!(source.check_all(&open_file(&cache, &source)), SIZE_BYTES);
    }
}
