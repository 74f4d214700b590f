//! Fills in any order of stores, refusals and losses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Nobody;
use crate::TransferError;
use crate::plan::{PlanConfig, RangeRequest};
use crate::session::{Cached, FillId, Holder, Read, Session, UncachedAction, verify};
use p2pfs_types::digest::sample::Content;
use p2pfs_types::digest::{ContentKey, Verified};
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use p2pfs_types::id::NodeId;

const PATIENCE: Duration = Duration::from_secs(10);

fn verified(file: &Content, request: &RangeRequest) -> Arc<Verified> {
    verify(request, file.encode(request.range).into()).unwrap()
}

/// Fetches a whole content from its only holder. Returns the ranges that arrived; none is
/// stored.
fn fetch(session: &mut Session<Nobody>, now: Instant, file: &Content) -> Vec<RangeRequest> {
    let mut came = Vec::new();
    loop {
        let sends = session.actions(now).sends;
        if sends.is_empty() {
            return came;
        }
        for send in sends {
            session.accept(now, &send.request, &verified(file, &send.request));
            came.push(send.request);
        }
    }
}

/// Returns a session that fetches a content with this many holders.
fn session_of(now: Instant, file: &Content, holders: u8) -> (Session<Nobody>, ContentKey) {
    let content = ContentKey::new(file.hash(), file.size());
    let mut session = Session::<Nobody>::new(PlanConfig::default(), 1, 1 << 20);
    let cached = Cached {
        file: Some(()),
        on_disk: ExtentSet::new(),
        is_complete: false,
    };
    session.begin(now, content, cached).unwrap();
    let holder = |number| Holder {
        node: NodeId::new([number; 32]),
        address: "127.0.0.1:1".parse().unwrap(),
        size_bytes: file.size(),
        sequence: 1,
    };
    let holders: Vec<_> = (1..=holders).map(holder).collect();
    session.record_holders(now, &content.hash, &holders);
    (session, content)
}

#[test]
fn a_fill_completes_for_any_order_of_store_confirmations() {
    let (now, file) = (Instant::now(), Content::new(1, 4 << 20));
    let (mut session, content) = session_of(now, &file, 1);
    session.fill(now, content, (FillId(1), ()), PATIENCE, ExtentSet::new);
    let came = fetch(&mut session, now, &file);
    assert!(came.len() > 1, "{came:?}");
    for (at, request) in came.iter().rev().enumerate() {
        assert_eq!(session.actions(now).fills, []);
        // the range stored last is reported first
        session.stored(content, request.range, at == 0);
    }
    assert_eq!(session.actions(now).fills, [((), Ok(()))]);
}

#[test]
fn bytes_that_arrived_and_left_the_cache_are_fetched_again_for_a_fill() {
    let (now, file) = (Instant::now(), Content::new(1, 4 << 20));
    let (mut session, content) = session_of(now, &file, 1);
    for id in [FillId(1), FillId(2)] {
        session.fill(now, content, (id, ()), PATIENCE, ExtentSet::new);
        let came = fetch(&mut session, now, &file);
        let bytes: u64 = came.iter().map(|request| request.range.len()).sum();
        assert_eq!(bytes, file.size());
        for (at, request) in came.iter().enumerate() {
            session.stored(content, request.range, at + 1 == came.len());
        }
        assert_eq!(session.actions(now).fills, [((), Ok(()))]);
    }
}

#[test]
fn a_fill_is_not_ended_by_refusals_from_before_its_start() {
    let (now, file) = (Instant::now(), Content::new(1, 4 << 20));
    let (mut session, content) = session_of(now, &file, 1);
    session.fill(now, content, (FillId(1), ()), PATIENCE, ExtentSet::new);
    let came = fetch(&mut session, now, &file);
    assert!(came.len() > 1, "{came:?}");
    let (first, others) = came.split_first().unwrap();
    let held = session.not_stored(now, content, first.range);
    assert_eq!(held, UncachedAction::Held);
    let full = Err(TransferError::CacheFull);
    assert_eq!(session.actions(now).fills, [((), full)]);
    // all were refused by now, but the other refusals are not reported yet
    session.fill(now, content, (FillId(2), ()), PATIENCE, ExtentSet::new);
    for request in others {
        let again = session.not_stored(now, content, request.range);
        assert_eq!(again, UncachedAction::StoreAgain);
        session.stored(content, request.range, false);
    }
    let again = fetch(&mut session, now, &file);
    let again: Vec<_> = again.iter().map(|request| request.range).collect();
    assert_eq!(again, [first.range]);
    session.stored(content, first.range, true);
    assert_eq!(session.actions(now).fills, [((), Ok(()))]);
}

