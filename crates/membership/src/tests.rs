//! Tests of the whole state machine, on a perfect network without delay.

mod reach;
mod signed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::config::{BROADCAST_DATAGRAMS_PER_S, BROADCAST_SUBSET, KNOCKS_AT_ONCE, KNOCKS_PER_S};
use super::vouch::Vouchers;
use super::*;
use p2pfs_proto::trust::{EpochSecret, NodeKey, TestKeyring};
use p2pfs_proto::wire::native::udp::{DatagramFrame, Rumor};
use p2pfs_types::id::{Generation, NodeId};

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 1378))
}

fn key(n: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_seed(&[n; 32]))
}

fn node(n: u8) -> NodeId {
    key(n).node_id()
}

fn config_with_seeds(seeds: &[u8]) -> ClusterConfig {
    ClusterConfig {
        seeds: seeds.iter().map(|n| address(*n)).collect(),
        ..ClusterConfig::default()
    }
}

fn cluster_at(n: u8, advertised: SocketAddr, seeds: &[u8], now: Instant) -> Cluster {
    let config = config_with_seeds(seeds);
    let trust = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
    Cluster::new(config, key(n), advertised, Generation(100), trust, 7, now)
}

/// Translates the sender and the destination of a datagram, or drops it.
type Path = dyn FnMut(SocketAddr, SocketAddr) -> Option<(SocketAddr, SocketAddr)>;

/// Clusters on a perfect network without delay, at addresses that follow from their number.
struct Table {
    now: Instant,
    seats: BTreeMap<SocketAddr, Cluster>,
    events: Vec<(SocketAddr, Event)>,
    recorded: Vec<(SocketAddr, Transmit)>,
    /// Returns the sender's address at the receiver, and the seat that a datagram reaches.
    path: Box<Path>,
}

impl Table {
    fn of(count: u8) -> Self {
        let now = Instant::now();
        let seat = |n| (address(n), cluster_at(n, address(n), &[1], now));
        let mut table = Self::with((1..=count).map(seat).collect(), now);
        table.run(Duration::from_secs(3));
        table
    }

