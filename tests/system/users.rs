//! Users as seen by the service, whose user namespace knows only root and its own user.

use macro_rules_attribute::apply;
use serde_json::{Value, json};

use super::service::{SystemdBox, boot_cluster, booted_systemd, start};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// Returns the open files of a `get` that waits for the reader of its output.
fn open_in_a_get(machine: &SystemdBox, user: &str) -> String {
    let lines = "dir=$(mktemp -d) && mkfifo $dir/fifo && exec 3<>$dir/fifo && \
                 { p2pfs get games.bin -o - >&3 & } && get=$! && \
                 head -c 1000 <&3 > /dev/null && ls -l /proc/$get/fd && kill $get";
    machine.sh_as(user, lines).expect_ok()
}

#[apply(promise)]
fn doctor_names_the_user_of_the_service_by_its_name() {
    let machine = boot_cluster();
    start(&machine);
    let checkup = machine.sh("p2pfs doctor --json").text();
    let checkup: Value = serde_json::from_str(&checkup).unwrap();
    let checks = checkup["checks"].as_array().unwrap();
    let rights = checks.iter().find(|it| it["name"] == "rights").unwrap();
    assert_eq!(rights["found"], "the daemon runs as user p2pfs");
}

#[apply(promise)]
fn indistinguishable_users_get_nothing_of_each_other() {
    let machine = boot_cluster();
    machine.ok("head -c 20000000 /dev/urandom > /srv/shared/games.bin && \
         chown games /srv/shared/games.bin && chmod 666 /srv/shared/games.bin");
    start(&machine);
    machine.ok("p2pfs wait --file games.bin --timeout 60s");
    for reader in ["games", "nobody"] {
        machine
            .sh_as(reader, "cat /mnt/p2p/resume.pdf > /dev/null")
            .expect_ok();
    }
    for user in ["games", "news"] {
        let top: Value = machine.sh_as(user, "p2pfs top --once --json").expect_json();
        assert_eq!(top["readers"], json!([]), "{user}");
        assert!(top["other_readers"].as_u64().unwrap() >= 1, "{top}");
        let open = open_in_a_get(&machine, user);
        assert!(!open.contains("games.bin"), "{user}: {open}");
    }
    let root: Value = serde_json::from_str(&machine.ok("p2pfs top --once --json")).unwrap();
    assert!(!root["readers"].as_array().unwrap().is_empty(), "{root}");
}
