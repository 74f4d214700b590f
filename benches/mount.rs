//! Figures of the mount itself, without a network: `cargo bench --bench mount`.

#[path = "../tests/mount_support/mod.rs"]
mod mount_support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use mount_support::{Memory, Mounted, pattern, run};

const SIZE: usize = 1 << 30;

fn drop_caches() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}

fn main() {
    reads_of_bytes_that_are_here();
    listings_of_a_hundred_thousand_names();
}

fn megabytes_per_second(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

fn reads_of_bytes_that_are_here() {
    let content = Memory::new();
    content.file("big", pattern(1, SIZE));
    let Some(mounted) = Mounted::of(&content) else {
        return;
    };
    for read_by in ["dd bs=1M", "cat"] {
        drop_caches();
        let source = format!("if={}", mounted.at("big").display());
        let begun = Instant::now();
        let done = match read_by {
            "cat" => run(
                "sh",
                &[&"-c", &"cat \"$0\" > /dev/null", &mounted.at("big")],
            ),
            _ => run("dd", &[&source, &"of=/dev/null", &"bs=1M"]),
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
    let Some(mounted) = Mounted::of(&content) else {
        return;
    };
    for pass in ["first", "second", "third"] {
        for arguments in ["-l", "-U"] {
            let begun = Instant::now();
            let listed = run("ls", &[&arguments, &mounted.at("big")]);
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
