//! Membership of a cluster: what a stranger, an observer and garbage input can get from it, and how
//! a node joins and leaves.

use std::fs;

use macro_rules_attribute::apply;

use super::{NEEDS, listener};
use crate::support::content::{names_below, noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
fn a_stranger_with_another_secret_learns_and_changes_nothing() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("secret-name.txt", b"secret content");
    nodes[1].wait_for_file("secret-name.txt");
    cluster.change_secret(&"77".repeat(32));
    let stranger = cluster.start("mallory");
    let waited = stranger.cli(&["wait", "--peers", "1", "--timeout", "5s"]);
    assert_eq!(waited.status.code(), Some(1));
    assert!(names_below(&stranger.mount).is_empty());
    let peers = stranger.cli(&["peers", "--json"]).expect_ok();
    assert!(!peers.contains("one") && !peers.contains("two"), "{peers}");
    let peers = nodes[0].cli(&["peers", "--json"]).expect_ok();
    assert!(
        peers.contains("two") && !peers.contains("mallory"),
        "{peers}"
    );
}

#[apply(promise)]
fn a_listener_on_the_wire_reads_no_name_and_no_content() {
    let Some(listener) = listener::Listener::on_loopback() else {
        println!("SKIPPED: listening on the wire takes CAP_NET_RAW; run the tests as root");
        return;
    };
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["orpheus", "eurydice"]);
    let words = noise(12, 600)
        .iter()
        .map(|b| format!("plaintext{b:02x} "))
        .collect::<String>();
    nodes[0].write("underworld.txt", words.as_bytes());
    nodes[1].wait_for_file("underworld.txt");
    assert_eq!(
        fs::read(nodes[1].mounted("underworld.txt")).unwrap(),
        words.as_bytes()
    );
    let marker = b"end-of-the-listening";
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(marker, nodes[0].address).unwrap();
    let heard = listener.hear_until(marker, HANG_LIMIT);
    let ports = nodes
        .iter()
        .map(|node| node.address.port())
        .collect::<Vec<_>>();
    assert!(
        heard.to_ports(&ports) > 10,
        "the listener heard nothing of the nodes"
    );
    for secret in ["underworld", "plaintext", "orpheus", "eurydice"] {
        assert!(
            !heard.contains(secret.as_bytes()),
            "{secret} was read from the wire"
        );
    }
}

#[apply(promise)]
fn an_invited_node_joins_and_a_used_token_is_refused() {
    let mut cluster = Cluster::with_own_secrets();
    let first = cluster.start("one");
    first.write("a.txt", b"a");
    let token = first.cli(&["invite"]).expect_ok().trim().to_owned();
    let second = cluster.start("two");
    assert!(names_below(&second.mount).is_empty());
    second.cli(&["join", &token]).expect_ok();
    second
        .cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
        .expect_ok();
    second.wait_for_file("a.txt");
    let third = cluster.start("three");
    let refused = third.cli(&["join", &token]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("another node has used it; make another"),
        "{}",
        refused.stderr
    );
    let reported = first.cli(&["events", "--json"]).expect_ok();
    for part in [
        "cannot admit a node that calls itself three (key ",
        ") at 127.0.0.1: its invitation was used already, by two",
    ] {
        assert!(reported.contains(part), "{reported}");
    }
    let broken = third.cli(&["join", "p2pfs1-nonsense"]);
    assert_eq!(broken.status.code(), Some(1));
    assert_eq!(broken.stderr.trim().lines().count(), 1, "{}", broken.stderr);
    assert!(names_below(&third.mount).is_empty());
}

#[apply(promise)]
fn a_node_that_left_is_a_stranger_at_its_next_start() {
    let mut cluster = Cluster::with_own_secrets();
    let first = cluster.start("one");
    first.write("a.txt", b"a");
    let token = first.cli(&["invite"]).expect_ok().trim().to_owned();
    let mut second = cluster.start("two");
    second.cli(&["join", &token]).expect_ok();
    second.wait_for_file("a.txt");
    second.cli(&["leave", "--yes"]).expect_ok();
    second.await_end().expect_ok();
    second.launch();
    let waited = second.cli(&["wait", "--peers", "1", "--timeout", "3s"]);
    assert_eq!(waited.status.code(), Some(1), "it is a member again");
    assert!(names_below(&second.mount).is_empty());
    let token = first.cli(&["invite"]).expect_ok().trim().to_owned();
    second.cli(&["join", &token]).expect_ok();
    second.wait_for_file("a.txt");
}

#[apply(promise)]
fn garbage_on_both_ports_changes_nothing() {
    use std::io::{Read, Write};
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("a.txt", b"a");
    nodes[1].wait_for_file("a.txt");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for seed in 0..500u64 {
        let length = (seed * 7 % 1400) as usize;
        udp.send_to(&noise(seed, length), nodes[0].address).unwrap();
    }
    for first in [
        b"\x16\x03\x01\xff\xff".as_slice(),
        b"Get,a.txt\n",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
    ] {
        let mut tcp = std::net::TcpStream::connect(nodes[0].address).unwrap();
        tcp.set_read_timeout(Some(HANG_LIMIT)).unwrap();
        let _ = tcp.write_all(first);
        let _ = tcp.write_all(&noise(9, 100_000));
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("a.txt"));
    }
    nodes[0].write("b.txt", b"b");
    nodes[1].wait_for_file("b.txt");
    let status = nodes[0].cli(&["status", "--json"]).expect_json();
    let dropped = &status["dropped"];
    assert!(dropped["datagrams"].as_u64().unwrap() > 0, "{status}");
}
