//! Costs of a catalogue with 100,000 and 1,000,000 entries: the time to merge a peer's log, the
//! memory of an entry, and the time to add one file, to publish a view, to look up and to list.
//!
//! Memory is what the allocator has given and not got back, and what the kernel reports as
//! resident. Memory, merging and a death are measured once, all others by criterion.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "every call gets live buffers and paths that end in NUL"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use p2pfs_catalogue::{Applied, Catalogue, HeadOutcome, SWEEP_STEP_RECORDS};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, SignedHead, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SHARE: ShareIndex = ShareIndex(0);
const FILES_A_DIRECTORY: usize = 100;

/// Returns the processor time of this process. Unlike the wall clock, it does not include other
/// processes.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec, which is ours.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

fn node(number: u8) -> Catalogue {
    Catalogue::new(
        NodeId::new([number; 32]),
        NodeName::new(format!("node{number}")).unwrap(),
    )
}

fn file(number: usize) -> Entry {
    let time = Timestamp {
        seconds: 1_700_000_000 + number as i64,
        nanoseconds: 123_456_789,
    };
    let hash = ContentHash::of(&number.to_le_bytes());
    let kind = Kind::File {
        hash,
        size_bytes: number as u64 + 1,
        executable: false,
    };
    Entry {
        kind,
        mtime: time,
        version_time: time,
        sent_by: None,
        replaces: Vec::new(),
    }
}

fn path(number: usize, files_a_directory: usize) -> SharedPath {
    let album = number / files_a_directory;
    let text = format!("collection/album-{album:05}/picture-{number:07}.jpg");
    SharedPath::new(text.into_bytes()).unwrap()
}

/// Returns a peer's catalogue with this number of files and a signed head.
fn peer(files: usize, files_a_directory: usize) -> Catalogue {
    let mut peer = node(1);
    for number in 0..files {
        peer.own_mut()
            .put(SHARE, &path(number, files_a_directory), file(number))
            .unwrap();
    }
    let head = peer.own().head();
    assert!(peer.own_mut().sign(SignedHead {
        head,
        signature: [[0; 32]; 2]
    }));
    peer
}

/// Pulls the whole log of the peer. Returns the processor time of the intake.
fn merge(peer: &Catalogue, into: &mut Catalogue) -> Duration {
    let author = NodeId::new([1; 32]);
    into.set_live(author, true).unwrap();
    let HeadOutcome::Pull(mut pull) = into.handle_head(peer.logs().head_of(&author).unwrap())
    else {
        panic!("a new head is pulled");
    };
    let mut taken = Duration::ZERO;
    loop {
        let part = peer.logs().part(&author, pull.epoch, pull.after).unwrap();
        let start = cpu_time();
        let applied = into.intake().apply(author, part).unwrap();
        into.view();
        // The owner would store them.
        into.storage().take_writes(usize::MAX);
        taken += cpu_time() - start;
        match applied {
            Applied::More(next) => pull = next,
            Applied::Complete => return taken,
            other => panic!("{other:?}"),
        }
    }
}

/// Set in a child process: the number of entries, and of files in each directory.
const CHILD: &str = "CATALOGUE_BENCH_CHILD";

/// Creates a catalogue and prints its memory. It runs in a separate process, so that the kernel's
/// figure includes nothing else.
fn report_memory(files: usize, files_a_directory: usize) {
    let (allocated, resident) = (LIVE_BYTES.load(Ordering::Relaxed), resident_bytes());
    let mut catalogue = peer(files, files_a_directory);
    let view = catalogue.view();
    while !catalogue.storage().take_writes(4096).is_empty() {}
    println!(
        "{files} entries, {files_a_directory} a directory: {} bytes allocated and {} resident an \
         entry, {} MiB resident in all",
        (LIVE_BYTES.load(Ordering::Relaxed) - allocated) / files,
        (resident_bytes() - resident) / files,
        resident_bytes() >> 20,
    );
    drop(view);
}

