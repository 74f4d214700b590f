//! The daemon's state while its disk is full.

use macro_rules_attribute::apply;

use super::service::{EXTRA, SystemdBox, boot_cluster, booted_systemd, property, start};
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

fn warns(machine: &SystemdBox) -> bool {
    machine
        .ok("p2pfs status --json")
        .contains("the state is not stored")
}

/// Returns whether the check-up finds no fault in the state.
fn is_well(machine: &SystemdBox) -> bool {
    let checkup = machine.ok("p2pfs doctor --json || true");
    let checkup: serde_json::Value = serde_json::from_str(&checkup).unwrap();
    let mut checks = checkup["checks"].as_array().unwrap().iter();
    let state = checks.find(|check| check["name"] == "state").unwrap();
    state["state"] == "ok"
}

#[apply(promise)]
fn after_a_full_disk_the_state_is_stored_again_and_the_warning_ends() {
    let machine = boot_cluster();
    machine.ok("mkdir -p /var/lib/p2pfs && mount -t tmpfs -o size=24m none /var/lib/p2pfs");
    start(&machine);
    machine.ok(
        "dd if=/dev/zero of=/var/lib/p2pfs/ballast bs=4k status=none; \
         for i in $(seq 3000); do echo $i > /srv/shared/$i; done; chmod -R a+r /srv/shared",
    );
    eventually("the full disk is told of", HANG_LIMIT, || warns(&machine));
    assert!(!is_well(&machine), "by the doctor, too");
    machine.ok("ls /mnt/p2p/resume.pdf");
    machine.ok("rm /var/lib/p2pfs/ballast");
    eventually("the warning ends", HANG_LIMIT, || !warns(&machine));
    assert!(is_well(&machine), "by the doctor, too");
    machine.ok("p2pfs wait --file 3000 --timeout 60s");
    // State stored since then is loaded without a warning.
    let pid = property(&machine, "MainPID");
    machine.ok(&format!("kill -9 {pid}"));
    eventually("the next daemon serves", HANG_LIMIT, || {
        property(&machine, "MainPID") != pid && property(&machine, "ActiveState") == "active"
    });
    machine.ok("p2pfs wait --mounted --file 3000 --timeout 30s");
    assert!(!warns(&machine));
}

#[apply(promise)]
fn received_files_stay_listed_when_the_service_is_restarted() {
    let machine = boot_cluster();
    machine.write(EXTRA, "name = \"first\"\n[inbox]\nfrom = [\"*\"]\n");
    start(&machine);
    machine.ok("echo received > /root/note");
    machine.ok("p2pfs send /root/note --to first --socket /root/second/sock");
    machine.ok("p2pfs wait --file note --timeout 30s");
    machine.ok("systemctl restart p2pfs");
    machine.ok("p2pfs wait --mounted --file note --timeout 30s");
    assert_eq!(machine.ok("cat /mnt/p2p/note").trim(), "received");
    let modes = machine.ok("stat -c %a /var/lib/p2pfs /var/lib/p2pfs-inbox");
    assert_eq!(modes.trim(), "700\n755");
}
