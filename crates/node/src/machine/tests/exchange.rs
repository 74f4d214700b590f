//! Tests of the exchange between nodes: heads are verified, parts match them, and logs are pulled
//! from any node that has them.

use std::collections::BTreeSet;

use super::*;
use crate::machine::intake::HeadSender;
use p2pfs_proto::trust::{Ledger, StoredTrust};
use p2pfs_proto::wire::native::record::{Head, SignedHead};
use p2pfs_proto::wire::native::tcp::{Lane, LogPart, pack_records, unpack_records};

fn forged(bench: &mut MachineBench, author: usize, change: impl Fn(&mut SignedHead)) -> SignedHead {
    let id = bench.id(author);
    let mut signed = bench.machines[author]
        .catalogue()
        .logs()
        .head_of(&id)
        .unwrap()
        .clone();
    change(&mut signed);
    signed
}

#[test]
fn a_head_without_its_authors_signature_is_refused_and_counted() {
    let mut bench = MachineBench::new(2);
    bench.put(1, "a", "1");
    bench.run(Duration::from_secs(1));
    let now = bench.now;
    let genuine = forged(&mut bench, 1, |_| {});
    let other = forged(&mut bench, 1, |signed| signed.head.sequence += 9);
    let by_another = forged(&mut bench, 1, |signed| {
        signed.head.sequence += 9;
        signed.signature = key(2).sign(&signed.head.signed_bytes());
    });
    let in_another_name = forged(&mut bench, 1, |signed| {
        signed.head.author = key(2).node_id()
    });
    for (count, wrong) in [other, by_another, in_another_name].into_iter().enumerate() {
        let bytes = postcard::to_stdvec(&wrong).unwrap();
        match count % 2 {
            0 => bench.machines[0]
                .intake(now)
                .handle_head_bytes(key(1).node_id(), &bytes),
            _ => {
                let heads = vec![wrong];
                let from = bench.id(1);
                let answer = bench.machines[0].answer(now, from, &Request::Heads { heads });
                assert!(matches!(answer, Some(Response::Heads { .. })));
            }
        }
        assert_eq!(bench.machines[0].counters().bad_heads, count as u64 + 1);
        assert_eq!(
            bench.machines[0].logs.pulls.poll_timeout(),
            None,
            "nothing is pulled for it"
        );
    }
    bench.machines[0]
        .intake(now)
        .handle_head_bytes(key(1).node_id(), b"garbage");
    assert_eq!(bench.machines[0].counters().bad_heads, 4);
    let author = bench.id(1);
    assert_eq!(
        bench.machines[0].catalogue().logs().head_of(&author),
        Some(&genuine)
    );
    assert!(bench.lists(0, "a"));
}

#[test]
fn a_list_of_heads_costs_one_check_for_each_author_and_none_after_a_forgery() {
    let mut bench = MachineBench::new(3);
    bench.put(1, "a", "1");
    bench.run(Duration::from_secs(1));
    let older = forged(&mut bench, 1, |_| {});
    bench.put(1, "b", "1");
    bench.run(Duration::from_secs(1));
    let (now, from) = (bench.now, bench.id(2));
    let wrong = forged(&mut bench, 1, |signed| signed.head.sequence += 9);
    let also_wrong = forged(&mut bench, 2, |signed| signed.head.sequence += 9);
    let mut heads = vec![wrong; 4096];
    heads.push(also_wrong);
    bench.machines[0].answer(now, from, &Request::Heads { heads });
    assert_eq!(bench.machines[0].counters().bad_heads, 1);
    // a head that is not newer is not verified
    let unsigned = SignedHead {
        signature: Default::default(),
        ..older
    };
    let heads = vec![unsigned; 4096];
    bench.machines[0].answer(now, from, &Request::Heads { heads });
    assert_eq!(bench.machines[0].counters().bad_heads, 1);
}

#[test]
fn a_sender_of_a_member_list_with_a_forged_generation_is_named_and_its_list_ignored() {
    let mut bench = MachineBench::new(3);
    let (now, from) = (bench.now, bench.id(2));
    let mut members = bench.machines[2].cluster().export_members().to_vec();
    // the end of the last signature
    *members.last_mut().unwrap() ^= 1;
    let before = bench.machines[0].cluster().members();
    let members = Bytes::from(members);
    bench.machines[0].answer(now, from, &Request::Members { members });
    assert_eq!(bench.machines[0].cluster().members(), before);
    bench.run(STEP);
    let named = NodeEvent::Offended {
        node: from,
        what: Offence::SpeaksForOthers,
    };
    let told = bench.events.iter().filter(|it| **it == (0, named.clone()));
    assert_eq!(told.count(), 1);
}