#[test]
fn a_fill_is_not_ended_by_the_stores_of_an_earlier_one_that_was_cancelled() {
    let (now, file) = (Instant::now(), Content::new(1, 4 << 20));
    for is_cancelled in [true, false] {
        let (mut session, content) = session_of(now, &file, 1);
        session.fill(now, content, (FillId(1), ()), PATIENCE, ExtentSet::new);
        let came = fetch(&mut session, now, &file);
        assert!(came.len() > 1, "{came:?}");
        let (first, others) = came.split_first().unwrap();
        session.stored(content, first.range, false);
        if is_cancelled {
            session.cancel_fill(&content, FillId(1));
        }
        // the cache has lost the first range, and still stores the others
        session.fill(now, content, (FillId(2), ()), PATIENCE, ExtentSet::new);
        for request in others {
            session.stored(content, request.range, false);
        }
        let actions = session.actions(now);
        assert_eq!(actions.fills, []);
        let again: Vec<_> = actions.sends.into_iter().map(|it| it.request).collect();
        assert_eq!(again.len(), 1, "{again:?}");
        let request = &again[0];
        assert_eq!(request.range, first.range);
        session.accept(now, request, &verified(&file, request));
        session.stored(content, request.range, true);
        let fills = if is_cancelled { 1 } else { 2 };
        assert_eq!(session.actions(now).fills, vec![((), Ok(())); fills]);
    }
}

#[test]
fn a_fill_that_the_cache_refuses_twice_fails() {
    let (now, file) = (Instant::now(), Content::new(1, 128 << 10));
    let (mut session, content) = session_of(now, &file, 1);
    session.fill(now, content, (FillId(1), ()), PATIENCE, ExtentSet::new);
    let came = fetch(&mut session, now, &file);
    assert!(!came.is_empty());
    session.fill(now, content, (FillId(2), ()), PATIENCE, ExtentSet::new);
    for request in &came {
        let again = session.not_stored(now, content, request.range);
        assert_eq!(again, UncachedAction::StoreAgain);
    }
    assert_eq!(session.actions(now).fills, []);
    let refused = session.not_stored(now, content, came[0].range);
    assert_eq!(refused, UncachedAction::Held);
    let full = || Err(TransferError::CacheFull);
    assert_eq!(session.actions(now).fills, [((), full()), ((), full())]);
}

#[test]
fn a_fill_completes_when_its_last_part_was_requested_twice() {
    let (mut now, file) = (Instant::now(), Content::new(1, 128 << 10));
    let (mut session, content) = session_of(now, &file, 2);
    session.fill(now, content, (FillId(1), ()), PATIENCE, ExtentSet::new);
    let page = ByteRange::new(0, PAGE_BYTES);
    let (mut slow, mut twin) = (None, None);
    while twin.is_none() {
        for send in session.actions(now).sends {
            let request = send.request;
            match (request.range.start, slow) {
                (0, None) => slow = Some(request),
                (0, Some(_)) => twin = Some(request),
                _ => {
                    session.accept(now, &request, &verified(&file, &request));
                    session.stored(content, request.range, false);
                    session.read(now, Read::new(content, page, now + PATIENCE, ()));
                }
            }
        }
        // it sends little, so it is not silent
        let slow = slow.expect("the beginning is asked for");
        session.plan.arrived(now, slow.node, slow.id, 10);
        now += Duration::from_millis(10);
        session.plan.handle_timeout(now);
    }
    let (slow, twin) = (slow.unwrap(), twin.unwrap());
    assert!(slow.range.contains(&twin.range) && slow.range != twin.range);
    for request in [twin, slow] {
        session.accept(now, &request, &verified(&file, &request));
    }
    session.stored(content, twin.range, false);
    assert_eq!(session.actions(now).fills, []);
    session.stored(content, slow.range, true);
    assert_eq!(session.actions(now).fills, [((), Ok(()))]);
}
