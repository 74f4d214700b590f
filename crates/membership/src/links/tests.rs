//! Tests of the links, without a network.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::{LINKS_MAX, WAITING_FRAMES_MAX};
use crate::counters::UnusableDatagrams;
use p2pfs_proto::trust::{EpochSecret, NodeKey, TestKeyring};
use p2pfs_proto::wire::native::udp::HELLO_BYTES;
use p2pfs_types::id::Generation;

use super::hellos::HELLO_GAPS_MS;
use super::pair::KeyExchange;
use super::seal::{SealKey, Sealer};
use super::window::ReplayWindow;

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 1378))
}

fn key(n: u16) -> Arc<NodeKey> {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Arc::new(NodeKey::from_seed(&bytes))
}

fn contact(n: u16) -> Contact {
    Contact {
        node: key(n).node_id(),
        address: address(n),
        generation: Generation(1),
    }
}

fn links_of(n: u16, secret: u8, life: u64, now: Instant) -> Links {
    let trust = TestKeyring::in_memory(EpochSecret::new([secret; 32])).reader();
    let mut rng = StdRng::seed_from_u64(u64::from(n) << 32 | life);
    Links::new(contact(n), Vouchers::new(key(n)), trust, &mut rng, now)
}

fn sent(links: &mut Links) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| links.poll_transmit())
        .map(|transmit| transmit.datagram)
        .collect()
}

/// Passes every datagram of `from` to `to`. Returns the arrivals.
fn pass(now: Instant, from: &mut Links, to: &mut Links) -> Vec<Arrival> {
    let address = from.process.me().address;
    let datagrams = sent(from);
    datagrams
        .iter()
        .flat_map(|d| to.handle_datagram(now, address, d))
        .collect()
}

fn message(text: &'static str) -> DatagramFrame {
    DatagramFrame::Message(Bytes::from_static(text.as_bytes()))
}

fn messages(arrivals: &[Arrival]) -> Vec<DatagramFrame> {
    let frames = arrivals.iter().filter_map(|arrival| match arrival {
        Arrival::Frame { frame, .. } => Some(frame.clone()),
        Arrival::Proven(_) => None,
    });
    frames.collect()
}

/// Returns the salt of the process that is proven at an address.
fn salt_at(links: &Links, n: u16) -> Option<Salt> {
    let speaker = links.table.speaker_at(address(n));
    speaker.map(|(_, salt)| salt)
}

/// Returns two peers that have proven themselves to each other.
fn acquainted(now: Instant) -> (Links, Links) {
    let (mut a, mut b) = (links_of(1, 1, 0, now), links_of(2, 1, 0, now));
    a.greet(now, address(2));
    while !pass(now, &mut a, &mut b).is_empty() | !pass(now, &mut b, &mut a).is_empty() {}
    assert_eq!(a.table.proven(address(2)), Some(contact(2)));
    assert_eq!(b.table.proven(address(1)), Some(contact(1)));
    (a, b)
}

#[test]
fn the_first_message_arrives_after_one_exchange_of_hellos() {
    let now = Instant::now();
    let (mut a, mut b) = (links_of(1, 1, 0, now), links_of(2, 1, 0, now));
    a.send(now, address(2), message("first"));
    assert!(pass(now, &mut a, &mut b).is_empty());
    assert_eq!(b.table.len(), 0, "a greeting costs no memory");
    assert!(matches!(&pass(now, &mut b, &mut a)[..], [Arrival::Proven(i)] if i.greeted));
    let arrivals = pass(now, &mut a, &mut b);
    assert!(matches!(&arrivals[0], Arrival::Proven(i) if i.who == contact(1) && !i.greeted));
    assert_eq!(messages(&arrivals), [message("first")]);
    b.send(now, address(1), message("back"));
    assert_eq!(messages(&pass(now, &mut b, &mut a)), [message("back")]);
}

#[test]
fn a_lost_hello_is_repeated_and_then_given_up() {
    let now = Instant::now();
    let mut a = links_of(1, 1, 0, now);
    a.send(now, address(2), message("first"));
    let mut hellos = sent(&mut a).len();
    let mut at = now;
    while a.hellos.len() > 0 {
        at = a.poll_timeout();
        a.handle_timeout(at);
        hellos += sent(&mut a).len();
    }
    assert_eq!(hellos, HELLO_GAPS_MS.len());
    assert!(at - now <= Duration::from_secs(3));
    assert_eq!(a.counters.excess.never_proven, 1);
}

