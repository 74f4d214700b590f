//! Peers that break the rules: the node keeps answering, and names them.

use std::fs;

use macro_rules_attribute::apply;

use super::{BOB, EVE, MeshNode};
use crate::support::daemon::*;
use crate::support::mesh_peer::MeshPeer;
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// Maximum resident memory of a node after all attacks. It needs far less.
const RESIDENT_MAX_KIB: u64 = 200 << 10;

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid()))
        .unwrap()
        .count()
}

/// A node with an honest peer that no attack may affect.
struct Lab {
    lab: MeshNode,
    honest: MeshPeer,
    descriptors: usize,
    _cluster: Cluster,
}

impl Lab {
    fn start() -> Self {
        let mut cluster = Cluster::new();
        let lab = MeshNode::start(&mut cluster, "lab", &[], "");
        let honest = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
        eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
        let descriptors = descriptors(&lab.node);
        Self {
            lab,
            honest,
            descriptors,
            _cluster: cluster,
        }
    }

    fn eve(&self) -> MeshPeer {
        MeshPeer::dial(&self.lab.mesh, EVE, "eve", 18003)
    }

    /// Asserts that `p2pfs peers` and the status name the culprit, that the honest peer is still
    /// connected, and that the node holds no descriptor or memory for the culprit.
    #[track_caller]
    fn names(&self, culprit: &str, words: &str) {
        self.lab.await_offence(culprit, words);
        let status = self.lab.node.cli(&["status", "--json"]).expect_json();
        let warnings = status["warnings"].to_string();
        assert!(
            warnings.contains("the mesh peer") && warnings.contains(words),
            "{warnings}"
        );
        assert!(self.lab.peers().contains(&"bob".to_owned()) && !self.honest.is_closed());
        eventually("nothing of it stays open", HANG_LIMIT, || {
            descriptors(&self.lab.node) <= self.descriptors + 2
        });
        let resident = resident_kib(self.lab.node.pid());
        assert!(resident < RESIDENT_MAX_KIB, "{resident} KiB");
    }
}

#[apply(promise)]
fn an_endless_line_ends_its_connection_and_its_sender_is_named() {
    let lab = Lab::start();
    let eve = lab.eve();
    while eve.send(&[b'x'; 65536]) {}
    lab.names("eve", "sent a line of more than");
}

#[apply(promise)]
fn an_oversized_or_negative_payload_ends_its_connection_and_its_sender_is_named() {
    let lab = Lab::start();
    for length in ["16777217", "-1", "9223372036854775807"] {
        let eve = lab.eve();
        eve.send(format!("BYTES:{length}\n").as_bytes());
        eventually("eve is closed", HANG_LIMIT, || eve.is_closed());
    }
    lab.names("eve", "announced a payload");
}

#[apply(promise)]
fn another_protocol_ends_its_connection_and_its_address_is_named() {
    let lab = Lab::start();
    let web = MeshPeer::connect(&lab.lab.mesh);
    web.send(b"GET / HTTP/1.1\r\n\r\n");
    lab.names("127.0.0.1", "a line that is not of the protocol");
}

#[apply(promise)]
fn ten_thousand_addresses_are_not_accepted_in_one_list_or_many() {
    let lab = Lab::start();
    let list = |count: usize| {
        let address = |n: usize| format!("10.9.{}.{}:9", n / 250, n % 250);
        let list: Vec<String> = (0..count).map(address).collect();
        format!("PEERS:{}\n", list.join(","))
    };
    let eve = lab.eve();
    eve.send(list(10_000).as_bytes());
    eventually("a list beyond any line is closed", HANG_LIMIT, || {
        eve.is_closed()
    });
    let other = "4".repeat(32);
    let lister = MeshPeer::dial(&lab.lab.mesh, &other, "lister", 18004);
    for _ in 0..100 {
        lister.send(list(3000).as_bytes());
    }
    lab.lab.await_offence("lister", "listed more than");
    // Addresses that were not dialled in vain by then stay known, up to a limit.
    let learned = lab.lab.events("mesh-learned");
    let learned: u64 = learned.iter().map(|it| it["count"].as_u64().unwrap()).sum();
    assert!(learned <= 256, "{learned}");
    drop(lister);
    lab.names("lister", "listed more than");
}

#[apply(promise)]
fn a_flood_of_lines_or_of_bytes_ends_its_connection_and_its_sender_is_named() {
    let lab = Lab::start();
    let eve = lab.eve();
    while eve.send(b"spam\n") {}
    lab.names("eve", "more lines than");
    let eve = lab.eve();
    while eve.send(b"BYTES:0\n") {}
    let told = lab.lab.events("bytes").len();
    assert!(told < 600, "{told}");
}

#[apply(promise)]
fn a_slow_drip_ends_its_connection_and_its_sender_is_named() {
    let lab = Lab::start();
    let eve = lab.eve();
    eve.send(b"BYTES:100000\nFILECHUNK:x\n");
    let mut tried = 0_u32;
    eventually("the drip is cut", HANG_LIMIT, || {
        tried += 1;
        (tried.is_multiple_of(20) && !eve.send(b"x")) || eve.is_closed()
    });
    lab.names("eve", "sent too slowly");
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
    eventually("eve is closed", HANG_LIMIT, || eve.is_closed());
    eventually("nothing stays open", HANG_LIMIT, || {
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
    eventually("the small one is there", HANG_LIMIT, || {
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
fn a_peer_that_never_reads_delays_no_other_and_is_named() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let deaf = MeshPeer::deaf(&lab.mesh, EVE, "deaf");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("both are peers", HANG_LIMIT, || lab.peers().len() == 2);
    let file = cluster.folder.path().join("file");
    fs::write(&file, vec![7; 32 << 20]).unwrap();
    let sent = start(&mut lab.node.cli_command(&["send", file.to_str().unwrap()]));
    eventually("bob has it", HANG_LIMIT, || bob.files().len() == 1);
    assert_eq!(lab.node.cli(&["say", "hi"]).status.code(), Some(0));
    let ended = sent.finish(HANG_LIMIT);
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
