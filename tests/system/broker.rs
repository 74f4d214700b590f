//! The mount broker alone: the users that it serves, the mount points that it accepts, and mounts
//! without a server.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use macro_rules_attribute::apply;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::Signal;

use crate::support::process::{
    Finished, HANG_LIMIT, P2PFS, WAIT_LIMIT, connected, eventually, run,
};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

struct Broker {
    process: Child,
    folder: tempfile::TempDir,
}

impl Broker {
    /// Starts a broker that serves this user.
    fn start(user: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let process = Self::spawn(folder.path());
        chown(folder.path().join("socket"), Some(user), None).unwrap();
        Self { process, folder }
    }

    fn spawn(folder: &Path) -> Child {
        let socket = folder.join("socket");
        let mut broker = Command::new(P2PFS);
        broker.arg("mount-broker").arg("--socket").arg(&socket);
        broker.arg("--allow").arg(folder.join("mnt"));
        let process = broker.spawn().unwrap();
        eventually("the broker listens", HANG_LIMIT, || {
            connected(&socket).is_ok()
        });
        process
    }

    /// Ends the broker by this signal.
    fn end(&mut self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _gone = rustix::process::kill_process(pid, signal);
        let _ended = self.process.wait();
        let _absent = fs::remove_file(self.socket());
    }

    fn start_again(&mut self) {
        self.process = Self::spawn(self.folder.path());
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn connect(&self) -> OwnedFd {
        connected(&self.socket()).unwrap()
    }

    fn is_mounted(&self, dir: &Path) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&format!(" {} ", dir.display()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end(Signal::TERM);
    }
}

/// A daemon that mounts through this broker.
struct Daemon {
    process: Child,
    home: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl Daemon {
    fn start(broker: &Broker) -> Self {
        let home = broker.folder.path().to_owned();
        fs::create_dir(home.join("share")).unwrap();
        fs::write(home.join("share/file"), "bytes").unwrap();
        fs::write(home.join("p2pfs.toml"), "").unwrap();
        let mut daemon = Command::new(P2PFS);
        daemon.args(["daemon", "--listen", "127.0.0.1:0"]);
        for (flag, name) in [
            ("--config", "p2pfs.toml"),
            ("--state", "state"),
            ("--cache", "cache"),
            ("--socket", "control"),
            ("--mount", "mnt"),
            ("--share", "share"),
        ] {
            daemon.arg(flag).arg(home.join(name));
        }
        let log = fs::File::create(home.join("log")).unwrap();
        daemon.env("P2PFS_BROKER", broker.socket()).stderr(log);
        let process = daemon.spawn().unwrap();
        Self { process, home }
    }

    fn command(&self, words: &[&str]) -> Finished {
        let mut command = Command::new(P2PFS);
        command.args(words).arg("--socket");
        run(command.arg(self.home.join("control")))
    }

    fn wait_until_mounted(&self) -> Finished {
        self.command(&["wait", "--mounted", "--timeout", WAIT_LIMIT])
    }

    /// Waits until its status has these words.
    fn says(&self, what: &str) {
        eventually(what, HANG_LIMIT, || {
            let status = self.command(&["status", "--json"]).text();
            status.contains(what)
        });
    }

    /// Ends the daemon and returns its log.
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        self.process.wait().unwrap();
        fs::read_to_string(self.home.join("log")).unwrap()
    }
}

/// Returns the broker's reply to a request for a mount at `dir`, or `None` if it closes the
/// connection.
fn ask_for_mount(socket: &impl AsFd, dir: &Path) -> Option<Vec<u8>> {
    let dir = dir.to_str().unwrap().as_bytes();
    let mut request = vec![0, u8::try_from(dir.len()).unwrap()];
    request.extend(dir);
    // The broker may have closed a stranger's connection already.
    let _sent = rustix::net::send(socket, &request, SendFlags::NOSIGNAL);
    let mut reply = vec![0; 8192];
    match rustix::net::recv(socket, &mut reply[..], RecvFlags::empty()) {
        Ok((length, _)) if length > 0 => {
            reply.truncate(length);
            Some(reply)
        }
        _ => None,
    }
}

const MOUNTED: u8 = 0;
const REFUSED: u8 = 3;

#[apply(promise)]
fn a_stranger_at_the_brokers_socket_gets_nothing() {
    let broker = Broker::start(65534);
    // Root may connect to any socket, but is not the daemon's user.
    let stranger = broker.connect();
    assert_eq!(ask_for_mount(&stranger, &broker.mount_point()), None);
    assert!(!broker.is_mounted(&broker.mount_point()));
}

#[apply(promise)]
fn the_broker_mounts_where_its_configuration_says_and_nowhere_else() {
    let broker = Broker::start(0);
    let daemon = broker.connect();
    let elsewhere = broker.folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let reply = ask_for_mount(&daemon, &elsewhere).unwrap();
    assert_eq!(reply[0], REFUSED);
    assert!(String::from_utf8_lossy(&reply).contains("restart p2pfs-broker"));
    assert!(!broker.is_mounted(&elsewhere));
    let reply = ask_for_mount(&daemon, &broker.mount_point()).unwrap();
    assert_eq!(reply[0], MOUNTED);
    assert!(broker.is_mounted(&broker.mount_point()));
    let second = broker.connect();
    let reply = ask_for_mount(&second, &broker.mount_point()).unwrap();
    assert_eq!(reply[0], REFUSED, "one daemon at a time");
    rustix::net::send(&daemon, &[255; 100], SendFlags::NOSIGNAL).unwrap();
    let mut reply = [0; 100];
    let hung_up = rustix::net::recv(&daemon, &mut reply[..], RecvFlags::empty());
    assert!(
        matches!(hung_up, Ok((0, _)) | Err(_)),
        "who speaks nonsense is not heard"
    );
    let mount_point = broker.mount_point();
    drop(broker);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(mount_point.to_str().unwrap()),
        "it unmounts at its end"
    );
}

