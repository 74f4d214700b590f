//! Nodes that are not at the address which they advertise.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;
use p2pfs_proto::wire::native::udp::HELLO_BYTES;

const NAT_IP: [u8; 4] = [198, 51, 100, 1];

/// How a NAT maps one inside address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum NatKind {
    /// One outside port, whatever the destination.
    Cone,
    /// One outside port for each destination.
    Symmetric,
}

/// A router that translates addresses of 10.1.0.0/16 and drops unsolicited datagrams.
struct Nat {
    kind: NatKind,
    next_port: u16,
    /// Outside port of each inside address, and its destination if the NAT is symmetric.
    ports: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    solicited: BTreeSet<(u16, SocketAddr)>,
}

fn is_inside(address: SocketAddr) -> bool {
    address.to_string().starts_with("10.1.")
}

impl Nat {
    fn new(kind: NatKind) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            kind,
            next_port: 40_000,
            ports: BTreeMap::new(),
            solicited: BTreeSet::new(),
        }))
    }

    fn forget(&mut self) {
        self.ports.clear();
        self.solicited.clear();
    }

    fn path(&mut self, from: SocketAddr, to: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        match (is_inside(from), is_inside(to)) {
            (true, true) => Some((from, to)),
            (true, false) => {
                let each = (self.kind == NatKind::Symmetric).then_some(to);
                let port = *self.ports.entry((from, each)).or_insert_with(|| {
                    self.next_port += 1;
                    self.next_port
                });
                self.solicited.insert((port, to));
                Some((SocketAddr::from((NAT_IP, port)), to))
            }
            (false, true) => None,
            (false, false) if to.ip() == SocketAddr::from((NAT_IP, 0)).ip() => {
                let is_mapped = |(_, port): &(_, &u16)| **port == to.port();
                let ((inside, _), port) = self.ports.iter().find(is_mapped)?;
                self.solicited
                    .contains(&(*port, from))
                    .then_some((from, *inside))
            }
            (false, false) => Some((from, to)),
        }
    }
}

fn inside(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, n], 1378))
}

/// Seats nodes 1 to `public` at public addresses, and one more at each of `elsewhere`. All have
/// node 1 as their seed.
fn table(public: u8, elsewhere: &[SocketAddr]) -> Table {
    let now = Instant::now();
    let all = (1..=public).map(address).chain(elsewhere.iter().copied());
    let seat = |(n, at): (u8, SocketAddr)| (at, cluster_at(n, at, &[1], now));
    Table::with((1..).zip(all).map(seat).collect(), now)
}

fn live(table: &Table) -> Vec<usize> {
    table.seats.values().map(|it| it.live().count()).collect()
}

fn downs(table: &Table) -> usize {
    let is_down = |(_, event): &&(SocketAddr, Event)| matches!(event, Event::Down { .. });
    table.events.iter().filter(is_down).count()
}

#[test]
fn a_node_behind_a_nat_is_a_member_on_both_sides() {
    for kind in [NatKind::Cone, NatKind::Symmetric] {
        let nat = Nat::new(kind);
        let mut table = table(3, &[inside(2)]);
        table.path = Box::new(move |from, to| nat.borrow_mut().path(from, to));
        table.run(Duration::from_secs(5));
        assert_eq!(live(&table), [3, 3, 3, 3], "{kind:?}");
        table.run(Duration::from_secs(300));
        assert_eq!(live(&table), [3, 3, 3, 3], "{kind:?}");
        assert_eq!(downs(&table), 0, "{kind:?}");
        let seen = table.seat(1).live().find(|it| it.node == node(4)).unwrap();
        assert_eq!(seen.address, SocketAddr::from((NAT_IP, 1378)));
    }
}

