//! Slow links, small caches, many readers. Limits count bytes in flight, and a busy node stays
//! responsive.

use std::time::Duration;

use super::bench::{Bench, PATIENCE, Reader};
use super::peers::SimPeer;
use super::{LAN, MIB, listed};
use crate::plan::{
    Decision, DemandId, IN_FLIGHT_MAX_BYTES, PIECE_MAX_BYTES, PlanEvent, patience::TURN_PATIENCE,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};

/// 2 Mbit/s and 256 kbit/s, in bytes per second.
const TWO_MBIT: f64 = 250e3;
const NARROW: f64 = 32e3;
/// Share of one of several nodes in 1 Mbit/s, in bytes per second.
const CROWDED: f64 = 20e3;

fn assert_all_read(bench: &Bench, what: &str) {
    for (number, reader) in bench.readers.iter().enumerate() {
        let errors = &reader.errors;
        assert!(errors.is_empty(), "{what}: reader {number}: {errors:?}");
        assert!(reader.done_at.is_some(), "{what}: reader {number} waits");
    }
}

#[test]
fn files_larger_than_the_cache_and_all_memory_are_read_to_their_end() {
    for (readers, size) in [(1, 160 * MIB), (4, 80 * MIB)] {
        let mut bench = Bench::new(31);
        bench.cache_bytes = 48 * MIB;
        bench.uncached_max_bytes = 32 * MIB;
        let peer = bench.peer(1, SimPeer::new(1, LAN));
        for number in 0..readers {
            let content = bench.file(number, size, &[peer]);
            bench.read(Reader::sequential(content, size));
        }
        bench.run(Duration::from_secs(120));
        assert_all_read(&bench, "a cache of 48 MiB");
        let all = u64::from(readers) * size;
        let asked = bench.requested_bytes();
        assert!(asked <= all * 11 / 10, "{asked} asked for {all}");
    }
}

#[test]
fn a_reader_of_bytes_that_are_lost_again_finally_gets_them() {
    let mut bench = Bench::new(32);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, 4 * MIB, &[peer]);
    let range = ByteRange::new(0, 2 * MIB);
    let deadline = bench.now + PATIENCE;
    let id = bench
        .plan
        .demand_ahead(bench.now, content, range, deadline)
        .unwrap();
    let first = bench.plan.poll_request(bench.now).unwrap();
    while bench.plan.poll_request(bench.now).is_some() {}
    assert!(bench.plan.answered(bench.now, first.id));
    bench.plan.mark_lost(&content, first.range);
    let again = bench
        .plan
        .poll_request(bench.now)
        .expect("it is asked again");
    assert_eq!(again.range.start, first.range.start);
    while let Some(event) = bench.plan.state.out.poll_event() {
        assert_ne!(event, PlanEvent::Ready(id));
    }
}

#[test]
fn eight_readers_of_one_slow_holder_on_eight_machines_get_no_error() {
    // each has an eighth of the link, and begins as if it had all of it
    let mut bench = Bench::new(34);
    let peer = bench.peer(1, SimPeer::new(20, TWO_MBIT / 8.0));
    let content = bench.file(1, 4 * MIB, &[peer]);
    bench.read(Reader::sequential(content, 4 * MIB));
    bench.run(Duration::from_secs(1200));
    assert_all_read(&bench, "an eighth of 2 Mbit/s");
    assert!(bench.requested_bytes() <= 4 * MIB * 11 / 10);
}

#[test]
fn a_small_file_does_not_wait_behind_another_readers_large_piece() {
    for moment in 0..20 {
        let mut bench = Bench::new(moment);
        let peer = bench.peer(1, SimPeer::new(20, CROWDED));
        let large = bench.file(1, MIB, &[peer]);
        let small = bench.file(2, 100, &[peer]);
        bench.read(Reader::sequential(large, MIB));
        bench.run(Duration::from_millis(8000 + moment * 300));
        let opens = bench.read(Reader::new(small, vec![ByteRange::new(0, 100)]));
        bench.run(Duration::from_secs(1200));
        assert_all_read(&bench, "a crowded link");
        // a piece of 16 KiB, while read-ahead has half of the link
        let (waited, most) = (bench.readers[opens].longest_wait, 2.0 * 16384.0 / CROWDED);
        assert!(
            waited.as_secs_f64() <= most + 0.5,
            "{waited:?} at {moment}, of {most} s"
        );
        assert!(bench.requested_bytes() <= MIB * 11 / 10);
    }
}

