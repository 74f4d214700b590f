//! Tests of serving: hashed files are sent, changed ones are not.

use std::io::{Read, Seek, Write};
use std::os::unix::fs::symlink;

use super::*;
use p2pfs_types::digest::decode;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::pool::PiecePool;

pub(super) fn content(size: usize, seed: u8) -> Vec<u8> {
    (0..size)
        .map(|i| (i / 251) as u8 ^ (i as u8).wrapping_mul(31) ^ seed)
        .collect()
}

pub(super) fn served(bytes: &[u8], range: ByteRange, file: &ShareFile) -> Vec<u8> {
    let hash = ContentHash::of(bytes);
    let proof = file.encode(range, &PiecePool::default()).unwrap();
    let verified = decode(hash, bytes.len() as u64, range, proof).unwrap();
    verified.slice(range).unwrap().to_vec()
}

#[test]
fn files_in_a_directory_that_became_private_are_no_longer_served() {
    for directory in ["d", ""] {
        let mut bench = ShareBench::new();
        bench.mkdir("d");
        bench.write("d/f", b"just written");
        let hash = ContentHash::of(b"just written");
        bench.wait_for("the file", |b| b.has("d/f", b"just written"));
        assert!(bench.set().source(&hash).is_ok());
        bench.chmod(directory, 0o700);
        bench.wait_for("it to go", |b| b.entry("d/f").is_none());
        assert!(bench.set().source(&hash).is_err(), "{directory:?}");
        let left_out = bench.set().left_out_at(&path("d/f"));
        assert_eq!(left_out[0].why, LeftOutWhy::Private, "{directory:?}");
    }
}

#[test]
fn any_range_of_a_shared_file_is_served_with_its_proof() {
    let mut bench = ShareBench::new();
    for size in [1, 65_536, 200_000, 3_000_000] {
        let bytes = content(size, 1);
        bench.write("f", &bytes);
        bench.wait_for("listed", |b| b.has("f", &bytes));
        let file = bench.set().source(&ContentHash::of(&bytes)).unwrap();
        assert_eq!(file.size_bytes(), size as u64);
        assert!(file.is_current());
        for range in [
            ByteRange::new(0, size as u64),
            ByteRange::at(size as u64 / 2, 1),
        ] {
            let wanted = &bytes[range.start as usize..range.end as usize];
            assert_eq!(served(&bytes, range, &file), wanted);
        }
        let outside = file.encode(ByteRange::at(size as u64, 1), &PiecePool::default());
        assert!(matches!(outside, Err(ShareError::OutOfRange)));
        assert!(
            bench.entry("f").is_some(),
            "who asks for nonsense withdraws nothing"
        );
    }
}

#[test]
fn an_empty_file_is_served() {
    let mut bench = ShareBench::new();
    bench.write("f", b"");
    bench.wait_for("listed", |b| b.has("f", b""));
    let file = bench.set().source(&ContentHash::of(b"")).unwrap();
    let proof = file
        .encode(ByteRange::new(0, 0), &PiecePool::default())
        .unwrap();
    assert!(decode(ContentHash::of(b""), 0, ByteRange::new(0, 0), proof).is_ok());
}

#[test]
fn a_file_changed_unnoticed_is_gone_and_returns_with_its_new_content() {
    let mut bench = ShareBench::bare();
    // without watches and rescans, only serving can notice the change
    bench.config.watch_limit = 0;
    // too large to be kept in memory
    let (old, new) = (content(1_500_000, 1), content(1_500_000, 2));
    bench.write("f", &old);
    bench.write("copy", &old);
    date(&bench.at("f"), 1_000_000);
    date(&bench.at("copy"), 1_000_000);
    bench.start();
    bench.prove();
    let file = bench.set().source(&ContentHash::of(&old)).unwrap();
    let names = ["f", "copy"].map(|name| bench.at(name));
    for name in names {
        let mut file = fs::OpenOptions::new().write(true).open(&name).unwrap();
        file.write_all(&new).unwrap();
        drop(file);
        date(&name, 1_000_000);
    }
    assert!(!file.is_current());
    let result = file.encode(ByteRange::new(100_000, 200_000), &PiecePool::default());
    assert!(matches!(result, Err(ShareError::Gone)), "{result:?}");
    assert!(bench.set().source(&ContentHash::of(&old)).is_err());
    bench.wait_for("rehashed", |b| b.has("f", &new) && b.has("copy", &new));
    let removed = |e: &&ShareEvent| matches!(e, ShareEvent::Removed { .. });
    assert_eq!(bench.history.iter().filter(removed).count(), 0);
    assert!(bench.set().source(&ContentHash::of(&new)).is_ok());
}

