//! `p2pfs mesh-shell`: a session of the original mesh program, from both ends.

use std::fs;
use std::path::Path;

use macro_rules_attribute::apply;

use super::{BOB, free_port};
use crate::support::mesh_peer::MeshPeer;
use crate::support::process::*;
use crate::support::promise::{Need, promise};
use crate::support::shell::Shell;

const NEEDS: &[Need] = &[];

fn start(dir: &Path, arguments: &[&str]) -> Shell {
    let mut command = program();
    command.arg("mesh-shell").args(arguments).current_dir(dir);
    Shell::start(&mut command)
}

#[apply(promise)]
fn two_old_prompts_meet_talk_and_send_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (a_dir, b_dir) = (folder.path().join("a"), folder.path().join("b"));
    fs::create_dir(&a_dir).unwrap();
    fs::create_dir(&b_dir).unwrap();
    let (a_port, b_port) = (free_port(), free_port());
    let mut alice = start(&a_dir, &["--name", "alice", &a_port]);
    alice.shows(&format!("[SYSTEM] Node alice listening on port {a_port}"));
    let seed = format!("127.0.0.1:{a_port}");
    let mut bob = start(&b_dir, &["--name", "bob", &b_port, &seed]);
    alice.shows(&format!(
        "[NETWORK] Peer [bob] connected from 127.0.0.1:{b_port} (1/10 peers)"
    ));
    bob.shows(&format!(
        "[NETWORK] Connected to peer [alice] at {seed} (1/10 peers)"
    ));
    bob.shows(&format!("[BOOTSTRAP] Connected to seed node {seed}"));
    alice.types("hello all");
    bob.shows("[alice] hello all");
    bob.types("/unknown command");
    alice.shows("[bob] /unknown command");
    fs::write(a_dir.join("test.txt"), vec![b'x'; 300]).unwrap();
    alice.types("/send test.txt");
    alice.shows("[FILE] Sent test.txt (300 bytes) to 1 peers");
    bob.shows("[FILE] alice is sending test.txt (300 bytes)");
    bob.shows("[FILE] alice sent file: test.txt (300 bytes) -> downloads/test.txt");
    assert_eq!(
        fs::read(b_dir.join("downloads/test.txt")).unwrap().len(),
        300
    );
    alice.types("/peers");
    alice.shows("[STATUS] Connected Peers (1/10):");
    alice.shows(&format!("  bob (127.0.0.1:{b_port}) - last seen: "));
    alice.shows("[STATUS] Known Peers (1):");
    alice.types("/connect nocolon");
    alice.shows("[ERROR] ");
    bob.types("/quit");
    alice.shows("[NETWORK] Peer [bob] disconnected");
    assert!(bob.ended().success());
}

#[apply(promise)]
fn a_legacy_peer_finds_the_prompt_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut shell = start(folder.path(), &["--name", "alice", &port]);
    shell.shows("listening on port");
    let bob = MeshPeer::dial(&format!("127.0.0.1:{port}"), BOB, "bob", 18002);
    shell.shows("[NETWORK] Peer [bob] connected from 127.0.0.1:18002 (1/10 peers)");
    bob.send(b"hi\x1b[2J\n");
    shell.shows("[bob] hi\\u{1b}[2J");
    shell.types("good evening");
    eventually("bob hears it", HANG_LIMIT, || {
        bob.lines().contains(&"good evening".into())
    });
    bob.push(b"a.txt", b"hello", 3);
    shell.shows("[FILE] bob sent file: a.txt (5 bytes) -> downloads/a.txt");
    shell.interrupt();
    let status = shell.ended();
    assert_eq!(status.code(), Some(128 + libc::SIGINT));
    eventually("its daemon is gone too", HANG_LIMIT, || bob.is_closed());
}
