//! Replies of the control socket to callers that the modes of the mount restrict, and the data that
//! they get about other users' reads.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;
use serde_json::Value;

use super::NEEDS;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// Two users that own no file and are in no group but their own.
const ALICE: u32 = 64_001;
const BOB: u32 = 64_002;

fn as_user(node: &Node, uid: u32, arguments: &[&str]) -> Finished {
    let mut command = node.cli_command(arguments);
    command.uid(uid).gid(uid).current_dir("/");
    run(&mut command)
}

/// Reads a file of the mount as a user.
fn cat_as(node: &Node, uid: u32, path: &str) -> Finished {
    let mut command = Command::new("cat");
    command.arg(node.mounted(path)).uid(uid).gid(uid);
    run(command.current_dir("/"))
}

fn with_modes(name: &str, modes: &str) -> NodeOptions {
    NodeOptions {
        config: format!("[mount]\n{modes}\n"),
        ..NodeOptions::new(name)
    }
}

fn assert_denied(node: &Node, arguments: &[&str]) {
    assert_denied_to(node, ALICE, arguments);
}

fn assert_denied_to(node: &Node, uid: u32, arguments: &[&str]) {
    let finished = as_user(node, uid, arguments);
    assert_eq!(finished.status.code(), Some(1), "{arguments:?}");
    let said = &finished.stderr;
    assert!(said.contains("permission denied"), "{arguments:?}: {said}");
    assert!(finished.stdout.is_empty(), "{arguments:?}");
}

/// Returns the events that a user gets, parsed.
fn events_of(node: &Node, uid: u32) -> Vec<Value> {
    let told = as_user(node, uid, &["events", "--json"]).expect_ok();
    let events = told.lines().map(|line| serde_json::from_str(line).unwrap());
    events.collect()
}

fn is_told(events: &[Value], kind: &str, name: &str) -> bool {
    let has_name = |event: &Value| event["name"]["path"] == name || event["path"] == name;
    let mut events = events.iter();
    events.any(|event| event["event"] == kind && has_name(event))
}

#[apply(promise)]
fn a_caller_gets_through_the_socket_what_the_mounts_modes_allow() {
    let mut cluster = Cluster::new();
    let closed = cluster.start_with(with_modes("closed", "umask = \"077\""));
    closed.write("d/a", b"text");
    closed.wait_for_file("d/a");
    assert!(!cat_as(&closed, ALICE, "d/a").status.success());
    let calls: [&[&str]; 8] = [
        &["ls"],
        &["ls", "d/a"],
        &["ls", "no-such-name"],
        &["get", "d/a", "-o", "-"],
        &["get", "no-such-name", "-o", "-"],
        &["why", "d/a"],
        &["wait", "--file", "d/a", "--timeout", "1s"],
        &["ls", ".p2pfs/peers"],
    ];
    calls.iter().for_each(|call| assert_denied(&closed, call));
    let events = events_of(&closed, ALICE);
    assert!(!is_told(&events, "file-added", "d/a"), "{events:?}");
    let counted = events.iter().find(|event| event["event"] == "left-out");
    assert!(counted.unwrap()["count"].as_u64().unwrap() >= 1);
    assert_eq!(closed.cli(&["get", "d/a", "-o", "-"]).expect_ok(), "text");
    let owned = cluster.start_with(with_modes("owned", "umask = \"077\"\nuid = 64001"));
    owned.write("b", b"text");
    owned.wait_for_file("b");
    assert!(cat_as(&owned, ALICE, "b").status.success());
    as_user(&owned, ALICE, &["get", "b", "-o", "-"]).expect_ok();
    assert!(
        !as_user(&owned, BOB, &["get", "b", "-o", "-"])
            .status
            .success()
    );
}

#[apply(promise)]
fn a_caller_gets_through_the_socket_what_the_mounts_group_may() {
    let mut cluster = Cluster::new();
    // Alice is in the group of the mount, and Bob is not.
    let open = cluster.start_with(with_modes("open", "umask = \"027\"\ngid = 64001"));
    open.write("d/a", b"text");
    open.wait_for_file("d/a");
    let calls: [&[&str]; 4] = [
        &["ls", "d"],
        &["get", "d/a", "-o", "-"],
        &["why", "d/a"],
        &["wait", "--file", "d/a", "--timeout", WAIT_LIMIT],
    ];
    assert!(cat_as(&open, ALICE, "d/a").status.success());
    assert!(!cat_as(&open, BOB, "d/a").status.success());
    for call in calls {
        as_user(&open, ALICE, call).expect_ok();
        assert_denied_to(&open, BOB, call);
    }
    // A group with fewer rights than others is judged by its own digit.
    let closed = cluster.start_with(with_modes("closed", "umask = \"070\"\ngid = 64001"));
    closed.wait_for_file("d/a");
    assert!(!cat_as(&closed, ALICE, "d/a").status.success());
    assert!(cat_as(&closed, BOB, "d/a").status.success());
    for call in calls {
        assert_denied_to(&closed, ALICE, call);
        as_user(&closed, BOB, call).expect_ok();
    }
}