/// As a database with a transaction every moment: its pages change, and its writer never rests.
#[test]
fn a_file_that_is_written_all_the_time_stays_listed_with_its_last_version() {
    let mut bench = ShareBench::bare();
    let old = content(3_000_000, 1);
    bench.write("db", &old);
    bench.start();
    let hash = ContentHash::of(&old);
    let reader = bench.set().provable(&hash).unwrap();
    let writer = fs::OpenOptions::new().write(true).open(bench.at("db"));
    let mut writer = writer.unwrap();
    let deadline = Instant::now() + 10 * QUIET;
    while Instant::now() < deadline {
        writer.rewind().unwrap();
        writer
            .write_all(&[bench.history.len() as u8; 5000])
            .unwrap();
        let gone = reader.encode(ByteRange::at(0, 10), &PiecePool::default());
        assert!(matches!(gone, Err(ShareError::Gone)), "{gone:?}");
        // also for a reader that opens it now
        let opened = bench.set().provable(&hash);
        let proof =
            opened.and_then(|file| file.encode(ByteRange::at(0, 10), &PiecePool::default()));
        assert!(proof.is_err());
        bench.set().wait_settled(QUIET / 10);
        while let Ok(event) = bench.events.as_mut().unwrap().try_recv() {
            bench.take(event);
        }
        assert!(bench.entry("db").is_some(), "it is off the list");
    }
    drop(writer);
    let new = fs::read(bench.at("db")).unwrap();
    bench.wait_for("the last state", |b| b.has("db", &new));
    assert!(bench.set().source(&ContentHash::of(&new)).is_ok());
}

#[test]
fn the_old_version_of_a_log_that_grew_is_served_and_one_that_was_rewritten_is_not() {
    let mut bench = ShareBench::bare();
    // the writer stays at work
    bench.config.quiet = PATIENCE;
    let old = content(3_000_000, 1);
    bench.write("log", &old);
    date(&bench.at("log"), 1_000_000);
    bench.start();
    let hash = ContentHash::of(&old);
    let mut log = fs::OpenOptions::new();
    let mut log = log.append(true).open(bench.at("log")).unwrap();
    let mut take = |bench: &ShareBench| {
        log.write_all(b"one more line\n").unwrap();
        bench.set().provable(&hash)
    };
    let range = ByteRange::new(2_900_000, 3_000_000);
    let file = take(&bench).unwrap();
    assert_eq!(served(&old, range, &file), &old[2_900_000..]);
    assert!(
        bench.set().source(&hash).is_err(),
        "live reads would be mixtures"
    );
    let other = fs::OpenOptions::new().write(true).open(bench.at("log"));
    other.unwrap().write_all(b"another start").unwrap();
    let whole = ByteRange::new(0, 100_000);
    let gone = take(&bench).unwrap().encode(whole, &PiecePool::default());
    assert!(matches!(gone, Err(ShareError::Gone)), "{gone:?}");
    assert!(bench.set().provable(&hash).is_err());
}

#[test]
fn former_versions_of_a_log_are_served_after_new_ones_are_listed() {
    for size in [200_000, 3_000_000] {
        let mut bench = ShareBench::bare();
        let mut bytes = content(size, 1);
        bench.write("log", &bytes);
        bench.start();
        let mut former = Vec::new();
        for _ in 0..3 {
            former.push(bytes.clone());
            bytes.extend(b"one more line\n");
            let log = fs::OpenOptions::new().append(true).open(bench.at("log"));
            log.unwrap().write_all(b"one more line\n").unwrap();
            bench.wait_for("the line", |b| b.has("log", &bytes));
        }
        for old in &former {
            let file = bench.set().provable(&ContentHash::of(old)).unwrap();
            let range = ByteRange::new(old.len() as u64 - 1000, old.len() as u64);
            assert_eq!(served(old, range, &file), old[old.len() - 1000..]);
            let all = bench.set().shared_for(&ContentHash::of(old));
            assert_eq!(all, SharedFor::All);
        }
        fs::remove_file(bench.at("log")).unwrap();
        bench.wait_for("removed", |b| b.entry("log").is_none());
        for old in &former {
            let all = bench.set().shared_for(&ContentHash::of(old));
            assert_eq!(all, SharedFor::Nobody);
        }
    }
}

