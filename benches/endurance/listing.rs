//! `ls -l` of a very long directory, of other nodes' files and of own ones, compared with ext4, and
//! the network traffic that it causes.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Cluster, Node};
use super::support::process::{eventually, run as run_command};
use super::{setting, table};

/// Maximum duration of a listing.
const GOAL_MS: f64 = 1000.0;
const ROUNDS: usize = 20;

/// Enters a separate network namespace, so that all counted packets are from this bench.
///
/// # Errors
/// If this is not permitted, or `ip` is not installed.
pub(crate) fn enter_own_network() -> io::Result<()> {
    // SAFETY: no other thread runs yet.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    if up.success() {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn run() {
    let entries = setting("P2PFS_BENCH_ENTRIES", 100_000);
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["author", "reader"]);
    let source = nodes[0].share.join("long");
    fs::create_dir(&source).unwrap();
    for number in 0..entries {
        fs::write(source.join(format!("name-{number:06}")), b"").unwrap();
    }
    let (seen, own) = (nodes[1].mounted("long"), nodes[0].mounted("long"));
    eventually("all are listed", Duration::from_secs(300), || {
        nodes.iter().all(|node| listed(node) >= entries as u64)
    });
    let (mut cold, mut warm) = (vec![], vec![]);
    let (sent_before, begun) = (packets(), Instant::now());
    for _ in 0..ROUNDS {
        forget_names();
        cold.push(list(&seen));
        warm.push(list(&seen));
    }
    let (sent, took) = (packets() - sent_before, begun.elapsed());
    let (mut own_cold, mut own_warm, mut disk) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        forget_names();
        own_cold.push(list(&own));
        own_warm.push(list(&own));
        forget_names();
        disk.push(list(&source));
    }
    // An equally long time without a listing.
    let (idle_before, begun) = (packets(), Instant::now());
    std::thread::sleep(took);
    let idle = packets() - idle_before;
    table::times("ls -l, names asked of the daemon", &cold, GOAL_MS);
    table::times("ls -l again, from the kernel's cache", &warm, GOAL_MS);
    table::times(
        "ls -l of own files, forgotten by the disk too",
        &own_cold,
        GOAL_MS,
    );
    table::times(
        "ls -l of own files again, each asked anew",
        &own_warm,
        GOAL_MS,
    );
    table::times("ls -l on the disk, for comparison", &disk, GOAL_MS);
    let rate = |packets: u64, time: Duration| packets as f64 / time.as_secs_f64();
    table::note(&format!(
        "packets a second, of both nodes: {:.1} while {} names were listed {} times, {:.1} idle",
        rate(sent, took),
        entries,
        2 * ROUNDS,
        rate(idle, begun.elapsed()),
    ));
    let requests = requests(&nodes[1]);
    list(&seen);
    let asked = self::requests(&nodes[1]) - requests;
    table::note(&format!("requests that one more ls -l makes: {asked}"));
}

/// Returns how many names a node knows.
pub(crate) fn listed(node: &Node) -> u64 {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["namespace"]["entries"].as_u64().unwrap()
}

fn requests(node: &Node) -> u64 {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["mount"]["activity"]["requests"].as_u64().unwrap()
}

fn list(directory: &Path) -> Duration {
    let begun = Instant::now();
    run_command(Command::new("ls").arg("-l").arg(directory)).expect_ok();
    begun.elapsed()
}

/// Makes the kernel forget unused names and attributes.
fn forget_names() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "2");
}

/// Returns the number of UDP and TCP packets that this network has sent.
fn packets() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut lines = text.lines();
    let mut sent = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let pairs = names.split(' ').zip(values.split(' '));
        let wanted = pairs.filter(|(name, _)| ["OutDatagrams", "OutSegs"].contains(name));
        sent += wanted
            .map(|(_, value)| value.parse().unwrap_or(0))
            .sum::<u64>();
    }
    sent
}
