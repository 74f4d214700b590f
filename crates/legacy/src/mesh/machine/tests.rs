//! Tests of the state machine in virtual time: golden transcripts, keepalive, discovery.

use std::collections::BTreeMap;

use super::*;
use crate::mesh::known::{DIAL_JITTER, DIALS_AT_ONCE, TRIES_MAX};
use crate::wire::mesh::{Decoder, Item};

mod hostile;

const OWN: &str = "000000000000000000000000000000aa";
const BOB: &str = "b7cbe67df26a36f9590988371ceac9e0";
const CAROL: &str = "c90335afdd919dea261a3ff5bb27d3a5";
const PORT: u16 = 18001;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn member(text: &str) -> MemberName {
    MemberName::parse(text.as_bytes()).unwrap()
}

/// A machine with its virtual time.
struct MeshWorld {
    machine: MeshMachine,
    now: Instant,
    next: u64,
}

impl MeshWorld {
    fn new(max_peers: usize, configured: &[&str]) -> Self {
        let now = Instant::now();
        let config = MeshConfig {
            id: OWN.to_owned(),
            name: "alice".to_owned(),
            port: PORT,
            max_peers,
            configured: configured.iter().map(|text| member(text)).collect(),
        };
        let is_own = |at: SocketAddrV4| at.port() == PORT && at.ip().octets() == [10, 0, 0, 1];
        Self {
            machine: MeshMachine::new(config, Box::new(is_own), 7, now),
            now,
            next: 0,
        }
    }

    fn conn(&mut self) -> ConnId {
        self.next += 1;
        ConnId(self.next)
    }

    /// Feeds a peer's text through a decoder into the machine.
    fn hear(&mut self, conn: ConnId, is_first: bool, text: &str) {
        let mut decoder = Decoder::default();
        if !is_first {
            decoder.buffer().extend_from_slice(b"x\n");
            decoder.next_item().unwrap();
        }
        decoder.buffer().extend_from_slice(text.as_bytes());
        while let Some(item) = decoder.next_item().unwrap() {
            match item {
                Item::Hello(line) => self.machine.hello(self.now, conn, &line),
                Item::Line(line) => self.machine.line(self.now, conn, line),
                other => panic!("{other:?}"),
            }
        }
    }

    fn accept(&mut self, from: &str) -> ConnId {
        let conn = self.conn();
        self.machine.accepted(self.now, conn, from.parse().unwrap());
        conn
    }

    /// Connects a peer that dials this node and sends its listening port.
    fn join(&mut self, from: &str, id: &str, name: &str, port: u16) -> ConnId {
        let conn = self.accept(from);
        self.hear(
            conn,
            true,
            &format!("{id}:{name}\nLISTEN:localhost:{port}\n"),
        );
        conn
    }

    /// Completes this node's dial of that address.
    fn dialled(&mut self, address: &str) -> ConnId {
        let conn = self.conn();
        let remote = match member(address) {
            MemberName::Address(at) => SocketAddr::V4(at),
            MemberName::Host { port, .. } => SocketAddr::new([10, 0, 0, 99].into(), port),
        };
        let local = "10.0.0.1:45678".parse().unwrap();
        self.machine
            .dialled(self.now, conn, plain(member(address)), local, remote);
        conn
    }

    /// Advances the time and wakes the machine at its deadlines. Returns its events with their
    /// times.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.machine.poll_timeout() <= end {
            self.now = self.machine.poll_timeout().max(self.now);
            self.machine.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn sent(&mut self) -> Vec<(ConnId, String)> {
        std::iter::from_fn(|| self.machine.poll_transmit())
            .map(|(conn, bytes)| (conn, String::from_utf8(bytes).unwrap()))
            .collect()
    }

    fn sent_on(&mut self, conn: ConnId) -> String {
        let sent = self.sent().into_iter().filter(|(on, _)| *on == conn);
        sent.map(|(_, text)| text).collect()
    }

    fn events(&mut self) -> Vec<MeshEvent> {
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }

    fn dials(&mut self) -> Vec<String> {
        let dial = |event| match event {
            MeshEvent::Dial(address) => Some(address.to_string()),
            _ => None,
        };
        self.events().into_iter().filter_map(dial).collect()
    }

    fn up(&self) -> Vec<String> {
        let peers = self.machine.peers();
        let up = peers.into_iter().filter(|peer| peer.is_up);
        up.map(|peer| peer.name).collect()
    }
}

