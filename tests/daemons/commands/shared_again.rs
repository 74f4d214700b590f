//! `p2pfs share add` of a folder that is shared already.

use std::fs;

use macro_rules_attribute::apply;
use serde_json::json;

use super::NEEDS;
use crate::support::daemon::*;
use crate::support::promise::promise;

#[apply(promise)]
fn sharing_again_changes_the_given_options_and_keeps_the_rest() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    let folder = node.home.join("docs");
    fs::create_dir(&folder).unwrap();
    let place = folder.to_str().unwrap().to_owned();
    let given = [
        "--readers",
        "beta",
        "--exclude",
        "*.log",
        "--include-private",
    ];
    let add = |node: &Node, given: &[&str]| {
        let told = node.cli(&[&["share", "add", &place], given].concat());
        let told = told.expect_ok();
        told.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let share = |node: &Node| {
        let told = node.cli(&["share", "--json"]).expect_json();
        let shares = told["shares"].as_array().unwrap();
        let found = shares.iter().find(|share| share["path"] == place);
        found.unwrap().clone()
    };
    let first = add(&node, &given);
    assert!(!first.contains("already"), "{first}");

    let told = add(&node, &[]);
    assert!(
        told.contains("was shared already, and is now as before"),
        "{told}"
    );
    let told = add(&node, &["--exclude", "*.tmp"]);
    assert!(
        told.contains("excluded: *.tmp (before: excluded: *.log)"),
        "{told}"
    );
    add(&node, &["--include-private=off", "--no-default-excludes"]);
    let wanted = |shared: &serde_json::Value| {
        assert_eq!(shared["readers"], json!([{"reader": "beta"}]));
        assert_eq!(shared["exclude"], json!(["*.tmp"]));
        assert_eq!(shared["include_private"], json!(false));
        assert_eq!(shared["default_excludes"], json!(false));
    };
    wanted(&share(&node));
    node.stop();
    node.launch();
    wanted(&share(&node));

    let refused = node.cli(&["share", "add", &place, "--legacy"]);
    assert!(
        refused.stderr.contains("--readers '*'"),
        "{}",
        refused.stderr
    );
    wanted(&share(&node));
    let told = add(&node, &["--readers", "*", "--exclude", ""]);
    assert!(
        told.contains("is now to every member (before: to no other node"),
        "{told}"
    );
    let shared = share(&node);
    assert!(shared["readers"].is_null(), "{shared}");
    assert_eq!(shared["exclude"], json!([]));
}
