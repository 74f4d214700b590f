//! Tests of `inodes`.

use super::*;
use crate::inode::tests::{file, path};

impl Inodes {
    fn enter(&self, inode: &Inode) -> u64 {
        self.look_up(None, inode, None)
    }
}

#[test]
fn an_inode_number_is_stable_across_restarts() {
    let (before, after) = (Inodes::new(), Inodes::new());
    after.enter(&file("other", b"x"));
    let file = file("deep/er/a", b"1");
    assert_eq!(before.enter(&file), after.enter(&file));
    assert_eq!(
        before.enter(&Inode::directory(Name::Union(path("")))),
        ROOT_INO
    );
}

#[test]
fn a_new_version_is_a_new_inode_and_the_old_one_remains() {
    let inodes = Inodes::new();
    let old = inodes.enter(&file("a", b"1"));
    let new = inodes.enter(&file("a", b"2"));
    assert_ne!(old, new);
    assert_eq!(inodes.get(old), Some(file("a", b"1")));
}

#[test]
fn the_same_version_with_a_new_mtime_is_the_same_inode() {
    let inodes = Inodes::new();
    let old = inodes.enter(&file("a", b"1"));
    let mut touched = file("a", b"1");
    let Node::File(version) = &mut touched.node else {
        unreachable!()
    };
    version.mtime.seconds = 77;
    assert_eq!(inodes.enter(&touched), old);
    let kept = inodes.get(old);
    assert_eq!(kept, Some(touched), "the newest attributes are kept");
}

#[test]
fn everything_below_a_renamed_directory_keeps_its_number() {
    let inodes = Inodes::new();
    let directory = |text: &str| Inode::directory(Name::Union(path(text)));
    let inner = inodes.enter(&directory("a/inner"));
    let deep = inodes.enter(&file("a/inner/deep", b"1"));
    inodes.rename(&directory("a"), ROOT_INO, &Name::Union(path("b")));
    assert_eq!(inodes.get(inner), Some(directory("b/inner")));
    assert_eq!(inodes.enter(&directory("b/inner")), inner);
    assert_eq!(inodes.kept_number(&file("b/inner/deep", b"1")), Some(deep));
    inodes.rename(&directory("b/inner"), ROOT_INO, &Name::Union(path("c")));
    assert_eq!(inodes.get(inner), Some(directory("c")));
    assert_eq!(inodes.enter(&directory("c")), inner);
}

#[test]
fn a_directory_that_is_made_again_has_another_number_until_it_is_forgotten_itself() {
    let inodes = Inodes::new();
    let directory = Inode::directory(Name::Union(path("dir")));
    let former = inodes.enter(&directory);
    inodes.remove(&directory);
    assert!(inodes.is_removed(former));
    let new = inodes.enter(&directory);
    assert_ne!(new, former);
    assert!(!inodes.is_removed(new));
    assert_eq!(inodes.enter(&directory), new);
    assert!(inodes.forget(former, 1));
    assert_eq!(inodes.number_of(&directory), Some(new));
    assert_eq!(inodes.enter(&directory), new);
    assert!(inodes.forget(new, 3));
    assert_eq!(inodes.enter(&directory), former);
}

#[test]
fn a_directory_is_renamed_under_the_number_that_the_kernel_knows() {
    let inodes = Inodes::new();
    let [old, other] = ["old", "other"].map(|name| Inode::directory(Name::Union(path(name))));
    let former = inodes.enter(&old);
    inodes.remove(&old);
    let new = inodes.enter(&old);
    assert!(inodes.forget(former, 1));
    inodes.rename(&old, ROOT_INO, &other.name);
    assert_eq!(inodes.number_of(&other), Some(new));
    assert_eq!(inodes.get(new).map(|inode| inode.name), Some(other.name));
}

#[test]
fn an_inode_lives_until_its_last_lookup_is_forgotten() {
    let inodes = Inodes::new();
    let number = inodes.enter(&file("a", b"1"));
    inodes.enter(&file("a", b"1"));
    assert!(!inodes.forget(number, 1));
    assert!(inodes.get(number).is_some());
    assert!(inodes.forget(number, 1));
    assert!(inodes.get(number).is_none());
    inodes.forget(number, 99);
    inodes.forget(ROOT_INO, 99);
    assert!(
        inodes.get(ROOT_INO).is_some(),
        "the root is never forgotten"
    );
    assert_eq!(inodes.count(), 1);
}

