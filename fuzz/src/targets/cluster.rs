//! Membership: three nodes whose datagrams are lost, duplicated, changed, delayed and reordered,
//! and one of which sends what no honest node would. The limits always hold. Once the network works
//! again, the nodes form one cluster.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use p2pfs_membership::{Cluster, ClusterConfig, Leave};
use p2pfs_proto::trust::{EpochSecret, NodeKey, TestKeyring};
use p2pfs_types::id::Generation;

const NODES: u8 = 3;
const STEPS_MAX: usize = 60;
static KEYS: LazyLock<Vec<Arc<NodeKey>>> = LazyLock::new(|| {
    let keys = (0..NODES).map(|seed| Arc::new(NodeKey::from_seed(&[seed + 1; 32])));
    keys.collect()
});

fn address(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, at as u8 + 1], 1378))
}

struct Table {
    now: Instant,
    seats: Vec<Cluster>,
    /// Datagrams in flight: sender, receiver, bytes.
    flying: Vec<(usize, SocketAddr, Vec<u8>)>,
}

impl Table {
    fn new() -> Self {
        let now = Instant::now();
        let seat = |at: usize| {
            let config = ClusterConfig {
                seeds: vec![address(0)],
                ..ClusterConfig::default()
            };
            let trust = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
            let (key, me) = (KEYS[at].clone(), address(at));
            Cluster::new(config, key, me, Generation(100), trust, 7, now)
        };
        let seats = (0..NODES.into()).map(seat).collect();
        Self {
            now,
            seats,
            flying: Vec::new(),
        }
    }

    fn collect(&mut self) {
        for (at, seat) in self.seats.iter_mut().enumerate() {
            while seat.poll_event().is_some() {}
            let sent = std::iter::from_fn(|| seat.poll_transmit());
            self.flying
                .extend(sent.map(|it| (at, it.to, it.datagram.to_vec())));
        }
    }

    fn land(&mut self, (from, to, datagram): (usize, SocketAddr, Vec<u8>)) {
        let seat = (0..self.seats.len()).find(|at| address(*at) == to);
        if let Some(at) = seat {
            self.seats[at].handle_message(self.now, address(from), &datagram);
        }
    }

    /// Lets time pass on a working network.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.collect();
            while !self.flying.is_empty() {
                std::mem::take(&mut self.flying)
                    .into_iter()
                    .for_each(|it| self.land(it));
                self.collect();
            }
            let due = self.seats.iter().filter_map(Cluster::poll_timeout).min();
            let Some(at) = due.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.seats
                .iter_mut()
                .for_each(|seat| seat.handle_timeout(self.now));
        }
        self.now = end;
    }

    fn step(&mut self, choose: &mut Unstructured<'_>) -> Result<()> {
        self.collect();
        let at = choose.choose_index(self.seats.len())?;
        let now = self.now;
        match choose.int_in_range(0..=9u8)? {
            0..=3 if !self.flying.is_empty() => {
                let which = choose.choose_index(self.flying.len())?;
                let mut flight = self.flying.swap_remove(which);
                match choose.int_in_range(0..=7u8)? {
                    0 => return Ok(()),
                    1 => self.flying.push(flight.clone()),
                    2 => {
                        let place = choose.choose_index(flight.2.len())?;
                        flight.2[place] = choose.arbitrary()?;
                    }
                    3 => flight.0 = choose.choose_index(self.seats.len())?,
                    _ => {}
                }
                self.land(flight);
            }
            4 => {
                let length = choose.int_in_range(0..=choose.len().min(200))?;
                let list = choose.bytes(length)?.to_vec();
                let teller = self.seats[1].me().node;
                let _refused = self.seats[at].merge_members(now, teller, &list);
            }
            5 => {
                let mut list = self.seats[choose.choose_index(3)?]
                    .export_members()
                    .to_vec();
                if !list.is_empty() {
                    let place = choose.choose_index(list.len())?;
                    list[place] ^= choose.arbitrary::<u8>()?;
                }
                let teller = self.seats[1].me().node;
                let _refused = self.seats[at].merge_members(now, teller, &list);
            }
            6 => {
                let length = choose.int_in_range(0..=choose.len().min(900))?;
                let body = Bytes::copy_from_slice(choose.bytes(length)?);
                let _refused = self.seats[at].broadcast(now, body.clone());
                self.seats[at].spread_statement(now, body);
            }
            7 => {
                let datagram = choose.bytes(choose.len().min(100))?.to_vec();
                self.seats[at].handle_message(now, address(7), &datagram);
            }
            _ => {
                self.now += Duration::from_millis(choose.int_in_range(0..=3000)?);
                let now = self.now;
                self.seats
                    .iter_mut()
                    .for_each(|seat| seat.handle_timeout(now));
            }
        }
        Ok(())
    }
}

/// Runs steps until the bytes end. Then all must find each other, and one leaves.
pub fn drive(choose: &mut Unstructured<'_>) -> Result<()> {
    let mut table = Table::new();
    if choose.arbitrary()? {
        table.run(Duration::from_secs(3));
    }
    let mut outcome = Ok(());
    for _ in 0..STEPS_MAX {
        if choose.is_empty() || outcome.is_err() {
            break;
        }
        outcome = table.step(choose);
    }
    table.run(Duration::from_secs(120));
    for (at, seat) in table.seats.iter().enumerate() {
        assert!(seat.members().len() <= usize::from(NODES));
        assert_eq!(seat.live().count(), usize::from(NODES) - 1, "seen by {at}");
    }
    let now = table.now;
    table.seats[2].leave(now, Leave::Final);
    table.run(Duration::from_secs(10));
    assert_eq!(table.seats[0].live().count(), 1);
    outcome
}
