//! Legacy peers that lie, drip, break off, flood, or speak for others. Their effect is bounded and
//! counted, `p2pfs peers` and the journal name them, and no wrong content appears under a final
//! name.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::legacy_peer::{Gives, OldPeer};
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

fn start(cluster: &mut Cluster, peers: &[&OldPeer]) -> Node {
    let members: Vec<String> = peers.iter().map(|p| format!("{:?}", p.address())).collect();
    cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: format!(
            "[legacy]\nmembers = [{}]\nperiod = '1s'\nwaiting = '20s'\nlookup = '3s'\n\
             responder_delay = '1s'\n",
            members.join(",")
        ),
        ..NodeOptions::new("lab")
    })
}

/// Returns how often the peer has offended, and its last offence.
fn offences(node: &Node, address: &str) -> (u64, String) {
    let peers = node.cli(&["peers", "--json"]).expect_json();
    let peers = peers["peers"].as_array().unwrap();
    let found = peers.iter().find(|peer| peer["address"] == address);
    let last = found.and_then(|peer| peer["last_offence"].as_str());
    let count = found.and_then(|peer| peer["offences"].as_u64());
    (count.unwrap_or(0), last.unwrap_or_default().to_owned())
}

fn journal_of(node: &mut Node) -> String {
    let finished = node.stop();
    finished.text() + &finished.stderr
}

fn no_leftovers(node: &Node) {
    eventually("nothing is left of a failed transfer", HANG_LIMIT, || {
        let stored = fs::read_dir(node.home.join("cache/unverified")).unwrap();
        stored.count() == 0
    });
}

#[apply(promise)]
fn a_wrong_transfer_is_an_error_for_its_reader_and_the_peer_is_named() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let mut node = start(&mut cluster, &[&peer]);
    let cases = [
        (
            "short",
            Gives::Announcing(10, b"four".to_vec()),
            libc::EIO,
            "ended a transfer before",
        ),
        (
            "surplus",
            Gives::Announcing(4, b"more than four".to_vec()),
            libc::EIO,
            "sent more than",
        ),
        (
            "not empty",
            Gives::Announcing(0, b"but more".to_vec()),
            libc::EIO,
            "sent more than",
        ),
        ("endless", Gives::Endless(200_000), libc::EIO, "sent more"),
        (
            "strange",
            Gives::Named("../../evil", b"evil".to_vec()),
            libc::ENOENT,
            "not of the file asked for",
        ),
    ];
    for (number, (name, gives, errno, offence)) in cases.into_iter().enumerate() {
        peer.gives(name, gives);
        let out = node.home.join("copy");
        let copied = run(Command::new("cp").arg(node.mounted(name)).arg(&out));
        assert!(!copied.status.success(), "{name}");
        let _a_part = fs::remove_file(&out);
        let error = fs::read(node.mounted(name)).expect_err(name);
        assert_eq!(error.raw_os_error(), Some(errno), "{name}");
        eventually("the offence is counted and named", HANG_LIMIT, || {
            let (count, last) = offences(&node, peer.address());
            count > number as u64 && last.contains(offence)
        });
    }
    // A refusal is not an offence.
    let before = offences(&node, peer.address());
    peer.gives("refused", Gives::Nothing);
    let error = fs::read(node.mounted("refused")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(offences(&node, peer.address()), before);
    no_leftovers(&node);
    let shown = node.cli(&["peers"]).expect_ok();
    assert!(
        shown.contains(&format!("offends {}", peer.address())),
        "{shown}"
    );
    let journal = journal_of(&mut node);
    let named = format!("short of the legacy peer {}", peer.address());
    assert!(journal.contains(&named), "{journal}");
    assert!(!node.home.join("evil").exists() && !cluster.folder.path().join("evil").exists());
}

#[apply(promise)]
fn a_slow_drip_ends_and_the_peer_is_named() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives("drip", Gives::Drip(1 << 30));
    let node = start(&mut cluster, &[&peer]);
    let mut file = fs::File::open(node.mounted("drip")).unwrap();
    let mut much = vec![0; 1 << 20];
    let error = file.read_exact(&mut much).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    drop(file);
    eventually("the peer is named", HANG_LIMIT, || {
        offences(&node, peer.address()).1.contains("too slowly")
    });
    no_leftovers(&node);
}

#[apply(promise)]
fn after_a_broken_transfer_the_next_open_asks_others_first() {
    let mut cluster = Cluster::new();
    let broken = OldPeer::start(Duration::ZERO);
    let good = OldPeer::start(Duration::from_secs(1));
    broken.gives("both", Gives::Announcing(300_000, vec![b'x'; 200_000]));
    good.gives_file("both", b"good bytes");
    let node = start(&mut cluster, &[&broken, &good]);
    let path = node.mounted("both");
    let mut first = fs::File::open(&path).unwrap();
    let mut bytes = vec![0; 300_000];
    let error = first.read_exact(&mut bytes).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read(&path).unwrap(), b"good bytes");
    assert_eq!(broken.served(), ["both"], "it is not asked a second time");
    // The read has failed for good: the handle does not switch to another peer's file.
    let error = first.read(&mut bytes).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}

