//! Real daemons among legacy peers, in both directions, by commands only. Each legacy peer is the
//! stand-in of `legacy_peer`, which has the formats and the limits of the original program.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::legacy_peer::{Gives, OldPeer, download, header};
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// These nodes have no folder, because they must not use the default one.
const NO_MOUNT: &str = "[mount]\nenabled = false\n";

fn settings(members: &[&OldPeer], more: &str) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|peer| format!("{:?}", peer.address()))
        .collect();
    format!(
        "[legacy]\nmembers = [{}]\nperiod = '1s'\nwaiting = '8s'\nlookup = '4s'\n\
         responder_delay = '2s'\n{more}\n{NO_MOUNT}",
        members.join(",")
    )
}

fn start(cluster: &mut Cluster, name: &str, members: &[&OldPeer], more: &str) -> Node {
    cluster.start_with(NodeOptions {
        mounted: false,
        more: vec!["--legacy".to_owned()],
        config: settings(members, more),
        ..NodeOptions::new(name)
    })
}

/// Waits until the legacy peer knows the node.
fn introduced(peer: &OldPeer, node: &Node) {
    let address = node.address.to_string();
    eventually("the legacy peer knows the node", HANG_LIMIT, || {
        peer.members().contains(&address)
    });
}

fn legacy_peers(node: &Node) -> Vec<String> {
    let peers = node.cli(&["peers", "--json"]).expect_json();
    let peers = peers["peers"].as_array().unwrap().clone();
    peers
        .iter()
        .filter(|peer| peer["plane"] == "legacy" && peer["state"] == "alive")
        .map(|peer| peer["address"].as_str().unwrap().to_owned())
        .collect()
}

#[apply(promise)]
fn a_legacy_peer_learns_our_address_and_we_learn_its_friends() {
    let mut cluster = Cluster::new();
    let (a, b) = (
        OldPeer::start(Duration::ZERO),
        OldPeer::start(Duration::ZERO),
    );
    let node = start(&mut cluster, "lab", &[&a, &b], "");
    introduced(&a, &node);
    introduced(&b, &node);
    let first = format!("DISCOVER,{}\n", node.address);
    assert_eq!(a.heard()[0], (node.address, first), "the exact first words");
    a.ping();
    b.ping();
    eventually("both are members", HANG_LIMIT, || {
        legacy_peers(&node).len() == 2
    });
    eventually("they learn of each other", HANG_LIMIT, || {
        a.members().contains(&b.address().to_owned())
            && b.members().contains(&a.address().to_owned())
    });
}

#[apply(promise)]
fn a_legacy_peer_gets_files_of_any_size_by_name() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start(&mut cluster, "lab", &[&peer], "");
    let long = "n".repeat(64);
    let large: Vec<u8> = (0..100 << 20)
        .map(|n: u32| (n >> 8) as u8 ^ n as u8)
        .collect();
    let files: [(&str, &str, &[u8]); 5] = [
        ("empty", "empty", b""),
        ("deep/folder/one", "one", b"1"),
        (&long, &long, b"long"),
        ("name with spaces.txt", "name with spaces.txt", b"spaces"),
        ("large.bin", "large.bin", &large),
    ];
    for (path, _, bytes) in &files {
        node.write(path, bytes);
    }
    files
        .iter()
        .for_each(|(path, _, _)| node.wait_for_file(path));
    introduced(&peer, &node);
    for (_, name, bytes) in files {
        let got = peer
            .get(name, HANG_LIMIT)
            .unwrap_or_else(|| panic!("no answer for {name}"));
        assert_eq!(got.header, header(bytes.len() as u64, name));
        assert!(got.bytes == bytes, "{name}: {} bytes", got.bytes.len());
    }
    assert_eq!(peer.get("absent", Duration::from_secs(4)), None);
    for outside in ["../../secret", "..", "deep", "p2pfs.toml"] {
        let got = download(node.address, outside);
        assert_eq!((got.header.as_str(), got.bytes.len()), ("", 0), "{outside}");
    }
}

#[track_caller]
fn get(node: &Node, name: &str) -> (Finished, std::path::PathBuf) {
    let out = node.home.join("fetched");
    let _absent = fs::remove_file(&out);
    let finished = node.cli(&["get", name, "-o", out.to_str().unwrap()]);
    (finished, out)
}

