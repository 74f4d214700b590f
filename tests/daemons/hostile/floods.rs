//! Messages that cost a member little and a node much.

use p2pfs_proto::wire::native::tcp::{Frame, FrameKind};

use super::*;
use crate::support::process::HANG_LIMIT;

/// Number of records sent at once, and number of repetitions.
const RECORDS: usize = 2900;
const TIMES: usize = 400;
/// Requests for heads: more than any node needs to send.
const QUESTIONS: usize = 6000;

/// Made-up nodes: more than the tables of members and of logs have room for.
const MADE_UP_NODES: usize = 4100;

/// Sends the same record until the daemon closes the connection, on three connections in turn.
fn flood(scene: &Scene, carried: &[u8]) {
    for _ in 0..3 {
        let mut connection = scene.eve.dial_raw(scene.one.address).unwrap();
        let is_taken = (0..TIMES).all(|_| connection.send(carried, RECORDS));
        assert!(!is_taken, "more than a million records were taken");
        connection.await_end();
    }
}

#[apply(promise)]
fn a_member_that_floods_with_empty_records_is_disconnected_and_named() {
    let mut scene = scene();
    flood(&scene, b"");
    let how = "empty records";
    scene.await_named(&scene.one, how);
    assert!(scene.offences() >= 3);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_member_that_floods_with_pings_is_disconnected_and_named() {
    let mut scene = scene();
    flood(&scene, &Frame::empty(0, FrameKind::Ping).header);
    let how = "too many pings";
    scene.await_named(&scene.one, how);
    assert!(scene.offences() >= 3);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_host_that_floods_with_requests_is_named_by_its_address() {
    let mut scene = scene();
    let heads = || Request::Heads { heads: vec![] };
    let questions = std::iter::repeat_with(heads).take(QUESTIONS);
    scene.eve.ask_all(scene.one.address, questions);
    let how = "127.0.0.1 asks more than any node needs to know";
    eventually("its address is named", HANG_LIMIT, || {
        told(&scene.one, "status")["warnings"]
            .to_string()
            .contains(how)
    });
    scene.assert_unharmed();
    let journal = scene.one.stop().stderr;
    assert!(journal.contains(how), "{journal}");
}

#[apply(promise)]
fn a_member_that_makes_up_thousands_of_nodes_and_authors_hides_no_newcomer() {
    let mut scene = scene();
    let made_up = scene.eve.made_up_nodes(MADE_UP_NODES);
    let tell = |scene: &Scene, address| {
        let requests = made_up.iter().cloned();
        let answers = requests.filter_map(|request| scene.eve.try_ask(address, request));
        assert!(answers.count() > 0, "no list was received");
    };
    tell(&scene, scene.one.address);
    tell(&scene, scene.two.address);
    let three = scene.cluster.start("three");
    three.wait_for_file("honest.txt");
    tell(&scene, three.address);
    three.write("newcomer.txt", b"new");
    for node in [&scene.one, &scene.two] {
        node.wait_for_file("newcomer.txt");
        await_bytes(node, "newcomer.txt", b"new");
    }
    let known = peers(&scene.one).len();
    assert!(known < MADE_UP_NODES / 10, "{known} nodes are known");
    scene.assert_unharmed();
}
