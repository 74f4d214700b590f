//! System calls and wake-ups of one cold read, by thread of the two daemons.
//!
//! Reads are made one by one with a pause. A wake-up is a voluntary context switch in /proc,
//! counted without a tracer. The calls are counted by strace (`apt install strace`) in a second
//! pass. The daemons' activity without reads is measured before each pass and subtracted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Field;
use crate::support::content::noise;
use crate::support::process::{Running, eventually, start};
use crate::trials::{MIB, age, scattered, wait_until_seen};

/// Number of reads of each pass.
const READS: usize = 100;
/// Pause after a read: more than the daemons need to store what they read.
const PAUSE: Duration = Duration::from_millis(40);
/// Size of the files of which one page is read.
const FIRST_MIB: usize = 2;
/// Size of the file that is read at many places.
const OPEN_MIB: usize = 64;
/// Maximum wait for strace to attach or to end.
const STRACE_LIMIT: Duration = Duration::from_secs(20);
/// Calls that are made less often in a read are not listed.
const LISTED_MIN: f64 = 0.1;

/// Kinds of reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The first 4 KiB of a file that was never opened before.
    First,
    /// A number of bytes at a random place of an open file.
    Open(usize),
}

/// Counts by thread and call: until the end of a read, and after it.
type Counts = BTreeMap<(String, String), [f64; 2]>;
/// Begin and end of each read, in seconds since 1970.
type Times = Vec<(f64, f64)>;

pub(crate) fn calls(field: &Field) {
    let strace = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    if !strace.is_ok_and(|status| status.success()) {
        println!("not measured: system calls (apt install strace)");
        return;
    }
    let kinds = [
        ("open and first 4 KiB", Kind::First),
        ("4 KiB of an open file", Kind::Open(4096)),
        ("128 KiB of an open file", Kind::Open(MIB / 8)),
    ];
    let ours = field.contestants().into_iter();
    for one in ours.filter(|one| one.name.starts_with("p2pfs")) {
        let mut sides = one.pids.clone();
        if one.name == "p2pfs" {
            sides.reverse();
        }
        for (number, (what, kind)) in kinds.into_iter().enumerate() {
            let name = format!("calls-{number}-{}", one.name.len());
            publish(field, &name, kind);
            let mount = one.mount.join(&name);
            wait_until_seen(&last_of(&mount, kind));
            field.settle(&name);
            println!("\n{}: system calls of one cold read, {what}", one.name);
            let woken = wake_ups(&sides, &mount, kind);
            let traced = traced(field, &sides, &mount, kind);
            for (side, (woken, calls)) in ["asker", "holder"].iter().zip(woken.iter().zip(traced)) {
                print(side, woken, &calls);
            }
            field.withdraw(&name);
        }
    }
}

fn print(side: &str, woken: &BTreeMap<String, f64>, calls: &Counts) {
    println!("  {side:<8} {:<32} {:>7} {:>7}", "call", "on path", "after");
    for (thread, wake_ups) in woken.iter().filter(|(_, count)| **count >= LISTED_MIN) {
        println!("    {thread}: {wake_ups:.2} wake-ups");
        for ((_, call), [path, after]) in calls.iter().filter(|((of, _), _)| of == thread) {
            if path + after >= LISTED_MIN {
                println!("             {call:<32} {path:>7.2} {after:>7.2}");
            }
        }
    }
    let sum = |at: usize| calls.values().map(|it| it[at]).sum::<f64>();
    let woken = woken.values().sum::<f64>();
    println!(
        "    all: {woken:.2} wake-ups, {:.2} calls on the path, {:.2} after",
        sum(0),
        sum(1)
    );
}

/// Publishes twice as many files, or places in a file, as one pass reads.
fn publish(field: &Field, name: &str, kind: Kind) {
    let Kind::First = kind else {
        return field.publish_file(name, noise_seed(name), OPEN_MIB);
    };
    let staged = field.server().home.join(name);
    fs::create_dir(&staged).unwrap();
    let names: Vec<String> = (0..2 * READS).map(|n| format!("{name}/{n}")).collect();
    for (number, path) in names.iter().enumerate() {
        let path = field.server().home.join(path);
        fs::write(
            &path,
            noise(noise_seed(name) + number as u64, FIRST_MIB * MIB),
        )
        .unwrap();
        age(&path);
    }
    field.publish(&staged, name, &names);
}

fn noise_seed(name: &str) -> u64 {
    name.bytes()
        .fold(7, |seed, byte| seed * 31 + u64::from(byte))
        % 1_000_000_007
}

fn last_of(mount: &Path, kind: Kind) -> PathBuf {
    match kind {
        Kind::First => mount.join((2 * READS - 1).to_string()),
        Kind::Open(_) => mount.to_owned(),
    }
}

/// Makes the reads of the first or second pass.
fn read_all(mount: &Path, kind: Kind, pass: usize) -> Times {
    let numbers = pass * READS..(pass + 1) * READS;
    let timed = |read: &mut dyn FnMut()| {
        let begun = now_s();
        read();
        let ended = now_s();
        thread::sleep(PAUSE);
        (begun, ended)
    };
    match kind {
        Kind::First => numbers
            .map(|number| {
                let path = mount.join(number.to_string());
                timed(&mut || {
                    let mut page = [0; 4096];
                    let file = fs::File::open(&path).unwrap();
                    file.read_exact_at(&mut page, 0).unwrap();
                })
            })
            .collect(),
        Kind::Open(bytes) => {
            let file = fs::File::open(mount).unwrap();
            let mut buffer = vec![0; bytes];
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
            let places = (OPEN_MIB * MIB / bytes) as u64;
            let chosen: Vec<u64> = scattered(2 * READS as u64, OPEN_MIB)
                .map(|place| place % places)
                .collect();
            numbers
                .map(|number| {
                    timed(&mut || {
                        let offset = chosen[number] * bytes as u64;
                        file.read_exact_at(&mut buffer, offset).unwrap();
                    })
                })
                .collect()
        }
    }
}

