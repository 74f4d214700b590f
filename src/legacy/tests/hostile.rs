//! Floods, garbage and amplification.

use proptest::prelude::*;

use super::*;

#[test]
fn a_flood_of_spoofed_lists_fills_bounded_tables_and_sends_little() {
    let mut world = World::new(&["10.0.0.2:1378"]);
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
    assert!(world.machine.members().len() <= MEMBERS_MAX);
    assert!(world.members().contains(&"10.0.0.2:1378".to_owned()));
    world.pass(seconds(20));
    let sent = world.sent();
    let told: Vec<_> = sent
        .iter()
        .filter(|(to, _)| to.starts_with("12."))
        .collect();
    assert!(told.len() <= 32, "{}", told.len());
    let counters = world.machine.counters();
    assert!(counters.overflow > 10_000, "{counters:?}");
}

#[test]
fn an_answer_is_hardly_larger_than_its_question() {
    let mut world = World::new(&[]);
    world.pass(seconds(1));
    world.has = vec![name("x")];
    world.hear("10.0.0.2:1378", b"Get,x");
    world.pass(seconds(10));
    let sent = world.sent();
    assert!(sent.len() == 1 && sent[0].1.len() <= 3 * b"Get,x".len());
}

proptest! {
    #[test]
    fn no_datagrams_break_the_machine_or_its_limits(
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
        let mut world = World::new(&["10.0.0.2:1378", "some.host:5"]);
        for ask in asks {
            let _ = world.ask(&ask);
        }
        for (host, datagram, pause_ms) in datagrams {
            world.hear(&format!("10.0.1.{host}:1378"), &datagram);
            world.pass(Duration::from_millis(pause_ms));
            for (_, text) in world.sent() {
                prop_assert!(text.len() <= crate::wire::legacy::MAX_SENT_BYTES);
            }
            for event in world.events() {
                if let LegacyEvent::Try { name, at, .. } = event {
                    world.machine.tried(world.now, &name, at, false);
                }
            }
        }
        prop_assert!(world.machine.members().len() <= MEMBERS_MAX + 2);
    }
}
