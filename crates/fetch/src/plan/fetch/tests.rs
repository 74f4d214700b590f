//! State of an open file.

use std::time::Duration;

use super::*;
use crate::plan::holders::{Coverage, GONE, HOLDERS_MAX};
use crate::plan::{Listed, PlanError, RequestId};
use p2pfs_types::extent::PAGE_BYTES;

fn fetch() -> (FileFetch, Instant) {
    let now = Instant::now();
    (FileFetch::new(10 << 20, ExtentSet::new(), now), now)
}

fn listed(node: NodeId, sequence: u64) -> Listed {
    Listed { node, sequence }
}

#[test]
fn a_gap_is_neither_present_nor_requested() {
    let (mut fetch, _) = fetch();
    fetch.presence.gain(ByteRange::new(0, 4 << 20));
    let asked = ByteRange::new(4 << 20, (4 << 20) + 4096);
    fetch.asked.insert(asked, RequestId(1));
    let gap = fetch.first_gap(fetch.whole()).unwrap();
    assert_eq!(gap, ByteRange::new((4 << 20) + 4096, 5 << 20));
    let rest = ByteRange::new((4 << 20) + 4096, 10 << 20);
    fetch.asked.insert(rest, RequestId(2));
    assert_eq!(fetch.first_gap(fetch.whole()), None);
}

#[test]
fn finding_a_gap_does_not_scan_the_present_ranges_of_a_huge_file() {
    let (size, last) = (1 << 42, 1 << 12);
    let present = ExtentSet::of(ByteRange::new(0, size - last));
    let fetch = FileFetch::new(size, present, Instant::now());
    for _ in 0..1000 {
        let gap = fetch.first_gap(fetch.whole());
        assert_eq!(gap, Some(ByteRange::new(size - last, size)));
    }
}

#[test]
fn a_failure_is_remembered_for_its_range_until_a_holder_appears() {
    let (mut fetch, now) = fetch();
    fetch
        .failures
        .remember(now, ByteRange::at(0, 131072), PlanError::NoHolder);
    let page = ByteRange::at(8192, 4096);
    assert_eq!(fetch.failures.of(now, page), Some(PlanError::NoHolder));
    assert_eq!(fetch.failures.of(now, ByteRange::at(1 << 20, 4096)), None);
    assert_eq!(fetch.failures.of(now + RECENT, page), None);
    fetch.add_holder(NodeId::new([1; 32]), Coverage::All);
    assert_eq!(fetch.failures.of(now, page), None);
}

#[test]
fn a_file_is_gone_when_its_last_holder_just_said_so() {
    let (mut fetch, now) = fetch();
    let page = ByteRange::new(0, PAGE_BYTES);
    assert!(!fetch.is_just_gone_in(now, page), "nobody was asked yet");
    let holders = [NodeId::new([1; 32]), NodeId::new([2; 32])];
    for node in holders {
        fetch.add_listed_holder(now, listed(node, 1));
    }
    fetch.remove_holder(now, holders[0]);
    assert!(!fetch.is_just_gone_in(now, page));
    fetch.remove_holder(now, holders[1]);
    assert!(fetch.is_just_gone_in(now, page) && !fetch.is_just_gone_in(now + GONE, page));
    assert!(
        fetch.is_gone_in(page),
        "and it stays so until somebody has it"
    );
    fetch.add_holder(NodeId::new([3; 32]), Coverage::All);
    assert!(!fetch.is_gone_in(page));
}

#[test]
fn a_holder_that_dropped_a_file_is_trusted_again_when_it_offers_it_anew() {
    let (mut fetch, now) = fetch();
    let (author, page) = (NodeId::new([1; 32]), ByteRange::new(0, PAGE_BYTES));
    for sequence in [3, 7] {
        fetch.add_listed_holder(now, listed(author, sequence));
    }
    fetch.remove_holder(now, author);
    // under neither sequence number
    for sequence in [7, 3] {
        assert!(!fetch.add_listed_holder(now, listed(author, sequence)));
    }
    assert!(fetch.is_just_gone_in(now, page));
    assert!(fetch.add_listed_holder(now, listed(author, 9)));
    assert!(!fetch.is_just_gone_in(now, page));
    fetch.remove_holder(now, author);
    assert!(!fetch.add_listed_holder(now, listed(author, 9)));
    assert!(fetch.add_listed_holder(now + GONE, listed(author, 9)));
}

