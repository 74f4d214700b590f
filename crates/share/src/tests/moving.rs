//! Tests that what cannot change the bytes of a large file neither reads them nor hides the file.

use std::collections::BTreeSet;
use std::fs::FileTimes;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use super::watching::Mapped;
use super::*;
use crate::queue::PROMISED_MAX_BYTES;

const LARGE_BYTES: u64 = PROMISED_MAX_BYTES + 1;

/// Returns a share with large files of different contents, all of them listed. Their hashes are
/// proven.
fn large_files(names: &[String]) -> ShareBench {
    let mut bench = ShareBench::bare();
    for name in names {
        make_large(&bench, name);
    }
    bench.start();
    bench.prove();
    bench
}

/// Creates a large file whose first bytes are its name.
fn make_large(bench: &ShareBench, name: &str) {
    let at = bench.at(name);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    let file = fs::File::create(at).unwrap();
    file.write_all_at(name.as_bytes(), 0).unwrap();
    file.set_len(LARGE_BYTES).unwrap();
}

fn film(number: usize) -> String {
    format!("film{number:02}")
}

/// Receives events until `names` are listed, and checks after each event that each of `pairs` has a
/// listed name.
fn wait_without_gap(bench: &mut ShareBench, pairs: &[(String, String)]) {
    let is_listed = |bench: &ShareBench, name: &str| bench.entry(name).is_some();
    let mut seen = bench.history.len();
    while !pairs.iter().all(|(_, new)| is_listed(bench, new)) || {
        pairs
            .iter()
            .any(|(old, new)| old != new && is_listed(bench, old))
    } {
        bench.wait_for("the next event", |bench| bench.history.len() > seen);
        seen = bench.history.len();
        for (old, new) in pairs {
            let is_there = is_listed(bench, old) || is_listed(bench, new);
            assert!(
                is_there,
                "{old} has no name, after {:?}",
                bench.history.last()
            );
        }
    }
}

fn pairs(
    count: usize,
    from: impl Fn(usize) -> String,
    to: impl Fn(usize) -> String,
) -> Vec<(String, String)> {
    (0..count)
        .map(|number| (from(number), to(number)))
        .collect()
}

#[test]
fn large_files_that_are_moved_are_not_read_and_always_have_a_name() {
    let pairs = pairs(24, film, |number| format!("sorted/{}", film(number)));
    let olds: Vec<String> = pairs.iter().map(|(old, _)| old.clone()).collect();
    let mut bench = large_files(&olds);
    let before = bench.set().read_bytes();
    bench.mkdir("sorted");
    bench.settle();
    for (old, new) in &pairs {
        fs::rename(bench.at(old), bench.at(new)).unwrap();
    }
    wait_without_gap(&mut bench, &pairs);
    bench.settle();
    bench.prove();
    assert_eq!(bench.set().read_bytes(), before);
}

#[test]
fn large_file_moved_right_after_it_was_listed_is_not_read() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    make_large(&bench, "film.part");
    bench.wait_for("listed", |bench| bench.entry("film.part").is_some());
    let before = bench.set().read_bytes();
    fs::rename(bench.at("film.part"), bench.at("film.mkv")).unwrap();
    wait_without_gap(
        &mut bench,
        &[("film.part".to_owned(), "film.mkv".to_owned())],
    );
    // before the first rename is checked
    fs::rename(bench.at("film.mkv"), bench.at("a")).unwrap();
    fs::rename(bench.at("a"), bench.at("b")).unwrap();
    bench.wait_for("moved", |b| b.names() == ["b"]);
    assert_eq!(bench.set().read_bytes(), before);
}

