//! Daemons of the demo: started as a user would start them, each in its own folder.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::TryRng;
use rand::rngs::SysRng;

use super::super::VERSION;
use super::super::ending;
use super::super::own_program::own_program;
use super::files::fill_share;
use super::folder::make_folder;
use super::typed::{typed, typed_on_lines};
use super::{DemoError, DemoOptions, is_interrupted};
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};
use p2pfs_types::files::open_private;

/// How long all daemons together may take to unmount and end before the remaining ones are killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Interval between checks of a child process.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// The daemons and the folder that contains all of them.
pub struct DemoCluster {
    pub(super) folder: PathBuf,
    pub(super) nodes: Vec<DemoNode>,
    is_stopped: bool,
}

/// One daemon.
pub(super) struct DemoNode {
    pub(super) name: String,
    pub(super) home: PathBuf,
    child: Option<Child>,
}

impl DemoNode {
    pub(super) fn mount(&self) -> PathBuf {
        self.home.join("mnt")
    }

    pub(super) fn share(&self) -> PathBuf {
        self.home.join("share")
    }

    fn socket(&self) -> PathBuf {
        self.home.join("p2pfs.sock")
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Returns a command of this program for this node.
    pub(super) fn command(&self, arguments: &[&str]) -> Result<Command, DemoError> {
        let mut command = Command::new(this_program()?);
        command.args(arguments).arg("--socket").arg(self.socket());
        Ok(command)
    }

    /// Returns the last line of the node's log. After a failed start, this line has the cause and
    /// the remedy.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or("it said nothing")
            .to_owned()
    }
}

fn this_program() -> Result<PathBuf, DemoError> {
    own_program().map_err(|source| DemoError::Folder {
        action: "read",
        path: PathBuf::from("/proc/self/exe"),
        source,
    })
}

impl DemoCluster {
    /// Creates the folder, fills the shares and starts the daemons. The first daemon is the seed of
    /// all others.
    pub(super) fn start(options: &DemoOptions) -> Result<Self, DemoError> {
        let folder = make_folder(options.dir.as_deref())?;
        let mut cluster = Self {
            folder,
            nodes: vec![],
            is_stopped: false,
        };
        let started = cluster.start_nodes(usize::from(options.nodes));
        if let Err(error) = started {
            let _tidied = cluster.stop();
            return Err(error);
        }
        Ok(cluster)
    }

    fn start_nodes(&mut self, count: usize) -> Result<(), DemoError> {
        say!(
            "starting {count} nodes of p2pfs {VERSION} on loopback in {}",
            self.folder.display()
        )?;
        let secret = self.folder.join("secret");
        write_secret(&secret)?;
        let mut seed = None;
        for index in 0..count {
            let node = self.prepare_node(index)?;
            self.nodes.push(node);
            let node = &mut self.nodes[index];
            node.child = Some(spawn_daemon(node, &secret, seed.as_deref())?);
            let status = self.await_start(index)?;
            seed.get_or_insert(status);
        }
        let others = (count - 1).to_string();
        for node in &self.nodes {
            run(&mut node.command(&["wait", "--peers", &others, "--timeout", "30s"])?)?;
            run(&mut node.command(&["write", "on"])?)?;
        }
        Ok(())
    }

    fn prepare_node(&self, index: usize) -> Result<DemoNode, DemoError> {
        let name = format!("node{}", index + 1);
        let home = self.folder.join(&name);
        let node = DemoNode {
            name,
            home,
            child: None,
        };
        for dir in [node.share(), node.mount()] {
            fs::create_dir_all(&dir).map_err(|source| DemoError::Folder {
                action: "create",
                path: dir,
                source,
            })?;
        }
        fill_share(index, &node.name, &node.share())?;
        Ok(node)
    }

    /// Waits until the node has mounted its folder, and returns the address of the node.
    fn await_start(&mut self, index: usize) -> Result<String, DemoError> {
        let node = &self.nodes[index];
        let waited = run(&mut node.command(&["wait", "--mounted", "--timeout", "30s"])?);
        if waited.is_err() && !is_interrupted() {
            return Err(DemoError::NodeFailed {
                node: node.name.clone(),
                said: node.last_words(),
            });
        }
        waited?;
        let status = run_json(&mut node.command(&["status", "--json"])?)?;
        let address = status["address"].as_str().unwrap_or_default().to_owned();
        say!(
            "  {} on {address}, mounted at {}",
            node.name,
            node.mount().display()
        )?;
        Ok(address)
    }

    /// Prints commands for exploring the cluster.
    pub(super) fn describe(&self) -> Result<(), DemoError> {
        let first = &self.nodes[0];
        let system = |program: &str| Command::new(program);
        say!("The nodes stay up. In another terminal:\n")?;
        let listing = typed_on_lines(system("ls").arg("-lR").arg(first.mount()));
        say!("  {listing}")?;
        let copy = typed_on_lines(system("cp").arg("some-file").arg(first.mount()));
        say!("  {copy}    # all nodes see it")?;
        for arguments in [&["status"][..], &["peers"], &["events", "--follow"]] {
            say!("  {}", typed_on_lines(&first.command(arguments)?))?;
        }
        say!("\nCtrl-C stops them and removes {}", self.folder.display())
    }

    /// Stops all daemons, removes remaining mounts and removes the folder.
    pub(super) fn stop(&mut self) -> Result<(), DemoError> {
        self.is_stopped = true;
        for node in &self.nodes {
            if let Some(child) = &node.child {
                ending::ask(child);
            }
        }
        let deadline = Instant::now() + STOP_LIMIT;
        let mut stubborn = Vec::new();
        for node in &mut self.nodes {
            if let Some(child) = node.child.take()
                && !ended_by(child, deadline)
            {
                stubborn.push(node.name.clone());
            }
            detach(&node.mount());
        }
        remove_folder(&self.folder)?;
        if stubborn.is_empty() {
            return Ok(());
        }
        Err(DemoError::Broken {
            what: format!("{} had to be killed", stubborn.join(", ")),
        })
    }
}

