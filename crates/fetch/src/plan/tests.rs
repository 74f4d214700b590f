//! Guarantees of the plan, tested in virtual time.

mod bench;
mod chaos;
mod held;
mod known;
mod links;
mod mute;
mod offers;
mod peers;
mod record;
mod silent;
mod traced;
mod trouble;
mod unanswered;

use crate::plan::{FilesToClose, FillEnd};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::PAGE_BYTES;

use super::*;
use bench::{Bench, PATIENCE, Reader, file_named};
use peers::SimPeer;

const MIB: u64 = 1 << 20;
const LAN: f64 = 100e6;

impl Plan {
    /// Adds a waiting reader with read-ahead.
    fn demand_ahead(
        &mut self,
        now: Instant,
        content: ContentKey,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<DemandId, PlanError> {
        self.record_read(now, &content, range);
        self.demand(now, content, range, deadline)
    }
}

fn rate_of(bench: &Bench, bytes: u64) -> f64 {
    bytes as f64 / (bench.now - bench.start).as_secs_f64()
}

/// Catalogue entries of nodes with all of a file.
fn listed(nodes: &[NodeId]) -> Vec<Listed> {
    let listed = |node: &NodeId| Listed {
        node: *node,
        sequence: 1,
    };
    nodes.iter().map(listed).collect()
}

fn page(number: u64) -> ByteRange {
    ByteRange::at(number * PAGE_BYTES, PAGE_BYTES)
}

/// Answers to requests, by their times of arrival.
type Answers = BTreeSet<(Instant, RequestId)>;

/// Advances time to the next answer or timer, and handles what is due then.
fn step(plan: &mut Plan, now: &mut Instant, answers: &mut Answers) {
    let answer = answers.first().map(|(at, _)| *at);
    let times = [answer, plan.poll_timeout()];
    let next = times.into_iter().flatten().min();
    *now = next.expect("something is to come").max(*now);
    plan.handle_timeout(*now);
    while let Some((at, id)) = answers.first().copied().filter(|it| it.0 <= *now) {
        answers.remove(&(at, id));
        plan.answered(*now, id);
    }
}

#[test]
fn a_sequential_reader_keeps_a_far_fast_peer_busy() {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let content = bench.file(1, 256 * MIB, &[peer]);
    bench.read(Reader::sequential(content, 256 * MIB));
    bench.run(Duration::from_secs(60));
    assert!(bench.readers[0].errors.is_empty());
    let rate = rate_of(&bench, 256 * MIB);
    assert!(rate >= 0.85 * LAN, "{rate:.0} bytes a second");
    assert!(bench.requested_bytes() <= 257 * MIB);
}

#[test]
fn closing_an_idle_fetch_keeps_the_ranges_of_waiting_readers() {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let read = bench.file(1, MIB, &[peer]);
    bench.read(Reader::sequential(read, MIB));
    bench.run(Duration::from_secs(5));
    assert!(bench.plan.state.files.is_open(&read));
    let waited_for = bench.file(2, 64 * MIB, &[peer]);
    bench.plan.fill(bench.now, waited_for, PATIENCE);
    bench.plan.close_files(FilesToClose::Idle);
    assert!(!bench.plan.state.files.is_open(&read) && bench.plan.state.files.is_open(&waited_for));
}

#[test]
fn a_full_cache_drops_fetches_without_readers() {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let [old, new] = [1, 2].map(|number| bench.file(number, MIB, &[peer]));
    bench.plan.close_files(FilesToClose::LongIdle {
        now: bench.now,
        kept: new,
    });
    assert!(
        bench.plan.state.files.is_open(&old),
        "it was used a moment ago"
    );
    let later = bench.now + Duration::from_secs(1);
    bench.plan.close_files(FilesToClose::LongIdle {
        now: later,
        kept: new,
    });
    assert!(!bench.plan.state.files.is_open(&old) && bench.plan.state.files.is_open(&new));
}

#[test]
fn a_fill_keeps_a_far_fast_peer_busy() {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let content = bench.file(1, 256 * MIB, &[peer]);
    bench.plan.fill(bench.now, content, PATIENCE);
    bench.run(Duration::from_secs(60));
    assert!(bench.events.contains(&PlanEvent::Filled(content)));
    let rate = rate_of(&bench, 256 * MIB);
    assert!(rate >= 0.85 * LAN, "{rate:.0} bytes a second");
    assert_eq!(bench.requested_bytes(), 256 * MIB);
}

#[test]
fn cancelling_a_fill_withdraws_what_has_not_begun_to_arrive() {
    let stopped = |read: bool| {
        let mut bench = Bench::new(1);
        let peer = bench.peer(1, SimPeer::new(20, LAN));
        let content = bench.file(1, 256 * MIB, &[peer]);
        if read {
            bench.read(Reader::sequential(content, 256 * MIB));
        }
        bench.plan.fill(bench.now, content, PATIENCE);
        bench.run(Duration::from_millis(500));
        let before = bench.plan.state.requests.bytes();
        bench.plan.end_fill(&content, FillEnd::Abandoned);
        (before, bench.plan.state.requests.bytes())
    };
    let (before, after) = stopped(false);
    assert!(before > 2 * MIB && after <= MIB, "{before} {after}");
    let (before, after) = stopped(true);
    assert_eq!(before, after, "a reader goes on");
}

#[test]
fn four_holders_give_nearly_the_sum_of_their_bandwidth() {
    for sequential in [false, true] {
        let mut bench = Bench::new(3);
        let peers: Vec<_> = (1..=4)
            .map(|i| bench.peer(i, SimPeer::new(2, 25e6)))
            .collect();
        let content = bench.file(1, 512 * MIB, &peers);
        if sequential {
            let _reader = bench.read(Reader::sequential(content, 512 * MIB));
        } else {
            bench.plan.fill(bench.now, content, PATIENCE)
        }
        bench.run(Duration::from_secs(60));
        let rate = rate_of(&bench, 512 * MIB);
        assert!(
            rate >= 90e6,
            "{rate:.0} bytes a second, sequential: {sequential}"
        );
    }
}

#[test]
fn random_pages_request_hardly_more_than_themselves() {
    let mut bench = Bench::new(4);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, 256 * MIB, &[peer]);
    let mut rng = StdRng::seed_from_u64(4);
    let reads = (0..5000)
        .map(|_| page(rng.random_range(0..65536)))
        .collect();
    bench.read(Reader::new(content, reads));
    bench.run(Duration::from_secs(60));
    assert!(bench.requested_bytes() <= 5000 * PAGE_BYTES * 11 / 10);
    assert!(
        bench
            .requests
            .iter()
            .filter(|r| r.lane == Lane::Urgent)
            .count()
            > 4000
    );
}

