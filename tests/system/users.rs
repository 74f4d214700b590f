//! Who is who to the service: it tells the users of a machine apart, none of whom is its own.

use macro_rules_attribute::apply;
use serde_json::{Value, json};

use super::service::{SystemdBox, boot_cluster, booted_systemd, start};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// What a get has open while it waits for whoever reads what it writes.
fn open_in_a_get(machine: &SystemdBox, user: &str) -> String {
    let lines = "dir=$(mktemp -d) && mkfifo $dir/fifo && exec 3<>$dir/fifo && \
                 { p2pfs get games.bin -o - >&3 & } && get=$! && \
                 head -c 1000 <&3 > /dev/null && ls -l /proc/$get/fd && kill $get";
    machine.sh_as(user, lines).expect_ok()
}

#[apply(promise)]
fn users_are_told_apart_by_what_they_read_and_by_what_is_theirs() {
    let machine = boot_cluster();
    machine.ok("head -c 20000000 /dev/urandom > /srv/shared/games.bin && \
         chown games /srv/shared/games.bin && chmod 666 /srv/shared/games.bin");
    start(&machine);
    machine.ok("p2pfs wait --file games.bin --timeout 60s");
    machine
        .sh_as("games", "cat /mnt/p2p/resume.pdf > /dev/null")
        .expect_ok();
    let top =
        |user: &str| -> Value { machine.sh_as(user, "p2pfs top --once --json").expect_json() };
    let (games, news) = (top("games"), top("news"));
    let uid: u32 = machine.ok("id -u games").trim().parse().unwrap();
    assert_eq!(games["readers"][0]["uid"], uid, "{games}");
    assert_eq!(news["readers"], json!([]));
    assert!(news["other_readers"].as_u64().unwrap() >= 1, "{news}");

    let theirs = open_in_a_get(&machine, "games");
    assert!(theirs.contains("games.bin"), "{theirs}");
    let anothers = open_in_a_get(&machine, "news");
    assert!(!anothers.contains("games.bin"), "{anothers}");
}
