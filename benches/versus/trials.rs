//! The trials: the files that are read, and the measurements.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::figures::{Figures, Unit, median, quantile, report};
use crate::machine::{cpu_seconds, read_file, read_to_end, sent_bytes, settle, wait_for_rest};
use crate::rivals::Rival;
use crate::support::content::noise;
use crate::support::daemon::{Node, set_mode};
use crate::support::process::{eventually, run};
use crate::{Field, setting};

/// A name for the settings, and its function.
type Trial = (&'static str, fn(&Field));

/// Every trial.
pub(crate) const ALL: &[Trial] = &[
    ("sequential", sequential),
    ("paced", paced),
    ("taken", taken),
    ("whole", whole),
    ("random", random),
    ("first", first),
    ("copy", copy),
    ("ahead", crate::waste::ahead),
    ("warm", warm),
    ("reads", crate::reads::reads),
    ("direct", direct),
    ("calls", crate::calls::calls),
    ("far", crate::far::far),
];

pub(crate) const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// Size of the file for random reads, and the number of reads.
const RANDOM_MIB: usize = 256;
const RANDOM_READS: u64 = 4000;
/// Files of which one page each is read in a round: their number and size.
const FIRST_FILES: usize = 100;
const FIRST_MIB: usize = 2;
/// Number of files in each directory of the copied tree.
const COPIED_IN_DIR: usize = 100;
const DIRECT_MIB: usize = 128;
const WARM_MIB: usize = 256;
const WARM_READS: u64 = 50_000;
/// Maximum time until a rival shows a new file.
const SEEN_LIMIT: Duration = Duration::from_secs(60);

/// One measured program.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) mount: PathBuf,
    port: u16,
    pub(crate) pids: Vec<u32>,
}

impl Field {
    pub(crate) fn server(&self) -> &Node {
        &self.nodes[0]
    }

    pub(crate) fn reader(&self) -> &Node {
        &self.nodes[1]
    }

    /// Returns all contestants, this p2pfs first.
    pub(crate) fn contestants(&self) -> Vec<Contestant> {
        let ours = Contestant {
            name: "p2pfs",
            mount: self.reader().mount.clone(),
            port: self.server().address.port(),
            pids: self.nodes.iter().map(Node::pid).collect(),
        };
        let rivals = self.rivals.iter().map(|rival| Contestant {
            name: rival.name,
            mount: rival.mount.clone(),
            port: rival.port,
            pids: rival.pids(),
        });
        std::iter::once(ours).chain(rivals).collect()
    }

    /// Moves `staged` into the share under `name`, and waits until the reader lists the files
    /// `awaited`.
    pub(crate) fn publish(&self, staged: &Path, name: &str, awaited: &[String]) {
        fs::rename(staged, self.server().share.join(name)).unwrap();
        awaited
            .iter()
            .for_each(|path| self.reader().wait_for_file(path));
    }

    pub(crate) fn publish_file(&self, name: &str, seed: u64, size_mib: usize) {
        let staged = self.server().home.join(name);
        fs::write(&staged, noise(seed, size_mib * MIB)).unwrap();
        set_mode(&staged, 0o644);
        age(&staged);
        self.publish(&staged, name, &[name.to_owned()]);
    }

    /// Prepares a turn that reads the shared `name`. Every server must find it in the page cache.
    /// rclone drops the pages that it has served (`POSIX_FADV_DONTNEED`), so the next contestant
    /// would read from the disk.
    pub(crate) fn settle(&self, name: &str) {
        let rivals = self.rivals.iter().flat_map(Rival::pids);
        let ours = self.nodes.iter().map(Node::pid);
        wait_for_rest(&ours.chain(rivals).collect::<Vec<_>>());
        settle(&self.server().home.join("scratch"));
        read_all(&self.server().share.join(name));
    }