/// Two machines, of which the first requests the log of the second. The test answers the request.
fn asked() -> (MachineBench, Outgoing, LogPart) {
    let mut bench = MachineBench::new(2);
    bench.put(1, "a", "1");
    bench.run_unanswered(Duration::from_millis(300), false);
    let (asker, question) = bench.take_log_question();
    assert_eq!((asker, question.node), (0, bench.id(1)));
    let (now, from) = (bench.now, bench.id(0));
    let answer = bench.machines[1].answer(now, from, &question.request);
    let Some(Response::Log(part)) = answer else {
        panic!("{answer:?}")
    };
    (bench, question, part)
}

#[test]
fn a_part_under_a_foreign_head_is_refused_and_requested_again() {
    let wrongs: [fn(&mut LogPart); 4] = [
        |part| part.head.head.sequence += 1,
        |part| part.head.signature[0][0] ^= 1,
        |part| {
            part.head.head.author = key(5).node_id();
            part.head.signature = key(5).sign(&part.head.head.signed_bytes());
        },
        |part| part.records = Bytes::from_static(b"no records"),
    ];
    for wrong in wrongs {
        let (mut bench, question, mut part) = asked();
        wrong(&mut part);
        let now = bench.now;
        bench.machines[0].handle_response(now, question.id, Some(Response::Log(part)));
        assert_eq!(bench.machines[0].counters().bad_parts, 1);
        assert!(!bench.lists(0, "a"));
        bench.run(Duration::from_secs(1));
        assert!(bench.lists(0, "a"));
    }
}

#[test]
fn records_that_contradict_the_signed_head_are_never_listed() {
    let (mut bench, question, mut part) = asked();
    let mut records = unpack_records(&part.records).unwrap();
    for record in &mut records {
        if let p2pfs_proto::wire::native::record::Fact::Entry { entry, .. } = &mut record.fact {
            *entry = file("another content");
        }
    }
    part.records = pack_records(&records).unwrap().bytes;
    let now = bench.now;
    bench.machines[0].handle_response(now, question.id, Some(Response::Log(part)));
    assert_eq!(bench.machines[0].counters().bad_parts, 1);
    assert!(!bench.lists(0, "a"));
    bench.run(Duration::from_secs(1));
    let found = bench.machines[0].view().lookup(&path("a")).unwrap();
    assert_eq!(found.kind, file("1").kind);
}

/// Makes a machine the founder of a cluster of which `member` is the only other member.
fn found_with(machine: &mut Machine, member: NodeId) {
    let (founder, name) = (key(0), NodeName::new("founder").unwrap());
    let mut ledger = Ledger::found(&founder, name.clone(), 1);
    let admitted = ledger.signer(&founder, 1).admit(member, name, false);
    admitted.unwrap();
    let stored = StoredTrust {
        secret: EpochSecret::new([1; 32]),
        ledger,
        former_names: BTreeSet::new(),
    };
    machine.trust.keyring = Keyring::stored(Arc::new(founder), stored, 1);
}

/// Expels a member and stores it.
fn expel(machine: &mut Machine, now: Instant, member: NodeId) {
    let command = TrustCommand::StateAndRotate {
        claims: Box::new(move |signer| signer.expel(member)),
        reply: Box::new(|expelled| {
            expelled.unwrap();
        }),
    };
    machine.command(now, command);
    assert!(machine.trust().is_member(&member), "before it is stored");
    assert!(machine.poll_trust_write().is_some());
    machine.finish_trust_write(now, Ok(()));
    machine.poll_answer().expect("it is stored")();
}

#[test]
fn a_log_whose_author_is_expelled_in_mid_pull_is_dropped() {
    for comes_later in [false, true] {
        let (mut bench, question, mut part) = asked();
        let (now, author) = (bench.now, bench.id(1));
        found_with(&mut bench.machines[0], author);
        // more parts follow, so the first one waits
        part.last = false;
        if !comes_later {
            let response = Some(Response::Log(part.clone()));
            bench.machines[0].handle_response(now, question.id, response);
        }
        let machine = &mut bench.machines[0];
        expel(machine, now, author);
        if comes_later {
            machine.handle_response(now, question.id, Some(Response::Log(part)));
        }
        while machine.sweep(now) {}
        assert_eq!(machine.catalogue.logs().authors(), []);
        assert_eq!(
            machine.logs.pulls.poll_timeout(),
            None,
            "nothing is asked for"
        );
    }
}