#[test]
fn a_read_that_receives_single_bytes_ends_only_when_they_stop() {
    let mut bench = Bench::new(35);
    let mut drip = SimPeer::new(20, 2e3);
    drip.pauses = vec![(Duration::from_secs(40), Duration::from_secs(1000))];
    let peer = bench.peer(1, drip);
    let content = bench.file(1, MIB, &[peer]);
    bench.read(Reader::new(content, vec![ByteRange::at(0, 128 << 10)]));
    bench.run(Duration::from_secs(1200));
    let reader = &bench.readers[0];
    assert_eq!(reader.errors.len(), 1);
    let wait = reader.longest_wait;
    let ceased = Duration::from_secs(40) + PATIENCE;
    assert!(
        wait >= ceased && wait <= ceased + Duration::from_secs(1),
        "{wait:?}"
    );
}

#[test]
fn a_slow_peer_beside_a_fast_one_costs_almost_nothing() {
    for rate in [125e3, 1e6] {
        for seed in 0..20 {
            let took = |slow: bool| {
                let mut bench = Bench::new(seed);
                let mut peers = vec![bench.peer(1, SimPeer::new(2, 25e6))];
                if slow {
                    peers.push(bench.peer(2, SimPeer::new(2, rate)));
                }
                let content = bench.file(1, 64 * MIB, &peers);
                bench.read(Reader::sequential(content, 64 * MIB));
                bench.run(Duration::from_secs(300));
                assert_all_read(&bench, "a slow peer beside a fast one");
                let asked = bench.requested_bytes();
                assert!(asked <= 64 * MIB * 11 / 10, "{asked}");
                (bench.now - bench.start).as_secs_f64()
            };
            let (alone, beside) = (took(false), took(true));
            assert!(beside <= alone * 1.1, "seed {seed}: {beside} for {alone}");
        }
    }
}

#[test]
fn a_fill_from_a_slow_and_a_fast_peer_ends_as_early_as_from_the_fast_one_alone() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        let peers = [
            bench.peer(1, SimPeer::new(2, 25e6)),
            bench.peer(2, SimPeer::new(2, 125e3)),
        ];
        let content = bench.file(1, 64 * MIB, &peers);
        bench.plan.fill(bench.now, content, PATIENCE);
        bench.run(Duration::from_secs(300));
        assert!(bench.events.contains(&PlanEvent::Filled(content)));
        let took = (bench.now - bench.start).as_secs_f64();
        assert!(took <= 64.0 * 1.048576 / 25.0 * 1.1, "seed {seed}: {took}");
    }
}

#[test]
fn holders_that_pause_and_resume_are_not_asked_for_everything_again() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        let pausing = |from_ms: u64| {
            let mut peer = SimPeer::new(2, 3e6);
            peer.pauses = (0..20)
                .map(|i| Duration::from_millis(from_ms + i * 3000))
                .map(|from| (from, Duration::from_millis(700)))
                .collect();
            peer
        };
        let peers = [bench.peer(1, pausing(500)), bench.peer(2, pausing(2000))];
        for number in 0..8 {
            let content = bench.file(number, 8 * MIB, &peers);
            bench.read(Reader::sequential(content, 8 * MIB));
        }
        bench.run(Duration::from_secs(300));
        assert_all_read(&bench, &format!("seed {seed}"));
        let moved = bench.moved_bytes();
        assert!(moved <= 64 * MIB * 12 / 10, "seed {seed}: {moved}");
    }
}

/// Holders with a rate limit that other nodes use too, and readers of one file each.
struct Limited {
    rate: f64,
    period_ms: u64,
    readers: u8,
    read_bytes: u64,
}

/// Maximum number of times that the two holders count as silent until their pauses are known. Without
/// that knowledge it is 18 to 90.
const SILENCES_MAX: usize = 8;

#[test]
fn holders_with_a_rate_limit_are_soon_not_called_silent_for_their_pauses() {
    let often = Limited {
        rate: 6e6,
        period_ms: 400,
        readers: 8,
        read_bytes: 4 << 10,
    };
    let seldom = Limited {
        rate: 20e6,
        period_ms: 1000,
        readers: 4,
        read_bytes: 128 << 10,
    };
    for (limited, seed) in [(&often, 0), (&often, 2), (&seldom, 0), (&seldom, 3)] {
        let mut bench = Bench::new(seed);
        bench.plan.state.out.set_traced(true);
        let holder = |from_ms: u64| {
            let mut peer = SimPeer::new(2, limited.rate);
            let pauses = (0..200).map(|round| from_ms + round * limited.period_ms);
            let length = Duration::from_millis(280);
            peer.pauses = pauses
                .map(|from| (Duration::from_millis(from), length))
                .collect();
            peer
        };
        let peers = [bench.peer(1, holder(100)), bench.peer(2, holder(300))];
        for number in 0..limited.readers {
            let content = bench.file(number, 200 * MIB, &peers);
            let reader = Reader::in_reads_of(limited.read_bytes, content, 200 * MIB);
            bench.read(reader);
        }
        bench.run(Duration::from_secs(40));
        let decisions = bench.plan.state.out.take_decisions();
        let silences = decisions.iter();
        let silences = silences.filter(|it| matches!(it, Decision::Silent(_)));
        assert!(silences.count() <= SILENCES_MAX, "seed {seed}");
        assert!(bench.readers.iter().all(|it| it.errors.is_empty()));
    }
}

