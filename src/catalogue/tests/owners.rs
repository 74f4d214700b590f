//! Nobody else's version has a name at or below a path that somebody owns.

use super::*;
use crate::catalogue::{Owners, Rule};

/// A watcher that has what the owner (1) and somebody else (2) list.
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

fn rules(watcher: &mut Catalogue, name: &str) -> Vec<Rule> {
    let versions = watcher.view().versions(&path(name));
    versions.iter().map(|version| version.rule).collect()
}

#[test]
fn below_an_owned_path_the_owners_versions_alone_are_listed_and_why_says_so() {
    let mut watcher = watcher();
    assert_eq!(names(&watcher.view()), ALL);
    watcher.set_owners(owners(&[("docs", 1)]));
    let view = watcher.view();
    assert_eq!(names(&view), ["docs", "docs.txt", "docs/guide.txt"]);
    assert_eq!(shown(&view, "docs/guide.txt"), Some(hash("right")));
    assert_eq!(view.owner_of(&path("docs/guide.txt")), Some(id(1)));
    let contested = rules(&mut watcher, "docs/guide.txt");
    assert_eq!(contested, [Rule::Owner, Rule::NotOwner]);
    assert_eq!(rules(&mut watcher, "docs/more.txt"), [Rule::NotOwner]);
    assert_eq!(rules(&mut watcher, "docs.txt"), [Rule::Only]);
}

#[test]
fn it_is_all_the_same_whether_the_owner_or_the_files_were_known_first() {
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
fn the_nearest_owner_above_a_name_counts_and_a_path_that_is_given_back_is_everybodys() {
    let mut watcher = watcher();
    watcher.set_owners(owners(&[("", 1), ("docs/more.txt", 2)]));
    let listed = ["docs", "docs/guide.txt", "docs/more.txt"];
    assert_eq!(names(&watcher.view()), listed);
    watcher.set_owners(Owners::new());
    assert_eq!(names(&watcher.view()), ALL);
}
