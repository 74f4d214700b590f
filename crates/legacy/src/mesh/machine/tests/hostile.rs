//! Tests of peers that break the rules: their effect is bounded, and they are reported.

use proptest::prelude::*;

use super::*;
use crate::mesh::known::{KNOWN_MAX, KNOWN_OF_PEER_MAX};

fn offences(world: &MeshWorld) -> Vec<(String, u64, MeshOffence)> {
    let peers = world.machine.peers();
    let culprits = peers.into_iter().filter(|peer| peer.offences > 0);
    culprits
        .filter_map(|peer| Some((peer.name, peer.offences, peer.last_offence?)))
        .collect()
}

#[test]
fn ten_thousand_addresses_are_one_offence_and_few_are_stored() {
    let mut world = MeshWorld::new(20, &[]);
    let eve = world.join("10.0.0.2:40001", BOB, "eve", 18002);
    let list: Vec<String> = (0..3000)
        .map(|n| format!("10.9.{}.{}:1", n / 250, n % 250))
        .collect();
    world.hear(eve, false, &format!("PEERS:{}\n", list.join(",")));
    let told = ("eve".to_owned(), 1, MeshOffence::ManyAddresses);
    assert_eq!(offences(&world), [told]);
    assert_eq!(world.machine.known().len(), KNOWN_OF_PEER_MAX);
    assert_eq!(world.up(), ["eve"]);
    // the total is bounded for many such peers, too
    for n in 0..19 {
        let conn = world.join(&format!("10.0.1.{n}:1"), &format!("e{n}"), "eve", 18002);
        let list: Vec<String> = (0..64).map(|m| format!("10.8.{n}.{m}:1")).collect();
        world.hear(conn, false, &format!("PEERS:{}\n", list.join(",")));
    }
    assert_eq!(world.machine.known().len(), KNOWN_MAX);
}

#[test]
fn a_flood_of_lines_ends_the_connection_and_names_its_sender() {
    let mut world = MeshWorld::new(20, &[]);
    let eve = world.join("10.0.0.2:40001", BOB, "eve", 18002);
    world.events();
    for _ in 0..10_000 {
        world.hear(eve, false, "spam\n");
    }
    let events = world.events();
    let talk = events.iter().filter(|e| matches!(e, MeshEvent::Chat(..)));
    assert!(talk.count() <= LINES_BURST as usize);
    let eve_is = who(BOB, "eve", "10.0.0.2:18002");
    let down = MeshEvent::PeerDown(eve_is, DownWhy::Offended(MeshOffence::Flood));
    assert!(events.contains(&down) && events.contains(&MeshEvent::Close(eve)));
    assert_eq!(
        offences(&world),
        [("eve".to_owned(), 1, MeshOffence::Flood)]
    );
}

#[test]
fn a_peer_that_talks_at_its_limit_is_served_and_not_an_offender() {
    let mut world = MeshWorld::new(20, &[]);
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    world.events();
    // its second line arrived when it joined
    let said = |world: &mut MeshWorld, lines: usize| {
        (0..lines).for_each(|_| world.hear(bob, false, "hello\n"));
        let events = world.events();
        events
            .iter()
            .filter(|e| matches!(e, MeshEvent::Chat(..)))
            .count()
    };
    let burst = LINES_BURST as usize - 1;
    assert_eq!(said(&mut world, burst), burst);
    world.now += Duration::from_secs(1);
    let rate = LINES_PER_S as usize;
    assert_eq!(said(&mut world, rate), rate);
    assert_eq!(
        (world.up(), offences(&world)),
        (vec!["bob".to_owned()], Vec::new())
    );
    assert_eq!(said(&mut world, 1), 0);
    assert_eq!(
        offences(&world),
        [("bob".to_owned(), 1, MeshOffence::Flood)]
    );
}

#[test]
fn a_peer_may_be_silent_for_the_limit_and_no_longer() {
    let mut world = MeshWorld::new(20, &[]);
    world.join("10.0.0.2:40001", BOB, "bob", 18002);
    for (silent, is_up) in [
        (SILENCE_MAX - Duration::from_secs(1), true),
        (Duration::from_secs(1), true),
        (Duration::from_secs(60), false),
    ] {
        world.pass(silent);
        assert_eq!(world.up().len(), usize::from(is_up), "{silent:?} more");
    }
}

fn count_closed(world: &mut MeshWorld) -> usize {
    let events = world.events().into_iter();
    let closed = events.filter(|event| matches!(event, MeshEvent::Close(_)));
    closed.count()
}

#[test]
fn silent_strangers_take_few_places_and_for_ten_seconds() {
    let mut world = MeshWorld::new(20, &[]);
    for n in 0..1000 {
        world.accept(&format!("10.0.0.2:{}", 1000 + n));
    }
    let refused = world.events().len();
    assert_eq!(refused, 1000 - HANDSHAKES_OF_ADDRESS);
    let bob = world.join("10.0.0.3:40001", BOB, "bob", 18002);
    assert_eq!(world.sent_on(bob), format!("{OWN}:alice\n"));
    world.pass(HANDSHAKE);
    assert_eq!(count_closed(&mut world), HANDSHAKES_OF_ADDRESS);
    assert_eq!(world.up(), ["bob"]);
    let (_, count, last) = offences(&world).remove(0);
    assert_eq!(
        (count, last),
        (HANDSHAKES_OF_ADDRESS as u64, MeshOffence::TooSlow)
    );
    for n in 0..1000 {
        world.accept(&format!("10.1.0.{}:{}", n % 100, 1000 + n));
    }
    assert_eq!(count_closed(&mut world), 1000 - HANDSHAKES_MAX);
}

