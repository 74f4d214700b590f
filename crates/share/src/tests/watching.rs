//! Tests that changes appear: at once by the kernel's reports, and at the latest by the rescan.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::pool::PiecePool;

#[test]
fn a_file_is_listed_at_its_writers_close_and_not_earlier() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    let mut file = fs::File::create(bench.at("f")).unwrap();
    file.write_all(b"half").unwrap();
    bench.write("other", b"o");
    bench.wait_for("the other", |b| b.has("other", b"o"));
    assert!(bench.entry("f").is_none());
    file.write_all(b" and half").unwrap();
    drop(file);
    bench.wait_for("closed", |b| b.has("f", b"half and half"));
    let half = ContentHash::of(b"half");
    let early = |event: &ShareEvent| {
        matches!(event, ShareEvent::Put { entry, .. }
        if matches!(entry.kind, Kind::File { hash, .. } if hash == half))
    };
    assert!(!bench.history.iter().any(early));
}

#[test]
fn a_file_that_is_never_closed_is_listed_after_a_quiet_period() {
    let mut bench = ShareBench::new();
    let mut file = fs::File::create(bench.at("f")).unwrap();
    file.write_all(b"so far").unwrap();
    bench.wait_for("quiet", |b| b.has("f", b"so far"));
    file.write_all(b", and more").unwrap();
    bench.wait_for("quiet again", |b| b.has("f", b"so far, and more"));
}

#[test]
fn a_file_repeatedly_rewritten_in_place_is_listed_only_in_whole_versions() {
    const PIECE_BYTES: usize = 32 * 1024;
    let mut bench = ShareBench::bare();
    // so that no close waits so long that the file is read despite a writer
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    bench.write("f", &[0; 4 * PIECE_BYTES]);
    let at = bench.at("f");
    let writer = std::thread::spawn(move || {
        for version in 1..=200 {
            let mut file = fs::OpenOptions::new().write(true).open(&at).unwrap();
            for _ in 0..4 {
                file.write_all(&[version; PIECE_BYTES]).unwrap();
                std::thread::yield_now();
            }
        }
    });
    let last = [200; 4 * PIECE_BYTES];
    bench.wait_for("the last version", |b| b.has("f", &last));
    writer.join().unwrap();
    let whole = |version| ContentHash::of(&[version; 4 * PIECE_BYTES]);
    let versions: BTreeSet<ContentHash> = (0..=200).map(whole).collect();
    for event in &bench.history {
        if let ShareEvent::Put { entry, .. } = event
            && let Kind::File { hash, .. } = entry.kind
        {
            assert!(versions.contains(&hash), "half written: {event:?}");
        }
    }
}

#[test]
fn the_old_entry_stays_while_a_new_version_is_written() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.write("f", b"old");
    date(&bench.at("f"), 1_000_000);
    bench.start();
    let mut file = fs::File::create(bench.at("f")).unwrap();
    file.write_all(b"new").unwrap();
    bench.write("other", b"o");
    bench.wait_for("the other", |b| b.has("other", b"o"));
    assert!(bench.has("f", b"old"));
    drop(file);
    bench.wait_for("new", |b| b.has("f", b"new"));
    assert!(
        !bench
            .history
            .iter()
            .any(|e| matches!(e, ShareEvent::Removed { .. }))
    );
}

#[test]
fn a_file_moved_into_place_and_chmodded_after_its_close_does_not_wait() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    fs::write(bench.home.path().join("outside"), b"moved").unwrap();
    fs::rename(bench.home.path().join("outside"), bench.at("moved")).unwrap();
    bench.wait_for("moved", |b| b.has("moved", b"moved"));
    for number in 0..50 {
        let name = format!("f{number}");
        bench.write(&name, b"x");
        bench.chmod(&name, 0o755);
        date(&bench.at(&name), 1_000_000);
    }
    bench.wait_for("all of them as they are", |b| {
        (0..50).all(|n| {
            b.entry(&format!("f{n}"))
                .is_some_and(|e| seconds(e.mtime) == 1_000_000)
        })
    });
}

#[test]
fn a_tree_copied_in_is_listed_without_a_quiet_period() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    for top in 0..10 {
        bench.mkdir(&format!("d{top}"));
        bench.mkdir(&format!("d{top}/e"));
        for name in ["a", "e/b", "e/c"] {
            bench.write(&format!("d{top}/{name}"), name.as_bytes());
        }
    }
    bench.wait_for("all", |b| {
        (0..10).all(|top| b.has(&format!("d{top}/e/c"), b"e/c"))
    });
    bench.settle();
    assert_eq!(bench.listing.len(), 50);
}

