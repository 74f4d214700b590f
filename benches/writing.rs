//! The speed of writes through the mount beside the local disk, in one run: `cargo bench --bench
//! writing`.
//!
//! A node has a writable share. Each trial writes through the mount and into another folder of the
//! same disk, in turns, and each turn ends with a sync of what it wrote. The share hashes what was
//! written meanwhile, as it does for a user. The figures are medians of pairs: the time through the
//! mount over the time on the disk.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `P2PFS_BENCH_MIB` | size of the file that is written in order | 512 |
//! | `P2PFS_BENCH_FILES` | small files to create | 5000 |
//! | `P2PFS_BENCH_ROUNDS` | pairs of each trial | 5 |

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use support::content::noise;
use support::daemon::Cluster;

/// Size of the file that is overwritten at random, in bytes.
const RANDOM_FILE_BYTES: usize = 64 << 20;
/// Number of overwritten pieces.
const RANDOM_WRITES: u64 = 20_000;
/// Size of an overwritten piece in bytes.
const PIECE_BYTES: usize = 4096;

/// Writes into a new directory, and returns how long that took.
type Trial = fn(&Path) -> Duration;

fn main() {
    if let Some(obstacle) = support::promise::mount() {
        println!("SKIPPED, nothing measured: {obstacle}");
        return;
    }
    let mut cluster = Cluster::new();
    let node = cluster.start("writer");
    node.cli(&["write", "on"]).expect_ok();
    let disk = cluster.folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let trials: [(&str, Trial); 3] = [
        ("in order", write_in_order),
        ("4 KiB at random", write_at_random),
        ("small files", create_small_files),
    ];
    for (name, trial) in trials {
        let mut ratios = Vec::new();
        for round in 0..setting("P2PFS_BENCH_ROUNDS", 5).max(1) {
            let turn = |folder: &Path| {
                let folder = folder.join(format!("{}-{round}", name.replace(' ', "-")));
                fs::create_dir(&folder).unwrap();
                rustix::fs::sync();
                let taken = trial(&folder);
                fs::remove_dir_all(&folder).unwrap();
                taken
            };
            // Another contestant is first in each round.
            let (mounted, direct) = if round % 2 == 0 {
                let mounted = turn(&node.mount);
                (mounted, turn(&disk))
            } else {
                let direct = turn(&disk);
                (turn(&node.mount), direct)
            };
            println!("{name}: {mounted:.2?} through the mount, {direct:.2?} on the disk");
            ratios.push(mounted.as_secs_f64() / direct.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "{name}: {:.2} times the disk's time",
            ratios[ratios.len() / 2]
        );
    }
}

fn write_in_order(folder: &Path) -> Duration {
    let piece = noise(1, 1 << 20);
    let begun = Instant::now();
    let mut file = File::create(folder.join("file")).unwrap();
    for _ in 0..setting("P2PFS_BENCH_MIB", 512) {
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    begun.elapsed()
}

fn write_at_random(folder: &Path) -> Duration {
    let path = folder.join("file");
    fs::write(&path, noise(2, RANDOM_FILE_BYTES)).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.sync_all().unwrap();
    let piece = noise(3, PIECE_BYTES);
    let pieces = (RANDOM_FILE_BYTES / PIECE_BYTES) as u64;
    let begun = Instant::now();
    for write in 0..RANDOM_WRITES {
        // A multiplier without a common factor with the number of pieces visits them in disorder.
        let at = write * 7919 % pieces * PIECE_BYTES as u64;
        file.write_all_at(&piece, at).unwrap();
    }
    file.sync_all().unwrap();
    begun.elapsed()
}

fn create_small_files(folder: &Path) -> Duration {
    let bytes = noise(4, 16 << 10);
    let begun = Instant::now();
    for file in 0..setting("P2PFS_BENCH_FILES", 5000) {
        let length = 1024 + file * 997 % (15 << 10);
        fs::write(folder.join(format!("{file}")), &bytes[..length]).unwrap();
    }
    begun.elapsed()
}

fn setting(name: &str, default: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(default, |given| given.parse().expect(name))
}
