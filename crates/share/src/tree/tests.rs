//! Tests of lookup by name, path and content, of slot reuse, and of memory use.

use super::*;

fn file(tree: &mut Tree, parent: Slot, name: &str) -> Slot {
    tree.insert(parent, name.as_bytes(), NodeBody::unlisted())
}

fn directory(tree: &mut Tree, parent: Slot, name: &str) -> Slot {
    let body = NodeBody::Directory(tree.new_directory());
    tree.insert(parent, name.as_bytes(), body)
}

#[test]
fn a_name_costs_about_120_bytes() {
    let node = size_of::<Option<TreeNode>>();
    assert!(node <= 80, "{node}");
    assert!(size_of::<(Slot, u32, Slot)>() + size_of::<(u32, Slot)>() <= 20);
}

#[test]
fn names_are_found_after_a_compaction() {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    let name = |number: usize| format!("{number:0>200}");
    let slots: Vec<Slot> = (0..1000)
        .map(|number| file(&mut tree, root, &name(number)))
        .collect();
    slots[..900].iter().for_each(|slot| tree.remove(*slot));
    for (number, slot) in slots.iter().enumerate().skip(900) {
        assert_eq!(tree.child(root, name(number).as_bytes()), Some(*slot));
    }
    assert_eq!(tree.child(root, name(1).as_bytes()), None);
}

#[test]
fn a_separate_version_time_is_removed_with_its_name() {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    let slot = file(&mut tree, root, "f");
    let body = FileBody::unlisted();
    for version in [FileTimestamp::new(5, 7), FileTimestamp::default()] {
        tree.set_file(slot, body, version);
        assert_eq!(tree.version(slot, &body), version);
    }
    tree.set_file(slot, body, FileTimestamp::new(5, 7));
    tree.remove(slot);
    let again = file(&mut tree, root, "g");
    assert_eq!(
        (again, tree.version(again, &body)),
        (slot, FileTimestamp::default())
    );
}

#[test]
fn a_name_and_its_path_lead_to_each_other() {
    let mut tree = Tree::new();
    let root = tree.insert_root(3);
    let deep = directory(&mut tree, root, "d");
    let leaf = file(&mut tree, deep, "f");
    let path = SharedPath::new(&b"d/f"[..]).unwrap();
    assert_eq!(
        tree.child(root, b"d").and_then(|d| tree.child(d, b"f")),
        Some(leaf)
    );
    assert_eq!(tree.path(leaf), Some(path));
    assert_eq!(tree.path(root), Some(SharedPath::root()));
    assert_eq!(tree.get(leaf).unwrap().share, 3);
    assert_eq!(tree.child(root, b"f"), None);
    assert_eq!(tree.children(root).collect::<Vec<_>>(), [deep]);
}

#[test]
fn a_removed_name_leaves_nothing_and_its_slot_is_reused() {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    let first = file(&mut tree, root, "f");
    tree.remove(first);
    assert_eq!(tree.child(root, b"f"), None);
    let second = file(&mut tree, root, "g");
    assert_eq!(first, second);
    assert_eq!(tree.children(root).count(), 1);
}

#[test]
fn a_root_is_not_among_its_own_children() {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    assert_eq!(tree.children(root).count(), 0);
}

#[test]
fn a_content_is_found_under_all_its_names() {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    let hash = ContentHash::of(b"x");
    let slots = ["a", "b"].map(|name| file(&mut tree, root, name));
    for slot in slots {
        let body = FileBody {
            hash,
            ..FileBody::unlisted()
        };
        tree.set_file(slot, body, FileTimestamp::default());
        tree.record_content(slot, &hash);
    }
    assert_eq!(tree.with_content(&hash).count(), 2);
    tree.drop_content(slots[0], &hash);
    assert_eq!(tree.with_content(&hash).collect::<Vec<_>>(), [slots[1]]);
    assert_eq!(tree.with_content(&ContentHash::of(b"y")).count(), 0);
}

#[test]
fn a_directory_within_itself_is_detected() {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    tree.directory_mut(root).unwrap().ino = 5;
    let child = directory(&mut tree, root, "d");
    assert!(tree.is_within_itself(child, 0, 5));
    assert!(!tree.is_within_itself(child, 0, 6));
}

#[test]
fn an_overlong_name_is_found_and_removed_whole() {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    // possible on an exFAT disk: 255 letters of three bytes each
    let names = ["文".repeat(255), "文".repeat(254) + "字"];
    let slots = names.each_ref().map(|name| file(&mut tree, root, name));
    for (name, slot) in names.iter().zip(slots) {
        assert_eq!(tree.child(root, name.as_bytes()), Some(slot));
        assert_eq!(tree.name(slot), name.as_bytes());
    }
    slots.into_iter().for_each(|slot| tree.remove(slot));
    assert_eq!(tree.children(root).count(), 0);
}
