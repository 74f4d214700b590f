//! Tests of floods, garbage and amplification.

use proptest::prelude::*;

use super::*;

#[test]
fn a_flood_of_spoofed_lists_fills_only_bounded_tables_and_sends_little() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.hear("10.0.0.2:1378", b"DISCOVER\n");
    world.pass(seconds(1));
    world.sent();
    for n in 0..2_000u32 {
        let from = format!("11.{}.{}.1:9", n / 250, n % 250);
        let list: Vec<String> = (0..20)
            .map(|m| format!("12.{}.{}.{m}:9", n / 250, n % 250))
            .collect();
        world.hear(&from, format!("DISCOVER,{}\n", list.join(",")).as_bytes());
    }
    assert!(world.members().len() <= MEMBERS_MAX);
    assert!(world.members().contains(&"10.0.0.2:1378".to_owned()));
    world.pass(seconds(20));
    let sent = world.sent();
    let told: Vec<_> = sent
        .iter()
        .filter(|(to, _)| to.starts_with("12."))
        .collect();
    assert!(told.is_empty(), "{}", told.len());
    let counters = world.machine.counters();
    assert!(counters.overflow > 10_000, "{counters:?}");
}

#[test]
fn a_forged_list_causes_no_traffic_to_its_addresses_and_no_amplification() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.pass(seconds(1));
    world.sent();
    let named: Vec<String> = (0..64).map(|n| format!("10.9.0.{n}:53")).collect();
    let said = format!("DISCOVER,{}\n", named.join(","));
    world.hear("10.0.0.66:53", said.as_bytes());
    for _ in 0..10 {
        world.hear("10.0.0.2:1378", b"DISCOVER\n");
        let _asked = world.ask("wanted");
        world.pass(seconds(20));
    }
    let sent = world.sent();
    let to_named: Vec<_> = sent.iter().filter(|(to, _)| named.contains(to)).collect();
    assert!(to_named.is_empty(), "{to_named:?}");
    let back = sent.iter().filter(|(to, _)| to == "10.0.0.66:53");
    let back: usize = back.map(|(_, text)| text.len()).sum();
    assert!(back <= said.len(), "{back} bytes for {}", said.len());
}

#[test]
fn a_members_list_causes_hardly_more_traffic_than_its_own_size() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.pass(seconds(1));
    world.sent();
    let named: Vec<String> = (0..64).map(|n| format!("10.9.0.{n}:53")).collect();
    let said = format!("DISCOVER,{}\n", named.join(","));
    world.hear("10.0.0.3:1378", b"DISCOVER,10.0.0.1:1378\n");
    world.pass(seconds(20));
    world.hear("10.0.0.3:1378", said.as_bytes());
    world.pass(seconds(400));
    let elsewhere = world
        .sent()
        .into_iter()
        .filter(|(to, _)| named.contains(to));
    let bytes: usize = elsewhere.map(|(_, text)| text.len()).sum();
    assert!((1..=2 * said.len()).contains(&bytes), "{bytes} bytes");
}

#[test]
fn an_answer_is_hardly_larger_than_its_question() {
    let mut world = DiscoveryWorld::new(&[]);
    world.pass(seconds(1));
    world.has = vec![name("x")];
    world.hear("10.0.0.2:1378", b"Get,x");
    world.pass(seconds(10));
    let sent = world.sent();
    assert!(sent.len() == 1 && sent[0].1.len() <= 3 * b"Get,x".len());
}

#[test]
fn a_forged_sender_receives_no_more_than_was_sent_in_its_name() {
    let mut world = DiscoveryWorld::new(&[]);
    let others = || (0..MEMBERS_MAX - 1).map(|n| format!("10.1.{}.{}:1378", n / 250, n % 250));
    let victim = "10.0.0.66:53";
    let said = b"DISCOVER\n";
    world.pass(seconds(1));
    world.hear(victim, said);
    for _ in 0..10 {
        others().for_each(|other| world.hear(&other, b"DISCOVER,10.0.0.1:1378\n"));
        world.pass(seconds(20));
    }
    let to_victim = world.sent().into_iter().filter(|(to, _)| to == victim);
    let bytes: usize = to_victim.map(|(_, text)| text.len()).sum();
    assert!(bytes <= said.len(), "{bytes} bytes");
}

