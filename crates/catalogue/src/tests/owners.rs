//! At and below an owned path, only the owner's versions have names.

use super::*;
use crate::{Owners, Rule, hidden_by_owner};

/// Creates a watcher with the entries of the owner (1) and of another node (2).
fn watcher() -> Catalogue {
    let (mut owner, mut other) = (node(1, "owner"), node(2, "other"));
    put(&mut owner, "docs/guide.txt", file("right", 1));
    put(&mut other, "docs/guide.txt", file("wrong", 9));
    put(&mut other, "docs/more.txt", file("more", 9));
    put(&mut other, "docs/dir", directory(9));
    put(&mut other, "docs.txt", file("beside", 9));
    let mut watcher = node(0xff, "watcher");
    share(&mut owner, &mut watcher);
    share(&mut other, &mut watcher);
    watcher
}

fn owners(all: &[(&str, u8)]) -> Owners {
    all.iter()
        .map(|(top, node)| (path(top), id(*node)))
        .collect()
}

const ALL: [&str; 6] = [
    "docs",
    "docs.txt",
    "docs/dir",
    "docs/guide.txt",
    "docs/guide~owner.txt",
    "docs/more.txt",
];

#[test]
fn below_an_owned_path_only_the_owners_versions_are_listed_and_why_explains_it() {
    let mut watcher = watcher();
    assert_eq!(names(&watcher.view()), ALL);
    watcher.set_owners(owners(&[("docs", 1)]));
    let view = watcher.view();
    assert_eq!(names(&view), ["docs", "docs.txt", "docs/guide.txt"]);
    assert_eq!(shown(&view, "docs/guide.txt"), Some(hash("right")));
    assert_eq!(view.owners().owner_of(&path("docs/guide.txt")), Some(id(1)));
    assert_eq!(rules(&mut watcher, "docs/guide.txt"), [Rule::Owner; 2]);
    assert_eq!(rules(&mut watcher, "docs/more.txt"), [Rule::Owner]);
    assert_eq!(rules(&mut watcher, "docs.txt"), [Rule::Only]);
}

#[test]
fn the_order_of_learning_owner_and_files_makes_no_difference() {
    let claims = owners(&[("docs", 1)]);
    let mut first = node(0xff, "watcher");
    first.set_owners(claims.clone());
    let (mut owner, mut other) = (node(1, "owner"), node(2, "other"));
    put(&mut other, "docs/guide.txt", file("wrong", 9));
    put(&mut other, "docs/more.txt", file("more", 9));
    put(&mut other, "docs/dir", directory(9));
    put(&mut other, "docs.txt", file("beside", 9));
    share(&mut other, &mut first);
    assert_eq!(names(&first.view()), ["docs.txt"], "not even its directory");
    put(&mut owner, "docs/guide.txt", file("right", 1));
    share(&mut owner, &mut first);
    let mut last = watcher();
    last.set_owners(claims);
    assert_eq!(names(&first.view()), names(&last.view()));
}

#[test]
fn the_nearest_owner_counts_and_a_released_path_is_open_to_all() {
    let mut watcher = watcher();
    watcher.set_owners(owners(&[("", 1), ("docs/more.txt", 2)]));
    let listed = ["docs", "docs/guide.txt", "docs/more.txt"];
    assert_eq!(names(&watcher.view()), listed);
    watcher.set_owners(Owners::new());
    assert_eq!(names(&watcher.view()), ALL);
}

#[test]
fn a_version_that_lost_an_owned_name_gets_no_conflict_name() {
    let (mut winner, mut loser) = (node(1, "winner"), node(2, "loser"));
    put(&mut winner, "b.x", file("newer", 9));
    put(&mut loser, "b.x", file("older", 1));
    let mut watcher = node(0xff, "watcher");
    share(&mut winner, &mut watcher);
    share(&mut loser, &mut watcher);
    let by_name = ["b.x", "b~loser.x"];
    assert_eq!(names(&watcher.view()), by_name);
    watcher.set_owners(owners(&[("b~loser.x", 1)]));
    let by_key = format!("b~loser-{}.x", id(2).short(8));
    assert_eq!(names(&watcher.view()), ["b.x", &by_key]);
    watcher.set_owners(owners(&[("b~loser.x", 1), (&by_key, 3)]));
    assert_eq!(names(&watcher.view()), ["b.x"]);
    watcher.set_owners(owners(&[("b~loser.x", 2)]));
    assert_eq!(names(&watcher.view()), by_name, "its own");
}

