//! Real faults found by `p2pfs doctor`: on hosts with separate links, firewalls and neighbours.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use macro_rules_attribute::apply;

use super::lan::{NEEDS, daemon, prepare_node, start_node, stop, wait_until_mounted};
use crate::support::daemon::*;
use crate::support::lab::Lab;
use crate::support::process::*;
use crate::support::promise::promise;

/// Adds a rule to the firewall of a host.
pub(super) fn drop_incoming(lab: &Lab, host: &str, rule: &str) {
    let chain = format!("type filter hook input priority 0; {rule} drop;");
    let rules = format!("table inet test {{ chain incoming {{ {chain} }}; }}");
    run(lab.on(host).args(["nft", &rules])).expect_ok();
}

pub(super) fn doctor(lab: &Lab, host: &str, folder: &Path) -> (Option<i32>, String) {
    let mut command = lab.on(host);
    command.arg(P2PFS).args(["doctor", "--socket"]);
    let finished = run(command.arg(folder.join(host).join("sock")));
    // Line breaks do not matter here.
    let words: Vec<String> = finished
        .text()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    (finished.status.code(), words.join(" "))
}

fn wait_for_peer(host: &str, folder: &Path) {
    let mut wait = Command::new(P2PFS);
    wait.args([
        "wait",
        "--mounted",
        "--peers",
        "1",
        "--timeout",
        "60s",
        "--socket",
    ]);
    run(wait.arg(folder.join(host).join("sock"))).expect_ok();
}

#[apply(promise)]
#[takes("nft")]
fn doctor_finds_a_firewall_from_either_side_over_tcp_and_udp() {
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
    // The node's name is in its log, which the other node could not read.
    // From here, n1 could also be a node behind a NAT, which is well.
    let (code, said) = doctor(&lab, "n2", &tcp);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(": cannot reach 10.77.0.1:1378"), "{said}");
    assert!(
        said.contains("let TCP and UDP port 1378 through its firewall"),
        "{said}"
    );
    run(lab.on("n1").args(["nft", "delete table inet test"])).expect_ok();
    for host in ["n1", "n2"] {
        // A connection that was begun before the mend may still fail.
        let both_ways = "is reached, and reaches this node";
        eventually("doctor is well again", HANG_LIMIT, || {
            let (code, said) = doctor(&lab, host, &tcp);
            code == Some(0) && said.contains(both_ways)
        });
    }
    stop(nodes);
    drop_incoming(&lab, "n1", "udp dport 1378");
    let first = start_node(&lab, "n1", &udp, &[]);
    let seeded = start_node(&lab, "n2", &udp, &["--seed", "10.77.0.1:1378"]);
    for host in ["n1", "n2"] {
        wait_until_mounted(host, &udp);
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

#[apply(promise)]
#[takes("nft")]
fn doctor_is_quick_behind_a_closed_firewall_and_status_agrees_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    drop_incoming(&lab, "n1", "tcp dport 1378");
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path(), &[]));
    let sentences = [
        (
            "n1",
            Some(1),
            "peer n2: cannot reach this node: 10.77.0.1:1378",
        ),
        ("n2", Some(0), ": cannot reach 10.77.0.1:1378"),
    ];
    for (host, status_code, sentence) in sentences {
        wait_for_peer(host, folder.path());
        let begun = Instant::now();
        let (code, said) = doctor(&lab, host, folder.path());
        let took = begun.elapsed();
        assert_eq!(code, status_code, "{said}");
        assert!(said.contains(sentence), "{said}");
        assert!(took < AT_ONCE, "{took:?}: {said}");
        let said = status(&lab, host, folder.path());
        assert!(said.contains(sentence), "{host}: {said}");
    }
    run(lab.on("n1").args(["nft", "delete table inet test"])).expect_ok();
    for (host, _, sentence) in sentences {
        eventually("status is well again", HANG_LIMIT, || {
            !status(&lab, host, folder.path()).contains(sentence)
        });
    }
    stop(nodes);
}

