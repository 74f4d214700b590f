//! Consecutive reads of the same file, compared with a cached file on the disk's filesystem.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Field;
use crate::figures::{Figures, Unit, report};
use crate::machine::{cpu_seconds, read_file};
use crate::trials::{Contestant, figures_of, turns, wait_until_seen};

/// Sizes of the files, in MiB, without `P2PFS_BENCH_SIZES`.
const SIZES_MIB: &str = "16,64,256,1024";
/// Consecutive reads of one file.
const READS: usize = 4;
/// Pause between the first read and the second in the variant with a pause.
const PAUSE: Duration = Duration::from_secs(5);
/// Prefix of the names of the contestants in this trial: all p2pfs programs.
const OURS: &str = "p2pfs";
const DISK: &str = "the disk's filesystem";

/// Measures reads 1 to 4 without pauses, then reads 1 and 2 with a pause between them. The
/// processor seconds are those of the whole trial, readers and both nodes.
pub(crate) fn reads(field: &Field) {
    let sizes = std::env::var("P2PFS_BENCH_SIZES").unwrap_or(SIZES_MIB.to_owned());
    for (number, size) in sizes.split(',').enumerate() {
        let size_mib = size.parse().expect("P2PFS_BENCH_SIZES: MiB, as in 64,256");
        repeated(field, 1000 * (300 + number), size_mib, READS, None);
        repeated(field, 1000 * (310 + number), size_mib, 2, Some(PAUSE));
    }
}

fn repeated(field: &Field, seed: usize, size_mib: usize, count: usize, pause: Option<Duration>) {
    let mut contestants = field.contestants();
    contestants.retain(|one| one.name.starts_with(OURS));
    let mut figures: Vec<Vec<Figures>> = (0..count).map(|_| figures_of(&contestants)).collect();
    figures
        .iter_mut()
        .for_each(|read| read.push(Figures::new(DISK)));
    for round in 0..field.rounds {
        let name = format!("reads-{seed}-{round}.bin");
        field.publish_file(&name, (seed + round) as u64, size_mib);
        for turn in turns(contestants.len(), round) {
            let Contestant { mount, .. } = &contestants[turn];
            wait_until_seen(&mount.join(&name));
            field.settle(&name);
            for (number, read) in figures.iter_mut().enumerate() {
                if number == 1 {
                    pause.into_iter().for_each(thread::sleep);
                }
                measure(&mut read[turn], &mount.join(&name), size_mib);
            }
        }
        let on_disk = field.server().share.join(&name);
        read_file(&on_disk);
        for read in &mut figures {
            measure(&mut read[contestants.len()], &on_disk, size_mib);
        }
        field.withdraw(&name);
    }
    let after = pause.map_or("", |_| " after a pause");
    for (number, read) in figures.iter().enumerate() {
        let what = format!("read {} of {size_mib} MiB{after}", number + 1);
        report(&what, Unit::MibPerS, read);
    }
}

fn measure(figures: &mut Figures, path: &Path, size_mib: usize) {
    let roots = [std::process::id()];
    let (cpu, begun) = (cpu_seconds(&roots), Instant::now());
    read_file(path);
    figures.add(size_mib as f64 / begun.elapsed().as_secs_f64());
    figures.add_cpu(cpu_seconds(&roots) - cpu);
}
