//! Tests of files that were written through the mount.

use super::*;
use p2pfs_types::files::written::{self, MarkTime, WrittenMark};

impl ShareBench {
    /// Shares the folder as one that the mount writes into.
    fn start_writable(&mut self) {
        self.open();
        let spec = ShareSpec {
            writable: true,
            ..ShareSpec::new(self.dir())
        };
        self.set().add(spec).unwrap();
        self.settle();
    }

    fn mark(&self, name: &str, replaces: &[&[u8]], after: MarkTime) {
        let mark = WrittenMark {
            replaces: replaces.iter().map(|it| ContentHash::of(it)).collect(),
            after,
        };
        let file = fs::File::open(self.at(name)).unwrap();
        written::write(&file, &mark).unwrap();
    }

    fn version(&self, name: &str) -> Option<Timestamp> {
        Some(self.entry(name)?.version_time)
    }

    /// Returns what the version of a listed file replaces.
    fn replaces(&self, name: &str) -> Vec<ContentHash> {
        self.entry(name).unwrap().replaces.clone()
    }
}

/// Returns the time this many seconds from now.
fn from_now(seconds: i64) -> MarkTime {
    let now = Timestamp::from(std::time::SystemTime::now());
    MarkTime {
        seconds: now.seconds + seconds,
        nanoseconds: 999_999_999,
    }
}

fn after(time: MarkTime) -> Timestamp {
    assert_eq!(time.nanoseconds, 999_999_999);
    Timestamp {
        seconds: time.seconds + 1,
        nanoseconds: 0,
    }
}

fn hashes(of: &[&[u8]]) -> Vec<ContentHash> {
    of.iter().map(|it| ContentHash::of(it)).collect()
}

#[test]
fn marked_file_replaces_what_its_mark_names_and_is_dated_by_its_writing() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"new");
    date(&bench.at("f"), 915_148_800);
    bench.mark("f", &[b"old", b"new", b"older"], MarkTime::default());
    let before = Timestamp::from(std::time::SystemTime::now() - Duration::from_secs(60));
    bench.start_writable();
    bench.wait_for("listed", |bench| bench.has("f", b"new"));
    assert_eq!(bench.replaces("f"), hashes(&[b"old", b"older"]));
    assert!(bench.version("f").unwrap() > before);
    assert_eq!(seconds(bench.entry("f").unwrap().mtime), 915_148_800);
}

#[test]
fn marked_file_is_later_than_what_it_replaces_also_if_that_is_ahead_of_the_clock() {
    let mut bench = ShareBench::bare();
    let [ahead, far_ahead] = [from_now(30), from_now(3600)];
    for (name, time) in [("f", ahead), ("g", far_ahead)] {
        bench.write(name, b"new");
        bench.mark(name, &[b"old"], time);
    }
    bench.start_writable();
    bench.wait_for("both listed", |bench| {
        bench.has("f", b"new") && bench.has("g", b"new")
    });
    assert_eq!(bench.version("f"), Some(after(ahead)));
    // Other nodes would ignore a version that is further ahead than a minute.
    let most = Timestamp::from(std::time::SystemTime::now() + Duration::from_secs(61));
    assert!(bench.version("g").unwrap() < most);
}

#[test]
fn new_mark_is_announced_without_a_read_of_the_file() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"new");
    bench.start_writable();
    bench.wait_for("listed", |bench| bench.has("f", b"new"));
    bench.prove();
    let read_bytes = bench.set().read_bytes();
    let time = from_now(5);
    bench.mark("f", &[b"old"], time);
    bench.wait_for("the mark", |bench| bench.version("f") == Some(after(time)));
    assert_eq!(bench.replaces("f"), hashes(&[b"old"]));
    assert_eq!(bench.set().read_bytes(), read_bytes);
}

#[test]
fn file_that_is_renamed_over_another_replaces_what_its_mark_names_then() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"old");
    bench.write("temporary", b"new");
    bench.mark("temporary", &[], MarkTime::default());
    bench.start_writable();
    bench.wait_for("listed", |bench| bench.has("temporary", b"new"));
    let time = from_now(5);
    bench.mark("temporary", &[b"old"], time);
    fs::rename(bench.at("temporary"), bench.at("f")).unwrap();
    bench.wait_for("renamed", |bench| {
        bench.has("f", b"new") && bench.version("f") == Some(after(time))
    });
    bench.settle();
    assert_eq!(bench.names(), ["f"]);
    assert_eq!(bench.replaces("f"), hashes(&[b"old"]));
}

#[test]
fn marked_file_has_the_same_entry_after_a_restart_and_no_event() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"new");
    date(&bench.at("f"), 915_148_800);
    bench.mark("f", &[b"old"], from_now(-5));
    bench.start_writable();
    bench.wait_for("listed", |bench| bench.has("f", b"new"));
    bench.prove();
    // A mode is no reason for another time.
    chmod(&bench.at("f"), 0o755);
    bench.wait_for("executable", |bench| {
        let entry = bench.entry("f");
        entry.is_some_and(|it| matches!(it.kind, Kind::File { executable, .. } if executable))
    });
    bench.prove();
    let entry = bench.entry("f").cloned();
    for is_listed in [true, false] {
        bench.stop();
        if !is_listed {
            bench.config.known.clear();
            bench.listing.clear();
        }
        bench.start_writable();
        bench.wait_for("listed", |bench| bench.has("f", b"new"));
        assert_eq!(bench.entry("f").cloned(), entry);
        let has_put = |event: &ShareEvent| matches!(event, ShareEvent::Put { .. });
        assert_eq!(bench.history.iter().any(has_put), !is_listed);
        assert_eq!(bench.set().read_bytes(), 0);
        bench.prove();
    }
}

#[test]
fn mark_counts_after_the_share_is_no_longer_writable() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"new");
    bench.mark("f", &[b"old"], from_now(-5));
    bench.start_writable();
    bench.wait_for("listed", |bench| bench.has("f", b"new"));
    let entry = bench.entry("f").cloned();
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    bench.settle();
    bench.set().rescan();
    bench.settle();
    assert_eq!(bench.entry("f").cloned(), entry);
}
