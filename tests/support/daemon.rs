//! Real daemons with real mounts on loopback, for tests that act as a user would: by commands,
//! by files, by signals. Every wait here is for an event and has a limit that fails the test.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything here takes on a slow machine: a test that reaches it has hung.
pub const HANG_LIMIT: Duration = Duration::from_secs(90);

/// The program under test.
pub const P2PFS: &str = env!("CARGO_BIN_EXE_p2pfs");

/// The program without the settings of whoever runs the tests: `P2PFS_SEEDS` asks a test for more
/// seeds, and a daemon to say hello to them.
pub fn program() -> Command {
    let mut command = Command::new(P2PFS);
    let ours = |name: &str| name.starts_with("P2PFS_") || name.starts_with("P2P_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The output of a command that must succeed.
    #[track_caller]
    pub fn expect_ok(self) -> String {
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
    pub fn expect_json(self) -> serde_json::Value {
        let text = self.expect_ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// A running child that does not outlive the test.
pub struct Running {
    child: Child,
    readers: Vec<thread::JoinHandle<Vec<u8>>>,
}

/// Starts a command with its output collected, SIGINT as a terminal would leave it, and its end
/// tied to this process.
pub fn start(command: &mut Command) -> Running {
    let mut running = start_as_it_is(command.stdout(Stdio::piped()));
    let out = running.child.stdout.take().unwrap();
    running.readers.insert(0, collect(out));
    running
}

/// The same, its output written where somebody reads it as it comes.
pub fn start_into(command: &mut Command, out: impl Into<Stdio>) -> Running {
    let mut running = start_as_it_is(command.stdout(out));
    // the other end is at its end when the command is: no copy of it stays here
    command.stdout(Stdio::null());
    running.readers.insert(0, collect(io::empty()));
    running
}

fn start_as_it_is(command: &mut Command) -> Running {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let err = child.stderr.take().unwrap();
    Running {
        child,
        readers: vec![collect(err)],
    }
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

impl Running {
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child was not waited for yet, so the pid is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end; a child that does not end within the limit fails the test.
    #[track_caller]
    pub fn finish(self, limit: Duration) -> Finished {
        let (finished, within) = self.end_within(limit);
        assert!(
            within,
            "still running after {limit:?}: {}{}",
            finished.text(),
            finished.stderr
        );
        finished
    }

    /// Waits for the end or kills at the limit; says which.
    pub fn end_within(mut self, limit: Duration) -> (Finished, bool) {
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

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    start(command).finish(HANG_LIMIT)
}

/// Runs a shell line to its end.
#[track_caller]
pub fn shell(line: &str) -> Finished {
    run(Command::new("sh").arg("-c").arg(line))
}

/// Asks again until it is so; fails the test at the limit. The question itself must be cheap.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "not so within {limit:?}: {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// How a node is started; what is not set has the daemon's default.
pub struct NodeOptions {
    pub name: String,
    pub listen: String,
    pub seeds: Vec<SocketAddr>,
    pub shares: Vec<PathBuf>,
    pub mounted: bool,
    pub more: Vec<String>,
    pub config: String,
}

impl NodeOptions {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            seeds: vec![],
            shares: vec![],
            mounted: true,
            more: vec![],
            config: String::new(),
        }
    }
}

/// A daemon of its own folder.
pub struct Node {
    pub name: String,
    pub home: PathBuf,
    pub mount: PathBuf,
    pub share: PathBuf,
    pub address: SocketAddr,
    options: NodeOptions,
    running: Option<Running>,
}

/// Daemons that share one secret, in one temporary folder.
pub struct Cluster {
    pub folder: tempfile::TempDir,
    secret: PathBuf,
    seeds: Vec<SocketAddr>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("p2pfs-test-")
            .tempdir()
            .unwrap();
        open_to_others(folder.path());
        let secret = folder.path().join("secret");
        write_secret(&secret, &"5a".repeat(32));
        Self {
            folder,
            secret,
            seeds: vec![],
        }
    }

    /// Nodes that each make a secret of their own at their first start: strangers until one
    /// invites another.
    pub fn with_own_secrets() -> Self {
        let cluster = Self::new();
        fs::remove_file(&cluster.secret).unwrap();
        cluster
    }

    /// Another secret: nodes started from now on are strangers to those before.
    pub fn change_secret(&mut self, digits: &str) {
        self.secret = self.folder.path().join(format!("secret-{}", &digits[..4]));
        write_secret(&self.secret, digits);
    }

    /// Starts a node that shares its folder `share` and knows those started before it.
    pub fn start(&mut self, name: &str) -> Node {
        self.start_with(NodeOptions::new(name))
    }

    pub fn start_with(&mut self, mut options: NodeOptions) -> Node {
        let home = self.folder.path().join(&options.name);
        let (share, mount) = (home.join("share"), home.join("mnt"));
        [&share, &mount]
            .iter()
            .for_each(|dir| fs::create_dir_all(dir).unwrap());
        open_to_others(&share);
        fs::write(home.join("p2pfs.toml"), &options.config).unwrap();
        let _ = fs::copy(&self.secret, home.join("secret"));
        options.seeds.extend(&self.seeds);
        if options.shares.is_empty() {
            options.shares.push(share.clone());
        }
        let name = options.name.clone();
        let address = "127.0.0.1:0".parse().unwrap();
        let mut node = Node {
            name,
            home,
            mount,
            share,
            address,
            options,
            running: None,
        };
        node.launch();
        self.seeds.push(node.address);
        node
    }

    /// Starts nodes one after the other and waits until each knows all others.
    pub fn start_all(&mut self, names: &[&str]) -> Vec<Node> {
        let nodes: Vec<Node> = names.iter().map(|name| self.start(name)).collect();
        let others = (names.len() - 1).to_string();
        for node in &nodes {
            node.cli(&["wait", "--peers", &others, "--timeout", "60s"])
                .expect_ok();
        }
        nodes
    }
}

fn write_secret(path: &Path, digits: &str) {
    fs::write(path, format!("{digits}\n")).unwrap();
    set_mode(path, 0o600);
}

fn open_to_others(dir: &Path) {
    set_mode(dir, 0o755);
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

impl Node {
    fn daemon_command(&self) -> Command {
        let mut command = program();
        command
            .arg("daemon")
            .arg("--config")
            .arg(self.home.join("p2pfs.toml"));
        command.args(["--name", &self.name, "--listen", &self.options.listen]);
        let secret = self.home.join("secret");
        if secret.exists() {
            command.arg("--secret-file").arg(secret);
        }
        for dir in ["state", "cache"] {
            command.arg(format!("--{dir}")).arg(self.home.join(dir));
        }
        command.arg("--socket").arg(self.socket());
        if self.options.mounted {
            command.arg("--mount").arg(&self.mount);
        }
        self.options.seeds.iter().for_each(|seed| {
            command.arg("--seed").arg(seed.to_string());
        });
        self.options.shares.iter().for_each(|share| {
            command.arg("--share").arg(share);
        });
        command.args(&self.options.more);
        command
    }

    /// Starts the daemon and waits until it serves; keeps its address for later starts.
    #[track_caller]
    pub fn launch(&mut self) {
        let mut running = start(&mut self.daemon_command());
        let mut wait = vec!["wait", "--timeout", "60s"];
        if self.options.mounted {
            wait.push("--mounted");
        }
        let ready = self.cli(&wait);
        if !ready.status.success() {
            running.signal(libc::SIGTERM);
            let (ended, _) = running.end_within(Duration::from_secs(5));
            panic!(
                "{} did not start: {}{}",
                self.name, ready.stderr, ended.stderr
            );
        }
        assert!(running.is_running());
        let status = self.cli(&["status", "--json"]).expect_json();
        self.address = status["address"].as_str().unwrap().parse().unwrap();
        self.options.listen = self.address.to_string();
        self.running = Some(running);
    }

    pub fn socket(&self) -> PathBuf {
        self.home.join("p2pfs.sock")
    }

    /// Runs a command of the program against this daemon.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Finished {
        run(&mut self.cli_command(arguments))
    }

    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    /// Waits until the path is listed on this node.
    #[track_caller]
    pub fn wait_for_file(&self, path: &str) {
        self.cli(&["wait", "--file", path, "--timeout", "60s"])
            .expect_ok();
    }

    pub fn signal(&self, signal: i32) {
        self.running.as_ref().unwrap().signal(signal);
    }

    /// Stops the daemon as a service manager would; says what it printed.
    #[track_caller]
    pub fn stop(&mut self) -> Finished {
        self.signal(libc::SIGTERM);
        self.running.take().unwrap().finish(HANG_LIMIT)
    }

    /// Waits until the daemon, told otherwise than by a signal, has ended.
    #[track_caller]
    pub fn await_end(&mut self) -> Finished {
        self.running.take().unwrap().finish(HANG_LIMIT)
    }

    /// Ends the daemon without warning.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        let finished = self.running.take().unwrap().finish(HANG_LIMIT);
        assert_eq!(finished.status.signal(), Some(libc::SIGKILL));
    }

    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::is_running)
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid()
    }

    /// Writes a file into the share as a writer would: under its name, then closed.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        let full = self.share.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, bytes).unwrap();
        set_mode(&full, 0o644);
    }

    pub fn mounted(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(libc::SIGTERM);
            let (ended, within) = running.end_within(Duration::from_secs(20));
            if !within || thread::panicking() {
                eprintln!("--- log of {}:\n{}", self.name, ended.stderr);
            }
        }
        detach(&self.mount);
    }
}

/// Takes a mount away whatever became of its daemon.
pub fn detach(mount: &Path) {
    if is_mounted(mount) {
        let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Whether something is mounted exactly there, without touching it.
pub fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_string_lossy();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&dir))
}

/// Bytes that no compression or sharing makes smaller, the same for the same seed.
pub fn noise(seed: u64, length_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; length_bytes];
    let mut reader = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

/// The hash of a file, read in pieces.
pub fn hash_of(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}
