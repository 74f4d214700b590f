//! Messages of daemons on machines whose clocks disagree.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::{HANG_LIMIT, WAIT_LIMIT, eventually, fake_clock};
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// Makes the next start of the node use a clock that differs from this machine's by `gap`.
fn set_clock(node: &mut Node, gap: &str) {
    let library = fake_clock().unwrap();
    node.options.environment = vec![
        ("LD_PRELOAD", library.to_str().unwrap().to_owned()),
        ("FAKETIME", gap.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
}

/// Makes the next start of the node use a clock that differs from this machine's by the gap in the
/// returned file, at first `gap`.
fn settable_clock(node: &mut Node, gap: &str) -> PathBuf {
    let clock = node.home.join("clock");
    fs::write(&clock, format!("{gap}\n")).unwrap();
    set_clock(node, "");
    let environment = &mut node.options.environment;
    environment.retain(|(name, _)| *name != "FAKETIME");
    let file = clock.to_str().unwrap().to_owned();
    environment.push(("FAKETIME_TIMESTAMP_FILE", file));
    environment.push(("FAKETIME_NO_CACHE", "1".to_owned()));
    clock
}

/// Returns two nodes that joined by token. The second has seen the file of the first, is stopped
/// and has no seed.
fn one_and_two(cluster: &mut Cluster) -> (Node, Node) {
    let one = cluster.start_with(NodeOptions::unmounted("one"));
    one.write("file", b"of one");
    let mut two = cluster.start_with(NodeOptions::unmounted("two"));
    let token = one.cli(&["invite"]).expect_ok();
    two.cli(&["join", token.trim()]).expect_ok();
    one.cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
        .expect_ok();
    two.wait_for_file("file");
    two.stop();
    two.options.seeds.clear();
    (one, two)
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[apply(promise)]
#[takes("faketime")]
fn a_start_with_a_clock_a_day_wrong_is_named_by_both_sides_even_without_a_seed() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = one_and_two(&mut cluster);
    for (gap, there, here) in [
        ("+25h", "ahead of it", "behind it"),
        ("-25h", "behind it", "ahead of it"),
    ] {
        set_clock(&mut two, gap);
        two.launch();
        for (node, way, other) in [(&two, there, "one"), (&one, here, "two")] {
            let named = |said: &str| {
                let said = in_one_line(said);
                let hours = ["24", "25"].map(|hours| format!("clock is {hours} hours {way}"));
                said.contains(&format!("peer {other}: answers over TCP, but"))
                    && hours.iter().any(|words| said.contains(words))
            };
            eventually(
                &format!("status of {} names the clock at {gap}", node.name),
                HANG_LIMIT,
                || named(&node.cli(&["status"]).expect_ok()),
            );
            let doctor = node.cli(&["doctor"]);
            assert_eq!(doctor.status.code(), Some(1));
            assert!(named(&doctor.text()), "{gap}: {}", doctor.text());
            assert!(!doctor.text().contains("start p2pfs on one"), "{gap}");
        }
        two.stop();
    }
}

#[apply(promise)]
#[takes("faketime")]
fn node_that_started_two_days_ahead_joins_once_its_clock_is_right() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = one_and_two(&mut cluster);
    let clock = settable_clock(&mut two, "+2d");
    two.write("of-tomorrow", b"first seen by the wrong clock");
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    let file = fs::File::open(two.share.join("of-tomorrow")).unwrap();
    file.set_modified(tomorrow).unwrap();
    two.launch();
    two.wait_for_file("of-tomorrow");
    let is_named = || in_one_line(&one.cli(&["status"]).expect_ok()).contains("hours behind it");
    eventually("status of one names the clock", HANG_LIMIT, is_named);
    fs::write(&clock, "+0\n").unwrap();
    for node in [&one, &two] {
        node.cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
            .expect_ok();
    }
    one.wait_for_file("of-tomorrow");
    for node in [&one, &two] {
        let said = in_one_line(&node.cli(&["doctor"]).text());
        let blames = [
            "clock is",
            "start more than a day",
            "dated after now",
            "firewall",
        ];
        let blamed = blames.iter().find(|it| said.contains(**it));
        assert_eq!(blamed, None, "{}: {said}", node.name);
    }
}

#[apply(promise)]
#[takes("faketime")]
fn clock_an_hour_behind_changes_no_version_and_is_named_while_it_is() {
    let mut cluster = Cluster::new();
    let one = cluster.start_with(NodeOptions::unmounted("one"));
    let mut two = cluster.start_with(NodeOptions::unmounted("two"));
    let write = |node: &Node, text: &[u8], age: Duration| {
        node.write("doc", text);
        let file = fs::File::open(node.share.join("doc")).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    write(&one, b"older", Duration::from_secs(1200));
    write(&two, b"newer", Duration::from_secs(300));
    let expect_newer = |node: &Node, when: &str| {
        eventually(
            &format!("{} shows the newer {when}", node.name),
            HANG_LIMIT,
            || node.cli(&["get", "doc", "-o", "-"]).stdout == b"newer",
        );
    };
    expect_newer(&one, "at first");
    expect_newer(&two, "at first");
    two.stop();
    set_clock(&mut two, "-1h");
    two.launch();
    two.write("marker", b"listed after the scan");
    one.wait_for_file("marker");
    expect_newer(&one, "while the clock is behind");
    expect_newer(&two, "while its clock is behind");
    let is_named =
        |two: &Node| in_one_line(&two.cli(&["status"]).text()).contains("min behind the time");
    eventually("status names the clock", HANG_LIMIT, || is_named(&two));
    two.stop();
    two.options.environment.clear();
    two.launch();
    two.write("another", b"listed after the scan");
    one.wait_for_file("another");
    expect_newer(&one, "with the right clock");
    expect_newer(&two, "with the right clock");
    assert!(!is_named(&two));
}

#[apply(promise)]
#[takes("faketime")]
fn a_clock_20_years_behind_is_one_error() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, mut two) = one_and_two(&mut cluster);
    set_clock(&mut two, "-20y");
    two.launch();
    let told = |node: &Node| {
        let checkup = node.cli(&["doctor", "--json"]).stdout;
        let checkup: serde_json::Value = serde_json::from_slice(&checkup).unwrap();
        let checks = checkup["checks"].as_array().unwrap().clone();
        let is_told =
            |it: &serde_json::Value| it["state"] == "failed" && it.to_string().contains("clock");
        checks.into_iter().filter(is_told).collect::<Vec<_>>()
    };
    // The other side sees the gap once its probe of the node has been answered.
    eventually("one sees it", HANG_LIMIT, || !told(&one).is_empty());
    let errors = told(&two);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["name"], "clock");
    assert_eq!(
        errors[0]["remedy"],
        "set the clock: timedatectl set-ntp true"
    );
    let status = two.cli(&["status", "--json"]).expect_json();
    let of_clocks = status["errors"].as_array().unwrap().clone();
    assert_eq!(of_clocks.len(), 1, "{status}");
    two.stop();
}

