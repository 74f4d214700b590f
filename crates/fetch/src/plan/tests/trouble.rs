//! Peers that die, lie, stall, lose the file or are merely slow.

use crate::plan::PeerNews;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bench::{Bench, PATIENCE, Reader, file_named, node};
use super::peers::{Death, SimPeer};
use super::{LAN, MIB, listed, page};
use crate::plan::{Failure, Offer, Plan, PlanConfig, PlanError, PlanEvent};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};

/// Handles the timers that are due. Returns whether a demand failed.
fn fails_now(bench: &mut Bench) -> bool {
    bench.plan.handle_timeout(bench.now);
    let mut events = std::iter::from_fn(|| bench.plan.state.out.poll_event());
    events.any(|event| matches!(event, PlanEvent::Failed(..)))
}

#[test]
fn a_reset_connection_costs_under_half_a_second_when_another_holder_exists() {
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        let dying = SimPeer::new(1, LAN).dying(100 + seed * 3, Death::Reset);
        let peers = [bench.peer(1, dying), bench.peer(2, SimPeer::new(1, LAN))];
        let content = bench.file(1, 64 * MIB, &peers);
        bench.read(Reader::sequential(content, 64 * MIB));
        bench.run(Duration::from_secs(60));
        let reader = &bench.readers[0];
        assert!(
            reader.errors.is_empty() && reader.done_at.is_some(),
            "seed {seed}"
        );
        assert!(
            reader.longest_wait <= Duration::from_millis(500),
            "seed {seed}"
        );
    }
}

