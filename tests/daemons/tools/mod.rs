//! The programs that people use, over the mount of another node's files: each must find there what
//! it would find on a local disk.
//!
//! One cluster serves all promises: `author` shares, `reader` mounts. Each promise has files of
//! its own, so that what one has cached says nothing about another.

mod everyday;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;
use parking_lot::{Mutex, MutexGuard};

use crate::support::content::{hash_of, noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

const SECOND: Duration = Duration::from_secs(1);
/// Names in the long directory.
const MANY: usize = 10_000;

/// The two nodes that all promises share.
struct World {
    author: Node,
    reader: Node,
    // after the nodes: they are stopped before their folder goes
    _cluster: Cluster,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// Takes away what the promises share.
pub fn end() {
    drop(WORLD.lock().take());
}

/// The nodes, started by the first who asks.
struct Nodes(MutexGuard<'static, Option<World>>);

impl std::ops::Deref for Nodes {
    type Target = World;

    fn deref(&self) -> &World {
        self.0.as_ref().unwrap()
    }
}

fn world() -> Nodes {
    let mut world = WORLD.lock();
    if world.is_none() {
        *world = Some(World::start());
    }
    Nodes(world)
}

impl World {
    fn start() -> Self {
        let mut cluster = Cluster::new();
        let share = cluster.folder.path().join("author/share");
        fs::create_dir_all(&share).unwrap();
        fill(&share);
        let mut nodes = cluster.start_all(&["author", "reader"]);
        let reader = nodes.pop().unwrap();
        let author = nodes.pop().unwrap();
        let expected = names_below(&share).len();
        eventually("all that is shared is listed", HANG_LIMIT, || {
            names_below(&reader.mount).len() == expected
        });
        Self {
            author,
            reader,
            _cluster: cluster,
        }
    }

    fn seen(&self, name: &str) -> PathBuf {
        self.reader.mounted(name)
    }

    fn source(&self, name: &str) -> PathBuf {
        self.author.share.join(name)
    }

    /// A name for something that a tool writes.
    fn out(&self, name: &str) -> PathBuf {
        self.reader.home.join(name)
    }
}

fn put(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    set_mode(&path, 0o644);
}

fn fill(share: &Path) {
    for tree in ["cp", "cp-a", "rsync", "tar", "find", "grep", "ls", "zip"] {
        for number in 0..30u64 {
            let name = format!("{tree}/d{}/f{number}.txt", number % 5);
            put(share.join(name), &noise(number, (number * 997) as usize));
        }
        symlink("d0/f0.txt", share.join(tree).join("link")).unwrap();
        fs::create_dir(share.join(tree).join("empty")).unwrap();
    }
    put(share.join("grep/d1/needle.txt"), b"hay\na needle\nhay\n");
    put(share.join("find/d2/tool"), b"#!/bin/sh\n");
    set_mode(&share.join("find/d2/tool"), 0o755);
    for (seed, name) in (0..).zip(NOISES) {
        put(share.join(name), &noise(100 + seed, 3_000_000));
    }
    put(share.join("sparse/holes.img"), b"");
    let sparse = File::options()
        .write(true)
        .open(share.join("sparse/holes.img"))
        .unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(&noise(9, 100_000), 4 << 20).unwrap();
    for number in 0..MANY {
        let name = share.join(format!("many/name-{number:05}"));
        if number == 0 {
            fs::create_dir_all(name.parent().unwrap()).unwrap();
        }
        fs::write(name, b"").unwrap();
    }
    put(
        share.join("page.html"),
        b"<!DOCTYPE html>\n<title>a page</title>\n",
    );
    put(share.join("words.txt"), b"some words\nand more\n");
    put(share.join("growing.log"), b"one\n");
    let echo = fs::read("/bin/echo").unwrap();
    put(share.join("bin/echo"), &echo);
    put(share.join("bin/script"), b"#!/bin/sh\necho \"ran as $0\"\n");
    for program in ["bin/echo", "bin/script"] {
        set_mode(&share.join(program), 0o755);
    }
    fill_by_tools(share);
}

/// Files of noise, each for one promise.
const NOISES: [&str; 15] = [
    "cp-hole.bin",
    "tar-hole.bin",
    "dd.bin",
    "mmap.bin",
    "du.bin",
    "sum.bin",
    "attr.bin",
    "direct.bin",
    "stat.bin",
    "kernel.bin",
    "cleared.bin",
    "thumbnail.bin",
    "unlisted.bin",
    "reflink.bin",
    "moved.bin",
];

/// What takes a tool to make; without it, its promise is skipped.
fn fill_by_tools(share: &Path) {
    let database = share.join("data.db");
    // neither waits for a disk that others keep busy
    let rows = "pragma synchronous = off; pragma journal_mode = off; \
                create table t(n integer primary key, s text); \
                with recursive c(n) as (select 1 union all select n + 1 from c where n < 5000) \
                insert into t select n, hex(randomblob(40)) from c;";
    let _ = Command::new("sqlite3").arg(&database).arg(rows).output();
    let repository = share.join("repository");
    fs::create_dir_all(&repository).unwrap();
    for number in 0..20u64 {
        let name = repository.join(format!("src/f{number}.c"));
        put(name, format!("int f{number};\n").as_bytes());
    }
    let git = |line: &str| {
        let mut command = Command::new("git");
        command.args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
            "-c",
            "core.fsync=none",
        ]);
        let _ = command
            .arg("-C")
            .arg(&repository)
            .args(line.split(' '))
            .output();
    };
    git("init -q -b main");
    git("add -A");
    git("commit -q -m first");
}

fn names_below(dir: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        // what has gone since it was listed has no names
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let entry = entry.unwrap();
            names.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    names.sort();
    names
}

fn assert_same_trees(one: &Path, other: &Path) {
    run(Command::new("diff").arg("-r").arg(one).arg(other)).expect_ok();
    assert_eq!(names_below(one), names_below(other));
}

#[apply(promise)]
#[takes("cp", "diff")]
fn cp_copies_a_tree_byte_by_byte() {
    let world = world();
    let copy = world.out("cp");
    run(Command::new("cp")
        .arg("-r")
        .arg(world.seen("cp"))
        .arg(&copy))
    .expect_ok();
    assert_same_trees(&world.source("cp"), &copy);
}

#[apply(promise)]
#[takes("cp")]
fn cp_a_keeps_times_and_links() {
    let world = world();
    let copy = world.out("cp-a");
    run(Command::new("cp")
        .arg("-a")
        .arg(world.seen("cp-a"))
        .arg(&copy))
    .expect_ok();
    let times = |dir: &Path| -> BTreeMap<PathBuf, (i64, i64)> {
        let files = names_below(dir)
            .into_iter()
            .filter(|name| dir.join(name).is_file());
        files
            .map(|name| {
                let meta = fs::symlink_metadata(dir.join(&name)).unwrap();
                (name, (meta.mtime(), meta.mtime_nsec()))
            })
            .collect()
    };
    assert_eq!(times(&copy), times(&world.source("cp-a")));
    assert_eq!(
        fs::read_link(copy.join("link")).unwrap(),
        Path::new("d0/f0.txt")
    );
}

#[apply(promise)]
#[takes("rsync")]
fn rsync_by_checksum_copies_and_then_finds_nothing_to_do() {
    let world = world();
    let copy = world.out("rsync");
    let from = format!("{}/", world.seen("rsync").display());
    let rsync = || {
        let mut rsync = Command::new("rsync");
        run(rsync
            .args(["-a", "--checksum", "--itemize-changes"])
            .arg(&from)
            .arg(&copy))
        .expect_ok()
    };
    rsync();
    assert_same_trees(&world.source("rsync"), &copy);
    assert_eq!(rsync(), "", "the second time there is nothing to do");
}

#[apply(promise)]
#[takes("tar", "diff")]
fn tar_brings_a_tree_over() {
    let world = world();
    let out = world.out("tar");
    fs::create_dir(&out).unwrap();
    let (mount, into) = (world.reader.mount.display(), out.display());
    shell(&format!("tar -C {mount} -cf - tar | tar -C {into} -xf -")).expect_ok();
    assert_same_trees(&world.source("tar"), &out.join("tar"));
}

#[apply(promise)]
#[takes("tar")]
fn tar_never_takes_what_is_not_cached_for_a_hole() {
    let world = world();
    let out = world.out("tar-s");
    fs::create_dir(&out).unwrap();
    let (mount, into) = (world.reader.mount.display(), out.display());
    let names = "tar-hole.bin sparse/holes.img";
    shell(&format!(
        "tar -C {mount} -Scf - {names} | tar -C {into} -xf -"
    ))
    .expect_ok();
    for name in names.split(' ') {
        assert_eq!(
            hash_of(&out.join(name)).unwrap(),
            hash_of(&world.source(name)).unwrap(),
            "{name}"
        );
    }
}

#[apply(promise)]
#[takes("cp")]
fn cp_never_takes_what_is_not_cached_for_a_hole() {
    let world = world();
    for name in ["cp-hole.bin", "sparse/holes.img"] {
        let copy = world.out("copied");
        let mut cp = Command::new("cp");
        let cp = cp.arg("--sparse=auto").arg(world.seen(name)).arg(&copy);
        run(cp).expect_ok();
        assert_eq!(
            hash_of(&copy).unwrap(),
            hash_of(&world.source(name)).unwrap(),
            "{name}"
        );
    }
}

#[apply(promise)]
#[takes("find")]
fn find_sees_every_name_once_by_type_size_and_mode() {
    let world = world();
    let found = |dir: &Path, conditions: &str| -> BTreeSet<String> {
        let mut find = Command::new("find");
        find.arg(".").args(conditions.split(' ')).current_dir(dir);
        run(&mut find)
            .expect_ok()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let (seen, source) = (world.seen("find"), world.source("find"));
    for conditions in [
        "-type f",
        "-type d",
        "-type l",
        "-size +10k",
        "-perm -0111",
        "-empty",
    ] {
        assert_eq!(
            found(&seen, conditions),
            found(&source, conditions),
            "{conditions}"
        );
    }
}

#[apply(promise)]
#[takes("grep")]
fn grep_finds_in_all_files() {
    let world = world();
    let mut grep = Command::new("grep");
    let found = run(grep
        .args(["-rl", "needle", "."])
        .current_dir(world.seen("grep")));
    assert_eq!(found.expect_ok(), "./d1/needle.txt\n");
}

#[apply(promise)]
#[takes("dd")]
fn dd_reads_from_any_offset() {
    let world = world();
    let bytes = fs::read(world.source("dd.bin")).unwrap();
    let input = format!("if={}", world.seen("dd.bin").display());
    let dd = |more: &[&str]| {
        let mut dd = Command::new("dd");
        run(dd.arg(&input).arg("status=none").args(more)).stdout
    };
    let pages = dd(&["bs=4096", "skip=500", "count=3"]);
    assert_eq!(pages, bytes[500 * 4096..503 * 4096]);
    let odd = dd(&["bs=1013", "skip=1017", "count=7"]);
    assert_eq!(odd, bytes[1013 * 1017..1013 * 1024]);
    let direct = dd(&["bs=4096", "skip=100", "count=2", "iflag=direct"]);
    assert_eq!(direct, bytes[100 * 4096..102 * 4096]);
    assert_eq!(dd(&["bs=1M", "skip=9"]), b"", "past the end is nothing");
}

#[apply(promise)]
#[takes("python3")]
fn python_maps_a_file() {
    let world = world();
    let program = "import mmap, sys, hashlib\n\
        with open(sys.argv[1], 'rb') as f:\n\
        \x20   m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n\
        print(m[2999990:].hex(), hashlib.sha256(m).hexdigest())\n";
    let hashed =
        |path: &Path| run(Command::new("python3").arg("-c").arg(program).arg(path)).expect_ok();
    assert_eq!(
        hashed(&world.seen("mmap.bin")),
        hashed(&world.source("mmap.bin"))
    );
}

#[apply(promise)]
#[takes("sqlite3")]
fn sqlite_reads_a_database() {
    let world = world();
    let answer = |path: &Path| {
        let question = "pragma integrity_check; select count(*), sum(length(s)) from t;";
        let mut sqlite = Command::new("sqlite3");
        run(sqlite.arg("-readonly").arg(path).arg(question)).expect_ok()
    };
    let seen = answer(&world.seen("data.db"));
    assert_eq!(seen, "ok\n5000|400000\n");
    assert_eq!(seen, answer(&world.source("data.db")));
}

#[apply(promise)]
fn locks_for_reading_hold_among_local_programs() {
    let world = world();
    let open = || File::open(world.seen("words.txt")).unwrap();
    let (one, two) = (open(), open());
    one.lock_shared().unwrap();
    two.lock_shared().unwrap();
    assert!(two.try_lock().is_err(), "the other still reads");
    drop(one);
    eventually("the lock goes with its file", 60 * SECOND, || {
        two.try_lock().is_ok()
    });
}

#[apply(promise)]
fn a_program_runs_from_the_mount() {
    let world = world();
    let echoed = run(Command::new(world.seen("bin/echo")).arg("hello"));
    assert_eq!(echoed.expect_ok(), "hello\n");
    let script = world.seen("bin/script");
    let ran = run(&mut Command::new(&script)).expect_ok();
    assert_eq!(ran, format!("ran as {}\n", script.display()));
}

#[apply(promise)]
#[takes("git")]
fn git_clones_and_finds_a_shared_repository_clean() {
    let world = world();
    let (seen, clone) = (world.seen("repository"), world.out("clone"));
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "clone", "-q"]);
    run(git.env("GIT_CONFIG_NOSYSTEM", "1").arg(&seen).arg(&clone)).expect_ok();
    assert_eq!(
        fs::read(clone.join("src/f7.c")).unwrap(),
        fs::read(world.source("repository/src/f7.c")).unwrap()
    );
    for question in ["status --porcelain", "fsck --no-progress", "diff --stat"] {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-C"]).arg(&seen);
        assert_eq!(
            run(git.args(question.split(' '))).expect_ok(),
            "",
            "{question}"
        );
    }
}

