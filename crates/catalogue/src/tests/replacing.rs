//! Tests of versions that replace others, of deletions, and of the terms of shares.

use super::*;
use crate::{CatalogueError, ConflictName, ContentsAt, DropCause, Dropped, Standing, Supersession};
use p2pfs_proto::wire::native::record::REPLACES_MAX;

/// Creates the entry of a file that replaces others.
fn replacing(content: &str, seconds: i64, replaced: &[&str]) -> Entry {
    Entry {
        replaces: replaced.iter().map(|content| hash(content)).collect(),
        ..file(content, seconds)
    }
}

fn open(node: &mut Catalogue) {
    assert!(node.own_mut().set_open(SHARE, true).unwrap());
}

fn delete(node: &mut Catalogue, name: &str, contents: &[&str], seconds: i64) {
    let replaces = contents.iter().map(|content| hash(content)).collect();
    let deleted = node.own_mut().delete(&path(name), replaces, time(seconds));
    assert!(deleted.unwrap());
}

/// Gives the logs of all nodes to a new observer, in this order and in parts of a few records.
fn observer(nodes: &mut [&mut Catalogue]) -> Catalogue {
    let mut observer = node(0xf0, "observer");
    for from in nodes {
        let author = signed(from).head.author;
        observer.set_live(author, true).unwrap();
        bring(&author, from, &mut observer, 2);
    }
    while observer.advance(5) {}
    observer
}

/// Returns the listed names, which are the same whatever the order in which the logs arrive.
fn listed(nodes: &mut [&mut Catalogue]) -> Vec<String> {
    let forward = names(&observer(nodes).view());
    nodes.reverse();
    assert_eq!(forward, names(&observer(nodes).view()));
    nodes.reverse();
    forward
}

#[test]
fn a_replaced_version_of_an_open_share_loses_the_name_and_has_no_other() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "f", file("old", 5));
    put(&mut b, "f", replacing("new", 6, &["old"]));
    assert_eq!(listed(&mut [&mut a, &mut b]), ["f"]);
    let mut seen = observer(&mut [&mut a, &mut b]);
    assert_eq!(shown(&seen.view(), "f"), Some(hash("new")));
    assert_eq!(rules(&mut seen, "f"), [Rule::Replaced, Rule::Replaced]);
    let versions = seen.view().versions(&path("f"));
    assert_eq!(versions[0].replaces, [hash("old")]);
    assert_eq!(versions[0].superseded_by, None);
    let by = Supersession {
        author: id(2),
        time: time(6),
        hash: Some(hash("new")),
    };
    assert_eq!(versions[1].superseded_by, Some(by));
    assert_eq!(versions[1].listed_as, None);
}

#[test]
fn a_replaced_version_of_a_closed_share_stays_beside_its_replacement() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    put(&mut a, "f", file("old", 5));
    put(&mut b, "f", replacing("new", 6, &["old"]));
    assert_eq!(listed(&mut [&mut a, &mut b]), ["f", "f~a"]);
    assert_eq!(
        rules(&mut observer(&mut [&mut a, &mut b]), "f"),
        [Rule::Newest, Rule::Newest]
    );
}

#[test]
fn an_author_replaces_its_own_versions_in_a_closed_share() {
    let mut a = node(1, "a");
    put(&mut a, "f", file("old", 5));
    let other = ShareIndex(1);
    let new = replacing("new", 6, &["old"]);
    a.own_mut().put(other, &path("f"), new).unwrap();
    assert_eq!(listed(&mut [&mut a]), ["f"]);
}

#[test]
fn a_version_that_is_newer_than_its_replacement_stays() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "f", file("old", 7));
    put(&mut b, "f", replacing("new", 6, &["old"]));
    assert_eq!(listed(&mut [&mut a, &mut b]), ["f", "f~b"]);
}