#[apply(promise)]
fn get_fetches_from_a_legacy_peer() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::from_secs(1));
    let large: Vec<u8> = (0..5 << 20).map(|n: u32| (n >> 7) as u8).collect();
    let long = "n".repeat(64);
    let files: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("one", b"1"),
        ("name with spaces", b"spaces"),
        (&long, b"long"),
        ("large", &large),
    ];
    files
        .iter()
        .for_each(|(name, bytes)| peer.gives_file(name, bytes));
    let node = start(&mut cluster, "lab", &[&peer], "");
    for (name, bytes) in files {
        let (finished, out) = get(&node, name);
        finished.expect_ok();
        assert!(fs::read(out).unwrap() == bytes, "{name}");
    }
    let (finished, out) = get(&node, "absent");
    assert_eq!(finished.status.code(), Some(1));
    assert!(!out.exists());
}

#[apply(promise)]
fn a_script_can_await_list_and_explain_a_legacy_peers_file() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::from_secs(1));
    peer.gives_file("theirs", b"twelve bytes");
    let node = start(&mut cluster, "lab", &[&peer], "");
    node.write("a", b"1");
    node.write("z", b"1");
    node.wait_for_file("a");
    node.wait_for_file("z");
    assert_eq!(node.cli(&["ls"]).expect_ok(), "a\nz\n");
    assert_ne!(node.cli(&["why", "theirs"]).status.code(), Some(0));
    let waited = node.cli(&["wait", "--file", "nobody has it", "--timeout", "1s"]);
    assert_eq!(waited.status.code(), Some(1));
    node.cli(&["wait", "--file", "theirs", "--timeout", WAIT_LIMIT])
        .expect_ok();
    assert_eq!(node.cli(&["ls"]).expect_ok(), "a\ntheirs\nz\n");
    let listed = node.cli(&["ls", "--json"]).expect_json();
    assert_eq!(listed["entries"][0]["plane"], "native");
    let theirs = &listed["entries"][1];
    assert_eq!(theirs["plane"], "legacy");
    assert_eq!(theirs["size_bytes"], 12);
    assert_eq!(theirs["holders"][0], peer.address());
    assert_eq!(theirs["hash"], serde_json::Value::Null);
    let long = node.cli(&["ls", "-l", "theirs"]).expect_ok();
    assert!(
        long.contains("% legacy") && long.contains(peer.address()),
        "{long}"
    );
    let why = node.cli(&["why", "theirs", "--json"]).expect_json();
    assert_eq!(why["versions"][0]["verified"], "none");
    assert_eq!(why["versions"][0]["author"], peer.address());
    let next = why["next_read"].as_str().unwrap();
    let fetch = format!(
        "fetch all of its 12 bytes from the legacy peer {}",
        peer.address()
    );
    assert!(next.starts_with(&fetch), "{next}");
    let why = node.cli(&["why", "theirs"]).expect_ok();
    assert!(why.contains("hash     none (verified: none)"), "{why}");
    assert!(why.contains("cached   0%"), "{why}");
}

#[apply(promise)]
fn a_legacy_peers_file_is_listed_and_explained_under_the_name_of_a_departed_nodes_file() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs", b"twelve bytes");
    let node = start(&mut cluster, "lab", &[&peer], "");
    let mut departed = cluster.start("departed");
    departed.write("theirs", b"of a node");
    // the peer's file has the name already
    eventually("the node's file has the name", HANG_LIMIT, || {
        let listed = node.cli(&["ls", "--json"]).expect_json();
        listed["entries"][0]["plane"] == "native"
    });
    departed.kill();
    eventually("no node shares it", HANG_LIMIT, || {
        let why = node.cli(&["why", "theirs", "--json"]).expect_json();
        why["versions"][0]["won"] == false
    });
    node.cli(&["wait", "--file", "theirs"]).expect_ok();
    let listed = node.cli(&["ls", "--json"]).expect_json();
    assert_eq!(listed["entries"][0]["plane"], "legacy", "{listed}");
    let why = node.cli(&["why", "theirs", "--json"]).expect_json();
    assert_eq!(why["listed"], true, "{why}");
    let rule = why["rule"].as_str().unwrap();
    assert!(rule.starts_with("no p2pfs node shares it"), "{why}");
    let versions = why["versions"].as_array().unwrap();
    let won: Vec<bool> = versions.iter().map(|it| it["won"] == true).collect();
    assert_eq!(won, [true, false], "{why}");
    assert_eq!(versions[0]["author"], peer.address());
}

