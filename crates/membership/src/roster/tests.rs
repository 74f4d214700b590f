//! Tests of the roster with packets passed by hand.

use std::sync::Arc;

use super::own_key::RENEWALS_AT_ONCE;
use super::*;
use crate::config::{MEMBER_LIST_MAX_BYTES, MEMBERS_MAX, UNMET_PER_TELLER_MAX};
use crate::vouch::LifeCodec;
use p2pfs_proto::trust::NodeKey;
use rand::{RngExt, SeedableRng};

fn key(n: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_seed(&[n; 32]))
}

fn contact(n: u8, generation: u64) -> Contact {
    let address = SocketAddr::from(([10, 0, 0, n], 1378));
    Contact {
        node: key(n).node_id(),
        address,
        generation: Generation(generation),
    }
}

/// Returns a node and the address at which it is proven.
fn at(n: u8) -> (NodeId, SocketAddr) {
    (contact(n, 1).node, contact(n, 1).address)
}

fn roster(n: u8, now: Instant) -> Roster {
    let rng = StdRng::seed_from_u64(u64::from(n));
    let vouchers = Vouchers::new(key(n));
    Roster::new(&ClusterConfig::default(), contact(n, 1), vouchers, rng, now)
}

/// Encodes each update as its own node tells it.
fn list(updates: impl IntoIterator<Item = (Arc<NodeKey>, Update)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, update) in updates {
        let mut codec = LifeCodec(Vouchers::new(key));
        codec.encode_member(&update, &mut bytes).unwrap();
    }
    bytes
}

/// Records a life as a proven link would.
fn introduce(who: &Roster, to: &Roster) {
    let life = who.vouchers.sign(who.engine.me().0);
    to.vouchers.remember(life.contact.node, life);
}

/// Delivers packets between two rosters until there are none left.
fn converse(now: Instant, a: &mut Roster, b: &mut Roster) {
    let mut counters = Counters::default();
    introduce(a, b);
    introduce(b, a);
    loop {
        let to_b: Vec<_> = std::iter::from_fn(|| a.poll_send()).collect();
        let to_a: Vec<_> = std::iter::from_fn(|| b.poll_send()).collect();
        if to_a.is_empty() && to_b.is_empty() {
            return;
        }
        for (_, data) in &to_b {
            b.handle_packet(now, at(1), data, |_| true, &mut counters)
                .unwrap();
        }
        for (_, data) in &to_a {
            a.handle_packet(now, at(2), data, |_| true, &mut counters)
                .unwrap();
        }
    }
}

#[test]
fn two_that_announce_know_each_other() {
    let now = Instant::now();
    let (mut a, mut b) = (roster(1, now), roster(2, now));
    a.announce(now, contact(2, 1));
    converse(now, &mut a, &mut b);
    assert_eq!(a.poll_change(), Some(RosterChange::Up(contact(2, 1))));
    assert_eq!(b.poll_change(), Some(RosterChange::Up(contact(1, 1))));
}

#[test]
fn a_node_that_learns_of_its_later_generation_continues_above_it() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let list = list([(key(1), Update::alive(MemberLife(contact(1, 70))))]);
    let merged = a.merge(now, at(2).0, &list, |_| true, &mut Counters::default());
    assert_eq!(merged, Ok(()));
    assert_eq!(a.poll_change(), Some(RosterChange::Renewed(contact(1, 71))));
}

#[test]
fn a_restart_with_an_earlier_generation_is_told_the_later_one() {
    let now = Instant::now();
    let (mut a, mut b) = (roster(1, now), roster(2, now));
    a.outlive(now, Generation(50));
    a.announce(now, contact(2, 1));
    converse(now, &mut a, &mut b);
    let mut restarted = roster(1, now);
    restarted.announce(now, contact(2, 1));
    let (_, data) = restarted.poll_send().unwrap();
    let known = b.handle_packet(now, at(1), &data, |_| true, &mut Counters::default());
    let Err(PacketRefusal::Outlived(later)) = known else {
        panic!("{known:?}");
    };
    assert_eq!(later.contact, contact(1, 51));
    assert_eq!(restarted.vouchers.check_life(&later), Ok(()));
}

#[test]
fn contradictions_about_a_generation_slow_down() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let mut counters = Counters::default();
    for generation in 0..100 {
        let update = Update::alive(MemberLife(contact(1, generation * 10)));
        let list = list([(key(1), update)]);
        a.merge(now, at(2).0, &list, |_| true, &mut counters)
            .unwrap();
    }
    let renewed = std::iter::from_fn(|| a.poll_change()).count();
    assert_eq!(renewed, RENEWALS_AT_ONCE as usize);
    assert!(counters.excess.too_many_renewals > 0);
}

