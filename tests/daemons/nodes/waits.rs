//! Programs that wait for data of a silent node. Each ends at once on a signal, and calls for names
//! and attributes do not wait.

use std::fs;
use std::process::Command;
use std::time::Instant;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
fn a_blocked_reader_ends_at_once_on_ctrl_c() {
    let mut cluster = Cluster::new();
    let mut nodes = ["one", "two"].map(|name| {
        cluster.start_with(NodeOptions {
            config: "[mount]\nread_deadline = '300s'\n".to_owned(),
            ..NodeOptions::new(name)
        })
    });
    nodes[0].write("far.bin", &noise(7, 64 << 20));
    nodes[1].wait_for_file("far.bin");
    nodes[0].signal(libc::SIGSTOP);
    let reader = start(Command::new("cat").arg(nodes[1].mounted("far.bin")));
    eventually("the read waits", HANG_LIMIT, || {
        let status = nodes[1].cli(&["status", "--json"]).expect_json();
        status["waiting_reads"]
            .as_u64()
            .is_some_and(|waiting| waiting > 0)
    });
    reader.signal(libc::SIGINT);
    reader.finish(AT_ONCE);
    nodes[0].signal(libc::SIGCONT);
    nodes[0].kill();
}

/// Returns whether a process waits in a call to the mount. The check takes no lock that a blocked
/// reader may hold.
fn waits_for_the_mount(reader: &Running) -> bool {
    let place = fs::read_to_string(format!("/proc/{}/wchan", reader.pid())).unwrap_or_default();
    ["request_wait_answer", "folio_wait", "fuse"]
        .iter()
        .any(|name| place.contains(name))
}

#[apply(promise)]
fn readers_of_every_kind_end_at_once_on_ctrl_c() {
    const ROUNDS: usize = 20;
    let mut cluster = Cluster::new();
    let far = cluster.start("far");
    // This legacy peer receives requests and never answers.
    let legacy_peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let near = cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: format!(
            "[mount]\nread_deadline = '300s'\n[legacy]\nmembers = ['{}']\nlookup = '300s'\n",
            legacy_peer.local_addr().unwrap()
        ),
        ..NodeOptions::new("near")
    });
    far.write("far.bin", &noise(7, 64 << 20));
    near.wait_for_file("far.bin");
    far.signal(libc::SIGSTOP);
    let file = near.mounted("far.bin");
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", file.display()));
    dd.args(["of=/dev/null", "bs=4096", "count=1", "iflag=direct"]);
    for command in [
        Command::new("cat").arg(&file),
        &mut dd,
        Command::new("stat").arg(near.mounted("unknown")),
    ] {
        for round in 0..ROUNDS {
            let mut reader = start(command);
            eventually("the reader waits", HANG_LIMIT, || {
                assert!(reader.is_running(), "{command:?} ended by itself");
                waits_for_the_mount(&reader)
            });
            reader.signal(libc::SIGINT);
            let (_, within) = reader.end_within(AT_ONCE);
            assert!(within, "{command:?} stayed, round {round}");
        }
    }
    far.signal(libc::SIGCONT);
}

#[apply(promise)]
fn names_and_attributes_never_wait_for_silent_or_dead_peers() {
    let mut cluster = Cluster::new();
    let nodes = ["near", "far"].map(|name| {
        cluster.start_with(NodeOptions {
            config: "[mount]\nread_deadline = '300s'\n".to_owned(),
            ..NodeOptions::new(name)
        })
    });
    for node in &nodes {
        for number in 0..50 {
            // Each file has different bytes. Otherwise another node could give it and it would stay
            // listed.
            let name = format!("{}/f{number}", node.name);
            node.write(&name, name.as_bytes());
        }
        std::os::unix::fs::symlink("f0", node.share.join(&node.name).join("link")).unwrap();
    }
    nodes[1].write("far.bin", &noise(8, 8 << 20));
    for name in ["near/link", "far/f49", "far/link", "far.bin"] {
        nodes[0].wait_for_file(name);
    }
    let [near, mut far] = nodes;
    let ask_all = |state: &str| {
        let reader = start(Command::new("cat").arg(near.mounted("far.bin")));
        let begun = Instant::now();
        // If each round waited for a peer for a second, they would exceed the limit together.
        for number in 0..500 {
            let name = ["near", "far"][number % 2];
            let file = near.mounted(&format!("{name}/f{}", number % 50));
            let _ = fs::read_dir(near.mounted(name)).map(Iterator::count);
            let _ = fs::metadata(&file);
            let _ = rustix::fs::getxattr(&file, "user.p2pfs.holders", &mut [0; 256]);
            let _ = fs::read_link(near.mounted(&format!("{name}/link")));
            let _ = fs::metadata(near.mounted(&format!("absent-{number}")));
            rustix::fs::statvfs(&near.mount).unwrap();
        }
        assert!(begun.elapsed() < HANG_LIMIT, "they waited: {state}");
        reader.signal(libc::SIGKILL);
        assert!(reader.end_within(AT_ONCE).1, "{state}");
    };
    far.signal(libc::SIGSTOP);
    ask_all("every peer silent");
    far.signal(libc::SIGCONT);
    far.kill();
    ask_all("every peer dead");
    eventually("their names leave", HANG_LIMIT, || {
        !near.mounted("far/f49").exists()
    });
    ask_all("every peer given up");
    assert_eq!(fs::read(near.mounted("near/f7")).unwrap(), b"near/f7");
}