#[test]
fn a_replayed_datagram_changes_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = acquainted(now);
    a.send(now, address(2), message("once"));
    let datagram = sent(&mut a).remove(0);
    let first = b.handle_datagram(now, address(1), &datagram);
    assert_eq!(messages(&first), [message("once")]);
    for from in [address(1), address(9)] {
        assert!(b.handle_datagram(now, from, &datagram).is_empty());
    }
    assert_eq!(b.counters.unusable.replayed, 2);
    assert!(sent(&mut b).is_empty());
}

#[test]
fn a_datagram_sealed_as_another_node_changes_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = acquainted(now);
    let (mut a2, mut c) = (links_of(1, 1, 9, now), links_of(3, 1, 0, now));
    // The third one has the secret, so it can seal under the salt of the first.
    c.process.sealer = Sealer::new(
        TestKeyring::in_memory(EpochSecret::new([1; 32])).reader(),
        *a.process.sealer.salt(),
    );
    let pair = c
        .process
        .exchange
        .with(
            b.process.exchange.public(),
            &c.process.me.node,
            &b.process.me.node,
        )
        .unwrap();
    for counter in [0, 100, 1 << 40] {
        for (pair, frame) in [
            (None, message("forged")),
            (Some(&pair), message("forged")),
            (None, DatagramFrame::Rumors(Vec::new())),
        ] {
            c.process.sealer.skip_to(counter);
            let body = Body {
                to: tag(b.process.sealer.salt()),
                proof: None,
                frame,
            };
            let datagram = c.process.sealer.seal(body.encode().unwrap(), pair);
            assert!(b.handle_datagram(now, address(1), &datagram).is_empty());
        }
    }
    assert_eq!(b.counters.untrusted.forged, 9);
    a.send(now, address(2), message("true"));
    assert_eq!(messages(&pass(now, &mut a, &mut b)), [message("true")]);
    // The third one's answer to a hello in another node's name is refused too.
    a2.greet(now, address(2));
    let hello = sent(&mut a2).remove(0);
    c.process.credentials = b.process.credentials;
    c.process.sealer = Sealer::new(
        TestKeyring::in_memory(EpochSecret::new([1; 32])).reader(),
        *b.process.sealer.salt(),
    );
    c.handle_datagram(now, address(1), &hello);
    for datagram in sent(&mut c) {
        assert!(a2.handle_datagram(now, address(2), &datagram).is_empty());
    }
    assert_eq!(
        (a2.table.proven(address(2)), a2.counters.untrusted.forged),
        (None, 1)
    );
}

#[test]
fn a_recording_of_the_senders_earlier_generation_is_worthless() {
    let now = Instant::now();
    let (mut a, mut b) = (links_of(1, 1, 0, now), links_of(2, 1, 0, now));
    let mut recorded = Vec::new();
    a.send(now, address(2), message("recorded"));
    for _ in 0..3 {
        for datagram in sent(&mut a) {
            b.handle_datagram(now, address(1), &datagram);
            recorded.push(datagram);
        }
        pass(now, &mut b, &mut a);
    }
    // The node restarts, and proves its new life.
    let mut next = links_of(1, 1, 1, now);
    next.greet(now, address(2));
    while !pass(now, &mut next, &mut b).is_empty() | !pass(now, &mut b, &mut next).is_empty() {}
    let later = now + Duration::from_secs(21);
    let salt = salt_at(&b, 1);
    for datagram in &recorded {
        assert!(b.handle_datagram(later, address(1), datagram).is_empty());
    }
    assert_eq!(salt_at(&b, 1), salt, "the new life is still the proven one");
}

