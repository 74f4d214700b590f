//! Promises of the roster, by hand-carried packets.

use std::sync::Arc;

use super::*;
use crate::trust::NodeKey;
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

fn roster(n: u8, now: Instant) -> Roster {
    let rng = StdRng::seed_from_u64(u64::from(n));
    let vouchers = Vouchers::new(key(n));
    Roster::new(&ClusterConfig::default(), contact(n, 1), vouchers, rng, now)
}

/// Each of these as its own node tells it.
fn list(updates: impl IntoIterator<Item = (Arc<NodeKey>, Update)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, update) in updates {
        let mut codec = LifeCodec(Vouchers::new(key));
        codec.encode_member(&update, &mut bytes).unwrap();
    }
    bytes
}

/// What a link has proven.
fn introduce(who: &Roster, to: &Roster) {
    to.vouchers.keep(who.vouchers.sign(who.engine.identity().0));
}

/// Delivers until nothing is left to say; for two rosters.
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
            b.handle_packet(now, key(1).node_id(), data, |_| true, &mut counters)
                .unwrap();
        }
        for (_, data) in &to_a {
            a.handle_packet(now, key(2).node_id(), data, |_| true, &mut counters)
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
    assert_eq!(a.poll_change(), Some(Change::Up(contact(2, 1))));
    assert_eq!(b.poll_change(), Some(Change::Up(contact(1, 1))));
}

#[test]
fn a_node_that_hears_a_later_life_of_itself_goes_on_after_it() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let list = list([(key(1), Update::alive(Life(contact(1, 70))))]);
    assert!(a.merge(now, &list, |_| true, &mut Counters::default()));
    assert_eq!(a.poll_change(), Some(Change::Renewed(contact(1, 71))));
}

#[test]
fn a_restart_with_an_earlier_generation_is_told_of_the_later_one() {
    let now = Instant::now();
    let (mut a, mut b) = (roster(1, now), roster(2, now));
    a.outlive(now, Generation(50));
    a.announce(now, contact(2, 1));
    converse(now, &mut a, &mut b);
    let mut restarted = roster(1, now);
    restarted.announce(now, contact(2, 1));
    let (_, data) = restarted.poll_send().unwrap();
    let known = b.handle_packet(
        now,
        key(1).node_id(),
        &data,
        |_| true,
        &mut Counters::default(),
    );
    let Err(Refused::Outlived(later)) = known else {
        panic!("{known:?}");
    };
    assert_eq!(later.contact, contact(1, 51));
    assert_eq!(restarted.vouchers.check_life(&later), Ok(()));
}

#[test]
fn quarrels_about_a_generation_slow_down() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let mut counters = Counters::default();
    for generation in 0..100 {
        let update = Update::alive(Life(contact(1, generation * 10)));
        a.merge(now, &list([(key(1), update)]), |_| true, &mut counters);
    }
    let renewed = std::iter::from_fn(|| a.poll_change()).count();
    assert_eq!(renewed, RENEWALS_AT_ONCE as usize);
    assert!(counters.too_many_renewals > 0);
}

#[test]
fn what_gossip_tells_of_who_is_no_member_is_neither_checked_nor_kept() {
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
    let told = [Update::alive(Life(stranger))];
    let genuine = a.vouchers.clone();
    genuine.keep(Vouchers::new(key(3)).sign(stranger));
    let forger = Vouchers::new(key(1));
    forger.keep(SignedContact {
        contact: stranger,
        signature: [[7; 32]; 2],
    });
    for vouchers in [genuine, forger] {
        let packet = encode(&header, &told, &vouchers);
        let is_member = |node: &NodeId| *node != stranger.node;
        let blame = b.handle_packet(
            now,
            key(1).node_id(),
            &packet,
            is_member,
            &mut Counters::default(),
        );
        assert_eq!(blame, Ok(None));
        assert!(!b.vouchers.knows(&stranger));
    }
}

#[test]
fn the_table_of_members_has_an_end() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let mut counters = Counters::default();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..2 * MEMBERS_MAX / 64 {
        let update = |_| {
            let key = Arc::new(NodeKey::from_seed(&rng.random()));
            let node = key.node_id();
            let contact = Contact {
                node,
                ..contact(9, 1)
            };
            (key, Update::alive(Life(contact)))
        };
        let updates: Vec<_> = (0..64).map(update).collect();
        a.merge(now, &list(updates), |_| true, &mut counters);
    }
    assert!(a.live().len() <= MEMBERS_MAX);
    assert!(counters.too_many_members > 0);
}

#[test]
fn a_list_that_is_none_changes_nothing() {
    let now = Instant::now();
    let mut a = roster(1, now);
    let mut counters = Counters::default();
    assert!(!a.merge(now, &[255; 40], |_| true, &mut counters));
    assert!(!a.merge(
        now,
        &vec![0; MEMBER_LIST_MAX_BYTES + 1],
        |_| true,
        &mut counters
    ));
    assert!(a.live().is_empty() && a.poll_change().is_none());
}