#[test]
fn folder_with_large_files_is_renamed_without_a_read_or_a_gap() {
    let pairs = pairs(
        100,
        |n| format!("films/{}", film(n)),
        |n| format!("old/films/{}", film(n)),
    );
    let olds: Vec<String> = pairs.iter().map(|(old, _)| old.clone()).collect();
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.mkdir("films");
    bench.mkdir("old");
    bench.start();
    for name in &olds {
        make_large(&bench, name);
    }
    for some in olds.chunks(10) {
        bench.wait_for("all are listed", |bench| {
            some.iter().all(|name| bench.entry(name).is_some())
        });
    }
    let before = bench.set().read_bytes();
    // the reads were so soon after the writes that only the reports prove the hashes
    assert!(bench.proofs().contains(&HashProof::Missing));
    fs::rename(bench.at("films"), bench.at("old/films")).unwrap();
    wait_without_gap(&mut bench, &pairs);
    assert_eq!(bench.set().read_bytes(), before);
}

#[test]
fn link_mode_and_date_of_a_large_file_cost_no_read() {
    let mut bench = large_files(&[film(0)]);
    let (name, link) = (film(0), "link".to_owned());
    let before = bench.set().read_bytes();
    fs::hard_link(bench.at(&name), bench.at(&link)).unwrap();
    bench.wait_for("linked", |b| b.entry(&link).is_some());
    let is_executable = |b: &ShareBench, name: &str| {
        let kind = b.entry(name).map(|entry| &entry.kind);
        matches!(
            kind,
            Some(Kind::File {
                executable: true,
                ..
            })
        )
    };
    bench.chmod(&name, 0o755);
    bench.wait_for("executable", |b| {
        is_executable(b, &name) && is_executable(b, &link)
    });
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567);
    // as touch -c -d, tar, or cp -p
    let times = FileTimes::new().set_accessed(date).set_modified(date);
    fs::File::open(bench.at(&name))
        .unwrap()
        .set_times(times)
        .unwrap();
    let is_dated = |b: &ShareBench, name: &str| seconds(b.entry(name).unwrap().mtime) == 1_234_567;
    bench.wait_for("dated", |b| is_dated(b, &name) && is_dated(b, &link));
    fs::remove_file(bench.at(&name)).unwrap();
    bench.wait_for("one name", |b| b.entry(&name).is_none());
    bench.settle();
    bench.prove();
    bench.set().rescan();
    bench.settle();
    bench.prove();
    assert_eq!(bench.set().read_bytes(), before);
}

#[test]
fn new_mode_during_the_first_read_does_not_begin_it_anew() {
    let mut bench = ShareBench::bare();
    bench.start();
    fs::write(bench.home.path().join("new"), vec![7; LARGE_BYTES as usize]).unwrap();
    fs::rename(bench.home.path().join("new"), bench.at("film")).unwrap();
    for mode in [0o755, 0o644, 0o755] {
        bench.chmod("film", mode);
    }
    bench.settle();
    bench.prove();
    assert_eq!(bench.set().read_bytes(), LARGE_BYTES);
}

#[test]
fn write_that_sets_the_mtime_back_is_read_under_any_name() {
    let mut bench = large_files(&[film(0)]);
    let written = |bench: &ShareBench, name: &str, bytes: &[u8]| {
        let file = fs::File::options()
            .write(true)
            .open(bench.at(name))
            .unwrap();
        let mtime = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_times(FileTimes::new().set_accessed(mtime).set_modified(mtime))
            .unwrap();
    };
    let of = |bytes: &[u8]| {
        let mut all = vec![0; LARGE_BYTES as usize];
        all[..bytes.len()].copy_from_slice(bytes);
        all
    };
    written(&bench, "film00", b"second");
    bench.wait_for("second", |b| b.has("film00", &of(b"second")));
    bench.prove();
    written(&bench, "film00", b"third.");
    fs::rename(bench.at("film00"), bench.at("new")).unwrap();
    fs::rename(bench.at("new"), bench.at("newer")).unwrap();
    bench.wait_for("third", |b| b.has("newer", &of(b"third.")));
    bench.prove();
    fs::rename(bench.at("newer"), bench.at("newest")).unwrap();
    written(&bench, "newest", b"fourth");
    bench.wait_for("fourth", |b| b.has("newest", &of(b"fourth")));
    bench.prove();
    // through a name that is not shared
    let outside = bench.home.path().join("outside");
    fs::hard_link(bench.at("newest"), &outside).unwrap();
    let file = fs::File::options().write(true).open(&outside).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"fifth.", 0).unwrap();
    file.set_times(FileTimes::new().set_accessed(mtime).set_modified(mtime))
        .unwrap();
    drop(file);
    bench.chmod("newest", 0o755);
    bench.wait_for("fifth", |b| b.has("newest", &of(b"fifth.")));
}