#[apply(promise)]
#[takes("faketime")]
fn files_dated_in_the_future_cause_a_warning_until_the_clock_is_set() {
    let mut cluster = Cluster::with_own_secrets();
    let (_one, mut two) = one_and_two(&mut cluster);
    let clock = settable_clock(&mut two, "-2d");
    two.launch();
    let warns = || {
        let said = two.cli(&["status"]).expect_ok();
        in_one_line(&said).contains("dated after now")
    };
    eventually("it is warned of", HANG_LIMIT, warns);
    fs::write(&clock, "+0\n").unwrap();
    eventually("it is warned of no more", HANG_LIMIT, || !warns());
    two.stop();
}

#[apply(promise)]
#[takes("faketime")]
fn a_file_first_seen_by_a_fast_clock_is_listed_once_the_clock_is_right() {
    let mut cluster = Cluster::with_own_secrets();
    let mut node = cluster.start_with(NodeOptions::unmounted("one"));
    node.stop();
    node.write("file", b"of tomorrow");
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    let file = fs::File::open(node.share.join("file")).unwrap();
    file.set_modified(tomorrow).unwrap();
    set_clock(&mut node, "+3d");
    node.launch();
    node.wait_for_file("file");
    node.stop();
    node.options.environment.clear();
    node.launch();
    node.wait_for_file("file");
}

#[apply(promise)]
#[takes("faketime")]
fn a_token_expired_only_by_the_joiners_clock_is_valid() {
    let mut cluster = Cluster::with_own_secrets();
    let one = cluster.start_with(NodeOptions::unmounted("one"));
    let mut two = cluster.start_with(NodeOptions::unmounted("two"));
    let token = one.cli(&["invite"]).expect_ok();
    two.stop();
    // A token that waits for the start is then used or kept.
    let state = two.home.join("state");
    two.cli(&["join", token.trim(), "--state", state.to_str().unwrap()])
        .expect_ok();
    set_clock(&mut two, "+2h");
    two.launch();
    let has_joined = || {
        let trust = two.cli(&["trust", "--json"]).expect_json();
        trust["members"].as_array().unwrap().len() == 2
    };
    eventually("it is let in", HANG_LIMIT, has_joined);
}
