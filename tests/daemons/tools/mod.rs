//! Everyday programs over the mount of another node's files. Each must find what it would find on a
//! local disk.
//!
//! One cluster serves all promises: `author` shares, `reader` mounts. Each promise has its own
//! files, so that the cache of one does not affect another.

mod by_kernel;
mod copying;
mod everyday;
mod listing;
mod reading;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::support::content::{names_below, noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount};

const NEEDS: &[Need] = &[mount];

const SECOND: Duration = Duration::from_secs(1);
/// Number of names in the long directory.
const MANY: usize = 10_000;

/// The two nodes that all promises share.
struct World {
    author: Node,
    reader: Node,
    // Declared after the nodes: they stop before their folder is removed.
    _cluster: Cluster,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// Removes the shared nodes.
pub(crate) fn end() {
    drop(WORLD.lock().take());
}

/// The nodes, started on the first use.
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

    /// Returns a path for a tool's output.
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

/// Creates files that need a tool. Without the tool, their promise is skipped.
fn fill_by_tools(share: &Path) {
    let database = share.join("data.db");
    // Neither pragma waits for a disk that other tests keep busy.
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

fn assert_same_trees(one: &Path, other: &Path) {
    run(Command::new("diff").arg("-r").arg(one).arg(other)).expect_ok();
    assert_eq!(names_below(one), names_below(other));
}

/// Returns the counts of requests that a node's daemon has answered.
fn activity(node: &Node) -> serde_json::Value {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["mount"]["activity"].clone()
}

fn count(node: &Node, what: &str) -> u64 {
    activity(node)[what].as_u64().unwrap()
}