#[test]
fn many_readers_of_one_range_share_one_request() {
    let mut bench = Bench::new(5);
    let peer = bench.peer(1, SimPeer::new(20, LAN));
    let content = bench.file(1, MIB, &[peer]);
    for _ in 0..64 {
        bench.read(Reader::new(content, vec![ByteRange::at(262144, 131072)]));
    }
    bench.run(Duration::from_secs(5));
    assert!(
        bench
            .readers
            .iter()
            .all(|r| r.errors.is_empty() && r.done_at.is_some())
    );
    assert_eq!(bench.requested_bytes(), 131072);
}

#[test]
fn partial_holders_together_give_the_whole_file() {
    let mut bench = Bench::new(10);
    let size = 64 * MIB;
    for (number, offset) in [(1u8, 0), (2, 1), (3, 2)] {
        let runs = (0..size / MIB).filter(|i| i % 3 == offset);
        let ranges: ExtentSet = runs.map(|i| ByteRange::at(i * MIB, MIB)).collect();
        bench.peer(
            number,
            SimPeer {
                offers: Some(ranges),
                ..SimPeer::new(2, LAN)
            },
        );
    }
    let content = bench.file(1, size, &[]);
    bench.plan.fill(bench.now, content, PATIENCE);
    bench.run(Duration::from_secs(60));
    assert!(
        bench.events.contains(&PlanEvent::Filled(content)),
        "{:?}",
        bench.events
    );
    assert!(bench.peers.values().all(|p| p.served_bytes >= 15 * MIB));
}

#[test]
fn two_readers_of_two_files_get_equal_shares_of_one_peer() {
    let mut bench = Bench::new(11);
    let peer = bench.peer(1, SimPeer::new(2, 25e6));
    let contents = [
        bench.file(1, 256 * MIB, &[peer]),
        bench.file(2, 256 * MIB, &[peer]),
    ];
    for content in contents {
        bench.read(Reader::sequential(content, 256 * MIB));
    }
    bench.run(Duration::from_secs(6));
    let [a, b] = [0, 1].map(|i| bench.readers[i].bytes_read() as f64);
    assert!(a / b > 0.7 && a / b < 1.4, "{a} against {b}");
}