fn who(id: &str, name: &str, address: &str) -> Who {
    Who {
        id: id.to_owned(),
        name: name.to_owned(),
        address: address.parse().unwrap(),
    }
}

#[test]
fn a_dialling_peer_is_answered_byte_for_byte_like_the_old_programs() {
    let mut world = MeshWorld::new(20, &[]);
    let bob = world.accept("10.0.0.2:40001");
    world.hear(bob, true, &format!("{BOB}:bob\n"));
    assert_eq!(world.sent(), [], "the second line comes first");
    world.hear(bob, false, "LISTEN:localhost:18002\r\n");
    assert_eq!(world.sent_on(bob), format!("{OWN}:alice\n"));
    let bob_is = who(BOB, "bob", "10.0.0.2:18002");
    assert_eq!(
        world.events(),
        [
            MeshEvent::Established(bob, bob_is.clone()),
            MeshEvent::PeerUp {
                who: bob_is,
                dialled: false
            }
        ]
    );
    // the next peer receives the first one in its list
    let carol = world.join("10.0.0.3:40001", CAROL, "carol", 18003);
    let answer = format!("{OWN}:alice\nPEERS:10.0.0.2:18002\n");
    assert_eq!(world.sent_on(carol), answer);
    world.hear(bob, false, "REQUEST_PEERS\n");
    assert_eq!(world.sent_on(bob), "PEERS:10.0.0.3:18003\n");
}

#[test]
fn a_dialled_peer_receives_our_two_lines_then_our_list_and_question() {
    let mut world = MeshWorld::new(20, &["10.0.0.2:18002"]);
    world.pass(seconds(0));
    assert_eq!(world.dials(), ["10.0.0.2:18002"]);
    let bob = world.dialled("10.0.0.2:18002");
    assert_eq!(
        world.sent_on(bob),
        format!("{OWN}:alice\nLISTEN:10.0.0.1:18001\n")
    );
    let carol = world.join("10.0.0.3:40001", CAROL, "carol", 18003);
    assert_eq!(world.sent_on(carol), format!("{OWN}:alice\n"));
    world.hear(bob, true, &format!("{BOB}:bob\nPEERS:10.0.0.1:18001\n"));
    assert_eq!(world.sent_on(bob), "PEERS:10.0.0.3:18003\nREQUEST_PEERS\n");
    assert_eq!(world.up(), ["bob", "carol"]);
}

#[test]
fn a_connected_id_is_a_duplicate_and_a_peer_over_the_limit_is_told_so() {
    let mut world = MeshWorld::new(1, &[]);
    world.join("10.0.0.2:40001", BOB, "bob", 18002);
    world.sent();
    let again = world.accept("10.0.0.2:40002");
    world.hear(again, true, &format!("{BOB}:bob\nLISTEN:localhost:18002\n"));
    assert_eq!(world.sent_on(again), "DUPLICATE\n");
    let carol = world.join("10.0.0.3:40001", CAROL, "carol", 18003);
    assert_eq!(world.sent_on(carol), "MAX_PEERS\n");
    let closed = |conn| MeshEvent::Close(conn);
    let events = world.events();
    assert!(events.contains(&closed(again)) && events.contains(&closed(carol)));
    assert_eq!(world.up(), ["bob"]);
}

#[test]
fn a_peer_without_a_listen_address_is_admitted_after_ten_seconds_and_not_gossiped() {
    let mut world = MeshWorld::new(20, &[]);
    let bob = world.accept("10.0.0.2:40001");
    world.hear(bob, true, &format!("{BOB}:bob\n"));
    world.pass(seconds(9));
    assert_eq!(world.sent(), []);
    world.pass(seconds(2));
    assert_eq!(world.sent_on(bob), format!("{OWN}:alice\n"));
    let carol = world.join("10.0.0.3:40001", CAROL, "carol", 18003);
    assert_eq!(world.sent_on(carol), format!("{OWN}:alice\n"));
    // any other second line is lost, as in the original programs
    let dan = world.accept("10.0.0.4:40001");
    world.hear(dan, true, "d1:dan\nREQUEST_PEERS\n");
    assert_eq!(
        world.sent_on(dan),
        format!("{OWN}:alice\nPEERS:10.0.0.3:18003\n")
    );
}

