//! Damage on disk: corrupted data, hash pairs and maps.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::cache::CHECK_PAUSE;
use crate::layout::{Layout, Paths};
use p2pfs_types::pool::PiecePool;

fn paths(place: &Place, source: &Source) -> Paths {
    Layout {
        dir: place.cache_dir(),
    }
    .paths(&source.hash())
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}

#[test]
fn rotten_bytes_are_never_sent_and_count_as_missing() {
    let place = Place::new(1 << 20);
    let (cache, events) = place.open();
    let source = Source::new(1, 200_000);
    let file = open_file(&cache, &source);
    source.store(&file, source.whole());
    overwrite(&paths(&place, &source).data, 70_000, b"rot");
    let range = ByteRange::new(0, 131_072);
    assert!(matches!(
        file.encode(range, &PiecePool::default()),
        Err(CacheError::Damaged { .. })
    ));
    let lost = ByteRange::new(65_536, 131_072);
    assert_eq!(file.missing_in(source.whole()), ExtentSet::of(lost));
    let dropped = CacheEvent::Dropped {
        hash: source.hash(),
        range: lost,
        was_complete: true,
    };
    assert_eq!(events.try_iter().last(), Some(dropped));
    assert!(file.backing().is_none() && !cache.is_complete(&source.hash()));
    assert!(
        file.encode(ByteRange::new(0, 65_536), &PiecePool::default())
            .is_ok()
    );
    drop((file, cache));
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    assert_eq!(source.check_all(&file), 200_000 - 65_536);
    source.store(&file, lost);
    assert_eq!(source.check_all(&file), 200_000);
}

#[test]
fn damage_is_counted_until_a_verification_finds_none() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 200_000);
    let file = open_file(&cache, &source);
    source.store(&file, source.whole());
    assert_eq!(cache.usage().damaged_at, None);
    overwrite(&paths(&place, &source).data, 70_000, b"rot");
    drop(file);
    assert_eq!(
        cache.verify(|_| ControlFlow::Continue(())).dropped_bytes,
        65_536
    );
    let usage = cache.usage();
    assert_eq!(usage.damaged_bytes, 65_536);
    assert!(usage.damaged_at.is_some());
    assert_eq!(cache.verify(|_| ControlFlow::Continue(())).dropped_bytes, 0);
    assert_eq!(cache.usage().damaged_at, None);
    assert_eq!(cache.usage().damaged_bytes, 65_536);
}

#[test]
fn verification_reports_damage_only_after_its_copies_are_dropped() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 200_000);
    fill(&cache, &source);
    overwrite(&paths(&place, &source).data, 70_000, b"rot");
    let (requests, requested) = mpsc::channel();
    cache.add_damage_listener(Box::new(move |hash, range, dropped| {
        requests.send((*hash, range, dropped)).is_ok()
    }));
    let is_dropped = AtomicBool::new(false);
    let (cache, source, is_dropped) = (&cache, &source, &is_dropped);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (hash, range, dropped) = requested.recv().unwrap();
            assert_eq!(hash, source.hash());
            assert_eq!(range, ByteRange::new(65_536, 131_072));
            // The bytes are given to no read any longer.
            let found = open_file(cache, source).read_at(70_000, &mut [0; 8]);
            assert!(matches!(found, Ok(ReadOutcome::Missing(_))));
            is_dropped.store(true, Ordering::Relaxed);
            dropped();
        });
        let report = cache.verify(|progress| {
            assert_eq!(progress.dropped_bytes, 65_536);
            assert!(is_dropped.load(Ordering::Relaxed));
            ControlFlow::Continue(())
        });
        assert_eq!(report.dropped_bytes, 65_536);
    });
}

#[test]
fn damage_without_a_listener_is_kept_for_the_next_one() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 200_000);
    fill(&cache, &source);
    let damage = |offset| {
        overwrite(&paths(&place, &source).data, offset, b"rot");
        cache.verify(|_| ControlFlow::Continue(())).dropped_bytes
    };
    assert_eq!(damage(70_000), 65_536);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listen = |is_there: bool| {
        let hearing = heard.clone();
        cache.add_damage_listener(Box::new(move |_, range, _| {
            hearing.lock().push(range);
            is_there
        }));
        std::mem::take(&mut *heard.lock())
    };
    let first = ByteRange::new(65_536, 131_072);
    assert_eq!(listen(false), [first]);
    assert_eq!(damage(10), 65_536);
    let second = ByteRange::new(0, 65_536);
    assert_eq!(*heard.lock(), [second], "by one that is gone");
    heard.lock().clear();
    assert_eq!(listen(true), [second]);
}

