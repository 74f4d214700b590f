//! Nodes on links of their own, in network namespaces: what loopback cannot show.
//! `tests/lab/netlab` makes the hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, hosts, mount];

/// Hosts can be made here.
fn hosts() -> Option<String> {
    let tried = netlab(&["up", "2"]);
    netlab(&["down"]);
    let why = tried.stderr.trim();
    (!tried.status.success()).then(|| format!("no hosts can be made here: {why}"))
}

fn netlab(arguments: &[&str]) -> Finished {
    run(Command::new(netlab_path()).args(arguments))
}

fn netlab_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/netlab")
}

/// Hosts that are taken down when the test ends.
struct Lab;

impl Lab {
    fn up(hosts: &str) -> Self {
        netlab(&["up", hosts]).expect_ok();
        Self
    }

    /// A command on a host.
    fn on(&self, host: &str) -> Command {
        let mut command = Command::new(netlab_path());
        command.args(["exec", host, "--"]);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        netlab(&["down"]);
    }
}

fn start_node(lab: &Lab, host: &str, folder: &Path) -> Running {
    let home = folder.join(host);
    fs::create_dir_all(home.join("share")).unwrap();
    set_mode(&home, 0o755);
    set_mode(&home.join("share"), 0o755);
    fs::write(home.join(format!("share/{host}.txt")), host).unwrap();
    fs::write(home.join("p2pfs.toml"), "").unwrap();
    fs::write(home.join("secret"), format!("{}\n", "c3".repeat(32))).unwrap();
    set_mode(&home.join("secret"), 0o600);
    let mut command = lab.on(host);
    command.arg(P2PFS).args(["daemon", "--name", host]);
    for (flag, name) in [
        ("--config", "p2pfs.toml"),
        ("--secret-file", "secret"),
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", "sock"),
        ("--mount", "mnt"),
        ("--share", "share"),
    ] {
        command.arg(flag).arg(home.join(name));
    }
    start(&mut command)
}

#[apply(promise)]
fn nodes_with_the_same_secret_find_each_other_on_the_lan_without_a_seed() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2");
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path()));
    for (host, other) in [("n1", "n2.txt"), ("n2", "n1.txt")] {
        let home = folder.path().join(host);
        let mut wait = Command::new(P2PFS);
        wait.args([
            "wait",
            "--mounted",
            "--peers",
            "1",
            "--file",
            other,
            "--timeout",
            "60s",
        ]);
        run(wait.arg("--socket").arg(home.join("sock"))).expect_ok();
        let seen = run(lab.on(host).arg("cat").arg(home.join("mnt").join(other))).expect_ok();
        assert_eq!(format!("{seen}.txt"), other);
    }
    for node in nodes {
        node.signal(libc::SIGTERM);
        node.end_within(Duration::from_secs(20));
    }
}