    /// Removes a shared name and clears the cache. Trials with many files call this only after the
    /// last round: ext4 searches long for an inode that was not freed recently, so creating files
    /// right after such a removal is slow.
    pub(crate) fn withdraw(&self, name: &str) {
        let path = self.server().share.join(name);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        self.reader().cli(&["cache", "clear"]).expect_ok();
    }
}

/// Makes a file look old. A new file is hashed again a little later, which would happen during a
/// turn.
pub(crate) fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .unwrap();
}

/// Returns the order of turns in a round. Each contestant is first equally often.
pub(crate) fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (turn + round) % count)
}

pub(crate) fn figures_of(contestants: &[Contestant]) -> Vec<Figures> {
    contestants
        .iter()
        .map(|one| Figures::new(one.name))
        .collect()
}

pub(crate) fn wait_until_seen(path: &Path) {
    eventually("a new file is seen", SEEN_LIMIT, || path.exists());
}

fn sequential(field: &Field) {
    let what = "cold sequential read";
    in_sequence(field, what, &field.contestants(), ("cold", 0));
}

/// Measures cold sequential reads through the mount and by `get` only, while the holder sends no
/// faster than a link of about 4 Gbit/s. At a higher rate, a machine with two processors has
/// nothing left. Then the mount pays for the program that reads the bytes, and `get` to `/dev/null`
/// does not.
fn paced(field: &Field) {
    let server = field.server();
    server.cli(&["limits", "--up", "500MiB/s"]).expect_ok();
    let what = "cold sequential read at the pace of a link";
    let ours = &field.contestants()[..1];
    in_sequence(field, what, ours, ("paced", 80_000));
    server.cli(&["limits", "--configured"]).expect_ok();
}

/// Measures sequential reads by programs that ignore the bytes.
fn in_sequence(field: &Field, what: &str, contestants: &[Contestant], files: (&str, usize)) {
    let get = |name: &str| get_file(field.reader(), name, Path::new("/dev/null"));
    large(field, what, contestants, files, (read_file, get), || ());
}

/// Measures copies to a file on the reader's disk, so that all contestants handle each byte. `get`
/// to `/dev/null` would pass bytes on without touching them.
fn whole(field: &Field) {
    let copy = field.reader().home.join("copy");
    let cp = |path: &Path| {
        run(Command::new("cp").args([path, &copy])).expect_ok();
    };
    let get = |name: &str| get_file(field.reader(), name, &copy);
    let size_bytes = (large_mib() * MIB) as u64;
    let remove = || {
        assert_eq!(fs::metadata(&copy).unwrap().len(), size_bytes);
        fs::remove_file(&copy).unwrap();
    };
    let what = "cold copy to a disk, by cp or get,";
    let all = field.contestants();
    large(field, what, &all, ("whole", 70_000), (cp, get), remove);
}

/// Measures a program that reads the bytes into its memory, from the mount or from `get` through a
/// pipe. With `/dev/null`, no program would get the bytes of `get`.
fn taken(field: &Field) {
    let get = |name: &str| {
        let mut get = field.reader().cli_command(&["get", name, "-o", "-"]);
        let mut get = get.stdout(Stdio::piped()).spawn().unwrap();
        let taken = read_to_end(get.stdout.take().unwrap());
        assert!(get.wait().unwrap().success());
        assert_eq!(taken, large_mib() * MIB);
    };
    let what = "cold sequential read into a program's memory";
    let ours = &field.contestants()[..1];
    let how = (read_file, get);
    large(field, what, ours, ("taken", 90_000), how, || ());
}

fn large_mib() -> usize {
    setting("P2PFS_BENCH_MIB", 1024)
}