#[test]
fn peers_are_pinged_and_dropped_after_a_minute_of_silence() {
    let mut world = MeshWorld::new(20, &[]);
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    let carol = world.join("10.0.0.3:40001", CAROL, "carol", 18003);
    world.sent();
    world.pass(seconds(31));
    let to_bob = world.sent_on(bob);
    assert_eq!(to_bob, "PING\nPING\nREQUEST_PEERS\n");
    // one answers pings for minutes, the other is silent
    for _ in 0..10 {
        world.hear(carol, false, "PONG\n");
        world.pass(seconds(15));
    }
    assert_eq!(world.up(), ["carol"]);
    let bob_is = who(BOB, "bob", "10.0.0.2:18002");
    let events = world.events();
    assert!(events.contains(&MeshEvent::PeerDown(bob_is, DownWhy::Silent)));
    assert!(events.contains(&MeshEvent::Close(bob)));
    world.hear(carol, false, " PING \n");
    assert_eq!(
        world.sent_on(carol).lines().last(),
        Some("PONG"),
        "answered"
    );
    let peers = world.machine.peers();
    assert!(peers[0].round_trip.is_some());
}

#[test]
fn a_peer_is_dropped_60_to_75_seconds_after_its_last_message() {
    for offset in 0..15 {
        let mut world = MeshWorld::new(20, &[]);
        world.pass(seconds(offset));
        world.join("10.0.0.2:40001", BOB, "bob", 18002);
        world.pass(seconds(60));
        assert_eq!(world.up(), ["bob"]);
        world.pass(seconds(15));
        assert_eq!(world.up(), Vec::<String>::new());
    }
}

#[test]
fn a_peer_that_sends_a_file_is_not_silent() {
    let mut world = MeshWorld::new(20, &[]);
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    for _ in 0..20 {
        world.pass(seconds(10));
        world.machine.alive(world.now, bob);
    }
    assert_eq!(world.up(), ["bob"]);
}

#[test]
fn learned_addresses_are_dialled_a_few_at_a_time_after_a_pause() {
    let mut world = MeshWorld::new(20, &[]);
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    world.events();
    world.hear(
        bob,
        false,
        "PEERS:10.0.0.3:1,10.0.0.4:1,10.0.0.5:1,10.0.0.6:1,10.0.0.1:18001,nocolon\n",
    );
    let learned = MeshEvent::Learned(who(BOB, "bob", "10.0.0.2:18002"), 4);
    assert_eq!(world.events(), [learned], "its own address is not learned");
    world.pass(DIAL_JITTER);
    let first = world.dials();
    assert_eq!(first.len(), DIALS_AT_ONCE);
    for address in &first {
        world.machine.dial_failed(world.now, &member(address));
    }
    world.pass(DISCOVER_PERIOD + DIAL_JITTER);
    let second = world.dials();
    assert!(second.iter().any(|address| !first.contains(address)));
}

#[test]
fn a_learned_address_is_dropped_after_some_tries_and_a_configured_one_never() {
    let mut world = MeshWorld::new(20, &["10.0.0.9:9"]);
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    world.hear(bob, false, "PEERS:10.0.0.3:1\n");
    let mut tries = BTreeMap::<String, Vec<u64>>::new();
    let begun = world.now;
    for _ in 0..7200 {
        world.pass(seconds(1));
        world.machine.alive(world.now, bob);
        for address in world.dials() {
            world.machine.dial_failed(world.now, &member(&address));
            let at = (world.now - begun).as_secs();
            tries.entry(address).or_default().push(at);
        }
    }
    assert_eq!(tries["10.0.0.3:1"].len(), TRIES_MAX as usize);
    let configured = &tries["10.0.0.9:9"];
    assert!(configured.len() > 200, "{}", configured.len());
    let gaps: Vec<u64> = configured.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps[..5].is_sorted() && gaps.iter().all(|gap| *gap <= 31));
}

#[test]
fn a_dial_to_ourselves_or_a_refused_one_is_not_repeated_soon() {
    let mut world = MeshWorld::new(20, &["10.0.0.7:7", "10.0.0.8:8"]);
    world.pass(seconds(0));
    assert_eq!(world.dials().len(), 2);
    let (own, other) = (world.dialled("10.0.0.7:7"), world.dialled("10.0.0.8:8"));
    world.hear(own, true, &format!("{OWN}:alice\n"));
    world.hear(other, true, "DUPLICATE\n");
    let rejected = MeshEvent::Rejected(member("10.0.0.8:8"), Rejection::Duplicate);
    let events = world.events();
    assert!(events.contains(&rejected));
    assert!(events.contains(&MeshEvent::Close(own)));
    world.pass(seconds(300));
    assert_eq!(world.dials(), Vec::<String>::new());
}

