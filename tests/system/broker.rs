//! The mount broker by itself: whom it serves, where it mounts, and what becomes of a mount that
//! nobody serves.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use macro_rules_attribute::apply;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::support::process::{P2PFS, eventually, run};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

struct Broker {
    process: Child,
    folder: tempfile::TempDir,
}

impl Broker {
    /// One that serves this user.
    fn start(user: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let process = Command::new(P2PFS)
            .arg("mount-broker")
            .arg("--socket")
            .arg(folder.path().join("socket"))
            .arg("--allow")
            .arg(folder.path().join("mnt"))
            .spawn()
            .unwrap();
        let this = Self { process, folder };
        eventually("the broker listens", Duration::from_secs(90), || {
            this.socket().exists()
        });
        chown(this.socket(), Some(user), None).unwrap();
        this
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn connect(&self) -> OwnedFd {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(kind.0, kind.1, flags, None).unwrap();
        let address = SocketAddrUnix::new(self.socket()).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        socket
    }

    fn is_mounted(&self, dir: &Path) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&format!(" {} ", dir.display()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ended = self.process.wait();
    }
}

/// What the broker says to a request for a mount at `dir`; nothing where it hangs up.
fn ask_for_mount(socket: &impl AsFd, dir: &Path) -> Option<Vec<u8>> {
    let dir = dir.to_str().unwrap().as_bytes();
    let mut request = vec![0, u8::try_from(dir.len()).unwrap()];
    request.extend(dir);
    // a stranger may find the connection closed already
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
    // root may connect anywhere, and is not the daemon
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
fn where_no_daemon_comes_back_who_waits_fails_and_the_next_daemon_gets_a_new_mount() {
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
fn a_mount_that_cannot_be_taken_over_is_said_and_mounted_anew() {
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

    let home = broker.folder.path();
    let at = |name: &str| home.join(name).to_str().unwrap().to_owned();
    fs::create_dir(home.join("share")).unwrap();
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
        daemon.arg(flag).arg(at(name));
    }
    let log = fs::File::create(home.join("log")).unwrap();
    daemon.env("P2PFS_BROKER", broker.socket()).stderr(log);
    let mut daemon = daemon.spawn().unwrap();
    let wait = ["wait", "--mounted", "--timeout", "60s", "--socket"];
    let waited = run(Command::new(P2PFS).args(wait).arg(at("control")));
    let listed = run(Command::new("timeout").args(["60", "ls"]).arg(at("mnt")));
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.wait().unwrap();
    waited.expect_ok();
    listed.expect_ok();
    let said = fs::read_to_string(home.join("log")).unwrap();
    assert!(
        said.contains("cannot be taken over: a p2pfs of another version kept it"),
        "{said}"
    );
}