impl Drop for DemoCluster {
    fn drop(&mut self) {
        if !self.is_stopped {
            let _tidied = self.stop();
        }
    }
}

fn spawn_daemon(node: &DemoNode, secret: &Path, seed: Option<&str>) -> Result<Child, DemoError> {
    let config = node.home.join("p2pfs.toml");
    let failed = |path: PathBuf| {
        move |source| DemoError::Folder {
            action: "create",
            path,
            source,
        }
    };
    fs::write(&config, "").map_err(failed(config.clone()))?;
    let log = fs::File::create(node.log()).map_err(failed(node.log()))?;
    let log_twin = log.try_clone().map_err(failed(node.log()))?;
    let mut command = Command::new(this_program()?);
    command.arg("daemon").arg("--config").arg(&config);
    command.args(["--name", &node.name, "--listen", "127.0.0.1:0"]);
    command
        .arg("--secret-file")
        .arg(secret)
        .arg("--socket")
        .arg(node.socket());
    command
        .arg("--share")
        .arg(node.share())
        .arg("--mount")
        .arg(node.mount());
    command.arg("--state").arg(node.home.join("state"));
    command
        .arg("--cache")
        .arg(node.home.join("cache"))
        .args(["--cache-size", "1GiB"]);
    command.args(seed.map(|seed| ["--seed", seed]).into_iter().flatten());
    // Settings of the user's own node must not affect these nodes.
    let settings = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.as_bytes();
        name.starts_with(b"P2PFS_") || name.starts_with(b"P2P_")
    });
    for name in settings {
        command.env_remove(name);
    }
    command.env("P2PFS_LAN_MDNS", "false").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(log).stderr(log_twin);
    // Ctrl-C reaches only the demo, which then stops the daemons in order.
    ending::bind(&mut command);
    command.spawn().map_err(|source| DemoError::NodeFailed {
        node: node.name.clone(),
        said: source.to_string(),
    })
}

/// Runs a command to its end and returns its output.
pub(super) fn run(command: &mut Command) -> Result<Output, DemoError> {
    let typed = typed(command);
    let failed = |said: String| DemoError::Command {
        command: typed.clone(),
        said,
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let outputs = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    while child
        .try_wait()
        .map_err(|error| failed(error.to_string()))?
        .is_none()
    {
        if is_interrupted() {
            let _gone = child.kill();
            let _reaped = child.wait();
            return Err(DemoError::Interrupted);
        }
        std::thread::park_timeout(LOOK_PERIOD);
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let output = Output {
        status,
        stdout: outputs.0.join().unwrap_or_default(),
        stderr: outputs.1.join().unwrap_or_default(),
    };
    if status.success() {
        return Ok(output);
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// Runs a command whose output is JSON.
pub(super) fn run_json(command: &mut Command) -> Result<serde_json::Value, DemoError> {
    let command_text = typed(command);
    let output = run(command)?;
    serde_json::from_slice(&output.stdout).map_err(|error| DemoError::Command {
        command: command_text,
        said: format!("not JSON: {error}"),
    })
}

fn read_all(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _partial = from.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn ended_by(mut child: Child, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::park_timeout(LOOK_PERIOD);
    }
    let _gone = child.kill();
    let _reaped = child.wait();
    false
}

fn detach(mount: &Path) {
    // If the daemon has already unmounted, as it should, this fails harmlessly.
    let _absent = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
}

/// Removes the folder unless a mount remains beneath it, because files seen through a mount belong
/// to other nodes.
fn remove_folder(folder: &Path) -> Result<(), DemoError> {
    let list = fs::read(MOUNTINFO).unwrap_or_default();
    if let Some(left) = mounted_beneath(&list, folder) {
        let what = format!("{} is still mounted: fusermount3 -u it", left.display());
        return Err(DemoError::Broken { what });
    }
    fs::remove_dir_all(folder).map_err(|source| DemoError::Folder {
        action: "remove",
        path: folder.to_owned(),
        source,
    })
}

/// Finds a mount at the folder or beneath it, in a list as in proc_pid_mountinfo(5).
fn mounted_beneath(list: &[u8], folder: &Path) -> Option<PathBuf> {
    let mut points = list
        .split(|byte| *byte == b'\n')
        .filter_map(mountinfo::point);
    points.find(|point| point.starts_with(folder))
}

fn write_secret(path: &Path) -> Result<(), DemoError> {
    use std::io::Write;
    let failed = |source| DemoError::Folder {
        action: "create",
        path: path.to_owned(),
        source,
    };
    let mut random = [0u8; 32];
    let filled = SysRng.try_fill_bytes(&mut random);
    filled.map_err(|error| failed(error.into()))?;
    let mut file = open_private(path).map_err(failed)?;
    writeln!(file, "{}", p2pfs_types::id::to_hex(&random)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_left_over_mount_in_a_folder_with_a_space_is_found() {
        let list = b"40 22 0:45 / /tmp/a\\040demo/n1/mnt ro - fuse.p2pfs p2pfs ro\n";
        let left = mounted_beneath(list, Path::new("/tmp/a demo"));
        assert_eq!(left, Some(PathBuf::from("/tmp/a demo/n1/mnt")));
        assert_eq!(mounted_beneath(list, Path::new("/tmp/a")), None);
    }

    #[test]
    fn a_failing_command_reports_its_own_output() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with(": why"), "{error}");
    }

    #[test]
    fn the_secret_is_private_and_has_64_digits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_secret(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read(&path).unwrap().len(), 65);
    }
}