#[test]
fn two_nodes_that_edit_one_version_keep_both_and_a_third_resolves_them() {
    let (mut a, mut b, mut c) = (node(1, "a"), node(2, "b"), node(3, "c"));
    [&mut a, &mut b, &mut c].into_iter().for_each(open);
    put(&mut a, "f", file("old", 5));
    put(&mut b, "f", replacing("of b", 7, &["old"]));
    put(&mut c, "f", replacing("of c", 8, &["old"]));
    assert_eq!(listed(&mut [&mut a, &mut b, &mut c]), ["f", "f~b"]);
    put(&mut a, "f", replacing("both", 9, &["old", "of b", "of c"]));
    assert_eq!(listed(&mut [&mut a, &mut b, &mut c]), ["f"]);
}

#[test]
fn a_version_that_its_author_lists_again_stays_replaced() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    put(&mut b, "f", replacing("new", 6, &["old"]));
    let mut seen = observer(&mut [&mut b]);
    // The author lost its state, and its log begins anew.
    open(&mut a);
    put(&mut a, "f", file("old", 5));
    share(&mut a, &mut seen);
    assert_eq!(names(&seen.view()), ["f"]);
    assert_eq!(shown(&seen.view(), "f"), Some(hash("new")));
}

#[test]
fn the_replaced_version_has_the_name_while_no_node_can_give_the_replacement() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "f", file("old", 5));
    put(&mut b, "f", replacing("new", 6, &["old"]));
    let mut seen = observer(&mut [&mut a, &mut b]);
    seen.set_live(id(2), false).unwrap();
    assert_eq!(shown(&seen.view(), "f"), Some(hash("old")));
    assert_eq!(rules(&mut seen, "f"), [Rule::Only, Rule::Givable]);
    // Another node has the replacement in its cache.
    a.own_mut().have(hash("new"), 3).unwrap();
    share(&mut a, &mut seen);
    assert_eq!(shown(&seen.view(), "f"), Some(hash("new")));
    seen.set_live(id(2), true).unwrap();
    assert_eq!(names(&seen.view()), ["f"]);
}

#[test]
fn versions_that_replace_each_other_are_decided_by_time_then_by_hash() {
    let contents = ["x", "y", "z"];
    let first = contents.iter().min_by_key(|content| hash(content)).unwrap();
    let mut nodes = [node(1, "a"), node(2, "b"), node(3, "c")];
    for (at, node) in nodes.iter_mut().enumerate() {
        open(node);
        // Each replaces the next one, at the same time.
        let next = contents[(at + 1) % 3];
        put(node, "f", replacing(contents[at], 5, &[next]));
    }
    let [a, b, c] = &mut nodes;
    let all = listed(&mut [a, b, c]);
    let mut seen = observer(&mut [a, b, c]);
    assert_eq!(shown(&seen.view(), "f"), Some(hash(first)));
    assert!((1..=2).contains(&all.len()), "{all:?}");
    put(a, "f", replacing("x", 6, &["y"]));
    put(b, "f", replacing("y", 5, &["x"]));
    assert_eq!(shown(&observer(&mut [a, b]).view(), "f"), Some(hash("x")));
    assert_eq!(listed(&mut [a, b]), ["f"]);
}

#[test]
fn a_version_without_replacements_is_replaced_by_one_of_the_same_time() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    for (old, new) in [("x", "y"), ("y", "x")] {
        put(&mut a, "f", file(old, 5));
        put(&mut b, "f", replacing(new, 5, &[old]));
        assert_eq!(listed(&mut [&mut a, &mut b]), ["f"]);
        let seen = observer(&mut [&mut a, &mut b]).view();
        assert_eq!(shown(&seen, "f"), Some(hash(new)));
    }
}