#[test]
fn a_directory_is_retained_only_for_its_remaining_children() {
    let inodes = Inodes::new();
    let names = ["a", "a/b", "a/b/c"].map(|name| Name::Union(path(name)));
    let numbers = names.map(|name| inodes.enter(&Inode::directory(name)));
    let below = inodes.enter(&file("a/b/c/file", b"1"));
    assert!(!numbers.iter().any(|number| inodes.forget(*number, 1)));
    assert_eq!(inodes.get(below), Some(file("a/b/c/file", b"1")));
    let again = inodes.enter(&file("a/b/other", b"1"));
    inodes.forget(below, 1);
    assert_eq!(inodes.count(), 4, "the root, a, a/b and a/b/other");
    inodes.forget(again, 1);
    assert_eq!(inodes.count(), 1);
}

#[test]
fn hidden_names_are_restored() {
    let inodes = Inodes::new();
    let hash = ContentHash::of(b"1");
    for name in [
        Name::Hidden,
        Name::Peers,
        Name::Hashes,
        Name::Peer("far".into(), path("")),
        Name::Peer("far".into(), path("a/b")),
        Name::Union(path("peers/.p2pfs")),
    ] {
        let inode = Inode::directory(name);
        let number = inodes.enter(&inode);
        assert_eq!(inodes.get(number), Some(inode));
    }
    let mut by_hash = file("x", b"1");
    by_hash.name = Name::Hash(hash);
    let number = inodes.enter(&by_hash);
    assert_eq!(inodes.get(number), Some(by_hash));
}

#[test]
fn two_inodes_with_one_hash_prefix_get_two_numbers() {
    let inodes = Inodes::new();
    let number = file("a", b"1").number();
    let squatter = InodeEntry {
        view: 0,
        above: ROOT_INO,
        what: StoredNode::Directory(Box::new(b"b"[..].into())),
        own: None,
        below: 0,
        lookups: 1,
    };
    inodes.table.lock().known.insert(number, squatter);
    let moved = inodes.enter(&file("a", b"1"));
    assert_ne!(moved, number);
    assert_eq!(inodes.enter(&file("a", b"1")), moved, "and keeps it");
    assert_eq!(inodes.number_of(&file("a", b"1")), Some(moved));
}

#[test]
fn an_inode_unknown_to_the_kernel_has_no_number_to_invalidate() {
    let inodes = Inodes::new();
    let name = || Name::Union(path("d"));
    assert_eq!(inodes.number_of_directory(name()), None);
    let number = inodes.enter(&Inode::directory(name()));
    assert_eq!(inodes.number_of_directory(name()), Some(number));
    assert_eq!(inodes.directories(), [number, ROOT_INO]);
    assert!(inodes.files_of(&ContentHash::of(b"1")).is_empty());
    let known = inodes.enter(&file("a", b"1"));
    assert_eq!(inodes.files_of(&ContentHash::of(b"1")), vec![known]);
}

#[test]
fn the_inodes_of_a_content_are_found_until_they_are_forgotten() {
    let inodes = Inodes::new();
    let hash = ContentHash::of(b"1");
    let numbers = ["a", "b"].map(|name| inodes.enter(&file(name, b"1")));
    inodes.enter(&file("c", b"2"));
    let found: BTreeSet<u64> = inodes.files_of(&hash).into_iter().collect();
    assert_eq!(found, BTreeSet::from(numbers));
    inodes.forget(numbers[0], 1);
    assert_eq!(inodes.files_of(&hash), [numbers[1]]);
    inodes.forget(numbers[1], 1);
    assert!(inodes.files_of(&hash).is_empty());
}

#[test]
fn hidden_directories_are_distinguished_and_forgotten() {
    let inodes = Inodes::new();
    inodes.enter(&Inode::directory(Name::Union(path("a"))));
    let far = Inode::directory(Name::Peer("far".into(), path("")));
    let number = inodes.enter(&far);
    assert_eq!(inodes.enter(&far), number);
    assert!(inodes.hidden_directories().contains(&number));
    inodes.forget(number, 2);
    assert!(inodes.hidden_directories().is_empty());
}

#[test]
fn a_namespace_inode_costs_only_its_table_entry() {
    assert!(size_of::<InodeEntry>() <= 40, "{}", size_of::<InodeEntry>());
}

#[test]
fn an_inode_can_have_a_second_number_while_it_is_looked_up_by_it() {
    let (inodes, file) = (Inodes::new(), file("a", b"1"));
    let best = inodes.enter(&file);
    assert!(!inodes.has_second_number(&file));
    let second = file.numbers().nth(1).unwrap();
    assert!(inodes.look_up_as(second, None, &file, None));
    assert!(inodes.has_second_number(&file));
    assert_eq!(inodes.get(second), Some(file.clone()));
    assert_eq!(inodes.enter(&file), best);
    inodes.forget(best, 2);
    assert_eq!(inodes.get(second), Some(file.clone()));
    assert!(inodes.forget(second, 1));
    assert!(!inodes.has_second_number(&file));
    assert!(!inodes.look_up_as(77, None, &file, None), "none of its own");
}
