//! Another p2pfs compared with the current build, such as one from before a change. Each reads from
//! its own server of the same folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rivals::{Rival, folders};
use crate::sshd::{START_LIMIT, free_port};
use crate::support::daemon::{is_mounted, set_mode};
use crate::support::process::{self, eventually, run};

/// Starts two nodes with a program built from another revision.
pub(crate) fn before(program: &Path, folder: &Path, share: &Path) -> Rival {
    let [home, mount] = folders(folder, ["before", "before-mount"]);
    let (port, secret) = (free_port(), home.join("secret"));
    fs::write(&secret, format!("{}\n", "b4".repeat(32))).unwrap();
    set_mode(&secret, 0o600);
    let mut serve = daemon(program, &home, "server", port);
    let server = process::start(serve.arg("--share").arg(share));
    let mut reads = daemon(program, &home, "reader", free_port());
    reads.args(["--seed", &format!("127.0.0.1:{port}"), "--mount"]);
    let reader = process::start(reads.arg(&mount));
    eventually("the p2pfs of before has mounted", START_LIMIT, || {
        is_mounted(&mount)
    });
    let mut wait = Command::new(program);
    wait.args(["wait", "--peers", "1", "--timeout", "60s", "--socket"]);
    run(wait.arg(home.join("reader/socket"))).expect_ok();
    Rival::of_processes("p2pfs, before", mount, port, vec![reader, server])
}

fn daemon(program: &Path, home: &Path, name: &str, port: u16) -> Command {
    let own = home.join(name);
    fs::create_dir(&own).unwrap();
    fs::write(own.join("config"), "").unwrap();
    let mut daemon = Command::new(program);
    daemon.args(["daemon", "--name", name]);
    daemon.args(["--listen", &format!("127.0.0.1:{port}")]);
    daemon.arg("--secret-file").arg(home.join("secret"));
    for (flag, place) in [
        ("--config", "config"),
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", "socket"),
    ] {
        daemon.arg(flag).arg(own.join(place));
    }
    daemon
}
