//! The network between the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2pfs_types::id::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The faults of the network.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// Fraction of the datagrams that are lost.
    pub loss: f64,
    /// Fraction that arrives twice.
    pub doubled: f64,
    /// Range of the uniformly distributed delay. Different delays reorder datagrams.
    pub delay: std::ops::Range<Duration>,
}

impl Weather {
    /// Returns the weather of a healthy LAN.
    pub(super) fn calm() -> Self {
        let delay = Duration::from_micros(100)..Duration::from_micros(400);
        Self {
            loss: 0.0,
            doubled: 0.0,
            delay,
        }
    }

    /// Returns weather that loses this fraction of the datagrams, duplicates some, and reorders
    /// most.
    pub(super) fn stormy(loss: f64) -> Self {
        let delay = Duration::from_millis(1)..Duration::from_millis(40);
        Self {
            loss,
            doubled: 0.02,
            delay,
        }
    }
}

/// A message in flight.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Payload,
}

/// The content of a parcel.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// May be lost, duplicated or late.
    Datagram(Vec<u8>),
    /// Part of a TCP exchange of member lists. Arrives unless the network is partitioned.
    Members {
        teller: NodeId,
        list: Vec<u8>,
        answer: bool,
    },
}

/// The simulated network.
pub(super) struct Network {
    rng: StdRng,
    pub weather: Weather,
    parts: BTreeMap<SocketAddr, usize>,
    blocked: BTreeSet<[SocketAddr; 2]>,
    queues: BTreeMap<SocketAddr, (Duration, f64)>,
    deaf: BTreeSet<SocketAddr>,
    in_flight: BTreeMap<(Instant, u64), Parcel>,
    count: u64,
    /// Bytes of datagrams that each address has sent, without IP and UDP headers.
    pub sent_bytes: BTreeMap<SocketAddr, u64>,
    /// Every sent datagram, while recording.
    pub recording: Option<Vec<Parcel>>,
}

impl Network {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            weather,
            parts: BTreeMap::new(),
            blocked: BTreeSet::new(),
            queues: BTreeMap::new(),
            deaf: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            count: 0,
            sent_bytes: BTreeMap::new(),
            recording: None,
        }
    }

    pub(super) fn send(&mut self, now: Instant, parcel: Parcel) {
        let datagram = matches!(parcel.payload, Payload::Datagram(_));
        if let Payload::Datagram(bytes) = &parcel.payload {
            *self.sent_bytes.entry(parcel.from).or_default() += bytes.len() as u64;
            if let Some(recording) = &mut self.recording {
                recording.push(parcel.clone());
            }
        }
        let (queue, dropped) = self.queues.get(&parcel.from).copied().unwrap_or_default();
        let loss = self.weather.loss.max(dropped);
        if datagram && self.rng.random_bool(loss) {
            return;
        }
        let copies = 1 + usize::from(datagram && self.rng.random_bool(self.weather.doubled));
        for _ in 0..copies {
            let delay = queue + self.rng.random_range(self.weather.delay.clone());
            self.count += 1;
            self.in_flight
                .insert((now + delay, self.count), parcel.clone());
        }
    }

    /// Partitions the network. Only addresses of one part reach each other; addresses without a
    /// part form one too.
    pub(super) fn part(&mut self, parts: BTreeMap<SocketAddr, usize>) {
        self.parts = parts;
    }

    /// Blocks traffic between two addresses from now on.
    pub(super) fn block(&mut self, one: SocketAddr, other: SocketAddr) {
        self.blocked.extend([[one, other], [other, one]]);
    }

    /// Delays all later parcels of a sender by its link's queue, and drops this fraction of its
    /// datagrams.
    pub(super) fn fill_queue(&mut self, of: SocketAddr, queue: Duration, dropped: f64) {
        self.queues.insert(of, (queue, dropped));
    }

    /// Blocks all later traffic to an address. Its own datagrams still arrive.
    pub(super) fn deafen(&mut self, who: SocketAddr) {
        self.deaf.insert(who);
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// Returns the next parcel that has arrived.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Parcel> {
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= now
        {
            let parcel = entry.remove();
            let is_blocked =
                self.blocked.contains(&[parcel.from, parcel.to]) || self.deaf.contains(&parcel.to);
            if !is_blocked && self.parts.get(&parcel.from) == self.parts.get(&parcel.to) {
                return Some(parcel);
            }
        }
        None
    }
}