#[apply(promise)]
fn a_legacy_peers_file_is_not_cached_and_the_reason_is_given() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs", b"twelve bytes");
    let node = start(&mut cluster, "lab", &[&peer], "");
    node.cli(&["wait", "--file", "theirs"]).expect_ok();
    for verb in ["prefetch", "pin"] {
        let refused = node.cli(&[verb, "theirs"]);
        assert_eq!(refused.status.code(), Some(1));
        let told = refused.text() + &refused.stderr;
        let reason = format!("only the legacy peer {} has it", peer.address());
        assert!(
            told.contains(&reason) && told.contains("p2pfs get"),
            "{told}"
        );
    }
}

#[apply(promise)]
fn a_stranger_waits_and_a_peer_that_answered_us_does_not() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs", b"theirs");
    let node = start(&mut cluster, "lab", &[&peer], "");
    node.write("ours", b"ours");
    node.wait_for_file("ours");
    introduced(&peer, &node);
    let answer_time = || {
        let asked = Instant::now();
        peer.ask("ours").recv_timeout(HANG_LIMIT).unwrap();
        asked.elapsed()
    };
    let stranger = answer_time();
    assert!(stranger >= Duration::from_millis(1_900), "{stranger:?}");
    get(&node, "theirs").0.expect_ok();
    eventually("a friend does not wait", HANG_LIMIT, || {
        answer_time() < Duration::from_millis(1_500)
    });
}

#[apply(promise)]
fn only_opted_in_shares_and_permitted_bridged_files_are_offered() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    // Its share is not open to legacy peers.
    let native = cluster.start_with(NodeOptions {
        mounted: false,
        config: NO_MOUNT.to_owned(),
        ..NodeOptions::new("native")
    });
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n >> 9) as u8).collect();
    native.write("far/native.bin", &bytes);
    let closed = start(&mut cluster, "closed", &[&peer], "");
    let bridge = start(&mut cluster, "bridge", &[&peer], "bridge = true");
    for node in [&closed, &bridge] {
        node.wait_for_file("far/native.bin");
    }
    let refused = download(closed.address, "native.bin");
    assert_eq!((refused.header.as_str(), refused.bytes.len()), ("", 0));
    eventually("the bridge gives it", HANG_LIMIT, || {
        let got = download(bridge.address, "native.bin");
        got.bytes == bytes && got.header == header(bytes.len() as u64, "native.bin")
    });
    // A complete file in the cache is not thereby open to legacy peers.
    let (finished, _) = get(&closed, "far/native.bin");
    finished.expect_ok();
    let refused = download(closed.address, "native.bin");
    assert_eq!((refused.header.as_str(), refused.bytes.len()), ("", 0));
}