#[test]
fn a_silent_holder_costs_under_two_seconds_when_another_holder_exists() {
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        let dying = SimPeer::new(1, LAN).dying(100 + seed * 3, Death::Silence);
        let peers = [bench.peer(1, dying), bench.peer(2, SimPeer::new(1, LAN))];
        let content = bench.file(1, 64 * MIB, &peers);
        bench.read(Reader::sequential(content, 64 * MIB));
        bench.run(Duration::from_secs(60));
        let reader = &bench.readers[0];
        assert!(
            reader.errors.is_empty() && reader.done_at.is_some(),
            "seed {seed}"
        );
        let wait = reader.longest_wait;
        assert!(wait <= Duration::from_secs(2), "seed {seed}: {wait:?}");
        let took = bench.now - bench.start;
        assert!(took < Duration::from_secs(5), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_liar_is_excluded_at_once_and_another_holder_is_asked() {
    let mut runs_with_liar = 0;
    for seed in 0..50 {
        let mut bench = Bench::new(seed);
        let liar = SimPeer {
            lies: true,
            ..SimPeer::new(1, LAN)
        };
        let peers = [bench.peer(1, liar), bench.peer(2, SimPeer::new(1, LAN))];
        let content = bench.file(1, 16 * MIB, &peers);
        bench.read(Reader::sequential(content, 16 * MIB));
        bench.run(Duration::from_secs(60));
        assert!(bench.readers[0].errors.is_empty(), "seed {seed}");
        let told = bench
            .events
            .iter()
            .filter(|e| matches!(e, PlanEvent::Liar(..)))
            .count();
        assert!(told <= 1);
        let shunned = bench
            .plan
            .state
            .peers
            .rates(bench.now)
            .iter()
            .any(|p| p.shunned);
        assert_eq!(shunned, told == 1);
        runs_with_liar += told;
    }
    assert!(runs_with_liar > 0, "the liar was never asked");
}

#[test]
fn a_lone_liar_causes_an_error_by_the_deadline() {
    let mut bench = Bench::new(6);
    let liar = bench.peer(
        1,
        SimPeer {
            lies: true,
            ..SimPeer::new(1, LAN)
        },
    );
    let content = bench.file(1, MIB, &[liar]);
    bench.read(Reader::new(content, vec![page(0)]));
    bench.run(Duration::from_secs(60));
    assert_eq!(bench.readers[0].errors, [PlanError::OnlyLiars]);
    let wait = bench.readers[0].longest_wait;
    assert!(wait >= PATIENCE && wait <= PATIENCE + Duration::from_millis(100));
    assert_eq!(bench.requests.len(), 1);
}

#[test]
fn without_a_holder_a_read_fails_at_its_deadline_and_repeats_fail_at_once() {
    let mut bench = Bench::new(7);
    let content = bench.file(1, MIB, &[]);
    let mut reads = vec![ByteRange::at(0, 131072)];
    reads.extend((0..32).map(page));
    bench.read(Reader::new(content, reads));
    bench.run(Duration::from_secs(60));
    assert_eq!(bench.readers[0].errors, vec![PlanError::NoHolder; 33]);
    assert_eq!(bench.now - bench.start, PATIENCE);
    let gets = bench
        .events
        .iter()
        .filter(|e| matches!(e, PlanEvent::Wanted(_)))
        .count();
    assert!((3..12).contains(&gets), "{gets} broadcasts");
}

#[test]
fn a_holder_that_offers_late_is_asked_at_once() {
    let mut bench = Bench::new(8);
    let content = bench.file(1, MIB, &[]);
    bench.read(Reader::new(content, vec![page(3), page(9)]));
    bench.run(Duration::from_secs(3));
    let ranges = ExtentSet::of(ByteRange::new(0, MIB));
    let late = bench.peer(
        1,
        SimPeer {
            offers: Some(ranges),
            ..SimPeer::new(1, LAN)
        },
    );
    bench.offer(late, content);
    bench.run(Duration::from_millis(100));
    assert!(bench.readers[0].done_at.is_some() && bench.readers[0].errors.is_empty());
}

#[test]
fn an_unsolicited_offer_or_one_of_another_size_is_ignored() {
    let mut bench = Bench::new(9);
    let content = bench.file(1, MIB, &[]);
    let offer = Offer {
        node: node(1),
        content: file_named(1, 7),
        all: true,
        ranges: ExtentSet::new(),
        load: 0,
    };
    assert!(!bench.plan.record_offer(bench.now, &offer));
    let unasked = Offer {
        content: file_named(9, MIB),
        ..offer.clone()
    };
    assert!(!bench.plan.record_offer(bench.now, &unasked));
    assert!(
        bench
            .plan
            .record_offer(bench.now, &Offer { content, ..offer })
    );
}

#[test]
fn a_slow_responder_is_hedged_within_half_a_second() {
    let mut bench = Bench::new(13);
    let peers = [
        bench.peer(1, SimPeer::new(4000, LAN)),
        bench.peer(2, SimPeer::new(1, LAN)),
    ];
    let content = bench.file(1, 64 * MIB, &peers);
    let mut rng = StdRng::seed_from_u64(13);
    let reads = (0..500).map(|_| page(rng.random_range(0..16384))).collect();
    bench.read(Reader::new(content, reads));
    bench.run(Duration::from_secs(60));
    assert!(bench.readers[0].longest_wait <= Duration::from_millis(510));
    assert!(bench.requested_bytes() <= 500 * PAGE_BYTES * 12 / 10);
}

#[test]
fn a_file_gone_at_one_holder_is_requested_from_the_next() {
    let mut bench = Bench::new(14);
    let gone = SimPeer {
        gone: true,
        ..SimPeer::new(1, LAN)
    };
    let peers = [bench.peer(1, gone), bench.peer(2, SimPeer::new(1, LAN))];
    let content = bench.file(1, 4 * MIB, &peers);
    bench.read(Reader::sequential(content, 4 * MIB));
    bench.run(Duration::from_secs(60));
    assert!(bench.readers[0].errors.is_empty());
    let asked = bench.requests.iter().filter(|r| r.node == node(1)).count();
    assert!(
        asked <= 4,
        "{asked} requests to a node that said it has it no more"
    );
    assert!(
        !bench
            .plan
            .state
            .peers
            .rates(bench.now)
            .iter()
            .any(|p| p.shunned)
    );
}

#[test]
fn a_slow_link_is_not_an_error() {
    for rate in [30e3, 100e3, 400e3] {
        let mut bench = Bench::new(19);
        let peer = bench.peer(1, SimPeer::new(50, rate));
        let content = bench.file(1, 4 * MIB, &[peer]);
        bench.read(Reader::sequential(content, 4 * MIB));
        bench.run(Duration::from_secs(600));
        let reader = &bench.readers[0];
        assert!(
            reader.errors.is_empty() && reader.done_at.is_some(),
            "{rate}: {reader:?}"
        );
        assert!(
            bench.requested_bytes() <= 8 * MIB,
            "{rate}: {}",
            bench.requested_bytes()
        );
    }
}

#[test]
fn a_returned_peer_is_asked_without_the_rest_of_its_pause() {
    let mut bench = Bench::new(21);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, MIB, &[peer]);
    bench
        .plan
        .demand_ahead(bench.now, content, page(1), bench.now + PATIENCE)
        .unwrap();
    let request = bench.plan.poll_request(bench.now).unwrap();
    bench
        .plan
        .failed(bench.now, request.id, Failure::Unreachable);
    assert_eq!(bench.plan.poll_request(bench.now), None);
    bench.plan.record_peer_news(peer, PeerNews::Returned);
    assert!(bench.plan.poll_request(bench.now).is_some());
}

#[test]
fn readers_of_a_holder_busy_with_others_wait_beyond_the_deadline() {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(1, 10e6));
    for number in 0..200 {
        let content = bench.file(number, MIB, &[peer]);
        bench.read(Reader::sequential(content, MIB));
    }
    bench.run(Duration::from_secs(60));
    let took = bench.now - bench.start;
    assert!(took > PATIENCE * 2, "{took:?}: none had to wait long");
    for (number, reader) in bench.readers.iter().enumerate() {
        let errors = &reader.errors;
        assert!(errors.is_empty(), "reader {number}: {errors:?}");
        assert!(reader.done_at.is_some(), "reader {number}");
    }
}

