//! Nodes on links of their own, in network namespaces: what loopback cannot show.
//! `tests/lab/netlab` makes the hosts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::lab::{Lab, hosts};
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

pub(super) const NEEDS: &[Need] = &[root, hosts, mount];

pub fn start_node(lab: &Lab, host: &str, folder: &Path, more: &[&str]) -> Running {
    prepare_node(host, folder);
    let home = folder.join(host);
    let mut command = daemon(lab, host, &home);
    command.arg("--share").arg(home.join("share"));
    start(command.args(more))
}

/// Its folder, with one file to share.
pub(super) fn prepare_node(host: &str, folder: &Path) {
    let home = folder.join(host);
    fs::create_dir_all(home.join("share")).unwrap();
    set_mode(&home, 0o755);
    set_mode(&home.join("share"), 0o755);
    fs::write(home.join(format!("share/{host}.txt")), host).unwrap();
    fs::write(home.join("p2pfs.toml"), "").unwrap();
    fs::write(home.join("secret"), format!("{}\n", "c3".repeat(32))).unwrap();
    set_mode(&home.join("secret"), 0o600);
}

/// Its daemon, which shares nothing yet.
pub(super) fn daemon(lab: &Lab, host: &str, home: &Path) -> Command {
    let mut command = lab.on(host);
    command.arg(P2PFS).args(["daemon", "--name", host]);
    for (flag, name) in [
        ("--config", "p2pfs.toml"),
        ("--secret-file", "secret"),
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", "sock"),
        ("--mount", "mnt"),
    ] {
        command.arg(flag).arg(home.join(name));
    }
    command
}

#[apply(promise)]
fn nodes_with_the_same_secret_find_each_other_on_the_lan_without_a_seed() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path(), &[]));
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

pub fn stop(nodes: impl IntoIterator<Item = Running>) {
    for node in nodes {
        node.signal(libc::SIGTERM);
        node.end_within(Duration::from_secs(20));
    }
}