#[test]
fn nodes_behind_two_nats_are_members_of_each_other() {
    let (one, other) = (Nat::new(NatKind::Symmetric), Nat::new(NatKind::Cone));
    let far = SocketAddr::from(([10, 1, 9, 9], 1378));
    let mut table = table(2, &[inside(2), far]);
    table.path = Box::new(
        move |from, to| match (from == far, is_inside(from), is_inside(to)) {
            (_, _, true) => None,
            (true, _, _) => {
                let (mapped, to) = other.borrow_mut().path(from, to)?;
                let mapped = SocketAddr::from(([198, 51, 100, 2], mapped.port()));
                (to.ip() != SocketAddr::from((NAT_IP, 0)).ip()).then_some((mapped, to))
            }
            (_, true, _) => one.borrow_mut().path(from, to),
            _ if to.ip() == SocketAddr::from(([198, 51, 100, 2], 0)).ip() => {
                let to = SocketAddr::from((NAT_IP, to.port()));
                other.borrow_mut().path(from, to)
            }
            _ => one.borrow_mut().path(from, to),
        },
    );
    table.run(Duration::from_secs(10));
    assert_eq!(live(&table), [3, 3, 3, 3]);
    table.run(Duration::from_secs(300));
    assert_eq!((live(&table), downs(&table)), (vec![3, 3, 3, 3], 0));
}

#[test]
fn a_nat_that_forgets_its_mappings_costs_less_than_30_seconds() {
    for kind in [NatKind::Cone, NatKind::Symmetric] {
        let nat = Nat::new(kind);
        let path = nat.clone();
        let mut table = table(2, &[inside(2)]);
        table.path = Box::new(move |from, to| path.borrow_mut().path(from, to));
        table.run(Duration::from_secs(10));
        for _ in 0..5 {
            nat.borrow_mut().forget();
            table.run(Duration::from_secs(30));
            assert_eq!(live(&table), [2, 2, 2], "{kind:?}");
            let body = Bytes::from_static(b"after");
            let now = table.now;
            table.events.clear();
            table.seat(1).send(now, node(3), body.clone()).unwrap();
            table.exchange();
            let event = Event::Message {
                from: node(1),
                body,
            };
            assert!(table.events.contains(&(inside(2), event)), "{kind:?}");
        }
    }
}

#[test]
fn a_translated_node_sends_to_each_member_often_enough_to_keep_a_mapping() {
    let nat = Nat::new(NatKind::Cone);
    let mut table = table(40, &[inside(2)]);
    table.path = Box::new(move |from, to| nat.borrow_mut().path(from, to));
    table.run(Duration::from_secs(20));
    let (now, list) = (table.now, table.seat(1).export_members());
    for cluster in table.seats.values_mut() {
        cluster.merge_members(now, node(1), &list).unwrap();
    }
    table.run(Duration::from_secs(5));
    assert!(
        live(&table).iter().all(|it| *it == 40),
        "{:?}",
        live(&table)
    );
    for _ in 0..4 {
        table.recorded.clear();
        table.run(Duration::from_secs(30));
        let sent = table.recorded.iter().filter(|(from, _)| *from == inside(2));
        let to: BTreeSet<_> = sent.map(|(_, transmit)| transmit.to).collect();
        let silent: Vec<_> = (1..=40).filter(|n| !to.contains(&address(*n))).collect();
        assert!(silent.is_empty(), "{silent:?}");
    }
}

/// Returns the path between two networks, 10.0.0.0/24 and 10.2.0.0/24, with one node at `home` in
/// the first and at `second` in the other.
fn two_lans(
    home: SocketAddr,
    second: SocketAddr,
    is_cut: Rc<RefCell<bool>>,
) -> impl FnMut(SocketAddr, SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    let is_second = |at: SocketAddr| at.to_string().starts_with("10.2.");
    move |from, to| {
        let is_crossing = from == home && is_second(to);
        let from = if is_crossing { second } else { from };
        let crosses = is_second(from) != is_second(to);
        let is_down = *is_cut.borrow() && !is_second(to);
        let seat = if to == second { home } else { to };
        (!crosses && !is_down).then_some((from, seat))
    }
}

