//! What the machine says about processes and sockets.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use rustix::system::sysinfo;

/// The unit of times in /proc (`USER_HZ`), the same on all of Linux that Rust runs on but Alpha.
const TICKS_PER_S: f64 = 100.0;
/// A read of a program that takes much.
const READ_BYTES: usize = 1 << 20;
/// How long processes are watched before they are said to be at rest.
const REST: Duration = Duration::from_millis(500);
/// What a process at rest may use of a processor: it still gossips.
const REST_SHARE: f64 = 0.05;
/// A daemon that never rests is measured beside nevertheless.
const REST_LIMIT: Duration = Duration::from_secs(30);

/// By what rule the machine's TCP sends (tcp(7)): `bbr` paces what goes over loopback too, which
/// costs a processor that `cubic`, the kernel's own choice, does not.
pub(crate) fn congestion_control() -> String {
    let rule = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    rule.map_or_else(|_| "unknown".into(), |rule| rule.trim().to_owned())
}

/// Processor seconds that processes and all that descend from them have used so far.
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

/// Bytes that a port of loopback has sent on the connections that it has now.
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

/// Lets no measurement pay for what was before it: dirty pages are written out, and all memory that
/// nobody uses is filled with clean pages, as it is on a machine that has been at work for a while.
///
/// Free memory would not do: a guest gives it back to its hypervisor within moments (page reporting
/// of virtio-balloon), and who touches it first pays up to 2 s of system time a GiB for that, more
/// than for all the rest. `scratch` is one hole, which takes no room on the disk. Its pages stay,
/// so that the next time is quick.
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
    // without read-ahead, which asks for large pages and makes the kernel look for them
    rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
    read_through(&file);
}

/// Reads a file from its start to its end.
pub(crate) fn read_file(path: &Path) {
    read_through(&File::open(path).unwrap());
}

/// Reads what has no length before its end; how much it was.
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
