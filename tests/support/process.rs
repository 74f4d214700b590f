//! Programs that tests run, each with an end, and waits for events with a limit that fails the
//! test.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limit after which a test counts as hung. It is far more than any step takes on a slow machine.
pub(crate) const HANG_LIMIT: Duration = Duration::from_secs(400);
/// Limit of `p2pfs wait` for what must come. It is less than [`HANG_LIMIT`], so that the command
/// says what it waits for.
pub(crate) const WAIT_LIMIT: &str = "300s";

/// The program under test.
pub(crate) const P2PFS: &str = env!("CARGO_BIN_EXE_p2pfs");

/// Returns the program without the settings of the test run. `P2PFS_SEEDS` is a number of seeds for
/// a test, but a list of addresses for a daemon.
pub(crate) fn program() -> Command {
    program_through(&[])
}

/// Returns the program started by another one, which executes it.
pub(crate) fn program_through(through: &[String]) -> Command {
    let mut words = through.iter().map(String::as_str).chain([P2PFS]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    let ours = |name: &str| name.starts_with("P2PFS_") || name.starts_with("P2P_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command
}

/// The output and status of a finished command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the output of a command that must succeed.
    #[track_caller]
    pub(crate) fn expect_ok(self) -> String {
        assert!(
            self.status.success(),
            "{:?}: {}{}",
            self.status,
            self.text(),
            self.stderr
        );
        self.text()
    }

    #[track_caller]
    pub(crate) fn expect_json(self) -> serde_json::Value {
        let text = self.expect_ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// A running child that does not outlive the test.
pub(crate) struct Running {
    child: Child,
    readers: Vec<thread::JoinHandle<Vec<u8>>>,
}

/// Starts a command, collects its output, restores SIGINT as on a terminal, and ties its end to
/// this process.
pub(crate) fn start(command: &mut Command) -> Running {
    collected(command, tied)
}

fn collected(command: &mut Command, begin: fn(&mut Command) -> io::Result<Child>) -> Running {
    let mut running = begun(command.stdout(Stdio::piped()), begin);
    let out = running.child.stdout.take().unwrap();
    running.readers.insert(0, collect(out));
    running
}

/// Starts a command with its output written to `out`, from which a reader can read it as it
/// arrives.
pub(crate) fn start_into(command: &mut Command, out: impl Into<Stdio>) -> Running {
    let mut running = begun(command.stdout(out), tied);
    // Dropping this copy lets the reader see the end of the output at the command's end.
    command.stdout(Stdio::null());
    running.readers.insert(0, collect(io::empty()));
    running
}

/// Runs a command with both outputs closed at the reading end.
pub(crate) fn run_unread(command: &mut Command) -> ExitStatus {
    let nobody = || {
        let (read, written) = io::pipe().expect("a pipe");
        drop(read);
        written
    };
    command
        .stdin(Stdio::null())
        .stdout(nobody())
        .stderr(nobody());
    let mut child = tied(command).unwrap_or_else(|e| panic!("{command:?}: {e}"));
    wait_child(&mut child, HANG_LIMIT)
}

fn begun(command: &mut Command, begin: fn(&mut Command) -> io::Result<Child>) -> Running {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = begin(command).unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let err = child.stderr.take().unwrap();
    Running {
        child,
        readers: vec![collect(err)],
    }
}

/// Restores SIGINT as on a terminal. A command that a shell runs in the background ignores it.
pub(crate) fn hearing_interrupts(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        })
    }
}

fn tied(command: &mut Command) -> io::Result<Child> {
    hearing_interrupts(command);
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    fork(command)
}

/// Starts a command from the one thread that lives as long as this process. The kernel kills a
/// child of `PR_SET_PDEATHSIG` when the *thread* that forked it ends (prctl(2)), and each
/// concurrent test is a thread.
pub(crate) fn fork(command: &mut Command) -> io::Result<Child> {
    type Forked = (Command, io::Result<Child>);
    type Order = (Command, mpsc::Sender<Forked>);
    static PARENT: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, coming) = mpsc::channel::<Order>();
        leave_no_core();
        thread::spawn(move || {
            for (mut command, reply) in coming {
                let child = command.spawn();
                let _ = reply.send((command, child));
            }
        });
        orders
    });
    let (reply, forked) = mpsc::channel();
    let order = std::mem::replace(command, Command::new(""));
    PARENT.send((order, reply)).expect("the parent lives");
    let (order, child) = forked.recv().expect("the parent answers");
    *command = order;
    child
}

