//! Choice of peers if many are known, many are silent, or many readers wait for bytes that no peer
//! has.

use crate::plan::PeerNews;
use std::time::{Duration, Instant};

use super::bench::{PATIENCE, file_named, node};
use super::{MIB, listed};
use crate::plan::{HOLDERS_MAX, Offer, PEERS_MAX, Plan, PlanConfig, PlanEvent, RangeRequest};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use p2pfs_types::id::NodeId;

const SIZE: u64 = 64 * MIB;

/// Returns one of very many nodes.
fn numbered(number: usize) -> NodeId {
    let mut key = [0xee; 32];
    key[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId::new(key)
}

fn opened(now: Instant) -> (Plan, ContentKey) {
    let content = file_named(1, SIZE);
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.open(now, content, ExtentSet::new()).unwrap();
    (plan, content)
}

fn page_at(start: u64) -> ByteRange {
    ByteRange::at(start, PAGE_BYTES)
}

/// Returns all requests until only the passing of time brings more.
fn asked(plan: &mut Plan, now: Instant) -> Vec<RangeRequest> {
    let mut asked = Vec::new();
    loop {
        plan.handle_timeout(now);
        asked.extend(std::iter::from_fn(|| plan.poll_request(now)));
        if plan.poll_timeout().is_none_or(|at| at > now) {
            return asked;
        }
    }
}

#[test]
fn a_holder_is_asked_regardless_of_how_many_nodes_were_known_before() {
    let now = Instant::now();
    let (mut plan, content) = opened(now);
    let early = numbered(0);
    plan.record_holders(now, &content, &listed(&[early]));
    (1..PEERS_MAX)
        .for_each(|number| plan.record_peer_news(numbered(number), PeerNews::Gave { bytes: 1 }));
    let late = numbered(PEERS_MAX);
    plan.record_holders(now, &content, &listed(&[early, late]));
    for start in [0, MIB] {
        plan.demand(now, content, page_at(start), now + PATIENCE)
            .unwrap();
    }
    let nodes: Vec<_> = asked(&mut plan, now).iter().map(|it| it.node).collect();
    assert!(!nodes.is_empty() && plan.state.files.is_holder(&content, &late));
    plan.record_peer_news(early, PeerNews::Returned);
    assert!(
        plan.state
            .peers
            .rates(now)
            .iter()
            .any(|peer| peer.node == early),
        "it is in use"
    );
    assert!(
        plan.state
            .peers
            .rates(now)
            .iter()
            .any(|peer| peer.node == late)
    );
}

#[test]
fn unused_holders_take_no_statistics_from_used_ones() {
    let now = Instant::now();
    let mut plan = Plan::new(PlanConfig::default(), 1);
    let files = (PEERS_MAX / HOLDERS_MAX + 2) as u8;
    for number in 0..files {
        let content = file_named(number, SIZE);
        plan.open(now, content, ExtentSet::new()).unwrap();
        let first = usize::from(number) * HOLDERS_MAX;
        let holders: Vec<_> = (first..first + HOLDERS_MAX).map(numbered).collect();
        plan.record_holders(now, &content, &listed(&holders));
    }
    plan.record_peer_news(node(1), PeerNews::Gave { bytes: 1 });
    let known = plan.state.peers.rates(now);
    assert_eq!(known.len(), PEERS_MAX);
    assert!(known.iter().any(|peer| peer.node == numbered(0)));
}

#[test]
fn readers_of_available_files_are_served_despite_many_readers_of_unavailable_ones() {
    let now = Instant::now();
    let (mut plan, content) = opened(now);
    let offer = Offer {
        node: node(1),
        content,
        all: false,
        ranges: ExtentSet::of(ByteRange::new(SIZE / 2, SIZE)),
        load: 0,
    };
    assert!(plan.record_offer(now, &offer));
    for number in 0..1000 {
        let range = page_at(number * 2 * PAGE_BYTES);
        plan.demand(now, content, range, now + PATIENCE).unwrap();
    }
    let range = page_at(SIZE / 2);
    plan.demand(now, content, range, now + PATIENCE).unwrap();
    let ranges: Vec<_> = asked(&mut plan, now).iter().map(|it| it.range).collect();
    assert_eq!(ranges, [range]);
}

#[test]
fn an_unknown_holder_is_asked_beside_many_silent_ones() {
    let mut now = Instant::now();
    let (mut plan, content) = opened(now);
    let silent: Vec<_> = (1..=8).map(node).collect();
    plan.record_holders(now, &content, &listed(&silent));
    let start = now;
    for number in 0..silent.len() as u64 {
        plan.demand(now, content, page_at(number * MIB), now + PATIENCE)
            .unwrap();
        let _unanswered = asked(&mut plan, now);
        now += Duration::from_millis(300);
        let _unanswered = asked(&mut plan, now);
    }
    let lively = node(9);
    let all: Vec<_> = silent.iter().copied().chain([lively]).collect();
    plan.record_holders(now, &content, &listed(&all));
    let asked_at = loop {
        if asked(&mut plan, now).iter().any(|it| it.node == lively) {
            break now;
        }
        now = plan.poll_timeout().expect("more is to come").max(now);
        assert!(now - start < PATIENCE, "it was never asked");
    };
    let told = start + Duration::from_millis(300) * silent.len() as u32;
    assert!(
        asked_at - told <= Duration::from_secs(1),
        "{:?}",
        asked_at - told
    );
    while let Some(event) = plan.state.out.poll_event() {
        assert!(!matches!(event, PlanEvent::Failed(..)), "{event:?}");
    }
}