#[test]
fn a_newcomer_receives_only_the_latest_questions() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    for n in 0..ASKS_BURST {
        world.ask(&format!("f{n}")).unwrap();
        world.now += Duration::from_millis(1);
    }
    world.sent();
    world.hear("10.0.0.3:1378", b"DISCOVER,10.0.0.1:1378,10.0.0.4:1378\n");
    let asked: Vec<String> = world.sent().into_iter().map(|(_, text)| text).collect();
    assert_eq!(asked, ["Get,f63\n", "Get,f62\n", "Get,f61\n", "Get,f60\n"]);
}

#[test]
fn a_large_cluster_is_sent_in_parts_until_a_short_sender_knows_it() {
    let mut world = DiscoveryWorld::new(&[]);
    let others: Vec<String> = (0..60).map(|n| format!("10.1.0.{n}:1378")).collect();
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..70 {
        for other in &others {
            world.hear(other, b"DISCOVER,10.0.0.1:1378\n");
        }
        world.pass(seconds(20));
        let lists = world.sent().into_iter().filter(|(to, _)| *to == others[7]);
        told.extend(lists.flat_map(|(_, text)| {
            let entries = text.trim().split(',').skip(2).map(str::to_owned);
            entries.collect::<Vec<_>>()
        }));
    }
    assert_eq!(told.len(), others.len());
}

#[test]
fn floods_and_third_party_answers_are_reported_once_with_their_sender() {
    let mut world = DiscoveryWorld::new(&["10.0.0.2:1378"]);
    world.ask("a.txt").unwrap();
    world.events();
    for _ in 0..5 {
        world.hear("10.6.6.6:1378", b"File,1,22\n");
    }
    for _ in 0..1_000 {
        world.hear("10.7.7.7:9", b"DISCOVER\n");
    }
    let offended = world.asking_events();
    assert_eq!(
        offended,
        [
            LegacyEvent::Offended(address("10.6.6.6:1378"), DiscoveryOffence::StrayAnswer),
            LegacyEvent::Offended(address("10.7.7.7:9"), DiscoveryOffence::Flood),
        ]
    );
    let named = |text: &str| {
        let members = world.machine.members();
        let found = members.into_iter().find(|m| m.address == address(text));
        found.map(|m| (m.heard, m.offences, m.last_offence))
    };
    assert_eq!(
        named("10.6.6.6:1378"),
        Some((false, 5, Some(DiscoveryOffence::StrayAnswer)))
    );
    let (is_heard, floods, _) = named("10.7.7.7:9").unwrap();
    let taken = u64::from(BURST + MEMBER_BURST);
    assert!(is_heard && floods == 1_000 - taken, "{floods}");
    // a late answer of a member is not an offence
    world.pass(seconds(200));
    world.hear("10.0.0.2:1378", b"File,1,22\n");
    assert_eq!(named_count(&world, "10.0.0.2:1378"), 0);
}

fn named_count(world: &DiscoveryWorld, text: &str) -> u64 {
    let members = world.machine.members();
    let found = members.iter().find(|m| m.address == address(text));
    found.map_or(0, |m| m.offences)
}

proptest! {
    #[test]
    fn no_datagram_breaks_the_machine_or_its_limits(
        datagrams in proptest::collection::vec(
            (0u32..40, prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "(DISCOVER|Get|File)(,[a-z0-9.:]{0,20}){0,8}\n?".prop_map(String::into_bytes),
                (0u32..60, 1u16..9).prop_map(|(host, port)|
                    format!("DISCOVER,10.1.0.{host}:{port},h{host}:{port}").into_bytes()),
                (1u16..9).prop_map(|port| format!("File,1,{port}").into_bytes()),
            ], 0u64..3000),
            0..200,
        ),
        asks in proptest::collection::vec("[a-c]", 0..5),
    ) {
        let mut world = DiscoveryWorld::new(&["10.0.0.2:1378", "some.host:5"]);
        for ask in asks {
            let _ = world.ask(&ask);
        }
        for (host, datagram, pause_ms) in datagrams {
            world.hear(&format!("10.0.1.{host}:1378"), &datagram);
            world.pass(Duration::from_millis(pause_ms));
            for (_, text) in world.sent() {
                prop_assert!(text.len() <= crate::wire::discovery::SENT_MAX_BYTES);
            }
            for event in world.events() {
                if let LegacyEvent::Try { name, at, .. } = event {
                    world.machine.tried(world.now, &name, at, false);
                }
            }
        }
        prop_assert!(world.machine.members().len() <= MEMBERS_MAX + 2 + OFFENDERS_MAX);
    }
}