/// Returns how many times its patience a reader of one page waits if each request fails.
fn patience_with(failure: Failure) -> u64 {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, MIB, &[peer]);
    let (begun, deadline) = (bench.now, bench.now + PATIENCE);
    bench
        .plan
        .demand_ahead(begun, content, page(1), deadline)
        .unwrap();
    loop {
        if let Some(request) = bench.plan.poll_request(bench.now) {
            bench.now += Duration::from_secs(4);
            bench.plan.failed(bench.now, request.id, failure);
        }
        bench.now += Duration::from_millis(100);
        if fails_now(&mut bench) {
            return (bench.now - begun).as_secs() / PATIENCE.as_secs();
        }
    }
}

#[test]
fn a_holder_that_says_busy_is_awaited_beyond_the_deadline_but_not_forever() {
    assert!((4..=6).contains(&patience_with(Failure::Busy)));
}

/// Returns how long a reader of one page waits for a holder that never answers. Its handshake
/// progresses once per `step`, `steps` times.
fn patience_with_handshake(step: Duration, steps: u32) -> Duration {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, MIB, &[peer]);
    let (begun, deadline) = (bench.now, bench.now + PATIENCE);
    bench
        .plan
        .demand_ahead(begun, content, page(1), deadline)
        .unwrap();
    let (mut asked, mut told) = (vec![], 0);
    loop {
        asked.extend(std::iter::from_fn(|| bench.plan.poll_request(bench.now)));
        if told < steps && begun + step * (told + 1) <= bench.now {
            let newest = asked.last().expect("it is asked");
            bench.plan.arrived(bench.now, newest.node, newest.id, 0);
            told += 1;
        }
        bench.now += Duration::from_millis(100);
        if fails_now(&mut bench) {
            return bench.now - begun;
        }
    }
}

