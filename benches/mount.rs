//! Figures of the mount itself, without a network: `cargo bench --bench mount`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pfs_types::digest::ContentHash;
use support::content::noise;
use support::memory::{Behaviour, Memory};
use support::mounted::Mounted;
use support::process::run_with;

const SIZE: usize = 1 << 30;

fn drop_caches() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}

fn main() {
    if let Some(obstacle) = support::promise::mount_as_root() {
        println!("SKIPPED, nothing measured: {obstacle}");
        return;
    }
    reads_through_the_daemon_beside_the_disk();
    reads_of_bytes_that_are_here();
    listings_of_a_hundred_thousand_names();
}

const THROUGH: usize = 512 << 20;
const THROUGH_READS: u64 = 50_000;
const THROUGH_ROUNDS: usize = 5;

/// Makes the kernel drop the pages of one file only.
fn forget_pages(path: &Path) {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn sequential_mb_s(path: &Path) -> f64 {
    let (mut file, mut buffer) = (File::open(path).unwrap(), vec![0; 1 << 20]);
    let begun = Instant::now();
    while file.read(&mut buffer).unwrap() > 0 {}
    megabytes_per_second(THROUGH, begun.elapsed())
}

fn random_reads_s(path: &Path) -> f64 {
    let (file, mut page) = (File::open(path).unwrap(), [0; 4096]);
    let begun = Instant::now();
    for number in 0..THROUGH_READS {
        let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (THROUGH as u64 / 4096);
        file.read_exact_at(&mut page, at * 4096).unwrap();
    }
    THROUGH_READS as f64 / begun.elapsed().as_secs_f64()
}

/// Measures reads of complete files that the kernel may not read by itself: the first time through
/// the daemon, and again from the kernel's pages. In the same rounds, the same file is read on the
/// disk's filesystem, with its pages in memory.
fn reads_through_the_daemon_beside_the_disk() {
    let scratch = tempfile::tempdir_in(".").unwrap();
    let disk = scratch.path().join("big");
    let bytes = noise(3, THROUGH);
    fs::write(&disk, &bytes).unwrap();
    let (content, file) = (Memory::new(), Arc::new(File::open(&disk).unwrap()));
    let (hash, size) = (ContentHash::of(b"big"), THROUGH as u64);
    content.behave("big", hash, size, Behaviour::Stored(file));
    let mounted = Mounted::start(&content, |options| options.server.passthrough = false);
    let mount = mounted.at("big");
    for (what, read) in [
        ("sequential, MB/s", sequential_mb_s as fn(&Path) -> f64),
        ("random 4 KiB, a second", random_reads_s),
    ] {
        let mut ratios = [Vec::new(), Vec::new()];
        for round in 0..THROUGH_ROUNDS {
            read(&disk);
            forget_pages(&mount);
            let (first, again, native) = (read(&mount), read(&mount), read(&disk));
            println!("{what}, round {round}: {first:.0} first, {again:.0} again, {native:.0} disk");
            ratios[0].push(first / native);
            ratios[1].push(again / native);
        }
        for (when, mut all) in ["first", "again"].into_iter().zip(ratios) {
            all.sort_by(f64::total_cmp);
            let middle = all[all.len() / 2];
            println!("{what}: through the daemon {when} {middle:.2}x of the disk's filesystem");
        }
    }
}

fn megabytes_per_second(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

fn reads_of_bytes_that_are_here() {
    let content = Memory::new();
    content.file("big", noise(1, SIZE));
    let mounted = Mounted::of(&content);
    for read_by in ["dd bs=1M", "cat"] {
        drop_caches();
        let source = format!("if={}", mounted.at("big").display());
        let begun = Instant::now();
        let done = match read_by {
            "cat" => run_with(
                "sh",
                &[&"-c", &"cat \"$0\" > /dev/null", &mounted.at("big")],
            ),
            _ => run_with("dd", &[&source, &"of=/dev/null", &"bs=1M"]),
        };
        assert!(done.status.success(), "{done:?}");
        println!(
            "{read_by}: {:.0} MB/s",
            megabytes_per_second(SIZE, begun.elapsed())
        );
    }
    drop_caches();
    let file = File::open(mounted.at("big")).unwrap();
    let (mut page, count) = ([0; 4096], 20_000u64);
    let begun = Instant::now();
    for number in 0..count {
        let offset = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SIZE as u64 / 4096) * 4096;
        file.read_exact_at(&mut page, offset).unwrap();
    }
    let each_us = begun.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!("random 4 KiB: {each_us:.1} us each");
    for operation in mounted.mount.activity().operations {
        println!(
            "{:>12} {:>8} longest {} us",
            operation.name, operation.count, operation.longest_us
        );
    }
}

fn listings_of_a_hundred_thousand_names() {
    let content = Memory::new();
    for number in 0..100_000 {
        content.file(&format!("big/name-{number:06}"), Vec::new());
    }
    let mounted = Mounted::of(&content);
    for pass in ["first", "second", "third"] {
        for arguments in ["-l", "-U"] {
            let begun = Instant::now();
            let listed = run_with("ls", &[&arguments, &mounted.at("big")]);
            assert!(listed.status.success());
            println!("ls {arguments}, {pass}: {:?}", begun.elapsed());
        }
    }
    for operation in mounted.mount.activity().operations {
        println!(
            "{:>12} {:>8} longest {} us",
            operation.name, operation.count, operation.longest_us
        );
    }
}
