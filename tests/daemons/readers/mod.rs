//! Programs that read in a mount: `p2pfs top` names them, budgets slow them, and those in
//! `cached_only` cause no transfer. Real daemons, real mounts, real processes.

mod budgets;
mod takeover;
pub(crate) mod terminal;
mod top;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use macro_rules_attribute::apply;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

/// The two nodes that all promises share.
struct World {
    author: Node,
    reader: Node,
    // Declared after the nodes: they stop before the folder is removed.
    cluster: Cluster,
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

/// A short deadline for reads from other nodes. A longer wait is then a wait for a budget.
const SHORT_DEADLINE: &str = "[mount]\nread_deadline = '2s'\n";

fn world() -> Nodes {
    let mut world = WORLD.lock();
    if world.is_none() {
        let mut cluster = Cluster::new();
        let author = cluster.start("author");
        let reader = cluster.start_with(NodeOptions {
            config: SHORT_DEADLINE.to_owned(),
            ..NodeOptions::new("reader")
        });
        reader
            .cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
            .expect_ok();
        *world = Some(World {
            author,
            reader,
            cluster,
        });
    }
    Nodes(world)
}

impl World {
    /// Shares a file of the author that no other node has cached.
    fn share(&self, name: &str, bytes: &[u8]) -> PathBuf {
        self.author.write(name, bytes);
        self.reader.wait_for_file(name);
        self.reader.mounted(name)
    }

    /// Copies `cat` to another name, by which the kernel and the daemon know it.
    fn program(&self, name: &str) -> PathBuf {
        let program = self.cluster.folder.path().join(name);
        if !program.exists() {
            copy_program("/bin/cat", &program);
        }
        program
    }

    fn top(&self) -> Value {
        self.reader.cli(&["top", "--once", "--json"]).expect_json()
    }

    /// Waits until the process is delayed by its budget.
    #[track_caller]
    fn wait_for_delay(&self, pid: u32) {
        eventually("it waits for its budget", HANG_LIMIT, || {
            let readers = self.top()["readers"].as_array().unwrap().clone();
            let slow = readers.into_iter().find(|it| it["pid"] == pid);
            slow.is_some_and(|it| it["waiting"]["waiting_for"] == "budget")
        });
    }

    /// Sets the budget of a program.
    #[track_caller]
    fn set_budget(&self, program: &str, bytes_per_s: u64) {
        let rule = format!("[readers]\nbudgets = ['{program}={bytes_per_s}B/s']\n");
        self.configure(&rule);
    }

    fn reader_named(&self, program: &str) -> Option<Value> {
        let top = self.top();
        let readers = top["readers"].as_array().unwrap().clone();
        readers.into_iter().find(|it| it["program"] == program)
    }

    /// Configures the reading daemon with these rules and waits until they apply. The daemon
    /// applies the rules before the size of the cache, which `top` shows.
    #[track_caller]
    fn configure(&self, rules: &str) {
        static CONFIGURED: AtomicU64 = AtomicU64::new(0);
        let size_bytes = (1 << 30) + CONFIGURED.fetch_add(1, Ordering::Relaxed);
        let text = format!("{SHORT_DEADLINE}{rules}[cache]\nsize = '{size_bytes}B'\n");
        fs::write(self.reader.home.join("p2pfs.toml"), text).unwrap();
        self.reader.signal(libc::SIGHUP);
        eventually("the configuration is read again", HANG_LIMIT, || {
            self.top()["cache"]["budget_bytes"] == size_bytes
        });
    }
}

fn file_of<'a>(reader: &'a Value, name: &str) -> &'a Value {
    let files = reader["files"].as_array().unwrap();
    let found = files.iter().find(|file| file["path"] == name);
    found.unwrap_or_else(|| panic!("{name} is not among {files:?}"))
}

/// Opens and reads a file in a thread whose name differs from that of the process.
fn read_in_a_thread(path: &Path) -> io::Result<Vec<u8>> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("pool-worker".to_owned());
        let worker = worker.spawn_scoped(scope, || fs::read(path)).unwrap();
        worker.join().unwrap()
    })
}

fn own_name() -> String {
    let name = fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
    name.trim_end().to_owned()
}