#[apply(promise)]
#[takes("nft")]
fn doctor_of_the_outer_side_tells_a_closed_firewall_from_a_machine_that_is_off() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let [inner, outer] = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path(), &[]));
    let mut wait = Command::new(P2PFS);
    wait.args(["wait", "--mounted", "--peers", "1", "--file", "n1.txt"]);
    wait.args(["--timeout", WAIT_LIMIT, "--socket"]);
    run(wait.arg(folder.path().join("n2/sock"))).expect_ok();
    let told = |code: i32, words: &str| {
        eventually(words, HANG_LIMIT, || {
            let begun = Instant::now();
            let (status, said) = doctor(&lab, "n2", folder.path());
            let took = begun.elapsed();
            assert!(took < AT_ONCE, "{took:?}: {said}");
            status == Some(code) && said.contains(words)
        });
    };
    drop_incoming(&lab, "n1", "meta l4proto { tcp, udp } th dport 1378");
    let closed = "but its machine answers on another port: a firewall is closed; on n1, let TCP and \
                  UDP port 1378 through its firewall";
    told(1, closed);
    let (_, said) = doctor(&lab, "n2", folder.path());
    let silent = "peer n1: 10.77.0.1:1378 does not answer over TCP within 1.5 s, ";
    assert!(said.contains(silent), "{said}");
    eventually("status agrees", HANG_LIMIT, || {
        let said = status(&lab, "n2", folder.path());
        said.contains("error peer n1: 10.77.0.1:1378 does not") && said.contains(closed)
    });
    eventually("the inner side is told too", HANG_LIMIT, || {
        let (code, said) = doctor(&lab, "n1", folder.path());
        let own = "address: 10.77.0.1:1378 does not answer this machine itself: its firewall is";
        let datagrams = "peer n2: answers over TCP, and no datagram";
        code == Some(1) && said.contains(own) && said.contains(datagrams)
    });
    let clear = || run(lab.on("n1").args(["nft", "delete table inet test"])).expect_ok();
    clear();
    drop_incoming(&lab, "n1", "meta l4proto { tcp, udp, icmp }");
    told(
        0,
        "within the last minute: most likely a firewall drops the packets; on n1, let TCP",
    );
    clear();
    told(0, "peer n1: is reached, and reaches this node");
    inner.signal(libc::SIGKILL);
    inner.finish(HANG_LIMIT);
    told(
        0,
        "peer n1: 10.77.0.1:1378 refuses connections, so its machine is on",
    );
    for (host, change) in [("n1", "link set eth0 down"), ("n2", "neighbour flush all")] {
        run(lab.on(host).arg("ip").args(change.split(' '))).expect_ok();
    }
    told(
        0,
        "no machine of the local network has its address; turn n1 on",
    );
    stop([outer]);
}

#[apply(promise)]
#[takes("nft")]
fn doctor_names_a_closed_firewall_while_other_nodes_are_alive() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    let hosts = ["n1", "n2", "n3"];
    let [inner, outer, third] = hosts.map(|host| start_node(&lab, host, folder.path(), &[]));
    let mut wait = Command::new(P2PFS);
    wait.args(["wait", "--mounted", "--peers", "2", "--file", "n1.txt"]);
    wait.args(["--timeout", WAIT_LIMIT, "--socket"]);
    run(wait.arg(folder.path().join("n2/sock"))).expect_ok();
    let told = |code: i32, words: &str| {
        eventually(words, HANG_LIMIT, || {
            let (status, said) = doctor(&lab, "n2", folder.path());
            status == Some(code) && said.contains(words)
        });
    };
    drop_incoming(&lab, "n1", "meta l4proto { tcp, udp } th dport 1378");
    // status has no condition for it.
    told(0, "a firewall is closed; on n1, let TCP and UDP port 1378");
    run(lab.on("n1").args(["nft", "delete table inet test"])).expect_ok();
    // A machine or a daemon that is off is normal.
    inner.signal(libc::SIGKILL);
    inner.finish(HANG_LIMIT);
    told(0, "note peer n1: 10.77.0.1:1378 refuses connections");
    stop([outer, third]);
}

#[apply(promise)]
#[takes("nft")]
fn failed_read_behind_a_new_firewall_is_a_warning_of_status_without_doctor() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path(), &[]));
    let big = folder.path().join("n1/share/big");
    fs::write(&big, vec![7; 4 << 20]).unwrap();
    let mut wait = Command::new(P2PFS);
    wait.args(["wait", "--mounted", "--peers", "1", "--file", "big"]);
    wait.args(["--timeout", WAIT_LIMIT, "--socket"]);
    run(wait.arg(folder.path().join("n2/sock"))).expect_ok();
    drop_incoming(&lab, "n1", "meta l4proto tcp");
    let read = || {
        run(lab
            .on("n2")
            .arg("cat")
            .arg(folder.path().join("n2/mnt/big")))
    };
    let said = || status(&lab, "n2", folder.path());
    let warning = "warning n1 is alive, but left the last questions for files without an answer";
    eventually("a read has failed and status says why", HANG_LIMIT, || {
        assert!(!read().status.success());
        said().contains(warning)
    });
    // The cause follows from the periodic check.
    eventually("the peer is checked", HANG_LIMIT, || {
        said().contains("warning peer n1: ")
    });
    run(lab.on("n1").args(["nft", "delete table inet test"])).expect_ok();
    eventually("reads work and status is well again", HANG_LIMIT, || {
        let _may_still_rest = read();
        let said = said();
        !said.contains(warning) && !said.contains("warning peer n1: ")
    });
    stop(nodes);
}