#[test]
fn a_demand_does_not_wait_behind_bulk() {
    let mut bench = Bench::new(12);
    let peer = bench.peer(1, SimPeer::new(1, 25e6));
    let big = bench.file(1, 256 * MIB, &[peer]);
    let small = bench.file(2, MIB, &[peer]);
    bench.plan.fill(bench.now, big, PATIENCE);
    bench.run(Duration::from_secs(1));
    bench.read(Reader::new(small, vec![page(1), page(77), page(130)]));
    bench.run(Duration::from_secs(1));
    assert!(bench.readers[0].longest_wait < Duration::from_millis(20));
}

#[test]
fn nothing_more_is_requested_for_a_reader_that_left() {
    let mut bench = Bench::new(15);
    let peer = bench.peer(1, SimPeer::new(20, 1e6));
    let content = bench.file(1, 64 * MIB, &[peer]);
    for i in 0..4 {
        bench
            .plan
            .record_read(bench.now, &content, ByteRange::at(i * 131072, 131072));
    }
    let range = ByteRange::at(4 * 131072, 131072);
    let id = bench
        .plan
        .demand_ahead(bench.now, content, range, bench.now + PATIENCE)
        .unwrap();
    bench.plan.cancel(id);
    assert_eq!(bench.plan.poll_request(bench.now), None);
    assert_eq!(bench.plan.state.out.poll_event(), None);
}

#[test]
fn nothing_more_is_requested_for_a_reader_that_failed() {
    let mut bench = Bench::new(15);
    let peer = bench.peer(1, SimPeer::new(20, 1e6));
    let content = bench.file(1, 64 * MIB, &[]);
    for i in 0..4 {
        bench
            .plan
            .record_read(bench.now, &content, ByteRange::at(i * 131072, 131072));
    }
    let range = ByteRange::at(4 * 131072, 131072);
    let deadline = bench.now + PATIENCE;
    let demand = bench.plan.demand_ahead(bench.now, content, range, deadline);
    let id = demand.unwrap();
    let has_failed = |bench: &mut Bench| {
        let event = std::iter::from_fn(|| bench.plan.state.out.poll_event());
        event
            .fuse()
            .any(|event| matches!(event, PlanEvent::Failed(failed, _) if failed == id))
    };
    while !has_failed(&mut bench) {
        bench.now = bench.plan.poll_timeout().unwrap().max(bench.now);
        bench.plan.handle_timeout(bench.now);
        assert_eq!(bench.plan.poll_request(bench.now), None);
    }
    let (now, holders) = (bench.now, listed(&[peer]));
    bench.plan.record_holders(now, &content, &holders);
    assert_eq!(bench.plan.poll_request(now), None);
}

#[test]
fn a_short_read_asks_only_a_known_holder_and_a_longer_one_asks_others() {
    let mut bench = Bench::new(15);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, 64 * MIB, &[peer]);
    let has_asked = |bench: &Bench| bench.events.contains(&PlanEvent::Wanted(content));
    bench.read(Reader::new(content, vec![page(700)]));
    bench.run(Duration::from_secs(1));
    assert!(bench.readers[0].done_at.is_some() && !has_asked(&bench));
    bench.read(Reader::sequential(content, 16 * MIB));
    bench.run(Duration::from_secs(1));
    assert!(has_asked(&bench));
}

#[test]
fn time_in_which_this_node_was_suspended_counts_for_no_reader() {
    let mut bench = Bench::new(15);
    let peer = bench.peer(1, SimPeer::new(20, 1e6));
    let content = bench.file(1, 64 * MIB, &[peer]);
    let (range, deadline) = (page(7), bench.now + PATIENCE);
    let demand = bench.plan.demand_ahead(bench.now, content, range, deadline);
    let id = demand.unwrap();
    while bench.plan.poll_request(bench.now).is_some() {}
    // the process is stopped for longer than the reader's patience
    let woken = bench.now + PATIENCE + PATIENCE / 4;
    bench
        .plan
        .patience
        .record_standstill(woken, PATIENCE + PATIENCE / 4);
    assert!(bench.plan.waits_until(woken, id) > Some(woken));
    let has_failed = |plan: &mut Plan| {
        let mut events = std::iter::from_fn(|| plan.state.out.poll_event());
        events.any(|event| matches!(event, PlanEvent::Failed(..)))
    };
    bench.plan.handle_timeout(woken);
    assert!(!has_failed(&mut bench.plan));
    // if nothing arrives afterwards either, the wait ends
    let end = woken + PATIENCE;
    bench.plan.handle_timeout(end);
    assert!(has_failed(&mut bench.plan));
}