#[test]
fn each_peer_uses_the_address_at_which_a_node_with_two_network_cards_was_proven() {
    let now = Instant::now();
    let second = SocketAddr::from(([10, 2, 0, 1], 1378));
    let near = SocketAddr::from(([10, 2, 0, 5], 1378));
    let mut table = table(2, &[near]);
    table.path = Box::new(two_lans(address(1), second, Rc::default()));
    let there = table.seats.get_mut(&near).unwrap();
    there.add_seed(now, second);
    table.run(Duration::from_secs(5));
    let of_1 = |table: &Table, at| {
        let mut live = table.seats[&at].live();
        live.find(|it| it.node == node(1)).map(|it| it.address)
    };
    assert_eq!(of_1(&table, address(2)), Some(address(1)));
    assert_eq!(of_1(&table, near), Some(second));
    let told = Event::Up(Member {
        address: second,
        ..table.seats[&address(1)].me()
    });
    assert!(table.events.contains(&(near, told)));
    table.run(Duration::from_secs(120));
    assert_eq!(
        table.seats[&near].live().count(),
        2,
        "node 2 by what node 1 says"
    );
    assert_eq!(downs(&table), 0);
}

#[test]
fn a_member_whose_network_card_fails_is_reached_at_its_other_address_without_being_down() {
    let now = Instant::now();
    let is_cut = Rc::default();
    let at = |n: u8| SocketAddr::from(([10, 2, 0, n], 1378));
    let seats = [1, 2].map(|n| (address(n), cluster_at(n, address(n), &[1], now)));
    let mut table = Table::with(seats.into(), now);
    let mut lans = [1, 2].map(|n| two_lans(address(n), at(n), Rc::clone(&is_cut)));
    table.path = Box::new(move |from, to| {
        let [one, other] = &mut lans;
        let (from, to) = if from == address(1) {
            one(from, to)?
        } else {
            other(from, to)?
        };
        let to = if to == at(1) { address(1) } else { to };
        Some((from, if to == at(2) { address(2) } else { to }))
    });
    table.run(Duration::from_secs(2));
    table.seat(1).hint(now, at(2));
    table.run(Duration::from_secs(2));
    *is_cut.borrow_mut() = true;
    table.run(Duration::from_secs(30));
    assert_eq!((live(&table), downs(&table)), (vec![1, 1], 0));
    let seen = table.seat(1).live().next().map(|it| it.address);
    assert_eq!(seen, Some(at(2)));
    let moved = |(_, event): &(_, Event)| matches!(event, Event::Moved(it) if it.address == at(2));
    assert!(table.events.iter().any(moved));
}

/// Runs three nodes whose addresses all change at once, and returns the time until all are members
/// of each other again. Each notices its new address 5 s later. `find` lets them find each other.
fn time_to_rejoin(find: impl Fn(&mut Table)) -> Duration {
    let moved =
        |at: SocketAddr| SocketAddr::new([10, 9, 0, at.to_string().as_bytes()[7]].into(), 1378);
    let mut table = Table::of(3);
    let before: Vec<_> = table.seats.keys().copied().collect();
    let has_moved = Rc::new(RefCell::new(false));
    let is_new = Rc::clone(&has_moved);
    table.path = Box::new(move |from, to| {
        if !*is_new.borrow() {
            return Some((from, to));
        }
        let seat = before.iter().find(|at| moved(**at) == to)?;
        Some((moved(from), *seat))
    });
    *has_moved.borrow_mut() = true;
    let start = table.now;
    table.run(Duration::from_secs(5));
    let now = table.now;
    for (at, cluster) in &mut table.seats {
        cluster.move_to(now, moved(*at));
    }
    find(&mut table);
    while table.now < start + Duration::from_secs(900) {
        table.run(Duration::from_millis(100));
        let is_whole = |it: &Cluster| {
            it.live().count() == 2
                && it
                    .live()
                    .all(|it| it.address.to_string().starts_with("10.9."))
        };
        if table.seats.values().all(is_whole) {
            break;
        }
    }
    table.now - start
}