#[test]
fn requests_made_before_an_expulsion_are_not_answered_after_it() {
    let mut bench = MachineBench::new(2);
    let (now, from) = (bench.now, bench.id(1));
    let machine = &mut bench.machines[0];
    found_with(machine, from);
    let request = Request::Trust {
        question: machine.trust().question(false).into(),
    };
    let answer = machine.answer(now, from, &request);
    assert!(matches!(answer, Some(Response::Trust { .. })));
    expel(machine, now, from);
    let heads = Request::Heads { heads: Vec::new() };
    for request in [request, heads] {
        let answer = machine.answer(now, from, &request);
        assert_eq!(answer, Some(Response::NotHere));
    }
}

#[test]
fn a_late_answer_to_a_request_served_by_another_is_not_blamed() {
    let (mut bench, question, first) = asked();
    let now = bench.now;
    bench.machines[0].handle_response(now, question.id, Some(Response::Log(first)));
    bench.put(1, "b", "2");
    bench.run_unanswered(Duration::from_millis(300), false);
    let (_, question) = bench.take_log_question();
    assert!(matches!(question.request, Request::Log { after: 1.., .. }));
    let (now, from, author) = (bench.now, bench.id(0), bench.id(1));
    let answer = bench.machines[1].answer(now, from, &question.request);
    let Some(Response::Log(part)) = answer else {
        panic!("{answer:?}")
    };
    for _ in 0..2 {
        bench.receive_part(author, part.clone());
    }
    assert!(bench.lists(0, "b"));
    bench.run(STEP);
    let is_blamed = |(_, event): &(usize, NodeEvent)| matches!(event, NodeEvent::Offended { .. });
    assert!(!bench.events.iter().any(is_blamed));
}

#[test]
fn an_unsolicited_answer_changes_nothing() {
    let (mut bench, question, part) = asked();
    let now = bench.now;
    let unknown = RequestId(question.id.0 + 1000);
    bench.machines[0].handle_response(now, unknown, Some(Response::Log(part.clone())));
    assert!(!bench.lists(0, "a"));
    bench.machines[0].handle_response(now, question.id, Some(Response::Log(part.clone())));
    bench.machines[0].handle_response(now, question.id, Some(Response::Log(part)));
    assert!(bench.lists(0, "a"));
    assert_eq!(bench.machines[0].counters(), MachineCounters::default());
}