#[test]
fn a_deleted_version_is_hidden_while_its_author_and_the_deleter_are_away() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "d/f", file("old", 5));
    put(&mut a, "d/g", file("old", 5));
    delete(&mut b, "d/f", &["old"], 6);
    assert_eq!(listed(&mut [&mut a, &mut b]), ["d", "d/g"]);
    let mut seen = observer(&mut [&mut a, &mut b]);
    seen.set_live(id(2), false).unwrap();
    assert_eq!(names(&seen.view()), ["d", "d/g"]);
    let versions = seen.view().versions(&path("d/f"));
    let by = Supersession {
        author: id(2),
        time: time(6),
        hash: None,
    };
    assert_eq!(versions[0].rule, Rule::Deleted);
    assert_eq!(versions[0].superseded_by, Some(by));
    // The node's own files still have it.
    let file = seen.view().peers().lookup("a", &path("d/f"));
    assert_eq!(file.unwrap().author, id(1));
    assert!(seen.view().peers().lookup("b", &path("d")).is_none());
    // The deletion ends with the membership of its author.
    seen.forget(&id(2));
    while seen.advance(5) {}
    assert_eq!(names(&seen.view()), ["d", "d/f", "d/g"]);
}

#[test]
fn a_later_version_wins_over_a_deletion() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "f", file("old", 5));
    delete(&mut b, "f", &["old"], 6);
    put(&mut a, "f", file("old", 7));
    assert_eq!(listed(&mut [&mut a, &mut b]), ["f"]);
    put(&mut a, "f", file("other", 5));
    assert_eq!(listed(&mut [&mut a, &mut b]), ["f"]);
}

#[test]
fn a_deletion_hides_nothing_in_a_closed_share_nor_in_one_that_is_closed_again() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    for name in ["f", "g", "h"] {
        put(&mut a, name, file(name, 5));
        delete(&mut b, name, &[name], 6);
    }
    let all = ["f", "g", "h"];
    assert_eq!(listed(&mut [&mut a, &mut b]), all);
    let mut seen = observer(&mut [&mut a, &mut b]);
    seen.logs.merge.settling.step_records = 1;
    open(&mut a);
    share(&mut a, &mut seen);
    while seen.advance(1) {}
    assert!(names(&seen.view()).is_empty());
    assert!(a.own_mut().set_open(SHARE, false).unwrap());
    share(&mut a, &mut seen);
    while seen.advance(1) {}
    assert_eq!(names(&seen.view()), all);
    assert_eq!(listed(&mut [&mut a, &mut b]), all);
}

#[test]
fn a_deletion_joins_the_former_one_and_is_later_than_what_it_deletes() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    b.set_clock(10);
    open(&mut a);
    put(&mut a, "f", file("one", 30));
    share(&mut a, &mut b);
    delete(&mut b, "f", &["one"], 10);
    put(&mut a, "f", file("two", 40));
    share(&mut a, &mut b);
    delete(&mut b, "f", &["two"], 10);
    assert!(listed(&mut [&mut a, &mut b]).is_empty());
    put(&mut a, "f", file("one", 30));
    assert!(listed(&mut [&mut a, &mut b]).is_empty());
    // A version that waits for the clock does not date a deletion.
    put(&mut a, "f", file("late", 1_000_000));
    share(&mut a, &mut b);
    delete(&mut b, "f", &["late"], 10);
    let newest = b.view().contents_at(&path("f")).newest;
    assert!(newest > time(40) && newest <= time(10 + crate::EARLY_TOLERANCE_SECONDS));
}

#[test]
fn a_withdrawn_deletion_hides_nothing_and_its_other_contents_stay_deleted() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "f", file("one", 5));
    share(&mut a, &mut b);
    delete(&mut b, "f", &["one", "two"], 6);
    assert!(b.view().deletes(&path("f"), &hash("one")));
    let lost = b.view().unlisted_at_and_below(&SharedPath::root());
    assert_eq!(lost.into_iter().collect::<Vec<_>>(), [path("f")]);
    let mut withdraw = |content: &str| {
        let own = &mut b.own_mut();
        own.withdraw_deletion(&path("f"), &[hash(content)]).unwrap()
    };
    assert!(withdraw("one") && !withdraw("one") && !withdraw("three"));
    assert_eq!(listed(&mut [&mut a, &mut b]), ["f"]);
    assert!(!b.view().deletes(&path("f"), &hash("one")));
    assert!(b.view().unlisted_at_and_below(&path("f")).is_empty());
    put(&mut a, "f", file("two", 5));
    share(&mut a, &mut b);
    assert!(listed(&mut [&mut a, &mut b]).is_empty());
    b.own_mut()
        .withdraw_deletion(&path("f"), &[hash("two")])
        .unwrap();
    assert_eq!(listed(&mut [&mut a, &mut b]), ["f"]);
    delete(&mut b, "f", &["two"], 7);
    assert!(listed(&mut [&mut a, &mut b]).is_empty());
}