#[test]
fn a_holder_with_a_progressing_handshake_is_awaited_beyond_the_deadline_but_not_forever() {
    let step = PATIENCE * 4 / 5;
    let within = |least: Duration, wait: Duration| {
        assert!(
            (least..least + Duration::from_secs(1)).contains(&wait),
            "{wait:?}"
        );
    };
    within(PATIENCE, patience_with_handshake(step, 0));
    within(step + PATIENCE, patience_with_handshake(step, 1));
    within(step * 2 + PATIENCE, patience_with_handshake(step, 2));
    within(PATIENCE * 6, patience_with_handshake(step, 1000));
}

/// Returns how long a reader of one page waits for a holder whose every handshake progresses at
/// once and breaks after this time.
fn patience_with_broken_handshakes(breaks_after: Duration) -> Duration {
    let mut bench = Bench::new(1);
    let peer = bench.peer(1, SimPeer::new(1, LAN));
    let content = bench.file(1, MIB, &[peer]);
    let (begun, deadline) = (bench.now, bench.now + PATIENCE);
    bench
        .plan
        .demand_ahead(begun, content, page(1), deadline)
        .unwrap();
    let mut open = vec![];
    loop {
        while let Some(request) = bench.plan.poll_request(bench.now) {
            bench.plan.arrived(bench.now, request.node, request.id, 0);
            open.push((bench.now + breaks_after, request.id));
        }
        bench.now += Duration::from_millis(20);
        for (_, id) in open.extract_if(.., |(at, _)| *at <= bench.now) {
            bench.plan.failed(bench.now, id, Failure::Unreachable);
        }
        if fails_now(&mut bench) {
            return bench.now - begun;
        }
    }
}

#[test]
fn handshakes_that_always_break_extend_no_wait() {
    for breaks_after in [PATIENCE / 500, PATIENCE / 3, PATIENCE * 9 / 10] {
        let waited = patience_with_broken_handshakes(breaks_after);
        assert!(waited < PATIENCE + Duration::from_secs(1), "{waited:?}");
    }
}

#[test]
fn a_holder_with_a_hung_disk_is_not_awaited_beyond_the_deadline() {
    assert_eq!(patience_with(Failure::Refused), 1);
}

#[test]
fn a_holder_that_delivers_nothing_is_given_up_at_the_deadline() {
    let mut bench = Bench::new(1);
    let dying = SimPeer::new(1, LAN).dying(1000, Death::Silence);
    let peer = bench.peer(1, dying);
    for number in 0..40 {
        let content = bench.file(number, 4 * MIB, &[peer]);
        bench.read(Reader::new(content, vec![ByteRange::at(0, 4 * MIB)]));
    }
    bench.run(Duration::from_secs(60));
    let failed = bench.readers.iter().filter(|r| !r.errors.is_empty());
    let longest = failed.map(|reader| reader.longest_wait).max();
    assert!(
        longest.is_some_and(|wait| wait <= PATIENCE + Duration::from_secs(2)),
        "{longest:?}"
    );
}

#[test]
fn a_version_gone_at_all_holders_fails_its_reads_at_once() {
    let mut bench = Bench::new(1);
    let lost = || SimPeer {
        gone: true,
        ..SimPeer::new(1, LAN)
    };
    let peers = [bench.peer(1, lost()), bench.peer(2, lost())];
    let content = bench.file(1, 64 * MIB, &peers);
    bench.read(Reader::sequential(content, 64 * MIB));
    bench.run(PATIENCE / 2);
    let reader = &bench.readers[0];
    assert!(reader.errors.len() > 1, "it reads on");
    assert!(reader.errors.iter().all(|why| *why == PlanError::Gone));
}

