//! Who reads in a mount: `p2pfs top` names them, budgets slow them, and those on the list of
//! `cached_only` make nothing come. Real daemons, real mounts, real processes.

pub mod terminal;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;
use parking_lot::{Mutex, MutexGuard};

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};
use serde_json::Value;

const NEEDS: &[Need] = &[mount];

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

/// The two nodes that all promises share.
struct World {
    author: Node,
    reader: Node,
    // after the nodes: they are stopped before its folder goes
    cluster: Cluster,
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

/// What a reader waits for other nodes at most, so that a wait for a budget is seen to be longer.
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
            .cli(&["wait", "--peers", "1", "--timeout", "60s"])
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
    /// A file that the author shares and nobody has cached.
    fn share(&self, name: &str, bytes: &[u8]) -> PathBuf {
        self.author.write(name, bytes);
        self.reader.wait_for_file(name);
        self.reader.mounted(name)
    }

    /// `cat` under another name, as the kernel and the daemon know it.
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

    /// Waits until the process waits for its budget.
    #[track_caller]
    fn wait_for_delay(&self, pid: u32) {
        eventually("it waits for its budget", 60 * SECOND, || {
            let readers = self.top()["readers"].as_array().unwrap().clone();
            let slow = readers.into_iter().find(|it| it["pid"] == pid);
            slow.is_some_and(|it| it["waiting"]["waiting_for"] == "budget")
        });
    }

    /// Lets a program have so much.
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

    /// Gives the reading daemon these rules, and waits until it goes by them: they are taken over
    /// before the size of the cache, which shows.
    #[track_caller]
    fn configure(&self, rules: &str) {
        static CONFIGURED: AtomicU64 = AtomicU64::new(0);
        let size_bytes = (1 << 30) + CONFIGURED.fetch_add(1, Ordering::Relaxed);
        let text = format!("{SHORT_DEADLINE}{rules}[cache]\nsize = '{size_bytes}B'\n");
        fs::write(self.reader.home.join("p2pfs.toml"), text).unwrap();
        self.reader.signal(libc::SIGHUP);
        eventually("the configuration is read again", 60 * SECOND, || {
            self.top()["cache"]["budget_bytes"] == size_bytes
        });
    }

    fn received_bytes(&self) -> u64 {
        let status = self.reader.cli(&["status", "--json"]).expect_json();
        status["traffic"]["received_bytes"].as_u64().unwrap()
    }
}

fn file_of<'a>(reader: &'a Value, name: &str) -> &'a Value {
    let files = reader["files"].as_array().unwrap();
    let found = files.iter().find(|file| file["path"] == name);
    found.unwrap_or_else(|| panic!("{name} is not among {files:?}"))
}