/// Returns the output of `p2pfs status` on a host in one line.
fn status(lab: &Lab, host: &str, folder: &Path) -> String {
    let mut command = lab.on(host);
    command.arg(P2PFS).args(["status", "--socket"]);
    let said = run(command.arg(folder.join(host).join("sock"))).expect_ok();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[apply(promise)]
#[takes("nft")]
fn doctor_and_status_find_closed_silent_and_foreign_seeds() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let stranger = start_node(&lab, "n1", folder.path(), &[]);
    wait_until_mounted("n1", folder.path());
    drop_incoming(&lab, "n1", "tcp dport 1390");
    prepare_node("n2", folder.path());
    let home = folder.path().join("n2");
    fs::write(home.join("secret"), format!("{}\n", "d4".repeat(32))).unwrap();
    fs::write(home.join("share/private"), "mine alone").unwrap();
    set_mode(&home.join("share/private"), 0o600);
    let mut command = daemon(&lab, "n2", &home);
    for seed in [
        "10.77.0.1:1389",
        "10.77.0.1:1390",
        "10.77.0.1:1378",
        "no.such.name:1378",
    ] {
        command.args(["--seed", seed]);
    }
    let alone = start(&mut command);
    wait_until_mounted("n2", folder.path());

    let begun = Instant::now();
    let (code, said) = doctor(&lab, "n2", folder.path());
    let took = begun.elapsed();
    assert_eq!(code, Some(1), "{said}");
    assert!(took < AT_ONCE, "{took:?}: {said}");
    let faults = [
        "seed 10.77.0.1:1389: 10.77.0.1:1389 refuses connections; start p2pfs there",
        "but its machine answers on another port: a firewall is closed; on 10.77.0.1, let TCP and \
         UDP port 1390 through its firewall",
        "seed 10.77.0.1:1378: 10.77.0.1:1378 has another secret: it is in another cluster",
        "seed no.such.name:1378: its name does not resolve",
    ];
    for fault in faults {
        assert!(said.contains(fault), "{fault}: {said}");
    }
    assert!(
        said.contains("this node shares nothing; to give files"),
        "{said}"
    );
    eventually("status says what isolates it", HANG_LIMIT, || {
        let said = status(&lab, "n2", folder.path());
        faults.iter().all(|fault| said.contains(fault))
    });

    let mut share = lab.on("n2");
    share
        .arg(P2PFS)
        .args(["share", "add"])
        .arg(home.join("share"));
    run(share.arg("--socket").arg(home.join("sock"))).expect_ok();
    let (_, said) = doctor(&lab, "n2", folder.path());
    assert!(
        said.contains("1 left out: not readable by others"),
        "{said}"
    );
    assert!(said.contains("share/private: "), "{said}");
    stop([stranger, alone]);
}

#[apply(promise)]
#[takes("faketime")]
fn doctor_finds_a_wrong_clock_and_its_likely_owner() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let right = start_node(&lab, "n1", folder.path(), &[]);
    prepare_node("n2", folder.path());
    let plain = daemon(&lab, "n2", &folder.path().join("n2"));
    let words: Vec<_> = plain.get_args().map(ToOwned::to_owned).collect();
    let mut late = Command::new(plain.get_program());
    late.args(&words);
    // faketime(1) would not forward signals to the daemon.
    late.env("LD_PRELOAD", fake_clock().unwrap());
    late.env("FAKETIME", "+300s")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let wrong = start(&mut late);
    wait_for_peer("n1", folder.path());
    let (code, said) = doctor(&lab, "n1", folder.path());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("clock of n2: this machine's is "), "{said}");
    assert!(
        said.contains(" min behind it (here ") && said.contains(" UTC); set whichever is wrong"),
        "{said}"
    );
    stop([right, wrong]);
}

/// Runs `doctor` without a daemon.
fn doctor_by_itself(through: &mut Command, folder: &Path) -> (Option<i32>, String) {
    let command = through.arg(P2PFS).args(["doctor", "--socket"]);
    command
        .arg(folder.join("sock"))
        .arg("--config")
        .arg(folder.join("p2pfs.toml"));
    let finished = run(command);
    let said = finished.text();
    let words: Vec<_> = said.split_whitespace().collect();
    (finished.status.code(), words.join(" "))
}

#[apply(promise)]
#[takes("unshare", "setpriv")]
fn doctor_finds_what_would_prevent_a_mount() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let listen = "listen = \"127.0.0.1:21391\"\n";
    fs::write(folder.path().join("p2pfs.toml"), listen).unwrap();
    let mut without_device = Command::new("unshare");
    let hide = "mount -t tmpfs none /dev && exec \"$@\"";
    without_device.args(["--mount", "sh", "-c", hide, "sh"]);
    let (code, said) = doctor_by_itself(&mut without_device, folder.path());
    assert_eq!(code, Some(1), "{said}");
    // The kernel has the module, so it need not be loaded.
    assert!(
        said.contains("fuse: /dev/fuse:") && said.contains("--device /dev/fuse"),
        "{said}"
    );
    assert!(!said.contains("modprobe"), "{said}");

    let mut without_rights = Command::new("setpriv");
    without_rights.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let (_, said) = doctor_by_itself(
        without_rights.args(["env", "PATH=/nonexistent"]),
        folder.path(),
    );
    assert!(said.contains("rights: only root may mount"), "{said}");
    assert!(said.contains("install the package fuse3"), "{said}");
}
