//! Changes that two nodes make without knowledge of each other, and files that their nodes do not
//! give away.

use super::super::trust::invite;
use super::*;

/// Appends to one file on two nodes, each of which sees the version before both.
fn edit_at_once(nodes: &[Node], path: &str) {
    let open = |node: &Node| {
        let opened = File::options().append(true).open(node.mounted(path));
        opened.unwrap()
    };
    let (mut first, mut second) = (open(&nodes[0]), open(&nodes[1]));
    first.write_all(b" and more of one").unwrap();
    second.write_all(b" and more of two").unwrap();
}

/// Returns the one name with a `~` in a directory, once each node has it and one beside it.
#[track_caller]
fn conflict_name(nodes: &[Node], dir: &str) -> String {
    let names = |node: &Node| names_below(&node.mounted(dir));
    eventually("both versions are listed everywhere", HANG_LIMIT, || {
        let first = names(&nodes[0]);
        first.len() == 2 && nodes.iter().all(|node| names(node) == first)
    });
    let names = names(&nodes[0]).into_iter();
    let mut names = names.map(|name| name.into_os_string().into_string().unwrap());
    names
        .find(|name| name.contains('~'))
        .expect("a conflict name")
}

/// Returns the bytes that the node of a conflict name wrote, and those of the other.
fn bytes_of(conflict: &str) -> [&'static [u8]; 2] {
    let mut bytes: [&[u8]; 2] = [b"base and more of one", b"base and more of two"];
    if conflict.contains("~two") {
        bytes.reverse();
    }
    bytes
}

fn begin(nodes: &[Node], dir: &str) -> String {
    make_dir(nodes, dir);
    let path = format!("{dir}/plan.txt");
    fs::write(nodes[2].mounted(&path), b"base").unwrap();
    expect_files(nodes, dir, &[("plan.txt", b"base")]);
    edit_at_once(nodes, &path);
    let conflict = conflict_name(nodes, dir);
    let [beside, winner] = bytes_of(&conflict);
    expect_files(nodes, dir, &[("plan.txt", winner), (&conflict, beside)]);
    conflict
}

#[apply(promise)]
fn two_edits_of_one_version_both_stay_until_one_is_removed() {
    let world = world();
    for (dir, remover) in [("both-0", 0), ("both-1", 1), ("both-2", 2)] {
        let conflict = begin(&world, dir);
        let [_, winner] = bytes_of(&conflict);
        fs::remove_file(world[remover].mounted(dir).join(&conflict)).unwrap();
        expect_files(&world, dir, &[("plan.txt", winner)]);
    }
}

#[apply(promise)]
fn the_other_edit_gets_the_name_when_the_winner_is_removed() {
    let world = world();
    let conflict = begin(&world, "winner-removed");
    let [beside, _] = bytes_of(&conflict);
    fs::remove_file(world[2].mounted("winner-removed/plan.txt")).unwrap();
    expect_files(&world, "winner-removed", &[("plan.txt", beside)]);
}

#[apply(promise)]
fn an_edit_is_taken_by_a_move_of_its_conflict_name_and_why_says_so() {
    let world = world();
    for (dir, mover) in [("taken-0", 0), ("taken-1", 1), ("taken-2", 2)] {
        let conflict = begin(&world, dir);
        let [beside, _] = bytes_of(&conflict);
        let at = world[mover].mounted(dir);
        fs::rename(at.join(&conflict), at.join("plan.txt")).unwrap();
        expect_files(&world, dir, &[("plan.txt", beside)]);
        let path = format!("{dir}/plan.txt");
        for node in &*world {
            eventually("why says so", HANG_LIMIT, || {
                let why = node.cli(&["why", &path]).expect_ok();
                why.contains("replaces") || why.contains("deleted it")
            });
        }
    }
}