#[apply(promise)]
fn without_a_next_daemon_readers_fail_and_a_later_one_gets_a_new_mount() {
    let broker = Broker::start(0);
    let daemon = broker.connect();
    assert_eq!(
        ask_for_mount(&daemon, &broker.mount_point()).unwrap()[0],
        MOUNTED
    );
    drop(daemon);
    let asked = run(Command::new("timeout")
        .args(["60", "ls"])
        .arg(broker.mount_point()));
    assert!(asked.stderr.contains("not connected") || asked.stderr.contains("abort"));
    let next = broker.connect();
    assert_eq!(
        ask_for_mount(&next, &broker.mount_point()).unwrap()[0],
        MOUNTED
    );
}

#[apply(promise)]
fn a_mount_that_cannot_be_taken_over_is_reported_and_mounted_anew() {
    let broker = Broker::start(0);
    let other = broker.connect();
    assert_eq!(
        ask_for_mount(&other, &broker.mount_point()).unwrap()[0],
        MOUNTED
    );
    let keep = [&[2, 5][..], b"other"].concat();
    rustix::net::send(&other, &keep, SendFlags::NOSIGNAL).unwrap();
    let mut reply = [0; 100];
    rustix::net::recv(&other, &mut reply[..], RecvFlags::empty()).unwrap();
    drop(other);

    let daemon = Daemon::start(&broker);
    let waited = daemon.wait_until_mounted();
    let listed = run(Command::new("timeout")
        .args(["60", "ls"])
        .arg(broker.mount_point()));
    let said = daemon.stop();
    waited.expect_ok();
    listed.expect_ok();
    assert!(
        said.contains("cannot be taken over: a p2pfs of another version kept it"),
        "{said}"
    );
}

/// Waits until the file can be read in the folder.
fn await_file(broker: &Broker) {
    let file = broker.mount_point().join("file");
    eventually("the file is read", HANG_LIMIT, || {
        fs::read(&file).is_ok_and(|it| it == b"bytes")
    });
}

fn unmount_by_hand(broker: &Broker) {
    run(Command::new("umount").arg(broker.mount_point())).expect_ok();
}

#[apply(promise)]
fn a_daemon_mounts_anew_after_a_restart_of_the_broker() {
    let mut broker = Broker::start(0);
    let daemon = Daemon::start(&broker);
    daemon.wait_until_mounted().expect_ok();
    for _ in 0..2 {
        await_file(&broker);
        broker.end(Signal::TERM);
        daemon.says("its mount broker ended, and it cannot be mounted again yet: the mount broker");
        assert!(!broker.is_mounted(&broker.mount_point()));
        // The report must be true: a broker's daemon does not need the device, so it must not
        // mention it.
        let said = daemon.command(&["doctor"]).text();
        let said: Vec<_> = said.split_whitespace().collect();
        let said = said.join(" ");
        assert!(said.contains("its mount broker ended"), "{said}");
        assert!(!said.contains("/dev/fuse"), "{said}");
        broker.start_again();
        await_file(&broker);
        daemon.says("\"mounted\": true");
    }
    fs::write(daemon.home.join("share/later"), "later").unwrap();
    let later = broker.mount_point().join("later");
    eventually("changes are told", HANG_LIMIT, || later.exists());
    let said = daemon.stop();
    assert_eq!(said.matches("INFO mounted at").count(), 3, "{said}");
    assert!(!said.contains("by hand"), "{said}");
}

#[apply(promise)]
fn a_folder_unmounted_by_hand_stays_so_after_a_restart_of_the_broker() {
    let mut broker = Broker::start(0);
    let daemon = Daemon::start(&broker);
    daemon.wait_until_mounted().expect_ok();
    await_file(&broker);
    unmount_by_hand(&broker);
    daemon.says("it was unmounted by hand");
    broker.end(Signal::TERM);
    broker.start_again();
    assert!(!broker.is_mounted(&broker.mount_point()));
    daemon.says("it was unmounted by hand");
    let said = daemon.stop();
    assert_eq!(said.matches("INFO mounted at").count(), 1, "{said}");
    assert!(!said.contains("its mount broker ended"), "{said}");
}

#[apply(promise)]
fn a_killed_broker_leaves_a_working_mount() {
    let mut broker = Broker::start(0);
    let daemon = Daemon::start(&broker);
    daemon.wait_until_mounted().expect_ok();
    broker.end(Signal::KILL);
    broker.start_again();
    await_file(&broker);
    let said = daemon.stop();
    assert_eq!(said.matches("INFO mounted at").count(), 1, "{said}");
    assert!(!said.contains("its mount broker ended"), "{said}");
    // Both the daemon and the broker that held the mount are gone.
    unmount_by_hand(&broker);
}