#[test]
fn an_unused_fetch_is_forgotten() {
    let mut bench = Bench::new(16);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, MIB, &[peer]);
    bench.read(Reader::sequential(content, MIB));
    bench.run(Duration::from_secs(5));
    bench.readers.clear();
    bench.run(Duration::from_secs(70));
    assert!(bench.events.contains(&PlanEvent::Closed(content)));
    assert!(!bench.plan.state.files.is_open(&content) && bench.plan.state.out.timers.is_empty());
}

#[test]
fn the_numbers_of_fetches_and_waits_are_bounded() {
    let mut bench = Bench::new(17);
    let content = bench.file(1, 1 << 40, &[]);
    for i in 0..DEMANDS_MAX as u64 {
        let at = page(i * 64);
        bench
            .plan
            .demand_ahead(bench.now, content, at, bench.now + PATIENCE)
            .unwrap();
    }
    let one_more = bench
        .plan
        .demand_ahead(bench.now, content, page(1), bench.now + PATIENCE);
    assert_eq!(one_more, Err(PlanError::TooMany));
    // bytes that are here need no wait
    let (here, byte) = (
        ContentKey::new(ContentHash::of(b"here"), 1),
        ByteRange::new(0, 1),
    );
    let present = ExtentSet::of(byte);
    bench.plan.open(bench.now, here, present).unwrap();
    let read = bench.plan.demand(bench.now, here, byte, bench.now);
    assert!(read.is_ok());
    let named = |number: usize| ContentKey::new(ContentHash::of(&number.to_le_bytes()), 1);
    for number in 0..2 * FETCHES_KEPT_MAX {
        let name = named(number);
        bench.plan.open(bench.now, name, ExtentSet::new()).unwrap();
        assert!(bench.plan.state.files.contents().len() <= FETCHES_KEPT_MAX);
    }
    assert!(
        bench.plan.state.files.is_open(&content),
        "a file that readers wait for stays"
    );
    let mut plan = Plan::new(PlanConfig::default(), 1);
    for number in 0..FETCHES_MAX {
        plan.open(bench.now, named(number), ExtentSet::new())
            .unwrap();
        plan.fill(bench.now, named(number), PATIENCE);
    }
    let one_more = |plan: &mut Plan| plan.open(bench.now, named(FETCHES_MAX), ExtentSet::new());
    assert_eq!(one_more(&mut plan), Err(PlanError::TooMany));
    plan.end_fill(&named(7), FillEnd::Stored);
    assert_eq!(one_more(&mut plan), Ok(()));
}

#[test]
fn bytes_lost_by_the_cache_are_requested_again() {
    let mut bench = Bench::new(18);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, MIB, &[peer]);
    bench.read(Reader::new(content, vec![page(5)]));
    bench.run(Duration::from_secs(1));
    bench.plan.mark_lost(&content, page(5));
    bench.read(Reader::new(content, vec![page(5)]));
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.requests.len(), 2);
    assert!(bench.readers[1].done_at.is_some());
}

#[test]
fn five_hundred_concurrent_readers_progress_within_the_memory_limit() {
    let mut bench = Bench::new(20);
    let peers: Vec<_> = (1..=8)
        .map(|i| bench.peer(i, SimPeer::new(2, LAN)))
        .collect();
    for number in 0..250u8 {
        let content = bench.file(number, 2 * MIB, &peers);
        bench.read(Reader::sequential(content, 2 * MIB));
        bench.read(Reader::sequential(content, 2 * MIB));
    }
    bench.run(Duration::from_secs(60));
    assert!(
        bench
            .readers
            .iter()
            .all(|r| r.errors.is_empty() && r.done_at.is_some())
    );
    assert!(bench.requested_bytes() <= 250 * 2 * MIB * 11 / 10);
}

