//! Listings while nodes depart and return.

use super::*;
use crate::Change;
use crate::view::DATING_MAX;

fn watched(author: &mut Catalogue) -> Catalogue {
    let mut watcher = node(0xff, "watcher");
    share(author, &mut watcher);
    watcher
}

#[test]
fn a_dead_nodes_entries_disappear_and_return_with_it() {
    let mut author = node(1, "x");
    put(&mut author, "d/a", file("one", 1));
    put(&mut author, "empty", directory(1));
    let mut watcher = watched(&mut author);
    assert_eq!(names(&watcher.view()), ["d", "d/a", "empty"]);
    watcher.set_live(id(1), false).unwrap();
    assert!(names(&watcher.view()).is_empty());
    assert_eq!(watcher.view().totals(), Default::default());
    watcher.set_live(id(1), true).unwrap();
    assert_eq!(names(&watcher.view()), ["d", "d/a", "empty"]);
}

#[test]
fn a_dead_nodes_file_stays_listed_while_a_live_cache_has_it_complete() {
    let mut author = node(1, "x");
    put(&mut author, "d/a", file("one", 1));
    put(&mut author, "d/b", file("two", 1));
    let mut cacher = node(2, "y");
    cacher.own_mut().have(hash("one"), 3).unwrap();
    let mut watcher = watched(&mut author);
    share(&mut cacher, &mut watcher);
    watcher.set_live(id(1), false).unwrap();
    assert_eq!(names(&watcher.view()), ["d", "d/a"]);
    assert_eq!(watcher.view().contents().holders(&hash("one")), [id(2)]);
    cacher.own_mut().have_not(hash("one"));
    share(&mut cacher, &mut watcher);
    assert!(names(&watcher.view()).is_empty());
}

#[test]
fn this_nodes_cache_keeps_a_dead_nodes_file_listed() {
    let mut author = node(1, "x");
    put(&mut author, "a", file("one", 1));
    let mut watcher = watched(&mut author);
    watcher.set_live(id(1), false).unwrap();
    assert_eq!(watcher.view().lookup(&path("a")), None);
    watcher.own_mut().have(hash("one"), 3).unwrap();
    assert_eq!(shown(&watcher.view(), "a"), Some(hash("one")));
    assert_eq!(watcher.view().contents().holders(&hash("one")), [id(0xff)]);
    watcher.own_mut().have_not(hash("one"));
    assert_eq!(watcher.view().lookup(&path("a")), None);
}

#[test]
fn identical_content_of_a_live_node_keeps_a_dead_nodes_name_listed() {
    let mut author = node(1, "x");
    put(&mut author, "a", file("one", 1));
    let mut other = node(2, "y");
    put(&mut other, "elsewhere", file("one", 1));
    let mut watcher = watched(&mut author);
    share(&mut other, &mut watcher);
    watcher.set_live(id(1), false).unwrap();
    assert_eq!(names(&watcher.view()), ["a", "elsewhere"]);
    watcher.set_live(id(2), false).unwrap();
    assert!(names(&watcher.view()).is_empty());
}

#[test]
fn a_cached_content_without_a_name_is_held_but_neither_listed_nor_counted() {
    let mut cacher = node(2, "y");
    cacher.own_mut().have(hash("one"), 3).unwrap();
    let view = cacher.view();
    assert_eq!(view.contents().get(&hash("one")).unwrap().size_bytes, 3);
    assert_eq!(view.totals(), Default::default());
}

#[test]
fn a_death_is_applied_in_bounded_consistent_steps() {
    let mut author = node(1, "x");
    for number in 0..50 {
        put(
            &mut author,
            &format!("d{}/{number}", number % 7),
            file("same everywhere", number),
        );
    }
    let mut watcher = watched(&mut author);
    watcher.logs.merge.settling.step_records = 1;
    watcher.set_live(id(1), false).unwrap();
    let mut entries = watcher.view().totals().entries;
    assert_eq!(entries, 57, "one row is not the last of the content");
    let mut steps = 0;
    while watcher.advance(1) {
        let view = watcher.view();
        assert_eq!(listing(&view).len() as u64, view.totals().entries);
        assert!(view.totals().entries <= entries);
        entries = view.totals().entries;
        steps += 1;
    }
    assert!(steps >= 48, "{steps}");
    assert_eq!(watcher.view().totals(), Default::default());
}

#[test]
fn a_content_with_many_names_is_settled_in_bounded_steps() {
    let mut author = node(1, "x");
    (0..40).for_each(|n| put(&mut author, &format!("empty {n}"), file("", n)));
    let mut watcher = watched(&mut author);
    watcher.set_live(id(1), false).unwrap();
    watcher.logs.merge.settling.step_records = 10;
    watcher.own_mut().have(hash(""), 0).unwrap();
    assert_eq!(watcher.view().totals().entries, 10);
    assert!(watcher.advance(10));
    while watcher.advance(10) {}
    assert_eq!(watcher.view().totals().entries, 40);
}