#[test]
fn a_request_for_a_file_that_changed_unseen_has_it_checked() {
    let mut bench = ShareBench::bare();
    // without watches and rescans, only the request can notice the change
    bench.config.watch_limit = 0;
    // too large to be kept in memory
    let (old, new) = (content(1_500_000, 1), content(1_500_000, 2));
    bench.write("disk.img", &old);
    date(&bench.at("disk.img"), 1_000_000);
    bench.start();
    bench.prove();
    let image = fs::OpenOptions::new()
        .write(true)
        .open(bench.at("disk.img"));
    image.unwrap().write_all(&new).unwrap();
    assert!(bench.set().source(&ContentHash::of(&old)).is_err());
    bench.wait_for("the new version", |b| b.has("disk.img", &new));
    let removed = |e: &&ShareEvent| matches!(e, ShareEvent::Removed { .. });
    assert_eq!(bench.history.iter().filter(removed).count(), 0);
}

#[test]
fn a_file_truncated_while_served_is_gone() {
    let mut bench = ShareBench::new();
    let bytes = content(300_000, 1);
    bench.write("f", &bytes);
    bench.wait_for("listed", |b| b.has("f", &bytes));
    let file = bench.set().source(&ContentHash::of(&bytes)).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(bench.at("f"))
        .unwrap()
        .set_len(100)
        .unwrap();
    assert!(matches!(
        file.encode(ByteRange::at(200_000, 10), &PiecePool::default()),
        Err(ShareError::Gone)
    ));
    bench.wait_for("as it is", |b| b.has("f", &bytes[..100]));
}

#[test]
fn an_open_source_still_serves_when_its_name_is_replaced_or_deleted() {
    let mut bench = ShareBench::new();
    let (old, new) = (content(300_000, 1), content(300_000, 2));
    bench.write("f", &old);
    bench.wait_for("listed", |b| b.has("f", &old));
    let file = bench.set().source(&ContentHash::of(&old)).unwrap();
    fs::write(bench.home.path().join("new"), &new).unwrap();
    fs::rename(bench.home.path().join("new"), bench.at("f")).unwrap();
    bench.wait_for("replaced", |b| b.has("f", &new));
    let range = ByteRange::new(1000, 200_000);
    assert_eq!(served(&old, range, &file), &old[1000..200_000]);
}

#[test]
fn a_damaged_outboard_costs_a_rehash_and_no_wrong_byte() {
    let mut bench = ShareBench::bare();
    let bytes = content(3_000_000, 1);
    bench.write("f", &bytes);
    bench.start();
    let hash = ContentHash::of(&bytes);
    let kept = bench
        .config
        .state_dir
        .join("outboards")
        .join(hash.to_string());
    let mut pairs = fs::read(&kept).unwrap();
    pairs.iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&kept, pairs).unwrap();
    let file = bench.set().source(&hash).unwrap();
    assert!(matches!(
        file.encode(ByteRange::at(0, 10), &PiecePool::default()),
        Err(ShareError::Gone)
    ));
    // the file is a source again only once it was read again, which may have happened already
    if let Ok(file) = bench.set().source(&hash) {
        assert_eq!(served(&bytes, ByteRange::at(5, 10), &file), &bytes[5..15]);
    }
    bench.settle();
    assert!(bench.has("f", &bytes));
    let removed = |e: &&ShareEvent| matches!(e, ShareEvent::Removed { .. });
    assert_eq!(bench.history.iter().filter(removed).count(), 0);
    let file = bench.set().source(&hash).unwrap();
    assert_eq!(served(&bytes, ByteRange::at(5, 10), &file), &bytes[5..15]);
}

#[test]
fn another_name_of_the_same_content_takes_over() {
    let mut bench = ShareBench::new();
    bench.write("a", b"same");
    bench.write("b", b"same");
    bench.wait_for("listed", |b| b.has("a", b"same") && b.has("b", b"same"));
    for name in ["a", "b"] {
        assert!(bench.set().source(&ContentHash::of(b"same")).is_ok());
        fs::remove_file(bench.at(name)).unwrap();
        bench.settle();
    }
    assert!(!bench.set().holds(&ContentHash::of(b"same")));
}

