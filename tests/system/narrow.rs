//! Paths that lose large packets and do not report it, such as a VPN behind a firewall that drops
//! ICMP.

use std::fs;
use std::path::Path;
use std::process::Command;

use macro_rules_attribute::apply;

use super::doctor::{doctor, drop_incoming};
use super::lan::{NEEDS, prepare_node, start_node, stop};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::lab::Lab;
use crate::support::process::*;
use crate::support::promise::promise;

const FILE_BYTES: usize = 3 << 20;

/// Asserts that each of two hosts reads a file of the other, if packets above `limit_bytes` to the
/// hosts `losing` are lost.
fn expect_that_both_read_and_doctor_is_well(limit_bytes: u32, losing: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    set_mode(folder, 0o755);
    let lab = Lab::up("2", &[]);
    for host in ["n1", "n2"] {
        // Each packet is one segment, as on a real link.
        let split = ["link", "set", "eth0", "gso_max_segs", "1"];
        run(lab.on(host).arg("ip").args(split)).expect_ok();
    }
    for host in losing {
        drop_incoming(&lab, host, &format!("meta length > {limit_bytes}"));
    }
    let nodes = ["n1", "n2"].map(|host| {
        prepare_node(host, folder);
        let bytes = noise(host.len() as u64, FILE_BYTES);
        fs::write(
            folder.join(host).join("share").join(format!("{host}.bin")),
            bytes,
        )
        .unwrap();
        start_node(&lab, host, folder, &[])
    });
    for (host, other) in [("n1", "n2.bin"), ("n2", "n1.bin")] {
        let home = folder.join(host);
        let mut wait = Command::new(P2PFS);
        wait.args(["wait", "--mounted", "--peers", "1", "--file", other]);
        wait.args(["--timeout", WAIT_LIMIT, "--socket"]);
        run(wait.arg(home.join("sock"))).expect_ok();
        let read = read_on(&lab, host, &home.join("mnt").join(other));
        assert!(
            read == noise(other.len() as u64 - 4, FILE_BYTES),
            "{limit_bytes}: {losing:?}"
        );
        let (code, said) = doctor(&lab, host, folder);
        assert_eq!(code, Some(0), "{limit_bytes}, {losing:?}: {said}");
        assert!(said.contains("is reached, and reaches this node"), "{said}");
    }
    stop(nodes);
}

fn read_on(lab: &Lab, host: &str, path: &Path) -> Vec<u8> {
    let finished = run(lab.on(host).arg("cat").arg(path));
    assert!(finished.status.success(), "{}", finished.stderr);
    finished.stdout
}

#[apply(promise)]
#[takes("nft")]
fn files_are_read_through_a_path_that_loses_large_packets_in_both_directions() {
    expect_that_both_read_and_doctor_is_well(1280, &["n1", "n2"]);
    expect_that_both_read_and_doctor_is_well(1400, &["n1", "n2"]);
}

#[apply(promise)]
#[takes("nft")]
fn files_are_read_through_a_path_that_loses_large_packets_in_one_direction() {
    expect_that_both_read_and_doctor_is_well(1280, &["n1"]);
    expect_that_both_read_and_doctor_is_well(1400, &["n2"]);
}