#[test]
fn a_complete_file_removed_from_disk_while_closed_is_reported_lost_when_requested() {
    let place = Place::new(1 << 20);
    for (seed, length) in [(1, 200_000), (2, 3000), (3, 0)] {
        let (cache, events) = place.open();
        let source = Source::new(seed, length);
        let file = open_file(&cache, &source);
        if length > 0 {
            source.store(&file, source.whole());
        }
        cache.flush();
        drop(file);
        assert!(cache.is_complete(&source.hash()));
        let paths = paths(&place, &source);
        for path in [&paths.data, &paths.outboard, &paths.map] {
            let _may_be_none = fs::remove_file(path);
        }
        let _before = events.try_iter().count();
        let file = cache.existing(&source.hash()).unwrap().unwrap();
        let lost = CacheEvent::Dropped {
            hash: source.hash(),
            range: source.whole(),
            was_complete: true,
        };
        assert_eq!(events.try_iter().next(), Some(lost), "{length} bytes");
        assert_eq!(file.missing_in(source.whole()).is_empty(), length == 0);
        drop(file);
    }
}

#[test]
fn verifying_finds_every_rotten_chunk_and_can_be_stopped() {
    let place = Place::new(8 << 20);
    let (cache, _events) = place.open();
    let sources = [Source::new(1, 3_000_000), Source::new(2, 200_000)];
    for source in &sources {
        assert_eq!(fill(&cache, source), Stored::Kept);
    }
    overwrite(&paths(&place, &sources[0]).data, 2_500_000, b"rot");
    overwrite(&paths(&place, &sources[1]).data, 199_999, b"r");
    let mut calls = 0;
    let stopped = cache.verify(|_| {
        calls += 1;
        if calls == 1 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(calls == 1 && stopped.files < 2);
    let report = cache.verify(|_| ControlFlow::Continue(()));
    assert_eq!((report.files, report.checked_bytes), (2, 3_200_000));
    assert_eq!(report.dropped_bytes, 65_536 + (200_000 - 196_608));
    assert!(cache.complete().is_empty());
    assert_eq!(cache.verify(|_| ControlFlow::Continue(())).dropped_bytes, 0);
}

#[test]
fn a_byte_that_changes_on_the_disk_under_an_open_file_is_found_by_the_continual_check() {
    let place = Place::new(8 << 20);
    let (cache, events) = place.open();
    let source = Source::new(1, 3_000_000);
    let file = open_file(&cache, &source);
    assert_eq!(source.store(&file, source.whole()), Stored::Kept);
    let (mut rounds, mut waited) = (0, Duration::ZERO);
    cache.verify_continually(|pause| {
        waited += pause;
        rounds += usize::from(pause == CHECK_PAUSE);
        if pause == CHECK_PAUSE && rounds == 2 {
            assert!(cache.is_complete(&source.hash()));
            overwrite(&paths(&place, &source).data, 2_500_000, b"rot");
        }
        if rounds == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(
        waited >= CHECK_PAUSE * 3 + Duration::from_secs(5),
        "{waited:?}"
    );
    let lost = ByteRange::new(2_490_368, 2_555_904);
    let dropped = CacheEvent::Dropped {
        hash: source.hash(),
        range: lost,
        was_complete: true,
    };
    assert_eq!(events.try_iter().last(), Some(dropped));
    assert_eq!(file.missing_in(source.whole()), ExtentSet::of(lost));
    assert!(cache.usage().damaged_at.is_some());
}

#[test]
fn verifying_counts_the_files_it_could_not_open() {
    let place = Place::new(8 << 20);
    let source = Source::new(1, 3_000_000);
    let (cache, _events) = place.open();
    assert_eq!(fill(&cache, &source), Stored::Kept);
    let data = paths(&place, &source).data;
    std::fs::remove_file(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    let report = cache.verify(|_| ControlFlow::Continue(()));
    assert_eq!((report.files, report.unopened_files), (1, 1));
    assert_eq!((report.checked_bytes, report.dropped_bytes), (0, 0));
}

#[test]
fn a_file_whose_lookup_fails_does_not_count_as_removed() {
    let place = Place::new(1 << 20);
    let source = Source::new(1, 200_000);
    let (cache, _events) = place.open();
    fill(&cache, &source);
    let data = paths(&place, &source).data;
    let (shard, aside) = (data.parent().unwrap(), place.dir.path().join("aside"));
    fs::rename(shard, &aside).unwrap();
    std::os::unix::fs::symlink(shard, shard).unwrap();
    assert_eq!(cache.clear(), Cleared::default());
    fs::remove_file(shard).unwrap();
    fs::rename(&aside, shard).unwrap();
    assert_eq!(cache.clear().removed_files, 1);
    assert!(!data.exists());
}

#[test]
fn verifying_counts_checked_bytes_and_not_uncached_ones() {
    let place = Place::new(8 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 3_000_000);
    let file = open_file(&cache, &source);
    // A whole chunk, and single pages of another chunk, which cannot be checked.
    source.store(&file, ByteRange::new(1 << 20, (1 << 20) + 65_536));
    source.store(&file, ByteRange::new(2 << 20, (2 << 20) + 8192));
    let mut seen = Vec::new();
    let report = cache.verify(|progress| {
        seen.push((progress.bytes, progress.bytes_total));
        ControlFlow::Continue(())
    });
    assert_eq!((report.files, report.checked_bytes), (1, 65_536));
    let total = 65_536 + 8192;
    let all = (total, total);
    assert_eq!(seen, [(0, total), (65_536, total), all, all]);
    assert_eq!(report.dropped_bytes, 0);
}

#[test]
fn complete_files_wait_for_a_check_after_an_unclean_stop() {
    let place = Place::new(1 << 20);
    let source = Source::new(1, 200_000);
    fill(&place.open().0, &source);
    fs::remove_file(place.cache_dir().join("clean")).unwrap();
    let (cache, _events) = place.open();
    assert_eq!(cache.unverified(), [(source.hash(), 200_000)]);
    assert!(cache.is_complete(&source.hash()), "served meanwhile");
    cache.verify_unverified(|_| ControlFlow::Continue(()));
    assert!(cache.unverified().is_empty());
}

/// Changes a byte of the data, later than `since` by the clock of the file system.
fn alter(data: &Path, since: &Path) {
    write_later(data, since, b"?");
}

fn write_later(data: &Path, since: &Path, byte: &[u8]) {
    let changed = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.ctime(), found.ctime_nsec())
    };
    while changed(data) <= changed(since) {
        let kept = fs::metadata(data).unwrap().modified().unwrap();
        overwrite(data, 7_000, byte);
        fs::File::options()
            .write(true)
            .open(data)
            .and_then(|file| file.set_modified(kept))
            .unwrap();
    }
}

#[test]
fn a_file_changed_while_the_cache_was_closed_is_checked_before_it_is_trusted() {
    for clean in [true, false] {
        for size in [3_000_000, 10_000] {
            if !clean && size < 65_536 {
                continue; // such a file is checked as it is opened
            }
            let place = Place::new(1 << 23);
            let (source, other) = (Source::new(1, size), Source::new(2, size));
            let (cache, _events) = place.open();
            fill(&cache, &source);
            fill(&cache, &other);
            drop(cache);
            let stopped = place.cache_dir().join("clean");
            let files = paths(&place, &source);
            let since = if clean { &stopped } else { &files.map };
            alter(&files.data, since);
            if !clean {
                fs::remove_file(&stopped).unwrap();
            }
            // A start that checks nothing forgets nothing.
            drop(place.open());
            let (cache, _events) = place.open();
            assert!(!cache.is_complete(&source.hash()), "{clean} {size}");
            assert!(cache.is_complete(&other.hash()), "{clean} {size}");
            let file = open_file(&cache, &source);
            let mut page = vec![0; 4096];
            let found = file.read_at(4096, &mut page).unwrap();
            assert!(matches!(found, ReadOutcome::Missing(_)), "{clean} {size}");
            if size > 65_536 {
                let found = file.read_at(2_000_000, &mut page).unwrap();
                assert!(matches!(found, ReadOutcome::Ready(4096)), "{found:?}");
            }
        }
    }
}

#[test]
fn a_stop_with_open_files_is_clean_except_for_later_changes() {
    for size in [200_000, 10_000] {
        let place = Place::new(1 << 20);
        let sources = [Source::new(1, size), Source::new(2, size)];
        let (cache, _events) = place.open();
        let open = sources.each_ref().map(|source| open_file(&cache, source));
        for (source, file) in sources.iter().zip(&open) {
            source.store(file, source.whole());
        }
        cache.flush_at_end();
        let clean = place.cache_dir().join("clean");
        alter(&paths(&place, &sources[1]).data, &clean);
        // Simulates a process that ended without a clean stop: its lock is gone.
        fs::remove_file(place.cache_dir().join("lock")).unwrap();
        let (next, _events) = place.open();
        assert_eq!(next.unverified(), [(sources[1].hash(), size as u64)]);
        assert!(next.is_complete(&sources[0].hash()));
        assert!(!next.is_complete(&sources[1].hash()));
        // A process that continues after it and stops cleanly vouches for all bytes present then.
        cache.flush_at_end();
        let right = sources[1].data[7_000];
        write_later(&paths(&place, &sources[1]).data, &clean, &[right]);
        drop(next);
        let files = fs::metadata(paths(&place, &sources[1]).data).unwrap();
        let changed = fs::metadata(&clean).unwrap();
        let times = [&changed, &files].map(|of| (of.ctime(), of.ctime_nsec()));
        assert!(times[0] >= times[1]);
    }
}

#[test]
fn a_changed_part_of_a_file_is_found_before_use_or_soon_after_a_crash() {
    for clean in [true, false] {
        let place = Place::new(1 << 23);
        let source = Source::new(1, 3_000_000);
        let (cache, _events) = place.open();
        let file = open_file(&cache, &source);
        source.store(&file, ByteRange::new(0, 2 << 20));
        drop((file, cache));
        let stopped = place.cache_dir().join("clean");
        alter(&paths(&place, &source).data, &stopped);
        if !clean {
            fs::remove_file(&stopped).unwrap();
        }
        let (cache, _events) = place.open();
        if !clean {
            cache.verify_unverified(|_| ControlFlow::Continue(()));
        }
        let file = open_file(&cache, &source);
        let mut page = vec![0; 4096];
        let found = file.read_at(4096, &mut page).unwrap();
        assert!(
            matches!(found, ReadOutcome::Missing(_)),
            "{clean}: {found:?}"
        );
        let found = file.read_at(1 << 20, &mut page).unwrap();
        assert!(
            matches!(found, ReadOutcome::Ready(4096)),
            "{clean}: {found:?}"
        );
    }
}

#[test]
fn a_small_file_is_checked_at_open_after_an_unclean_stop() {
    let place = Place::new(1 << 20);
    let (hurt, other) = (Source::new(1, 10_000), Source::new(2, 10_000));
    let (cache, _events) = place.open();
    fill(&cache, &hurt);
    fill(&cache, &other);
    drop(cache);
    overwrite(&paths(&place, &hurt).data, 7_000, b"rot");
    fs::remove_file(place.cache_dir().join("clean")).unwrap();
    let (cache, _events) = place.open();
    let mut page = vec![0; 10_000];
    let file = open_file(&cache, &hurt);
    assert!(file.backing().is_none(), "the kernel must not read it");
    let found = file.read_at(0, &mut page).unwrap();
    assert!(matches!(found, ReadOutcome::Missing(_)));
    assert!(!cache.is_complete(&hurt.hash()));
    let file = open_file(&cache, &other);
    assert!(file.backing().is_some() && cache.is_complete(&other.hash()));
    assert_eq!(other.check_all(&file), 10_000);
    assert!(cache.unverified().is_empty());
}

#[test]
fn a_rotten_outboard_costs_chunks_and_proves_nothing_wrong() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 200_000);
    fill(&cache, &source);
    overwrite(&paths(&place, &source).outboard, 0, &[7; 64]);
    let file = open_file(&cache, &source);
    assert!(
        file.encode(ByteRange::new(0, 1000), &PiecePool::default())
            .is_err()
    );
    assert_eq!(file.missing_in(source.whole()).len(), 65_536);
    source.store(&file, ByteRange::new(0, 65_536));
    assert!(
        file.encode(source.whole(), &PiecePool::default()).is_ok(),
        "the right pairs came with the bytes"
    );
}

#[test]
fn a_broken_map_or_missing_data_affects_that_file_only() {
    let damage: [fn(&Paths); 6] = [
        |paths| overwrite(&paths.map, 3, b"???"),
        |paths| fs::write(&paths.map, b"").unwrap(),
        |paths| fs::remove_file(&paths.data).unwrap(),
        |paths| fs::remove_file(&paths.outboard).unwrap(),
        |paths| fs::write(&paths.data, b"short").unwrap(),
        |paths| fs::write(&paths.map, vec![0; 1 << 20]).unwrap(),
    ];
    for damage in damage {
        let place = Place::new(1 << 20);
        let (cache, _events) = place.open();
        let (hurt, other) = (Source::new(1, 90_000), Source::new(2, 90_000));
        fill(&cache, &hurt);
        fill(&cache, &other);
        drop(cache);
        damage(&paths(&place, &hurt));
        let (cache, events) = place.open();
        assert!(cache.existing(&hurt.hash()).unwrap().is_none());
        assert!(matches!(events.try_recv(), Ok(CacheEvent::Evicted { .. })));
        assert_eq!(other.check_all(&open_file(&cache, &other)), 90_000);
        assert_eq!(fill(&cache, &hurt), Stored::Kept);
        assert_eq!(hurt.check_all(&open_file(&cache, &hurt)), 90_000);
        assert!(place.taken_bytes() <= cache.usage().used_bytes);
    }
}

#[test]
fn data_truncated_under_an_open_file_is_missing_and_not_zero() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let source = Source::new(1, 90_000);
    let file = open_file(&cache, &source);
    source.store(&file, source.whole());
    let data = fs::OpenOptions::new()
        .write(true)
        .open(paths(&place, &source).data)
        .unwrap();
    data.set_len(70_000).unwrap();
    let outcome = file.read_at(80_000, &mut [0; 100]).unwrap();
    assert_eq!(
        outcome,
        ReadOutcome::Missing(ByteRange::new(65_536, 90_000))
    );
    assert_eq!(source.check_all(&file), 65_536);
}