fn no_leftovers(node: &Node) {
    let stored = || -> Vec<_> {
        let entries = fs::read_dir(node.home.join("cache/unverified")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    eventually("nothing is left of the failed transfer", HANG_LIMIT, || {
        stored().is_empty()
    });
}

#[apply(promise)]
fn a_hostile_legacy_peer_leaves_nothing_under_a_final_name() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let cases = [
        ("short", Gives::Announcing(10, b"four".to_vec())),
        ("surplus", Gives::Announcing(4, b"more than four".to_vec())),
        ("strange", Gives::Named("../../evil", b"evil".to_vec())),
        ("endless", Gives::Endless(1000)),
        (
            "huge",
            Gives::Announcing(9_999_999_999, vec![b'x'; 1 << 20]),
        ),
        ("refused", Gives::Nothing),
        ("silent", Gives::Silence),
    ];
    let node = cluster.start_with(NodeOptions {
        mounted: false,
        more: vec![
            "--legacy".to_owned(),
            "--cache-size".to_owned(),
            "64MiB".to_owned(),
        ],
        config: settings(&[&peer], ""),
        ..NodeOptions::new("lab")
    });
    for (name, gives) in cases {
        peer.gives(name, gives);
        let (finished, out) = get(&node, name);
        assert_eq!(
            finished.status.code(),
            Some(1),
            "{name}: {}",
            finished.stderr
        );
        assert!(!out.exists(), "{name}");
    }
    no_leftovers(&node);
    let evil = |dir: &Path| dir.join("evil").exists();
    assert!(!evil(&node.home) && !evil(cluster.folder.path()));
    peer.gives_file("good", b"good");
    get(&node, "good").0.expect_ok();
}

#[apply(promise)]
fn when_the_first_responder_fails_the_next_is_used() {
    let mut cluster = Cluster::new();
    let broken = OldPeer::start(Duration::ZERO);
    let good = OldPeer::start(Duration::from_secs(1));
    broken.gives("both", Gives::Nothing);
    good.gives_file("both", b"good bytes");
    let node = start(&mut cluster, "lab", &[&broken, &good], "");
    let (finished, out) = get(&node, "both");
    finished.expect_ok();
    assert_eq!(fs::read(out).unwrap(), b"good bytes");
    assert_eq!(broken.served(), ["both"]);
    // The second peer is also used if the first breaks off in the middle.
    broken.gives("middle", Gives::Announcing(10, b"four".to_vec()));
    good.gives_file("middle", b"ten bytes!");
    let (finished, out) = get(&node, "middle");
    finished.expect_ok();
    assert_eq!(fs::read(out).unwrap(), b"ten bytes!");
}

#[apply(promise)]
fn names_that_the_protocol_cannot_carry_are_refused_with_a_reason() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let mut node = start(&mut cluster, "lab", &[&peer], "");
    let long = "n".repeat(65);
    for (name, why) in [
        ("a,b", "comma"),
        (long.as_str(), "65 bytes"),
        ("end:", "colon"),
    ] {
        let (finished, _) = get(&node, name);
        assert_eq!(finished.status.code(), Some(1));
        assert!(finished.stderr.contains(why), "{}", finished.stderr);
    }
    node.write("own,comma", b"x");
    node.wait_for_file("own,comma");
    let finished = node.stop();
    let journal = finished.text() + &finished.stderr;
    assert!(
        journal.contains("own,comma is not given to legacy peers"),
        "{journal}"
    );
    assert!(
        !peer
            .heard()
            .iter()
            .any(|(_, text)| text.starts_with("Get,a"))
    );
}

#[apply(promise)]
fn floods_and_garbage_leave_the_daemon_answering() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start(&mut cluster, "lab", &[&peer], "");
    node.write("ours", b"ours");
    node.wait_for_file("ours");
    introduced(&peer, &node);
    let flooder = UdpSocket::bind("127.0.0.2:0").unwrap();
    for n in 0..20_000u32 {
        let list = format!(
            "DISCOVER,10.{}.{}.1:7,bad,[::1]:3\n",
            n / 250 % 250,
            n % 250
        );
        let _full = flooder.send_to(list.as_bytes(), node.address);
        let _full = flooder.send_to(b"Get,ours\n", node.address);
        let _full = flooder.send_to(&[b'G'; 1500], node.address);
    }
    let sockets: Vec<_> = (0..200)
        .map(|_| std::net::TcpStream::connect(node.address))
        .collect();
    drop(sockets);
    eventually("the daemon answers", HANG_LIMIT, || {
        node.cli(&["status"]).status.success()
    });
    let got = peer.get("ours", HANG_LIMIT).expect("still answered");
    assert_eq!(got.bytes, b"ours");
    assert!(legacy_peers(&node).len() <= 2);
}

#[apply(promise)]
fn the_legacy_plane_is_off_unless_configured() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs", b"theirs");
    let node = cluster.start_with(NodeOptions {
        mounted: false,
        config: settings(&[&peer], ""),
        ..NodeOptions::new("lab")
    });
    node.write("ours", b"ours");
    node.wait_for_file("ours");
    peer.say(node.address, b"Get,ours\n");
    let (finished, _) = get(&node, "theirs");
    assert_eq!(finished.status.code(), Some(1));
    assert_eq!(peer.heard(), []);
}
