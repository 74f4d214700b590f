//! Shares with edges: what of a folder is kept back, and who may read it.

use std::fs;
use std::path::PathBuf;

use macro_rules_attribute::apply;
use serde_json::Value;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

/// A folder for a node to share by its configuration.
fn folder(cluster: &Cluster, name: &str) -> PathBuf {
    let folder = cluster.folder.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    set_mode(&folder, 0o755);
    folder
}

/// What leaves the machine of a node, with the share of each name.
fn mine(node: &Node) -> Vec<String> {
    let told = node.cli(&["ls", "--mine", "--json"]).expect_json();
    let path = |entry: &Value| entry["path"].as_str().unwrap().to_owned();
    told["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(path)
        .collect()
}

#[apply(promise)]
fn what_is_excluded_leaves_no_machine_and_disappears_after_a_reload() {
    let mut cluster = Cluster::new();
    let folder = folder(&cluster, "project");
    fs::create_dir(folder.join("build")).unwrap();
    for name in ["README", ".env", "build/out", "x.log"] {
        fs::write(folder.join(name), name).unwrap();
    }
    let share = format!("[[share]]\ndir = '{}'\n", folder.display());
    let author = cluster.start_with(NodeOptions {
        config: share.clone(),
        ..NodeOptions::new("author")
    });
    let reader = cluster.start("reader");
    for name in ["README", "build/out", "x.log"] {
        reader.wait_for_file(name);
    }
    assert_eq!(mine(&author), ["README", "build", "build/out", "x.log"]);
    assert!(!reader.cli(&["get", ".env"]).status.success());
    let why = author.cli(&["why", "--json", ".env"]).expect_json();
    let said = why["left_out"].as_str().unwrap();
    assert!(
        said.contains("a pattern excludes it: .env, by default"),
        "{said}"
    );

    let config = format!("{share}exclude = ['*.log', '/build/']\n");
    fs::write(author.home.join("p2pfs.toml"), config).unwrap();
    author.signal(libc::SIGHUP);
    eventually("the names are gone everywhere", HANG_LIMIT, || {
        reader.cli(&["ls"]).expect_ok() == "README\n"
    });
    assert_eq!(mine(&author), ["README"]);
    let why = author.cli(&["why", "--json", "build/out"]).expect_json();
    let said = why["left_out"].as_str().unwrap();
    assert!(said.contains("/build/, of this share's exclude"), "{said}");
    let told = author.cli(&["ls", "--mine", "--json"]).expect_json();
    let shares = told["shares"].as_array().unwrap();
    let place = folder.to_str().unwrap();
    let ours = shares.iter().find(|share| share["path"] == place).unwrap();
    assert_eq!(ours["excluded_files"], 3);
    assert_eq!(ours["left_out"][0]["count"], 3);
    fs::write(folder.join("y.log"), "later").unwrap();
    fs::write(folder.join("last"), "last").unwrap();
    reader.wait_for_file("last");
    assert!(!reader.cli(&["get", "y.log"]).status.success());
}