#[test]
fn damaged_pins_lose_only_the_damaged_ones_are_reported_once_and_saved_aside() {
    let place = Place::new(1 << 20);
    let hashes: Vec<_> = (0..8_u8).map(|byte| ContentHash::of(&[byte])).collect();
    let label = Box::from(&b"docs/a"[..]);
    let labelled = |hash: &ContentHash| (*hash, Box::clone(&label));
    let all: Vec<_> = hashes.iter().map(labelled).collect();
    let (cache, _events) = place.open();
    cache.pin_all(&all).unwrap();
    drop(cache);
    let pins = place.cache_dir().join("pins");
    let sound = fs::read(&pins).unwrap();
    let line = (sound.len() - 1) / 9;
    let before_last = sound[..sound.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n');
    let lost_a_line = before_last.unwrap() + 1;
    let mut rotten = sound.clone();
    // A changed digit makes another hash, and nothing in the line reveals it.
    let digit = rotten.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    rotten[digit] = if rotten[digit] == b'0' { b'1' } else { b'0' };
    let damages = [
        (
            sound[..lost_a_line].to_vec(),
            7,
            "7 of its 8 pins can be read",
        ),
        (
            sound[..sound.len() - 3].to_vec(),
            8,
            "8 pins can be read, perhaps not all as they were",
        ),
        (sound[..line].to_vec(), 0, "can be read"),
        (
            rotten,
            8,
            "8 pins can be read, perhaps not all as they were",
        ),
        (
            [&sound[..], b"\xff\xfe garbage\n"].concat(),
            8,
            "perhaps not all",
        ),
        (Vec::new(), 0, "it is empty"),
    ];
    for (number, (damaged, left, told)) in (1..).zip(damages) {
        fs::write(&pins, &damaged).unwrap();
        let aside = place.cache_dir().join(format!("pins.aside-{number}"));
        let (cache, _events) = place.open();
        assert_eq!(cache.pins().len(), left);
        let problems = cache.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        for word in [told, pins.to_str().unwrap(), aside.to_str().unwrap()] {
            assert!(problems[0].contains(word), "{problems:?}");
        }
        assert_eq!(fs::read(aside).unwrap(), damaged);
        drop(cache);
        let (cache, _events) = place.open();
        assert_eq!((cache.pins().len(), cache.problems()), (left, vec![]));
    }
}

#[test]
fn pins_written_before_checksums_existed_are_read() {
    let place = Place::new(1 << 20);
    let hashes = [b"a", b"b"].map(|text| ContentHash::of(text));
    let (cache, _events) = place.open();
    for hash in hashes {
        pin(&cache, hash, true).unwrap();
    }
    drop(cache);
    let pins = place.cache_dir().join("pins");
    let text = fs::read_to_string(&pins).unwrap();
    let (_sum, lines) = text.split_once('\n').unwrap();
    fs::write(&pins, lines).unwrap();
    let (cache, _events) = place.open();
    assert_eq!((cache.pins().len(), cache.problems()), (2, vec![]));
}