    fn with(seats: BTreeMap<SocketAddr, Cluster>, now: Instant) -> Self {
        Self {
            now,
            seats,
            events: Vec::new(),
            recorded: Vec::new(),
            path: Box::new(|from, to| Some((from, to))),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.exchange();
        while let Some(at) = self.seats.values().filter_map(Cluster::poll_timeout).min()
            && at <= end
        {
            self.now = self.now.max(at);
            for cluster in self.seats.values_mut() {
                cluster.handle_timeout(self.now);
            }
            self.exchange();
        }
        self.now = end;
    }

    fn exchange(&mut self) {
        loop {
            let mut transmits = Vec::new();
            for (at, cluster) in &mut self.seats {
                self.events
                    .extend(std::iter::from_fn(|| cluster.poll_event()).map(|e| (*at, e)));
                let sent = std::iter::from_fn(|| cluster.poll_transmit());
                transmits.extend(sent.map(|transmit| (*at, transmit)));
            }
            if transmits.is_empty() {
                return;
            }
            for (from, transmit) in &transmits {
                let Some((from, to)) = (self.path)(*from, transmit.to) else {
                    continue;
                };
                if let Some(cluster) = self.seats.get_mut(&to) {
                    cluster.handle_message(self.now, from, &transmit.datagram);
                }
            }
            self.recorded.append(&mut transmits);
        }
    }

    fn seat(&mut self, n: u8) -> &mut Cluster {
        self.seats.get_mut(&address(n)).expect("seated")
    }

    fn told(&self, n: u8) -> Vec<Event> {
        self.events
            .iter()
            .filter(|(at, _)| *at == address(n))
            .map(|(_, e)| e.clone())
            .collect()
    }
}

#[test]
fn after_a_change_of_its_membership_a_lonely_node_greets_its_seeds_at_once() {
    let now = Instant::now();
    let alone = cluster_at(1, address(1), &[2], now);
    let mut table = Table::with([(address(1), alone)].into(), now);
    // The pauses between greetings are 30 s by now, as for a node that joins a cluster later.
    table.run(Duration::from_secs(75));
    let (before, now) = (table.recorded.len(), table.now);
    table.run(Duration::from_secs(1));
    assert_eq!(table.recorded.len(), before);
    table.seat(1).enforce_membership(now);
    table.run(Duration::from_secs(1));
    assert!(table.recorded.len() > before);
}

#[test]
fn a_message_reaches_its_addressee() {
    let mut table = Table::of(3);
    let now = table.now;
    let body = Bytes::from_static(b"who has it?");
    assert_eq!(table.seat(1).send(now, node(2), body.clone()), Ok(()));
    table.exchange();
    let event = Event::Message {
        from: node(1),
        body,
    };
    assert!(table.told(2).contains(&event) && !table.told(3).contains(&event));
}

#[test]
fn a_broadcast_reaches_every_member_of_a_small_cluster() {
    let mut table = Table::of(5);
    let now = table.now;
    let body = Bytes::from_static(b"who has it?");
    assert_eq!(table.seat(4).broadcast(now, body.clone()), Ok(4));
    table.exchange();
    let event = Event::Message {
        from: node(4),
        body,
    };
    assert!((1..=5).all(|n| table.told(n).contains(&event) == (n != 4)));
}

#[test]
fn a_message_too_long_or_for_a_stranger_is_refused_with_the_reason() {
    let mut table = Table::of(2);
    let now = table.now;
    let long = Bytes::from(vec![0; PAYLOAD_MAX_BYTES + 1]);
    let length_bytes = long.len();
    let too_long = Err(ClusterError::MessageTooLong { length_bytes });
    assert_eq!(table.seat(1).send(now, node(2), long.clone()), too_long);
    assert_eq!(
        table.seat(1).broadcast(now, long.clone()).map(|_| ()),
        too_long
    );
    let stranger = table.seat(1).send(now, node(9), Bytes::new());
    assert_eq!(stranger, Err(ClusterError::NotAMember));
    let head = table.seat(1).set_head(now, node(1), (1, 1), long);
    assert_eq!(head, Err(ClusterError::HeadTooLong { length_bytes }));
    let list = table.seat(1).merge_members(now, node(2), &[255; 9]);
    assert_eq!(list, Err(ClusterError::BadMemberList));
}

#[test]
fn one_session_cannot_flood_the_owner_with_messages() {
    let mut table = Table::of(2);
    let now = table.now;
    for _ in 0..5000 {
        table
            .seat(1)
            .send(now, node(2), Bytes::from_static(b"x"))
            .unwrap();
    }
    table.exchange();
    let messages = table
        .told(2)
        .iter()
        .filter(|e| matches!(e, Event::Message { .. }))
        .count();
    assert_eq!(messages, config::MESSAGES_PER_S as usize);
    assert_eq!(table.seat(2).counters().excess.flooding, 4000);
}

#[test]
fn broadcasts_respect_their_rate() {
    let mut table = Table::of(5);
    let now = table.now;
    let reached: usize = (0..5000)
        .map(|_| {
            table
                .seat(1)
                .broadcast(now, Bytes::from_static(b"x"))
                .unwrap()
        })
        .sum();
    assert_eq!(reached, BROADCAST_DATAGRAMS_PER_S as usize);
}

#[test]
fn unread_events_are_bounded() {
    let mut cluster = cluster_at(1, address(1), &[], Instant::now());
    let known = cluster.lives.events.len();
    let event = || Event::Stranger {
        address: address(9),
    };
    for told in known..config::EVENTS_MAX {
        assert_eq!(cluster.lives.events.len(), told);
        cluster.lives.push_bounded(event());
    }
    cluster.lives.push_bounded(event());
    assert_eq!(cluster.lives.events.len(), config::EVENTS_MAX);
    assert_eq!(cluster.counters().excess.overflow, 1);
    while cluster.poll_event().is_some() {}
    cluster.lives.push_bounded(event());
    assert_eq!(cluster.lives.events.len(), 1, "once there is room");
}

#[test]
fn connection_requests_have_a_burst_and_a_rate() {
    let now = Instant::now();
    let name = p2pfs_types::id::NodeName::new("n1").unwrap();
    let secret = EpochSecret::new([1; 32]);
    let trust = TestKeyring::founded_in_memory(secret, &key(1), name, 100).reader();
    let config = ClusterConfig::default();
    let generation = Generation(100);
    let mut cluster = Cluster::new(config, key(1), address(1), generation, trust, 7, now);
    let mut knocks = |now: Instant| {
        (0..40).for_each(|n| cluster.lives.links.queue_stranger(address(n + 2)));
        cluster.handle_timeout(now);
        let events = std::iter::from_fn(|| cluster.poll_event());
        let is_knock = |event: &Event| matches!(event, Event::Stranger { .. });
        events.filter(is_knock).count() as u32
    };
    assert_eq!(knocks(now), KNOCKS_AT_ONCE);
    assert_eq!(knocks(now), 0);
    assert_eq!(knocks(now + Duration::from_secs(1)), KNOCKS_PER_S);
}

#[test]
fn a_head_counts_only_after_the_owner_confirmed_it() {
    let mut table = Table::of(3);
    let now = table.now;
    let forged = Bytes::from_static(b"forged");
    // Node 1 lies about node 3.
    table
        .seat(1)
        .set_head(now, node(3), (u64::MAX, 9), forged.clone())
        .unwrap();
    table.run(Duration::from_secs(2));
    let reports = |table: &Table, bytes: &Bytes| {
        let told = table.told(2);
        let heads = told.iter().filter(|event| match event {
            Event::Head { head, .. } => head.author == node(3) && head.bytes == *bytes,
            _ => false,
        });
        heads.count()
    };
    assert_eq!(reports(&table, &forged), 1);
    let now = table.now;
    let real = Bytes::from_static(b"real");
    table
        .seat(3)
        .set_head(now, node(3), (1, 1), real.clone())
        .unwrap();
    table.run(Duration::from_secs(1));
    assert_eq!(reports(&table, &real), 1);
}

#[test]
fn a_node_that_lost_its_state_receives_its_own_old_head() {
    let mut table = Table::of(3);
    let now = table.now;
    let old = Bytes::from_static(b"old");
    table
        .seat(2)
        .set_head(now, node(1), (4, 4), old.clone())
        .unwrap();
    table.run(Duration::from_secs(1));
    let is_it = |event: &Event| match event {
        Event::Head { head, .. } => (head.author, head.rank) == (node(1), (4, 4)),
        _ => false,
    };
    assert!(table.told(1).iter().any(is_it));
}

#[test]
fn a_node_without_a_known_address_learns_it_from_its_first_peer() {
    let now = Instant::now();
    let anywhere = "0.0.0.0:1378".parse().unwrap();
    for unknowing in [1, 2] {
        let mut seats = BTreeMap::new();
        for n in [1, 2] {
            let advertised = if n == unknowing { anywhere } else { address(n) };
            seats.insert(address(n), cluster_at(n, advertised, &[1], now));
        }
        let mut table = Table::with(seats, now);
        table.run(Duration::from_secs(2));
        for n in [1, 2] {
            let peer = 3 - n;
            assert_eq!(table.seat(n).me().address, address(n));
            let live: Vec<_> = table.seat(n).live().map(|m| (m.node, m.address)).collect();
            assert_eq!(live, [(node(peer), address(peer))]);
        }
    }
}

#[test]
fn another_process_with_our_key_is_reported_and_not_answered() {
    let now = Instant::now();
    let original = cluster_at(1, address(1), &[], now);
    // A copy takes another generation, and therefore another salt.
    let trust = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
    let config = config_with_seeds(&[1]);
    let copy = Cluster::new(config, key(1), address(2), Generation(7), trust, 7, now);
    let mut table = Table::with([(address(1), original), (address(2), copy)].into(), now);
    table.run(Duration::from_secs(30));
    for (n, other) in [(1, 2), (2, 1)] {
        let copied = Event::CopiedKey {
            node: node(1),
            addresses: vec![address(other)],
        };
        assert!(table.told(n).contains(&copied));
    }
    assert_eq!(table.seat(1).live().count(), 0);
    assert!(
        table.recorded.len() < 200,
        "{} datagrams",
        table.recorded.len()
    );
}

#[test]
fn two_processes_with_one_key_do_not_flood_the_network() {
    let now = Instant::now();
    let mut seats: BTreeMap<_, _> = [2, 3]
        .map(|n| (address(n), cluster_at(n, address(n), &[2], now)))
        .into();
    for (at, generation) in [(4, 50), (5, 60)] {
        let trust = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
        let config = ClusterConfig {
            seeds: vec![address(2)],
            ..ClusterConfig::default()
        };
        let (me, g) = (key(1), Generation(generation));
        let copy = Cluster::new(config, me, address(at), g, trust, 7, now);
        seats.insert(address(at), copy);
    }
    let mut table = Table::with(seats, now);
    table.run(Duration::from_secs(60));
    let per_s = table.recorded.len() / 60;
    assert!(per_s < 200, "{per_s} datagrams a second");
}

#[test]
fn a_replay_changes_nothing_in_a_cluster_with_a_restarted_node() {
    let table = Table::of(3);
    let recorded: Vec<_> = table
        .recorded
        .iter()
        .filter(|(_, t)| t.to == address(2))
        .cloned()
        .collect();
    // Node 2 starts again, alone in an empty world.
    let now = table.now + Duration::from_secs(60);
    let trust = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
    let config = ClusterConfig::default();
    let (me, at) = (key(2), address(2));
    let mut anew = Cluster::new(config, me, at, Generation(200), trust, 7, now);
    for (from, transmit) in &recorded {
        anew.handle_message(now, *from, &transmit.datagram);
        let answered: usize = std::iter::from_fn(|| anew.poll_transmit())
            .map(|t| t.datagram.len())
            .sum();
        assert!(answered <= transmit.datagram.len());
    }
    assert!(recorded.len() > 10);
    assert_eq!(
        (anew.live().count(), anew.members().len(), anew.poll_event()),
        (0, 0, None)
    );
    assert_eq!(anew.me().generation, Generation(200));
}

#[test]
fn a_cluster_switches_between_small_and_large_with_hysteresis() {
    let mut table = Table::of(65);
    assert!(table.seat(1).spreading.small, "65 members");
    for n in 66..80 {
        let newcomer = cluster_at(n, address(n), &[1], table.now);
        table.seats.insert(address(n), newcomer);
    }
    table.run(Duration::from_secs(3));
    assert!(!table.seat(1).spreading.small, "79 members");
    let now = table.now;
    let reached = table.seat(1).broadcast(now, Bytes::from_static(b"x"));
    assert_eq!(reached, Ok(BROADCAST_SUBSET));
}

#[test]
fn members_are_listed_with_their_state_and_round_trip() {
    let mut table = Table::of(4);
    table.run(Duration::from_secs(5));
    let now = table.now;
    table.seat(4).leave(now, Leave::Away);
    table.run(Duration::from_millis(500));
    table.seats.remove(&address(4));
    table.seats.remove(&address(3));
    table.run(Duration::from_secs(8));
    let members = table.seat(1).members();
    let states: Vec<_> = members.iter().map(|m| (m.member.node, m.state)).collect();
    let (alive, down, away) = (MemberState::Alive, MemberState::Down, MemberState::Away);
    let mut expected = [(node(2), alive), (node(3), down), (node(4), away)];
    expected.sort_by_key(|(node, _)| *node);
    assert_eq!(states, expected);
    let of_2 = members.iter().find(|m| m.member.node == node(2)).unwrap();
    assert!(of_2.round_trip.is_some());
    assert_eq!(
        table.seat(1).lives.roster.round_trip(&node(2)),
        of_2.round_trip
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn hostile_members_neither_crash_a_node_nor_fill_its_memory(
        frames in prop::collection::vec(
            (0u8..4, prop::collection::vec(any::<u8>(), 0..400)), 1..40),
    ) {
        let mut table = Table::of(3);
        let now = table.now;
        for (kind, bytes) in frames {
            let body = Bytes::from(bytes);
            let frame = match kind {
                0 => DatagramFrame::Swim(body),
                1 => DatagramFrame::Message(body),
                2 => match postcard::from_bytes::<Vec<Rumor>>(&body) {
                    Ok(rumors) => DatagramFrame::Rumors(rumors),
                    Err(_) => {
                        let generation = Generation(body.len() as u64);
                        let later = Member { generation, ..table.seat(2).me() };
                        DatagramFrame::Outlived { known: Vouchers::new(key(1)).sign(later) }
                    }
                },
                _ => {
                    let _ = table.seat(2).merge_members(now, node(1), &body);
                    continue;
                }
            };
            table.seat(1).lives.links.send(now, address(2), frame);
        }
        table.run(Duration::from_secs(5));
        let seat = table.seat(2);
        prop_assert!(seat.members().len() <= MEMBERS_MAX);
        prop_assert!(seat.live().any(|member| member.node == node(3)));
    }

    #[test]
    fn a_swim_packet_with_any_byte_changed_neither_crashes_nor_converts(
        at in any::<usize>(), to in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut table = Table::of(3);
        let now = table.now;
        let me = table.seat(1).me();
        let peer = table.seat(2).me();
        table.seat(1).lives.roster.announce(now, peer);
        let (_, packet) = table.seat(1).lives.roster.poll_send().unwrap();
        let mut bytes = packet.to_vec();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = to }
        table.seat(1).lives.links.send(now, address(2), DatagramFrame::Swim(bytes.into()));
        table.run(Duration::from_secs(5));
        prop_assert!(table.seat(2).live().any(|member| member.node == me.node));
    }
}
