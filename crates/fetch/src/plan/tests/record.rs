//! Knowledge of a plan about its peers from an earlier run.

use crate::plan::PeerNews;
use std::time::{Duration, Instant};

use super::bench::{Bench, Reader, file_named, node};
use super::peers::SimPeer;
use super::{LAN, MIB, listed};
use crate::plan::{
    Offer, PEER_RECORDS_MAX, PEERS_MAX, PeerRate, PeerRecord, Plan, PlanConfig, SHUN,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn slow() -> SimPeer {
    SimPeer::new(300, 1e6)
}

fn quick() -> SimPeer {
    SimPeer::new(1, LAN)
}

fn record(number: u8, latency_ms: u64, rate: f64) -> PeerRecord {
    PeerRecord {
        node: node(number),
        age: Duration::ZERO,
        latency: Some(Duration::from_millis(latency_ms)),
        rate_bytes_per_s: Some(rate),
        failures: 0,
        lies: 0,
        lied_ago: None,
    }
}

/// Returns a plan that begins with these records.
fn recalled(records: &[PeerRecord], now: Instant) -> Plan {
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.recall(now, records);
    plan
}

fn rate_of(plan: &Plan, now: Instant, number: u8) -> Option<PeerRate> {
    plan.state
        .peers
        .rates(now)
        .into_iter()
        .find(|it| it.node == node(number))
}

/// Returns the records of a run that read from each of two holders.
fn learnt() -> Vec<PeerRecord> {
    let mut bench = Bench::new(0);
    for (number, peer) in [(1, slow()), (2, quick())] {
        let peer = bench.peer(number, peer);
        let content = bench.file(number, 2 * MIB, &[peer]);
        bench.read(Reader::sequential(content, 2 * MIB));
    }
    bench.run(Duration::from_secs(60));
    bench.plan.state.peers.records(bench.now)
}

#[test]
fn after_a_restart_the_fast_holder_is_asked_first() {
    let records = learnt();
    for seed in 0..50 {
        let mut bench = Bench::new(seed);
        bench.plan.recall(bench.now, &records);
        let peers = [bench.peer(1, slow()), bench.peer(2, quick())];
        // the cluster reports every present node as returned after a start
        peers
            .iter()
            .for_each(|peer| bench.plan.record_peer_news(*peer, PeerNews::Returned));
        let content = bench.file(1, 8 * MIB, &peers);
        bench.read(Reader::sequential(content, 8 * MIB));
        bench.run(Duration::from_secs(60));
        assert!(bench.readers[0].errors.is_empty(), "seed {seed}");
        assert_eq!(bench.requests[0].node, node(2), "seed {seed}");
    }
}

#[test]
fn an_old_record_is_overridden_by_the_first_answer() {
    let mut bench = Bench::new(3);
    // each is now as fast as the other was
    bench.plan.recall(bench.now, &learnt());
    let peers = [bench.peer(1, quick()), bench.peer(2, slow())];
    let content = bench.file(1, 64 * MIB, &peers);
    bench.read(Reader::sequential(content, 64 * MIB));
    bench.run(Duration::from_secs(60));
    assert!(bench.readers[0].errors.is_empty());
    let first = &bench.plan.state.peers.rates(bench.now)[0];
    assert_eq!(first.node, node(1));
    assert!(first.latency < Some(Duration::from_millis(100)));
}

#[test]
fn older_records_weigh_less() {
    let now = Instant::now();
    let latency = |age: Duration| {
        let old = PeerRecord {
            age,
            ..record(1, 2000, 1e3)
        };
        rate_of(&recalled(&[old], now), now, 1).unwrap().latency
    };
    let fresh = latency(Duration::ZERO);
    assert_eq!(fresh, Some(Duration::from_secs(2)));
    assert!(latency(DAY) < fresh && latency(DAY * 3) < latency(DAY));
    assert_eq!(latency(DAY * 7), None);
    assert_eq!(latency(Duration::MAX), None);
}

#[test]
fn a_liar_stays_excluded_over_a_restart_for_the_rest_of_its_time() {
    let mut now = Instant::now();
    let content = file_named(1, MIB);
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.record_peer_news(node(1), PeerNews::Lied { now, content });
    now += Duration::from_secs(100);
    let mut records = plan.state.peers.records(now);
    // the process was away for the same time
    for record in &mut records {
        record.age += Duration::from_secs(100);
        record.lied_ago = record.lied_ago.map(|ago| ago + Duration::from_secs(100));
    }
    let mut again = recalled(&records, now);
    again.record_holders(now, &content, &listed(&[node(1)]));
    let liar = rate_of(&again, now, 1).unwrap();
    assert!(liar.shunned && liar.lies == 1);
    let left = SHUN - Duration::from_secs(200);
    assert_eq!(again.poll_timeout(), Some(now + left));
    let offer = Offer {
        node: node(1),
        content,
        all: true,
        ranges: Default::default(),
        load: 0,
    };
    again.open(now, content, Default::default()).unwrap();
    assert!(!again.record_offer(now, &offer), "nothing it says is heard");
    let later = now + left;
    assert!(!rate_of(&again, later, 1).unwrap().shunned);
    assert_eq!(rate_of(&again, later, 1).unwrap().lies, 1);
}

#[test]
fn a_lie_is_remembered_longer_than_statistics_but_expires() {
    let now = Instant::now();
    let lied = |ago: Duration| {
        let liar = PeerRecord {
            age: ago,
            lies: 2,
            lied_ago: Some(ago),
            ..record(1, 5, 1e6)
        };
        rate_of(&recalled(&[liar], now), now, 1).unwrap()
    };
    assert_eq!((lied(DAY * 8).lies, lied(DAY * 8).latency), (2, None));
    assert_eq!(lied(DAY * 30).lies, 0);
}

#[test]
fn records_are_bounded_and_the_oldest_honest_ones_are_dropped() {
    let now = Instant::now();
    let id = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        p2pfs_types::id::NodeId::new(key)
    };
    let many: Vec<_> = (0..PEERS_MAX)
        .map(|number| PeerRecord {
            node: id(number),
            age: Duration::from_secs(number as u64),
            ..record(1, 5, 1e6)
        })
        .collect();
    let mut plan = Plan::new(PlanConfig::default(), 1);
    plan.recall(now, &many[PEERS_MAX / 2..]);
    plan.recall(now, &many[..PEERS_MAX / 2]);
    plan.record_peer_news(
        id(PEERS_MAX - 1),
        PeerNews::Lied {
            now,
            content: file_named(1, MIB),
        },
    );
    let kept = plan.state.peers.records(now);
    assert_eq!(kept.len(), PEER_RECORDS_MAX);
    assert_eq!(kept[0].node, id(PEERS_MAX - 1));
    assert!(
        kept[1..]
            .iter()
            .zip(&many)
            .all(|(kept, young)| kept.node == young.node)
    );
}
