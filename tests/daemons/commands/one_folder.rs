//! One folder in two `[[share]]` sections.

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

/// Returns whether the share of this folder is open to all nodes, or `None` if the folder is not
/// shared.
fn is_open(node: &Node, dir: &Path) -> Option<bool> {
    let told = node.cli(&["share", "--json"]).expect_json();
    let shares = told["shares"].as_array().unwrap();
    let found = shares.iter().find(|it| it["path"] == dir.to_str().unwrap());
    found.map(|share| share["readers"].is_null())
}

#[apply(promise)]
fn of_two_sections_with_one_folder_the_later_one_applies_at_start_and_reload() {
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
    // Removing the section removes the share of the folder that it names.
    reloaded(&node, "", None);
}

#[apply(promise)]
fn the_configuration_of_a_folder_by_any_name_overrides_share_add() {
    let mut cluster = Cluster::new();
    let folder = cluster.folder.path().canonicalize().unwrap();
    let [dir, link, other] = ["docs", "link", "other"].map(|name| folder.join(name));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&other).unwrap();
    symlink(&dir, &link).unwrap();
    let mut node = cluster.start("one");
    let added = ["share", "add", dir.to_str().unwrap()];
    node.cli(&added).expect_ok();
    assert_eq!(is_open(&node, &dir), Some(true));
    let reload = |node: &Node, config: &str| {
        fs::write(node.home.join("p2pfs.toml"), config).unwrap();
        node.signal(libc::SIGHUP);
    };
    for spelled in [&link, &dir] {
        let closed = section(spelled, "readers = []");
        reload(&node, &closed);
        eventually("it is closed", HANG_LIMIT, || {
            is_open(&node, &dir) == Some(false)
        });
        let refused = node.cli(&added);
        assert_eq!(refused.status.code(), Some(1), "{spelled:?}");
        let why = "is shared by the configuration";
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
        // A change of groups makes the node check all added shares again.
        let group = format!("groups = ['of-{}=bob']\n", spelled.ends_with("link"));
        reload(&node, &(group.clone() + &closed + &section(&other, "")));
        eventually("another is shared", HANG_LIMIT, || {
            is_open(&node, &other).is_some()
        });
        reload(&node, &(group + &closed));
        eventually("and no more", HANG_LIMIT, || {
            is_open(&node, &other).is_none()
        });
        assert_eq!(is_open(&node, &dir), Some(false), "{spelled:?}");
        node.stop();
        node.launch();
        assert_eq!(is_open(&node, &dir), Some(false), "{spelled:?}");
    }
}