#[test]
fn a_flapping_content_is_queued_once_with_all_its_names() {
    let mut author = node(1, "x");
    (0..40).for_each(|n| put(&mut author, &format!("empty {n}"), file("", n)));
    let mut watcher = watched(&mut author);
    watcher.set_live(id(1), false).unwrap();
    watcher.logs.merge.settling.step_records = 10;
    for _ in 0..50 {
        watcher.own_mut().have(hash(""), 0).unwrap();
        watcher.advance(5);
        watcher.own_mut().have_not(hash(""));
    }
    watcher.own_mut().have(hash(""), 0).unwrap();
    let merge = &watcher.logs.merge;
    assert!(merge.settling.unsettled.len() + merge.settling.unsettled_contents.len() <= 1);
    while watcher.advance(10) {}
    assert_eq!(watcher.view().totals().entries, 40);
}

#[test]
fn a_node_that_returns_during_its_removal_is_complete() {
    let mut author = node(1, "x");
    (0..20).for_each(|n| put(&mut author, &format!("f{n}"), file(&n.to_string(), n)));
    let mut watcher = watched(&mut author);
    watcher.logs.merge.settling.step_records = 3;
    watcher.set_live(id(1), false).unwrap();
    watcher.advance(4);
    watcher.set_live(id(1), true).unwrap();
    while watcher.advance(4) {}
    assert_eq!(watcher.view().totals().entries, 20);
}

#[test]
fn a_directorys_time_is_its_newest_change() {
    let mut author = node(1, "x");
    put(&mut author, "d", directory(5));
    put(&mut author, "d/a", file("one", 3));
    let time_of = |node: &mut Catalogue| node.view().lookup(&path("d")).unwrap().mtime;
    assert_eq!(time_of(&mut author), time(5));
    put(&mut author, "d/b", file("two", 8));
    assert_eq!(time_of(&mut author), time(8));
    author.own_mut().remove(SHARE, &path("d/b"));
    assert_eq!(time_of(&mut author), time(5));
    put(&mut author, "d/e", directory(-7));
    assert_eq!(
        author.view().lookup(&path("d/e")).unwrap().mtime,
        time(-7),
        "before 1970 too"
    );
    assert_eq!(author.view().lookup(&path("d")).unwrap().subdirectories, 1);
}

#[test]
fn directory_that_only_names_below_it_imply_has_their_newest_time() {
    let mut author = node(1, "x");
    put(&mut author, "a/b/c/old", file("one", 3));
    put(&mut author, "a/z/new", file("two", 8));
    let time_of = |node: &mut Catalogue, name: &str| node.view().lookup(&path(name)).unwrap().mtime;
    for (name, seconds) in [("", 8), ("a", 8), ("a/b", 3), ("a/b/c", 3), ("a/z", 8)] {
        assert_eq!(time_of(&mut author, name), time(seconds), "{name}");
    }
    let of_peer = author.view();
    let of_peer = of_peer.peers().lookup("x", &path("a/b")).unwrap();
    assert_eq!(of_peer.mtime, time(3));
    while author.poll_change().is_some() {}
    put(&mut author, "a/b/c/newest", file("three", 9));
    let changes: Vec<_> = std::iter::from_fn(|| author.poll_change()).collect();
    for name in ["", "a", "a/b", "a/b/c"] {
        let is_told = changes.contains(&Change::Listing(path(name)));
        assert!(is_told, "{name}: {changes:?}");
        assert_eq!(time_of(&mut author, name), time(9));
    }
    put(&mut author, "a/b", directory(1));
    assert_eq!(time_of(&mut author, "a/b"), time(1), "its own date applies");
}

#[test]
fn dating_a_directory_visits_a_bounded_number_of_others() {
    let mut author = node(1, "x");
    let seconds = i64::try_from(DATING_MAX).unwrap() + 10;
    (0..seconds).for_each(|n| put(&mut author, &format!("a/{n:04}/f"), file("one", n)));
    let shown = author.view().lookup(&path("a")).unwrap();
    assert_eq!(shown.mtime, time(seconds - 11));
}

#[test]
fn this_node_is_always_live() {
    let mut me = node(1, "x");
    put(&mut me, "a", file("one", 1));
    me.set_live(id(1), false).unwrap();
    assert_eq!(names(&me.view()), ["a"]);
    me.forget(&id(1));
    assert_eq!(names(&me.view()), ["a"]);
}

#[test]
fn a_view_never_changes() {
    let mut me = node(1, "x");
    put(&mut me, "d/a", file("one", 1));
    let before = me.view();
    let expected = listing(&before);
    me.own_mut().remove(SHARE, &path("d/a"));
    (0..200).for_each(|n| put(&mut me, &format!("d/{n}"), file(&n.to_string(), n)));
    assert_eq!(listing(&before), expected);
    assert_eq!(me.view().totals().entries, 201);
}