fn report_merge(files: usize) {
    let peer = peer(files, FILES_A_DIRECTORY);
    let mut catalogue = node(0);
    let merged = merge(&peer, &mut catalogue);
    drop(peer);
    let directories = files.div_ceil(FILES_A_DIRECTORY) + 1;
    assert_eq!(
        catalogue.view().totals().entries as usize,
        files + directories
    );
    println!(
        "{files} entries: merged in {merged:.2?} of computing ({:.2} us each)",
        merged.as_secs_f64() * 1e6 / files as f64,
    );
    let start = cpu_time();
    const ROUNDS: usize = 10_000;
    for number in 0..ROUNDS {
        let number = files + number * 7919 % files;
        catalogue
            .own_mut()
            .put(SHARE, &path(number, FILES_A_DIRECTORY), file(number))
            .unwrap();
        black_box(catalogue.view());
    }
    println!(
        "  one more file and a view that has it: {:.2?}",
        (cpu_time() - start) / ROUNDS as u32
    );
    let start = cpu_time();
    catalogue.set_live(NodeId::new([1; 32]), false).unwrap();
    let first = cpu_time() - start;
    while catalogue.advance(SWEEP_STEP_RECORDS) {}
    println!(
        "  its death: {:.2?}, the first step {first:.2?}",
        cpu_time() - start
    );
    assert_eq!(catalogue.view().totals().entries as usize, {
        let albums: std::collections::BTreeSet<usize> = (0..ROUNDS)
            .map(|number| (files + number * 7919 % files) / FILES_A_DIRECTORY)
            .collect();
        ROUNDS + albums.len() + 1
    });
}

fn bench_one_file(c: &mut Criterion) {
    for files in [100_000, 1_000_000] {
        let peer = peer(files, FILES_A_DIRECTORY);
        let mut catalogue = node(0);
        merge(&peer, &mut catalogue);
        drop(peer);
        catalogue.view();
        let mut number = files;
        c.bench_function(
            &format!("{files}: add one file and publish the view"),
            |b| {
                b.iter(|| {
                    number += 1;
                    catalogue
                        .own_mut()
                        .put(SHARE, &path(number % files, 100), file(number))
                        .unwrap();
                    black_box(catalogue.view());
                });
            },
        );
        c.bench_function(
            &format!("{files}: publish the view of a batch of 100"),
            |b| {
                b.iter_custom(|rounds| {
                    let mut taken = Duration::ZERO;
                    for _ in 0..rounds {
                        for _ in 0..100 {
                            number += 1;
                            catalogue
                                .own_mut()
                                .put(SHARE, &path(number % files, 100), file(number))
                                .unwrap();
                        }
                        let start = Instant::now();
                        black_box(catalogue.view());
                        taken += start.elapsed();
                    }
                    taken
                });
            },
        );
        let view = catalogue.view();
        c.bench_function(&format!("{files}: look a path up"), |b| {
            b.iter(|| {
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                black_box(view.lookup(&path(number % files, 100)))
            });
        });
    }
}

fn bench_large_directory(c: &mut Criterion) {
    let files = 100_000;
    let mut catalogue = node(0);
    merge(&peer(files, files), &mut catalogue);
    let view = catalogue.view();
    let dir = path(0, files).parent().unwrap();
    c.bench_function("list 100,000 names by pages of 1,000", |b| {
        b.iter(|| {
            let (mut after, mut count): (Option<Box<[u8]>>, usize) = (None, 0);
            loop {
                let page = view.children(&dir, after.as_deref(), 1000);
                let Some(last) = page.last() else { break };
                count += page.len();
                after = Some(last.name.clone());
            }
            assert_eq!(count, files);
        });
    });
}

/// Measures each size once, only if no single benchmark is requested.
fn sizes(_: &mut Criterion) {
    if std::env::args()
        .skip(1)
        .any(|argument| !argument.starts_with('-'))
    {
        return;
    }
    for (files, files_a_directory) in [
        (100_000, 100),
        (1_000_000, 100),
        (1_000_000, 10),
        (1_000_000, 100_000),
    ] {
        let child = std::env::current_exe().and_then(|exe| {
            let size = format!("{files} {files_a_directory}");
            std::process::Command::new(exe).env(CHILD, size).status()
        });
        assert!(child.is_ok_and(|status| status.success()));
    }
    report_merge(100_000);
    report_merge(1_000_000);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = sizes, bench_one_file, bench_large_directory
}

fn main() {
    if let Ok(size) = std::env::var(CHILD) {
        let mut numbers = size.split(' ').filter_map(|number| number.parse().ok());
        let (files, files_a_directory) = (numbers.next(), numbers.next());
        return report_memory(files.unwrap_or(1), files_a_directory.unwrap_or(1));
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