#[test]
fn nodes_exchange_members_and_heads_and_answer_with_news() {
    let mut bench = MachineBench::new(3);
    bench.put(1, "a", "1");
    bench.run(Duration::from_secs(1));
    let now = bench.now;
    let from = bench.id(2);
    let heads = bench.machines[2].catalogue().logs().heads();
    let answer = bench.machines[0].answer(now, from, &Request::Heads { heads });
    assert_eq!(
        answer,
        Some(Response::Heads { heads: Vec::new() }),
        "it has all"
    );
    let answer = bench.machines[0].answer(now, from, &Request::Heads { heads: Vec::new() });
    let Some(Response::Heads { heads }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(heads.len(), 3);
    let members = Bytes::from_static(b"garbage");
    let answer = bench.machines[0].answer(now, from, &Request::Members { members });
    assert!(matches!(answer, Some(Response::Members { .. })));
    assert_eq!(bench.machines[0].counters().bad_member_lists, 1);
    let hash = ContentHash::of(b"1");
    let answer = bench.machines[0].answer(now, from, &Request::Holdings { hash });
    assert_eq!(answer, None, "contents are not the machine's business");
}

#[test]
fn heads_missed_by_gossip_are_learned_in_the_exchange() {
    let mut bench = MachineBench::new(2);
    // the datagrams of the change are lost, but no member is missing
    bench.put(1, "a", "1");
    let now = bench.now + PUBLISH_AFTER;
    bench.machines[1].intake(now).publish_head();
    while bench.machines[1].poll_transmit().is_some() {}
    assert!(!bench.lists(0, "a"));
    let (node, at) = (bench.id(1), address(1));
    bench.machines[0].requests().ask_push_pull(node, at);
    while bench.exchange(true) {}
    bench.run(Duration::from_millis(5));
    assert!(bench.lists(0, "a"));
}

#[test]
fn a_log_is_pulled_from_a_third_node_when_its_author_is_gone() {
    let mut bench = MachineBench::new(3);
    let author = bench.id(2);
    bench.put(2, "a", "1");
    // node 0 receives the head, and its request is in flight when the author dies
    bench.run_unanswered(Duration::from_millis(200), false);
    let asked = bench.log_questions();
    assert!(asked.contains(&(0, author, author)) && asked.contains(&(1, author, author)));
    let of_one = |(asker, question): &(usize, Outgoing)| {
        *asker == 1 && matches!(question.request, Request::Log { .. })
    };
    let at = bench.questions.iter().position(of_one).unwrap();
    let (asker, question) = bench.questions.remove(at);
    bench.answer(asker, question);
    assert!(bench.lists(1, "a") && !bench.lists(0, "a"));
    bench.cut.push(address(2));
    bench.run(Duration::from_secs(20));
    let members = bench.machines[0].cluster().live().count();
    assert_eq!(members, 1);
    let held = bench.machines[0]
        .catalogue()
        .logs()
        .head_of(&author)
        .cloned();
    assert!(held.is_some_and(|signed| signed.head.count == 1));
    assert!(
        !bench.lists(0, "a"),
        "its author is gone, and nobody else has the content"
    );
}

#[test]
fn a_departing_member_that_never_answers_is_not_awaited() {
    let mut bench = MachineBench::new(3);
    let author = bench.id(2);
    bench.put(2, "a", "1");
    bench.run_unanswered(Duration::from_millis(200), false);
    assert!(bench.log_questions().contains(&(0, author, author)));
    bench.questions.clear();
    bench.cut.push(address(2));
    bench.run_unanswered(Duration::from_secs(20), false);
    let third = bench.id(1);
    assert!(bench.log_questions().contains(&(0, third, author)));
}

#[test]
fn gets_offers_and_calls_reach_their_owner_and_garbage_is_counted() {
    let mut bench = MachineBench::new(2);
    let hash = ContentHash::of(b"wanted");
    let now = bench.now;
    bench.events.clear();
    bench.machines[0].broadcast_wanted(now, vec![hash]);
    bench.run(Duration::from_millis(10));
    let from = bench.id(0);
    let wanted = NodeEvent::Wanted {
        from,
        hashes: vec![hash],
    };
    assert_eq!(bench.events, [(1, wanted)]);
    bench.events.clear();
    let offer = OfferSummary {
        hash,
        size_bytes: 6,
        all: true,
        ranges: Vec::new(),
        load: 0,
        askers: Vec::new(),
    };
    bench.machines[1].send(now, from, &Message::Offer(offer.clone()));
    bench.run(Duration::from_millis(10));
    let offered = NodeEvent::Offered {
        from: bench.id(1),
        address: address(1),
        offer,
    };
    assert_eq!(bench.events, [(0, offered)]);
    bench.events.clear();
    let lane = Lane::Bulk;
    bench.machines[1].send(now, from, &Message::Call { lane });
    bench.run(Duration::from_millis(10));
    let called = NodeEvent::Called {
        from: bench.id(1),
        address: address(1),
        lane,
    };
    assert_eq!(bench.events, [(0, called)]);
    bench.machines[0]
        .events
        .receive_message(from, None, &Bytes::from_static(b"\xff\xff"));
    assert_eq!(bench.machines[0].counters().bad_messages, 1);
}

#[test]
fn an_own_head_that_we_forgot_is_outbid() {
    let mut bench = MachineBench::new(1);
    bench.put(0, "a", "1");
    bench.run(Duration::from_secs(1));
    let epoch = bench.machines[0].catalogue().own().head().epoch;
    let head = Head {
        epoch: epoch + 4,
        ..bench.machines[0].catalogue().own().head()
    };
    let signature = key(0).sign(&head.signed_bytes());
    let now = bench.now;
    bench.machines[0].intake(now).handle_head(
        &SignedHead { head, signature },
        HeadSender::Gossip(key(0).node_id()),
    );
    bench.run(Duration::from_secs(1));
    let own = bench.machines[0].catalogue().own().head();
    assert_eq!(own.epoch, epoch + 5);
    assert!(!bench.machines[0].catalogue().own().needs_signature());
    assert!(bench.lists(0, "a"));
}

#[test]
fn a_second_log_under_our_number_is_outbid_a_few_times_and_then_reported() {
    let mut bench = MachineBench::new(1);
    bench.put(0, "a", "1");
    bench.run(Duration::from_secs(1));
    bench.events.clear();
    let mut epochs = Vec::new();
    for round in 0..6 {
        let head = Head {
            digest: [round; 32],
            ..bench.machines[0].catalogue().own().head()
        };
        let signature = key(0).sign(&head.signed_bytes());
        let now = bench.now;
        bench.machines[0].intake(now).handle_head(
            &SignedHead { head, signature },
            HeadSender::Gossip(key(0).node_id()),
        );
        bench.run(Duration::from_secs(1));
        epochs.push(bench.machines[0].catalogue().own().head().epoch);
    }
    // a restored disk makes such a log too
    let outbid = p2pfs_catalogue::OWN_RECOVERIES_MAX as usize;
    assert_eq!(bench.events.len(), 6 - outbid);
    let copied = |(_, event): &(usize, NodeEvent)| matches!(event, NodeEvent::CopiedKey { .. });
    assert!(bench.events.iter().all(copied));
    epochs.dedup();
    assert_eq!(epochs.len(), outbid);
}