/// Reads a large file through each mount by its path, and another with this `get` by its name.
/// `(prefix, seed)` distinguishes names and contents from those of other trials. `after` is not
/// measured.
fn large(
    field: &Field,
    what: &str,
    contestants: &[Contestant],
    (prefix, seed): (&str, usize),
    (read, get): (impl Fn(&Path), impl Fn(&str)),
    after: impl Fn(),
) {
    let size_mib = large_mib();
    let mut figures = figures_of(contestants);
    let getting = figures.len();
    figures.push(Figures::new("p2pfs get"));
    for round in 0..field.rounds {
        let names = ["read", "get"].map(|how| format!("{prefix}-{how}-{round}.bin"));
        for (number, name) in names.iter().enumerate() {
            field.publish_file(name, (seed + round * 2 + number) as u64, size_mib);
        }
        for turn in turns(contestants.len() + 1, round) {
            let one = &contestants[turn % getting];
            let path = one.mount.join(&names[0]);
            if turn != getting {
                wait_until_seen(&path);
            }
            field.settle(&names[usize::from(turn == getting)]);
            let (cpu, begun) = (cpu_seconds(&one.pids), Instant::now());
            if turn == getting {
                get(&names[1])
            } else {
                read(&path)
            }
            figures[turn].add(size_mib as f64 / begun.elapsed().as_secs_f64());
            figures[turn].add_cpu(cpu_seconds(&one.pids) - cpu);
            after();
        }
        names.iter().for_each(|name| field.withdraw(name));
    }
    let what = format!("{what} of {size_mib} MiB from one peer");
    report(&what, Unit::MibPerS, &figures);
}

fn get_file(node: &Node, name: &str, to: &Path) {
    node.cli(&["get", name, "-o", to.to_str().unwrap()])
        .expect_ok();
}

/// Reads a file, or every file beneath a directory.
fn read_all(path: &Path) {
    if path.is_dir() {
        fs::read_dir(path)
            .unwrap()
            .for_each(|entry| read_all(&entry.unwrap().path()))
    } else {
        read_file(path)
    }
}

/// Returns different pages of a file in random order.
pub(crate) fn scattered(count: u64, size_mib: usize) -> impl Iterator<Item = u64> {
    let pages = (size_mib * MIB / PAGE) as u64;
    (0..count).map(move |number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % pages)
}

/// Reads pages one after the other. Returns the duration of each in milliseconds.
fn read_pages(path: &Path, pages: impl Iterator<Item = u64>) -> Vec<f64> {
    let file = File::open(path).unwrap();
    let mut page = [0; PAGE];
    let read = |number| {
        let begun = Instant::now();
        file.read_exact_at(&mut page, number * PAGE as u64).unwrap();
        begun.elapsed().as_secs_f64() * 1000.0
    };
    pages.map(read).collect()
}

fn random(field: &Field) {
    let contestants = field.contestants();
    let (mut rates, mut sent) = (figures_of(&contestants), figures_of(&contestants));
    let mut halves = figures_of(&contestants);
    for round in 0..field.rounds {
        let name = format!("random-{round}.bin");
        field.publish_file(&name, 100 + round as u64, RANDOM_MIB);
        for turn in turns(contestants.len(), round) {
            let one = &contestants[turn];
            let path = one.mount.join(&name);
            wait_until_seen(&path);
            field.settle(&name);
            let (sent_before, begun) = (sent_bytes(one.port), Instant::now());
            let took_ms = read_pages(&path, scattered(RANDOM_READS, RANDOM_MIB));
            rates[turn].add(RANDOM_READS as f64 / begun.elapsed().as_secs_f64());
            halves[turn].add(median(&took_ms));
            let asked_bytes = (RANDOM_READS * PAGE as u64) as f64;
            let more = sent_bytes(one.port).saturating_sub(sent_before);
            sent[turn].add(more as f64 / asked_bytes);
        }
        field.withdraw(&name);
    }
    report("cold random reads of 4 KiB", Unit::ReadsPerS, &rates);
    // A machine that stalls now and then spoils the sum, but not this.
    report("one of them, p50", Unit::Milliseconds, &halves);
    report("what these sent", Unit::BytesPerByte, &sent);
}

