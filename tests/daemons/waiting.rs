//! After `p2pfs wait` succeeds, every program sees the file or node at once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use macro_rules_attribute::apply;
use serde_json::Value;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
const ROUNDS: usize = 40;

/// The names appear one after the other. The kernel is still being told of one name when it looks
/// up the next, and it has cached that none of them existed.
#[apply(promise)]
fn an_awaited_file_is_in_the_folder() {
    let mut cluster = Cluster::new();
    let writer = cluster.start("writer");
    let reader = cluster.start("reader");
    for round in 0..ROUNDS {
        let name = format!("dir/{round}");
        let seen = reader.mounted(&name);
        assert!(!seen.exists());
        let _listed = fs::read_dir(reader.mounted("dir")).map(Iterator::count);
        fs::create_dir_all(writer.share.join("dir")).unwrap();
        fs::write(writer.share.join(&name), name.as_bytes()).unwrap();
        (reader.cli(&["wait", "--file", &name, "--timeout", WAIT_LIMIT])).expect_ok();
        assert_eq!(fs::read(&seen).unwrap(), name.as_bytes());
        let listed = fs::read_dir(reader.mounted("dir")).unwrap().count();
        assert_eq!(listed, round + 1);
    }
    eventually("nothing is taken back", HANG_LIMIT, || {
        fs::read_dir(reader.mounted("dir")).unwrap().count() == ROUNDS
    });
}

/// A script that then runs `rsync --delete` must not take a part for the whole.
#[apply(promise)]
fn a_waiter_for_another_node_sees_all_names_that_the_present_nodes_list() {
    let mut cluster = Cluster::new();
    let authors = ["one", "two", "three"].map(|name| cluster.start(name));
    let files = 2000;
    for (author, name) in authors.iter().zip(["x", "y", "z"]) {
        let dir = author.share.join(name);
        fs::create_dir(&dir).unwrap();
        (0..files).for_each(|number| fs::write(dir.join(number.to_string()), "").unwrap());
    }
    for author in &authors {
        eventually("all is listed among them", HANG_LIMIT, || {
            let status = author.cli(&["status", "--json"]).expect_json();
            status["namespace"]["entries"] == authors.len() * (files + 1)
        });
    }
    for number in 0..5 {
        let fresh = cluster.start(&format!("fresh{number}"));
        fresh
            .cli(&["wait", "--mounted", "--peers", "1"])
            .expect_ok();
        let listed = ["x", "y", "z"].map(|dir| {
            let names = fs::read_dir(fresh.mounted(dir));
            names.map_or(0, Iterator::count)
        });
        assert_eq!(listed, [files; 3]);
    }
}

/// A name behind a linked directory exists for `wait`, `ls` and `why`, as in the folder.
#[apply(promise)]
fn a_path_through_a_linked_directory_is_the_same_in_every_command() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    fs::create_dir(node.share.join("real")).unwrap();
    fs::write(node.share.join("real/file"), "in").unwrap();
    std::os::unix::fs::symlink("real", node.share.join("linked")).unwrap();
    (node.cli(&["wait", "--file", "linked", "--timeout", WAIT_LIMIT])).expect_ok();
    (node.cli(&["wait", "--file", "linked/file", "--timeout", WAIT_LIMIT])).expect_ok();
    assert_eq!(fs::read(node.mounted("linked/file")).unwrap(), b"in");
    for command in ["ls", "why"] {
        let said = node.cli(&[command, "linked/file"]).expect_ok();
        assert!(said.contains("real/file"), "{command}: {said}");
    }
}

/// The kernel has cached that none of the names existed, and is told of them one after the other.
#[apply(promise)]
fn an_event_about_a_new_file_comes_once_it_is_in_the_folder() {
    let mut cluster = Cluster::new();
    let writer = cluster.start("writer");
    let reader = cluster.start("reader");
    let mut followed = reader.cli_command(&["events", "--follow", "--json"]);
    let mut followed = followed.stdout(Stdio::piped()).spawn().unwrap();
    let names: Vec<String> = (0..500).map(|number| format!("new{number}")).collect();
    for name in &names {
        assert!(!reader.mounted(name).exists());
        writer.write(name, name.as_bytes());
    }
    let mut left: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for line in BufReader::new(followed.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let path = event["path"].as_str().unwrap_or_default();
        if event["event"] == "file-added" && left.remove(path) {
            let found = fs::metadata(reader.mounted(path));
            assert!(found.is_ok(), "{path}: {found:?}");
        }
        if left.is_empty() {
            break;
        }
    }
    assert!(left.is_empty());
    followed.kill().unwrap();
    followed.wait().unwrap();
}

/// The name of a node arrives shortly after the node.
#[apply(promise)]
fn events_report_a_new_node_by_its_name() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["first", "second"]);
    for (node, other) in [(&nodes[0], "second"), (&nodes[1], "first")] {
        (node.cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])).expect_ok();
        eventually("it is named", HANG_LIMIT, || {
            let told = node.cli(&["events", "--json"]).expect_ok();
            let lines = told
                .lines()
                .map(|it| serde_json::from_str::<Value>(it).unwrap());
            let mut ups = lines.filter(|event| event["event"] == "peer-up");
            ups.any(|event| event["peer"] == other)
        });
    }
}

/// A daemon that hangs or was stopped by a signal must not block a shell.
#[apply(promise)]
fn an_unresponsive_daemon_is_reported_by_each_waiting_command() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("film", b"film");
    node.wait_for_file("film");
    let file = node.share.join("film");
    let send = ["send", file.to_str().unwrap(), "--to", "two"];
    let commands: [&[&str]; 5] = [
        &["events", "--follow"],
        &["get", "film"],
        &["pin", "film"],
        &["prefetch", "film"],
        &send,
    ];
    node.signal(libc::SIGSTOP);
    let asking = commands.map(|command| start(&mut node.cli_command(command)));
    for (command, asking) in commands.iter().zip(asking) {
        let ended = asking.finish(HANG_LIMIT);
        let told = ended.stderr.contains("the daemon does not answer");
        assert!(told, "{command:?}: {}", ended.stderr);
    }
    node.signal(libc::SIGCONT);
}

/// The hidden path names one node's file, whatever other nodes share under that name.
#[apply(promise)]
fn a_file_of_one_node_can_be_awaited_by_its_hidden_path() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["writer", "reader"]);
    let path = ".p2pfs/peers/writer/late";
    let early = nodes[1].cli(&["wait", "--file", path, "--timeout", "100ms"]);
    assert_eq!(early.status.code(), Some(1));
    assert!(
        early.stderr.contains("late is not there"),
        "{}",
        early.stderr
    );
    nodes[0].write("late", b"here");
    (nodes[1].cli(&["wait", "--file", path, "--timeout", WAIT_LIMIT])).expect_ok();
    assert_eq!(fs::read(nodes[1].mounted(path)).unwrap(), b"here");
}