#[test]
fn a_step_costs_as_much_as_it_touches_regardless_of_load() {
    let steps_for = |readers: u8| {
        let mut bench = Bench::new(36);
        let mut stalled = SimPeer::new(2, LAN);
        stalled.pauses = vec![(Duration::from_millis(30), Duration::from_secs(5))];
        let peers: Vec<_> = (1..=4).map(|i| bench.peer(i, stalled.clone())).collect();
        for number in 0..readers {
            let content = bench.file(number, 4 * MIB, &peers);
            bench.read(Reader::sequential(content, 4 * MIB));
        }
        bench.run(Duration::from_secs(4));
        let in_flight: u64 = peers.iter().map(|p| bench.in_flight_bytes(p)).sum();
        assert!(in_flight <= IN_FLIGHT_MAX_BYTES);
        let asked = bench.requests.len() as u64;
        assert!(asked <= 200 + 64 * u64::from(readers), "{asked} requests");
        bench.most_steps
    };
    let (few, many) = (steps_for(16), steps_for(240));
    assert!(few > 0 && many <= few * 2 + 200, "{few} steps, then {many}");
}

#[test]
fn no_request_crosses_a_piece() {
    let mut bench = Bench::new(39);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, 64 * MIB, &[peer]);
    // the reads and the rest between them begin and end within pieces
    let reads = (0..16).map(|at| ByteRange::at(at * 3 * MIB / 2 + PAGE_BYTES, 128 << 10));
    bench.read(Reader::new(content, reads.collect()));
    bench.run(Duration::from_secs(60));
    bench.readers.clear();
    bench.plan.fill(bench.now, content, PATIENCE);
    bench.run(Duration::from_secs(60));
    assert_eq!(bench.events.last(), Some(&PlanEvent::Filled(content)));
    let mut largest = 0;
    for request in &bench.requests {
        let range = request.range;
        assert_eq!(range, range.first_grain(PIECE_MAX_BYTES));
        largest = largest.max(range.len());
    }
    assert_eq!(largest, PIECE_MAX_BYTES);
}

#[test]
fn a_program_that_reads_in_order_gets_each_read_from_one_answer() {
    let mut bench = Bench::new(40);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let size_bytes = 64 * MIB;
    let content = bench.file(1, size_bytes, &[peer]);
    // the kernel's requests: its first window, then whole pieces
    let first = ByteRange::new(0, 512 << 10);
    let pieces = (0..63).map(|piece| ByteRange::at(first.end + piece * MIB, MIB));
    let reads: Vec<_> = std::iter::once(first).chain(pieces).collect();
    bench.read(Reader::new(content, reads.clone()));
    bench.run(Duration::from_secs(60));
    assert_eq!(bench.readers[0].bytes_read(), first.end + 63 * MIB);
    let is_in_one = |read: &&ByteRange| {
        let mut requests = bench.requests.iter();
        requests.any(|request| request.range.intersection(read) == **read)
    };
    // at first, the link is not known, and its pieces are small
    let joined = reads.iter().skip(16).filter(|read| !is_in_one(read));
    assert_eq!(joined.count(), 0);
}

#[test]
fn a_request_that_another_peer_would_not_speed_up_is_not_hedged() {
    let mut bench = Bench::new(36);
    // one piece takes longer than the maximum wait before a hedge is considered
    let peers = [1, 2].map(|number| bench.peer(number, SimPeer::new(5, TWO_MBIT / 2.0)));
    let content = bench.file(1, 2 * MIB, &peers);
    bench.read(Reader::sequential(content, 2 * MIB));
    bench.run(Duration::from_secs(120));
    assert_all_read(&bench, "two slow holders");
    let asked = bench.requested_bytes();
    assert!(asked <= 2 * MIB * 11 / 10, "{asked} asked for");
}

