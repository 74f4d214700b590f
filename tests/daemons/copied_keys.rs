//! Two machines with one key, as after a copy of a disk with its state.

use std::fs;
use std::path::Path;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

fn warnings(node: &Node) -> String {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["warnings"].to_string()
}

/// Returns the names of the living peers, sorted.
fn alive(node: &Node) -> Vec<String> {
    let peers = node.cli(&["peers", "--json"]).expect_json();
    let peers = peers["peers"].as_array().unwrap().iter();
    let live = peers.filter(|peer| peer["state"] == "alive");
    let mut names: Vec<String> = live
        .map(|peer| peer["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Returns the events about nodes that disappeared without a farewell.
fn called_gone(node: &Node) -> Vec<String> {
    let told = node.cli(&["events", "--json"]).expect_ok();
    let told = told.lines().filter(|line| line.contains("\"peer-down\""));
    let told = told.filter(|line| !line.contains("stopped cleanly"));
    told.map(str::to_owned).collect()
}

/// Copies the state directory of a stopped node.
fn copy_state(of: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    let entries = fs::read_dir(of).unwrap().map(Result::unwrap);
    for entry in entries.filter(|entry| entry.file_type().unwrap().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[apply(promise)]
fn a_copied_machine_is_named_by_all_without_blaming_a_firewall_or_losing_a_node() {
    let mut cluster = Cluster::new();
    let mut start = |name| cluster.start_with(NodeOptions::unmounted(name));
    let (one, other, mut two) = (start("one"), start("other"), start("two"));
    eventually("all are there", HANG_LIMIT, || {
        alive(&two) == ["one", "other"]
    });
    two.stop();
    let twins = cluster.folder.path().join("twin/state");
    copy_state(&two.home.join("state"), &twins);
    let mut twin = cluster.start_with(NodeOptions::unmounted("twin"));
    two.launch();
    two.write("of-two", b"of two");
    twin.write("of-twin", b"of its twin");
    let key = two.cli(&["status", "--json"]).expect_json()["node"].clone();
    let of_two = format!(
        "two machines run with the key of node {}",
        &key.as_str().unwrap()[..8]
    );
    for (node, elsewhere) in [(&two, twin.address), (&twin, two.address)] {
        let said = format!("another machine runs with this node's key, at {elsewhere} (this ");
        eventually("a copy names the other", HANG_LIMIT, || {
            warnings(node).contains(&said)
        });
        let doctor = node.cli(&["doctor"]);
        assert_eq!(doctor.status.code(), Some(1), "{}", doctor.stderr);
        let found = doctor.text();
        let found: Vec<_> = found.split_whitespace().collect();
        let found = found.join(" ");
        assert!(found.contains("error key: another machine"), "{found}");
        let remedy = "On the copy, the newer machine (on either, if it is unclear which it is): \
                      stop p2pfs, remove its state directory and start p2pfs again.";
        assert!(found.contains(remedy), "{found}");
        let invite = "by an invitation (p2pfs invite --name NAME on a member;";
        assert!(found.contains(invite), "{found}");
        let told = node.cli(&["events", "--json"]).expect_ok();
        assert!(told.contains(&said), "{told}");
    }
    for third in [&one, &other] {
        let both = [two.address, twin.address].map(|address| address.to_string());
        eventually("a third node names both", HANG_LIMIT, || {
            let told = warnings(third);
            told.contains(&of_two) && both.iter().all(|address| told.contains(address))
        });
    }
    for node in [&one, &other, &two, &twin] {
        let told = node.cli(&["doctor"]).text() + &warnings(node);
        assert!(!told.contains("firewall"), "{}: {told}", node.name);
        assert_eq!(called_gone(node), Vec::<String>::new(), "by {}", node.name);
    }
    assert_eq!((alive(&two), alive(&twin)), (alive(&twin), alive(&two)));
    // The documented remedy.
    twin.stop();
    fs::remove_dir_all(twin.home.join("state")).unwrap();
    twin.launch();
    for node in [&one, &other] {
        node.wait_for_file("of-two");
        node.wait_for_file("of-twin");
        eventually("both are there", HANG_LIMIT, || {
            let there = alive(node);
            ["two", "twin"]
                .iter()
                .all(|name| there.contains(&(*name).to_owned()))
        });
        eventually("nothing is said any more", HANG_LIMIT, || {
            !warnings(node).contains("key")
        });
    }
    for node in [&two, &twin] {
        let told = warnings(node);
        assert!(!told.contains("key"), "{}: {told}", node.name);
    }
}

#[apply(promise)]
fn a_restart_an_old_state_or_another_address_is_not_mistaken_for_a_copy() {
    let mut cluster = Cluster::new();
    let mut start = |name| cluster.start_with(NodeOptions::unmounted(name));
    let (one, mut two) = (start("one"), start("two"));
    let there = |file: &str| one.wait_for_file(file);
    two.write("before", b"yesterday");
    there("before");
    two.stop();
    let (state, backup) = (two.home.join("state"), two.home.join("backup"));
    copy_state(&state, &backup);
    for round in 0..3 {
        two.launch();
        let name = format!("since-{round}");
        two.write(&name, name.as_bytes());
        there(&name);
        // The node is killed once and stopped twice. Each time it gets its old state back and
        // another address.
        match round {
            0 => two.kill(),
            _ => drop(two.stop()),
        }
        copy_state(&backup, &state);
        two.take_any_port();
    }
    two.launch();
    two.write("at-last", b"today");
    there("at-last");
    for node in [&one, &two] {
        let told = warnings(node);
        assert!(!told.contains("key"), "{}: {told}", node.name);
    }
}
