//! The cost of a reader list for the nodes that it names.

use super::super::lists::{LISTS_AT_ONCE, LISTS_PER_S};
use super::*;

#[test]
fn an_endless_sender_of_reader_lists_delays_only_itself() {
    let mut bench = MachineBench::new(3);
    let (reader, author, other) = (bench.id(0), bench.id(1), bench.id(2));
    let now = bench.now;
    let paces = &mut bench.machines[0].logs.list_paces;
    assert!(paces.count_against_limit(now, author, LISTS_AT_ONCE));
    for index in [1, 2] {
        let list = Some(vec![reader.to_string()]);
        bench.machines[index]
            .own()
            .set_readers(now, ShareIndex(0), list);
        bench.put(index, &format!("of{index}"), "for one");
        let machine = &mut bench.machines[index];
        machine.intake(now).publish_head();
        let request = Request::Log {
            author: machine.me,
            epoch: 0,
            after: 0,
        };
        let Some(Response::Log(part)) = machine.answer(now, reader, &request) else {
            panic!("{index} says nothing");
        };
        let author = machine.me;
        bench.receive_part(author, part);
    }
    assert!(bench.lists(0, "of2") && !bench.lists(0, "of1"));
    bench.run(STEP);
    let named = bench.events.iter().filter_map(|(at, event)| match event {
        NodeEvent::Offended { node, what } if *at == 0 => Some((*node, *what)),
        _ => None,
    });
    let named: Vec<_> = named.collect();
    assert!(!named.is_empty(), "it is named");
    assert!(
        named
            .iter()
            .all(|it| *it == (author, Offence::ListsReadersTooFast))
    );
    let paces = &mut bench.machines[0].logs.list_paces;
    assert!(
        !paces.count_against_limit(now, other, LISTS_AT_ONCE),
        "one was counted"
    );
    let soon = now + Duration::from_secs(1) / LISTS_PER_S;
    assert!(!paces.count_against_limit(soon, author, 2));
    bench.run(Duration::from_secs(2));
    assert!(bench.lists(0, "of1"));
    assert_eq!(bench.machines[0].counters().bad_parts, 0);
}
