//! Tests of files that change faster than they can be hashed, or without a rest.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::FileExt as _;

use super::serving::{content, served};
use super::*;
use crate::name_state::BUSY_READ_AFTER;
use crate::pace::REREAD_BYTES_PER_S;
use crate::queue::PROMISED_MAX_BYTES;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::pool::PiecePool;

#[test]
fn large_file_that_always_changes_is_read_at_a_bounded_rate_and_listed_at_last() {
    let mut bench = ShareBench::bare();
    let mut bytes = vec![0; usize::try_from(PROMISED_MAX_BYTES).unwrap() + 1];
    bench.write("log", &bytes);
    bench.start();
    assert!(bench.has("log", &bytes));
    let (start, before) = (Instant::now(), bench.set().read_bytes());
    for number in 0.. {
        assert!(start.elapsed() < PATIENCE, "the status does not name it");
        write_over(&bench.at("log"), &mut bytes, number);
        let marker = format!("marker-{number}");
        bench.write(&marker, marker.as_bytes());
        bench.wait_for("the marker", |b| b.has(&marker, marker.as_bytes()));
        assert!(bench.entry("log").is_some());
        if is_named(&bench) {
            break;
        }
    }
    let read = bench.set().read_bytes() - before;
    let allowed = REREAD_BYTES_PER_S as f64 * start.elapsed().as_secs_f64();
    let once = bytes.len() as f64;
    assert!(read as f64 <= allowed + 2.0 * once, "{read} of {allowed}");
    bench.wait_for("its last version", |b| b.has("log", &bytes));
}

fn size_of(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size_bytes, .. } => size_bytes,
        _ => panic!("not a file: {entry:?}"),
    }
}

/// Changes some bytes of a file in place.
fn write_over(path: &Path, bytes: &mut [u8], number: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let changed = number.to_be_bytes();
    file.write_all_at(&changed, 1 << 20).unwrap();
    bytes[1 << 20..][..changed.len()].copy_from_slice(&changed);
}

/// Appends a line to a log and closes it.
fn append_line(path: &Path, bytes: &mut Vec<u8>) {
    let mut log = fs::File::options().append(true).open(path).unwrap();
    log.write_all(b"line\n").unwrap();
    bytes.extend(b"line\n");
}

/// Starts a bench with a listed log that is too large to be read whole for each line.
fn large_log() -> (ShareBench, Vec<u8>) {
    let mut bench = ShareBench::bare();
    let bytes = content(usize::try_from(PROMISED_MAX_BYTES).unwrap() + 12_345, 5);
    bench.write("log", &bytes);
    date(&bench.at("log"), 1_000_000);
    bench.start();
    assert!(bench.has("log", &bytes));
    (bench, bytes)
}

#[test]
fn large_log_that_grows_is_listed_anew_at_the_cost_of_the_appended_bytes() {
    let (mut bench, mut bytes) = large_log();
    let before = bench.set().read_bytes();
    let first = ContentHash::of(&bytes);
    let mut former = vec![];
    for _ in 0..3 {
        former.push(bytes.clone());
        append_line(&bench.at("log"), &mut bytes);
        append_line(&bench.at("log"), &mut bytes);
        bench.wait_for("the lines", |b| b.has("log", &bytes));
    }
    let read = bench.set().read_bytes() - before;
    assert!(read < 1 << 20, "{read}");
    for old in former {
        let file = bench.set().provable(&ContentHash::of(&old)).unwrap();
        for start in [0, old.len() as u64 - 100_000] {
            let range = ByteRange::at(start, 100_000);
            let served = served(&old, range, &file);
            assert!(served == old[start as usize..][..100_000]);
        }
    }
    assert!(bench.set().holds(&ContentHash::of(&bytes)));
    write_over(&bench.at("log"), &mut bytes, 7);
    let changed = ByteRange::at(1 << 20, 8);
    let file = bench.set().provable(&first);
    assert!(
        file.and_then(|file| file.encode(changed, &PiecePool::default()))
            .is_err()
    );
    bench.wait_for("the changed log", |b| b.has("log", &bytes));
}

#[test]
fn large_file_that_grew_and_changed_elsewhere_is_read_whole() {
    let (mut bench, mut bytes) = large_log();
    let mut file = fs::File::options()
        .write(true)
        .open(bench.at("log"))
        .unwrap();
    file.write_all(b"header").unwrap();
    bytes[..6].copy_from_slice(b"header");
    drop(file);
    append_line(&bench.at("log"), &mut bytes);
    bench.wait_for("the file", |b| b.has("log", &bytes));
}