fn now_s() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// Returns the wake-ups of a read, by process and thread.
fn wake_ups(pids: &[u32], mount: &Path, kind: Kind) -> Vec<BTreeMap<String, f64>> {
    let all = || pids.iter().map(|pid| switches(*pid)).collect::<Vec<_>>();
    let (before, begun) = (all(), now_s());
    thread::sleep(PAUSE * READS as u32);
    let (idle, idle_s) = (all(), now_s() - begun);
    let begun = now_s();
    read_all(mount, kind, 0);
    let (after, read_s) = (all(), now_s() - begun);
    let share = read_s / idle_s;
    let of_one = |(before, (idle, after)): (&Switches, (&Switches, &Switches))| {
        let mut woken = BTreeMap::new();
        for (tid, (name, count)) in after {
            let at = |then: &Switches| then.get(tid).map_or(0, |it| it.1) as f64;
            let without = (at(idle) - at(before)) * share;
            *woken.entry(name.clone()).or_insert(0.0) +=
                (*count as f64 - at(idle) - without) / READS as f64;
        }
        woken
    };
    before
        .iter()
        .zip(idle.iter().zip(&after))
        .map(of_one)
        .collect()
}

/// Name and voluntary context switches of each thread.
type Switches = BTreeMap<u32, (String, u64)>;

fn switches(pid: u32) -> Switches {
    let mut all = Switches::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let tid = task.file_name().to_string_lossy().parse().unwrap();
        let name = field("Name:");
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        let count = field("voluntary_ctxt_switches:").parse().unwrap_or(0);
        all.insert(tid, (name.to_owned(), count));
    }
    all
}

/// Returns the calls of a read, by process, thread and call.
fn traced(field: &Field, pids: &[u32], mount: &Path, kind: Kind) -> Vec<Counts> {
    let tracers: Vec<(PathBuf, Running)> = pids.iter().map(|pid| attach(field, *pid)).collect();
    let begun = now_s();
    thread::sleep(PAUSE * READS as u32);
    let idle = (begun, now_s());
    let times = read_all(mount, kind, 1);
    let names: Vec<Switches> = pids.iter().map(|pid| switches(*pid)).collect();
    tracers
        .into_iter()
        .zip(names)
        .map(|((output, mut tracer), names)| {
            tracer.signal(libc::SIGINT);
            eventually("strace detaches", STRACE_LIMIT, || !tracer.is_running());
            let text = fs::read_to_string(&output).unwrap();
            fs::remove_file(&output).unwrap();
            count(&text, &names, idle, &times)
        })
        .collect()
}

fn attach(field: &Field, pid: u32) -> (PathBuf, Running) {
    let output = field.server().home.join(format!("strace-{pid}"));
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-q", "-y", "-ttt", "-s", "0", "-o"])
        .arg(&output);
    let running = start(strace.args(["-p", &pid.to_string()]));
    eventually("strace attaches to all threads", STRACE_LIMIT, || {
        let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        tasks.all(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
    });
    (output, running)
}

/// Counts the lines of strace's output that begin a call.
fn count(text: &str, names: &Switches, idle: (f64, f64), times: &Times) -> Counts {
    let mut counts = Counts::new();
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return counts;
    };
    let waits_s = PAUSE.as_secs_f64() * times.len() as f64;
    let path_s: f64 = times.iter().map(|(begun, ended)| ended - begun).sum();
    for line in text.lines() {
        // strace pads the number of the thread with spaces
        let split = line.split_once(' ');
        let Some((tid, rest)) = split.map(|(tid, rest)| (tid, rest.trim_start())) else {
            continue;
        };
        let Some((at, call)) = rest.split_once(' ') else {
            continue;
        };
        let (Ok(tid), Ok(at)) = (tid.parse::<u32>(), at.parse::<f64>()) else {
            continue;
        };
        let Some(call) = label(call) else { continue };
        let name = names.get(&tid).map_or("ended thread", |it| it.0.as_str());
        let counted = counts.entry((name.to_owned(), call)).or_default();
        let one = 1.0 / times.len() as f64;
        if (idle.0..idle.1).contains(&at) {
            let idle_s = idle.1 - idle.0;
            counted[0] -= one * path_s / idle_s;
            counted[1] -= one * waits_s / idle_s;
        } else if at >= first.0 && at <= last.1 + PAUSE.as_secs_f64() {
            let is_path = times
                .iter()
                .any(|(begun, ended)| (*begun..=*ended).contains(&at));
            counted[usize::from(!is_path)] += one;
        }
    }
    counts
}

/// Returns the name of a call, with the kind of its first descriptor.
fn label(call: &str) -> Option<String> {
    let (name, rest) = call.split_once('(')?;
    if name.is_empty() || name.contains([' ', '<', '+', '-']) {
        return None;
    }
    let first = rest.split([',', ')']).next().unwrap_or_default();
    let kind = match first.split_once('<').map(|it| it.1) {
        None => return Some(name.to_owned()),
        Some(fd) if fd.starts_with("unfinished") => return Some(name.to_owned()),
        Some(fd) if fd.contains("/dev/fuse") => "fuse",
        Some(fd) if fd.contains("socket:") => "socket",
        Some(fd) if fd.contains("eventfd") => "eventfd",
        Some(fd) if fd.contains("eventpoll") => "epoll",
        Some(fd) if fd.starts_with("/proc") => "/proc",
        Some(_) => "file",
    };
    Some(format!("{name} ({kind})"))
}
