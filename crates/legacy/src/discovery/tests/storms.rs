//! Tests of many names at once.

use super::*;

const PEER: &str = "10.0.0.2:1378";

/// Asks for `count` names.
fn ask_many(world: &mut DiscoveryWorld, count: usize) {
    for n in 0..count {
        assert_eq!(world.ask(&format!("f{n:04}")), Ok(()));
    }
}

/// Asks for names as a user until that is refused. Returns the number of questions.
fn ask_until_busy(world: &mut DiscoveryWorld, uid: u32) -> usize {
    let mut names = (0..).map(|n| format!("f{uid}-{n:04}"));
    let refused = names.position(|name| world.ask_as(uid, &name) == Err(Absence::Busy));
    refused.unwrap()
}

fn heard(world: &mut DiscoveryWorld) -> Vec<String> {
    let questions = world.sent().into_iter().map(|(_, text)| text);
    questions.filter(|text| text.starts_with("Get,")).collect()
}

/// Returns the files for which a responder at that address is being tried.
fn tried_at(world: &mut DiscoveryWorld, at: &str) -> Vec<Name> {
    let events = world.asking_events().into_iter();
    let tries = events.filter_map(|event| match event {
        LegacyEvent::Try {
            name, at: there, ..
        } if there == address(at) => Some(name),
        _ => None,
    });
    tries.collect()
}

#[test]
fn questions_are_bounded_and_those_past_their_lookup_are_dropped() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    let count: usize = (1..20).map(|uid| ask_until_busy(&mut world, uid)).sum();
    assert_eq!(count, ASKS_MAX);
    assert_eq!(world.ask("one more"), Err(Absence::Busy));
    world.pass(seconds(12));
    world.events();
    assert_eq!(world.ask("one more"), Ok(()));
    let first = LegacyEvent::AskOver(name("f1-0000"));
    assert_eq!(world.asking_events(), [first]);
}

#[test]
fn questions_of_one_user_leave_room_for_those_of_another() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    assert_eq!(ask_until_busy(&mut world, 1), ASKS_MAX / 2);
    assert_eq!(ask_until_busy(&mut world, 2), ASKS_MAX / 4);
    assert_eq!(world.ask_as(1, "one more"), Err(Absence::Busy));
    assert_eq!(world.ask_as(3, "one more"), Ok(()));
    // A question that is open already takes no further place.
    assert_eq!(world.ask_as(1, "one more"), Ok(()));
    let person = Requester::person(1);
    let asked = world.machine.ask(world.now, &name("other"), person, &[]);
    assert_eq!(asked, Err(Absence::Busy), "a person is a user as well");
    // Questions whose lookup is over take no place of their user.
    world.pass(seconds(20));
    assert_eq!(world.ask_as(1, "other"), Ok(()));
}

#[test]
fn many_lookups_are_paced_and_each_has_its_full_time() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    let count = ASKS_BURST as usize + 2 * ASKS_PER_S as usize;
    ask_many(&mut world, count);
    let mut all = heard(&mut world);
    assert_eq!(all.len(), ASKS_BURST as usize);
    world.pass(seconds(1));
    all.extend(heard(&mut world));
    assert!(all.len() <= (ASKS_BURST + ASKS_PER_S) as usize);
    world.pass(Duration::from_millis(1100));
    all.extend(heard(&mut world));
    let in_order: Vec<String> = (0..count).map(|n| format!("Get,f{n:04}\n")).collect();
    assert_eq!(all, in_order);
    let is_over = |event: &LegacyEvent| matches!(event, LegacyEvent::LookupOver(_));
    world.pass(Duration::from_millis(9_900));
    assert_eq!(world.events().iter().filter(|e| is_over(e)).count(), 64);
    world.pass(Duration::from_millis(2_200));
    let over = world.events();
    assert_eq!(over.iter().filter(|e| is_over(e)).count(), count - 64);
}

#[test]
fn many_questions_of_one_user_do_not_delay_those_of_another() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    ask_until_busy(&mut world, 1);
    heard(&mut world);
    // The other user waits for one of its own, and for one that the first user asked long before.
    for name in ["theirs", "f1-0500"] {
        assert_eq!(world.ask_as(2, name), Ok(()));
    }
    world.pass(Duration::from_millis(100));
    let sent = heard(&mut world);
    for name in ["Get,theirs\n", "Get,f1-0500\n"] {
        assert!(sent.contains(&name.to_owned()), "{sent:?}");
    }
    assert!(sent.iter().any(|text| text.starts_with("Get,f1-")));
}