#[test]
fn members_whose_addresses_all_change_at_once_are_together_again_within_30_seconds() {
    let digit = |n: u8| b'0' + n;
    let at = |n: u8| SocketAddr::from(([10, 9, 0, digit(n)], 1378));
    let by_hints = time_to_rejoin(|table| {
        let now = table.now;
        for n in 1..=3 {
            for other in (1..=3).filter(|other| *other != n) {
                table.seat(n).hint(now, at(other));
            }
        }
    });
    assert!(by_hints < Duration::from_secs(30), "{by_hints:?}");
    let by_seed = time_to_rejoin(|table| {
        let now = table.now;
        for n in 2..=3 {
            table.seat(n).add_seed(now, at(1));
        }
    });
    assert!(by_seed < Duration::from_secs(30), "{by_seed:?}");
}

#[test]
fn a_member_that_advertises_a_strangers_address_makes_others_send_it_only_some_hellos() {
    let victim = SocketAddr::from(([203, 0, 113, 9], 1378));
    let now = Instant::now();
    let mut seats: BTreeMap<_, _> = (1..=3)
        .map(|n| (address(n), cluster_at(n, address(n), &[1], now)))
        .collect();
    seats.insert(address(4), cluster_at(4, victim, &[1, 2, 3], now));
    let mut table = Table::with(seats, now);
    table.run(Duration::from_secs(30));
    assert_eq!(
        live(&table),
        [3, 3, 3, 3],
        "it is reached where it was proven"
    );
    let to_victim: Vec<_> = table
        .recorded
        .iter()
        .filter(|(_, it)| it.to == victim)
        .collect();
    assert!(
        to_victim
            .iter()
            .all(|(_, it)| it.datagram.len() == HELLO_BYTES)
    );
    assert!(to_victim.len() <= 3 * 10, "{} hellos", to_victim.len());
    let seen = table.seat(2).live().find(|it| it.node == node(4)).unwrap();
    assert_eq!(seen.address, address(4));
}

#[test]
fn an_answer_from_another_address_than_was_greeted_proves_nothing_by_itself() {
    let other = SocketAddr::from(([10, 0, 0, 77], 1378));
    let mut table = table(2, &[]);
    // Node 1 answers from an address at which it cannot be reached.
    table.path =
        Box::new(move |from, to| Some((if from == address(1) { other } else { from }, to)));
    table.run(Duration::from_secs(5));
    assert!(table.seat(2).live().all(|it| it.address != other));
    assert!(table.recorded.iter().any(|(_, it)| it.to == other));
    let sent = table.recorded.iter().filter(|(_, it)| it.to == other);
    assert!(
        sent.into_iter()
            .all(|(_, it)| it.datagram.len() == HELLO_BYTES)
    );
    // It is used once it answers.
    table.path = Box::new(move |from, to| {
        let to = if to == other { address(1) } else { to };
        Some((if from == address(1) { other } else { from }, to))
    });
    table.run(Duration::from_secs(60));
    let seen = table.seat(2).live().next().map(|it| it.address);
    assert_eq!(seen, Some(other));
}

#[test]
fn the_addresses_of_one_node_are_limited() {
    let mut table = Table::of(2);
    let other = Rc::new(RefCell::new(address(2)));
    let used = Rc::clone(&other);
    table.path = Box::new(move |from, to| {
        let from = if from == address(2) {
            *used.borrow()
        } else {
            from
        };
        Some((from, if to == *used.borrow() { address(2) } else { to }))
    });
    for n in 0..3 * config::ROUTES_MAX as u8 {
        *other.borrow_mut() = SocketAddr::from(([10, 0, 7, n], 1378));
        table.run(Duration::from_secs(5));
        let member = table.seat(2).me();
        let known = table.seat(1).lives.links.table.addresses(&member).len();
        assert!(known <= config::ROUTES_MAX + 1, "{known}");
    }
    assert!(table.seat(1).lives.links.table.len() <= config::ROUTES_MAX + 1);
}
