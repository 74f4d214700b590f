//! `p2pfs restore`: what programs deleted or replaced through the mounts of two nodes comes back.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use macro_rules_attribute::apply;
use rustix::fs::StatVfsMountFlags;
use serde_json::{Value, json};

use crate::support::content::names_below;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

fn writing_nodes(cluster: &mut Cluster) -> Vec<Node> {
    let nodes = cluster.start_all(&["one", "two"]);
    for node in &nodes {
        node.cli(&["write", "on"]).expect_ok();
        eventually("the mount is writable", HANG_LIMIT, || {
            let found = rustix::fs::statvfs(&node.mount).unwrap();
            !found.f_flag.contains(StatVfsMountFlags::RDONLY)
        });
    }
    nodes
}

/// Waits until all nodes show a file with these bytes, or no such file.
fn wait_for(nodes: &[Node], name: &str, bytes: Option<&[u8]>) {
    for node in nodes {
        eventually(&format!("{name} is as it was written"), HANG_LIMIT, || {
            fs::read(node.mounted(name)).ok().as_deref() == bytes
        });
    }
}

fn write(nodes: &[Node], at: usize, name: &str, bytes: &[u8]) {
    let path = nodes[at].mounted(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    wait_for(nodes, name, Some(bytes));
}

fn deleted(node: &Node) -> Vec<Value> {
    let told = node.cli(&["ls", "--deleted", "/", "--json"]).expect_json();
    told["versions"].as_array().unwrap().clone()
}

#[apply(promise)]
fn removed_own_file_is_kept_out_of_sight_and_restored() {
    let mut cluster = Cluster::new();
    let nodes = writing_nodes(&mut cluster);
    write(&nodes, 0, "docs/own", b"precious");
    fs::remove_file(nodes[0].mounted("docs/own")).unwrap();
    wait_for(&nodes, "docs/own", None);
    let told = deleted(&nodes[0]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["path"], "docs/own");
    assert_eq!(
        (&told[0]["by"], &told[0]["replaced"]),
        (&json!("one"), &json!(false))
    );
    assert!(deleted(&nodes[1]).is_empty());
    let shares = nodes[0].cli(&["share", "--json"]).expect_json();
    assert!(!shares.to_string().contains("left_out\":[{"), "{shares}");
    for node in &nodes {
        let shown = fs::read_dir(&node.mount).unwrap();
        let mut shown = shown.map(|entry| entry.unwrap().file_name());
        assert!(shown.all(|name| name != ".p2pfs-kept"));
        assert!(!node.mounted(".p2pfs-kept").exists());
        assert!(!node.cli(&["ls", "/"]).expect_ok().contains("kept"));
    }
    assert!(fs::create_dir(nodes[0].mounted(".p2pfs-kept")).is_err());

    nodes[0].cli(&["restore", "/docs/own"]).expect_ok();
    wait_for(&nodes, "docs/own", Some(b"precious"));
    assert!(deleted(&nodes[0]).is_empty());
}

#[apply(promise)]
fn file_that_another_node_deleted_is_restored_on_either_node() {
    let mut cluster = Cluster::new();
    let nodes = writing_nodes(&mut cluster);
    write(&nodes, 0, "file", b"of one");
    for restorer in [1, 0] {
        fs::remove_file(nodes[1].mounted("file")).unwrap();
        wait_for(&nodes, "file", None);
        let told = deleted(&nodes[restorer]);
        assert!(told.iter().any(|it| it["by"] == "two"), "{told:?}");
        nodes[restorer].cli(&["restore", "/file"]).expect_ok();
        wait_for(&nodes, "file", Some(b"of one"));
        for node in &nodes {
            assert_eq!(names_below(&node.mount), [PathBuf::from("file")]);
        }
    }
    // Withdrawing the deletion wrote no copy.
    assert!(!nodes[1].home.join("state/files/file").exists());
}

#[apply(promise)]
fn replaced_version_is_restored_and_can_be_replaced_back() {
    let mut cluster = Cluster::new();
    let nodes = writing_nodes(&mut cluster);
    write(&nodes, 0, "text", b"first\n");
    let path = nodes[1].mounted("text");
    let edited = Command::new("sed")
        .arg("-i")
        .arg("s/first/second/")
        .arg(&path)
        .status();
    assert!(edited.unwrap().success());
    wait_for(&nodes, "text", Some(b"second\n"));
    // A directory brings back only what is missing.
    let refused = nodes[0].cli(&["restore", "/"]);
    assert!(!refused.status.success(), "{refused:?}");
    nodes[0]
        .cli(&["restore", "/text", "--by", "two"])
        .expect_ok();
    wait_for(&nodes, "text", Some(b"first\n"));
    nodes[1]
        .cli(&["restore", "/text", "--since", "1d"])
        .expect_ok();
    wait_for(&nodes, "text", Some(b"second\n"));
    for node in &nodes {
        assert_eq!(names_below(&node.mount), [PathBuf::from("text")]);
    }
}

#[apply(promise)]
fn all_that_one_node_deleted_comes_back_on_it() {
    let mut cluster = Cluster::new();
    let nodes = writing_nodes(&mut cluster);
    let names = ["a", "docs/b", "docs/deep/c", "d"];
    for (at, name) in names.iter().enumerate() {
        write(&nodes, at % 2, name, name.as_bytes());
    }
    let before = names_below(&nodes[0].mount);
    for top in ["a", "docs", "d"] {
        let removed = Command::new("rm")
            .arg("-rf")
            .arg(nodes[1].mounted(top))
            .status();
        assert!(removed.unwrap().success());
    }
    for name in names {
        wait_for(&nodes, name, None);
    }
    let nobody = nodes[1].cli(&["restore", "/", "--by", "one"]);
    assert!(!nobody.status.success(), "{nobody:?}");
    nodes[1].cli(&["restore", "/", "--by", "two"]).expect_ok();
    for name in names {
        wait_for(&nodes, name, Some(name.as_bytes()));
    }
    for node in &nodes {
        assert_eq!(names_below(&node.mount), before);
    }
}