#[test]
fn answer_to_a_challenge_proves_nothing_again_after_its_session_ended() {
    let now = Instant::now();
    let (mut a, mut b) = (links_of(1, 1, 0, now), links_of(2, 1, 0, now));
    let mut recorded = Vec::new();
    b.greet(now, address(1));
    for _ in 0..4 {
        for datagram in sent(&mut a) {
            b.handle_datagram(now, address(1), &datagram);
            recorded.push(datagram);
        }
        a.send(now, address(2), message("recorded"));
        pass(now, &mut b, &mut a);
    }
    let mut next = links_of(1, 1, 1, now);
    next.greet(now, address(2));
    while !pass(now, &mut next, &mut b).is_empty() | !pass(now, &mut b, &mut next).is_empty() {}
    let salt = salt_at(&b, 1);
    assert_eq!(salt, Some(*next.process.sealer.salt()));
    for second in 0..30 {
        let then = now + Duration::from_secs(second);
        for datagram in &recorded {
            assert!(b.handle_datagram(then, address(1), datagram).is_empty());
            sent(&mut b);
        }
        assert_eq!(salt_at(&b, 1), salt, "after {second} s");
    }
}

#[test]
fn withheld_answer_to_a_challenge_is_dated_before_the_next_process_was_seen() {
    let now = Instant::now();
    for second in [4, 8, 12, 19] {
        let (mut a, mut b) = (links_of(1, 1, 0, now), links_of(2, 1, 0, now));
        a.greet(now, address(2));
        pass(now, &mut a, &mut b);
        pass(now, &mut b, &mut a);
        let withheld = sent(&mut a);
        let seen = now + Duration::from_secs(1);
        let mut next = links_of(1, 1, 1, seen);
        next.greet(seen, address(2));
        while !pass(seen, &mut next, &mut b).is_empty() | !pass(seen, &mut b, &mut next).is_empty()
        {
        }
        assert_eq!(salt_at(&b, 1), Some(*next.process.sealer.salt()));
        let then = now + Duration::from_secs(second);
        let datagrams = withheld.into_iter();
        let arrivals = datagrams.flat_map(|it| b.handle_datagram(then, address(1), &it));
        let mut proven = arrivals.filter_map(|arrival| match arrival {
            Arrival::Proven(it) => Some(it),
            Arrival::Frame { .. } => None,
        });
        let ended = proven.next().expect("the challenge is still valid");
        assert_eq!(ended.salt, *a.process.sealer.salt());
        assert!(ended.challenged < seen, "after {second} s");
    }
}

#[test]
fn remembered_ended_sessions_are_bounded() {
    let mut ended = ended::EndedSessions::new();
    for n in 0..2 * ended::ENDED_SESSIONS_MAX as u128 {
        ended.add(n.to_be_bytes(), ReplayWindow::new());
    }
    assert_eq!(ended.len(), ended::ENDED_SESSIONS_MAX);
}

#[test]
fn a_recording_of_the_receivers_earlier_generation_is_worthless() {
    let now = Instant::now();
    let (mut a, _) = acquainted(now);
    a.send(now, address(2), message("recorded"));
    let recorded = sent(&mut a);
    let mut next = links_of(2, 1, 1, now);
    for datagram in &recorded {
        assert!(next.handle_datagram(now, address(1), datagram).is_empty());
        let answers = sent(&mut next);
        assert!(answers.iter().map(Vec::len).sum::<usize>() <= datagram.len());
    }
    assert_eq!(next.table.proven(address(1)), None);
}

#[test]
fn a_restarted_receiver_is_greeted_again_at_the_first_datagram() {
    let now = Instant::now();
    let (mut a, _) = acquainted(now);
    let mut next = links_of(2, 1, 1, now);
    a.send(now, address(2), message("lost with the old life"));
    pass(now, &mut a, &mut next);
    pass(now, &mut next, &mut a);
    pass(now, &mut a, &mut next);
    pass(now, &mut next, &mut a);
    a.send(now, address(2), message("heard"));
    assert_eq!(messages(&pass(now, &mut a, &mut next)), [message("heard")]);
}

#[test]
fn a_forgotten_peer_proves_itself_again_within_one_round_trip() {
    let now = Instant::now();
    let (mut a, mut b) = acquainted(now);
    b.send(now, address(1), message("you are known"));
    pass(now, &mut b, &mut a);
    b.forget(address(1));
    assert_eq!(b.table.sessions().len(), 0);
    a.send(
        now,
        address(2),
        message("unproven, and long enough for a challenge in return"),
    );
    assert!(pass(now, &mut a, &mut b).is_empty());
    assert!(pass(now, &mut b, &mut a).is_empty());
    assert!(matches!(
        &pass(now, &mut a, &mut b)[..],
        [Arrival::Proven(_)]
    ));
    a.send(now, address(2), message("proven"));
    assert_eq!(messages(&pass(now, &mut a, &mut b)), [message("proven")]);
}

