//! What is said of a node and not signed by it.

use super::*;

/// What node 1 sends to the others in its own name, whatever it says.
fn node_1_says(table: &mut Table, to: &[u8], frame: &Frame) {
    let now = table.now;
    for peer in to {
        let links = &mut table.seat(1).links;
        links.send(now, address(*peer), frame.clone());
    }
    table.run(Duration::from_secs(3));
}

#[test]
fn a_departure_that_its_node_did_not_sign_puts_nobody_out_and_names_the_liar() {
    let mut table = Table::of(3);
    let who = table.seat(3).me();
    for generation in [who.generation, Generation(u64::MAX)] {
        let who = Member { generation, ..who };
        let how = crate::wire::native::udp::Farewell::Final;
        let rumor = Rumor::Departure(Vouchers::new(key(1)).sign_departure(who, how));
        node_1_says(&mut table, &[2, 3], &Frame::Rumors(vec![rumor]));
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
fn a_life_that_its_node_did_not_sign_is_refused_in_gossip_lists_and_answers() {
    let mut table = Table::of(3);
    let who = table.seat(3).me();
    let forged = Member {
        generation: Generation(u64::MAX),
        address: address(66),
        ..who
    };
    // a packet of the engine, a member list, and the word that a node is outlived
    let liar = Vouchers::new(key(1));
    liar.keep(crate::wire::native::udp::SignedContact {
        contact: forged,
        signature: liar.sign(forged).signature,
    });
    let known = liar.later(&who).unwrap();
    node_1_says(&mut table, &[3], &Frame::Outlived { known });
    let now = table.now;
    let me = table.seat(1).me();
    let mut roster = Roster::new(
        &ClusterConfig::default(),
        me,
        liar,
        StdRng::from_seed([1; 32]),
        now,
    );
    roster.take_as_down(now, forged);
    let list = roster.export(|_| false);
    table.seat(2).merge_members(now, &list).unwrap();
    let peer = table.seat(2).me();
    roster.announce(now, peer);
    while let Some((_, packet)) = roster.poll_send() {
        node_1_says(&mut table, &[2], &Frame::Swim(packet));
    }
    assert!(table.seat(2).live().any(|member| member == who));
    assert_eq!(table.seat(3).me(), who);
}

#[test]
fn a_start_long_after_now_is_refused_and_told_of() {
    let now = Instant::now();
    let mut early = cluster_at(1, address(1), &[], now);
    early.set_clock(Some(0));
    let config = ClusterConfig {
        seeds: vec![address(1)],
        ..ClusterConfig::default()
    };
    let keyring = Arc::new(Keyring::in_memory(EpochSecret::new([1; 32])));
    let late = Generation(GENERATION_AHEAD_MAX_S + 1);
    let late = Cluster::new(config, key(2), address(2), late, keyring, 7, now);
    let seats = [(address(1), early), (address(2), late)].into();
    let mut table = Table::with(seats, now);
    table.run(Duration::from_secs(5));
    assert_eq!(table.seat(1).live().count(), 0);
    assert!(table.seat(1).counters().ahead_of_clock > 0);
}
