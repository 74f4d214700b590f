//! A node and legacy peers of the mesh: with commands and with raw bytes.

use std::fs;
use std::net::TcpListener;

use macro_rules_attribute::apply;

use super::{BOB, EVE, MeshNode};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::mesh_peer::{Came, MeshPeer};
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

#[apply(promise)]
fn a_connecting_peer_is_answered_introduced_and_shown() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
    let first = bob.lines().remove(0);
    let (id, name) = first.split_once(':').unwrap();
    assert_eq!((id.len(), name), (32, "lab"));
    let eve = MeshPeer::dial(&lab.mesh, EVE, "eve", 18003);
    eventually("eve hears of bob", HANG_LIMIT, || {
        eve.lines().contains(&"PEERS:127.0.0.1:18002".to_owned())
    });
    let again = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("a duplicate is told so", HANG_LIMIT, || {
        again.came() == [Came::Line("DUPLICATE".into()), Came::Closed]
    });
    let table = lab.node.cli(&["peers"]).expect_ok();
    assert!(
        table.contains("mesh") && table.contains("127.0.0.1:18002"),
        "{table}"
    );
    drop(eve);
    eventually("eve is gone", HANG_LIMIT, || lab.peers() == ["bob"]);
    let gone = lab.events("mesh-down");
    assert_eq!(gone[0]["peer"], "eve");
}

#[apply(promise)]
fn a_configured_peer_is_dialled_with_both_lines_and_asked_for_others() {
    let mut cluster = Cluster::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let lab = MeshNode::start(&mut cluster, "lab", &[&at], "max_peers = 1");
    let bob = MeshPeer::accept(&listener, BOB, "bob");
    eventually("bob is asked", HANG_LIMIT, || {
        bob.lines().contains(&"REQUEST_PEERS".to_owned())
    });
    let lines = bob.lines();
    assert!(lines[0].ends_with(":lab"), "{lines:?}");
    assert_eq!(lines[1], format!("LISTEN:{}", lab.mesh));
    let eve = MeshPeer::dial(&lab.mesh, EVE, "eve", 18003);
    eventually("one too many is told so", HANG_LIMIT, || {
        eve.came() == [Came::Line("MAX_PEERS".into()), Came::Closed]
    });
}

#[apply(promise)]
fn talk_passes_in_both_directions_and_cannot_control_a_terminal() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let refused = lab.node.cli(&["say", "anyone?"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("no other node is connected"),
        "{}",
        refused.stderr
    );
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
    let said = lab.node.cli(&["say", "hello", "all"]).expect_ok();
    assert_eq!(said, "heard by bob\n");
    lab.node.cli(&["say", "BYTES:3"]).expect_ok();
    eventually("bob hears it", HANG_LIMIT, || {
        let lines = bob.lines();
        lines.contains(&"hello all".into()) && lines.contains(&"\\BYTES:3".into())
    });
    bob.send(b"evil \x1b[2J\xe2\x80\xae text\n");
    eventually("it is told", HANG_LIMIT, || !lab.events("chat").is_empty());
    let chat = lab.events("chat").remove(0);
    assert_eq!(chat["peer"], "bob");
    assert_eq!(chat["text"], "evil \u{1b}[2J\u{202e} text");
    let text = lab.node.cli(&["events"]).expect_ok();
    assert!(
        text.contains("bob says: evil \\u{1b}[2J\\u{202e} text"),
        "{text}"
    );
    assert!(!text.replace('\n', "").chars().any(char::is_control));
}

#[apply(promise)]
fn a_pushed_file_of_any_size_and_name_lands_in_the_inbox_and_is_shared() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let other = cluster.start_with(NodeOptions {
        mounted: false,
        config: "[mount]\nenabled = false\n".to_owned(),
        ..NodeOptions::new("other")
    });
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    let long = format!("{}.txt", "n".repeat(296));
    let large = noise(1, 64 << 20);
    let files: [(&[u8], &[u8], String); 9] = [
        (b"empty", b"", "empty".into()),
        (b"one", b"1", "one".into()),
        (b"../../up.txt", b"up", "up.txt".into()),
        (b"sub/dir/x.txt", b"x", "x.txt".into()),
        (b"pipe|pipe", b"pipe", "pipe|pipe".into()),
        (b"bell\x07", b"bell", "bell_".into()),
        (b"one", b"another", "one-(1)".into()),
        (long.as_bytes(), b"long", format!("{}.txt", "n".repeat(240))),
        (b"large", &large, "large".into()),
    ];
    for (name, bytes, _) in &files {
        bob.push(name, bytes, 256 << 10);
    }
    eventually("all are there", HANG_LIMIT, || {
        lab.received().len() == files.len()
    });
    for (_, bytes, kept) in &files {
        let got = fs::read(lab.inbox.join(kept)).unwrap_or_else(|e| panic!("{kept}: {e}"));
        assert!(got == *bytes, "{kept}");
    }
    let done = lab.events("receive-done");
    assert_eq!(done.len(), files.len());
    assert_eq!(
        (&done[1]["peer"], &done[1]["name"]["path"]),
        (&"bob".into(), &"one".into())
    );
    // Wait for each name: a file that is still open for writing is listed after files that arrived
    // later.
    ["one", "up.txt", "large"]
        .iter()
        .for_each(|name| other.wait_for_file(name));
    let why = lab.node.cli(&["why", "one", "--json"]).expect_json();
    assert_eq!(why["sent_by"], "bob");
    let names = names_listed(&other);
    assert!(names.contains(&"up.txt".to_owned()), "{names:?}");
    let of_bob = || {
        let peers = lab.node.cli(&["peers", "--json"]).expect_json();
        let peers = peers["peers"].as_array().unwrap().clone();
        let mut peers = peers.into_iter();
        peers.find(|peer| peer["name"] == "bob").unwrap()
    };
    assert!(of_bob()["received_bytes"].as_u64().unwrap() >= 64 << 20);
    assert!(of_bob()["rate_bytes_per_s"].as_u64().unwrap() > 0);
    eventually("a ping was answered", HANG_LIMIT, || {
        of_bob()["round_trip_ms"].as_f64().is_some()
    });
}