#[test]
fn an_own_file_is_read_live() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"first");
    let index = bench.start();
    let mut own = bench.set().own(index, &path("f")).unwrap();
    bench.write("f", b"second one");
    let mut text = String::new();
    own.rewind().unwrap();
    own.read_to_string(&mut text).unwrap();
    assert_eq!(text, "second one");
    let attributes = bench.set().stat(index, &path("f")).unwrap();
    assert_eq!((attributes.form, attributes.size_bytes), (Form::File, 10));
    let absent = bench.set().stat(index, &path("absent"));
    assert!(matches!(absent, Err(ShareError::NotHere)));
}

#[test]
fn an_unshared_file_is_neither_opened_nor_described() {
    let mut bench = ShareBench::bare();
    fs::write(bench.home.path().join("secret"), b"s").unwrap();
    symlink("../secret", bench.at("out")).unwrap();
    symlink("..", bench.at("up")).unwrap();
    bench.write("private", b"p");
    bench.chmod("private", 0o600);
    bench.mkdir("d");
    bench.fifo("fifo");
    let index = bench.start();
    for name in ["out", "up/secret", "private", "d", "fifo", "absent"] {
        let opened = bench.set().own(index, &path(name));
        assert!(matches!(opened, Err(ShareError::NotHere)), "{name}");
    }
    for name in ["up/secret", "private", "fifo"] {
        let described = bench.set().stat(index, &path(name));
        assert!(matches!(described, Err(ShareError::NotHere)), "{name}");
    }
    assert_eq!(
        bench.set().stat(index, &path("d")).unwrap().form,
        Form::Directory
    );
}

#[test]
fn the_names_of_a_directory_are_described_as_each_currently_is() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.write("d/f", b"first");
    bench.write("d/private", b"p");
    bench.chmod("d/private", 0o600);
    symlink("../..", bench.at("d/up")).unwrap();
    let index = bench.start();
    let stat = bench.set().stats_in(index, &path("d")).unwrap();
    assert_eq!(stat(b"f").unwrap().size_bytes, 5);
    bench.write("d/f", b"second one");
    assert_eq!(stat(b"f").unwrap().size_bytes, 10);
    for name in [&b"private"[..], b"absent", b"up/secret", b""] {
        let described = stat(name);
        assert!(matches!(described, Err(ShareError::NotHere)), "{name:?}");
    }
    for absent in ["absent", "d/f", "d/up"] {
        let described = bench.set().stats_in(index, &path(absent));
        assert!(matches!(described, Err(ShareError::NotHere)), "{absent}");
    }
}

#[test]
fn many_readers_of_an_evicted_outboard_all_get_their_bytes() {
    let mut bench = ShareBench::bare();
    bench.config.outboard_budget_bytes = 0;
    let bytes = content(2_500_000, 7);
    bench.write("f", &bytes);
    bench.start();
    let hash = ContentHash::of(&bytes);
    std::thread::scope(|scope| {
        for reader in 0..8u64 {
            let (set, bytes) = (bench.set().clone(), &bytes);
            scope.spawn(move || {
                let file = set.source(&hash).unwrap();
                let range = ByteRange::at(reader * 300_000, 1000);
                let wanted = &bytes[range.start as usize..range.end as usize];
                assert_eq!(served(bytes, range, &file), wanted);
            });
        }
    });
}

#[test]
fn a_recently_replaced_small_file_is_served_in_its_old_version() {
    let mut bench = ShareBench::new();
    let (old, new) = (content(300_000, 1), content(300_000, 2));
    bench.write("f", &old);
    bench.wait_for("listed", |b| b.has("f", &old));
    fs::write(bench.home.path().join("new"), &new).unwrap();
    fs::rename(bench.home.path().join("new"), bench.at("f")).unwrap();
    // whether or not its new version is listed by now
    let range = ByteRange::new(1000, 200_000);
    let before = bench.set().source(&ContentHash::of(&old)).unwrap();
    assert_eq!(served(&old, range, &before), &old[1000..200_000]);
    bench.wait_for("replaced", |b| b.has("f", &new));
    let after = bench.set().source(&ContentHash::of(&old)).unwrap();
    assert_eq!(served(&old, range, &after), &old[1000..200_000]);
    fs::remove_file(bench.at("f")).unwrap();
    bench.wait_for("gone", |b| b.entry("f").is_none());
    assert!(bench.set().source(&ContentHash::of(&new)).is_ok());
}