#[test]
fn users_take_turns_and_each_has_its_questions_in_order() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    ask_many(&mut world, ASKS_BURST as usize);
    heard(&mut world);
    for (uid, name) in [(1, "a"), (1, "b"), (1, "c"), (2, "d"), (3, "e")] {
        assert_eq!(world.ask_as(uid, name), Ok(()));
    }
    world.pass(Duration::from_millis(100));
    let in_turn = ["a", "d", "e", "b", "c"].map(|name| format!("Get,{name}\n"));
    assert_eq!(heard(&mut world), in_turn);
}

#[test]
fn among_many_names_the_available_one_is_found() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    ask_many(&mut world, 300);
    world.pass(seconds(2));
    world.hear(PEER, b"File,1,5002\n");
    let mut rounds = 0;
    let found = name("f0250");
    loop {
        let tries = tried_at(&mut world, "10.0.0.2:5002");
        assert!(!tries.is_empty() && tries.len() <= TRIES_AT_ONE_MAX);
        for file in &tries {
            let at = address("10.0.0.2:5002");
            world.machine.tried(world.now, file, at, *file == found);
        }
        if tries.contains(&found) {
            break;
        }
        rounds += 1;
    }
    assert!(rounds <= 300, "{rounds}");
}

#[test]
fn tries_for_one_user_do_not_delay_those_for_another() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    ask_many(&mut world, 60);
    assert_eq!(world.ask_as(2, "theirs"), Ok(()));
    world.hear(PEER, b"File,1,5002\n");
    let tries = tried_at(&mut world, "10.0.0.2:5002");
    assert_eq!(tries.len(), TRIES_AT_ONE_MAX);
    assert!(tries.contains(&name("theirs")), "{tries:?}");
}

#[test]
fn a_silent_responder_leaves_room_for_another() {
    let mut world = DiscoveryWorld::new(&[PEER, "10.0.0.3:1378"]);
    ask_many(&mut world, 200);
    world.pass(seconds(2));
    world.hear(PEER, b"File,1,5002\n");
    assert_eq!(
        tried_at(&mut world, "10.0.0.2:5002").len(),
        TRIES_AT_ONE_MAX
    );
    world.hear("10.0.0.3:1378", b"File,1,5003\n");
    assert_eq!(
        tried_at(&mut world, "10.0.0.3:5003").len(),
        TRIES_AT_ONE_MAX
    );
}

#[test]
fn a_name_whose_responder_was_not_tried_is_not_absent() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    ask_many(&mut world, 20);
    world.hear(PEER, b"File,1,5002\n");
    assert_eq!(
        tried_at(&mut world, "10.0.0.2:5002").len(),
        TRIES_AT_ONE_MAX
    );
    world.pass(seconds(12));
    let busy = (16..20).map(|n| LegacyEvent::LookupBusy(name(&format!("f{n:04}"))));
    assert_eq!(world.asking_events(), busy.collect::<Vec<_>>());
    assert_eq!(world.ask("f0016"), Ok(()));
}

#[test]
fn few_questions_stay_open_for_late_answers() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    ask_many(&mut world, 500);
    world.pass(seconds(20));
    world.events();
    world.hear(PEER, b"File,1,5002\n");
    let mut tried = 0;
    loop {
        let tries = tried_at(&mut world, "10.0.0.2:5002");
        if tries.is_empty() {
            break;
        }
        tried += tries.len();
        for file in tries {
            let at = address("10.0.0.2:5002");
            world.machine.tried(world.now, &file, at, false);
        }
    }
    assert_eq!(tried, LATE_MAX);
}

#[test]
fn one_answer_to_each_of_many_questions_is_not_a_flood() {
    let mut world = DiscoveryWorld::new(&[PEER]);
    for n in 0..1000 {
        let file = format!("f{n:04}");
        assert_eq!(world.ask(&file), Ok(()));
        world.pass(Duration::from_millis(8));
        world.hear(PEER, b"File,1,5002\n");
        let at = address("10.0.0.2:5002");
        assert!(tried_at(&mut world, "10.0.0.2:5002").contains(&name(&file)));
        world.machine.tried(world.now, &name(&file), at, true);
    }
    assert_eq!(world.machine.counters().flooding, 0);
    for _ in 0..1000 {
        world.hear(PEER, b"File,1,5002\n");
    }
    assert_ne!(world.machine.counters().flooding, 0);
}
