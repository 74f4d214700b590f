//! Promises about a node that leaves for good, and about the nodes that stay.

use std::fs;

use macro_rules_attribute::apply;

use super::trust::{invite, members, state_of};
use crate::support::daemon::*;
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

#[apply(promise)]
fn a_node_that_left_is_shown_as_left_and_not_as_down() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &[], &two);
    two.cli(&["leave", "--yes"]).expect_ok();
    two.await_end().expect_ok();
    eventually("it has left", HANG_LIMIT, || {
        state_of(&one, "two") == "left"
    });
    let told = one.cli(&["status"]).expect_ok();
    assert!(
        told.contains("0 alive, 0 suspect, 0 away, 0 down"),
        "{told}"
    );
}

#[apply(promise)]
fn a_node_that_left_can_be_expelled_by_its_name() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &["--admin"], &two);
    two.cli(&["leave", "--yes"]).expect_ok();
    two.await_end().expect_ok();
    eventually("it has left", HANG_LIMIT, || {
        state_of(&one, "two") == "left"
    });
    one.cli(&["expel", "two", "--yes"]).expect_ok();
    let trust = one.cli(&["trust", "--json"]).expect_json();
    let mut history = trust["history"].as_array().unwrap().iter();
    let is_expelled = history.any(|step| step["what"] == "expelled" && step["name"] == "two");
    assert!(is_expelled, "{trust}");
    assert_eq!(members(&one), ["one"]);
    let again = one.cli(&["expel", "two", "--yes"]);
    assert_eq!(again.status.code(), Some(1), "{}", again.stderr);
}

#[apply(promise)]
fn leave_returns_when_the_daemon_has_ended() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    node.cli(&["leave", "--yes"]).expect_ok();
    assert!(!node.is_running());
    assert!(!is_mounted(&node.mounted("")));
}

#[apply(promise)]
fn leave_reports_that_no_other_node_received_it() {
    let mut cluster = Cluster::with_own_secrets();
    let (mut one, mut two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &[], &two);
    one.kill();
    let left = two.cli(&["leave", "--yes"]);
    assert!(
        left.stderr.contains("No other node received this") && left.stderr.contains("p2pfs expel"),
        "{}",
        left.stderr
    );
    left.expect_ok();
    two.await_end().expect_ok();
}

#[apply(promise)]
fn a_leave_that_the_disk_refuses_is_an_error_and_works_once_the_disk_recovers() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &[], &two);
    let members_file = two.home.join("state/members");
    let aside = members_file.with_extension("aside");
    fs::rename(&members_file, &aside).unwrap();
    fs::create_dir(&members_file).unwrap();
    let refused = two.cli(&["leave", "--yes"]);
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("cannot replace"),
        "{}",
        refused.stderr
    );
    assert!(two.is_running());
    assert_eq!(members(&one), ["one", "two"]);
    fs::remove_dir(&members_file).unwrap();
    fs::rename(&aside, &members_file).unwrap();
    two.cli(&["leave", "--yes"]).expect_ok();
    two.await_end().expect_ok();
    eventually("it has left", HANG_LIMIT, || members(&one) == ["one"]);
    assert!(!members_file.exists());
}

#[apply(promise)]
fn after_the_founder_left_the_others_still_admit_nodes() {
    let mut cluster = Cluster::with_own_secrets();
    let (mut one, two) = (cluster.start("one"), cluster.start("two"));
    invite(&one, &["--admin"], &two);
    one.cli(&["leave", "--yes"]).expect_ok();
    one.await_end().expect_ok();
    eventually("it has left", HANG_LIMIT, || {
        state_of(&two, "one") == "left"
    });
    two.write("kept.txt", b"kept");
    let (three, four) = (cluster.start("three"), cluster.start("four"));
    invite(&two, &["--admin"], &three);
    invite(&three, &[], &four);
    four.wait_for_file("kept.txt");
    for node in [&two, &three, &four] {
        eventually("who is in is the same for all", HANG_LIMIT, || {
            members(node) == ["four", "three", "two"]
        });
    }
}

#[apply(promise)]
fn the_last_administrator_is_warned_at_leaving_and_can_pass_the_right_on() {
    let mut cluster = Cluster::with_own_secrets();
    let (mut one, mut two) = (cluster.start("one"), cluster.start("two"));
    let three = cluster.start("three");
    invite(&one, &[], &two);
    invite(&one, &[], &three);
    // An existing member gets the right in the way that a new one does.
    invite(&one, &["--admin"], &two);
    eventually("all know it", HANG_LIMIT, || {
        [&one, &two, &three]
            .map(members)
            .iter()
            .all(|it| it.len() == 3)
    });
    let left = one.cli(&["leave", "--yes"]);
    assert!(!left.stderr.contains("No other member"), "{}", left.stderr);
    left.expect_ok();
    one.await_end().expect_ok();
    eventually("two knows it", HANG_LIMIT, || members(&two).len() == 2);
    let left = two.cli(&["leave", "--yes"]);
    assert!(
        left.stderr.contains("No other member may invite or expel"),
        "{}",
        left.stderr
    );
    left.expect_ok();
    two.await_end().expect_ok();
    eventually("three knows it", HANG_LIMIT, || members(&three).len() == 1);
    let refused = three.cli(&["invite"]);
    assert!(refused.stderr.contains("no member may admit or expel"));
}
