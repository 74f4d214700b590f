//! Files on disk between two runs of a daemon, and directories with foreign or missing parts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use p2pfs_types::pool::PiecePool;

#[test]
fn an_empty_file_is_complete_at_creation_and_after_a_restart() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let empty = Source::new(1, 0);
    let file = open_file(&cache, &empty);
    assert!(file.is_complete() && file.backing().is_some());
    assert_eq!(file.read_at(0, &mut [0; 9]).unwrap(), ReadOutcome::Ready(0));
    let proof = file
        .encode(ByteRange::new(0, 0), &PiecePool::default())
        .unwrap();
    assert!(digest::decode(empty.hash(), 0, ByteRange::new(0, 0), proof).is_ok());
    drop((file, cache));
    let (cache, _events) = place.open();
    assert!(cache.is_complete(&empty.hash()));
    let lie = cache.file(ContentHash::of(b"x"), 0);
    assert!(matches!(lie, Err(CacheError::ImpossibleSize { .. })));
}

#[test]
fn the_whole_cache_is_present_after_a_restart() {
    let place = Place::new(4 << 20);
    let sources: Vec<_> = (0..5).map(|seed| Source::new(seed, 150_000)).collect();
    let (cache, _events) = place.open();
    for source in &sources {
        source.store(&open_file(&cache, source), ByteRange::new(4096, 140_000));
    }
    let before = cache.usage();
    drop(cache);
    let (cache, _events) = place.open();
    assert_eq!(cache.usage(), before);
    for source in &sources {
        let file = cache.existing(&source.hash()).unwrap().unwrap();
        assert_eq!(source.check_all(&file), 33 * PAGE_BYTES);
        file.encode(ByteRange::new(65_536, 131_072), &PiecePool::default())
            .unwrap();
    }
    assert!(cache.unverified().is_empty());
}

#[test]
fn many_small_files_are_present_after_a_restart() {
    let place = Place::new(16 << 20);
    let (cache, _events) = place.open();
    let sources: Vec<_> = (0..400).map(|seed| Source::new(seed, 300)).collect();
    sources
        .iter()
        .for_each(|source| assert_eq!(fill(&cache, source), Stored::Kept));
    drop(cache);
    let (cache, _events) = place.open();
    assert_eq!((cache.complete().len(), cache.problems()), (400, vec![]));
    assert_eq!(sources[7].check_all(&open_file(&cache, &sources[7])), 300);
}

/// Returns the names of the files that a content has on disk.
fn files_of(place: &Place, source: &Source) -> Vec<String> {
    let hex = source.hash().to_string();
    let shard = fs::read_dir(place.cache_dir().join(&hex[..2]));
    let names = shard.into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    let ours = names.filter_map(|name| name.strip_prefix(&hex).map(str::to_owned));
    let mut ours: Vec<_> = ours.collect();
    ours.sort();
    ours
}

#[test]
fn a_small_file_is_one_file_on_disk_and_none_before_its_first_bytes() {
    let place = Place::new(1 << 20);
    let (cache, events) = place.open();
    let small = Source::new(1, 65_536);
    let file = open_file(&cache, &small);
    assert!(files_of(&place, &small).is_empty());
    small.store(&file, ByteRange::new(8192, 16_384));
    cache.flush();
    assert_eq!(files_of(&place, &small), [".data"]);
    small.store(&file, small.whole());
    assert!(matches!(
        events.try_iter().next(),
        Some(CacheEvent::Completed { .. })
    ));
    drop((file, cache));
    let (cache, _events) = place.open();
    assert!(cache.is_complete(&small.hash()));
    assert_eq!(small.check_all(&open_file(&cache, &small)), 65_536);
    assert_eq!(files_of(&place, &small), [".data"]);
    cache.clear();
    assert!(files_of(&place, &small).is_empty());
}

#[test]
fn without_extended_attributes_a_small_file_has_a_map_beside_it() {
    let place = Place::new(1 << 20);
    let faults = Arc::new(Faults::none());
    faults.remove_attribute_support();
    let (cache, _events) = place.try_open(Some(faults)).unwrap();
    let small = Source::new(1, 20_000);
    fill(&cache, &small);
    assert_eq!(files_of(&place, &small), [".data", ".map"]);
    drop(cache);
    let (cache, _events) = place.open();
    assert!(cache.is_complete(&small.hash()));
    assert_eq!(small.check_all(&open_file(&cache, &small)), 20_000);
    cache.clear();
    assert!(files_of(&place, &small).is_empty());
}

