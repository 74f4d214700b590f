//! Tests of shares that are listed below a place.

use std::os::unix::fs::symlink;

use super::*;

fn place(text: &str) -> SharePlace {
    SharePlace::new(text).unwrap()
}

impl ShareBench {
    /// Adds the share below a place and waits until everything is announced.
    fn add_as(&mut self, at: &str) -> ShareIndex {
        let spec = ShareSpec {
            place: place(at),
            ..ShareSpec::new(self.dir())
        };
        let index = self.set().add(spec).unwrap();
        self.settle();
        index
    }
}

#[test]
fn the_names_of_a_share_are_listed_below_its_place() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.write("d/f", b"f");
    bench.write("f", b"f");
    bench.open();
    let index = bench.add_as("photos/2026");
    let expected = ["photos/2026/d", "photos/2026/d/f", "photos/2026/f"];
    assert_eq!(bench.names(), expected);
    let ShareStatus { spec, totals, .. } = bench.status();
    assert_eq!(spec.place, place("photos/2026"));
    assert_eq!((totals.files, totals.directories), (2, 1));
    let (listed, _) = bench.set().listed(None, 10);
    let mut listed: Vec<String> = listed.iter().map(|it| it.path.to_string()).collect();
    listed.sort();
    assert_eq!(listed, expected);

    let own = |name: &str| bench.set().own(index, &path(name));
    assert!(own("photos/2026/d/f").is_ok());
    for other in ["d/f", "photos/d/f", "photos/2026", "photos/2026/absent"] {
        assert!(own(other).is_err(), "{other}");
    }
    let attributes = bench.set().stat(index, &path("photos/2026/d")).unwrap();
    assert_eq!(attributes.form, Form::Directory);
    let in_place = bench.set().stats_in(index, &path("photos/2026")).unwrap();
    assert_eq!(in_place(b"f").unwrap().size_bytes, 1);
    assert!(bench.set().stats_in(index, &path("photos")).is_err());
    let hash = ContentHash::of(b"f");
    let with = |name: &str| bench.set().own_with(index, &path(name), &hash);
    assert!(with("photos/2026/f").is_ok());
    assert!(with("f").is_err());
}

#[test]
fn a_change_of_place_renames_every_name_and_reads_no_file() {
    let mut bench = ShareBench::bare();
    bench.mkdir("a");
    for (name, bytes) in [("a/f", b"first".as_slice()), ("f", b"second")] {
        bench.write(name, bytes);
        // A file that was just written is hashed again later.
        date(&bench.at(name), 1_000_000);
    }
    symlink("a/f", bench.at("link")).unwrap();
    bench.open();
    let index = bench.add_as("");
    assert_eq!(bench.names(), ["a", "a/f", "f", "link"]);
    let read_bytes = bench.set().read_bytes();
    let entries: Vec<Entry> = bench.listing.values().cloned().collect();
    // a/f stays listed, and is another file afterwards
    for (at, names) in [
        ("a", ["a/a", "a/a/f", "a/f", "a/link"]),
        ("other", ["other/a", "other/a/f", "other/f", "other/link"]),
        ("", ["a", "a/f", "f", "link"]),
    ] {
        assert_eq!(bench.add_as(at), index);
        assert_eq!(bench.names(), names, "{at:?}");
        let now: Vec<Entry> = bench.listing.values().cloned().collect();
        assert_eq!(now, entries, "{at:?}");
        assert_eq!(bench.status().totals.files, 2);
    }
    assert_eq!(bench.set().read_bytes(), read_bytes);
    assert!(bench.has("f", b"second"));
}

#[test]
fn a_place_that_changed_while_stopped_renames_at_the_start_and_reads_no_file() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    for (name, bytes) in [("d/f", b"first"), ("g", b"other")] {
        bench.write(name, bytes);
        date(&bench.at(name), 1_000_000);
    }
    bench.open();
    bench.add_as("old");
    bench.prove();
    for (at, names) in [
        ("new", ["new/d", "new/d/f", "new/g"]),
        ("", ["d", "d/f", "g"]),
        ("d", ["d/d", "d/d/f", "d/g"]),
    ] {
        bench.stop();
        bench.open();
        bench.add_as(at);
        assert_eq!(bench.names(), names, "{at:?}");
        assert_eq!(bench.set().read_bytes(), 0, "{at:?}");
    }
}

#[test]
fn a_removed_share_withdraws_its_names_below_the_place() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"f");
    bench.open();
    bench.add_as("photos");
    bench.set().remove(&bench.dir()).unwrap();
    bench.settle();
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn changes_of_a_share_are_announced_below_its_place() {
    let mut bench = ShareBench::bare();
    bench.open();
    bench.add_as("photos");
    bench.write("f", b"f");
    bench.wait_for("listed", |b| b.has("photos/f", b"f"));
    fs::rename(bench.at("f"), bench.at("g")).unwrap();
    bench.wait_for("renamed", |b| b.names() == ["photos/g"]);
}

#[test]
fn links_below_a_place_keep_to_their_share() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.write("f", b"f");
    let inside = bench.at("f");
    symlink("../f", bench.at("d/up")).unwrap();
    symlink(&inside, bench.at("d/absolute")).unwrap();
    // the name has depth 3 in the listing, but the target is outside of the share
    symlink("../../outside", bench.at("d/out")).unwrap();
    bench.open();
    bench.add_as("photos/2026");
    let target = |name: &str| match &bench.entry(name).unwrap().kind {
        Kind::Symlink { target } => target.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(target("photos/2026/d/up"), &b"../f"[..]);
    assert_eq!(target("photos/2026/d/absolute"), &b"../f"[..]);
    assert!(bench.entry("photos/2026/d/out").is_none());
    let left_out = bench.set().left_out_at(&path("photos/2026/d/out"));
    assert_eq!(left_out.len(), 1);
    assert_eq!(
        left_out[0].path,
        fs::canonicalize(bench.dir()).unwrap().join("d/out")
    );
    assert!(bench.set().left_out_at(&path("d/out")).is_empty());
}

#[test]
fn names_that_a_new_place_makes_too_deep_are_left_out_until_it_is_changed_back() {
    let mut bench = ShareBench::bare();
    let deep = ["d"; p2pfs_proto::wire::native::record::PATH_MAX_DEPTH].join("/");
    fs::create_dir_all(bench.at(&deep)).unwrap();
    bench.open();
    bench.add_as("");
    assert!(bench.entry(&deep).is_some());
    bench.add_as("place");
    let left_out = [(LeftOutWhy::TooDeep, 1)];
    assert_eq!(bench.status().left_out_counts, left_out);
    assert!(bench.names().iter().all(|name| name.starts_with("place/")));
    bench.add_as("");
    assert!(bench.entry(&deep).is_some());
}

#[test]
fn two_shares_at_one_place_and_nested_places_merge() {
    let mut bench = ShareBench::bare();
    let other = bench.home.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("g"), b"g").unwrap();
    bench.write("f", b"f");
    bench.open();
    bench.add_as("p");
    let mut names = vec!["p/f".to_owned()];
    for (at, listed) in [("p", "p/g"), ("p/q", "p/q/g"), ("", "g")] {
        let spec = ShareSpec {
            place: place(at),
            ..ShareSpec::new(&other)
        };
        bench.set().add(spec).unwrap();
        bench.settle();
        names.truncate(1);
        names.push(listed.to_owned());
        names.sort();
        assert_eq!(bench.names(), names, "{at:?}");
        names = vec!["p/f".to_owned()];
    }
}
