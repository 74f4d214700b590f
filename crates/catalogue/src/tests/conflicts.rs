//! Which version has a name, and the conflict names of the others.

use super::*;
use crate::{EARLY_TOLERANCE_SECONDS, Rule};

/// Creates a watcher with the logs of nodes with these names and entries.
fn merged(nodes: &[(&str, &[(&str, Entry)])]) -> Catalogue {
    let mut watcher = node(0xff, "watcher");
    for (number, (name, entries)) in nodes.iter().enumerate() {
        let mut author = node(number as u8 + 1, name);
        for (path, entry) in *entries {
            put(&mut author, path, entry.clone());
        }
        share(&mut author, &mut watcher);
    }
    watcher
}

#[test]
fn the_newest_version_gets_the_name_and_the_others_get_conflict_names() {
    let mut watcher = merged(&[
        ("old", &[("a.txt", file("one", 1))]),
        ("new", &[("a.txt", file("two", 3))]),
        ("mid", &[("a.txt", file("three", 2))]),
    ]);
    let view = watcher.view();
    assert_eq!(names(&view), ["a.txt", "a~mid.txt", "a~old.txt"]);
    assert_eq!(shown(&view, "a.txt"), Some(hash("two")));
    assert_eq!(shown(&view, "a~old.txt"), Some(hash("one")));
}

#[test]
fn a_future_mtime_gives_no_advantage_over_the_version_time() {
    let dated = Entry {
        mtime: time(9_999_999_999),
        ..file("dated 2286", 1)
    };
    let mut watcher = merged(&[("x", &[("a", dated)]), ("y", &[("a", file("honest", 2))])]);
    assert_eq!(shown(&watcher.view(), "a"), Some(hash("honest")));
}

#[test]
fn versions_of_one_time_are_ordered_by_the_smaller_hash() {
    let mut watcher = merged(&[("x", &[("a", file("1", 5))]), ("y", &[("a", file("2", 5))])]);
    let smaller = hash("1").min(hash("2"));
    let view = watcher.view();
    assert_eq!(shown(&view, "a"), Some(smaller));
    assert_eq!(rules(&mut watcher, "a"), [Rule::SmallestHash; 2]);
}

#[test]
fn a_directory_keeps_all_names_when_another_node_wins_them() {
    let mut watcher = node(0xff, "watcher");
    let (mut early, mut late) = (node(1, "early"), node(2, "late"));
    put(&mut early, "first", file("first", 1));
    share(&mut early, &mut watcher);
    for (author, seconds) in [(&mut late, 2), (&mut early, 3)] {
        for number in 0..600 {
            let name = format!("tree/{number:03}");
            put(author, &name, file(&name, seconds));
        }
        share(author, &mut watcher);
        // The count includes the directory and the file beside it.
        assert_eq!(names(&watcher.view()).len(), 602);
    }
}

#[test]
fn the_same_content_is_one_entry_with_several_holders() {
    let executable = |seconds| {
        let mut entry = file("same", seconds);
        if let Kind::File { executable, .. } = &mut entry.kind {
            *executable = seconds == 2;
        }
        entry
    };
    let mut watcher = merged(&[
        ("x", &[("a", executable(1))]),
        ("y", &[("a", executable(2))]),
    ]);
    let view = watcher.view();
    assert_eq!(names(&view), ["a"]);
    assert_eq!(view.contents().holders(&hash("same")), [id(1), id(2)]);
    let found = view.lookup(&path("a")).unwrap();
    assert_eq!(
        (found.author, found.mtime),
        (id(2), time(2)),
        "the newest has the attributes"
    );
    assert_eq!(found.kind, executable(2).kind);
}

#[test]
fn nodes_of_one_name_are_distinguished_by_their_keys() {
    let mut watcher = merged(&[
        ("lab", &[("a.c", file("one", 1))]),
        ("lab", &[("a.c", file("two", 2))]),
        ("top", &[("a.c", file("three", 3))]),
    ]);
    let expected = ["a.c", "a~lab-0101.c", "a~lab-0202.c"];
    assert_eq!(names(&watcher.view()), expected);
    watcher.forget(&id(1));
    assert_eq!(
        names(&watcher.view()),
        ["a.c", "a~lab.c"],
        "one is left of that name"
    );
}

#[test]
fn a_real_file_takes_precedence_over_a_conflict_name() {
    let mut watcher = merged(&[
        ("old", &[("a.txt", file("one", 1))]),
        (
            "new",
            &[("a.txt", file("two", 2)), ("a~old.txt", file("real", 0))],
        ),
    ]);
    let view = watcher.view();
    assert_eq!(shown(&view, "a~old.txt"), Some(hash("real")));
    assert_eq!(names(&view), ["a.txt", "a~old-01010101.txt", "a~old.txt"]);
    let mut author = node(2, "new");
    put(&mut author, "a.txt", file("two", 2));
    author.own_mut().recover(1);
    share(&mut author, &mut watcher);
    assert_eq!(
        names(&watcher.view()),
        ["a.txt", "a~old.txt"],
        "and gives it back"
    );
}