/// Sets the limit of core files to 0 for this process and its children. Tests end programs by
/// signals that would leave a file `core` in the checkout.
fn leave_no_core() {
    let maximum = getrlimit(Resource::Core).maximum;
    let current = Some(0);
    setrlimit(Resource::Core, Rlimit { current, maximum }).expect("a limit can be lowered");
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

impl Running {
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: the child was not waited for yet, so the pid is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end. A child that does not end within the limit fails the test.
    #[track_caller]
    pub(crate) fn finish(self, limit: Duration) -> Finished {
        let (finished, within) = self.end_within(limit);
        assert!(
            within,
            "still running after {limit:?}: {}{}",
            finished.text(),
            finished.stderr
        );
        finished
    }

    /// Waits for the end, or kills the child at the limit. Returns which one happened.
    pub(crate) fn end_within(mut self, limit: Duration) -> (Finished, bool) {
        let pid = self.child.id() as i32;
        let (ended, wait_end) = mpsc::channel();
        let waiter = thread::spawn(move || {
            let status = self.child.wait().unwrap();
            let _ = ended.send(());
            (status, self.readers)
        });
        let within = wait_end.recv_timeout(limit).is_ok();
        if !within {
            // SAFETY: the waiter still waits, so the pid is still the child's.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let (status, readers) = waiter.join().unwrap();
        let mut outputs = readers.into_iter().map(|reader| reader.join().unwrap());
        let stdout = outputs.next().unwrap();
        let stderr = String::from_utf8_lossy(&outputs.next().unwrap()).into_owned();
        (
            Finished {
                status,
                stdout,
                stderr,
            },
            within,
        )
    }
}

/// Runs a command to its end without tying it to this process. A step before the exec would copy
/// the memory map of the tests for each of thousands of commands.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Finished {
    collected(command, Command::spawn).finish(HANG_LIMIT)
}

/// Runs a program to its end, by name or by path.
#[track_caller]
pub(crate) fn run_with(program: &str, arguments: &[&dyn AsRef<OsStr>]) -> Finished {
    let mut command = Command::new(program);
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    run(&mut command)
}

/// Copies a program to another name, ready to run.
///
/// A separate process does this. A descriptor that is open for writing here would be inherited by
/// programs that other tests start meanwhile. A program open for writing fails to start with
/// `ETXTBSY`.
#[track_caller]
pub(crate) fn copy_program(program: &str, to: &Path) {
    run_with("install", &[&"-m", &"755", &program, &to]).expect_ok();
}

/// Runs a shell line to its end.
#[track_caller]
pub(crate) fn shell(line: &str) -> Finished {
    run(Command::new("sh").arg("-c").arg(line))
}

/// Asks again until the condition holds, and fails the test at the limit. The question itself must
/// be cheap.
#[track_caller]
pub(crate) fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "not so within {limit:?}: {what}");
        look_again();
    }
}

/// Returns a packet socket connected to the listener at that path. The path exists shortly before
/// the listener does.
pub(crate) fn connected(name: &Path) -> io::Result<OwnedFd> {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = rustix::net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(name)?)?;
    Ok(socket)
}

/// Pauses between two checks of a state that sends no event. No test may depend on the duration.
pub(crate) fn look_again() {
    thread::park_timeout(Duration::from_millis(20));
}

/// Maximum duration of a call that does not wait, on the slowest machine. A wait in its place must
/// take several times as long.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(100);

/// Waits for a child to end. Kills it and fails if it does not.
pub(crate) fn wait_child(child: &mut Child, patience: Duration) -> std::process::ExitStatus {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let limit = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    if poll(&mut ended, Some(&limit)).unwrap() == 0 {
        let _ = child.kill();
        panic!("the child is still there after {patience:?}");
    }
    child.wait().unwrap()
}

/// Returns the library that gives a program another clock (Debian's package faketime).
pub(crate) fn fake_clock() -> Option<PathBuf> {
    let mut places = fs::read_dir("/usr/lib").ok()?.flatten();
    places.find_map(|place| {
        let library = place.path().join("faketime/libfaketime.so.1");
        library.exists().then_some(library)
    })
}

/// Returns the resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// Returns an amount in KiB from the status of a process (proc_pid_status(5)).
pub(crate) fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