#[apply(promise)]
fn a_reader_is_identified_by_its_first_thread() {
    let world = world();
    let bytes = noise(3, MIB);
    let path = world.share("threads.bin", &bytes);
    world.configure(&format!("[readers]\ncached_only = ['{}']\n", own_name()));
    let refused = read_in_a_thread(&path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    world.configure("[readers]\ncached_only = ['pool-worker']\n");
    let refused = read_in_a_thread(&path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    let served = fs::read(&path);
    assert!(
        served.unwrap() == bytes,
        "another thread is not on the list"
    );
    world.configure("");
    assert!(read_in_a_thread(&path).unwrap() == bytes);
    let reader = world.reader_named(&own_name()).unwrap();
    assert_eq!(reader["pid"], std::process::id());
    assert_eq!(world.reader_named("pool-worker"), None);
    file_of(&reader, "threads.bin");
}

/// A control group of the test, removed on drop.
struct Group(PathBuf);

impl Group {
    fn new(unit: &str) -> io::Result<Self> {
        let roots = [
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup",
        ];
        let is_group = |root: &&str| Path::new(root).join("cgroup.procs").exists();
        let root = roots.into_iter().find(is_group);
        let root = root.ok_or(io::ErrorKind::NotFound)?;
        let dir = Path::new(root).join(unit);
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[apply(promise)]
#[takes("cat")]
fn a_unit_is_identified_by_its_control_group() {
    let world = world();
    let bytes = noise(4, MIB);
    let path = world.share("unit.bin", &bytes);
    let unit = format!("p2pfs-test-{}.service", std::process::id());
    let group = match Group::new(&unit) {
        Ok(group) => group,
        Err(error) => {
            eprintln!("SKIPPED: no control group can be made here: {error}");
            return;
        }
    };
    world.configure(&format!("[readers]\ncached_only = ['{unit}']\n"));
    let join = "echo $$ > \"$0/cgroup.procs\" && exec cat \"$1\"";
    let read_within = || {
        let mut shell = Command::new("sh");
        shell.args(["-c", join]).arg(&group.0).arg(&path);
        run(&mut shell)
    };
    let refused = read_within();
    assert!(
        refused.stderr.contains("Permission denied"),
        "{}",
        refused.stderr
    );
    assert!(
        run(Command::new("cat").arg(&path)).stdout == bytes,
        "others are served"
    );
    assert!(read_within().stdout == bytes, "and then it is cached");
    let reader = world.top()["readers"].as_array().unwrap().clone();
    let told = reader
        .iter()
        .find(|it| it["unit"] == unit.as_str())
        .unwrap();
    assert_eq!(told["cached_only"], true, "{told}");
    world.configure("");
}

#[apply(promise)]
#[takes("cat")]
fn a_refusal_is_immediate_and_fetches_nothing() {
    let world = world();
    let names: Vec<String> = (0..6).map(|n| format!("gallery/{n}.bin")).collect();
    for (seed, name) in (100..).zip(&names) {
        world.author.write(name, &noise(seed, 2 * MIB));
    }
    names
        .iter()
        .for_each(|name| world.reader.wait_for_file(name));
    // No holder answers, so a read that sends a request would wait for the deadline.
    let before = world.reader.traffic("received_bytes");
    let held = world.author.hold();
    let thumbnailer = world.program("tumblerd");
    let begun = Instant::now();
    for name in &names {
        let refused = run(Command::new(&thumbnailer).arg(world.reader.mounted(name)));
        assert!(
            refused.stderr.contains("Permission denied"),
            "{}",
            refused.stderr
        );
    }
    let took = begun.elapsed();
    let top = world.top();
    drop(held);
    assert!(
        took < 2 * SECOND * names.len() as u32,
        "each waited for the deadline of 2 s: {took:?}"
    );
    let fetched = top["transfers"].as_array().unwrap().iter();
    let wanted: Vec<_> = fetched
        .filter(|it| it["path"].as_str().unwrap().starts_with("gallery/"))
        .collect();
    assert!(wanted.is_empty(), "{wanted:?}");
    assert_eq!(
        world.reader.traffic("received_bytes"),
        before,
        "nothing came for it"
    );
}