#[apply(promise)]
fn a_file_of_a_closed_share_stays_beside_the_new_version_and_cannot_be_removed() {
    let world = world();
    world[0].write("closed/plan.txt", b"the original");
    expect_files(&world, "closed", &[("plan.txt", b"the original")]);
    let path = world[1].mounted("closed/plan.txt");
    assert_eq!(errno(fs::remove_file(&path)), Some(libc::EPERM));
    let moved = fs::rename(&path, world[1].mounted("closed/moved"));
    assert_eq!(errno(moved), Some(libc::EPERM));
    let mut plan = File::options().append(true).open(&path).unwrap();
    plan.write_all(b", changed").unwrap();
    drop(plan);
    let both: [(&str, &[u8]); 2] = [
        ("plan.txt", b"the original, changed"),
        ("plan~one.txt", b"the original"),
    ];
    expect_files(&world, "closed", &both);
    for node in &*world {
        let beside = node.mounted("closed/plan~one.txt");
        assert_eq!(
            errno(fs::remove_file(&beside)),
            Some(libc::EPERM),
            "{}",
            node.name
        );
        let moved = fs::rename(beside, node.mounted("closed/moved"));
        assert_eq!(errno(moved), Some(libc::EPERM), "{}", node.name);
    }
    expect_files(&world, "closed", &both);
    fs::remove_file(&path).unwrap();
    expect_files(&world, "closed", &[("plan.txt", b"the original")]);
    let original = world[0].share.join("closed/plan.txt");
    assert_eq!(fs::read(&original).unwrap(), b"the original");
    // On its own node, a write replaces it, and its bytes stay on the disk.
    fs::write(world[0].mounted("closed/plan.txt"), b"of one").unwrap();
    expect_files(&world, "closed", &[("plan.txt", b"of one")]);
    assert_eq!(fs::read(&original).unwrap(), b"the original");
}

#[apply(promise)]
fn paths_of_another_owner_and_shares_for_readers_take_no_writes() {
    let mut cluster = Cluster::with_own_secrets();
    let nodes = ["one", "two"].map(|name| cluster.start(name));
    invite(&nodes[0], &[], &nodes[1]);
    nodes.iter().for_each(write_on);
    nodes[0].write("owned/file", b"of the owner");
    let restricted = nodes[0].home.join("restricted");
    fs::create_dir_all(restricted.join("restricted")).unwrap();
    fs::write(restricted.join("restricted/file"), b"for two").unwrap();
    let key = nodes[1].cli(&["status", "--json"]).expect_json();
    let readers = key["node"].as_str().unwrap();
    let dir = restricted.to_str().unwrap();
    nodes[0]
        .cli(&["share", "add", dir, "--yes", "--readers", readers])
        .expect_ok();
    nodes[1].wait_for_file("owned/file");
    nodes[0].cli(&["own", "owned", "one"]).expect_ok();
    eventually("the owner is known", HANG_LIMIT, || {
        let why = nodes[1].cli(&["why", "owned/file", "--json"]).expect_json();
        why["owner"] == "one"
    });
    for path in ["owned/file", "restricted/file"] {
        nodes[1].wait_for_file(path);
        let path = nodes[1].mounted(path);
        let opened = File::options().append(true).open(&path);
        assert_eq!(errno(opened), Some(libc::EACCES), "{path:?}");
        assert_eq!(
            errno(fs::write(&path, b"new")),
            Some(libc::EACCES),
            "{path:?}"
        );
        assert_eq!(errno(fs::remove_file(&path)), Some(libc::EPERM), "{path:?}");
    }
    let new = fs::write(nodes[1].mounted("owned/new"), b"new");
    assert_eq!(errno(new), Some(libc::EACCES));
    assert!(!on_disk(&nodes[1], "owned").exists(), "nothing is left");
}

#[apply(promise)]
fn events_name_the_node_that_changed_or_deleted_a_file() {
    let nodes = world();
    make_dir(&nodes, "told");
    fs::write(nodes[0].mounted("told/file"), b"of one").unwrap();
    expect_files(&nodes, "told", &[("file", b"of one")]);
    fs::write(nodes[1].mounted("told/file"), b"of two").unwrap();
    expect_files(&nodes, "told", &[("file", b"of two")]);
    fs::remove_file(nodes[2].mounted("told/file")).unwrap();
    expect_files(&nodes, "told", &[]);
    for node in &nodes[..] {
        for (event, peer) in [("file-changed", "two"), ("file-removed", "three")] {
            let told = format!("{event} by {peer} on {}", node.name);
            eventually(&told, HANG_LIMIT, || {
                let events = node.cli(&["events", "--json"]).expect_ok();
                let events = events.lines().map(|line| {
                    let event: serde_json::Value = serde_json::from_str(line).unwrap();
                    event
                });
                let is_it = |it: &serde_json::Value| {
                    it["event"] == event && it["path"] == "told/file" && it["peer"] == peer
                };
                events.filter(is_it).count() == 1
            });
        }
    }
    let said = nodes[0].cli(&["events"]).expect_ok();
    assert!(said.contains("removed told/file, by three"), "{said}");
}
