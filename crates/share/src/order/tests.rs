//! Tests of the order of events.

use super::*;
use crate::identity::FileTimestamp;
use crate::tree::{NodeBody, Tree};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex};
use p2pfs_types::path::SharedPath;

fn slots() -> [Slot; 3] {
    let mut tree = Tree::new();
    let root = tree.insert_root(0);
    ["a", "b", "c"].map(|name| tree.insert(root, name.as_bytes(), NodeBody::unlisted()))
}

fn name(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

fn removed(text: &str) -> ShareEvent {
    let (share, path) = (ShareIndex(0), name(text));
    ShareEvent::Removed { share, path }
}

fn put(text: &str, kind: Kind) -> ShareEvent {
    let entry = Entry {
        kind,
        mtime: FileTimestamp::default().into(),
        version_time: FileTimestamp::default().into(),
        sent_by: None,
        replaces: Vec::new(),
    };
    let (share, path) = (ShareIndex(0), name(text));
    ShareEvent::Put { share, path, entry }
}

fn link(text: &str) -> ShareEvent {
    let target = bytes::Bytes::from_static(b"t");
    put(text, Kind::Symlink { target })
}

/// Returns the identity of a file with this ctime.
fn changed(seconds: i64) -> FileIdentity {
    FileIdentity {
        ctime: FileTimestamp::new(seconds, 0),
        ..FileIdentity::default()
    }
}

fn told(order: &mut EventOrder, now: Instant) -> Vec<String> {
    let mut out = Vec::new();
    order.release(now, &mut out);
    out.iter()
        .map(|event| name_of(event).unwrap().1.to_string())
        .collect()
}

#[test]
fn a_known_change_waits_for_an_unknown_one_of_an_earlier_event() {
    let (mut order, now, [a, b, _]) = (EventOrder::default(), Instant::now(), slots());
    order.step();
    order.await_file(a, None);
    order.step();
    order.await_file(b, None);
    order.step();
    order.hold(link("current"));
    assert!(told(&mut order, now).is_empty());
    order.set_turn(order.turn_of(b).unwrap());
    order.hold(link("b"));
    order.forget_file(b);
    assert!(told(&mut order, now).is_empty());
    order.set_turn(order.turn_of(a).unwrap());
    order.hold(link("a"));
    order.forget_file(a);
    assert_eq!(told(&mut order, now), ["a", "b", "current"]);
    assert!(order.is_empty() && order.open.is_empty());
}

#[test]
fn a_file_that_is_given_up_or_changed_again_delays_nothing() {
    let (mut order, now, [a, b, _]) = (EventOrder::default(), Instant::now(), slots());
    order.step();
    order.await_file(a, None);
    order.await_file(b, None);
    order.step();
    order.hold(link("x"));
    order.step();
    order.await_file(a, None);
    assert!(told(&mut order, now).is_empty());
    order.forget_file(b);
    assert_eq!(told(&mut order, now), ["x"]);
}

#[test]
fn a_large_file_is_awaited_but_not_forever() {
    let (mut order, now, [a, ..]) = (EventOrder::default(), Instant::now(), slots());
    order.step();
    order.await_file(a, Some(now + LARGE_WAIT));
    order.step();
    order.hold(link("x"));
    assert!(told(&mut order, now).is_empty());
    assert_eq!(order.next_due(), Some(now + LARGE_WAIT));
    assert_eq!(told(&mut order, now + LARGE_WAIT), ["x"]);
    order.forget_file(a);
    assert!(order.open.is_empty());
}

#[test]
fn changes_of_one_name_are_reported_in_order() {
    let (mut order, now, [a, ..]) = (EventOrder::default(), Instant::now(), slots());
    let first = order.step();
    order.await_file(a, None);
    order.step();
    order.hold(removed("x"));
    order.set_turn(first);
    order.hold(link("x"));
    order.forget_file(a);
    let mut out = Vec::new();
    order.release(now, &mut out);
    assert_eq!(out, [removed("x"), link("x")]);
}

#[test]
fn a_new_directory_and_all_changes_during_its_scan_are_one_unit() {
    let (mut order, now, [a, b, _]) = (EventOrder::default(), Instant::now(), slots());
    order.step();
    order.hold(put("d", Kind::Directory));
    let turn = order.await_reading().unwrap();
    order.step();
    order.await_file(b, None);
    order.set_turn_of_new(turn);
    assert!(order.record_discovered(9));
    order.await_file(a, None);
    order.end_reading(turn);
    order.step();
    order.hold(removed("old"));
    order.record_drained();
    order.set_turn(order.turn_of(a).unwrap());
    order.set_seen(changed(9));
    order.hold(link("d/pointer"));
    order.forget_file(a);
    assert!(told(&mut order, now).is_empty(), "b is of the unit");
    order.set_turn(order.turn_of(b).unwrap());
    order.set_seen(changed(5));
    order.hold(link("d/object"));
    order.forget_file(b);
    assert_eq!(told(&mut order, now), ["d", "d/object", "d/pointer", "old"]);
    assert!(order.units.is_empty() && order.reading.is_none());
}

#[test]
fn a_tree_too_large_for_one_report_is_reported_in_pieces() {
    let mut order = EventOrder::default();
    order.step();
    let turn = order.await_reading().unwrap();
    assert!((0..UNIT_MAX_NAMES).all(|_| order.record_discovered(1)));
    assert!(!order.record_discovered(1));
    assert_eq!(order.await_reading(), None);
    order.end_reading(turn);
    order.record_drained();
    order.step();
    order.await_reading();
    assert!(!order.record_discovered(UNIT_MAX_BYTES + 1));
}

#[test]
fn a_change_of_uncertain_order_is_one_unit_with_all_later_reports() {
    let (mut order, now, [a, ..]) = (EventOrder::default(), Instant::now(), slots());
    let pointer = order.step();
    let object = order.step();
    order.step();
    order.hold(removed("old"));
    order.set_turn(pointer);
    order.set_ahead();
    order.set_seen(changed(7));
    order.hold(link("pointer"));
    order.set_turn(object);
    order.set_seen(changed(7));
    order.await_file(a, None);
    assert!(told(&mut order, now).is_empty());
    order.set_turn(object);
    order.set_seen(changed(7));
    order.hold(link("object"));
    order.forget_file(a);
    assert_eq!(told(&mut order, now), ["object", "pointer", "old"]);
    assert!(order.units.is_empty());
}

#[test]
fn an_unexpected_file_is_reported_after_later_events_of_the_same_tick() {
    let (now, [pointer, object, _]) = (Instant::now(), slots());
    let tells = |inode_hashed| {
        let mut order = EventOrder::default();
        let file = |ino| FileIdentity { ino, ..changed(7) };
        order.step();
        order.set_seen(file(1));
        order.await_file(pointer, None);
        order.step();
        order.set_seen(file(2));
        order.await_file(object, None);
        for (slot, name, hashed) in [
            (pointer, "pointer", file(inode_hashed)),
            (object, "object", file(2)),
        ] {
            order.set_turn(order.turn_of(slot).unwrap());
            order.record_hashed(slot, hashed);
            order.set_seen(hashed);
            order.hold(link(name));
            order.forget_file(slot);
        }
        told(&mut order, now)
    };
    assert_eq!(tells(1), ["pointer", "object"]);
    assert_eq!(tells(3), ["object", "pointer"]);
}

#[test]
fn overlapping_units_are_merged() {
    let (mut order, now) = (EventOrder::default(), Instant::now());
    let turns: Vec<EventSeq> = (0..5).map(|_| order.step()).collect();
    for (turn, name, seconds) in [(1, "b", 3), (3, "c", 2), (0, "d", 1)] {
        order.set_turn(turns[turn]);
        order.set_ahead();
        order.set_seen(changed(seconds));
        order.hold(link(name));
    }
    assert_eq!(order.units.len(), 1);
    assert_eq!(told(&mut order, now), ["d", "c", "b"]);
}

#[test]
fn a_change_after_an_unchecked_name_waits() {
    let (mut order, now) = (EventOrder::default(), Instant::now());
    order.step();
    order.hold(link("a"));
    let unchecked = order.step();
    order.step();
    order.hold(link("c"));
    order.set_unchecked(Some(unchecked));
    assert_eq!(told(&mut order, now), ["a"]);
    order.set_unchecked(None);
    assert_eq!(told(&mut order, now), ["c"]);
}