#[test]
fn a_deleted_file_and_an_emptied_directory_disappear() {
    let mut bench = ShareBench::new();
    bench.mkdir("d");
    bench.write("d/f", b"f");
    bench.wait_for("listed", |b| b.has("d/f", b"f"));
    fs::remove_file(bench.at("d/f")).unwrap();
    bench.wait_for("file gone", |b| b.entry("d/f").is_none());
    assert!(bench.entry("d").is_some());
    fs::remove_dir(bench.at("d")).unwrap();
    bench.wait_for("directory gone", |b| b.listing.is_empty());
}

#[test]
fn a_directory_moved_in_around_and_out_takes_its_contents_along() {
    let mut bench = ShareBench::new();
    let outside = bench.home.path().join("tree");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("deep/f"), b"f").unwrap();
    bench.mkdir("sub");
    fs::rename(&outside, bench.at("in")).unwrap();
    bench.wait_for("moved in", |b| b.has("in/deep/f", b"f"));
    fs::rename(bench.at("in"), bench.at("sub/about")).unwrap();
    bench.wait_for("moved", |b| {
        b.has("sub/about/deep/f", b"f") && b.entry("in").is_none()
    });
    bench.settle();
    assert_eq!(
        bench.names(),
        ["sub", "sub/about", "sub/about/deep", "sub/about/deep/f"]
    );
    bench.write("sub/about/deep/g", b"still watched");
    bench.wait_for("watched", |b| b.has("sub/about/deep/g", b"still watched"));
    fs::rename(bench.at("sub/about"), &outside).unwrap();
    bench.wait_for("moved out", |b| b.names() == ["sub"]);
    fs::write(outside.join("deep/h"), b"not ours").unwrap();
    bench.settle();
    assert_eq!(bench.names(), ["sub"]);
}

#[test]
fn a_file_that_takes_a_directory_s_name_replaces_it_and_back() {
    let mut bench = ShareBench::new();
    bench.mkdir("x");
    bench.write("x/f", b"f");
    bench.wait_for("directory", |b| b.has("x/f", b"f"));
    fs::remove_dir_all(bench.at("x")).unwrap();
    bench.write("x", b"file");
    bench.wait_for("file", |b| b.has("x", b"file") && b.entry("x/f").is_none());
    fs::remove_file(bench.at("x")).unwrap();
    symlink("y", bench.at("x")).unwrap();
    let link = |b: &ShareBench| matches!(b.entry("x").map(|e| &e.kind), Some(Kind::Symlink { .. }));
    bench.wait_for("link", link);
    fs::remove_file(bench.at("x")).unwrap();
    bench.mkdir("x");
    bench.wait_for("directory", |b| {
        b.entry("x").is_some_and(|e| e.kind == Kind::Directory)
    });
}

#[test]
fn a_recreated_directory_is_not_taken_for_the_deleted_one() {
    let mut bench = ShareBench::new();
    bench.mkdir("d");
    bench.mkdir("d/old");
    bench.settle();
    for round in 0..20 {
        fs::remove_dir_all(bench.at("d")).unwrap();
        bench.mkdir("d");
        bench.mkdir(&format!("d/new{round}"));
        bench.settle();
        assert_eq!(bench.names(), ["d".to_owned(), format!("d/new{round}")]);
    }
}

#[test]
fn withdrawing_o_r_withdraws_the_file_and_the_directory() {
    let mut bench = ShareBench::new();
    bench.mkdir("d");
    bench.write("d/f", b"f");
    bench.wait_for("listed", |b| b.has("d/f", b"f"));
    bench.chmod("d/f", 0o640);
    bench.wait_for("file withdrawn", |b| b.entry("d/f").is_none());
    assert!(bench.set().source(&ContentHash::of(b"f")).is_err());
    bench.chmod("d/f", 0o644);
    bench.wait_for("file back", |b| b.has("d/f", b"f"));
    bench.chmod("d", 0o751);
    bench.wait_for("directory withdrawn", |b| b.listing.is_empty());
    bench.chmod("d", 0o755);
    bench.wait_for("directory back", |b| b.has("d/f", b"f"));
}

#[test]
fn writes_under_one_name_are_seen_under_the_files_other_names() {
    let mut bench = ShareBench::new();
    bench.write("a", b"old");
    fs::hard_link(bench.at("a"), bench.at("b")).unwrap();
    bench.wait_for("both", |b| b.has("a", b"old") && b.has("b", b"old"));
    bench.settle();
    bench.write("a", b"new");
    bench.wait_for("both new", |b| b.has("a", b"new") && b.has("b", b"new"));
    bench.settle();
    bench.write("b", b"last");
    fs::remove_file(bench.at("b")).unwrap();
    bench.wait_for("the one left", |b| b.has("a", b"last"));
}