#[test]
fn a_directory_without_a_right_to_its_name_does_not_affect_its_time() {
    let (mut owner, mut other) = (node(1, "owner"), node(2, "other"));
    put(&mut owner, "docs/guide.txt", file("right", 3));
    put(&mut other, "docs/dir", directory(9));
    put(&mut other, "docs", directory(9));
    let changed = |watcher: &mut Catalogue| {
        let found = watcher.view().lookup(&path("docs"));
        found.map(|found| found.mtime)
    };
    let mut watcher = node(0xff, "watcher");
    share(&mut owner, &mut watcher);
    share(&mut other, &mut watcher);
    assert_eq!(changed(&mut watcher), Some(time(9)));
    watcher.set_owners(owners(&[("docs", 1)]));
    assert_eq!(changed(&mut watcher), Some(time(3)));
    watcher.set_owners(Owners::new());
    assert_eq!(changed(&mut watcher), Some(time(9)));
    let mut later = node(0xff, "watcher");
    later.set_owners(owners(&[("docs", 1)]));
    share(&mut other, &mut later);
    share(&mut owner, &mut later);
    assert_eq!(
        changed(&mut later),
        Some(time(3)),
        "whatever was known first"
    );
}

#[test]
fn the_names_that_a_new_owner_would_hide_are_counted_by_their_authors() {
    let mut watcher = watcher();
    let hidden = |watcher: &mut Catalogue, top: &str, owner: u8| {
        let hidden = hidden_by_owner(&watcher.view(), &path(top), &id(owner));
        hidden.into_iter().collect::<Vec<_>>()
    };
    // guide.txt under its conflict name is the only file of node 1
    assert_eq!(hidden(&mut watcher, "docs", 2), [(id(1), 1)]);
    assert_eq!(hidden(&mut watcher, "docs", 1), [(id(2), 2)]);
    assert_eq!(hidden(&mut watcher, "docs/more.txt", 1), [(id(2), 1)]);
    assert_eq!(hidden(&mut watcher, "", 1), [(id(2), 3)]);
    assert_eq!(hidden(&mut watcher, "absent", 1), []);
    watcher.set_owners(owners(&[("docs/more.txt", 2)]));
    assert_eq!(hidden(&mut watcher, "docs", 1), [(id(2), 1)]);
    let mut before = names(&watcher.view()).len();
    watcher.set_owners(owners(&[("docs/more.txt", 2), ("docs", 3)]));
    before -= names(&watcher.view()).len();
    assert!(before > 0, "an owner without files hides all others");
    assert_eq!(hidden(&mut watcher, "docs", 3), []);
}

#[test]
fn the_owned_path_above_a_hidden_name_is_found() {
    let mut watcher = watcher();
    watcher.set_owners(owners(&[("docs", 3)]));
    let view = watcher.view();
    let rule = Some((path("docs"), id(3)));
    for name in ["docs", "docs/guide.txt", "docs/dir"] {
        assert_eq!(view.owners().owned_above(&path(name)), rule, "{name}");
        assert!(view.is_known(&path(name)), "{name}");
    }
    assert_eq!(view.owners().owned_above(&path("docs.txt")), None);
    assert!(!view.is_known(&path("docs/absent")));
    assert!(!view.is_known(&path("absent/below")));
}

#[test]
fn link_above_an_owned_path_is_listed_only_if_the_owner_made_it() {
    let (mut owner, mut other) = (node(1, "owner"), node(2, "other"));
    put(&mut owner, "a/b/c", file("right", 1));
    put(&mut other, "a", link("evil", 9));
    put(&mut other, "evil/b/c", file("wrong", 9));
    let mut watcher = node(0xff, "watcher");
    watcher.set_owners(owners(&[("a/b", 1)]));
    share(&mut other, &mut watcher);
    assert_eq!(names(&watcher.view()), ["evil", "evil/b", "evil/b/c"]);
    assert_eq!(rules(&mut watcher, "a"), [Rule::Owner]);
    share(&mut owner, &mut watcher);
    assert_eq!(shown(&watcher.view(), "a/b/c"), Some(hash("right")));
    watcher.set_owners(Owners::new());
    let without_owner = names(&watcher.view());
    assert!(
        without_owner.contains(&"a~other".to_owned()),
        "{without_owner:?}"
    );
    let hidden = hidden_by_owner(&watcher.view(), &path("a/b"), &id(1));
    assert_eq!(hidden.get(&id(2)), Some(&1), "the link is counted");
    watcher.set_owners(owners(&[("a/b", 2)]));
    assert_eq!(names(&watcher.view()), ["a", "evil", "evil/b", "evil/b/c"]);
}