#[apply(promise)]
#[takes("cat")]
fn top_names_a_reader_with_its_file_while_it_waits() {
    let world = world();
    let name = "wait\u{1b}for-me.bin";
    let bytes = noise(1, MIB);
    let path = world.share(name, &bytes);
    let program = world.program("patient-reader");
    world.author.signal(libc::SIGSTOP);
    let running = start(Command::new(&program).arg(&path));
    let mut waiting = None;
    eventually("the reader is seen to wait", 60 * SECOND, || {
        let reader = world.reader_named("patient-reader");
        waiting = reader.filter(|it| it["waiting"]["waiting_for"] == "peers");
        waiting.is_some()
    });
    let reader = waiting.unwrap();
    assert_eq!(reader["pid"], running.pid());
    assert_eq!(reader["uid"], rustix::process::getuid().as_raw());
    let file = file_of(&reader, name);
    assert_eq!(
        (&file["open"], &file["by_kernel"]),
        (&1.into(), &false.into())
    );
    assert!(
        file["waiting"]["waiting_reads"].as_u64().unwrap() >= 1,
        "{file}"
    );
    let top = world.top();
    let transfers = top["transfers"].as_array().unwrap();
    let transfer = transfers.iter().find(|it| it["path"] == name).unwrap();
    assert_eq!(transfer["size_bytes"], MIB as u64);
    let text = world.reader.cli(&["top", "--once"]).expect_ok();
    assert!(text.contains("patient-reader"), "{text}");
    assert!(text.contains("wait\\u{1b}for-me.bin"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    world.author.signal(libc::SIGCONT);
    // the short deadline may have passed meanwhile: that is another promise
    running.finish(HANG_LIMIT);
}

#[apply(promise)]
#[takes("cat")]
fn top_tells_what_came_from_the_cache_and_what_from_others() {
    let world = world();
    let bytes = noise(2, 3 * MIB);
    let path = world.share("origin.bin", &bytes);
    let program = world.program("cold-reader");
    let read = run(Command::new(&program).arg(&path));
    assert!(read.stdout == bytes);
    let cold = world.reader_named("cold-reader").unwrap();
    assert_eq!(cold["from_peers_bytes"], bytes.len(), "{cold}");
    assert_eq!(cold["from_cache_bytes"], 0, "{cold}");
    let file = file_of(&cold, "origin.bin");
    assert_eq!(file["open"], 0, "closed, and still told of: {file}");
    // whether the kernel reads it or the daemon gives it, nothing comes a second time
    let warm = run(Command::new(world.program("warm-reader")).arg(&path));
    assert!(warm.stdout == bytes);
    let warm = world.reader_named("warm-reader").unwrap();
    assert_eq!(warm["from_peers_bytes"], 0, "{warm}");
    let status = world.reader.cli(&["status", "--json"]).expect_json();
    let passthrough = &status["mount"]["activity"]["passthrough"];
    assert_eq!(&file_of(&warm, "origin.bin")["by_kernel"], passthrough);
}

#[apply(promise)]
fn top_prints_a_line_of_json_for_each_look() {
    let world = world();
    let mut command = world
        .reader
        .cli_command(&["top", "--json", "--interval", "50ms"]);
    let (read, write) = io::pipe().unwrap();
    let mut child = command.stdout(write).spawn().unwrap();
    drop(command);
    let lines = io::BufRead::lines(io::BufReader::new(read)).take(3);
    for line in lines {
        let look: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(look["name"], "reader");
        assert_eq!(look["peers"][0]["name"], "author");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[apply(promise)]
fn the_live_view_draws_ends_and_gives_the_terminal_back() {
    let world = world();
    for (how, keys, signal) in [
        ("the key q", &b"q"[..], None),
        ("Ctrl-C", b"\x03", None),
        ("SIGTERM", b"", Some(libc::SIGTERM)),
    ] {
        let mut terminal = terminal::Terminal::open(30, 100);
        let before = terminal.settings();
        let mut child = terminal.run(world.reader.cli_command(&["top"]).env("NO_COLOR", "1"));
        terminal.read_until("q: quit");
        let shown = terminal.shown();
        assert!(
            shown.contains("reader") && shown.contains("author"),
            "{shown}"
        );
        assert!(
            shown.contains("\x1b[?1049h"),
            "on a screen of its own: {shown:?}"
        );
        for number in (30..38).chain(40..48).chain(90..98) {
            let coloured = format!("\x1b[{number}m");
            assert!(!shown.contains(&coloured), "coloured: {shown:?}");
        }
        assert!(terminal.settings() != before, "it reads key by key");
        terminal.write(keys);
        if let Some(signal) = signal {
            // SAFETY: the child was not waited for yet, so the pid is still its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
        let mut status = None;
        eventually(how, 60 * SECOND, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0), "{how}");
        assert_eq!(terminal.settings(), before, "{how}");
        terminal.read_until("\x1b[?1049l");
        terminal.read_until("\x1b[?25h");
    }
}

/// Opens and reads a file in a thread that has another name than the process.
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
fn a_reader_is_told_and_judged_by_its_first_thread() {
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

/// A control group of the test's own, gone with it.
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
fn a_unit_is_known_by_its_control_group() {
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
fn a_refusal_is_quick_and_makes_nothing_come() {
    let world = world();
    let names: Vec<String> = (0..20).map(|n| format!("gallery/{n}.bin")).collect();
    for (seed, name) in (100..).zip(&names) {
        world.author.write(name, &noise(seed, 2 * MIB));
    }
    names
        .iter()
        .for_each(|name| world.reader.wait_for_file(name));
    // nobody answers: a read that asked would wait for the deadline
    let before = world.received_bytes();
    world.author.signal(libc::SIGSTOP);
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
    world.author.signal(libc::SIGCONT);
    assert!(
        took < 2 * SECOND * names.len() as u32,
        "each waited for the deadline of 2 s: {took:?}"
    );
    let fetched = top["transfers"].as_array().unwrap().iter();
    let wanted: Vec<_> = fetched
        .filter(|it| it["path"].as_str().unwrap().starts_with("gallery/"))
        .collect();
    assert!(wanted.is_empty(), "{wanted:?}");
    assert_eq!(world.received_bytes(), before, "nothing came for it");
}

#[apply(promise)]
#[takes("cat")]
fn a_budget_holds_and_slows_nobody_else() {
    let world = world();
    let bytes = noise(5, 5 * MIB);
    let path = world.share("budget.bin", &bytes);
    let other = world.share("no-budget.bin", &noise(6, 2 * MIB));
    let program = world.program("slow-reader");
    world.set_budget("slow-reader", MIB as u64 / 8);
    let mut slow = start(Command::new(&program).arg(&path));
    world.wait_for_delay(slow.pid());
    // others are served meanwhile, another file and the same one
    assert!(run(Command::new("cat").arg(&other)).status.success());
    assert!(slow.is_running(), "a file of 5 MiB at 128 KiB/s takes 40 s");
    let first_part = fs::File::open(&path).unwrap();
    let mut part = vec![0; MIB];
    io::Read::read_exact(&mut &first_part, &mut part).unwrap();
    assert!(
        part == bytes[..MIB],
        "the same file, to one without a budget"
    );
    drop(first_part);
    world.set_budget("slow-reader", MIB as u64);
    let finished = slow.finish(HANG_LIMIT);
    assert!(
        finished.stdout == bytes,
        "slow, and right: {}",
        finished.stderr
    );
    // what is cached is not slowed
    world.set_budget("slow-reader", 64 << 10);
    let again = start(Command::new(&program).arg(&path));
    assert!(again.finish(60 * SECOND).stdout == bytes);
    world.configure("");
}

#[apply(promise)]
#[takes("cat")]
fn a_read_that_waits_for_its_budget_is_no_error_and_can_be_ended() {
    let world = world();
    let program = world.program("slowest-reader");
    world.set_budget("slowest-reader", 64 << 10);
    // a read of 128 KiB waits 2 s and more, which is the read deadline
    let bytes = noise(7, 448 << 10);
    let path = world.share("delayed.bin", &bytes);
    let begun = Instant::now();
    let finished = start(Command::new(&program).arg(&path)).finish(HANG_LIMIT);
    assert!(finished.stdout == bytes, "{}", finished.stderr);
    assert!(
        begun.elapsed() > 3 * SECOND,
        "448 KiB in {:?}",
        begun.elapsed()
    );
    let path = world.share("never-read.bin", &noise(8, 4 * MIB));
    let slow = start(Command::new(&program).arg(&path));
    world.wait_for_delay(slow.pid());
    slow.signal(libc::SIGINT);
    let begun = Instant::now();
    slow.finish(HANG_LIMIT);
    assert!(
        begun.elapsed() < SECOND,
        "{:?} after Ctrl-C",
        begun.elapsed()
    );
    world.configure("");
}

extern "C" fn note_signal(_: libc::c_int) {}

#[apply(promise)]
#[takes("dd")]
fn a_signal_that_is_caught_ends_no_wait_for_a_budget_and_a_fatal_one_does() {
    let world = world();
    // the test itself, in a thread that is told of a signal and whose call is not begun anew
    world.set_budget(&own_name(), 64 << 10);
    let bytes = noise(9, MIB);
    let path = world.share("signals.bin", &bytes);
    let pid = std::process::id();
    // SAFETY: the handler does nothing, and the struct is plain numbers.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note_signal as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // SAFETY: the call takes nothing and gives this thread.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            let file = fs::File::open(&path)?;
            let mut buffer = vec![0; 192 << 10];
            let first = io::Read::read(&mut &file, &mut buffer)?;
            let second = io::Read::read(&mut &file, &mut buffer)?;
            io::Result::Ok((first, second, buffer))
        });
        let thread = told.recv().unwrap();
        world.wait_for_delay(pid);
        for _ in 0..3 {
            // SAFETY: the thread is joined only below.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
        }
        let (first, second, buffer) = reading.join().unwrap().unwrap();
        assert_eq!((first, second), (192 << 10, 192 << 10));
        assert!(buffer == bytes[first..first + second]);
    });
    // a program that catches one signal ends by another all the same
    let program = world.cluster.folder.path().join("slow-dd");
    copy_program("/bin/dd", &program);
    world.set_budget("slow-dd", 64 << 10);
    let path = world.share("signals-too.bin", &noise(10, 4 * MIB));
    let from = format!("if={}", path.display());
    let mut slow = start(Command::new(&program).args([&from, "of=/dev/null", "bs=1M"]));
    world.wait_for_delay(slow.pid());
    slow.signal(libc::SIGUSR1);
    world.wait_for_delay(slow.pid());
    assert!(slow.is_running());
    slow.signal(libc::SIGTERM);
    let begun = Instant::now();
    slow.finish(HANG_LIMIT);
    assert!(
        begun.elapsed() < SECOND,
        "{:?} after SIGTERM",
        begun.elapsed()
    );
    world.configure("");
}
