//! Memory of a daemon: idle with very many names, and with very many readers.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::listing::listed;
use super::support::content::noise;
use super::support::daemon::{Cluster, Node, NodeOptions, set_mode};
use super::support::process::{eventually, run, status_kib};
use super::{setting, table};

const FILES_A_DIRECTORY: usize = 1000;
/// Time limit, far longer than any step takes.
const LIMIT: Duration = Duration::from_secs(1800);
/// Bytes that each handle reads.
const HANDLE_BYTES: usize = 2 << 20;

/// Returns a line of /proc/PID/status in MiB.
fn memory_mib(node: &Node, line: &str) -> f64 {
    status_kib(node.pid(), line) as f64 / 1024.0
}

/// Returns a folder in memory if possible, where files are cheapest to create.
fn light_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.unwrap()
}

fn plant(share: &Path, from: usize, to: usize) {
    for number in from..to {
        let directory = share.join(format!("album-{:04}", number / FILES_A_DIRECTORY));
        if number % FILES_A_DIRECTORY == 0 {
            fs::create_dir(&directory).unwrap();
            set_mode(&directory, 0o755);
        }
        fs::write(directory.join(format!("picture-{number:07}.jpg")), b"").unwrap();
    }
}

pub(crate) fn names() {
    let sizes = std::env::var("P2PFS_BENCH_NAMES").unwrap_or("100000,1000000".to_owned());
    for size in sizes.split(',').filter_map(|size| size.trim().parse().ok()) {
        names_of(size);
    }
}

fn names_of(names: usize) {
    let folder = light_folder();
    let share = folder.path().join("share");
    fs::create_dir(&share).unwrap();
    set_mode(folder.path(), 0o755);
    set_mode(&share, 0o755);
    plant(&share, 0, names);
    let mut cluster = Cluster::new();
    let author = cluster.start_with(NodeOptions {
        shares: vec![share],
        ..NodeOptions::new("author")
    });
    eventually("the author lists all", LIMIT, || {
        listed(&author) >= names as u64
    });
    let begun = Instant::now();
    let reader = cluster.start("reader");
    eventually("the reader lists all", LIMIT, || {
        listed(&reader) >= names as u64
    });
    let joined = begun.elapsed().as_secs_f64();
    let (what, goal) = match names {
        ..=100_000 => (format!("{names} names: idle"), 48.0),
        _ => (format!("{names} names: idle"), 300.0),
    };
    settle(&reader);
    table::amount(&what, memory_mib(&reader, "VmRSS"), "MiB", goal);
    let peak = memory_mib(&reader, "VmHWM");
    table::note(&format!(
        "the most while it joined: {peak:.1} MiB, in {joined:.1} s"
    ));
    let mut find = Command::new("find");
    let found = run(find.arg(&reader.mount).args(["-type", "f", "-size", "0"])).stdout;
    let found = found.iter().filter(|byte| **byte == b'\n').count();
    settle(&reader);
    let after = memory_mib(&reader, "VmRSS");
    let what = format!("{names} names: after a find of all {found}");
    table::amount(&what, after, "MiB", 400.0);
    settle(&author);
    let authors = memory_mib(&author, "VmRSS");
    table::amount(
        &format!("{names} names: who shares them"),
        authors,
        "MiB",
        350.0,
    );
}

/// Waits until the daemon's memory is stable. The wait is longer than the daemon's own wait before
/// it releases the memory of a large job.
fn settle(node: &Node) {
    let mut before = 0.0;
    let mut since = Instant::now();
    eventually("the daemon is idle", Duration::from_secs(120), || {
        let now = memory_mib(node, "VmRSS");
        if (now - before).abs() > 0.5 {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(15)
    });
}

pub(crate) fn handles() {
    let handles = setting("P2PFS_BENCH_HANDLES", 500);
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["author", "reader"]);
    for number in 0..handles {
        let bytes = noise(number as u64, HANDLE_BYTES);
        nodes[0].write(&format!("h/{number:04}.bin"), &bytes);
    }
    eventually("all are listed", LIMIT, || {
        listed(&nodes[1]) > handles as u64
    });
    let files: Vec<PathBuf> = (0..handles)
        .map(|number| nodes[1].mounted(&format!("h/{number:04}.bin")))
        .collect();
    let before = memory_mib(&nodes[1], "VmRSS");
    // All handles are open before any is read.
    let all_open = Barrier::new(handles);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (number, file) in files.iter().enumerate() {
            let all_open = &all_open;
            scope.spawn(move || {
                let mut file = File::open(file).unwrap();
                all_open.wait();
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                assert!(bytes == noise(number as u64, HANDLE_BYTES), "{number}");
            });
        }
    });
    let took = begun.elapsed().as_secs_f64();
    let most = memory_mib(&nodes[1], "VmHWM");
    table::amount(
        &format!("{handles} handles reading: the most"),
        most,
        "MiB",
        192.0,
    );
    table::note(&format!(
        "before: {before:.1} MiB; {} MiB read and checked in {took:.1} s",
        (handles * HANDLE_BYTES) >> 20
    ));
}
