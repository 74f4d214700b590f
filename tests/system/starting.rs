//! A service whose start fails: the messages of its commands, and its recovery once the cause is
//! gone.

use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use super::service::{SystemdBox, boot_cluster, booted_systemd};
use crate::support::process::{AT_ONCE, HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// Runs a command of p2pfs in a booted system. Returns its exit status, its output in one line, and
/// how long it took.
fn ask(machine: &SystemdBox, command: &str) -> (Option<i32>, String, Duration) {
    let begun = Instant::now();
    let finished = machine.sh(&format!("p2pfs {command} 2>&1"));
    let took = begun.elapsed();
    let text = finished.text();
    let words: Vec<_> = text.split_whitespace().collect();
    (finished.status.code(), words.join(" "), took)
}

/// Waits until a start has failed, and checks that commands give the reason.
fn expect_explained(machine: &SystemdBox, reason: &str) {
    eventually("a start failed", HANG_LIMIT, || {
        machine
            .sh("test -s /run/p2pfs/p2pfs.sock.failed")
            .status
            .success()
    });
    for command in ["status", "doctor", "ls"] {
        let (code, said, took) = ask(machine, command);
        assert_eq!(code, Some(1), "{command}: {said}");
        assert!(
            said.contains("the daemon does not start: "),
            "{command}: {said}"
        );
        assert!(said.contains(reason), "{command}: {said}");
        assert!(took < AT_ONCE, "{command} took {took:?}: {said}");
    }
}

fn expect_serving(machine: &SystemdBox) {
    machine.ok("p2pfs wait --mounted --timeout 60s");
    let (_, said, _) = ask(machine, "status");
    assert!(said.contains("serving"), "{said}");
    machine.ok("test ! -e /run/p2pfs/p2pfs.sock.failed");
}

#[apply(promise)]
#[takes("python3")]
fn a_start_that_fails_is_explained_by_status_and_doctor_within_seconds() {
    let machine = boot_cluster();
    let hold = "import socket, time; it = socket.socket(); it.bind(('127.0.0.1', 1378)); \
                it.listen(); time.sleep(1000)";
    machine.ok(&format!("systemd-run --unit=holder python3 -c \"{hold}\""));
    machine.ok("until ss -ltn | grep -q 127.0.0.1:1378; do sleep 0.1; done");
    assert!(!machine.sh("systemctl start p2pfs").status.success());
    expect_explained(&machine, "1378");
    let (_, said, _) = ask(&machine, "doctor");
    let told = said.matches("another program uses this port").count();
    assert_eq!(told, 1, "{said}");
    machine.ok("systemctl stop holder");
    expect_serving(&machine);
    machine.ok("systemctl stop p2pfs");

    machine.ok("mv /dev/fuse /dev/hidden");
    assert!(!machine.sh("systemctl start p2pfs").status.success());
    expect_explained(&machine, "/dev/fuse");
    // The service manager keeps the port of a failed start.
    let (_, said, _) = ask(&machine, "doctor");
    let remedies = said.matches("mknod -m 666").count() + said.matches("--device").count();
    assert_eq!(remedies, 1, "{said}");
    assert!(!said.contains("in use"), "{said}");
    // The first start announced itself to the other node; its successors fail before that.
    let announced = || machine.ok("p2pfs events --json --socket /root/second/sock");
    let before = announced();
    eventually("three starts failed", HANG_LIMIT, || {
        let record = machine.ok("cat /run/p2pfs/p2pfs.sock.failed");
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["count"].as_u64().unwrap() >= 3
    });
    let (_, said, _) = ask(&machine, "status");
    assert!(said.contains(" times, last "), "{said}");
    assert!(said.contains("; tried again within 30 s)"), "{said}");
    assert_eq!(announced(), before);
    machine.ok("mv /dev/hidden /dev/fuse");
    expect_serving(&machine);
    let journal = machine.ok("journalctl -u p2pfs --no-pager");
    let failed = "journalctl -u p2pfs --no-pager -p err -o cat MESSAGE_ID=";
    let failed = machine.ok(&format!("{failed}4d2b8f60c1a94e7f9be35a07d61c82f4"));
    for cause in ["cannot listen on", "cannot open /dev/fuse"] {
        assert!(failed.contains(cause), "{failed}");
        let end = format!("no longer so: {cause}");
        assert!(journal.contains(&end), "{journal}");
    }
}

#[apply(promise)]
fn a_start_that_is_not_tried_again_is_explained_with_the_command_that_starts_it() {
    let machine = boot_cluster();
    machine.ok("systemctl start p2pfs");
    expect_serving(&machine);
    machine.ok("systemctl stop p2pfs; cp /var/lib/p2pfs/node.key /root/node.key");
    machine.ok("echo cut > /var/lib/p2pfs/node.key");
    assert!(!machine.sh("systemctl start p2pfs").status.success());
    let status = machine.ok("systemctl show -P ExecMainStatus p2pfs");
    assert_eq!(status.trim(), "78");
    for command in ["status", "doctor", "wait --timeout 2s"] {
        let (code, said, took) = ask(&machine, command);
        assert_eq!(code, Some(1), "{command}: {said}");
        for part in [
            "the daemon does not start: ",
            "put back a copy",
            "not tried again until it is mended",
            "start it: systemctl start p2pfs",
        ] {
            assert!(said.contains(part), "{command}: {said}");
        }
        assert!(!said.contains("tried again within"), "{command}: {said}");
        assert!(took < AT_ONCE, "{command} took {took:?}: {said}");
    }
    machine.ok("cat /root/node.key > /var/lib/p2pfs/node.key; systemctl start p2pfs");
    expect_serving(&machine);
}
