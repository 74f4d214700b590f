//! Conditions: `status`, `doctor`, the events, the journal and the metrics agree on what stands,
//! and on its end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use crate::disks::Disk;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];
/// How long `doctor` may take on a machine that also runs other tests.
const DOCTOR_MAX: Duration = Duration::from_secs(2);

/// Settings of a node with metrics at `socket`.
fn with_metrics(name: &str, socket: &Path, config: &str) -> NodeOptions {
    NodeOptions {
        config: format!("[metrics]\nlisten = '{}'\n{config}", socket.display()),
        ..NodeOptions::new(name)
    }
}

fn metrics(socket: &Path) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--unix-socket"]).arg(socket);
    run(curl.arg("http://localhost/metrics")).expect_ok()
}

fn status_shows(node: &Node, words: &str) -> bool {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["warnings"].to_string().contains(words)
}

/// Asserts that all views agree on whether a condition stands.
fn assert_views(node: &Node, socket: &Path, (name, words): (&str, &str), stands: bool) {
    eventually("the status", PATIENCE, || {
        status_shows(node, words) == stands
    });
    let text = node.cli(&["status"]).expect_ok();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let begun = Instant::now();
    let doctor = node.cli(&["doctor", "--json"]).text();
    assert!(begun.elapsed() < DOCTOR_MAX, "{:?}", begun.elapsed());
    assert_eq!(doctor.contains(words), stands, "{doctor}");
    let gauge = format!("p2pfs_condition{{name=\"{name}\"}} {}\n", u8::from(stands));
    eventually("the metric", PATIENCE, || metrics(socket).contains(&gauge));
    let events = node.cli(&["events", "--json"]).expect_ok();
    let kind = if stands { "warning" } else { "warning-over" };
    let is_it =
        |line: &str| line.contains(&format!("\"{kind}\"")) && line.contains(&format!("\"{name}\""));
    assert!(events.lines().any(is_it), "{events}");
}

/// Asserts that the journal has the begin and the end of a condition, once each.
fn assert_journal(node: &mut Node, words: &str) {
    let said = node.stop().stderr;
    let of = |is_end: bool| {
        let lines = said.lines().filter(|line| line.contains(words));
        lines
            .filter(|line| line.contains("no longer so: ") == is_end)
            .count()
    };
    assert_eq!((of(false), of(true)), (1, 1), "{said}");
}

/// Fills the disk of a folder of a node, and frees it again. Asserts that `condition` begins and
/// ends.
fn assert_full_disk(folder: &str, options: &str, config: &str, condition: (&str, &str)) {
    let mut cluster = Cluster::new();
    let at = cluster.folder.path().join("one").join(folder);
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount_with(&at, options);
    let socket = cluster.folder.path().join("metrics");
    let mut node = cluster.start_with(with_metrics("one", &socket, config));
    // more than the disk holds: the write ends with an error
    let _ = fs::write(at.join("ballast"), vec![1; 24 << 20]);
    assert_views(&node, &socket, condition, true);
    fs::remove_file(at.join("ballast")).unwrap();
    assert_views(&node, &socket, condition, false);
    assert_journal(&mut node, condition.1);
    drop(disk);
}

#[apply(promise)]
fn full_cache_disk_is_a_condition_until_it_has_room() {
    let config = "[cache]\nsize = '1GiB'\nfloor = '0B'\n";
    let condition = ("cache-full", "the cache's disk is full");
    assert_full_disk("cache", "size=8m,mode=755", config, condition);
}

#[apply(promise)]
fn full_state_disk_is_a_condition_until_it_has_room() {
    let condition = ("state-full", "its disk is full");
    assert_full_disk("state", "size=24m,mode=700", "", condition);
}

#[apply(promise)]
fn damaged_cache_block_is_a_condition_until_the_cache_is_well() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let socket = cluster.folder.path().join("metrics");
    let mut reader = cluster.start_with(with_metrics("reader", &socket, ""));
    let bytes = noise(1, 1 << 20);
    owner.write("file", &bytes);
    reader.wait_for_file("file");
    reader.cli(&["prefetch", "file"]).expect_ok();
    let hash = blake3::hash(&bytes).to_hex();
    let data = format!("cache/{}/{hash}.data", &hash[..2]);
    let data = reader.home.join(data);
    let file = fs::OpenOptions::new().write(true).open(data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 300_000).unwrap();
    reader.cli(&["cache", "verify"]);
    let condition = ("cache-damaged", "bytes of the cache were wrong");
    assert_views(&reader, &socket, condition, true);
    let damaged = "p2pfs_cache_damaged_bytes_total 65536\n";
    assert!(metrics(&socket).contains(damaged), "{}", metrics(&socket));
    assert!(fs::read(reader.mounted("file")).unwrap() == bytes);
    reader.cli(&["cache", "verify"]).expect_ok();
    assert_views(&reader, &socket, condition, false);
    assert_journal(&mut reader, condition.1);
}

#[apply(promise)]
fn no_answering_peer_is_a_condition_until_one_is_back() {
    let mut cluster = Cluster::new();
    let mut other = cluster.start("other");
    let socket = cluster.folder.path().join("metrics");
    let mut node = cluster.start_with(with_metrics("one", &socket, ""));
    node.cli(&["wait", "--peers", "1"]).expect_ok();
    other.kill();
    let condition = ("peers-down", "no other node answers");
    eventually("the peer is down", Duration::from_secs(60), || {
        status_shows(&node, condition.1)
    });
    assert_views(&node, &socket, condition, true);
    other.launch();
    node.cli(&["wait", "--peers", "1", "--timeout", "60s"])
        .expect_ok();
    assert_views(&node, &socket, condition, false);
    assert_journal(&mut node, condition.1);
}