#[test]
fn another_secret_of_another_name_changes_only_a_counter() {
    let now = Instant::now();
    let mut stranger = links_of(1, 7, 0, now);
    let mut b = links_of(2, 1, 0, now);
    stranger.greet(now, address(2));
    assert!(pass(now, &mut stranger, &mut b).is_empty());
    assert_eq!(
        b.counters,
        Counters {
            unusable: UnusableDatagrams {
                unknown_epoch: 1,
                ..UnusableDatagrams::default()
            },
            ..Counters::default()
        }
    );
    assert!(sent(&mut b).is_empty() && b.table.len() == 0);
}

#[test]
fn a_session_speaks_for_one_node_only() {
    let now = Instant::now();
    let (mut a, mut b) = acquainted(now);
    a.process.me = contact(5);
    a.forget(address(2));
    b.table.link_at(address(1)).unwrap().token = None;
    // The same process, from another address, as another node.
    a.greet(now, address(2));
    for datagram in sent(&mut a) {
        b.handle_datagram(now, address(9), &datagram);
    }
    let replies = sent(&mut b);
    replies
        .iter()
        .for_each(|d| drop(a.handle_datagram(now, address(2), d)));
    for datagram in sent(&mut a) {
        b.handle_datagram(now, address(9), &datagram);
    }
    assert_eq!(b.counters.untrusted.forged, 1);
    assert_eq!(b.table.proven(address(9)), None);
}

#[test]
fn our_own_returned_datagram_is_not_a_peer() {
    let now = Instant::now();
    let mut a = links_of(1, 1, 0, now);
    a.greet(now, address(2));
    for datagram in sent(&mut a) {
        assert!(a.handle_datagram(now, address(2), &datagram).is_empty());
    }
    assert_eq!(a.counters.unusable.own, 1);
}

#[test]
fn the_table_of_links_is_bounded_and_drops_the_longest_silent() {
    let now = Instant::now();
    let mut a = links_of(1, 1, 0, now);
    for n in 0..(LINKS_MAX + 10) as u16 {
        a.greet(now + Duration::from_millis(u64::from(n)), address(n + 2));
        sent(&mut a);
    }
    assert_eq!(a.table.len(), LINKS_MAX);
    assert_eq!(a.hellos.len(), LINKS_MAX);
    assert!(a.table.link_at(address(2)).is_none());
    let newest = address((LINKS_MAX + 11) as u16);
    assert!(a.table.link_at(newest).is_some());
}

#[test]
fn greetings_without_an_answer_displace_no_proven_link() {
    let now = Instant::now();
    let (_, mut b) = acquainted(now);
    let later = now + Duration::from_secs(1);
    for n in 0..2 * LINKS_MAX as u16 {
        b.greet(later, address(n + 2));
        sent(&mut b);
    }
    assert_eq!(b.table.len(), LINKS_MAX);
    assert_eq!(b.table.proven(address(1)), Some(contact(1)));
}