#[test]
fn of_many_reports_of_a_gone_file_the_oldest_is_forgotten() {
    let (mut fetch, now) = fetch();
    // the latest reports are those of the smallest identities
    let nodes = (0..=HOLDERS_MAX as u8).rev();
    let nodes: Vec<NodeId> = nodes.map(|node| NodeId::new([node; 32])).collect();
    let mut at = now;
    for node in &nodes {
        at += Duration::from_millis(1);
        assert!(fetch.add_listed_holder(at, listed(*node, 1)));
        fetch.remove_holder(at, *node);
    }
    for node in &nodes[1..] {
        assert!(!fetch.add_listed_holder(at, listed(*node, 1)), "{node}");
    }
    assert!(fetch.add_listed_holder(at, listed(nodes[0], 1)));
}

#[test]
fn a_range_is_gone_when_only_a_former_holder_had_it_beside_other_holders() {
    let (mut fetch, now) = fetch();
    let [author, reader] = [1, 2].map(|node| NodeId::new([node; 32]));
    let [first, second] = [0, 1].map(|at| ByteRange::at(at * PAGE_BYTES, PAGE_BYTES));
    fetch.add_listed_holder(now, listed(author, 1));
    fetch.add_holder(reader, Coverage::Part([first].into_iter().collect()));
    assert!(!fetch.is_just_gone_in(now, second));
    fetch.remove_holder(now, author);
    assert!(fetch.is_just_gone_in(now, second) && !fetch.is_just_gone_in(now, first));
    // the report of a partial holder says nothing about full holders
    let (mut fetch, now) = self::fetch();
    fetch.add_holder(reader, Coverage::Part([first].into_iter().collect()));
    fetch.remove_holder(now, reader);
    assert!(!fetch.is_just_gone_in(now, second));
}

#[test]
fn a_get_is_repeated_at_growing_intervals() {
    let (mut fetch, now) = fetch();
    let second = fetch.holders_mut().take_get_turn(now).unwrap();
    assert_eq!(fetch.holders_mut().take_get_turn(now), None);
    let third = fetch.holders_mut().take_get_turn(second).unwrap();
    assert!(third - second > second - now);
}

#[test]
fn the_number_of_holders_is_bounded() {
    let (mut fetch, _) = fetch();
    for i in 0..200 {
        fetch.add_holder(NodeId::new([i; 32]), Coverage::All);
    }
    assert_eq!(fetch.holders.nodes().count(), HOLDERS_MAX);
}

#[test]
fn partial_holders_make_room_for_complete_ones() {
    let (mut fetch, now) = fetch();
    for i in 0..200 {
        fetch.add_holder(NodeId::new([i; 32]), Coverage::Part(ExtentSet::new()));
    }
    let author = NodeId::new([250; 32]);
    assert!(fetch.add_listed_holder(now, listed(author, 1)));
    assert!(fetch.holders.contains(&author));
}

#[test]
fn complete_holders_are_counted_as_they_come_and_go() {
    let (mut fetch, now) = fetch();
    let [one, other] = [1, 2].map(|node| NodeId::new([node; 32]));
    let part = || Coverage::Part([ByteRange::at(0, PAGE_BYTES)].into_iter().collect());
    fetch.add_holder(one, part());
    fetch.add_holder(other, Coverage::All);
    assert!(fetch.holders().full_count() == 1 && fetch.holders().has_partial());
    fetch.add_holder(one, Coverage::All);
    fetch.add_holder(other, part());
    assert!(fetch.holders().full_count() == 2 && !fetch.holders().has_partial());
    for _ in 0..2 {
        fetch.remove_holder(now, one);
        assert!(fetch.holders().full_count() == 1 && !fetch.holders().has_partial());
    }
}
