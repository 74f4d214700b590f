//! Tests of claims about a node that the node did not sign.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::roster::Roster;

/// Sends a frame from node 1 to the others in its own name, whatever the content.
fn node_1_says(table: &mut Table, to: &[u8], frame: &DatagramFrame) {
    let now = table.now;
    for peer in to {
        let links = &mut table.seat(1).lives.links;
        links.send(now, address(*peer), frame.clone());
    }
    table.run(Duration::from_secs(3));
}

#[test]
fn an_unsigned_departure_removes_no_node_and_names_the_liar() {
    let mut table = Table::of(3);
    let who = table.seat(3).me();
    for generation in [who.generation, Generation(u64::MAX)] {
        let who = Member { generation, ..who };
        let how = p2pfs_proto::wire::native::udp::Farewell::Final;
        let rumor = Rumor::Departure(Vouchers::new(key(1)).sign_departure(who, how));
        node_1_says(&mut table, &[2, 3], &DatagramFrame::Rumors(vec![rumor]));
    }
    let offended = Event::Offended {
        node: node(1),
        what: Offence::SpeaksForOthers,
    };
    for n in [2, 3] {
        let told = table.told(n);
        assert_eq!(told.iter().filter(|e| **e == offended).count(), 1);
        assert!(
            !told
                .iter()
                .any(|e| matches!(e, Event::Down { .. } | Event::Renewed { .. }))
        );
    }
    assert!(table.seat(2).live().any(|member| member == who));
}

#[test]
fn an_endless_forger_is_checked_only_a_bounded_number_of_times() {
    let mut table = Table::of(3);
    let (now, who) = (table.now, table.seat(3).me());
    let how = p2pfs_proto::wire::native::udp::Farewell::Final;
    let rumor = Rumor::Departure(Vouchers::new(key(1)).sign_departure(who, how));
    for _ in 0..100 {
        let frame = DatagramFrame::Rumors(vec![rumor.clone()]);
        table.seat(1).lives.links.send(now, address(2), frame);
    }
    table.exchange();
    let counters = table.seat(2).counters();
    assert!((1..50).contains(&counters.untrusted.forged), "{counters:?}");
    assert!(counters.excess.flooding >= 50, "{counters:?}");
}

#[test]
fn an_unsigned_generation_is_refused_in_gossip_lists_and_answers() {
    let mut table = Table::of(3);
    let who = table.seat(3).me();
    let forged = Member {
        generation: Generation(u64::MAX),
        address: address(66),
        ..who
    };
    // A packet of the engine, a member list, and the claim that a node is outlived.
    let liar = Vouchers::new(key(1));
    let signed = p2pfs_proto::wire::native::udp::SignedContact {
        contact: forged,
        signature: liar.sign(forged).signature,
    };
    liar.remember(who.node, signed);
    let known = liar.later(&who).unwrap();
    node_1_says(&mut table, &[3], &DatagramFrame::Outlived { known });
    let now = table.now;
    let me = table.seat(1).me();
    let mut roster = Roster::new(
        &ClusterConfig::default(),
        me,
        liar,
        StdRng::from_seed([1; 32]),
        now,
    );
    roster.mark_down_silently(now, forged);
    let list = roster.export(|_| false);
    let merged = table.seat(2).merge_members(now, me.node, &list);
    assert_eq!(merged, Err(ClusterError::ForgedMemberList));
    let peer = table.seat(2).me();
    roster.announce(now, peer);
    while let Some((_, packet)) = roster.poll_send() {
        node_1_says(&mut table, &[2], &DatagramFrame::Swim(packet));
    }
    assert!(table.seat(2).live().any(|member| member == who));
    assert_eq!(table.seat(3).me(), who);
}

/// Returns the claim that this life is over as node 1 could send it: in a list, and in engine
/// packets.
fn calls_gone(table: &mut Table, who: Member, to: u8) -> (Bytes, Vec<Bytes>) {
    let (now, me) = (table.now, table.seat(1).me());
    let vouchers = table.seat(1).lives.admission.vouchers.clone();
    // A node with a short suspicion calls others gone early.
    let hasty = ClusterConfig {
        suspicion: Duration::from_millis(10),
        ..ClusterConfig::default()
    };
    let member = |n: u8| {
        let rng = StdRng::from_seed([n; 32]);
        Roster::new(&hasty, me, vouchers.clone(), rng, now)
    };
    let (mut teller, mut liar) = (member(1), member(2));
    teller.mark_down_silently(now, who);
    let list = teller.export(|_| false);
    let counters = &mut Counters::default();
    let (others, peer) = (table.seat(to).export_members(), table.seat(to).me());
    let is_it = |node: &NodeId| [peer.node, who.node].contains(node);
    liar.assume_members(now, &others);
    liar.merge(now, me.node, &list, is_it, counters).unwrap();
    let end = now + Duration::from_millis(500);
    while let Some(at) = liar.poll_timeout().filter(|at| *at < end) {
        liar.handle_timeout(at);
    }
    let packets = std::iter::from_fn(|| liar.poll_send());
    let packets = packets.map(|(_, packet)| packet).collect();
    (list, packets)
}

