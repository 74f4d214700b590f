//! Shares that appear below a place: `p2pfs share add --as`, and `as` of the configuration.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::content::names_below;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// Returns the number of bytes that a node has hashed since its start.
fn hashed_bytes(node: &Node) -> u64 {
    let told = node.cli(&["share", "--json"]).expect_json();
    told["read_bytes"].as_u64().unwrap()
}

fn add_as(node: &Node, dir: &str, place: &str) -> Finished {
    node.cli(&["share", "add", dir, "--as", place])
}

#[apply(promise)]
fn two_nodes_with_equal_names_stand_side_by_side_below_two_places() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    for (node, bytes) in nodes.iter().zip(["of one", "of two"]) {
        let dir = node.home.join("pics");
        fs::create_dir_all(dir.join("d")).unwrap();
        fs::write(dir.join("hello.txt"), bytes).unwrap();
        symlink("../hello.txt", dir.join("d/link")).unwrap();
        let dir = dir.to_str().unwrap();
        let told = add_as(node, dir, &format!("photos/{}", node.name)).expect_ok();
        assert!(told.contains(&format!("as photos/{}", node.name)), "{told}");
    }
    for node in &nodes {
        for (of, bytes) in [("one", "of one"), ("two", "of two")] {
            for name in ["hello.txt", "d/link"] {
                let name = format!("photos/{of}/{name}");
                node.wait_for_file(&name);
                let read = fs::read_to_string(node.mounted(&name)).unwrap();
                assert_eq!(read, bytes, "{name} at {}", node.name);
            }
        }
        let why = node.cli(&["why", "photos/one/hello.txt"]).expect_ok();
        assert!(why.contains("there is one version"), "{why}");
    }
    let mine = nodes[0].cli(&["ls", "--mine"]).expect_ok();
    assert!(mine.contains("photos/one/hello.txt"), "{mine}");
    assert!(!mine.contains("photos/two"), "{mine}");
}

#[apply(promise)]
fn another_place_renames_the_files_on_all_nodes_and_reads_none() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let dir = nodes[0].home.join("pics");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.jpg"), b"picture").unwrap();
    let dir = dir.to_str().unwrap().to_owned();
    let seen = |nodes: &[Node], name: &str| {
        for node in nodes {
            node.wait_for_file(name);
            assert_eq!(fs::read(node.mounted(name)).unwrap(), b"picture");
            eventually(name, HANG_LIMIT, || {
                names_below(&node.mounted(""))
                    .iter()
                    .filter(|it| it.ends_with("a.jpg"))
                    .count()
                    == 1
            });
        }
    };
    add_as(&nodes[0], &dir, "photos/2026").expect_ok();
    seen(&nodes, "photos/2026/a.jpg");
    eventually("the hash is final", HANG_LIMIT, || {
        let before = hashed_bytes(&nodes[0]);
        let shares = nodes[0].cli(&["share", "--json"]).expect_json();
        before > 0 && shares["shares"][0]["pending_files"] == 0
    });
    let before = hashed_bytes(&nodes[0]);
    let told = add_as(&nodes[0], &dir, "other").expect_ok();
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        told.contains("is now as other (before: as photos/2026)"),
        "{told}"
    );
    seen(&nodes, "other/a.jpg");
    for (wrong, part) in [
        ("/photos", "begins with a slash"),
        ("a/../b", "'.' or '..'"),
        ("a//b", "empty component"),
        (".p2pfs/x", "p2pfs itself uses"),
        (&*"n".repeat(256), "255 bytes"),
    ] {
        let refused = add_as(&nodes[0], &dir, wrong);
        assert_eq!(refused.status.code(), Some(1), "{wrong}");
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let shares = nodes[0].cli(&["share", "--json"]).expect_json();
    let shares = shares["shares"].as_array().unwrap();
    let share = shares.iter().find(|share| share["path"] == *dir).unwrap();
    assert_eq!(share["place"], "other");
    add_as(&nodes[0], &dir, "").expect_ok();
    seen(&nodes, "a.jpg");
    assert_eq!(hashed_bytes(&nodes[0]), before);

    // After a restart, the last place applies.
    add_as(&nodes[0], &dir, "last").expect_ok();
    seen(&nodes, "last/a.jpg");
    nodes[0].stop();
    nodes[0].launch();
    seen(&nodes, "last/a.jpg");
}

#[apply(promise)]
fn a_reload_with_another_place_renames_the_files() {
    let mut cluster = Cluster::new();
    let folder = cluster.folder.path().canonicalize().unwrap().join("docs");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("f"), b"f").unwrap();
    let config = |place: &str| format!("[[share]]\ndir = '{}'\nas = '{place}'\n", folder.display());
    let one = cluster.start_with(NodeOptions {
        config: config("docs/one"),
        ..NodeOptions::new("one")
    });
    let two = cluster.start("two");
    two.wait_for_file("docs/one/f");
    fs::write(one.home.join("p2pfs.toml"), config("docs/1")).unwrap();
    one.signal(libc::SIGHUP);
    two.wait_for_file("docs/1/f");
    eventually("the old name is gone", HANG_LIMIT, || {
        !two.mounted("docs/one").exists()
    });
    assert_eq!(fs::read(two.mounted("docs/1/f")).unwrap(), b"f");
}

#[apply(promise)]
fn directories_of_a_place_have_the_date_of_the_newest_below_also_after_a_restart() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let dir = nodes[0].home.join("pics");
    fs::create_dir(&dir).unwrap();
    let dates = ["2001-02-03 04:05:06", "2002-03-04 05:06:07"];
    for (name, date) in ["a.jpg", "b.jpg"].into_iter().zip(dates) {
        fs::write(dir.join(name), name).unwrap();
        let mut touch = Command::new("touch");
        run(touch.args(["-d", date]).arg(dir.join(name))).expect_ok();
    }
    add_as(&nodes[0], dir.to_str().unwrap(), "photos/2002").expect_ok();
    let newest = fs::metadata(dir.join("b.jpg")).unwrap().modified().unwrap();
    for _ in 0..2 {
        for node in &nodes {
            node.wait_for_file("photos/2002/b.jpg");
            for name in ["photos", "photos/2002", ".p2pfs/peers/one/photos"] {
                let shown = fs::metadata(node.mounted(name)).unwrap().modified();
                assert_eq!(shown.unwrap(), newest, "{name} at {}", node.name);
            }
        }
        nodes[0].stop();
        nodes[0].launch();
    }
}
