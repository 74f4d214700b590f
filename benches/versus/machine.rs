//! The machine's data about processes and sockets.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use rustix::system::sysinfo;

/// The unit of times in /proc (`USER_HZ`). It is equal on all Linux platforms of Rust except Alpha.
const TICKS_PER_S: f64 = 100.0;
/// Buffer size of a program that reads large pieces.
const READ_BYTES: usize = 1 << 20;
/// How long processes are watched before they count as at rest.
const REST: Duration = Duration::from_millis(500);
/// Maximum share of a processor of a process at rest, which still gossips.
const REST_SHARE: f64 = 0.05;
/// Maximum wait for a daemon that never rests. Then the measurement begins nevertheless.
const REST_LIMIT: Duration = Duration::from_secs(30);

/// Returns the machine's rule for sending by TCP (tcp(7)). `bbr` also paces traffic over loopback,
/// which costs a processor. `cubic`, the kernel's default, does not.
pub(crate) fn congestion_control() -> String {
    let rule = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    rule.map_or_else(|_| "unknown".into(), |rule| rule.trim().to_owned())
}

/// Returns the processor seconds that processes and all their descendants have used so far.
pub(crate) fn cpu_seconds(roots: &[u32]) -> f64 {
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
        // A process may end during the scan.
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

/// Waits until these processes have finished their earlier work. A cache may continue its
/// read-ahead long after its reader, and would share the processors with the next contestant.
pub(crate) fn wait_for_rest(roots: &[u32]) {
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

/// Returns the bytes that a loopback port has sent on its present connections.
pub(crate) fn sent_bytes(port: u16) -> u64 {
    let output = Command::new("ss")
        .args(["-Htin", "state", "established", &format!("sport = :{port}")])
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("bytes_sent:")?.parse::<u64>().ok())
        .sum()
}

/// Removes the effects of earlier work from a measurement. It writes out dirty pages and fills all
/// unused memory with clean pages, as on a machine that has worked for a while.
///
/// Free memory would not do. A guest returns it to its hypervisor within moments (page reporting of
/// virtio-balloon), and its next user pays up to 2 s of system time a GiB, more than for all the
/// rest. `scratch` is one hole and takes no room on the disk. Its pages stay, so the next call is
/// fast.
pub(crate) fn settle(scratch: &Path) {
    rustix::fs::sync();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(scratch)
        .unwrap();
    let memory = sysinfo();
    let memory_bytes = memory.totalram as u64 * u64::from(memory.mem_unit);
    file.set_len(memory_bytes).unwrap();
    // Read-ahead would request large pages, for which the kernel would have to search.
    rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
    read_through(&file);
}

/// Reads a file from its start to its end.
pub(crate) fn read_file(path: &Path) {
    read_through(&File::open(path).unwrap());
}

/// Reads a source of unknown length to its end. Returns the length.
pub(crate) fn read_to_end(mut source: impl Read) -> usize {
    let mut buffer = vec![0; READ_BYTES];
    let mut length = 0;
    loop {
        match source.read(&mut buffer).unwrap() {
            0 => return length,
            read => length += read,
        }
    }
}

fn read_through(mut file: &File) {
    let mut buffer = vec![0; READ_BYTES];
    let mut length = file.metadata().unwrap().len();
    while length > 0 {
        let read = file.read(&mut buffer).unwrap();
        assert!(read > 0, "{file:?} ended early");
        length -= read as u64;
    }
}