#[test]
fn a_node_repeatedly_declared_dead_by_one_member_contradicts_and_stays() {
    for in_lists in [true, false] {
        let mut table = Table::of(4);
        for _ in 0..20 {
            let who = table.seat(3).me();
            let (list, packets) = calls_gone(&mut table, who, 2);
            assert!(!packets.is_empty());
            let now = table.now;
            if in_lists {
                table.seat(2).merge_members(now, node(1), &list).unwrap()
            } else {
                packets.iter().for_each(|packet| {
                    node_1_says(&mut table, &[2], &DatagramFrame::Swim(packet.clone()));
                })
            }
            table.run(Duration::from_secs(3));
        }
        let is_missed = |e: &Event| matches!(e, Event::Down { .. } | Event::Renewed { .. });
        for n in 1..=4 {
            let told = table.told(n);
            assert!(!told.iter().any(is_missed), "{in_lists}, {n}: {told:?}");
        }
        let who = table.seat(3).me();
        assert!(table.seat(2).live().any(|member| member == who));
        let states = table.seat(2).members();
        let state = states.iter().find(|it| it.member == who).map(|it| it.state);
        assert_eq!(state, Some(MemberState::Alive), "{in_lists}");
    }
}

#[test]
fn a_dead_node_known_through_one_member_alone_is_given_up() {
    let mut table = Table::of(3);
    let who = table.seat(3).me();
    table.seats.remove(&address(3));
    let (list, _) = calls_gone(&mut table, who, 2);
    let now = table.now;
    table.seat(2).merge_members(now, node(1), &list).unwrap();
    table.run(Duration::from_secs(5));
    assert!(!table.seat(2).live().any(|member| member == who));
}

/// Returns a node that starts with a clock of `unix_s`.
fn started_at(n: u8, unix_s: u64, seeds: &[u8], now: Instant) -> Cluster {
    let config = config_with_seeds(seeds);
    let trust = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
    let generation = Generation(unix_s);
    let mut started = Cluster::new(config, key(n), address(n), generation, trust, 7, now);
    started.set_clock(now, Some(unix_s));
    started
}

const FUTURE_S: u64 = 1000 + GENERATION_AHEAD_MAX_S + 3600;

#[test]
fn a_start_far_in_the_future_is_refused_and_reported_until_the_clock_is_right() {
    let now = Instant::now();
    let early = started_at(1, 1000, &[], now);
    let late = started_at(2, FUTURE_S, &[1], now);
    let seats = [(address(1), early), (address(2), late)].into();
    let mut table = Table::with(seats, now);
    table.run(Duration::from_secs(5));
    assert_eq!(table.seat(1).live().count(), 0);
    assert!(table.seat(1).counters().untrusted.ahead_of_clock > 0);
    let now = table.now;
    table.seat(2).set_clock(now, Some(1005));
    assert_eq!(table.seat(2).me().generation, Generation(1005));
    table.run(Duration::from_secs(5));
    let expected = table.seat(2).me();
    assert_eq!(table.seat(1).live().collect::<Vec<_>>(), [expected]);
    assert_eq!(table.seat(2).live().count(), 1);
}

#[test]
fn nodes_that_began_in_the_future_keep_together_once_their_clocks_are_right() {
    let now = Instant::now();
    let future = |n, seeds: &[u8]| (address(n), started_at(n, FUTURE_S, seeds, now));
    let right = started_at(3, 1000, &[1], now);
    let seats = [future(1, &[]), future(2, &[1]), (address(3), right)].into();
    let mut table = Table::with(seats, now);
    table.run(Duration::from_secs(5));
    assert_eq!(table.seat(1).live().count(), 1);
    for n in [1, 2] {
        let now = table.now;
        table.seat(n).set_clock(now, Some(1005));
        table.run(Duration::from_secs(2));
    }
    table.run(Duration::from_secs(60));
    for n in [1, 2, 3] {
        assert_eq!(table.seat(n).live().count(), 2, "{n}");
    }
}

#[test]
fn a_node_keeps_its_life_if_its_clock_is_set_far_back() {
    let now = Instant::now();
    let old = started_at(1, 1000, &[], now);
    let young = started_at(2, FUTURE_S, &[1], now);
    let mut table = Table::with([(address(1), old), (address(2), young)].into(), now);
    table.seat(1).set_clock(now, Some(FUTURE_S));
    table.run(Duration::from_secs(5));
    let (now, me) = (table.now, table.seat(2).me());
    table.seat(2).set_clock(now, Some(1000));
    table.run(Duration::from_secs(5));
    assert_eq!(table.seat(2).me(), me);
    assert_eq!(table.seat(1).live().count(), 1);
}
