//! Peers that do what they should not: the node answers all the while, and names them.

use std::fs;
use std::time::Duration;

use macro_rules_attribute::apply;

use super::{BOB, EVE, MeshNode, SOON};
use crate::support::daemon::*;
use crate::support::mesh_peer::MeshPeer;
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// The most that a node may have resident after all of it: it needs far less.
const RESIDENT_MAX_KIB: u64 = 200 << 10;

fn resident_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid()))
        .unwrap()
        .count()
}

#[apply(promise)]
fn endless_lines_huge_payloads_and_other_protocols_end_their_connection_and_are_named() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let honest = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("bob is a peer", SOON, || lab.peers() == ["bob"]);
    let endless = MeshPeer::dial(&lab.mesh, "1", "endless", 1);
    while endless.send(&[b'x'; 65536]) {}
    lab.await_offence("endless", "sent a line of more than");
    let huge = MeshPeer::dial(&lab.mesh, "2", "huge", 1);
    huge.send(b"BYTES:16777217\n");
    lab.await_offence("huge", "announced a payload");
    eventually("huge is closed", SOON, || huge.is_closed());
    let negative = MeshPeer::dial(&lab.mesh, "3", "negative", 1);
    negative.send(b"BYTES:-1\n");
    lab.await_offence("negative", "announced a payload");
    let web = MeshPeer::connect(&lab.mesh);
    web.send(b"GET / HTTP/1.1\r\n\r\n");
    lab.await_offence("127.0.0.1", "no line of the protocol");
    let list: Vec<String> = (0..10_000).map(|n| format!("1.{}:9", n)).collect();
    let lister = MeshPeer::dial(&lab.mesh, "4", "lister", 1);
    lister.send(format!("PEERS:{}\n", list.join(",")).as_bytes());
    eventually("a list beyond any line is closed", SOON, || {
        lister.is_closed()
    });
    let lister = MeshPeer::dial(&lab.mesh, "5", "lister5", 1);
    let list: Vec<String> = (0..3000)
        .map(|n| format!("10.9.{}.{}:9", n / 250, n % 250))
        .collect();
    lister.send(format!("PEERS:{}\n", list.join(",")).as_bytes());
    lab.await_offence("lister5", "listed more than");
    let flood = MeshPeer::dial(&lab.mesh, EVE, "flood", 1);
    while flood.send(b"spam\n") {}
    lab.await_offence("flood", "more lines than");
    let warnings = lab.node.cli(&["status", "--json"]).expect_json()["warnings"].to_string();
    assert!(warnings.contains("the mesh peer"), "{warnings}");
    assert!(lab.peers().contains(&"bob".to_owned()) && !honest.is_closed());
    assert!(
        resident_kib(&lab.node) < RESIDENT_MAX_KIB,
        "{}",
        resident_kib(&lab.node)
    );
}

#[apply(promise)]
fn a_flood_of_files_holds_few_descriptors_and_names_its_sender() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let before = descriptors(&lab.node);
    let eve = MeshPeer::dial(&lab.mesh, EVE, "eve", 18003);
    for n in 0..1000 {
        eve.begin(format!("f{n}").as_bytes(), 1 << 20, &"00".repeat(32));
    }
    lab.await_offence("eve", "pushes more files at once");
    eventually("eve is closed", SOON, || eve.is_closed());
    eventually("nothing stays open", SOON, || {
        descriptors(&lab.node) <= before + 2
    });
    assert!(lab.received().is_empty());
}

#[apply(promise)]
fn a_file_over_the_budget_is_refused_and_the_connection_stays() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    bob.begin(b"too-large", 2 << 30, &"00".repeat(32));
    bob.send_bytes(b"FILECHUNK:too-large\nhello");
    bob.push(b"small", b"small", 99);
    eventually("the small one is there", SOON, || {
        lab.received() == ["small"]
    });
    let failed = lab.events("receive-failed");
    assert!(
        failed[0]["why"].as_str().unwrap().contains("budget"),
        "{failed:?}"
    );
    assert_eq!(lab.offence("bob"), None, "it could not know");
}

#[apply(promise)]
fn a_peer_that_never_reads_holds_up_nobody_and_is_named() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let deaf = MeshPeer::deaf(&lab.mesh, EVE, "deaf");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("both are peers", SOON, || lab.peers().len() == 2);
    let file = cluster.folder.path().join("file");
    fs::write(&file, vec![7; 32 << 20]).unwrap();
    let sent = start(&mut lab.node.cli_command(&["send", file.to_str().unwrap()]));
    eventually("bob has it", SOON, || bob.files().len() == 1);
    assert_eq!(lab.node.cli(&["say", "hi"]).status.code(), Some(0));
    let ended = sent.finish(Duration::from_secs(90));
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stderr.contains("deaf did not take"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("bob did not"), "{}", ended.stderr);
    lab.await_offence("deaf", "does not read");
    drop(deaf);
}