#[test]
fn a_version_without_a_possible_conflict_name_is_left_out_and_explained() {
    let long = "n".repeat(255);
    let mut watcher = merged(&[
        ("x", &[(&long, file("one", 1))]),
        ("y", &[(&long, file("two", 2))]),
    ]);
    let view = watcher.view();
    assert_eq!(names(&view), [long.as_str()]);
    let versions = view.versions(&path(&long));
    assert_eq!(versions.len(), 2);
    assert_eq!(
        (versions[1].rule, &versions[1].listed_as),
        (Rule::Newest, &None)
    );
    assert_eq!(versions[1].holders, [id(1)]);
    assert!(view.contents().get(&hash("one")).is_some());
}

#[test]
fn a_directory_keeps_its_name_from_a_file() {
    let mut watcher = merged(&[
        ("x", &[("d", file("one", 9))]),
        ("y", &[("d/inner", file("two", 1))]),
    ]);
    let view = watcher.view();
    assert_eq!(names(&view), ["d", "d/inner", "d~x"]);
    assert_eq!(view.lookup(&path("d")).unwrap().kind, Kind::Directory);
    assert_eq!(rules(&mut watcher, "d"), [Rule::Directory; 2]);
    watcher.set_live(id(2), false).unwrap();
    assert_eq!(
        names(&watcher.view()),
        ["d"],
        "and gives it up when it goes"
    );
}

#[test]
fn two_shares_of_one_node_follow_the_same_rule() {
    let mut author = node(1, "x");
    for (share, content, seconds) in [(0, "first", 1), (1, "second", 2), (2, "third", 2)] {
        author
            .own_mut()
            .put(ShareIndex(share), &path("a"), file(content, seconds))
            .unwrap();
    }
    let winner = hash("second").min(hash("third"));
    let view = author.view();
    assert_eq!(shown(&view, "a"), Some(winner));
    assert_eq!(names(&view), ["a", "a~x", "a~x-01010101"]);
}

#[test]
fn an_own_copy_replaces_another_nodes_winner_only_with_equal_attributes() {
    let mut me = node(2, "me");
    for (name, mtime) in [("d/a", 2), ("d/older", 1)] {
        me.own_mut()
            .put(ShareIndex(4), &path(name), file("same", mtime))
            .unwrap();
    }
    let mut other = node(1, "other");
    for name in ["d/a", "d/older", "d/b"] {
        put(&mut other, name, file("same", 2));
    }
    share(&mut other, &mut me);
    let view = me.view();
    let found = view.lookup(&path("d/a")).unwrap();
    assert_eq!(found.author, id(1));
    assert_eq!(found.own, Some((ShareIndex(4), path("d/a"))));
    let newer = view.lookup(&path("d/older")).unwrap();
    assert_eq!((newer.mtime, newer.own), (file("same", 2).mtime, None));
    assert_eq!(view.lookup(&path("d/b")).unwrap().own, None);
}

#[test]
fn a_conflict_name_explains_its_original_path() {
    let mut watcher = merged(&[
        ("x", &[("a.c", file("one", 1))]),
        ("y", &[("a.c", file("two", 2))]),
    ]);
    let view = watcher.view();
    let why = view.versions(&path("a~x.c"));
    assert_eq!(why, view.versions(&path("a.c")));
    assert_eq!(why[0].rule, Rule::Newest);
    assert_eq!(why[1].listed_as, Some(path("a~x.c")));
    assert_eq!(why[1].authors, [(id(1), SHARE)]);
}

#[test]
fn links_conflict_when_their_targets_differ() {
    let mut watcher = merged(&[
        ("x", &[("l", link("one", 1)), ("m", link("same", 1))]),
        ("y", &[("l", link("two", 2)), ("m", link("same", 2))]),
    ]);
    assert_eq!(names(&watcher.view()), ["l", "l~x", "m"]);
}

#[test]
fn odd_names_are_preserved() {
    let mut author = node(1, "x");
    for name in [&b"\xff\xfe"[..], b" ", b"new\nline", &[b'\x80'; 255]] {
        author
            .own_mut()
            .put(SHARE, &SharedPath::new(name).unwrap(), file("x", 1))
            .unwrap();
    }
    let view = author.view();
    let children = view.children(&SharedPath::root(), None, 10);
    let listed: Vec<&[u8]> = children.iter().map(|child| &*child.name).collect();
    let expected: [&[u8]; 4] = [b" ", b"new\nline", &[b'\x80'; 255], b"\xff\xfe"];
    assert_eq!(listed, expected);
}