#[test]
fn a_deletion_keeps_its_newest_contents() {
    let mut a = node(1, "a");
    let contents: Vec<String> = (0..REPLACES_MAX + 8).map(|n| n.to_string()).collect();
    for content in &contents {
        delete(&mut a, "f", &[content], 5);
    }
    let newest = contents.iter().rev().take(REPLACES_MAX);
    let newest: Vec<ContentHash> = newest.map(|content| hash(content)).collect();
    assert_eq!(a.view().contents_at(&path("f")).hashes, newest);
    assert_eq!(a.own().head().count, 1);
}

#[test]
fn a_deletion_dated_ahead_of_the_clock_hides_nothing_until_then() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "d", directory(5));
    put(&mut a, "d/f", file("old", 5));
    delete(&mut b, "d/f", &["old"], 500);
    let gone = vec![Kind::Directory.content()];
    b.own_mut().delete(&path("d"), gone, time(500)).unwrap();
    let mut seen = observer(&mut [&mut a, &mut b]);
    assert!(names(&seen.view()).is_empty());
    seen = node(0xf1, "other");
    seen.set_clock(100);
    share(&mut b, &mut seen);
    share(&mut a, &mut seen);
    assert_eq!(names(&seen.view()), ["d", "d/f"]);
    assert!(seen.has_early_versions());
    seen.set_clock(500);
    assert!(names(&seen.view()).is_empty());
}

#[test]
fn a_deleted_directory_is_unlisted_once_nothing_is_listed_in_it() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "d", directory(5));
    put(&mut a, "d/f", file("old", 5));
    put(&mut a, "d/link", link("f", 5));
    let mut seen = observer(&mut [&mut a]);
    for name in ["d", "d/f", "d/link"] {
        let hashes = seen.view().contents_at(&path(name)).hashes;
        assert_eq!(hashes.len(), 1);
        b.own_mut().delete(&path(name), hashes, time(6)).unwrap();
        share(&mut b, &mut seen);
        while seen.advance(5) {}
        let left: &[&str] = match name {
            "d" => &["d", "d/f", "d/link"],
            "d/f" => &["d", "d/link"],
            _ => &[],
        };
        assert_eq!(names(&seen.view()), left);
        assert_eq!(listed(&mut [&mut a, &mut b]), left);
    }
    // The author changed the directory later.
    put(&mut a, "d", directory(7));
    assert_eq!(listed(&mut [&mut a, &mut b]), ["d"]);
}

#[test]
fn only_the_owner_of_a_path_replaces_and_deletes_there() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "f", file("f", 5));
    put(&mut a, "g", file("g", 5));
    put(&mut b, "f", replacing("new", 6, &["f"]));
    delete(&mut b, "g", &["g"], 6);
    let mut seen = observer(&mut [&mut a, &mut b]);
    assert_eq!(shown(&seen.view(), "f"), Some(hash("new")));
    seen.set_owners([(SharedPath::root(), id(1))].into());
    assert_eq!(shown(&seen.view(), "f"), Some(hash("f")));
    assert_eq!(names(&seen.view()), ["f", "g"]);
    seen.set_owners([(SharedPath::root(), id(2))].into());
    assert_eq!(names(&seen.view()), ["f"]);
}