#[apply(promise)]
#[takes("file")]
fn file_knows_the_type() {
    let world = world();
    let kind = |path: &Path| run(Command::new("file").arg("-b").arg(path)).expect_ok();
    for name in ["page.html", "bin/echo", "bin/script", "data.db"] {
        assert_eq!(kind(&world.seen(name)), kind(&world.source(name)), "{name}");
    }
}

#[apply(promise)]
#[takes("less", "gio")]
fn viewers_and_file_managers_show_a_file() {
    let world = world();
    let words = world.seen("words.txt");
    let shown = run(Command::new("less").arg(&words));
    assert_eq!(shown.expect_ok(), "some words\nand more\n");
    let mut gio = Command::new("gio");
    let listed = run(gio.args(["list", "-l"]).arg(world.seen("bin"))).expect_ok();
    let names: BTreeSet<&str> = listed
        .lines()
        .map(|l| l.split('\t').next().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(["echo", "script"]));
    let mut gio = Command::new("gio");
    let info = run(gio.args(["info", "-a", "standard::size"]).arg(&words)).expect_ok();
    assert!(info.contains("standard::size: 20"), "{info}");
}

#[apply(promise)]
#[takes("du")]
fn du_counts_what_is_cached_and_apparent_sizes_what_is_shared() {
    let world = world();
    let du = |more: &[&str]| -> u64 {
        let text = run(Command::new("du").args(more).arg(world.seen("du.bin"))).expect_ok();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(du(&["-B512"]), 1, "nothing is cached, and it is no hole");
    assert_eq!(du(&["--apparent-size", "-B1"]), 3_000_000);
    fs::read(world.seen("du.bin")).unwrap();
    eventually("what was read is counted", 60 * SECOND, || {
        du(&["-B512"]) == 3_000_000u64.div_ceil(512)
    });
}

#[apply(promise)]
#[takes("df")]
fn df_shows_what_the_cluster_shares() {
    let world = world();
    let mut df = Command::new("df");
    df.args(["-B1", "--output=used,avail,fstype"])
        .arg(&world.reader.mount);
    let text = run(&mut df).expect_ok();
    let figures: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    let [used, free]: [u64; 2] = [0, 1].map(|n: usize| figures[n].parse().unwrap());
    let share = &world.author.share;
    let files = names_below(share).into_iter().map(|name| share.join(name));
    let contents: BTreeMap<String, u64> = files
        .filter(|file| file.is_file())
        .map(|file| (hash_of(&file).unwrap(), fs::metadata(&file).unwrap().len()))
        .collect();
    let unique: u64 = contents.values().sum();
    assert_eq!(
        used,
        unique.next_multiple_of(4096),
        "each content counts once"
    );
    assert!(free > 1 << 20 && figures[2].starts_with("fuse"), "{text}");
}

#[apply(promise)]
#[takes("getfattr")]
fn getfattr_shows_the_hash_and_who_holds_it() {
    let world = world();
    let getfattr = |arguments: &[&str]| {
        let mut getfattr = Command::new("getfattr");
        getfattr.arg("--absolute-names").args(arguments);
        run(getfattr.arg(world.seen("attr.bin"))).expect_ok()
    };
    let hash = hash_of(&world.source("attr.bin")).unwrap().to_string();
    for (name, value) in [
        ("hash", &*hash),
        ("holders", "author"),
        ("cached", "0"),
        ("verified", "blake3"),
    ] {
        let text = getfattr(&["--only-values", "-n", &format!("user.p2pfs.{name}")]);
        assert_eq!(text, value, "{name}");
    }
    assert_eq!(getfattr(&["-d", "-m", "-"]), "", "none is listed");
}

#[apply(promise)]
#[takes("sha256sum")]
fn sha256sum_agrees_with_the_source() {
    let world = world();
    let sum = |path: &Path| {
        let text = run(Command::new("sha256sum").arg(path)).expect_ok();
        text.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(sum(&world.seen("sum.bin")), sum(&world.source("sum.bin")));
}

#[apply(promise)]
fn an_o_direct_read_gets_the_same_bytes() {
    let world = world();
    let bytes = fs::read(world.source("direct.bin")).unwrap();
    for round in ["not cached", "cached"] {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        let file = options.open(world.seen("direct.bin")).unwrap();
        // a disk wants memory, offset and length on a boundary
        let mut room = vec![0u8; 3 * 4096];
        let start = room.as_ptr().align_offset(4096);
        let page = &mut room[start..start + 8192];
        for offset in [0, 1 << 20, 2_998_272] {
            let length = file.read_at(page, offset as u64).unwrap();
            let end = (offset + 8192).min(bytes.len());
            assert_eq!(page[..length], bytes[offset..end], "{round} at {offset}");
        }
        drop(file);
        assert!(fs::read(world.seen("direct.bin")).unwrap() == bytes);
    }
}

#[apply(promise)]
fn stat_shows_the_same_file_before_and_after_it_was_read() {
    let world = world();
    let of = |path: PathBuf| {
        let meta = fs::metadata(path).unwrap();
        (
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.mode(),
            meta.nlink(),
        )
    };
    let before = of(world.seen("stat.bin"));
    fs::read(world.seen("stat.bin")).unwrap();
    assert_eq!(of(world.seen("stat.bin")), before);
    let source = fs::metadata(world.source("stat.bin")).unwrap();
    assert_eq!(
        (before.1, before.2, before.3),
        (source.len(), source.mtime(), source.mtime_nsec())
    );
    assert_eq!(before.4 & 0o7777, 0o644);
}

/// What the daemon of a node has answered so far.
fn activity(node: &Node) -> serde_json::Value {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["mount"]["activity"].clone()
}

fn count(node: &Node, what: &str) -> u64 {
    activity(node)[what].as_u64().unwrap()
}

#[apply(promise)]
#[takes("ls")]
fn a_second_ls_of_an_idle_tree_asks_the_daemon_about_no_file() {
    let world = world();
    let tree = world.seen("ls");
    let list = || run(Command::new("ls").arg("-lR").arg(&tree)).expect_ok();
    let first = list();
    let before = count(&world.reader, "requests");
    assert_eq!(list(), first);
    let asked = count(&world.reader, "requests") - before;
    // `ls` tries twice whether there are labels or access lists; all else the kernel knows
    assert!(asked <= 2, "{asked} requests");
}

#[apply(promise)]
fn a_long_listing_has_each_name_that_stays_once_while_others_come_and_go() {
    let world = world();
    let stays: BTreeSet<String> = (0..MANY).map(|n| format!("name-{n:05}")).collect();
    let (dir, seen) = (world.source("many"), world.seen("many"));
    let mut comers = BTreeSet::new();
    for round in 0..12 {
        let mut listed = fs::read_dir(&seen).unwrap();
        let mut names = Vec::new();
        // part of it, then a change, then the rest
        names.extend(listed.by_ref().take(2000));
        fs::write(dir.join(format!("comes-{round}")), b"").unwrap();
        if round > 2 {
            fs::remove_file(dir.join(format!("comes-{}", round - 3))).unwrap();
        }
        names.extend(listed);
        let names: Vec<String> = names
            .into_iter()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let unique: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(unique.len(), names.len(), "no name twice");
        assert!(stays.is_subset(&unique), "no name that stays is missing");
        comers.extend(unique.difference(&stays).cloned());
    }
    eventually("the last to come is listed", 60 * SECOND, || {
        seen.join("comes-11").exists() && !seen.join("comes-8").exists()
    });
    let last = names_below(&seen);
    assert_eq!(
        last.len(),
        MANY + 3,
        "those that came, without those that went"
    );
}

/// Whether the kernel may read by itself here; says so where not.
fn has_passthrough(node: &Node) -> bool {
    let may = activity(node)["passthrough"].as_bool().unwrap();
    if !may {
        let status = node.cli(&["status"]).expect_ok();
        assert!(status.contains("read through the daemon"), "{status}");
        eprintln!("SKIPPED: no passthrough here");
    }
    may
}

fn wait_until_closed(node: &Node) {
    eventually("all files are closed", 60 * SECOND, || {
        let status = node.cli(&["status", "--json"]).expect_json();
        status["open_versions"] == 0
    });
}

#[apply(promise)]
fn a_complete_file_is_read_by_the_kernel_itself() {
    let world = world();
    if !has_passthrough(&world.reader) {
        return;
    }
    let bytes = fs::read(world.source("kernel.bin")).unwrap();
    let seen = world.seen("kernel.bin");
    // it completes while it is open: who has it open keeps asking, and so does who joins
    let first = File::open(&seen).unwrap();
    assert!(fs::read(&seen).unwrap() == bytes);
    let mut page = [0; 4096];
    first.read_exact_at(&mut page, 1 << 20).unwrap();
    assert_eq!(page[..], bytes[1 << 20..(1 << 20) + 4096]);
    drop(first);
    wait_until_closed(&world.reader);
    let before = count(&world.reader, "reads");
    assert!(
        fs::read(&seen).unwrap() == bytes,
        "the next open reads it from the disk"
    );
    let mapped = run(Command::new("cmp")
        .arg(&seen)
        .arg(world.source("kernel.bin")));
    mapped.expect_ok();
    assert_eq!(
        count(&world.reader, "reads"),
        before,
        "no read came to the daemon"
    );
}

#[apply(promise)]
fn an_own_file_is_read_by_the_kernel_itself_and_is_live() {
    let world = world();
    if !has_passthrough(&world.author) {
        return;
    }
    world.author.write("own.log", b"one\n");
    world.author.wait_for_file("own.log");
    let (own, seen) = (world.source("own.log"), world.author.mounted("own.log"));
    let before = count(&world.author, "reads");
    let mut open = File::open(&seen).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    fs::write(&own, "one\ntwo\n").unwrap();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n", "what is appended is seen at once");
    assert_eq!(open.metadata().unwrap().len(), 8);
    // a replacement is another file; who has the old one open keeps it
    let staging = world.author.home.join("own.log");
    fs::write(&staging, "another\n").unwrap();
    fs::rename(&staging, &own).unwrap();
    eventually("the replacement is read", 60 * SECOND, || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"another\n")
    });
    let mut old = [0; 8];
    open.read_exact_at(&mut old, 0).unwrap();
    assert_eq!(&old, b"one\ntwo\n");
    assert_eq!(
        count(&world.author, "reads"),
        before,
        "no read came to the daemon"
    );
}

