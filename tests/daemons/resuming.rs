//! What was fetched once stays: a fetch that the end of either node cut short goes on from there.

use std::fs;
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
/// Of this, what was under way when a node ended may come twice: a few MiB, and not the half.
const SIZE: usize = 48 << 20;
/// On machines many times slower than the holder's limit asks for.
const LONG: Duration = Duration::from_secs(120);

/// A holder that gives slowly, one that reads, and what is held.
fn slow_holder() -> (Cluster, Vec<Node>, Vec<u8>) {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["holder", "reader"]);
    let bytes = noise(9, SIZE);
    nodes[0].write("file", &bytes);
    nodes[1].wait_for_file("file");
    nodes[0].cli(&["limits", "--up", "12MiB/s"]).expect_ok();
    (cluster, nodes, bytes)
}

fn traffic(node: &Node, which: &str) -> usize {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["traffic"][which].as_u64().unwrap() as usize
}

fn get(reader: &Node) -> Command {
    let mut command = reader.cli_command(&["get", "file"]);
    command.arg("-o").arg(reader.home.join("copy"));
    command
}

/// A `get` that is under way, with half of the file here.
fn half_way(reader: &Node) -> Running {
    let get = start(&mut get(reader));
    eventually("half of it is here", LONG, || {
        traffic(reader, "received_bytes") >= SIZE / 2
    });
    get
}

fn get_again(reader: &Node, bytes: &[u8]) {
    run(&mut get(reader)).expect_ok();
    assert!(fs::read(reader.home.join("copy")).unwrap() == bytes);
}

#[apply(promise)]
fn a_get_whose_own_daemon_was_killed_goes_on_from_what_the_cache_has() {
    let (_cluster, mut nodes, bytes) = slow_holder();
    let get = half_way(&nodes[1]);
    nodes[1].kill();
    // it may have been through before that, on a machine that was slow to look
    let first = get.finish(HANG_LIMIT);
    let is_there = nodes[1].home.join("copy").exists();
    assert_eq!(first.status.success(), is_there, "{}", first.stderr);
    nodes[0].cli(&["limits", "--up", "none"]).expect_ok();
    nodes[1].launch();
    nodes[1].wait_for_file("file");
    get_again(&nodes[1], &bytes);
    let sent = traffic(&nodes[0], "sent_bytes");
    assert!(sent <= SIZE * 5 / 4, "{sent} bytes sent of {SIZE}");
}

#[apply(promise)]
fn a_cached_file_is_got_whole_however_often_and_by_how_many_at_once() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["holder", "reader"]);
    let bytes = noise(10, 1 << 20);
    nodes[0].write("file", &bytes);
    nodes[1].wait_for_file("file");
    // the cache keeps one descriptor of what is open
    let _open = fs::File::open(nodes[1].mounted("file")).unwrap();
    let get = || start(nodes[1].cli_command(&["get", "file"]).args(["-o", "-"]));
    for _ in 0..3 {
        assert!(get().finish(HANG_LIMIT).stdout == bytes);
    }
    let at_once: Vec<Running> = (0..4).map(|_| get()).collect();
    for get in at_once {
        assert!(get.finish(HANG_LIMIT).stdout == bytes);
    }
}

#[apply(promise)]
fn a_get_whose_only_holder_was_killed_goes_on_from_what_the_cache_has() {
    let (_cluster, mut nodes, bytes) = slow_holder();
    let get = half_way(&nodes[1]);
    nodes[0].kill();
    nodes[0].launch();
    // the same goes on where its holder is back within the deadline
    let _either = get.finish(HANG_LIMIT);
    nodes[1].wait_for_file("file");
    get_again(&nodes[1], &bytes);
    let received = traffic(&nodes[1], "received_bytes");
    assert!(received <= SIZE * 5 / 4, "{received} bytes came of {SIZE}");
}
