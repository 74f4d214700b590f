//! What the machine says about processes and sockets.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The unit of times in /proc (`USER_HZ`), the same on all of Linux that Rust runs on but Alpha.
const TICKS_PER_S: f64 = 100.0;
/// How long processes are watched before they are said to be at rest.
const REST: Duration = Duration::from_millis(500);
/// What a process at rest may use of a processor: it still gossips.
const REST_SHARE: f64 = 0.05;
/// A daemon that never rests is measured beside nevertheless.
const REST_LIMIT: Duration = Duration::from_secs(30);

/// Processor seconds that processes and all that descend from them have used so far.
pub fn cpu_seconds(roots: &[u32]) -> f64 {
    let mut used = HashMap::new();
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process may end while we look.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<u64> = fields.split(' ').map(|f| f.parse().unwrap_or(0)).collect();
        // proc_pid_stat(5): the parent is field 4, user and system ticks are 14 and 15.
        parents.insert(pid, fields[1] as u32);
        used.insert(pid, fields[11] + fields[12]);
    }
    let descends = |mut pid: u32| loop {
        if roots.contains(&pid) {
            return true;
        }
        match parents.get(&pid) {
            Some(parent) => pid = *parent,
            None => return false,
        }
    };
    let ticks: u64 = used
        .iter()
        .filter(|(pid, _)| descends(**pid))
        .map(|(_, t)| t)
        .sum();
    ticks as f64 / TICKS_PER_S
}

/// Waits until these processes are done with what they were asked before: a cache may go on reading
/// ahead long after its reader, and who has the next turn would share the processors with it.
pub fn wait_for_rest(roots: &[u32]) {
    let given_up = Instant::now() + REST_LIMIT;
    while Instant::now() < given_up {
        let used_before = cpu_seconds(roots);
        thread::sleep(REST);
        if cpu_seconds(roots) - used_before <= REST_SHARE * REST.as_secs_f64() {
            return;
        }
    }
    println!("(somebody is still at work from the turn before; measured beside it)");
}

/// Bytes that a port of loopback has sent on the connections that it has now.
pub fn sent_bytes(port: u16) -> u64 {
    let output = Command::new("ss")
        .args(["-Htin", "state", "established", &format!("sport = :{port}")])
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("bytes_sent:")?.parse::<u64>().ok())
        .sum()
}

/// Lets no measurement pay for what was before it: dirty pages are written out, and memory is given
/// back that a hypervisor took from an idle guest. To touch such memory first costs 2 s of system
/// time a GiB where this was found, more than all the rest, and who comes first would pay it.
pub fn settle(scratch: &Path, needed_mib: usize) {
    rustix::fs::sync();
    let mib = vec![1; 1 << 20];
    for _ in 0..2 {
        let mut file = File::create(scratch).unwrap();
        (0..needed_mib).for_each(|_| file.write_all(&mib).unwrap());
        fs::remove_file(scratch).unwrap();
    }
}