/// A change that no sample found is found by the read of the changed bytes.
#[test]
fn unnoticed_change_of_a_file_that_grew_is_found_when_it_is_read() {
    let (mut bench, mut bytes) = large_log();
    let old = ContentHash::of(&bytes);
    write_over(&bench.at("log"), &mut bytes, 7);
    append_line(&bench.at("log"), &mut bytes);
    bench.wait_for("a new version", |b| {
        let entry = b.entry("log").unwrap();
        !matches!(&entry.kind, Kind::File { hash, .. } if *hash == old)
    });
    let Kind::File { hash, .. } = bench.entry("log").unwrap().kind.clone() else {
        panic!("it is a file");
    };
    let file = bench.set().provable(&hash);
    let proof = file.and_then(|file| file.encode(ByteRange::at(1 << 20, 8), &PiecePool::default()));
    assert_eq!(proof.is_ok(), hash == ContentHash::of(&bytes));
    bench.wait_for("the right version", |b| b.has("log", &bytes));
}

/// Its writer was at work before the node started and never rests.
#[test]
fn large_log_that_is_always_written_is_listed_and_grows() {
    let mut bench = ShareBench::bare();
    let mut bytes = vec![7; usize::try_from(PROMISED_MAX_BYTES).unwrap() + 1];
    bench.write("log", &bytes);
    let log = fs::File::options().append(true).open(bench.at("log"));
    let mut log = log.unwrap();
    log.write_all(b"first\n").unwrap();
    bench.open();
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    let (start, mut sizes, mut number) = (Instant::now(), BTreeSet::new(), 0_u64);
    while sizes.len() < 2 {
        number += 1;
        log.write_all(&number.to_le_bytes()).unwrap();
        let marker = format!("marker-{number}");
        bench.write(&marker, marker.as_bytes());
        bench.wait_for("the marker", |b| b.has(&marker, marker.as_bytes()));
        sizes.extend(bench.entry("log").map(size_of));
        let patience = 2 * BUSY_READ_AFTER + PATIENCE;
        assert!(start.elapsed() < patience, "listed {} times", sizes.len());
    }
    bytes = fs::read(bench.at("log")).unwrap();
    let last = *sizes.last().unwrap() as usize;
    assert!(bench.has("log", &bytes[..last]));
}

#[test]
fn a_listed_file_that_is_written_without_a_rest_is_listed_anew_between_writes() {
    let mut bench = ShareBench::bare();
    bench.write("database", b"first");
    bench.start();
    let mut file = fs::File::options().write(true).open(bench.at("database"));
    let file = file.as_mut().unwrap();
    let (start, mut number) = (Instant::now(), 0_u64);
    // On a loaded machine two writes may be so far apart that the file is at rest between them.
    while bench.has("database", b"first") {
        number += 1;
        file.write_all(&number.to_le_bytes()).unwrap();
        let marker = format!("marker-{number}");
        bench.write(&marker, marker.as_bytes());
        bench.wait_for("the marker", |b| b.has(&marker, marker.as_bytes()));
        assert!(bench.entry("database").is_some());
        assert!(
            start.elapsed() < BUSY_READ_AFTER + PATIENCE,
            "no new version"
        );
    }
}

/// Sizes of a file that is small enough to be listed within 2 s, and too large to be read whole for
/// each change.
const PACED_SIZES: [usize; 2] = [3 << 20, 40 << 20];
/// Number of changes of a test that counts the bytes that were read.
const CHANGES: u64 = 200;

/// Starts a bench with a listed file that has been at rest.
fn rested_file(size_bytes: usize) -> (ShareBench, Vec<u8>) {
    let mut bench = ShareBench::bare();
    // so long that a writer never seems to rest on a loaded machine
    bench.config.quiet = QUIET_DEFAULT;
    let bytes = content(size_bytes, 5);
    bench.write("log", &bytes);
    date(&bench.at("log"), 1_000_000);
    bench.start();
    assert!(bench.has("log", &bytes));
    (bench, bytes)
}

/// Changes the file of a bench again and again, and waits for a marker after each change. Returns
/// the bytes that were read, and whether the status named the file.
fn change_often(bench: &mut ShareBench, mut change: impl FnMut(&Path, u64)) -> (u64, bool) {
    let (before, mut named) = (bench.set().read_bytes(), false);
    for number in 0..CHANGES {
        change(&bench.at("log"), number);
        let marker = format!("marker-{number}");
        bench.write(&marker, marker.as_bytes());
        bench.wait_for("the marker", |b| b.has(&marker, marker.as_bytes()));
        named |= is_named(bench);
    }
    (bench.set().read_bytes() - before, named)
}

