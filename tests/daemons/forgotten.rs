//! Promises about the entries of a node that a user has forgotten, with daemons on loopback.

use std::fs;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Waits until a node has read the entries of all its live peers.
fn hear_all(node: &Node, peers: &str) {
    node.cli(&["wait", "--peers", peers]).expect_ok();
}

#[apply(promise)]
fn forgotten_entries_do_not_return_from_a_third_node() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two", "gone"]);
    nodes[2].write("cached.txt", b"cached");
    nodes[2].write("alone.txt", b"alone");
    for node in &nodes[..2] {
        node.wait_for_file("cached.txt");
        node.wait_for_file("alone.txt");
    }
    let cached = nodes[1].mounted("cached.txt");
    assert_eq!(fs::read(&cached).unwrap(), b"cached");
    // As long as a node counts as live, none of its entries is forgotten.
    let early = nodes[0].cli(&["forget", "gone"]);
    assert_eq!(early.status.code(), Some(1), "{}", early.text());
    let remedy = "p2pfs peers shows it as down";
    assert!(early.stderr.contains(remedy), "{}", early.stderr);
    nodes[2].kill();
    for node in &nodes[..2] {
        let listed = || {
            let names = ["alone.txt", "cached.txt"];
            names.map(|name| node.mounted(name).exists())
        };
        eventually("the cache gives one", HANG_LIMIT, || {
            listed() == [false, true]
        });
    }
    for command in ["ls", "get"] {
        let absent = nodes[0].cli(&[command, "alone.txt"]);
        let reason = "alone.txt is not listed: no live node can give it";
        assert!(absent.stderr.contains(reason), "{absent:?}");
    }
    nodes[0].cli(&["forget", "gone"]).expect_ok();
    let is_forgotten = |node: &Node| {
        let listed = node.cli(&["ls"]).expect_ok();
        let why = node.cli(&["why", "alone.txt"]);
        !listed.contains("cached.txt") && why.status.code() == Some(1)
    };
    eventually("it is forgotten", HANG_LIMIT, || is_forgotten(&nodes[0]));
    for start in 1..=2 {
        nodes[0].stop();
        nodes[0].launch();
        hear_all(&nodes[0], "1");
        assert!(is_forgotten(&nodes[0]), "start {start}");
        assert!(!nodes[0].mounted("cached.txt").exists());
    }
    assert!(cached.exists(), "each node forgets for itself");
    nodes[2].launch();
    hear_all(&nodes[0], "2");
    for name in ["alone.txt", "cached.txt"] {
        nodes[0].wait_for_file(name);
        nodes[1].wait_for_file(name);
    }
}