#[apply(promise)]
fn a_caller_lists_by_directory_modes_and_reads_by_file_modes() {
    let mut cluster = Cluster::new();
    let unread = cluster.start_with(with_modes("unread", "fmask = \"077\""));
    unread.write("d/a", b"text");
    unread.wait_for_file("d/a");
    let listed = as_user(&unread, ALICE, &["ls", "d", "--json"]).expect_json();
    assert_eq!(listed["entries"][0]["path"], "d/a", "{listed}");
    // A program that cannot read the file cannot get the hash from the mount either.
    assert!(listed["entries"][0]["hash"].is_null(), "{listed}");
    as_user(&unread, ALICE, &["wait", "--file", "d/a"]).expect_ok();
    assert_denied(&unread, &["get", "d/a", "-o", "-"]);
    assert_denied(&unread, &["why", "d/a"]);
    let unlisted = cluster.start_with(with_modes("unlisted", "dmask = \"066\""));
    unlisted.wait_for_file("d/a");
    assert_denied(&unlisted, &["ls"]);
    assert_denied(&unlisted, &["ls", "d"]);
    let found = as_user(&unlisted, ALICE, &["ls", "d/a", "--json"]).expect_json();
    assert!(found["entries"][0]["hash"].is_string(), "{found}");
    let got = as_user(&unlisted, ALICE, &["get", "d/a", "-o", "-"]);
    assert_eq!(got.expect_ok(), "text");
    let events = events_of(&unlisted, ALICE);
    assert!(!is_told(&events, "file-added", "d/a"), "{events:?}");
}

#[apply(promise)]
fn a_read_is_shown_to_its_own_user_and_only_counted_for_others() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    for (seed, name) in (1..).zip(["got", "read", "of-root"]) {
        nodes[0].write(name, &noise(seed, 1 << 20));
        nodes[1].wait_for_file(name);
    }
    let reader = &nodes[1];
    as_user(reader, ALICE, &["get", "got", "-o", "/dev/null"]).expect_ok();
    assert!(cat_as(reader, ALICE, "read").status.success());
    reader.cli(&["prefetch", "of-root"]).expect_ok();
    for name in ["got", "read", "of-root"] {
        eventually("root is told of every fetch", HANG_LIMIT, || {
            is_told(&events_of(reader, 0), "fetch-done", name)
        });
    }
    let of_alice = events_of(reader, ALICE);
    for (name, is_own) in [("got", true), ("read", true), ("of-root", false)] {
        let told = is_told(&of_alice, "fetch-done", name);
        assert_eq!(told, is_own, "{name}: {of_alice:?}");
    }
    let of_bob = events_of(reader, BOB);
    let fetches = of_bob.iter().filter(|event| {
        let kind = event["event"].as_str().unwrap();
        kind.starts_with("fetch")
    });
    assert_eq!(fetches.count(), 0, "{of_bob:?}");
    let counts = of_bob.iter().filter(|event| event["event"] == "left-out");
    let counted: u64 = counts.map(|it| it["count"].as_u64().unwrap()).sum();
    assert!(counted >= 6, "{of_bob:?}");
    // A listed name is not a secret.
    assert!(is_told(&of_bob, "file-added", "got"), "{of_bob:?}");
}

#[apply(promise)]
fn an_ordinary_user_pings_other_nodes_at_a_pace() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let begun = Instant::now();
    for _ in 0..15 {
        as_user(&nodes[0], ALICE, &["ping", "two"]).expect_ok();
    }
    assert!(begun.elapsed() >= Duration::from_secs(2));
    // No other user waits for that limit.
    as_user(&nodes[0], BOB, &["ping", "two"]).expect_ok();
    nodes[0].cli(&["ping", "two"]).expect_ok();
}