fn names_listed(node: &Node) -> Vec<String> {
    let listed = node.cli(&["ls", "--json"]).expect_json();
    let entries = listed["entries"].as_array().unwrap().clone();
    let names = entries
        .iter()
        .map(|entry| entry["path"].as_str().unwrap().to_owned());
    names.collect()
}

#[apply(promise)]
fn a_truncated_file_or_one_with_a_wrong_hash_or_size_leaves_nothing() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    bob.push_as(b"wrong", b"hello", &"00".repeat(32), 99);
    lab.await_offence("bob", "does not fit its hash");
    bob.begin(b"short", 10, &"00".repeat(32));
    bob.send_bytes(b"FILECHUNK:short\nhello");
    bob.send_bytes(b"FILEEND:short\n");
    lab.await_offence("bob", "does not fit the size");
    bob.send_bytes(b"FILESTART:no|fields\n");
    lab.await_offence("bob", "means nothing");
    // The connection still accepts a correct file.
    bob.push(b"right", b"right", 99);
    eventually("it is there", HANG_LIMIT, || lab.received() == ["right"]);
    for (count, cut) in [0_usize, 1, 1000, 300_000].into_iter().enumerate() {
        let id = format!("{count:032}");
        let cutter = MeshPeer::dial(&lab.mesh, &id, "cutter", 18009);
        cutter.begin(b"cut", 1 << 20, &"00".repeat(32));
        let head = format!("BYTES:{}\nFILECHUNK:cut\n", (1 << 20) + 14);
        cutter.send(head.as_bytes());
        cutter.send(&vec![7; cut]);
        eventually("it has begun", HANG_LIMIT, || {
            lab.events("receive-started").len() == count + 4
        });
        drop(cutter);
        eventually("it has failed", HANG_LIMIT, || {
            lab.events("receive-failed").len() == count + 3
        });
    }
    assert_eq!(lab.received(), ["right"]);
}

#[apply(promise)]
fn send_pushes_to_mesh_peers_as_old_programs_understand_it() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let (bob, eve) = lab.with_bob_and_eve();
    let folder = cluster.folder.path().join("mine");
    fs::create_dir_all(folder.join("deep")).unwrap();
    let large = noise(2, 40 << 20);
    fs::write(folder.join("a|b.txt"), b"").unwrap();
    fs::write(folder.join("deep/large.bin"), &large).unwrap();
    let folder = folder.to_str().unwrap();
    let sent = lab.node.cli(&["send", folder, "--to", "bob"]).expect_ok();
    assert!(
        sent.contains("bob was sent") && sent.contains("large.bin (40.0 MiB)"),
        "{sent}"
    );
    eventually("bob has both", HANG_LIMIT, || bob.files().len() == 2);
    let files = bob.files();
    assert_eq!(files[0], ("a_b.txt".to_owned(), Vec::new()));
    assert!(files[1].0 == "large.bin" && files[1].1 == large);
    let messages = bob
        .came()
        .iter()
        .filter(|came| matches!(came, Came::Bytes(_)))
        .count();
    assert!(
        messages < 100,
        "{messages} would overflow an old receiver's queue"
    );
    assert!(eve.files().is_empty());
    let unknown = lab.node.cli(&["send", folder, "--to", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        unknown.stderr.contains("no peer is called \"nobody\""),
        "{}",
        unknown.stderr
    );
    let report = lab.node.cli(&["send", "--json", folder]).expect_json();
    let files = report["files"].as_array().unwrap();
    assert_eq!(
        (files.len(), files[1]["taken"].as_array().unwrap().len()),
        (2, 2)
    );
    assert_eq!(files[1]["taken"][0]["confirmed"], false);
}

#[apply(promise)]
fn many_small_files_are_paced_so_that_no_old_queue_overflows() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
    let folder = cluster.folder.path().join("many");
    fs::create_dir_all(&folder).unwrap();
    for n in 0..100 {
        fs::write(folder.join(format!("{n:03}")), format!("{n}")).unwrap();
    }
    lab.node
        .cli(&["send", folder.to_str().unwrap()])
        .expect_ok();
    eventually("bob has all", HANG_LIMIT, || bob.files().len() == 100);
}