#[apply(promise)]
fn an_open_file_outlives_the_clearing_of_the_cache() {
    let world = world();
    let bytes = fs::read(world.source("cleared.bin")).unwrap();
    let seen = world.seen("cleared.bin");
    assert!(fs::read(&seen).unwrap() == bytes);
    wait_until_closed(&world.reader);
    let open = File::open(&seen).unwrap();
    world.reader.cli(&["cache", "clear"]).expect_ok();
    let mut read = vec![0; bytes.len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "an open file stays");
    drop(open);
    world.reader.cli(&["cache", "clear"]).expect_ok();
    assert!(fs::read(&seen).unwrap() == bytes, "and can be fetched anew");
}

#[apply(promise)]
#[takes("cat")]
fn a_thumbnailer_is_given_cached_bytes_only() {
    let world = world();
    let thumbnailer = world.out("tumblerd");
    copy_program("/bin/cat", &thumbnailer);
    let name = "thumbnail.bin";
    let read = |program: &Path| run(Command::new(program).arg(world.seen(name)));
    let cached = || {
        let listed = world.reader.cli(&["ls", name, "--json"]).expect_json();
        listed.to_string()
    };
    let before = cached();
    let refused = read(&thumbnailer);
    assert!(
        refused.stderr.contains("Permission denied"),
        "{}",
        refused.stderr
    );
    assert_eq!(refused.stdout, b"");
    assert_eq!(cached(), before, "nothing was fetched for it");
    let bytes = fs::read(world.source(name)).unwrap();
    assert!(
        read(Path::new("/bin/cat")).stdout == bytes,
        "others are served"
    );
    assert!(
        read(&thumbnailer).stdout == bytes,
        "from the cache it reads as everybody"
    );
    // a running daemon takes another list
    let configure = |text: &str| {
        fs::write(world.reader.home.join("p2pfs.toml"), text).unwrap();
        world.reader.signal(libc::SIGHUP);
    };
    configure("[readers]\ncached_only = []\n");
    let unlisted = world.seen("unlisted.bin");
    eventually("whom nobody lists is served", 60 * SECOND, || {
        run(Command::new(&thumbnailer).arg(&unlisted))
            .status
            .success()
    });
    configure("");
}

