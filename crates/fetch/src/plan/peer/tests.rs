//! Figures learnt about a peer, and its back-offs.

use super::*;
use crate::plan::backoff::BACKOFF;
use crate::plan::{PIECE_MAX_BYTES, SHUN};
use p2pfs_types::extent::CHUNK_BYTES;

const ID: RequestId = RequestId(0);

fn answer(peer: &mut Peer, now: Instant, id: RequestId, sent: (&SentState, Lane), bytes: u64) {
    peer.ended(id, sent.1, bytes);
    peer.moved(now, bytes);
    peer.answered(now, sent.0, bytes);
}

/// Returns a peer that answered one piece after another at a fixed rate and distance.
fn trained(latency: Duration, rate: f64, pieces: usize) -> Peer {
    let mut peer = Peer::default();
    let mut now = Instant::now();
    let mut queue = std::collections::VecDeque::new();
    let (mut link_free, mut next) = (now, 0);
    for _ in 0..pieces {
        while peer.link.has_room(Lane::Bulk, PIECE_MAX_BYTES) && queue.len() < 64 {
            let bytes = peer.link.piece_bytes(Lane::Bulk);
            let id = RequestId(next);
            next += 1;
            let sent = peer.record_sent(now, id, Lane::Bulk, bytes);
            let moving = Duration::from_secs_f64(bytes as f64 / rate);
            link_free = link_free.max(now + latency) + moving;
            queue.push_back((link_free, id, sent, bytes));
        }
        let (at, id, sent, bytes) = queue.pop_front().unwrap();
        now = at;
        answer(&mut peer, now, id, (&sent, Lane::Bulk), bytes);
    }
    peer
}

#[test]
fn the_window_covers_the_round_trip_of_a_fast_far_peer() {
    let peer = trained(Duration::from_millis(20), 100e6, 200);
    assert!(
        peer.link.window_bytes() as f64 >= 100e6 * 0.020 * 1.5,
        "{}",
        peer.link.window_bytes()
    );
    let rate = peer.link.rate().unwrap();
    assert!((80e6..130e6).contains(&rate), "{rate}");
}

#[test]
fn a_slow_peer_gets_small_pieces_and_a_small_window() {
    let peer = trained(Duration::from_millis(5), 300e3, 60);
    assert_eq!(peer.link.piece_bytes(Lane::Bulk), CHUNK_BYTES);
    assert!(
        peer.link.window_bytes() <= 512 << 10,
        "{}",
        peer.link.window_bytes()
    );
}

#[test]
fn a_reader_at_a_slow_peer_requests_no_more_than_one_second_of_bytes() {
    let asked_at = |rate: f64| {
        trained(Duration::from_millis(5), rate, 60)
            .link
            .piece_bytes(Lane::Urgent)
    };
    let rates = [5e3, 20e3, 40e3, 100e3, 300e3, 50e6];
    let kib = rates.map(|rate| asked_at(rate) >> 10);
    assert_eq!(kib, [16, 16, 32, 64, 64, 128]);
    // a little-known peer that gave one small file from far away
    let (mut peer, now) = (Peer::default(), Instant::now());
    assert_eq!(peer.link.piece_bytes(Lane::Urgent), CHUNK_BYTES);
    let sent = peer.record_sent(now, ID, Lane::Urgent, 100);
    let later = now + Duration::from_millis(5);
    answer(&mut peer, later, ID, (&sent, Lane::Urgent), 100);
    assert!(peer.link.rate().unwrap() < 32e3);
    assert_eq!(peer.link.piece_bytes(Lane::Urgent), CHUNK_BYTES);
}

#[test]
fn failures_cause_growing_pauses_and_an_answer_ends_them() {
    let (mut peer, now) = (Peer::default(), Instant::now());
    let mut last = Duration::ZERO;
    for step in 0..20 {
        let now = now + Duration::from_secs(step);
        let rest = peer.backoff.rest(now, now, 0.5) - now;
        assert!(rest >= last && rest <= BACKOFF.most);
        last = rest;
    }
    let now = now + Duration::from_secs(20);
    assert_eq!(last, BACKOFF.most);
    let sent = peer.record_sent(now, ID, Lane::Urgent, 4096);
    let later = now + Duration::from_millis(1);
    answer(&mut peer, later, ID, (&sent, Lane::Urgent), 4096);
    assert_eq!(peer.backoff.resting_until(now), None);
}

#[test]
fn a_liar_is_excluded_for_its_whole_time_whatever_it_answers() {
    let (mut peer, now) = (Peer::default(), Instant::now());
    let sent = peer.record_sent(now, ID, Lane::Bulk, 4096);
    peer.shun(now);
    answer(&mut peer, now, ID, (&sent, Lane::Bulk), 4096);
    assert!(peer.backoff.is_shunned(now + SHUN - Duration::from_secs(1)));
    assert!(!peer.backoff.is_shunned(now + SHUN));
}

