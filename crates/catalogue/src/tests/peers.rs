//! One node's own files, unmerged.

use super::*;

fn peer_names_in(view: &View, peer: &str, dir: &str) -> Vec<String> {
    let children = view.peers().children(peer, &path(dir), None, 100);
    children
        .iter()
        .map(|child| String::from_utf8_lossy(&child.name).into_owned())
        .collect()
}

#[test]
fn empty_directories_of_a_node_count_as_its_subdirectories() {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    put(&mut x, "d/empty", directory(1));
    put(&mut x, "d/full/a", file("one", 1));
    put(&mut y, "d/other", directory(1));
    share(&mut x, &mut y);
    let found = y.view().peers().lookup("x", &path("d")).unwrap();
    assert_eq!(found.subdirectories, 2);
}

#[test]
fn each_live_node_shows_its_own_version() {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    put(&mut x, "d/a", file("one", 1));
    put(&mut y, "d/a", file("two", 2));
    put(&mut y, "d/sub/b", file("three", 2));
    share(&mut x, &mut y);
    let view = y.view();
    assert_eq!(view.peers().names(), ["x", "y"]);
    let hash_of = |peer: &str| view.peers().lookup(peer, &path("d/a")).unwrap().kind;
    assert_eq!(hash_of("x"), file("one", 1).kind);
    assert_eq!(hash_of("y"), file("two", 2).kind);
    assert_eq!(peer_names_in(&view, "x", "d"), ["a"]);
    assert_eq!(peer_names_in(&view, "y", "d"), ["a", "sub"]);
    assert_eq!(
        view.peers().lookup("x", &path("d/sub")),
        None,
        "not its directory"
    );
    assert_eq!(
        view.peers().lookup("y", &path("d")).unwrap().subdirectories,
        1
    );
    assert_eq!(view.peers().lookup("z", &SharedPath::root()), None);
    assert_eq!(
        view.peers().lookup("y", &path("d/a")).unwrap().own,
        Some((SHARE, path("d/a")))
    );
}

#[test]
fn a_dead_node_is_not_shown() {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    put(&mut x, "a", file("one", 1));
    share(&mut x, &mut y);
    y.set_live(id(1), false).unwrap();
    assert_eq!(y.view().peers().names(), ["y"]);
    assert_eq!(y.view().peers().lookup("x", &path("a")), None);
    assert_eq!(
        y.view().label(&id(1)),
        Some("x".to_owned()),
        "but can be named"
    );
}

#[test]
fn equal_names_in_two_shares_are_distinguished() {
    let mut x = node(1, "x");
    for share in [2, 1, 5] {
        x.own_mut()
            .put(ShareIndex(share), &path("a.c"), file(&share.to_string(), 1))
            .unwrap();
    }
    put(&mut x, "a~share5.c", file("real", 1));
    let view = x.view();
    assert_eq!(
        peer_names_in(&view, "x", ""),
        ["a.c", "a~share2.c", "a~share5.c"]
    );
    let kind = |name: &str| view.peers().lookup("x", &path(name)).unwrap().kind;
    assert_eq!(kind("a.c"), file("1", 1).kind);
    assert_eq!(kind("a~share2.c"), file("2", 1).kind);
    assert_eq!(kind("a~share5.c"), file("real", 1).kind);
}

#[test]
fn a_peers_directory_can_be_read_from_any_name() {
    let mut x = node(1, "x");
    (0..10).for_each(|n| put(&mut x, &format!("f{n}"), file("same", n)));
    let view = x.view();
    let page = view
        .peers()
        .children("x", &SharedPath::root(), Some(b"f3"), 2);
    let names: Vec<&[u8]> = page.iter().map(|child| &*child.name).collect();
    assert_eq!(names, [b"f4", b"f5"]);
}

#[test]
fn removed_names_disappear_from_a_peers_folder_with_their_directories() {
    let mut x = node(1, "x");
    put(&mut x, "d/e/a", file("one", 1));
    put(&mut x, "b", file("one", 1));
    x.own_mut().remove(SHARE, &path("d/e/a"));
    assert_eq!(peer_names_in(&x.view(), "x", ""), ["b"]);
}