/// Runs a daemon as an ordinary user, who may open /dev/fuse in a namespace of mounts of its own.
const AS_A_USER: &str = r#"
cd "$1" && mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse || exit 77
mkdir share mnt && echo hello > share/a.txt && cp "$1/../reader/secret" . && chown -R 65534 .
user="setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=$1"
$user timeout 60 "$2" daemon --config /dev/null --listen 127.0.0.1:0 --secret-file secret \
    --state "$1/state" --cache "$1/cache" --socket "$1/s" --mount "$1/mnt" --share "$1/share" \
    2> log &
"$2" wait --mounted --file a.txt --timeout 30s --socket "$1/s"
$user cat mnt/a.txt mnt/a.txt || { $user stat . mnt mnt/a.txt; mount | grep "$1"; cat log; } >&2
"$2" status --socket "$1/s" | grep ^warning
cat mnt/a.txt; ls mnt
kill $!; wait; grep -c WARN log
"#;

/// What that daemon and its user said, line by line, and what root was told, who is another;
/// nothing where there cannot be one here.
fn daemon_of_a_user(name: &str) -> Option<(Vec<String>, String)> {
    let world = world();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become an ordinary user");
        return None;
    }
    let home = world.author.home.with_file_name(name);
    fs::create_dir(&home).unwrap();
    set_mode(&home, 0o755);
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "sh", "-c", AS_A_USER, "sh"])
        .arg(&home)
        .arg(P2PFS);
    let ran = run(&mut unshare);
    if ran.status.code() == Some(77) || !Path::new("/usr/bin/fusermount3").exists() {
        eprintln!(
            "SKIPPED: no daemon of an ordinary user here: {}",
            ran.stderr
        );
        return None;
    }
    let refused = ran.stderr.clone();
    let lines = ran.expect_ok().lines().map(str::to_owned).collect();
    Some((lines, refused))
}

#[apply(promise)]
#[takes("unshare", "setpriv", "mknod")]
fn without_the_right_the_daemon_reads_and_warns_once() {
    let Some((lines, errors)) = daemon_of_a_user("user") else {
        return;
    };
    assert_eq!(lines[..2], ["hello", "hello"], "{errors}");
    assert!(lines[2].contains("read through the daemon"), "{lines:?}");
    assert_eq!(lines[3..], ["1"], "one warning in the log");
}

#[apply(promise)]
#[takes("unshare", "setpriv", "mknod")]
fn a_mount_of_an_ordinary_user_refuses_all_others() {
    let Some((lines, refused)) = daemon_of_a_user("another-user") else {
        return;
    };
    assert_eq!(lines.iter().filter(|line| *line == "hello").count(), 2);
    let denied = refused.matches("Permission denied").count();
    assert_eq!(denied, 2, "a file and the folder itself: {refused}");
}