#[test]
fn small_reads_do_not_lower_the_estimated_rate() {
    let mut peer = trained(Duration::from_millis(20), 100e6, 200);
    while peer.link.in_flight_bytes() > 0 {
        let bytes = peer.link.in_flight_bytes();
        peer.ended(ID, Lane::Bulk, bytes);
    }
    let (before, now) = (peer.link.rate().unwrap(), Instant::now());
    for _ in 0..100 {
        let sent = peer.record_sent(now, ID, Lane::Urgent, 4096);
        let later = now + Duration::from_millis(20);
        answer(&mut peer, later, ID, (&sent, Lane::Urgent), 4096);
    }
    assert!(peer.link.rate().unwrap() >= before);
}

#[test]
fn one_broken_connection_with_many_requests_counts_as_one_failure() {
    let (mut peer, sent_at) = (Peer::default(), Instant::now());
    let now = sent_at + Duration::from_secs(1);
    let rests: Vec<_> = (0..4)
        .map(|_| peer.backoff.rest(now, sent_at, 0.5))
        .collect();
    assert_eq!(peer.backoff.failures_total(), 1);
    assert!(rests.iter().all(|until| *until <= now + BACKOFF.first));
    peer.backoff
        .rest(now + BACKOFF.first, now + BACKOFF.first, 0.5);
    assert_eq!(
        peer.backoff.failures_total(),
        2,
        "what was asked later is another"
    );
}

#[test]
fn delays_of_a_broken_network_do_not_widen_the_window() {
    let mut peer = trained(Duration::from_millis(1), 25e6, 400);
    let before = peer.link.window_bytes();
    let now = Instant::now() + Duration::from_secs(30);
    for _ in 0..20 {
        let sent = peer.record_sent(now, ID, Lane::Urgent, 4096);
        let later = now + Duration::from_secs(3);
        answer(&mut peer, later, ID, (&sent, Lane::Urgent), 4096);
    }
    assert!(peer.link.latency().unwrap() > Duration::from_secs(1));
    assert!(
        peer.link.window_bytes() <= before * 2,
        "{}",
        peer.link.window_bytes()
    );
    peer.rested();
    assert!(peer.link.latency().unwrap() <= USUAL_DELAY);
}

/// A peer with a rate limit that one large piece would exceed for long reports itself busy.
#[test]
fn a_busy_peer_gets_fewer_requests_until_it_answers_again() {
    let (mut peer, mut now) = (
        trained(Duration::from_millis(1), 50e6, 200),
        Instant::now() + Duration::from_secs(60),
    );
    assert_eq!(peer.link.piece_bytes(Lane::Bulk), PIECE_MAX_BYTES);
    let at_once = [0; 8].map(|_| peer.record_sent(now, ID, Lane::Bulk, PIECE_MAX_BYTES));
    let mut rounds = 0;
    while peer.link.piece_bytes(Lane::Bulk) > CHUNK_BYTES {
        let sent = peer.record_sent(now, ID, Lane::Bulk, PIECE_MAX_BYTES);
        now += Duration::from_millis(1);
        let until = peer.rest_busy(now, &sent, 0.5, true);
        for sent in &at_once {
            assert_eq!(peer.rest_busy(now, sent, 0.5, true), until, "said once");
        }
        (now, rounds) = (until, rounds + 1);
    }
    assert!(rounds <= 5, "{rounds}");
    for _ in 0..20 {
        let sent = peer.record_sent(now, ID, Lane::Bulk, CHUNK_BYTES);
        now += Duration::from_millis(2);
        answer(&mut peer, now, ID, (&sent, Lane::Bulk), CHUNK_BYTES);
    }
    assert_eq!(peer.link.piece_bytes(Lane::Bulk), PIECE_MAX_BYTES);
}

#[test]
fn only_a_peer_that_says_busy_gets_a_lower_rate() {
    let mut peer = trained(Duration::from_millis(5), 10e6, 60);
    let now = Instant::now() + Duration::from_secs(60);
    let rate = peer.link.rate();
    let sent = peer.record_sent(now, ID, Lane::Bulk, PIECE_MAX_BYTES);
    peer.ended(ID, Lane::Bulk, PIECE_MAX_BYTES);
    peer.rest_busy(now, &sent, 0.5, false);
    assert_eq!(peer.link.rate(), rate);
    let later = now + Duration::from_secs(1);
    let sent = peer.record_sent(later, ID, Lane::Bulk, PIECE_MAX_BYTES);
    peer.ended(ID, Lane::Bulk, PIECE_MAX_BYTES);
    peer.rest_busy(later, &sent, 0.5, true);
    assert!(peer.link.rate() < rate);
}