fn first(field: &Field) {
    let contestants = field.contestants();
    let (mut halves, mut slowest) = (figures_of(&contestants), figures_of(&contestants));
    let dir_of = |round| format!("first-{round}");
    for round in 0..field.rounds {
        let dir = dir_of(round);
        let staged = field.server().home.join(&dir);
        fs::create_dir(&staged).unwrap();
        let names: Vec<String> = (0..FIRST_FILES).map(|n| format!("{dir}/{n:03}")).collect();
        for (number, name) in names.iter().enumerate() {
            let seed = (1000 * (round + 1) + number) as u64;
            let path = field.server().home.join(name);
            fs::write(&path, noise(seed, FIRST_MIB * MIB)).unwrap();
            age(&path);
        }
        field.publish(&staged, &dir, &names);
        for turn in turns(contestants.len(), round) {
            let mount = &contestants[turn].mount;
            wait_until_seen(&mount.join(names.last().unwrap()));
            field.settle(&dir);
            let pages = scattered(FIRST_FILES as u64, FIRST_MIB);
            let took_ms: Vec<f64> = names
                .iter()
                .zip(pages)
                .map(|(name, page)| {
                    let begun = Instant::now();
                    read_pages(&mount.join(name), std::iter::once(page));
                    begun.elapsed().as_secs_f64() * 1000.0
                })
                .collect();
            halves[turn].add(quantile(&took_ms, 0.5));
            slowest[turn].add(quantile(&took_ms, 0.99));
        }
    }
    (0..field.rounds).for_each(|round| field.withdraw(&dir_of(round)));
    let what = "open and first 4 KiB at a random place of a cold file";
    report(&format!("{what}, p50"), Unit::Milliseconds, &halves);
    report(&format!("{what}, p99"), Unit::Milliseconds, &slowest);
}

fn copy(field: &Field) {
    let count = setting("P2PFS_BENCH_FILES", 5000);
    let contestants = field.contestants();
    let mut figures = figures_of(&contestants);
    let targets = field.reader().home.join("copied");
    fs::create_dir(&targets).unwrap();
    let name_of = |round| format!("small-{round}");
    for round in 0..field.rounds {
        let name = name_of(round);
        let staged = field.server().home.join(&name);
        make_small_files(&staged, round as u64, count);
        field.publish(&staged, &name, &[]);
        for turn in turns(contestants.len(), round) {
            let one = &contestants[turn];
            eventually("all small files are listed", SEEN_LIMIT, || {
                count_files(&one.mount.join(&name)) == count
            });
            field.settle(&name);
            let (cpu, begun) = (cpu_seconds(&one.pids), Instant::now());
            let target = targets.join(format!("{round}-{turn}"));
            let mut cp = Command::new("cp");
            run(cp.arg("-r").arg(one.mount.join(&name)).arg(&target)).expect_ok();
            figures[turn].add(begun.elapsed().as_secs_f64());
            figures[turn].add_cpu(cpu_seconds(&one.pids) - cpu);
            assert_eq!(count_files(&target), count, "{} copied", one.name);
        }
    }
    fs::remove_dir_all(&targets).unwrap();
    (0..field.rounds).for_each(|round| field.withdraw(&name_of(round)));
    let what = format!("cp -r of {count} cold files of 1 to 16 KiB");
    report(&what, Unit::Seconds, &figures);
}

/// Creates files in directories below `staged`.
pub(crate) fn make_small_files(staged: &Path, seed: u64, count: usize) {
    let bytes = noise(5000 + seed, count + 16 * 1024);
    for number in 0..count {
        let dir = staged.join((number / COPIED_IN_DIR).to_string());
        fs::create_dir_all(&dir).unwrap();
        let length = 1024 + number * 7919 % (15 * 1024);
        let path = dir.join((number % COPIED_IN_DIR).to_string());
        fs::write(&path, &bytes[number..number + length]).unwrap();
        age(&path);
    }
}

