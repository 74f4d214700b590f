//! Tests of `link`.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// Maximum number of links that the kernel follows in one path (MAXSYMLINKS).
const FOLLOWED_MAX: usize = 40;

fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

#[test]
fn dot_dot_is_allowed_only_at_the_beginning_of_a_target() {
    for (link, target) in [
        ("a", "b"),
        ("a", "."),
        ("a", "b/./c//"),
        ("a", "ü/\n"),
        ("a", "..b/c../..."),
        ("d/a", ".."),
        ("d/a", "../b"),
        ("d/a", ".//..//./b/"),
        ("d/e/a", "../../b/./c//"),
        ("d/e/a", "../.."),
    ] {
        let stays = link_stays_inside(&path(link), target.as_bytes());
        assert!(stays, "{link} -> {target}");
    }
    for (link, target) in [
        ("a", ""),
        ("a", "/"),
        ("a", "/etc/passwd"),
        ("a", "//a"),
        ("a", "b\0c"),
        ("a", ".."),
        ("a", "../b"),
        ("a", "./../b"),
        ("a", "b/.."),
        ("a", "b/../c"),
        ("d/a", "../../d/b"),
        ("d/a", "b/../../../d"),
        ("d/a", "../b/.."),
        ("d/a", "z/.././../x"),
        ("a", ".p2pfs"),
        ("a", ".p2pfs/peers"),
        ("a", "z/.p2pfs/peers"),
        ("d/a", "..//.p2pfs/peers"),
    ] {
        let stays = link_stays_inside(&path(link), target.as_bytes());
        assert!(!stays, "{link} -> {target}");
    }
}

#[test]
fn a_target_is_at_most_as_long_as_a_path() {
    let link = path("d/a");
    for (length, stays) in [
        (LINK_TARGET_MAX_BYTES, true),
        (LINK_TARGET_MAX_BYTES + 1, false),
    ] {
        assert_eq!(link_stays_inside(&link, &vec![b'n'; length]), stays);
    }
}

/// Contents of a mount: the directories, and the links with their targets.
#[derive(Debug, Default)]
struct Mount {
    directories: std::collections::BTreeSet<Vec<Vec<u8>>>,
    links: BTreeMap<Vec<Vec<u8>>, Vec<u8>>,
}

fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|b| *b == b'/');
    parts.filter(|it| !it.is_empty()).map(Into::into).collect()
}

impl Mount {
    /// Adds the links, each below these directories of the mount.
    fn put(&mut self, above: &[u8], links: &[(String, String)]) {
        for (link, target) in links {
            let mut place = names(above);
            place.extend(names(link.as_bytes()));
            for length in 0..place.len() {
                self.directories.insert(place[..length].to_vec());
            }
            self.links.insert(place, target.clone().into_bytes());
        }
        // A directory takes precedence over a link of the same name.
        self.links.retain(|at, _| !self.directories.contains(at));
    }

    /// Walks along a path from `root` as path_resolution(7) describes. Returns the lowest place
    /// that it passes, in directories below `root`: negative if it leaves `root`.
    fn lowest(&self, root: &[Vec<u8>], way: &[u8]) -> i64 {
        let depth = |at: &[Vec<u8>]| {
            if at.starts_with(root) {
                i64::try_from(at.len() - root.len()).unwrap()
            } else {
                -1
            }
        };
        let (mut at, mut followed) = (root.to_vec(), 0);
        let mut left: VecDeque<Vec<u8>> = names(way).into();
        let mut lowest = 0;
        while let Some(name) = left.pop_front() {
            match &name[..] {
                b"." => {}
                b".." if at.pop().is_none() => return -1,
                b".." => lowest = lowest.min(depth(&at)),
                _ => {
                    let mut next = at.clone();
                    next.push(name);
                    if let Some(target) = self.links.get(&next) {
                        followed += 1;
                        if followed > FOLLOWED_MAX || target.starts_with(b"/") {
                            return if target.starts_with(b"/") { -1 } else { lowest };
                        }
                        names(target)
                            .into_iter()
                            .rev()
                            .for_each(|name| left.push_front(name));
                    } else if self.directories.contains(&next) {
                        at = next;
                    } else {
                        return lowest;
                    }
                }
            }
        }
        lowest
    }
}

#[test]
fn the_model_finds_an_escape_that_no_text_check_finds() {
    let mut mount = Mount::default();
    let links = [("d/z", "."), ("d/out", "z/../../etc")];
    mount.put(b"", &links.map(|(at, to)| (at.to_owned(), to.to_owned())));
    assert_eq!(mount.lowest(&[], b"d/z/z"), 0);
    assert_eq!(mount.lowest(&[], b"d/out"), -1);
}

fn any_link() -> impl Strategy<Value = (String, String)> {
    let place = proptest::collection::vec("[abz]", 1..5).prop_map(|names| names.join("/"));
    let part = prop_oneof![
        4 => "[abz]",
        3 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => Just("z~b".to_owned()),
    ];
    let target = proptest::collection::vec(part, 1..7).prop_map(|parts| parts.join("/"));
    (place, target)
}

/// Returns one author's links that others accept, each also under a conflict name.
fn taken(links: &[(String, String)]) -> Vec<(String, String)> {
    let stays = |(at, to): &&(String, String)| link_stays_inside(&path(at), to.as_bytes());
    let taken = links.iter().filter(stays);
    let twice =
        taken.flat_map(|(at, to)| [(at.clone(), to.clone()), (format!("{at}~b"), to.clone())]);
    twice.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..Default::default() })]

    #[test]
    fn no_combination_of_links_leaves_the_mount_or_a_nodes_files(
        one in proptest::collection::vec(any_link(), 0..24),
        other in proptest::collection::vec(any_link(), 0..24),
        ways in proptest::collection::vec("[abz](/[abz]){0,5}", 1..16),
    ) {
        let mut mount = Mount::default();
        mount.put(b"", &taken(&one));
        mount.put(b"", &taken(&other));
        mount.put(b".p2pfs/peers/one", &taken(&one));
        mount.put(b".p2pfs/peers/other", &taken(&other));
        let places: Vec<_> = mount.links.keys().map(|at| at.join(&b'/')).collect();
        let typed = ways.iter().map(|way| way.clone().into_bytes());
        for way in typed.chain(places) {
            prop_assert!(mount.lowest(&[], &way) >= 0, "{}", way.escape_ascii());
            let own = names(b".p2pfs/peers/one");
            prop_assert!(mount.lowest(&own, &way) >= 0, "{}", way.escape_ascii());
        }
    }
}