#[test]
fn a_request_that_another_peer_would_speed_up_much_is_hedged() {
    let mut bench = Bench::new(37);
    let slow = bench.peer(1, SimPeer::new(5, NARROW));
    let content = bench.file(1, 4 * MIB, &[slow]);
    bench.read(Reader::new(content, vec![ByteRange::new(0, MIB)]));
    bench.run(Duration::from_secs(2));
    let fast = bench.peer(2, SimPeer::new(5, LAN));
    bench
        .plan
        .record_holders(bench.now, &content, &listed(&[slow, fast]));
    bench.run(Duration::from_secs(20));
    assert_all_read(&bench, "one slow holder and one fast");
    let took = bench.readers[0].done_at.unwrap() - bench.start;
    // the slow one alone needs half a minute
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Enough large reads wait for one slow link to keep it busy for minutes. Each progresses in time.
#[test]
fn a_reader_that_waits_long_gets_a_part_before_its_deadline() {
    let mut bench = Bench::new(5);
    let peer = bench.peer(1, SimPeer::new(20, 64.0 * 1024.0));
    // read-ahead would go round all of them
    bench.plan.set_metered(true);
    for number in 0..16 {
        let content = bench.file(number, 3 * MIB, &[peer]);
        bench.read(Reader::new(content, vec![ByteRange::new(0, MIB)]));
    }
    bench.run(Duration::from_secs(600));
    assert_all_read(&bench, "a slow link");
}

/// A film is watched over a link slower than its bit rate, which leaves nothing for other files.
#[test]
fn a_fill_waits_as_long_as_its_holder_serves_readers() {
    let mut bench = Bench::new(7);
    let peer = bench.peer(1, SimPeer::new(20, 20.0 * 1024.0));
    let film = bench.file(1, 4 * MIB, &[peer]);
    let whole = bench.file(2, MIB / 4, &[peer]);
    bench.read(Reader::sequential(film, 4 * MIB));
    bench.run(Duration::from_secs(5));
    bench.plan.fill(bench.now, whole, PATIENCE);
    bench.run(Duration::from_secs(600));
    assert_all_read(&bench, "a film");
    let took = bench.readers[0].done_at.unwrap() - bench.start;
    assert!(took > PATIENCE * TURN_PATIENCE * 2, "{took:?}");
    bench.readers.clear();
    bench.run(Duration::from_secs(60));
    let fills =
        |event: &&PlanEvent| matches!(event, PlanEvent::Filled(_) | PlanEvent::FillFailed(..));
    let fills: Vec<_> = bench.events.iter().filter(fills).collect();
    assert_eq!(fills, [&PlanEvent::Filled(whole)]);
}

fn demanded(bench: &mut Bench, content: ContentKey, range: ByteRange) -> DemandId {
    bench.demand(content, range, Duration::from_secs(600))
}

/// Models the kernel's read-ahead in each file by two threads, and a later read of a page of
/// another file.
#[test]
fn files_in_demand_take_turns_on_a_slow_link() {
    const READ: u64 = 128 << 10;
    let mut bench = Bench::new(8);
    let peer = bench.peer(1, SimPeer::new(5, 1024.0 * 1024.0));
    // its slowness is known
    let known = bench.file(9, 4 * MIB, &[peer]);
    bench.read(Reader::sequential(known, 4 * MIB));
    bench.run(Duration::from_secs(30));
    bench.readers.clear();
    let files = [1, 2, 3, 4].map(|number| bench.file(number, 4 * MIB, &[peer]));
    let of_files = files.map(|content| {
        let ranges = (0..32).map(|at| ByteRange::at((at ^ 1) * READ, READ));
        let ids = ranges.map(|range| demanded(&mut bench, content, range));
        ids.collect::<Vec<_>>()
    });
    bench.run(Duration::from_secs(4));
    let small = bench.file(5, 2 * MIB, &[peer]);
    let page = demanded(&mut bench, small, ByteRange::at(MIB, PAGE_BYTES));
    bench.run(Duration::from_secs(30));
    let mut ready = [0; 4];
    let mut ready_before_page = None;
    for event in &bench.events {
        let PlanEvent::Ready(id) = event else {
            continue;
        };
        if *id == page {
            ready_before_page = Some(ready.iter().sum::<usize>());
        }
        for (count, ids) in ready.iter_mut().zip(&of_files) {
            *count += usize::from(ids.contains(id));
        }
        let [least, most] = [ready.iter().min(), ready.iter().max()];
        // a file with room for two requests sends two now and then
        assert!(most.unwrap() - least.unwrap() <= 4, "{ready:?}");
    }
    assert_eq!(ready, [32; 4]);
    for content in files {
        let of_file = bench.requests.iter().filter(|it| it.content == content);
        let starts = of_file.map(|request| request.range.start);
        assert!(starts.is_sorted(), "what is read first comes first");
    }
    // the pieces requested before, and one more of each file
    let before = ready_before_page.unwrap();
    assert!(before < 32 + 20, "{before}");
}