#[test]
fn a_peer_whose_old_link_a_full_table_drops_is_proven_at_its_new_address() {
    let now = Instant::now();
    let (mut a, mut b) = acquainted(now);
    let later = now + Duration::from_secs(1);
    let header = Header {
        salt: [9; 16],
        ..Header::decode(&{
            a.send(now, address(2), message("any"));
            sent(&mut a).remove(0)
        })
        .unwrap()
        .0
    };
    for n in 1..LINKS_MAX as u16 {
        let other = KeyExchange::new([2; 32]);
        let pair = other.with(
            b.process.exchange.public(),
            &contact(3).node,
            &contact(2).node,
        );
        let key = SealKey::of(b.process.sealer.trust(), &header);
        let (at, who) = (address(n + 2), contact(3));
        let proven = b.table.prove(later, &header, at, who, (key, pair.unwrap()));
        assert!(proven.is_ok_and(|displaced| displaced.oldest.is_none()));
    }
    assert_eq!(b.table.len(), LINKS_MAX);
    // The first datagram from the new address is answered with a challenge, which the next answers.
    let (old, new) = (address(1), address(9999));
    let text = "unproven here, and long enough for a challenge in return";
    a.send(later, address(2), message(text));
    for _ in 0..2 {
        for datagram in sent(&mut a) {
            b.handle_datagram(later, new, &datagram);
        }
        for datagram in sent(&mut b) {
            a.handle_datagram(later, address(2), &datagram);
        }
    }
    assert_eq!(
        (b.table.proven(old), b.table.proven(new)),
        (None, Some(contact(1))),
        "the oldest link made room"
    );
    assert_eq!((b.table.len(), b.table.sessions().len()), (LINKS_MAX, 2));
    a.send(later, address(2), message("heard"));
    let datagram = sent(&mut a).remove(0);
    let arrivals = b.handle_datagram(later, new, &datagram);
    assert_eq!(messages(&arrivals), [message("heard")]);
}

#[test]
fn datagrams_waiting_for_a_proof_are_bounded() {
    let now = Instant::now();
    let mut a = links_of(1, 1, 0, now);
    (0..100).for_each(|_| a.send(now, address(2), message("x")));
    let waiting = a.table.link_at(address(2)).map(|link| link.waiting.len());
    assert_eq!(waiting, Some(WAITING_FRAMES_MAX));
    assert_eq!(sent(&mut a).len(), 1, "one greeting for all of them");
}

#[test]
fn queued_datagrams_are_bounded_and_the_oldest_are_dropped() {
    let now = Instant::now();
    let mut a = links_of(1, 1, 0, now);
    for n in 0..TRANSMITS_MAX {
        a.queue(address(n as u16), Vec::new());
    }
    assert_eq!(
        (a.transmits.len(), a.counters.excess.overflow),
        (TRANSMITS_MAX, 0)
    );
    a.queue(address(TRANSMITS_MAX as u16), Vec::new());
    assert_eq!(
        (a.transmits.len(), a.counters.excess.overflow),
        (TRANSMITS_MAX, 1)
    );
    assert_eq!(a.poll_transmit().map(|first| first.to), Some(address(1)));
}

#[test]
fn unproven_addresses_are_bounded() {
    let now = Instant::now();
    let name = p2pfs_types::id::NodeName::new("n1").unwrap();
    let secret = EpochSecret::new([1; 32]);
    let keyring = TestKeyring::founded_in_memory(secret, &key(1), name, 100);
    let mut rng = StdRng::seed_from_u64(1);
    let vouchers = Vouchers::new(key(1));
    let mut a = Links::new(contact(1), vouchers, keyring.reader(), &mut rng, now);
    for n in 0..STRANGERS_MAX {
        assert_eq!(a.strangers.len(), n);
        a.queue_stranger(address(n as u16));
    }
    a.queue_stranger(address(9999));
    assert_eq!(a.strangers.len(), STRANGERS_MAX);
    assert!(!a.strangers.contains(&address(9999)));
}

#[test]
fn answers_to_hellos_have_a_burst_and_resume_when_there_is_room() {
    let now = Instant::now();
    let mut a = links_of(1, 1, 0, now);
    let mut b = links_of(2, 1, 0, now);
    a.greet(now, address(2));
    let hello = sent(&mut a).remove(0);
    for n in 0..UNPROVEN_ANSWERS_PER_S as u16 {
        b.handle_datagram(now, address(n + 100), &hello);
    }
    assert_eq!(sent(&mut b).len(), UNPROVEN_ANSWERS_PER_S as usize);
    b.handle_datagram(now, address(9999), &hello);
    assert_eq!((sent(&mut b).len(), b.counters.excess.unanswered), (0, 1));
    let later = now + Duration::from_secs(1) / UNPROVEN_ANSWERS_PER_S;
    b.handle_datagram(later, address(9999), &hello);
    assert_eq!(sent(&mut b).len(), 1);
}

