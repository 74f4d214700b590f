//! Real daemons with real mounts on loopback, for tests that act as a user: by commands, by files,
//! by signals. Every wait is for an event, and a limit fails the test.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::ports::free_port;
use super::process::*;

/// How to start a node. Unset fields have the daemon's defaults.
pub(crate) struct NodeOptions {
    pub name: String,
    pub listen: String,
    pub seeds: Vec<SocketAddr>,
    pub shares: Vec<PathBuf>,
    pub mounted: bool,
    pub more: Vec<String>,
    pub config: String,
    /// Environment of the daemon's process.
    pub environment: Vec<(&'static str, String)>,
    /// A program with its arguments that executes the daemon, such as `setpriv`.
    pub through: Vec<String>,
}

impl NodeOptions {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            listen: any_address(),
            seeds: vec![],
            shares: vec![],
            mounted: true,
            more: vec![],
            config: String::new(),
            environment: vec![],
            through: vec![],
        }
    }

    /// Returns options without a mount.
    pub(crate) fn unmounted(name: &str) -> Self {
        Self {
            mounted: false,
            config: "[mount]\nenabled = false\n".to_owned(),
            ..Self::new(name)
        }
    }
}

/// A daemon with its own folder.
pub(crate) struct Node {
    pub name: String,
    pub home: PathBuf,
    pub mount: PathBuf,
    pub share: PathBuf,
    pub address: SocketAddr,
    /// Options of the next start.
    pub options: NodeOptions,
    running: Option<Running>,
}

/// Daemons that share one secret, in one temporary folder.
pub(crate) struct Cluster {
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
    pub(crate) fn new() -> Self {
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

    /// Returns a cluster whose nodes each make their own secret at their first start. They are
    /// strangers until one invites another.
    pub(crate) fn with_own_secrets() -> Self {
        let cluster = Self::new();
        fs::remove_file(&cluster.secret).unwrap();
        cluster
    }

    /// Changes the secret. Nodes started from now on are strangers to the earlier ones.
    pub(crate) fn change_secret(&mut self, digits: &str) {
        self.secret = self.folder.path().join(format!("secret-{}", &digits[..4]));
        write_secret(&self.secret, digits);
    }

    /// Starts a node that shares its folder `share` and knows those started before it.
    pub(crate) fn start(&mut self, name: &str) -> Node {
        self.start_with(NodeOptions::new(name))
    }

    pub(crate) fn start_with(&mut self, mut options: NodeOptions) -> Node {
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
    pub(crate) fn start_all(&mut self, names: &[&str]) -> Vec<Node> {
        let nodes: Vec<Node> = names.iter().map(|name| self.start(name)).collect();
        let others = (names.len() - 1).to_string();
        for node in &nodes {
            node.cli(&["wait", "--peers", &others, "--timeout", WAIT_LIMIT])
                .expect_ok();
        }
        nodes
    }
}

/// Default probe period of a test's nodes. With more daemons than processors, a daemon may not run
/// for seconds. Its peers would then rightly declare it dead and stop listing its files. A test
/// that waits for a death waits longer.
const PATIENT_PERIOD: &str = "2s";

fn write_secret(path: &Path, digits: &str) {
    fs::write(path, format!("{digits}\n")).unwrap();
    set_mode(path, 0o600);
}

fn open_to_others(dir: &Path) {
    set_mode(dir, 0o755);
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

impl Node {
    pub(crate) fn daemon_command(&self) -> Command {
        let mut command = program_through(&self.options.through);
        command.env("P2PFS_MEMBERSHIP_PERIOD", PATIENT_PERIOD);
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
        let environment = self.options.environment.iter();
        command.envs(environment.map(|(name, value)| (name, value)));
        command
    }

    /// Starts the daemon and waits until it serves. Keeps its address for later starts.
    #[track_caller]
    pub(crate) fn launch(&mut self) {
        let mut running = start(&mut self.daemon_command());
        let mut wait = vec!["wait", "--timeout", WAIT_LIMIT];
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

    /// Makes the next start use another address.
    pub(crate) fn take_any_port(&mut self) {
        self.options.listen = any_address();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.join("p2pfs.sock")
    }

    /// Runs a command of the program against this daemon.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> Finished {
        run(&mut self.cli_command(arguments))
    }

    /// Returns the bytes of files received (`received_bytes`) or sent (`sent_bytes`) since its
    /// start.
    #[track_caller]
    pub(crate) fn traffic(&self, way: &str) -> usize {
        let status = self.cli(&["status", "--json"]).expect_json();
        usize::try_from(status["traffic"][way].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    /// Waits until the path is listed on this node.
    #[track_caller]
    pub(crate) fn wait_for_file(&self, path: &str) {
        self.cli(&["wait", "--file", path, "--timeout", WAIT_LIMIT])
            .expect_ok();
    }

    pub(crate) fn signal(&self, signal: i32) {
        self.running.as_ref().unwrap().signal(signal);
    }

    /// Stops the daemon's process until the result is dropped, even if the test fails. Other tests
    /// may share this daemon.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.signal(libc::SIGSTOP);
        Held(self)
    }

    /// Stops the daemon as a service manager does. Returns its output.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> Finished {
        self.signal(libc::SIGTERM);
        self.running.take().unwrap().finish(HANG_LIMIT)
    }

    /// Waits for the end of a daemon that was not stopped by a signal.
    #[track_caller]
    pub(crate) fn await_end(&mut self) -> Finished {
        self.running.take().unwrap().finish(HANG_LIMIT)
    }

    /// Kills the daemon.
    pub(crate) fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        let finished = self.running.take().unwrap().finish(HANG_LIMIT);
        assert_eq!(finished.status.signal(), Some(libc::SIGKILL));
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::is_running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid()
    }

    /// Writes a file into the share as a program does: under its final name, then closed.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let full = self.share.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, bytes).unwrap();
        set_mode(&full, 0o644);
    }

    pub(crate) fn mounted(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }

    /// Changes bytes of a content in the cache at this offset, as a failing disk does.
    pub(crate) fn damage_cached(&self, bytes: &[u8], offset: u64) {
        let hash = blake3::hash(bytes).to_hex();
        let data = format!("cache/{}/{hash}.data", &hash[..2]);
        let file = fs::File::options().write(true).open(self.home.join(data));
        file.unwrap().write_all_at(b"rot", offset).unwrap();
    }
}

/// A daemon whose process is stopped.
pub(crate) struct Held<'a>(&'a Node);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.signal(libc::SIGCONT);
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

/// Detaches a mount, in whatever state its daemon is.
pub(crate) fn detach(mount: &Path) {
    if is_mounted(mount) {
        let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Returns whether a filesystem is mounted exactly there, without touching it.
pub(crate) fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_string_lossy();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&dir))
}

/// Returns an address that no other program uses, even while its node is down.
fn any_address() -> String {
    format!("127.0.0.1:{}", free_port())
}
