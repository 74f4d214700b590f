//! The rate limits also hold for files of the mesh, and `status` counts these files.

use std::fs;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use super::{BOB, MeshNode};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::mesh_peer::MeshPeer;
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// Size of a file that takes a small part of a second without a limit.
const SIZE: usize = 8 << 20;
/// Minimum duration: four seconds at the limit, less half a second that may pass at once.
const LEAST: Duration = Duration::from_secs(3);

#[apply(promise)]
fn files_pushed_by_mesh_peers_respect_the_limit_and_are_counted() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
    lab.node.cli(&["limits", "--down", "2MiB/s"]).expect_ok();
    let (begun, bytes) = (Instant::now(), noise(1, SIZE));
    bob.push(b"gift", &bytes, 256 << 10);
    eventually("it is there", HANG_LIMIT, || lab.received() == ["gift"]);
    let took = begun.elapsed();
    assert!(took >= LEAST, "{took:?}");
    assert!(fs::read(lab.inbox.join("gift")).unwrap() == bytes);
    assert_eq!(lab.node.traffic("received_bytes"), SIZE);
}

#[apply(promise)]
fn files_sent_to_mesh_peers_respect_the_limit_and_are_counted() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
    lab.node.cli(&["limits", "--up", "2MiB/s"]).expect_ok();
    let (file, bytes) = (cluster.folder.path().join("gift"), noise(2, SIZE));
    fs::write(&file, &bytes).unwrap();
    let begun = Instant::now();
    lab.node
        .cli(&["send", file.to_str().unwrap(), "--to", "bob"])
        .expect_ok();
    eventually("it is there", HANG_LIMIT, || !bob.files().is_empty());
    let took = begun.elapsed();
    assert!(took >= LEAST, "{took:?}");
    assert!(bob.files() == [("gift".to_owned(), bytes)]);
    assert_eq!(lab.node.traffic("sent_bytes"), SIZE);
}