/// Greets while `left` proofs may still be verified. Returns whether the first message arrived.
fn arrives_with_proofs_left(left: u32, waited: Duration) -> bool {
    let now = Instant::now();
    let (mut a, mut b) = (links_of(1, 1, 0, now), links_of(2, 1, 0, now));
    for _ in left..PROOFS_AT_ONCE {
        assert!(b.limits.proofs.take(1, now), "so many at once");
    }
    let now = now + waited;
    a.send(now, address(2), message("x"));
    let mut arrivals = Vec::new();
    for _ in 0..3 {
        arrivals.extend(pass(now, &mut a, &mut b));
        pass(now, &mut b, &mut a);
    }
    messages(&arrivals) == [message("x")]
}

#[test]
fn proof_checks_have_a_burst_and_a_rate() {
    let one = Duration::from_secs(1) / PROOFS_PER_S;
    assert!(
        arrives_with_proofs_left(2, Duration::ZERO),
        "below the limit"
    );
    assert!(arrives_with_proofs_left(1, Duration::ZERO), "at the limit");
    assert!(!arrives_with_proofs_left(0, Duration::ZERO), "above it");
    assert!(
        arrives_with_proofs_left(0, one),
        "with the next that is earned"
    );
}

#[test]
fn a_silent_link_is_forgotten() {
    let now = Instant::now();
    let (mut a, _) = acquainted(now);
    for minute in 1..30 {
        a.handle_timeout(now + Duration::from_secs(60 * minute));
    }
    assert_eq!((a.table.len(), a.table.sessions().len()), (0, 0));
}

#[test]
fn a_hello_is_at_least_as_long_as_any_answer() {
    let now = Instant::now();
    let mut a = links_of(1, 1, 0, now);
    a.greet(now, "[fd00::1]:1378".parse().unwrap());
    a.greet(now, address(2));
    assert!(
        sent(&mut a)
            .iter()
            .all(|datagram| datagram.len() == HELLO_BYTES)
    );
}

#[derive(Clone, Debug)]
enum Attack {
    Garbage(Vec<u8>),
    /// A recorded datagram, with one bit changed or unchanged.
    Recorded {
        which: usize,
        flip: Option<usize>,
    },
    /// A body that a malicious member seals.
    Sealed {
        body: Vec<u8>,
        for_this_life: bool,
    },
}

fn attacks() -> impl Strategy<Value = Vec<(u16, Attack)>> {
    let attack = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1300).prop_map(Attack::Garbage),
        (any::<usize>(), prop::option::of(any::<usize>()))
            .prop_map(|(which, flip)| Attack::Recorded { which, flip }),
        (prop::collection::vec(any::<u8>(), 0..200), any::<bool>()).prop_map(
            |(body, for_this_life)| Attack::Sealed {
                body,
                for_this_life
            }
        ),
    ];
    prop::collection::vec((20u16..40, attack), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_unproven_address_receives_no_more_than_it_sent(attacks in attacks()) {
        let now = Instant::now();
        let (mut a, mut b) = acquainted(now);
        a.greet(now, address(3));
        a.send(now, address(2), message("recorded"));
        let recorded = sent(&mut a);
        let mut member = links_of(3, 1, 9, now);
        let mut balance = BTreeMap::<SocketAddr, i64>::new();
        for (n, attack) in attacks {
            let datagram = match attack {
                Attack::Garbage(bytes) => bytes,
                Attack::Recorded { which, flip } => {
                    let mut datagram = recorded[which % recorded.len()].clone();
                    if let Some(flip) = flip {
                        let at = flip % datagram.len();
                        datagram[at] ^= 1;
                    }
                    datagram
                }
                Attack::Sealed { body, for_this_life } => {
                    let to = if for_this_life { tag(b.process.sealer.salt()) } else { [0; 8] };
                    member.process.sealer.seal([&to[..], &body].concat(), None)
                }
            };
            *balance.entry(address(n)).or_default() += datagram.len() as i64;
            b.handle_datagram(now, address(n), &datagram);
            while let Some(transmit) = b.poll_transmit() {
                *balance.entry(transmit.to).or_default() -= transmit.datagram.len() as i64;
            }
        }
        prop_assert!(balance.values().all(|bytes| *bytes >= 0), "{:?}", balance);
        prop_assert_eq!((b.table.len(), b.table.sessions().len()), (1, 1));
        prop_assert_eq!(b.table.proven(address(1)), Some(contact(1)));
    }
}