#[test]
fn a_future_version_is_delayed_until_its_time_and_why_explains_it() {
    let (mut liar, mut honest) = (node(1, "liar"), node(2, "honest"));
    put(&mut honest, "install.sh", file("honest", 1_000));
    put(&mut liar, "install.sh", file("wicked", 10_000_000));
    honest.set_clock(2_000);
    share(&mut liar, &mut honest);
    let shown =
        |honest: &mut Catalogue| match honest.view().lookup(&path("install.sh")).unwrap().kind {
            Kind::File { hash, .. } => Some(hash),
            _ => None,
        };
    assert_eq!(shown(&mut honest), Some(hash("honest")));
    assert_eq!(rules(&mut honest, "install.sh"), [Rule::Only, Rule::Clock]);
    assert_eq!(names(&honest.view()), ["install.sh"], "nor beside it");
    assert_eq!(honest.early_count(), 1);
    honest.set_clock(10_000_000 - EARLY_TOLERANCE_SECONDS - 1);
    assert_eq!(shown(&mut honest), Some(hash("honest")));
    honest.set_clock(10_000_000 - EARLY_TOLERANCE_SECONDS);
    assert_eq!(shown(&mut honest), Some(hash("wicked")));
    assert_eq!(rules(&mut honest, "install.sh"), [Rule::Newest; 2]);
    assert_eq!(honest.early_count(), 0);
}

#[test]
fn a_version_just_past_the_horizon_appears_at_its_time() {
    let (mut author, mut reader) = (node(1, "author"), node(2, "reader"));
    let dated = |nanoseconds| Entry {
        version_time: Timestamp {
            seconds: 10_000_000,
            nanoseconds,
        },
        ..file("early", 10_000_000)
    };
    for (name, nanoseconds) in [("first", 0), ("next", 1), ("last", 999_999_999)] {
        put(&mut author, name, dated(nanoseconds));
    }
    let begins = 10_000_000 - EARLY_TOLERANCE_SECONDS;
    reader.set_clock(begins - 1);
    share(&mut author, &mut reader);
    assert!(names(&reader.view()).is_empty());
    reader.set_clock(begins);
    assert_eq!(names(&reader.view()), ["first"]);
    assert_eq!(reader.early_count(), 2);
    reader.set_clock(begins + 1);
    assert_eq!(names(&reader.view()), ["first", "last", "next"]);
    assert_eq!(reader.early_count(), 0);
}

#[test]
fn a_file_dated_in_the_future_does_not_hide_later_changes_of_its_directory() {
    let (mut author, mut reader) = (node(1, "author"), node(2, "reader"));
    let (dated, mtime) = (file("dated", 1_000), time(1_893_456_000));
    put(&mut author, "d/dated", Entry { mtime, ..dated });
    share(&mut author, &mut reader);
    let shown = |reader: &mut Catalogue| reader.view().lookup(&path("d")).unwrap().mtime;
    assert_eq!(shown(&mut reader), time(1_000));
    put(&mut author, "d/later", file("later", 2_000));
    share(&mut author, &mut reader);
    assert_eq!(shown(&mut reader), time(2_000));
    author.own_mut().remove(SHARE, &path("d/later"));
    share(&mut author, &mut reader);
    assert_eq!(shown(&mut reader), time(1_000));
    // The directory itself is dated by hand at 3000.
    let dated = Entry {
        mtime,
        ..directory(3_000)
    };
    put(&mut author, "d", dated);
    share(&mut author, &mut reader);
    assert_eq!(shown(&mut reader), mtime);
    put(&mut author, "d/later", file("later", 4_000));
    share(&mut author, &mut reader);
    assert_eq!(shown(&mut reader), time(4_000));
    let root = reader.view().lookup(&SharedPath::root()).unwrap();
    assert_eq!(
        root.mtime,
        time(3_000),
        "nor does it hide one of what is above"
    );
}

#[test]
fn a_future_directory_time_is_delayed_until_it_is_reached() {
    let (mut liar, mut honest) = (node(1, "liar"), node(2, "honest"));
    honest.set_clock(2_000);
    put(&mut honest, "d/file", file("honest", 1_000));
    put(&mut liar, "d", directory(10_000_000));
    share(&mut liar, &mut honest);
    let shown = |honest: &mut Catalogue| honest.view().lookup(&path("d")).unwrap().mtime;
    assert_eq!(shown(&mut honest), time(1_000));
    assert_eq!(honest.poll_dated_ahead(), None, "no version is in question");
    honest.set_clock(10_000_000);
    assert_eq!(shown(&mut honest), time(10_000_000));
    assert_eq!(honest.early_count(), 0);
}

