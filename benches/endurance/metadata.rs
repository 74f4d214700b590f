//! Names and attributes while no peer answers: each call is answered from memory.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::content::noise;
use super::support::daemon::{Cluster, Node};
use super::support::process::{eventually, start};
use super::{setting, table};

/// Maximum duration of a call.
const GOAL_MS: f64 = 100.0;
/// Duration after which silent nodes are suspected and then given up.
const AT_LEAST: Duration = Duration::from_secs(40);
const FILES: usize = 500;

pub(crate) fn run() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["near", "one", "two"]);
    // The own names stay after those of the other nodes have gone.
    for node in &nodes {
        for number in 0..FILES {
            let name = format!("{}/d{}/f{number}", node.name, number % 10);
            node.write(&name, &noise(number as u64, 300));
        }
        node.write(&format!("{}.bin", node.name), &noise(1, 8 << 20));
        symlink("d0/f0", node.share.join(&node.name).join("link")).unwrap();
    }
    let near = nodes.remove(0);
    for node in &nodes {
        for name in ["/d9/f499", "/link", ".bin"] {
            near.wait_for_file(&format!("{}{name}", node.name));
        }
    }
    nodes.iter().for_each(|node| node.signal(libc::SIGSTOP));
    trial(&near, "every peer silent");
    nodes.iter().for_each(|node| node.signal(libc::SIGCONT));
    eventually("the names are back", Duration::from_secs(120), || {
        near.mounted("one/d9/f499").exists() && near.mounted("two/d9/f499").exists()
    });
    nodes.iter_mut().for_each(Node::kill);
    trial(&near, "every peer dead");
}

/// Makes calls repeatedly while a reader waits for bytes that do not arrive.
fn trial(near: &Node, state: &str) {
    let calls = setting("P2PFS_BENCH_CALLS", 10_000);
    let reader = start(Command::new("cat").arg(near.mounted("one.bin")));
    let begun = Instant::now();
    let other_thread = Echo::start();
    let mut took: [Vec<Duration>; 7] = Default::default();
    while took[0].len() < calls || begun.elapsed() < AT_LEAST {
        let number = took[0].len();
        let name = ["near", "one", "two"][number % 3];
        let file = number % FILES;
        let file = near.mounted(&format!("{name}/d{}/f{file}", file % 10));
        let directory = near.mounted(&format!("{name}/d{}", number % 10));
        let link = near.mounted(&format!("{name}/link"));
        let absent = near.mounted(&format!("absent-{number}"));
        // After the names have gone, their absence must be reported as fast.
        let asked: [&dyn Fn(); 7] = [
            &|| drop(fs::read_dir(&directory).map(Iterator::count)),
            &|| stat_anew(&file),
            &|| drop(rustix::fs::statvfs(&near.mount)),
            &|| drop(fs::read_link(&link)),
            &|| {
                let _ = rustix::fs::getxattr(&file, "user.p2pfs.holders", &mut [0; 256]);
            },
            &|| drop(fs::metadata(&absent)),
            &|| other_thread.ask(),
        ];
        for (ask, took) in asked.iter().zip(&mut took) {
            let begun = Instant::now();
            ask();
            took.push(begun.elapsed());
        }
    }
    let names = [
        "ls",
        "stat",
        "df",
        "readlink",
        "getfattr",
        "stat of an absent name",
        "the machine: a byte to a thread and back",
    ];
    for (name, took) in names.iter().zip(&took) {
        table::times(&format!("{name}, {state}"), took, GOAL_MS);
    }
    reader.signal(libc::SIGKILL);
    reader.finish(Duration::from_secs(60));
}

/// Measures the machine's own time to wake a thread and be woken, under the same load.
struct Echo {
    question: PipeWriter,
    answer: PipeReader,
}

impl Echo {
    fn start() -> Self {
        let (mut questions, question) = pipe().unwrap();
        let (answer, mut answers) = pipe().unwrap();
        std::thread::spawn(move || {
            let mut byte = [0];
            while questions.read_exact(&mut byte).is_ok() && answers.write_all(&byte).is_ok() {}
        });
        Self { question, answer }
    }

    fn ask(&self) {
        (&self.question).write_all(&[1]).unwrap();
        (&self.answer).read_exact(&mut [0]).unwrap();
    }
}

/// Calls stat(2) so that the daemon answers and not the kernel's cache.
fn stat_anew(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string, and room for the answer.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let (cwd, flags) = (libc::AT_FDCWD, libc::AT_STATX_FORCE_SYNC);
        libc::statx(
            cwd,
            path.as_ptr(),
            flags,
            libc::STATX_BASIC_STATS,
            &raw mut found,
        );
    }
}