#[test]
fn a_version_that_proved_unserved_replaces_nothing() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    open(&mut a);
    put(&mut a, "f", file("old", 5));
    put(&mut b, "f", replacing("new", 6, &["old"]));
    let mut seen = observer(&mut [&mut a, &mut b]);
    let expires_at = std::time::Instant::now();
    seen.unserved().mark(key("new"), expires_at);
    assert_eq!(shown(&seen.view(), "f"), Some(hash("old")));
    seen.unserved().expire(expires_at);
    assert_eq!(names(&seen.view()), ["f"]);
    assert_eq!(shown(&seen.view(), "f"), Some(hash("new")));
}

#[test]
fn the_contents_of_a_path_are_those_of_its_versions_then_those_that_they_replace() {
    let (mut a, mut b, mut c) = (node(1, "a"), node(2, "b"), node(3, "c"));
    put(&mut a, "f", file("one", 5));
    put(&mut b, "f", replacing("two", 6, &["before", "one"]));
    delete(&mut c, "f", &["two", "gone"], 7);
    let view = observer(&mut [&mut a, &mut b, &mut c]).view();
    let all = ["two", "one", "gone", "before"].map(hash).to_vec();
    let expected = ContentsAt {
        hashes: all,
        newest: time(7),
    };
    assert_eq!(view.contents_at(&path("f")), expected);
    assert_eq!(view.contents_at(&path("nothing")), ContentsAt::default());
    assert_eq!(view.contents_at(&path("no/thing")), ContentsAt::default());
    assert_eq!(view.contents_at(&SharedPath::root()), ContentsAt::default());
}

#[test]
fn the_standing_of_a_path_names_what_decides_a_write_there() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    put(&mut a, "f", file("one", 5));
    put(&mut a, "own", file("own", 5));
    put(&mut b, "f", file("two", 6));
    share(&mut b, &mut a);
    let standing = |a: &mut Catalogue, name| a.view().standing(&path(name));
    let closed = Standing {
        others: true,
        closed: true,
        ..Standing::default()
    };
    assert_eq!(standing(&mut a, "f"), closed);
    assert_eq!(standing(&mut a, "own"), Standing::default());
    open(&mut b);
    share(&mut b, &mut a);
    let others = Standing {
        closed: false,
        ..closed
    };
    assert_eq!(standing(&mut a, "f"), others);
    delete(&mut a, "f", &["two"], 7);
    assert_eq!(standing(&mut a, "f"), Standing::default());
    a.set_owners([(path("f"), id(2)), (path("own"), id(1))].into());
    assert!(standing(&mut a, "f").owned_elsewhere);
    assert!(!standing(&mut a, "own").owned_elsewhere);
}

#[test]
fn a_conflict_name_leads_to_the_path_that_its_version_lost() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    put(&mut a, "f", file("one", 5));
    put(&mut b, "f", file("two", 6));
    share(&mut b, &mut a);
    let behind = a.view().behind_conflict_name(&path("f~a"));
    let expected = ConflictName {
        path: path("f"),
        hash: hash("one"),
        is_own: true,
    };
    assert_eq!(behind, Some(expected));
    assert_eq!(a.view().behind_conflict_name(&path("f")), None);
    assert_eq!(a.view().contents_beside(&path("f")), [hash("one")]);
    assert_eq!(a.view().contents_beside(&path("f~a")), []);
    let own = a.view().own_file(&path("f")).unwrap();
    assert_eq!(
        (own.hash, own.share, own.path),
        (hash("one"), SHARE, path("f"))
    );
    assert_eq!(a.view().own_file(&path("f~a")), None);
}

#[test]
fn a_log_without_room_refuses_a_deletion() {
    let mut a = node(1, "a");
    let mut budgets = crate::Budgets::default();
    budgets.author.replaced = 2;
    a.set_budgets(budgets);
    delete(&mut a, "f", &["one", "two"], 5);
    let before = a.own().head();
    let more = a.own_mut().delete(&path("g"), vec![hash("three")], time(5));
    assert_eq!(more, Err(CatalogueError::OverBudget));
    assert_eq!(a.own().head(), before);
    let root = a
        .own_mut()
        .delete(&SharedPath::root(), vec![hash("x")], time(5));
    assert_eq!(root, Err(CatalogueError::BadFact));
}