#[test]
fn the_total_read_ahead_of_many_readers_is_bounded() {
    let mut bench = Bench::new(23);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let contents: Vec<_> = (0..200)
        .map(|number| bench.file(number, 64 * MIB, &[peer]))
        .collect();
    for step in 0..100 {
        for content in &contents {
            let range = ByteRange::at(step * 131072, 131072);
            bench.plan.record_read(bench.now, content, range);
        }
    }
    let ahead = |bench: &Bench| -> u64 {
        let limit = bench.plan.state.read_ahead.of_each();
        let fetches = contents
            .iter()
            .map(|content| bench.plan.state.files.get(content).unwrap());
        let ranges = fetches.flat_map(|fetch| fetch.streams.ahead(limit));
        ranges.map(|ahead| ahead.range.len()).sum()
    };
    let all = ahead(&bench);
    assert!(all <= super::AHEAD_OF_ALL_MAX_BYTES, "{all}");
    assert!(all >= super::AHEAD_OF_ALL_MAX_BYTES / 2, "{all}");
    // a smaller bound also applies to read-ahead planned before it
    bench.plan.state.read_ahead.limit(Some(16 * MIB));
    assert!(ahead(&bench) <= 16 * MIB);
    // a reader that leaves frees its share for the others
    bench.plan.state.read_ahead.limit(None);
    for content in &contents[1..] {
        bench.plan.close_files(FilesToClose::Disproven(*content));
    }
    assert_eq!(
        bench.plan.state.read_ahead.of_each(),
        super::AHEAD_MAX_BYTES
    );
}

#[test]
fn without_cache_room_the_total_read_ahead_is_bounded() {
    let mut bench = Bench::new(22);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, 1 << 30, &[peer]);
    bench.plan.state.read_ahead.limit(Some(4 * MIB));
    for step in 0..200 {
        for reader in 0..4 {
            let range = ByteRange::at(reader * (200 * MIB) + step * 131072, 131072);
            bench.plan.record_read(bench.now, &content, range);
        }
    }
    let ahead = bench
        .plan
        .state
        .files
        .get(&content)
        .unwrap()
        .streams
        .ahead(MIB);
    assert!(ahead.iter().map(|it| it.range.len()).sum::<u64>() <= 4 * MIB);
    assert_eq!(ahead.len(), 4);
}

#[test]
fn a_metered_network_fetches_only_reads_and_fills() {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(5, LAN));
    let content = bench.file(1, 64 * MIB, &[peer]);
    bench.read(Reader::sequential(content, 4 * MIB));
    bench.run(Duration::from_secs(60));
    let before = bench.requested_bytes();
    assert!(before > 6 * MIB, "a reader is kept ahead of: {before}");
    bench.plan.set_metered(true);
    let read = bench.file(2, 64 * MIB, &[peer]);
    bench.read(Reader::sequential(read, 8 * MIB));
    let whole = bench.file(3, 16 * MIB, &[peer]);
    bench.plan.fill(bench.now, whole, PATIENCE);
    bench.run(Duration::from_secs(60));
    assert!(
        bench
            .readers
            .iter()
            .all(|it| it.errors.is_empty() && it.done_at.is_some())
    );
    assert!(bench.events.contains(&PlanEvent::Filled(whole)));
    assert_eq!(bench.requested_bytes(), before + 8 * MIB + 16 * MIB);
    bench.plan.set_metered(false);
    let again = bench.file(4, 64 * MIB, &[peer]);
    bench.read(Reader::sequential(again, 4 * MIB));
    bench.run(Duration::from_secs(60));
    assert!(bench.requested_bytes() > before + 24 * MIB + 6 * MIB);
}

#[test]
fn a_network_that_becomes_metered_stops_read_ahead() {
    let mut bench = Bench::new(2);
    let peer = bench.peer(1, SimPeer::new(5, 1e6));
    let content = bench.file(1, 64 * MIB, &[peer]);
    bench.read(Reader::sequential(content, 64 * MIB));
    bench.run(Duration::from_secs(5));
    let asked = bench.requested_bytes();
    bench.plan.set_metered(true);
    let read_before = bench.readers[0].bytes_read();
    bench.run(Duration::from_secs(20));
    let read = bench.readers[0].bytes_read();
    assert!(read > read_before, "it reads on");
    // requests sent before, and one waiting read
    assert!(bench.requested_bytes() <= asked.max(read + 128 * 1024));
}
