//! Limits on requests in flight, and the choice of the asked node.

use super::super::questions::{LOG_REQUESTS_MAX, REQUESTS_EACH_MAX, REQUESTS_MAX};
use super::*;

#[test]
fn pending_requests_are_bounded_for_each_node_and_in_total_and_logs_have_their_own_bound() {
    let mut bench = MachineBench::new(2);
    bench.run(Duration::from_secs(3));
    let machine = &mut bench.machines[0];
    machine.questions.forget_all();
    let mut ask = |n: usize, is_log: bool| {
        let from = key(n).node_id();
        let asked = if is_log {
            RequestContext::Log { author: from, from }
        } else {
            RequestContext::Members { from }
        };
        machine
            .questions
            .ask(from, address(n), Request::Reach, asked)
    };
    for n in 0..REQUESTS_MAX / REQUESTS_EACH_MAX {
        assert!((0..REQUESTS_EACH_MAX).all(|_| ask(n, false)));
        assert!(!ask(n, false), "one more of the same");
    }
    assert!(!ask(250, false), "one more");
    assert!((0..LOG_REQUESTS_MAX).all(|_| ask(0, true)));
    assert!(!ask(0, true), "one more log");
}

#[test]
fn a_member_with_endless_generations_and_no_answers_blocks_no_other_log() {
    let mut bench = MachineBench::new(3);
    let (now, [restless, author]) = (bench.now, [1, 2].map(|index| bench.id(index)));
    let machine = &mut bench.machines[0];
    for life in 0..200 {
        let member = Member {
            node: restless,
            address: SocketAddr::from(([10, 0, 1, life], 1378)),
            generation: Generation(1000 + u64::from(life)),
        };
        machine.handle_cluster_event(now, ClusterEvent::Up(member));
        machine.advance(now);
    }
    bench.put(2, "a", "1");
    bench.run_unanswered(Duration::from_millis(300), false);
    assert!(bench.log_questions().contains(&(0, author, author)));
    let is_to_restless =
        |it: &&(usize, Outgoing)| it.0 == 0 && it.1.node == restless && !is_log(&it.1);
    let asked = bench.questions.iter().filter(is_to_restless).count();
    assert!((1..=REQUESTS_EACH_MAX).contains(&asked), "{asked}");
}

fn is_log(question: &Outgoing) -> bool {
    matches!(question.request, Request::Log { .. })
}

#[test]
fn all_members_of_a_large_cluster_met_at_once_are_pulled() {
    const COUNT: u16 = 300;
    let now = Instant::now();
    let mut machine = machine(0, now);
    let nodes = (0..COUNT).map(|n| {
        let [high, low] = n.to_be_bytes();
        let seed = blake3::hash(&[high, low]);
        let node = NodeKey::from_seed(seed.as_bytes()).node_id();
        let address = SocketAddr::from(([10, 1, high, low], 1378));
        (node, address)
    });
    let nodes: Vec<_> = nodes.collect();
    for (node, address) in &nodes {
        let member = Member {
            node: *node,
            address: *address,
            generation: Generation(7),
        };
        machine.handle_cluster_event(now, ClusterEvent::Up(member));
    }
    machine.advance(now);
    while let Some(question) = machine.poll_request() {
        let heads = Vec::new();
        machine.handle_response(now, question.id, Some(Response::Heads { heads }));
    }
    let has_told = |(node, _): &&(NodeId, SocketAddr)| machine.questions.has_told(node);
    assert_eq!(nodes.iter().filter(has_told).count(), nodes.len());
}

/// Runs until machine 2 has everything that it can learn from machine 1, and returns how long that
/// took.
fn time_until_read(bench: &mut MachineBench) -> Duration {
    let (begun, peer) = (bench.now, bench.id(1));
    let step = Duration::from_millis(50);
    loop {
        bench.run(step);
        let machine = &mut bench.machines[2];
        machine.view();
        let is_live = machine.cluster().live().any(|it| it.node == peer);
        if is_live && is_read(machine, peer) {
            return bench.now - begun;
        }
        assert!(bench.now - begun < Duration::from_secs(100));
    }
}

#[test]
fn names_of_a_member_without_a_route_to_it_arrive_through_another_member_within_seconds() {
    let mut bench = MachineBench::begin(3, &[[1, 2]]);
    bench.put(1, "docs", "text");
    let took = time_until_read(&mut bench);
    assert!(bench.lists(2, "docs"));
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_member_that_cannot_be_dialled_is_read_once_it_asks() {
    let mut bench = MachineBench::new(2);
    let (now, peer) = (bench.now, bench.id(1));
    let machine = &mut bench.machines[0];
    come_up_anew(machine, now);
    assert!(!is_read(machine, peer));
    let heads = machine.catalogue().logs().heads();
    machine.answer(now, peer, &Request::Heads { heads });
    machine.view();
    assert!(is_read(machine, peer));
}