/// Sends these updates from `a` to `b` in one packet.
fn tell(now: Instant, a: &Roster, b: &mut Roster, told: &[Update], counters: &mut Counters) {
    introduce(a, b);
    let header = Header {
        src: a.engine.me(),
        src_incarnation: 0,
        dst: b.engine.me(),
        message: foca::Message::Gossip,
    };
    let packet = encode(&header, told, &a.vouchers);
    let from = (header.src.0.node, header.src.0.address);
    let taken = b.handle_packet(now, from, &packet, |_| true, counters);
    assert_eq!(taken, Ok(None));
}

#[test]
fn suspicions_that_need_a_new_generation_renew_it_no_faster_than_contradictions() {
    let last = Incarnation::MAX;
    for suspicions in [&[last][..], &[last - 1, 0], &[last - 2, last - 1, last - 1]] {
        let now = Instant::now();
        let (a, mut b) = (roster(1, now), roster(2, now));
        let mut counters = Counters::default();
        for _ in 0..100 {
            for incarnation in suspicions {
                let me = b.engine.me();
                introduce(&b, &a);
                let told = Update::new(me, *incarnation, State::Suspect);
                tell(now, &a, &mut b, &[told], &mut counters);
            }
        }
        let changes = std::iter::from_fn(|| b.poll_change());
        let renewed = changes.filter(|it| matches!(it, RosterChange::Renewed(_)));
        assert!(
            renewed.count() <= RENEWALS_AT_ONCE as usize,
            "{suspicions:?}"
        );
    }
}

#[test]
fn a_claimed_end_of_a_live_nodes_next_generation_is_only_a_suspicion() {
    let now = Instant::now();
    let (mut a, mut b, c) = (roster(1, now), roster(2, now), roster(3, now));
    let mut counters = Counters::default();
    a.announce(now, contact(2, 1));
    converse(now, &mut a, &mut b);
    a.outlive(now, Generation(1));
    introduce(&a, &c);
    let over = Update::new(MemberLife(contact(1, 2)), 0, State::Down);
    tell(now, &c, &mut b, &[over], &mut counters);
    let changes: Vec<_> = std::iter::from_fn(|| b.poll_change()).collect();
    let is_gone = |it: &RosterChange| matches!(it, RosterChange::Down(_));
    assert!(!changes.iter().any(is_gone), "{changes:?}");
    assert_eq!(b.live().get(&key(1).node_id()), Some(&contact(1, 2)));
    let entries = b.engine.entries().map(|it| it.id().0.node);
    let of_a = entries.filter(|node| *node == key(1).node_id());
    assert_eq!(
        of_a.count(),
        1,
        "the later life replaced the entry of the earlier one"
    );
}

#[test]
fn a_node_declared_down_before_it_was_met_is_met_when_it_speaks() {
    let now = Instant::now();
    let (mut a, mut b, c) = (roster(1, now), roster(2, now), roster(3, now));
    introduce(&a, &c);
    let over = Update::new(MemberLife(contact(1, 1)), 0, State::Down);
    tell(now, &c, &mut b, &[over], &mut Counters::default());
    assert!(!b.live().contains_key(&key(1).node_id()));
    a.announce(now, contact(2, 1));
    converse(now, &mut a, &mut b);
    assert_eq!(b.live().get(&key(1).node_id()), Some(&contact(1, 1)));
    assert_eq!(a.engine.me().0, contact(1, 1));
}

#[test]
fn the_death_of_an_unknown_node_is_not_remembered() {
    let now = Instant::now();
    let (a, mut b, mut c) = (roster(1, now), roster(2, now), roster(3, now));
    introduce(&a, &c);
    let mut counters = Counters::default();
    let over = Update::new(MemberLife(contact(1, 1)), 0, State::Down);
    tell(now, &c, &mut b, std::slice::from_ref(&over), &mut counters);
    c.mark_down_silently(now, contact(1, 1));
    let list = c.export(|_| false);
    b.merge(now, at(3).0, &list, |_| true, &mut counters)
        .unwrap();
    let known: Vec<Contact> = b.engine.members().map(|(contact, _)| contact).collect();
    assert_eq!(known, [contact(3, 1)]);
}