#[test]
fn another_protocol_is_not_admitted() {
    for first in ["GET / HTTP/1.1\n", ":bob\n", "\n", "SSH-2.0-OpenSSH 9\n"] {
        let mut world = MeshWorld::new(20, &[]);
        let conn = world.accept("10.0.0.2:40001");
        world.hear(conn, true, first);
        assert_eq!(world.sent(), []);
        let events = world.events();
        assert!(events.contains(&MeshEvent::Close(conn)), "{first:?}");
        let (name, _, last) = offences(&world).remove(0);
        assert_eq!((name.as_str(), last), ("10.0.0.2", MeshOffence::NoHello));
    }
}

#[test]
fn a_dialled_peer_of_another_protocol_is_dialled_again_later() {
    let mut world = MeshWorld::new(20, &["10.0.0.8:8"]);
    world.pass(seconds(0));
    world.events();
    let conn = world.dialled("10.0.0.8:8");
    world.hear(conn, true, "HTTP/1.1 400 Bad Request\n");
    world.pass(seconds(3));
    assert_eq!(world.dials(), ["10.0.0.8:8"]);
}

#[test]
fn an_old_program_is_never_sent_a_message_that_crashes_it() {
    let mut world = MeshWorld::new(20, &["host.example:7"]);
    let bob = world.join("10.0.0.2:40001", BOB, "bob", 18002);
    for line in [
        "PEERS:nocolon,[::1]:5,x:0,:,host:1",
        "BYTES",
        "LISTEN:x",
        "REQUEST_PEERS",
    ] {
        world.hear(bob, false, &format!("{line}\n"));
    }
    world.machine.send_chat("PEERS:nocolon", &|_| false);
    world.machine.send_chat("BYTES:-1", &|_| false);
    world.pass(seconds(120));
    for (_, text) in world.sent() {
        for line in text.lines() {
            assert!(!line.starts_with("BYTES:"), "{line}");
            if let Some(list) = line.strip_prefix("PEERS:") {
                assert!(
                    list.split(',')
                        .all(|entry| entry.parse::<SocketAddrV4>().is_ok())
                );
            }
        }
    }
}

/// An action of the outside world on the machine.
#[derive(Clone, Debug)]
enum MeshAction {
    Accept(u8),
    Hello(u8, u8),
    Line(u8, Line),
    Dialled(u8),
    Close(u8),
    Pass(u8),
}

fn any_step() -> impl Strategy<Value = MeshAction> {
    let line = prop_oneof![
        Just(Line::Ping),
        Just(Line::Pong),
        Just(Line::RequestPeers),
        any::<u8>().prop_map(|n| Line::Listen {
            port: Some(u16::from(n) + 1),
            text: String::new()
        }),
        any::<u8>().prop_map(|n| Line::parse(format!("PEERS:10.0.2.{n}:{n}5").as_bytes())),
        Just(Line::Chat("hi".to_owned())),
    ];
    prop_oneof![
        any::<u8>().prop_map(MeshAction::Accept),
        (any::<u8>(), any::<u8>()).prop_map(|(conn, id)| MeshAction::Hello(conn, id)),
        (any::<u8>(), line).prop_map(|(conn, line)| MeshAction::Line(conn, line)),
        any::<u8>().prop_map(MeshAction::Dialled),
        any::<u8>().prop_map(MeshAction::Close),
        (0_u8..40).prop_map(MeshAction::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_tables_agree_and_keep_their_limits_after_any_input(
        steps in proptest::collection::vec(any_step(), 0..300),
    ) {
        let mut world = MeshWorld::new(4, &["10.0.2.1:15"]);
        for step in steps {
            let conn = |n: u8| ConnId(u64::from(n % 16));
            match step {
                MeshAction::Accept(n) => { world.accept(&format!("10.0.0.{}:9", n % 8)); }
                MeshAction::Hello(n, id) => {
                    world.machine.hello(world.now, conn(n), format!("{}:x", id % 8).as_bytes());
                }
                MeshAction::Line(n, line) => world.machine.line(world.now, conn(n), line),
                MeshAction::Dialled(n) => { world.dialled(&format!("10.0.2.{}:{}5", n % 4, n % 4 + 1)); }
                MeshAction::Close(n) => world.machine.closed(world.now, conn(n)),
                MeshAction::Pass(n) => world.pass(seconds(u64::from(n))),
            }
            prop_assert!(world.machine.in_use().len() <= 4);
            prop_assert!(world.machine.known().len() <= KNOWN_MAX + 1);
            let (peers, conns) = (world.machine.peers(), world.machine.in_use());
            for peer in peers.iter().filter(|peer| peer.is_up) {
                prop_assert!(conns.contains_key(&*peer.id), "{}", peer.id);
            }
            prop_assert!(world.machine.poll_timeout() > world.now || world.machine.addresses.next_round().is_some()
                || world.machine.poll_timeout() <= world.now + seconds(31));
        }
    }
}