#[apply(promise)]
fn a_lost_holder_is_replaced_within_the_open() {
    let mut cluster = Cluster::new();
    let first = OldPeer::start(Duration::ZERO);
    let second = OldPeer::start(Duration::from_secs(1));
    first.gives_file("both", b"first's");
    second.gives_file("both", b"second's bytes");
    let node = start(&mut cluster, &[&first, &second]);
    let path = node.mounted("both");
    assert_eq!(fs::metadata(&path).unwrap().len(), 7);
    // The transfer that the header began is dropped after a while. From then on the peer does not
    // give the file.
    first.gives("both", Gives::Nothing);
    eventually("the other peer's file is read", HANG_LIMIT, || {
        fs::read(&path).unwrap() == b"second's bytes"
    });
    assert_eq!(fs::metadata(&path).unwrap().len(), 14);
}

#[apply(promise)]
fn a_third_partys_answer_is_not_dialled_and_its_sender_is_named() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let mut node = start(&mut cluster, &[&peer]);
    let trap = TcpListener::bind("127.0.0.3:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let answer = format!("File,1,{}\n", trap.local_addr().unwrap().port());
    let stat = crate::support::process::start(Command::new("stat").arg(node.mounted("wanted")));
    eventually("the legacy peer is asked", HANG_LIMIT, || {
        let heard = peer.heard();
        heard.iter().any(|(_, text)| text == "Get,wanted\n")
    });
    let stranger = UdpSocket::bind("127.0.0.3:0").unwrap();
    for _ in 0..5 {
        stranger.send_to(answer.as_bytes(), node.address).unwrap();
    }
    assert!(!stat.finish(HANG_LIMIT).status.success());
    assert!(trap.accept().is_err(), "nobody dials there");
    let address = stranger.local_addr().unwrap().to_string();
    eventually("the stranger is named", HANG_LIMIT, || {
        let (count, last) = offences(&node, &address);
        count == 5 && last.contains("was not asked")
    });
    let journal = journal_of(&mut node);
    let told = journal.lines().filter(|line| line.contains(&address));
    assert_eq!(told.count(), 1, "{journal}");
}

#[apply(promise)]
fn a_flood_is_bounded_and_its_sender_is_named() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let mut node = start(&mut cluster, &[&peer]);
    node.write("ours", b"ours");
    node.wait_for_file("ours");
    let flooder = UdpSocket::bind("127.0.0.2:0").unwrap();
    let address = flooder.local_addr().unwrap().to_string();
    eventually("the flood is counted", HANG_LIMIT, || {
        for n in 0..2_000u32 {
            let list = format!("DISCOVER,10.9.{}.1:7,bad,[::1]:3\n", n % 250);
            let _full = flooder.send_to(list.as_bytes(), node.address);
        }
        let (count, last) = offences(&node, &address);
        count > 100 && last.contains("32 datagrams a second")
    });
    let told = node.cli(&["peers", "--json"]).expect_json();
    assert!(told["peers"].as_array().unwrap().len() <= 2, "{told}");
    // The node still serves other peers.
    let address_of_node = node.address.to_string();
    eventually("the legacy peer knows the node", HANG_LIMIT, || {
        peer.members().contains(&address_of_node)
    });
    assert_eq!(peer.get("ours", HANG_LIMIT).unwrap().bytes, b"ours");
    let journal = journal_of(&mut node);
    let told = journal.lines().filter(|line| line.contains(&address));
    assert!((1..=2).contains(&told.count()), "{journal}");
}

#[apply(promise)]
fn a_list_of_others_in_one_datagram_causes_no_traffic_to_them() {
    let mut cluster = Cluster::new();
    let peer = OldPeer::start(Duration::ZERO);
    let node = start(&mut cluster, &[&peer]);
    let victims: Vec<UdpSocket> = (0..64)
        .map(|_| UdpSocket::bind("127.0.0.4:0").unwrap())
        .collect();
    let listed = victims.iter().map(|it| it.local_addr().unwrap());
    let listed: Vec<String> = listed.map(|address| address.to_string()).collect();
    let list = format!("DISCOVER,{}\n", listed.join(","));
    let forger = UdpSocket::bind("127.0.0.5:0").unwrap();
    forger.send_to(list.as_bytes(), node.address).unwrap();
    // The node sends its own lists to the members that it knows. Wait for some rounds.
    let rounds = || {
        let heard = peer.heard();
        let lists = heard
            .iter()
            .filter(|(_, text)| text.starts_with("DISCOVER"));
        lists.count()
    };
    let before = rounds();
    eventually("it has told its members thrice", HANG_LIMIT, || {
        rounds() >= before + 3
    });
    for victim in &victims {
        victim.set_nonblocking(true).unwrap();
        assert!(
            victim.recv(&mut [0; 2048]).is_err(),
            "a third party was sent bytes"
        );
    }
    forger.set_nonblocking(true).unwrap();
    let mut answer = [0; 4096];
    let answers = std::iter::from_fn(|| forger.recv(&mut answer).ok());
    assert!(
        answers.sum::<usize>() <= list.len(),
        "more came back than was sent"
    );
}
