//! The limits also hold for transfers from and to legacy peers, and `status` counts these.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::legacy_peer::{OldPeer, download};
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

const MIB: usize = 1 << 20;
/// Size of a file that takes a small part of a second without a limit.
const SIZE: usize = 8 * MIB;

fn start(cluster: &mut Cluster, peer: &OldPeer) -> Node {
    let address = peer.address();
    cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: format!(
            "[legacy]\nmembers = ['{address}']\nperiod = '1s'\nwaiting = '20s'\nlookup = '3s'\n\
             [mount]\nread_deadline = '300ms'\n"
        ),
        ..NodeOptions::new("lab")
    })
}

/// Shares a file, and waits until legacy peers can download it.
fn share(node: &Node, name: &str, bytes: &[u8]) {
    for (name, bytes) in [(name, bytes), ("last", b"1")] {
        node.write(name, bytes);
        node.wait_for_file(name);
    }
    eventually("legacy peers are given it", HANG_LIMIT, || {
        download(node.address, "last").bytes == b"1"
    });
}

#[apply(promise)]
fn transfers_from_legacy_peers_respect_the_limit_and_are_counted() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let bytes = noise(1, SIZE);
    for name in ["read", "got"] {
        peer.gives_file(name, &bytes);
    }
    let node = start(&mut cluster, &peer);
    node.cli(&["limits", "--down", "1MiB/s"]).expect_ok();
    let begun = Instant::now();
    assert!(fs::read(node.mounted("read")).unwrap() == bytes);
    // Reads with a waiting reader may run up to four seconds ahead of the limit.
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert_eq!(node.traffic("received_bytes"), SIZE);
    let begun = Instant::now();
    let out = node.home.join("fetched");
    node.cli(&["get", "got", "-o", out.to_str().unwrap()])
        .expect_ok();
    assert!(fs::read(out).unwrap() == bytes);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(6), "{took:?}");
    assert_eq!(node.traffic("received_bytes"), 2 * SIZE);
    node.cli(&["limits", "--configured"]).expect_ok();
}

#[apply(promise)]
fn a_throttled_read_is_not_an_error() {
    const FILES: usize = 5;
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let bytes = noise(2, 256 << 10);
    let names: Vec<String> = (0..FILES).map(|number| format!("file-{number}")).collect();
    for name in &names {
        peer.gives_file(name, &bytes);
    }
    let node = start(&mut cluster, &peer);
    node.cli(&["limits", "--down", "64KiB/s"]).expect_ok();
    // With one piece of each file, the last reader waits longer than the patience for a silent
    // peer.
    let readers = names.iter().map(|name| {
        let path = node.mounted(name);
        thread::spawn(move || fs::read(path))
    });
    let readers: Vec<_> = readers.collect();
    for (name, reader) in names.iter().zip(readers) {
        let read = reader.join().unwrap();
        assert!(read.unwrap_or_else(|e| panic!("{name}: {e}")) == bytes);
    }
}

#[apply(promise)]
fn transfers_to_legacy_peers_respect_the_limit_and_are_counted() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start(&mut cluster, &peer);
    let bytes = noise(3, SIZE);
    share(&node, "large", &bytes);
    let before = node.traffic("sent_bytes");
    node.cli(&["limits", "--up", "2MiB/s"]).expect_ok();
    let begun = Instant::now();
    assert!(download(node.address, "large").bytes == bytes);
    // The transfer takes four seconds, less half a second that may pass at once.
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert_eq!(node.traffic("sent_bytes") - before, SIZE);
}

/// Begins a transfer to a legacy peer.
fn asking(node: SocketAddr, name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node).unwrap();
    let limit = Some(HANG_LIMIT);
    stream.set_read_timeout(limit).unwrap();
    let asked = format!("Get,{name}\n");
    stream.write_all(asked.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 74]).unwrap();
    stream
}

#[apply(promise)]
fn a_transfer_to_a_legacy_peer_continues_at_once_when_its_limit_is_lifted() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start(&mut cluster, &peer);
    let bytes = noise(4, 4 * SIZE);
    share(&node, "large", &bytes);
    node.cli(&["limits", "--up", "64KiB/s"]).expect_ok();
    let mut stream = asking(node.address, "large");
    let mut got = vec![0; 64 << 10];
    stream.read_exact(&mut got).unwrap();
    let begun = Instant::now();
    node.cli(&["limits", "--up", "none"]).expect_ok();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == bytes);
    // It would take eight minutes at that limit.
    assert!(begun.elapsed() < HANG_LIMIT);
}
