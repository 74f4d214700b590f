//! Messages that cost a member little and a node much.

use p2pfs_proto::wire::native::tcp::{Frame, Kind};

use super::*;

/// Number of records sent at once, and number of repetitions.
const RECORDS: usize = 2900;
const TIMES: usize = 400;

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
    flood(&scene, &Frame::empty(0, Kind::Ping).header);
    let how = "too many pings";
    scene.await_named(&scene.one, how);
    assert!(scene.offences() >= 3);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}
