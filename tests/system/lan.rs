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

const NEEDS: &[Need] = &[root, hosts, mount];

pub fn start_node(lab: &Lab, host: &str, folder: &Path, more: &[&str]) -> Running {
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
    start(command.args(more))
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

/// Adds a rule to the firewall of a host.
fn drop_incoming(lab: &Lab, host: &str, rule: &str) {
    let chain = format!("type filter hook input priority 0; {rule} drop;");
    let rules = format!("table inet test {{ chain incoming {{ {chain} }}; }}");
    run(lab.on(host).args(["nft", &rules])).expect_ok();
}

fn doctor(lab: &Lab, host: &str, folder: &Path) -> (Option<i32>, String) {
    let mut command = lab.on(host);
    command.arg(P2PFS).args(["doctor", "--socket"]);
    let finished = run(command.arg(folder.join(host).join("sock")));
    // a sentence may be broken over lines
    let words: Vec<String> = finished
        .text()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    (finished.status.code(), words.join(" "))
}

fn wait_for_peer(host: &str, folder: &Path) {
    let mut wait = Command::new(P2PFS);
    wait.args(["wait", "--peers", "1", "--timeout", "60s", "--socket"]);
    run(wait.arg(folder.join(host).join("sock"))).expect_ok();
}

pub fn stop(nodes: impl IntoIterator<Item = Running>) {
    for node in nodes {
        node.signal(libc::SIGTERM);
        node.end_within(Duration::from_secs(20));
    }
}

#[apply(promise)]
#[takes("nft")]
fn the_doctor_finds_a_firewall_from_either_side_over_tcp_and_over_udp() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let (tcp, udp) = (folder.path().join("tcp"), folder.path().join("udp"));
    let lab = Lab::up("2", &[]);
    drop_incoming(&lab, "n1", "tcp dport 1378");
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, &tcp, &[]));
    ["n1", "n2"]
        .iter()
        .for_each(|host| wait_for_peer(host, &tcp));
    let (code, said) = doctor(&lab, "n1", &tcp);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("peer n2: cannot reach this node: 10.77.0.1:1378"),
        "{said}"
    );
    assert!(
        said.contains("port 1378 through this machine's firewall"),
        "{said}"
    );
    // its name is in its log, which nobody could read
    let (code, said) = doctor(&lab, "n2", &tcp);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(": cannot reach 10.77.0.1:1378"), "{said}");
    assert!(
        said.contains("let TCP port 1378 through its firewall"),
        "{said}"
    );
    run(lab.on("n1").args(["nft", "delete table inet test"])).expect_ok();
    for host in ["n1", "n2"] {
        let (code, said) = doctor(&lab, host, &tcp);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("is reached, and reaches this node"), "{said}");
    }
    stop(nodes);
    drop_incoming(&lab, "n1", "udp dport 1378");
    let first = start_node(&lab, "n1", &udp, &[]);
    let seeded = start_node(&lab, "n2", &udp, &["--seed", "10.77.0.1:1378"]);
    for host in ["n1", "n2"] {
        let mut wait = Command::new(P2PFS);
        wait.args(["wait", "--mounted", "--timeout", "60s", "--socket"]);
        run(wait.arg(udp.join(host).join("sock"))).expect_ok();
    }
    let (code, said) = doctor(&lab, "n2", &udp);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("answers over TCP, and no datagram goes to and fro"),
        "{said}"
    );
    assert!(said.contains("UDP port 1378"), "{said}");
    stop([first, seeded]);
}