/// Counts the files in the directories of a directory, which need not exist yet.
pub(crate) fn count_files(dir: &Path) -> usize {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    list(dir).map(|entry| list(&entry.path()).count()).sum()
}

/// Measures reads of a remote file through the page cache and without it. The choice in `fs::files`
/// depends on this. O_DIRECT takes the path that FOPEN_DIRECT_IO would take for all programs.
fn direct(field: &Field) {
    let ways = [("cached", libc::O_RDONLY), ("direct", libc::O_DIRECT)];
    let mut number = 0;
    for (what, read_bytes) in [("4 KiB", PAGE), ("128 KiB", MIB / 8), ("1 MiB", MIB)] {
        let mut figures = ways.map(|(name, _)| Figures::new(name));
        for round in 0..field.rounds {
            for turn in turns(ways.len(), round) {
                number += 1;
                let size_mib = if read_bytes == PAGE { 16 } else { DIRECT_MIB };
                let name = format!("direct-{number}.bin");
                field.publish_file(&name, 9000 + number, size_mib);
                field.settle(&name);
                let mut file = open_with(&field.reader().mounted(&name), ways[turn].1);
                let (mut buffer, begun) = (vec![0; read_bytes], Instant::now());
                while file.read(&mut buffer).unwrap() > 0 {}
                figures[turn].add(size_mib as f64 / begun.elapsed().as_secs_f64());
                field.withdraw(&name);
            }
        }
        let what = format!("cold sequential reads of {what} each");
        report(&what, Unit::MibPerS, &figures);
    }
    let mut figures = ways.map(|(name, _)| Figures::new(name));
    for round in 0..field.rounds {
        let name = format!("direct-random-{round}.bin");
        field.publish_file(&name, 9900 + round as u64, RANDOM_MIB);
        field.settle(&name);
        for turn in turns(ways.len(), round) {
            let file = open_with(&field.reader().mounted(&name), ways[turn].1);
            let (mut page, begun) = ([0; PAGE], Instant::now());
            let pages = scattered(2 * RANDOM_READS, RANDOM_MIB);
            for number in pages.skip(turn).step_by(2) {
                file.read_exact_at(&mut page, number * PAGE as u64).unwrap();
            }
            figures[turn].add(RANDOM_READS as f64 / begun.elapsed().as_secs_f64());
        }
        field.withdraw(&name);
    }
    report("cold random reads of 4 KiB", Unit::ReadsPerS, &figures);
}

fn open_with(path: &Path, flags: i32) -> File {
    let mut options = File::options();
    options.read(true).custom_flags(flags).open(path).unwrap()
}

/// Measures one complete file through the mount and on the disk itself.
fn warm(field: &Field) {
    field.publish_file("warm.bin", 99, WARM_MIB);
    let places = [
        field.reader().mounted("warm.bin"),
        field.server().share.join("warm.bin"),
    ];
    // The second use of a large file brings it into the memory that later uses share.
    for _ in 0..3 {
        places.iter().for_each(|path| read_file(path));
    }
    let names = ["p2pfs", "the disk's filesystem"];
    let (mut sequential, mut random) = (names.map(Figures::new), names.map(Figures::new));
    for round in 0..field.rounds.max(5) {
        for turn in turns(places.len(), round) {
            let begun = Instant::now();
            read_file(&places[turn]);
            sequential[turn].add(WARM_MIB as f64 / begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            read_pages(&places[turn], scattered(WARM_READS, WARM_MIB));
            random[turn].add(WARM_READS as f64 / begun.elapsed().as_secs_f64());
        }
    }
    report(
        "warm sequential read of 256 MiB",
        Unit::MibPerS,
        &sequential,
    );
    report("warm random reads of 4 KiB", Unit::ReadsPerS, &random);
    field.withdraw("warm.bin");
}