#[test]
fn a_file_readable_under_one_name_is_readable_under_the_others() {
    let mut bench = ShareBench::new();
    bench.write("a", b"bytes");
    bench.wait_for("listed", |b| b.has("a", b"bytes"));
    // so early that the new name was not checked before
    fs::hard_link(bench.at("a"), bench.at("b")).unwrap();
    bench.chmod("b", 0o600);
    bench.wait_for("both withdrawn", |b| b.listing.is_empty());
    bench.chmod("a", 0o644);
    bench.wait_for("both back", |b| {
        b.has("a", b"bytes") && b.has("b", b"bytes")
    });
}

#[test]
fn a_new_mtime_and_a_new_executable_bit_are_reported() {
    let mut bench = ShareBench::new();
    bench.mkdir("d");
    bench.write("f", b"f");
    bench.wait_for("listed", |b| b.has("f", b"f"));
    bench.chmod("f", 0o755);
    let executable = |b: &ShareBench| {
        matches!(
            b.entry("f").unwrap().kind,
            Kind::File {
                executable: true,
                ..
            }
        )
    };
    bench.wait_for("executable", executable);
    date(&bench.at("f"), 1_234_567);
    bench.wait_for("dated", |b| {
        seconds(b.entry("f").unwrap().mtime) == 1_234_567
    });
    date(&bench.at("d"), 7_654_321);
    bench.wait_for("directory dated", |b| {
        seconds(b.entry("d").unwrap().mtime) == 7_654_321
    });
    bench.write("d/g", b"g");
    bench.wait_for("by a new name", |b| {
        seconds(b.entry("d").unwrap().mtime) > 7_654_321
    });
}

#[test]
fn a_rename_keeps_the_version_time() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"f");
    date(&bench.at("f"), 4_000_000_000);
    bench.start();
    let before = bench.entry("f").unwrap().clone();
    fs::rename(bench.at("f"), bench.at("g")).unwrap();
    bench.wait_for("renamed", |b| b.has("g", b"f"));
    bench.chmod("g", 0o744);
    bench.settle();
    let after = bench.entry("g").unwrap();
    assert_eq!(
        (after.version_time, after.mtime),
        (before.version_time, before.mtime)
    );
    assert_ne!(after.kind, before.kind);
}

#[test]
fn an_unchanged_share_reports_nothing_again() {
    let mut bench = ShareBench::new();
    bench.mkdir("d");
    bench.write("d/f", b"f");
    bench.settle();
    bench.history.clear();
    bench.set().rescan();
    bench.settle();
    let [ShareEvent::Scanned { .. }] = bench.history[..] else {
        panic!("{:?}", bench.history)
    };
}

#[test]
fn without_watches_a_rescan_finds_everything_and_one_warning_names_the_remedy() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.mkdir("e");
    bench.write("d/gone", b"g");
    bench.config.watch_limit = 0;
    bench.start();
    let limits = |b: &ShareBench| {
        b.warnings()
            .iter()
            .filter(|(_, why)| why.contains("max_user_watches"))
            .count()
    };
    assert_eq!(limits(&bench), 1);
    assert!(bench.status().warning.unwrap().contains("max_user_watches"));
    bench.write("d/f", b"f");
    fs::remove_file(bench.at("d/gone")).unwrap();
    bench.set().rescan();
    bench.settle();
    assert_eq!(bench.names(), ["d", "d/f", "e"]);
    assert_eq!(limits(&bench), 1);
}

#[test]
fn warning_about_missing_watches_moves_to_another_share_and_ends_with_the_last() {
    let mut bench = ShareBench::bare();
    bench.config.watch_limit = 0;
    bench.start();
    let other = bench.home.path().join("other");
    fs::create_dir(&other).unwrap();
    bench.set().add(ShareSpec::new(&other)).unwrap();
    bench.settle();
    let warned = |b: &ShareBench| {
        let standing = b.standing_warnings().into_iter();
        standing.map(|(dir, _)| dir).collect::<Vec<_>>()
    };
    assert_eq!(warned(&bench), [bench.dir()]);
    bench.set().remove(&bench.dir()).unwrap();
    bench.settle();
    assert_eq!(warned(&bench), std::slice::from_ref(&other));
    bench.set().remove(&other).unwrap();
    bench.settle();
    assert!(warned(&bench).is_empty());
}

#[test]
fn the_periodic_rescan_happens_by_itself() {
    let mut bench = ShareBench::bare();
    bench.config.watch_limit = 0;
    bench.config.rescan = Duration::from_millis(50);
    bench.open();
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    bench.write("f", b"f");
    bench.wait_for("rescanned", |b| b.has("f", b"f"));
    fs::remove_file(bench.at("f")).unwrap();
    bench.wait_for("rescanned", |b| b.listing.is_empty());
}