#[test]
fn a_small_file_in_the_older_format_is_readable_and_removed_as_a_whole() {
    use crate::map::{Boot, header, record};
    let place = Place::new(1 << 20);
    let small = Source::new(1, 5_000);
    drop(place.open());
    let layout = crate::layout::Layout {
        dir: place.cache_dir(),
    };
    let paths = layout.paths(&small.hash());
    fs::create_dir_all(paths.data.parent().unwrap()).unwrap();
    fs::write(&paths.data, &small.data).unwrap();
    fs::write(&paths.outboard, b"").unwrap();
    let mut map = header(&small.hash(), small.size()).to_vec();
    let pages = [3, 0, 0, 0, 0, 0, 0, 0];
    map.extend(record(&small.hash(), 0, Boot::DURABLE, &pages));
    fs::write(&paths.map, map).unwrap();
    // Simulates that the older cache stopped only now.
    fs::remove_file(layout.clean()).unwrap();
    fs::write(layout.clean(), b"").unwrap();
    let (cache, _events) = place.open();
    assert!(cache.is_complete(&small.hash()) && cache.problems().is_empty());
    let file = open_file(&cache, &small);
    assert_eq!(small.check_all(&file), 5_000);
    file.shared()
        .drop_range(&cache.core().context, small.whole());
    small.store(&file, small.whole());
    drop((file, cache));
    let (cache, _events) = place.open();
    assert!(cache.is_complete(&small.hash()));
    cache.clear();
    assert!(files_of(&place, &small).is_empty());
}

#[test]
fn pins_survive_a_restart_whether_cached_or_not() {
    let place = Place::new(1 << 20);
    let hashes: Vec<_> = (0u8..4).map(|n| ContentHash::of(&[n])).collect();
    let (cache, _events) = place.open();
    let label: Box<[u8]> = b"a name\n\xff"[..].into();
    let labelled: Vec<_> = hashes.iter().map(|hash| (*hash, label.clone())).collect();
    cache.pin_all(&labelled).unwrap();
    pin(&cache, hashes[1], false).unwrap();
    pin(&cache, hashes[2], true).unwrap();
    drop(cache);
    let (cache, _events) = place.open();
    assert_eq!(cache.pins().len(), 3);
    assert!(cache.labelled_pins().iter().all(|(_, kept)| *kept == label));
    assert!(!cache.is_pinned(&hashes[1]) && cache.is_pinned(&hashes[3]));
}

#[test]
fn a_second_daemon_is_refused_and_told_which_process_holds_the_cache() {
    let place = Place::new(1 << 20);
    let (cache, _events) = place.open();
    let text = place.try_open(None).map(drop).unwrap_err().to_string();
    assert!(text.contains(&place.cache_dir().display().to_string()) && text.contains("--cache"));
    let file = open_file(&cache, &Source::new(1, 10));
    drop(cache);
    assert!(matches!(
        place.try_open(None).map(drop),
        Err(CacheError::Locked { .. })
    ));
    drop(file);
    place.open();
}

#[test]
fn a_cache_of_a_newer_version_or_unknown_origin_is_left_untouched() {
    let place = Place::new(1 << 20);
    fill(&place.open().0, &Source::new(1, 100));
    let version = place.cache_dir().join("version");
    let before = place.taken_bytes();
    fs::write(&version, "p2pfs-cache 2\n").unwrap();
    let newer = place.try_open(None).map(drop);
    assert!(matches!(newer, Err(CacheError::NewerVersion { ref found, .. }) if found == "2"));
    assert!(
        newer
            .unwrap_err()
            .to_string()
            .contains("nothing was deleted")
    );
    fs::write(&version, "3.1.4").unwrap();
    assert!(matches!(
        place.try_open(None).map(drop),
        Err(CacheError::NotACache { .. })
    ));
    assert_eq!(place.taken_bytes(), before);
}

#[test]
fn strange_files_are_left_alone_and_listed_up_to_a_limit() {
    let place = Place::new(1 << 20);
    let source = Source::new(1, 100);
    fill(&place.open().0, &source);
    let shard = place.cache_dir().join(&source.hash().to_string()[..2]);
    let strange = [place.cache_dir().join("notes.txt"), shard.join("x.data")];
    strange
        .iter()
        .for_each(|path| fs::write(path, "mine").unwrap());
    for number in 0..100 {
        fs::write(shard.join(format!("junk{number}")), "").unwrap();
    }
    let (cache, _events) = place.open();
    assert_eq!(cache.problems().len(), super::super::PROBLEMS_MAX);
    assert!(
        strange
            .iter()
            .all(|path| fs::read(path).unwrap() == b"mine")
    );
    assert!(cache.is_complete(&source.hash()));
}

#[test]
fn only_the_owner_can_list_the_directories() {
    let place = Place::new(1 << 20);
    let source = Source::new(1, 100);
    fill(&place.open().0, &source);
    let shard = place.cache_dir().join(&source.hash().to_string()[..2]);
    for dir in [place.cache_dir(), shard] {
        assert_eq!(
            fs::metadata(dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}

#[test]
fn a_file_opened_without_a_store_leaves_nothing() {
    let place = Place::new(1 << 20);
    let (cache, events) = place.open();
    drop(open_file(&cache, &Source::new(1, 100_000)));
    assert_eq!((cache.usage().files, place.taken_bytes()), (0, 0));
    assert!(events.try_iter().next().is_none());
}