#[test]
fn a_version_received_before_the_clock_was_set_is_delayed_too() {
    let (mut liar, mut honest) = (node(1, "liar"), node(2, "honest"));
    put(&mut liar, "f", file("wicked", 10_000_000));
    share(&mut liar, &mut honest);
    assert_eq!(names(&honest.view()), ["f"]);
    honest.set_clock(2_000);
    assert!(names(&honest.view()).is_empty());
    liar.own_mut().remove(SHARE, &path("f"));
    share(&mut liar, &mut honest);
    assert_eq!(honest.early_count(), 0);
}

#[test]
fn a_departed_nodes_cached_content_wins_over_no_live_share() {
    let (mut departed, mut live) = (node(1, "departed"), node(2, "live"));
    put(&mut departed, "f", file("newer", 9));
    put(&mut departed, "alone", file("newer", 9));
    put(&mut live, "f", file("older", 1));
    share(&mut departed, &mut live);
    live.own_mut().have(hash("newer"), 5).unwrap();
    assert_eq!(live.view().versions(&path("f"))[0].rule, Rule::Newest);
    live.set_live(id(1), false).unwrap();
    let versions = live.view().versions(&path("f"));
    assert_eq!(rules(&mut live, "f"), [Rule::AuthorLives; 2]);
    assert_eq!(versions[0].authors[0].0, id(2));
    assert!(
        live.view().lookup(&path("alone")).is_some(),
        "it is all there is"
    );
    live.set_live(id(1), true).unwrap();
    assert_eq!(live.view().versions(&path("f"))[0].authors[0].0, id(1));
}

#[test]
fn departed_nodes_version_of_the_same_time_and_a_smaller_hash_lost_by_its_departure() {
    let (mut departed, mut live) = (node(1, "departed"), node(2, "live"));
    let mut contents = ["one", "two"];
    contents.sort_by_key(|content| hash(content));
    put(&mut departed, "f", file(contents[0], 5));
    put(&mut live, "f", file(contents[1], 5));
    share(&mut departed, &mut live);
    live.own_mut().have(hash(contents[0]), 3).unwrap();
    live.set_live(id(1), false).unwrap();
    assert_eq!(shown(&live.view(), "f"), Some(hash(contents[1])));
    assert_eq!(rules(&mut live, "f"), [Rule::AuthorLives; 2]);
}

#[test]
fn first_author_of_a_version_is_the_one_whose_attributes_it_has() {
    let (mut departed, mut live) = (node(1, "departed"), node(2, "live"));
    put(&mut departed, "f", file("same", 9));
    put(&mut live, "f", file("same", 1));
    share(&mut departed, &mut live);
    live.set_live(id(1), false).unwrap();
    let version = live.view().versions(&path("f")).remove(0);
    assert_eq!(version.mtime, time(1));
    assert_eq!(version.authors, [(id(2), SHARE), (id(1), SHARE)]);
}

#[test]
fn author_of_future_dates_is_reported_once_with_the_latest() {
    let (mut liar, mut honest) = (node(1, "liar"), node(2, "honest"));
    honest.set_clock(2_000);
    put(&mut liar, "a", file("a", 3_200));
    put(&mut liar, "b", file("b", 2_500));
    share(&mut liar, &mut honest);
    assert_eq!(honest.poll_dated_ahead(), Some((id(1), 1_200)));
    assert_eq!(honest.poll_dated_ahead(), None);
}

#[test]
fn a_contents_name_is_as_listed_even_beside_namesakes_or_without_its_author() {
    let (mut one, mut two) = (node(1, "n1"), node(2, "n2"));
    put(&mut one, "v.txt", file("newer", 9));
    put(&mut two, "v.txt", file("older", 1));
    put(&mut two, "only.txt", file("kept", 1));
    share(&mut two, &mut one);
    let named =
        |node: &mut Catalogue, content: &str| node.view().contents().names_of(&hash(content), 9);
    assert_eq!(named(&mut one, "newer"), [path("v.txt")]);
    assert_eq!(named(&mut one, "older"), [path("v~n2.txt")]);
    one.own_mut().have(hash("older"), 5).unwrap();
    one.own_mut().have(hash("kept"), 4).unwrap();
    one.set_live(id(2), false).unwrap();
    assert_eq!(names(&one.view()), ["only.txt", "v.txt", "v~n2.txt"]);
    assert_eq!(named(&mut one, "older"), [path("v~n2.txt")]);
    assert_eq!(named(&mut one, "kept"), [path("only.txt")]);
    one.own_mut().have_not(hash("kept"));
    assert!(named(&mut one, "kept").is_empty(), "it is listed no more");
    let last = one.view().contents().last_name_of(&hash("kept"));
    assert_eq!(last, Some(path("only.txt")));
}
