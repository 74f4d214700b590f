//! Tests of files that change faster than they can be hashed, or without a rest.

use std::io::Write;

use super::*;
use crate::hashed::BUSY_READ_AFTER;
use crate::pace::REREAD_BYTES_PER_S;
use crate::queue::PROMISED_MAX_BYTES;

#[test]
fn large_file_that_always_changes_is_read_at_a_bounded_rate_and_listed_at_last() {
    let mut bench = ShareBench::bare();
    let mut bytes = vec![0; usize::try_from(PROMISED_MAX_BYTES).unwrap() + 1];
    bench.write("log", &bytes);
    bench.start();
    assert!(bench.has("log", &bytes));
    let (start, before) = (Instant::now(), bench.set().read_bytes());
    let is_named = |b: &ShareBench| {
        let warning = b.status().warning;
        warning.is_some_and(|why| why.starts_with("log changes faster"))
    };
    for number in 0.. {
        assert!(start.elapsed() < PATIENCE, "the status does not name it");
        let mut log = fs::File::options().append(true).open(bench.at("log"));
        log.as_mut().unwrap().write_all(b"line\n").unwrap();
        drop(log);
        bytes.extend(b"line\n");
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