#[test]
fn a_connection_that_ends_before_its_answer_is_a_rejection_and_is_retried() {
    let mut world = MeshWorld::new(20, &["10.0.0.8:8"]);
    world.pass(seconds(0));
    world.dials();
    let conn = world.dialled("10.0.0.8:8");
    world.machine.closed(world.now, conn);
    let rejected = MeshEvent::Rejected(member("10.0.0.8:8"), Rejection::Silent);
    assert_eq!(world.events(), [rejected]);
    world.pass(seconds(2));
    assert_eq!(world.dials(), ["10.0.0.8:8"]);
}

#[test]
fn simultaneous_dials_keep_one_session_and_close_none() {
    let mut world = MeshWorld::new(20, &["10.0.0.2:18002"]);
    world.pass(seconds(0));
    let ours = world.dialled("10.0.0.2:18002");
    let theirs = world.accept("10.0.0.2:40001");
    world.hear(theirs, true, &format!("{BOB}:bob\n"));
    world.hear(ours, true, &format!("{BOB}:bob\n"));
    world.hear(theirs, false, "LISTEN:localhost:18002\n");
    let closes = |world: &mut MeshWorld| {
        let events = world.events().into_iter();
        let closes = events.filter(|event| matches!(event, MeshEvent::Close(_)));
        closes.count()
    };
    assert_eq!(closes(&mut world), 0);
    assert_eq!(world.up(), ["bob"]);
    // this node's ID is smaller, so both sides use the connection that it dialled
    let in_use = world.machine.in_use().into_values();
    assert_eq!(in_use.collect::<Vec<_>>(), [ours]);
    world.machine.closed(world.now, ours);
    assert_eq!(world.up(), ["bob"], "the other one is still there");
    world.machine.closed(world.now, theirs);
    assert_eq!(world.up(), Vec::<String>::new());
}

#[test]
fn talk_reaches_every_peer_except_the_excluded_ones() {
    let mut world = MeshWorld::new(20, &[]);
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    let carol = world.join("10.0.0.3:40001", CAROL, "carol", 18003);
    world.sent();
    assert_eq!(
        world.machine.send_chat("BYTES:3", &|_| false),
        ["bob", "carol"]
    );
    let said = "\\BYTES:3\n".to_owned();
    assert_eq!(world.sent(), [(bob, said.clone()), (carol, said)]);
    assert_eq!(world.machine.send_chat("hi", &|id| id == BOB), ["carol"]);
    assert!(world.machine.send_chat("  ", &|_| false).is_empty());
    world.events();
    world.hear(bob, false, "LISTEN:x\nhello\x1b[2J\n\n");
    let bob_is = who(BOB, "bob", "10.0.0.2:18002");
    let chat = |text: &str| MeshEvent::Chat(bob_is.clone(), text.to_owned());
    assert_eq!(world.events(), [chat("LISTEN:x"), chat("hello\u{1b}[2J")]);
}

#[test]
fn loopback_addresses_are_neither_sent_to_nor_accepted_from_other_machines() {
    let mut world = MeshWorld::new(20, &[]);
    let here = world.join("127.0.0.1:40001", CAROL, "carol", 18003);
    world.sent();
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    assert_eq!(world.sent_on(bob), format!("{OWN}:alice\n"));
    world.hear(here, false, "REQUEST_PEERS\n");
    assert_eq!(world.sent_on(here), "PEERS:10.0.0.2:18002\n");
    world.hear(bob, false, "PEERS:localhost:5,127.0.0.1:6\n");
    assert_eq!(world.machine.known(), []);
    world.hear(here, false, "PEERS:localhost:5,127.0.0.1:5\n");
    assert_eq!(world.machine.known().len(), 1, "one address by two names");
}

#[test]
fn dialled_peers_stay_within_the_limit_of_peers() {
    let mut world = MeshWorld::new(1, &["10.0.0.9:9"]);
    world.pass(seconds(0));
    assert_eq!(world.dials().len(), 1);
    world.machine.dial_failed(world.now, &member("10.0.0.9:9"));
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    for _ in 0..10 {
        world.pass(seconds(10));
        world.machine.alive(world.now, bob);
    }
    assert_eq!(world.dials(), Vec::<String>::new());
    world.machine.closed(world.now, bob);
    world.pass(seconds(1));
    assert!(world.dials().contains(&"10.0.0.9:9".to_owned()));
}
