//! A folder that two `[[share]]` sections name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

fn section(dir: &Path, more: &str) -> String {
    format!("[[share]]\ndir = '{}'\n{more}\n", dir.display())
}

/// Of the share of this folder, whether it is for everybody; none where it is not shared.
fn is_open(node: &Node, dir: &Path) -> Option<bool> {
    let told = node.cli(&["share", "--json"]).expect_json();
    let shares = told["shares"].as_array().unwrap();
    let found = shares.iter().find(|it| it["path"] == dir.to_str().unwrap());
    found.map(|share| share["readers"].is_null())
}

#[apply(promise)]
fn of_two_sections_with_one_folder_a_start_and_a_reload_take_the_later_one() {
    let mut cluster = Cluster::new();
    let folder = cluster.folder.path().canonicalize().unwrap();
    let (dir, link) = (folder.join("docs"), folder.join("link"));
    fs::create_dir(&dir).unwrap();
    symlink(&dir, &link).unwrap();
    let (open, closed) = (section(&dir, ""), section(&link, "readers = []"));
    let again = section(&dir, "readers = []");
    let mut node = cluster.start_with(NodeOptions {
        config: open.clone() + &closed,
        ..NodeOptions::new("one")
    });
    let reloaded = |node: &Node, config: &str, expected: Option<bool>| {
        fs::write(node.home.join("p2pfs.toml"), config).unwrap();
        node.signal(libc::SIGHUP);
        eventually(config, HANG_LIMIT, || is_open(node, &dir) == expected);
    };
    assert_eq!(is_open(&node, &dir), Some(false));
    reloaded(&node, &(closed.clone() + &open), Some(true));
    reloaded(&node, &(open.clone() + &again), Some(false));
    node.stop();
    node.launch();
    assert_eq!(is_open(&node, &dir), Some(false));
    reloaded(&node, &(again + &open), Some(true));
    reloaded(&node, &(open + &closed), Some(false));
    // who takes the section out means the folder that it named
    reloaded(&node, "", None);
}