#[test]
fn a_vanished_share_is_emptied_with_a_warning_and_returns() {
    let mut bench = ShareBench::new();
    bench.mkdir("d");
    bench.write("d/f", b"f");
    bench.wait_for("listed", |b| b.has("d/f", b"f"));
    let away = bench.home.path().join("away");
    fs::rename(bench.dir(), &away).unwrap();
    bench.wait_for("emptied", |b| b.listing.is_empty());
    assert_eq!(bench.status().state, ShareProgress::Vanished);
    assert!(
        bench
            .warnings()
            .iter()
            .any(|(path, _)| *path == bench.dir())
    );
    fs::rename(&away, bench.dir()).unwrap();
    bench.wait_for("back", |b| b.has("d/f", b"f"));
    bench.settle();
    assert_eq!(bench.status().warning, None);
    assert_eq!(bench.standing_warnings(), []);
    bench.write("d/g", b"g");
    bench.wait_for("watched again", |b| b.has("d/g", b"g"));
}

#[test]
fn a_node_that_reads_no_events_pauses_the_share_and_loses_nothing() {
    let mut bench = ShareBench::bare();
    let count = EVENT_QUEUE_EVENTS * 3;
    (0..count).for_each(|number| bench.write(&format!("f{number}"), &number.to_le_bytes()));
    bench.open();
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    // take no event until the queue is full
    let full = |b: &ShareBench| b.events.as_ref().unwrap().len() == EVENT_QUEUE_EVENTS;
    let deadline = Instant::now() + PATIENCE;
    while !full(&bench) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert!(!bench.set().wait_settled(Duration::from_millis(1)));
    bench.write("later", b"l");
    bench.settle();
    assert_eq!(bench.listing.len(), count + 1);
}

#[test]
fn dropping_a_set_with_unread_events_does_not_hang() {
    let mut bench = ShareBench::bare();
    (0..EVENT_QUEUE_EVENTS + 10).for_each(|number| bench.mkdir(&format!("d{number}")));
    bench.open();
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while bench.events.as_ref().unwrap().len() < EVENT_QUEUE_EVENTS {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    bench.set = None;
}

/// The kernel reports neither the change of the bytes nor a close while the mapping exists.
#[test]
fn a_write_through_a_mapping_is_stale_at_once_and_then_a_new_version() {
    let mut bench = ShareBench::new();
    let (old, new) = (vec![1; 300_000], vec![2; 300_000]);
    bench.write("f", &old);
    bench.wait_for("listed", |b| b.has("f", &old));
    let served = bench.set().source(&ContentHash::of(&old)).unwrap();
    let mapped = Mapped::of(&bench.at("f"), old.len());
    mapped.fill(2);
    let range = ByteRange::new(100_000, 200_000);
    let result = served.encode(range, &PiecePool::default());
    assert!(matches!(result, Err(ShareError::Gone)), "{result:?}");
    bench.wait_for("the new version", |b| b.has("f", &new));
    drop(mapped);
}

/// A write to a page that still waits to be written to the disk sets no new date. Size and times
/// are therefore those of the previous version.
#[test]
fn writes_through_a_mapping_are_hashed_at_the_writers_close() {
    let mut bench = ShareBench::new();
    bench.write("f", &[0; 5000]);
    bench.wait_for("listed", |b| b.has("f", &[0; 5000]));
    let mapped = Mapped::of(&bench.at("f"), 5000);
    mapped.fill(1);
    bench.chmod("f", 0o755);
    bench.wait_for("quiet", |b| b.has("f", &[1; 5000]));
    let deadline = Instant::now() + PATIENCE;
    while bench
        .set()
        .inner
        .shared
        .lock()
        .queue
        .next_rested()
        .is_some()
    {
        assert!(Instant::now() < deadline, "never at rest");
        std::thread::yield_now();
    }
    bench.settle();
    mapped.fill(2);
    drop(mapped);
    bench.wait_for("closed", |b| b.has("f", &[2; 5000]));
}

/// A file mapped for writing, with no open descriptor.
pub(super) struct Mapped(*mut u8, usize);

impl Mapped {
    pub(super) fn of(path: &Path, length: usize) -> Self {
        use std::os::fd::AsRawFd;
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        let (file, access) = (file.unwrap(), libc::PROT_READ | libc::PROT_WRITE);
        let (nowhere, fd) = (std::ptr::null_mut(), file.as_raw_fd());
        // SAFETY: a new mapping of an open file, of its length.
        let at = unsafe { libc::mmap(nowhere, length, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at.cast(), length)
    }

    pub(super) fn fill(&self, byte: u8) {
        // SAFETY: the mapping exists, and only this value uses it.
        unsafe { std::ptr::write_bytes(self.0, byte, self.1) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this address and length, and is not used afterwards.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}