fn is_named(bench: &ShareBench) -> bool {
    let warning = bench.status().warning;
    warning.is_some_and(|why| why.starts_with("log changes again and again"))
}

#[test]
fn log_closed_after_each_line_costs_the_appended_bytes_at_every_size() {
    for size_bytes in PACED_SIZES {
        let (mut bench, mut bytes) = rested_file(size_bytes);
        let (read, named) = change_often(&mut bench, |path, _| append_line(path, &mut bytes));
        // the first changes are read whole, and each read may be cancelled once
        let allowed = 4 * size_bytes as u64 + (1 << 20);
        assert!(read <= allowed, "{read} of {allowed}");
        assert!(named, "the status does not name it");
        bench.wait_for("the last line", |b| b.has("log", &bytes));
    }
}

#[test]
fn file_overwritten_again_and_again_is_read_at_a_bounded_rate_at_every_size() {
    for size_bytes in PACED_SIZES {
        let (mut bench, mut bytes) = rested_file(size_bytes);
        let start = Instant::now();
        let (read, named) = change_often(&mut bench, |path, number| {
            write_over(path, &mut bytes, number);
        });
        let allowed = REREAD_BYTES_PER_S as f64 * start.elapsed().as_secs_f64();
        let once = size_bytes as f64;
        assert!(read as f64 <= allowed + 3.0 * once, "{read} of {allowed}");
        assert!(named, "the status does not name it");
        bench.wait_for("its last version", |b| b.has("log", &bytes));
    }
}

#[test]
fn file_that_changes_after_a_rest_is_listed_with_its_right_bytes_at_once() {
    let (mut bench, mut bytes) = rested_file(PACED_SIZES[0]);
    bench.history.clear();
    let file = fs::File::options().write(true).open(bench.at("log"));
    let file = file.unwrap();
    file.write_all_at(b"changed", 1 << 20).unwrap();
    file.write_all_at(b"line\n", bytes.len() as u64).unwrap();
    drop(file);
    bytes[1 << 20..][..7].copy_from_slice(b"changed");
    bytes.extend(b"line\n");
    let hash = ContentHash::of(&bytes);
    bench.wait_for("the change", |b| b.has("log", &bytes));
    let grown = bytes.len() as u64;
    let is_wrong = |event: &ShareEvent| match event {
        ShareEvent::Put { entry, .. } => {
            matches!(&entry.kind, Kind::File { hash: h, size_bytes, .. }
                if *size_bytes == grown && *h != hash)
        }
        _ => false,
    };
    assert!(!bench.history.iter().any(is_wrong));
}

/// Writes to the open file of a bench without a rest until the condition holds.
fn write_until(
    bench: &mut ShareBench,
    mut write: impl FnMut(u64),
    is_enough: impl Fn(&ShareBench) -> bool,
) {
    let (start, mut number) = (Instant::now(), 0);
    while !is_enough(bench) {
        number += 1;
        write(number);
        let marker = format!("marker-{number}");
        bench.write(&marker, marker.as_bytes());
        bench.wait_for("the marker", |b| b.has(&marker, marker.as_bytes()));
        assert!(start.elapsed() < BUSY_READ_AFTER + PATIENCE, "never");
    }
}

#[test]
fn log_that_stays_open_is_listed_anew_at_the_cost_of_the_appended_bytes() {
    let (mut bench, bytes) = rested_file(PACED_SIZES[1]);
    let before = bench.set().read_bytes();
    let log = fs::File::options().append(true).open(bench.at("log"));
    let (mut log, first_bytes) = (log.unwrap(), bytes.len() as u64);
    write_until(
        &mut bench,
        |_| log.write_all(b"line\n").unwrap(),
        |b| b.entry("log").is_some_and(|it| size_of(it) > first_bytes),
    );
    let read = bench.set().read_bytes() - before;
    assert!(read <= 2 << 20, "{read}");
}

#[test]
fn file_that_stays_open_and_is_overwritten_is_named_at_every_size() {
    for size_bytes in [4, PACED_SIZES[0]] {
        let (mut bench, _) = rested_file(size_bytes);
        let file = fs::File::options().write(true).open(bench.at("log"));
        let file = file.unwrap();
        write_until(
            &mut bench,
            |number| file.write_all_at(&number.to_be_bytes()[4..], 0).unwrap(),
            is_named,
        );
    }
}