#[test]
fn store_through_a_mapping_is_not_taken_for_a_new_date() {
    let mut bench = large_files(&[film(0)]);
    let mapped = Mapped::of(&bench.at("film00"), 1);
    mapped.fill(b'M');
    // the store changed the mtime, and only the new mode is reported
    bench.chmod("film00", 0o755);
    let mut all = vec![0; LARGE_BYTES as usize];
    all[..6].copy_from_slice(b"Milm00");
    bench.wait_for("the store", |b| b.has("film00", &all));
    drop(mapped);
    bench.settle();
}

#[test]
fn large_files_moved_where_no_report_proves_it_keep_their_names_until_they_are_read() {
    let pairs = pairs(
        6,
        |n| format!("z/{}", film(n)),
        |n| format!("a/{}", film(n)),
    );
    let olds: Vec<String> = pairs.iter().map(|(old, _)| old.clone()).collect();
    let mut bench = ShareBench::bare();
    bench.config.watch_limit = 0;
    for name in &olds {
        make_large(&bench, name);
    }
    bench.start();
    for (pairs, is_back) in [(pairs.clone(), false), (swapped(&pairs), true)] {
        for (old, new) in &pairs {
            fs::create_dir_all(bench.at(new).parent().unwrap()).unwrap();
            fs::rename(bench.at(old), bench.at(new)).unwrap();
        }
        bench.set().rescan();
        wait_without_gap(&mut bench, &pairs);
        bench.settle();
        assert!(is_back || bench.names().contains(&"z".to_owned()));
    }
}

fn swapped(pairs: &[(String, String)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(old, new)| (new.clone(), old.clone()))
        .collect()
}

#[test]
fn large_files_moved_while_stopped_keep_their_names_until_they_are_read() {
    for (from, to) in [("z", "a"), ("a", "z")] {
        let pairs = pairs(
            6,
            |n| format!("{from}/{}", film(n)),
            |n| format!("{to}/{}", film(n)),
        );
        let mut bench = ShareBench::bare();
        for (name, _) in &pairs {
            make_large(&bench, name);
        }
        bench.start();
        bench.stop();
        bench.mkdir(to);
        for (old, new) in &pairs {
            fs::rename(bench.at(old), bench.at(new)).unwrap();
        }
        bench.open();
        bench.set().add(ShareSpec::new(bench.dir())).unwrap();
        wait_without_gap(&mut bench, &pairs);
    }
}

#[test]
fn name_that_is_kept_for_its_moved_file_goes_with_that_file_and_gives_way_to_a_new_one() {
    let mut bench = ShareBench::bare();
    bench.config.watch_limit = 0;
    for name in ["gone", "taken"] {
        make_large(&bench, name);
    }
    bench.start();
    bench.stop();
    for name in ["gone", "taken"] {
        fs::rename(bench.at(name), bench.at(&format!("{name}-new"))).unwrap();
    }
    bench.open();
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    fs::remove_file(bench.at("gone-new")).unwrap();
    bench.write("taken", b"other");
    bench.set().rescan();
    bench.settle();
    bench.set().rescan();
    bench.settle();
    let names: BTreeSet<String> = bench.names().into_iter().collect();
    assert_eq!(names, ["taken", "taken-new"].map(str::to_owned).into());
    assert!(bench.has("taken", b"other"));
}