#[test]
fn a_relayed_probe_goes_to_no_invented_address() {
    let now = Instant::now();
    let (mut a, mut b) = (roster(1, now), roster(2, now));
    let mut counters = Counters::default();
    a.announce(now, contact(2, 1));
    converse(now, &mut a, &mut b);
    let third = list([(key(3), Update::alive(MemberLife(contact(3, 1))))]);
    b.assume_members(now, &third);
    while b.poll_send().is_some() {}
    for (n, expected) in [(3, &[contact(3, 1)][..]), (4, &[])] {
        let target = MemberLife(Contact {
            address: contact(66, 1).address,
            ..contact(n, 1)
        });
        let probe_number = 7;
        let ask = foca::Message::PingReq {
            target,
            probe_number,
        };
        let answer = foca::Message::IndirectAck {
            target,
            probe_number,
        };
        for message in [ask, answer] {
            let header = Header {
                src: a.engine.me(),
                src_incarnation: 0,
                dst: b.engine.me(),
                message,
            };
            let packet = encode(&header, &[], &a.vouchers);
            let taken = b.handle_packet(now, at(1), &packet, |_| true, &mut counters);
            assert_eq!(taken, Ok(None));
            let sent = std::iter::from_fn(|| b.poll_send()).map(|(to, _)| to);
            assert_eq!(sent.collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn a_forged_generation_ahead_of_the_clock_is_blamed_on_its_sender() {
    let now = Instant::now();
    let (a, mut b) = (roster(1, now), roster(2, now));
    introduce(&a, &b);
    b.vouchers.set_clock(Some(1000));
    let ahead = contact(3, u64::MAX);
    let header = Header {
        src: a.engine.me(),
        src_incarnation: 0,
        dst: b.engine.me(),
        message: foca::Message::Gossip,
    };
    let told = Update::alive(MemberLife(ahead));
    for (signer, blamed, what) in [
        (3, key(3).node_id(), Offence::AheadOfClock),
        (1, key(1).node_id(), Offence::SpeaksForOthers),
    ] {
        let signature = Vouchers::new(key(signer)).sign(ahead).signature;
        let vouchers = Vouchers::new(key(1));
        let mut packet = encode(&header, std::slice::from_ref(&told), &vouchers);
        let from = packet.len() - signature.as_flattened().len();
        packet[from..].copy_from_slice(signature.as_flattened());
        let taken = b.handle_packet(now, at(1), &packet, |_| true, &mut Counters::default());
        assert_eq!(taken, Ok(Some((blamed, what))));
    }
}

#[test]
fn gossip_about_a_non_member_is_neither_checked_nor_stored() {
    let now = Instant::now();
    let (mut a, mut b) = (roster(1, now), roster(2, now));
    introduce(&a, &b);
    a.announce(now, contact(2, 1));
    let (_, packet) = a.poll_send().unwrap();
    let header = decode(&packet).unwrap().header;
    let header = Header {
        message: foca::Message::Gossip,
        ..header
    };
    let stranger = contact(3, 1);
    let told = [Update::alive(MemberLife(stranger))];
    let genuine = a.vouchers.clone();
    genuine.remember(stranger.node, Vouchers::new(key(3)).sign(stranger));
    let forger = Vouchers::new(key(1));
    let forged = SignedContact {
        contact: stranger,
        signature: [[7; 32]; 2],
    };
    forger.remember(stranger.node, forged);
    for vouchers in [genuine, forger] {
        let packet = encode(&header, &told, &vouchers);
        let is_member = |node: &NodeId| *node != stranger.node;
        let blame = b.handle_packet(now, at(1), &packet, is_member, &mut Counters::default());
        assert_eq!(blame, Ok(None));
        assert!(!b.vouchers.knows(&stranger));
    }
}

/// Returns the keys and lives of made-up nodes.
fn invented(count: usize) -> Vec<(Arc<NodeKey>, Update)> {
    let mut rng = StdRng::seed_from_u64(1);
    let invent = |_| {
        let key = Arc::new(NodeKey::from_seed(&rng.random()));
        let node = key.node_id();
        let contact = Contact {
            node,
            ..contact(9, 1)
        };
        (key, Update::alive(MemberLife(contact)))
    };
    (0..count).map(invent).collect()
}

/// Makes an invented node speak to `to` from the address `at`. Returns whether it is a member.
fn speak(now: Instant, to: &mut Roster, (key, life): &(Arc<NodeKey>, Update), at: [u8; 4]) -> bool {
    let contact = life.id().0;
    let signed = Vouchers::new(key.clone()).sign(contact);
    to.vouchers.remember(contact.node, signed);
    let header = Header {
        src: *life.id(),
        src_incarnation: 0,
        dst: to.engine.me(),
        message: foca::Message::Ping(7),
    };
    let packet = encode(&header, &[], &to.vouchers);
    let from = (contact.node, SocketAddr::from((at, 1378)));
    to.handle_packet(now, from, &packet, |_| true, &mut Counters::default())
        .unwrap();
    while to.poll_send().is_some() {}
    to.live().contains_key(&contact.node)
}

#[test]
fn a_member_that_tells_of_made_up_nodes_makes_few_of_them_members_and_few_tell_of_them() {
    let mut now = Instant::now();
    let mut a = roster(1, now);
    let mut counters = Counters::default();
    for some in invented(2 * MEMBERS_MAX).chunks(512) {
        let list = list(some.iter().cloned());
        a.merge(now, at(2).0, &list, |_| true, &mut counters)
            .unwrap();
    }
    assert!(a.live().is_empty());
    assert!(counters.excess.too_many_members > 0);
    let end = now + Duration::from_secs(600);
    while let Some(due) = a.poll_timeout().filter(|due| *due < end) {
        now = due;
        a.handle_timeout(now);
        while a.poll_send().is_some() {}
        while a.poll_greeting().is_some() {}
        let entries = a.engine.members().count();
        assert!(entries <= UNMET_PER_TELLER_MAX, "{entries}");
        assert_eq!(decode_list(&a.export(|_| false)).unwrap().len(), 1);
    }
}

#[test]
fn the_table_of_members_is_bounded_and_a_node_of_another_host_finds_room() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let crowd = invented(MEMBERS_MAX + 10);
    for one in &crowd {
        speak(now, &mut a, one, [10, 0, 0, 9]);
    }
    assert_eq!(a.live().len(), MEMBERS_MAX);
    let mut newcomer = roster(2, now);
    newcomer.announce(now, contact(1, 1));
    let (_, packet) = newcomer.poll_send().unwrap();
    introduce(&newcomer, &a);
    a.handle_packet(now, at(2), &packet, |_| true, &mut Counters::default())
        .unwrap();
    assert!(a.live().contains_key(&at(2).0));
    assert_eq!(a.live().len(), MEMBERS_MAX);
    for one in &crowd {
        speak(now, &mut a, one, [10, 0, 0, 9]);
    }
    assert!(
        a.live().contains_key(&at(2).0),
        "the crowd displaces itself"
    );
    assert_eq!(a.live().len(), MEMBERS_MAX);
}

#[test]
fn a_member_that_speaks_displaces_one_that_was_only_told_of() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let crowd = invented(MEMBERS_MAX + 1);
    let (told, crowd) = crowd.split_first().unwrap();
    let told_list = list([told.clone()]);
    a.merge(now, at(2).0, &told_list, |_| true, &mut Counters::default())
        .unwrap();
    let later = a.poll_timeout().unwrap();
    a.handle_timeout(later);
    let told = told.1.id().0.node;
    assert!(a.live().contains_key(&told) && a.is_unmet(&told));
    for one in crowd {
        assert!(speak(later, &mut a, one, [10, 0, 0, 9]));
    }
    assert!(!a.live().contains_key(&told));
    assert_eq!(a.live().len(), MEMBERS_MAX);
}

#[test]
fn members_of_a_full_table_reach_each_other_despite_news_of_more() {
    let now = Instant::now();
    let (mut a, mut b) = (roster(1, now), roster(2, now));
    let mut counters = Counters::default();
    a.announce(now, contact(2, 1));
    converse(now, &mut a, &mut b);
    let mut crowd = invented(MEMBERS_MAX);
    let (more_key, more) = crowd.pop().unwrap();
    for one in &crowd {
        speak(now, &mut a, one, [10, 0, 0, 9]);
    }
    assert_eq!(a.live().len(), MEMBERS_MAX);
    introduce(&roster(2, now), &a);
    let told = Vouchers::new(more_key).sign(more.id().0);
    b.vouchers.remember(told.contact.node, told);
    for told in [&[][..], &[more]] {
        let header = Header {
            src: b.engine.me(),
            src_incarnation: 0,
            dst: a.engine.me(),
            message: foca::Message::Ping(7),
        };
        let packet = encode(&header, told, &b.vouchers);
        let from = (header.src.0.node, header.src.0.address);
        a.handle_packet(now, from, &packet, |_| true, &mut counters)
            .unwrap();
        let answers = std::iter::from_fn(|| a.poll_send());
        assert_eq!(answers.filter(|(to, _)| to.node == from.0).count(), 1);
    }
    assert_eq!(a.live().len(), MEMBERS_MAX);
}

#[test]
fn an_invalid_list_changes_nothing() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let mut counters = Counters::default();
    let bad = Err(ClusterError::BadMemberList);
    assert_eq!(
        a.merge(now, at(2).0, &[255; 40], |_| true, &mut counters),
        bad
    );
    let long = vec![0; MEMBER_LIST_MAX_BYTES + 1];
    assert_eq!(a.merge(now, at(2).0, &long, |_| true, &mut counters), bad);
    assert!(a.live().is_empty() && a.poll_change().is_none());
}