#[test]
fn a_member_that_floods_with_deletions_is_dropped_whole_and_named() {
    let (mut a, mut b, mut flooder) = (node(1, "a"), node(2, "b"), node(3, "flooder"));
    put(&mut a, "closed", file("closed", 5));
    open(&mut b);
    put(&mut b, "open", file("open", 5));
    for content in ["closed", "open", "x"] {
        delete(&mut flooder, content, &[content], 6);
    }
    let limited = |author, total| {
        let mut seen = node(0xf0, "observer");
        let mut budgets = crate::Budgets::default();
        (budgets.author.replaced, budgets.total.replaced) = (author, total);
        seen.set_budgets(budgets);
        seen
    };
    for (author, total, why) in [
        (2, 100, Some(DropCause::OverAuthor)),
        (100, 2, Some(DropCause::OverTotal)),
        (3, 3, None),
    ] {
        let mut seen = limited(author, total);
        for node in [&mut a, &mut b, &mut flooder] {
            share(node, &mut seen);
        }
        while seen.advance(5) {}
        let author = id(3);
        let dropped = why.map(|why| Dropped { author, why });
        assert_eq!(seen.poll_dropped(), dropped);
        let hidden = usize::from(why.is_none());
        assert_eq!(names(&seen.view()), ["closed", "open"][..2 - hidden]);
        let cost = seen.logs().cost_of(&author);
        assert_eq!(cost.replaced, if hidden == 1 { 3 } else { 0 });
    }
}

#[test]
fn only_a_log_with_replacements_has_records_of_a_later_form() {
    let mut a = node(1, "a");
    let is_first = |a: &Catalogue| a.logs().is_of_first_form(&id(1));
    put(&mut a, "f", file("one", 5));
    assert!(is_first(&a) && a.logs().is_of_first_form(&id(9)));
    put(&mut a, "f", replacing("two", 5, &["one"]));
    assert!(!is_first(&a));
    put(&mut a, "f", file("one", 5));
    assert!(is_first(&a));
    open(&mut a);
    assert!(!is_first(&a));
    let mut again = observer(&mut [&mut a]);
    assert!(!again.logs().is_of_first_form(&id(1)));
    again.forget(&id(1));
    while again.advance(5) {}
    assert!(again.logs().is_of_first_form(&id(1)));
}

#[test]
fn a_deleted_directory_of_this_node_is_known_and_not_listed() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    put(&mut a, "d", directory(5));
    open(&mut a);
    share(&mut a, &mut b);
    let has_after = |node: &mut Catalogue, seconds| {
        let view = node.view();
        view.has_own_directory_after(&path("d"), time(seconds))
    };
    assert!(has_after(&mut a, 4) && !has_after(&mut a, 5) && !has_after(&mut b, 4));
    let contents = b.view().contents_at(&path("d")).hashes;
    b.own_mut().delete(&path("d"), contents, time(9)).unwrap();
    share(&mut b, &mut a);
    assert_eq!(a.view().lookup(&path("d")), None);
    assert!(has_after(&mut a, 4) && a.view().has_own(&path("d")));
}

#[test]
fn a_directory_is_of_one_share_until_another_node_lists_something_in_it() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    put(&mut a, "d/sub/one", file("one", 5));
    put(&mut b, "other/two", file("two", 6));
    share(&mut b, &mut a);
    let is_own = |a: &mut Catalogue, name| a.view().is_only_of(&path(name), ShareIndex(0));
    assert!(is_own(&mut a, "d") && is_own(&mut a, "d/sub"));
    assert!(!a.view().is_only_of(&path("d"), ShareIndex(1)));
    assert!(!is_own(&mut a, "other") && !is_own(&mut a, "missing") && !is_own(&mut a, "d/sub/one"));
    put(&mut b, "d/sub/one", file("lost", 4));
    share(&mut b, &mut a);
    assert!(!is_own(&mut a, "d") && !is_own(&mut a, "d/sub"));
}
