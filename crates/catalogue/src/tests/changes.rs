//! Changes that the kernel is notified of.

use super::*;
use crate::{CHANGES_MAX, Change};

fn drain(node: &mut Catalogue) -> Vec<Change> {
    node.view();
    std::iter::from_fn(|| node.poll_change()).collect()
}

fn entry(name: &str) -> Change {
    Change::Entry(path(name))
}

fn listing_of(name: &str) -> Change {
    Change::Listing(path(name))
}

#[test]
fn a_new_name_changes_its_directory_and_its_entry() {
    let mut me = node(1, "x");
    put(&mut me, "d/a", file("one", 1));
    let changes = drain(&mut me);
    let expected = [listing_of("d"), entry("d"), listing_of(""), entry("d/a")];
    assert_eq!(changes, expected);
    assert!(drain(&mut me).is_empty(), "each is told once");
}

#[test]
fn a_new_content_changes_the_entry() {
    let mut me = node(1, "x");
    put(&mut me, "d/a", file("one", 5));
    put(&mut me, "d/b", file("two", 9));
    drain(&mut me);
    put(&mut me, "d/a", file("three", 6));
    assert_eq!(drain(&mut me), [entry("d/a")]);
    me.own_mut()
        .put(SHARE, &path("d/a"), file("three", 6))
        .unwrap();
    assert!(drain(&mut me).is_empty(), "said again, it is no change");
}

#[test]
fn a_name_that_becomes_an_own_file_or_stops_being_one_is_reported() {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    put(&mut x, "a", file("one", 5));
    put(&mut x, "b", file("two", 1));
    put(&mut y, "b", file("newer", 2));
    share(&mut x, &mut y);
    drain(&mut y);
    for name in ["a", "b"] {
        let entry_of_x = x.own().entry(SHARE, &path(name)).unwrap();
        y.own_mut()
            .put(ShareIndex(1), &path(name), entry_of_x)
            .unwrap();
    }
    let told = drain(&mut y);
    assert!(y.view().lookup(&path("a")).unwrap().own.is_some());
    let lost = y.view().lookup(&path("b~x")).unwrap();
    assert!(lost.own.is_none(), "only what has its name is shown live");
    assert_eq!(told, [entry("a"), entry("b"), entry("b~x")]);
    y.own_mut().remove(ShareIndex(1), &path("a"));
    assert_eq!(drain(&mut y), [entry("a")]);
}

#[test]
fn an_identical_entry_is_not_a_change() {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    put(&mut x, "a", file("one", 5));
    share(&mut x, &mut y);
    drain(&mut y);
    put(&mut x, "hidden by another", file("two", 1));
    x.own_mut().remove(SHARE, &path("hidden by another"));
    share(&mut x, &mut y);
    assert!(drain(&mut y).is_empty());
}

#[test]
fn a_removed_name_is_reported_with_its_conflict_names() {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    put(&mut x, "a.c", file("one", 1));
    put(&mut y, "a.c", file("two", 2));
    share(&mut x, &mut y);
    drain(&mut y);
    y.own_mut().remove(SHARE, &path("a.c"));
    assert_eq!(names(&y.view()), ["a.c"]);
    assert_eq!(
        drain(&mut y),
        [entry("a.c"), listing_of(""), entry("a~x.c")]
    );
}

#[test]
fn changes_beyond_the_limit_report_everything_once() {
    let mut me = node(1, "x");
    (0..=CHANGES_MAX).for_each(|n| put(&mut me, &n.to_string(), file("", 1)));
    assert_eq!(drain(&mut me), [Change::Everything]);
}

#[test]
fn directories_above_a_name_are_reported_by_their_own_paths() {
    let mut me = node(1, "x");
    let tree = |top: &str, leaf: &str| format!("{top}{}/{leaf}", "/d".repeat(40));
    let told_of = |top: &str, leaf: &str| {
        let mut told = vec![entry(&tree(top, leaf)), listing_of("")];
        for depth in 0..=40 {
            let here = format!("{top}{}", "/d".repeat(depth));
            told.extend([entry(&here), listing_of(&here)]);
        }
        told.sort();
        told
    };
    let sorted = |node: &mut Catalogue| {
        let mut told = drain(node);
        told.sort();
        told
    };
    put(&mut me, &tree("first", "f"), file("one", 1));
    assert_eq!(sorted(&mut me), told_of("first", "f"));
    me.own_mut().remove(SHARE, &path(&tree("first", "f")));
    assert_eq!(sorted(&mut me), told_of("first", "f"));
    // The numbers of its directories are reused.
    put(&mut me, &tree("second", "other"), file("two", 1));
    assert_eq!(sorted(&mut me), told_of("second", "other"));
}