#[test]
fn a_file_made_private_is_not_served_before_a_watch_reports_it() {
    let mut bench = ShareBench::bare();
    bench.config.watch_limit = 0;
    let (small, large) = (content(3_000, 1), content(3_000_000, 2));
    bench.write("small", &small);
    bench.write("large", &large);
    bench.start();
    let open = bench.set().source(&ContentHash::of(&large)).unwrap();
    bench.chmod("small", 0o600);
    bench.chmod("large", 0o640);
    for bytes in [&small, &large] {
        let hash = ContentHash::of(bytes);
        assert!(bench.set().source(&hash).is_err());
    }
    let range = ByteRange::at(0, 100);
    assert!(
        matches!(
            open.encode(range, &PiecePool::default()),
            Err(ShareError::NotHere)
        ),
        "one that is open"
    );
    assert!(open.encode_at_once(range, &PiecePool::default()).is_none());
}

#[test]
fn a_retained_copy_is_not_served_once_the_file_is_private() {
    let mut bench = ShareBench::new();
    bench.write("f", b"told by mistake");
    bench.wait_for("listed", |b| b.has("f", b"told by mistake"));
    bench.chmod("f", 0o600);
    let hash = ContentHash::of(b"told by mistake");
    assert!(bench.set().source(&hash).is_err());
    bench.wait_for("withdrawn", |b| b.entry("f").is_none());
    assert!(bench.set().source(&hash).is_err());
}

#[test]
fn files_listed_before_a_restart_are_served_before_the_scan_reaches_them() {
    let mut bench = ShareBench::bare();
    let bytes = content(300_000, 1);
    bench.write("f", &bytes);
    bench.start();
    bench.stop();
    bench.open();
    // the log's entries are restored in the same step that adds the share
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    let file = bench.set().source(&ContentHash::of(&bytes)).unwrap();
    let range = ByteRange::new(0, 300_000);
    assert_eq!(served(&bytes, range, &file), bytes);
}

/// A reader of a content that only this node has waits for the shares while the node restarts.
#[test]
fn a_missing_file_is_not_called_absent_until_all_shares_were_added() {
    let bench = ShareBench::new();
    let hash = ContentHash::of(b"in a share that is still to be added");
    let found = bench.set().source(&hash).map(drop).unwrap_err();
    assert!(found.is_want(), "{found}");
    bench.set().all_added();
    let found = bench.set().source(&hash).map(drop).unwrap_err();
    assert!(matches!(found, ShareError::NotHere), "{found}");
}

/// A reader with the file open must not be told that it is gone.
#[test]
fn a_renamed_file_is_found_under_one_name_or_the_other_or_soon() {
    let mut bench = ShareBench::new();
    // too large to be kept in memory
    let bytes = content(30 << 20, 1);
    let hash = ContentHash::of(&bytes);
    bench.mkdir("d");
    bench.write("a", &bytes);
    bench.settle();
    bench.set().all_added();
    let mut name = "a".to_owned();
    for round in 0..100 {
        let next = [format!("b{round}"), format!("d/c{round}")][round % 2].clone();
        fs::rename(bench.at(&name), bench.at(&next)).unwrap();
        name = next;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = bench.set().source(&hash) {
            assert!(error.is_want(), "{round}: {error}");
            assert!(Instant::now() < deadline, "{round}: not found as {name}");
            std::thread::yield_now();
        }
    }
    // also if another file has taken its former name
    bench.write("next", b"another");
    fs::rename(bench.at(&name), bench.at("old")).unwrap();
    fs::rename(bench.at("next"), bench.at(&name)).unwrap();
    while let Err(error) = bench.set().source(&hash) {
        assert!(error.is_want(), "replaced: {error}");
    }
}

#[test]
fn a_permanently_removed_file_is_reported_as_gone_even_without_watches() {
    for watch_limit in [0, 100] {
        let mut bench = ShareBench::bare();
        bench.config.watch_limit = watch_limit;
        bench.start();
        let bytes = content(30 << 20, 1);
        bench.write("f", &bytes);
        bench.set().rescan();
        bench.settle();
        bench.set().all_added();
        fs::rename(bench.at("f"), bench.home.path().join("f")).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let hash = ContentHash::of(&bytes);
        let found = loop {
            match bench.set().source(&hash) {
                Err(error) if error.is_want() => assert!(Instant::now() < deadline),
                found => break found,
            }
        };
        assert!(matches!(found.map(drop), Err(ShareError::NotHere)));
    }
}