/// The author reported the version gone before, and is not asked again. Another node with a part
/// reports it late.
#[test]
fn a_reader_of_a_vanished_version_fails_before_its_deadline() {
    for has_part in [false, true] {
        let content = file_named(1, 4 * MIB);
        let mut now = Instant::now();
        let mut plan = Plan::new(PlanConfig::default(), 1);
        plan.open(now, content, ExtentSet::new()).unwrap();
        plan.record_holders(now, &content, &listed(&[node(1)]));
        plan.demand(now, content, page(0), now + PATIENCE).unwrap();
        let request = plan.poll_request(now).unwrap();
        plan.failed(now, request.id, Failure::Gone);
        if has_part {
            plan.record_offer(
                now,
                &Offer {
                    node: node(2),
                    content,
                    all: false,
                    ranges: [ByteRange::at(MIB, MIB)].into_iter().collect(),
                    load: 0,
                },
            );
        }
        now += Duration::from_secs(6);
        let begun = now;
        let deadline = now + Duration::from_mins(5);
        let late = plan
            .demand(now, content, ByteRange::at(MIB, PAGE_BYTES), deadline)
            .unwrap();
        let why = loop {
            while let Some(request) = plan.poll_request(now) {
                assert!(has_part && request.node == node(2));
                plan.failed(now, request.id, Failure::Gone);
            }
            let mut events = std::iter::from_fn(|| plan.state.out.poll_event());
            let failed = |event| match event {
                PlanEvent::Failed(id, why) if id == late => Some(why),
                _ => None,
            };
            if let Some(why) = events.find_map(failed) {
                break why;
            }
            now = plan.poll_timeout().unwrap().max(now);
            plan.handle_timeout(now);
        };
        assert_eq!(why, PlanError::Gone);
        assert!(now - begun < PATIENCE, "{:?}", now - begun);
    }
}

#[test]
fn a_version_gone_at_one_holder_comes_from_the_other() {
    let mut bench = Bench::new(1);
    let lost = SimPeer {
        gone: true,
        ..SimPeer::new(1, LAN)
    };
    let peers = [bench.peer(1, lost), bench.peer(2, SimPeer::new(1, LAN))];
    let content = bench.file(1, 4 * MIB, &peers);
    bench.read(Reader::sequential(content, 4 * MIB));
    bench.run(Duration::from_secs(30));
    assert!(bench.readers[0].errors.is_empty() && bench.readers[0].done_at.is_some());
}

#[test]
fn all_of_thousands_of_files_read_at_once_arrive() {
    let (now, mut plan) = (Instant::now(), Plan::new(PlanConfig::default(), 1));
    let names = (0..2000u64).map(|number| ContentHash::of(&number.to_le_bytes()));
    let contents: Vec<_> = names.map(|hash| ContentKey::new(hash, MIB)).collect();
    for content in &contents {
        plan.open(now, *content, ExtentSet::new()).unwrap();
        plan.record_holders(now, content, &listed(&[node(1)]));
        plan.demand(now, *content, page(0), now + PATIENCE).unwrap();
    }
    while let Some(request) = plan.poll_request(now) {
        plan.answered(now, request.id);
    }
    let events = std::iter::from_fn(|| plan.state.out.poll_event());
    let ready = events.filter(|event| matches!(event, PlanEvent::Ready(_)));
    assert_eq!(ready.count(), contents.len());
}

#[test]
fn an_unreachable_peer_that_answers_a_survey_is_reachable_again() {
    let mut bench = Bench::new(1);
    let node = bench.peer(1, SimPeer::new(20, LAN));
    let now = bench.now;
    let unanswered = |plan: &Plan| plan.state.peers.get(&node).unwrap().backoff.unanswered();
    bench
        .plan
        .record_peer_news(node, PeerNews::Gave { bytes: 1 });
    let asked_at = now;
    let lost = PeerNews::Unreachable { now, asked_at };
    bench.plan.record_peer_news(node, lost);
    assert_eq!(unanswered(&bench.plan), 1);
    bench.plan.record_peer_news(node, PeerNews::Answered);
    assert_eq!(unanswered(&bench.plan), 0);
}
