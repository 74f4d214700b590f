//! The network between the nodes: datagrams that are lost, duplicated and late, and streams that
//! break.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use p2pfs_proto::wire::native::tcp::Frame;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Size above which a message waits for its turn on the sender's link. Smaller messages bypass the
/// queue.
const BULK_BYTES: usize = 64 << 10;

/// The faults of the network.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// Fraction of the datagrams that are lost.
    pub loss: f64,
    /// Fraction that arrives twice.
    pub doubled: f64,
    /// Range of the uniformly distributed delay. Different delays reorder datagrams.
    pub delay: Range<Duration>,
    /// Fraction of the requests that break their connection.
    pub resets: f64,
    /// Fraction of the requests whose connection falls silent.
    pub silence: f64,
    /// Bytes a second that each node can send.
    pub rate: f64,
}

impl Weather {
    /// Returns the weather of a healthy LAN.
    pub(super) fn calm() -> Self {
        Self {
            loss: 0.0,
            doubled: 0.0,
            delay: Duration::from_micros(100)..Duration::from_micros(400),
            resets: 0.0,
            silence: 0.0,
            rate: 100e6,
        }
    }

    /// Returns weather that loses this fraction of the datagrams and breaks some streams.
    pub(super) fn stormy(loss: f64) -> Self {
        Self {
            loss,
            doubled: 0.02,
            delay: Duration::from_millis(1)..Duration::from_millis(40),
            resets: loss / 4.0,
            silence: loss / 20.0,
            rate: 10e6,
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
    /// A request on a stream, with its number.
    Question(u64, Frame),
    /// The answer to the request of this number.
    Answer(u64, Frame),
    /// The connection broke or was refused.
    Reset(u64),
}

impl Payload {
    fn stream_bytes(&self) -> usize {
        match self {
            Self::Datagram(_) | Self::Reset(_) => 0,
            Self::Question(_, frame) | Self::Answer(_, frame) => frame.len_bytes(),
        }
    }
}

/// The fate of a parcel whose time has come.
pub(super) enum Due {
    Arrived(Parcel),
    /// The two nodes are in different parts of the network.
    Stopped(Parcel),
}

/// The simulated network.
pub(super) struct Network {
    rng: StdRng,
    pub weather: Weather,
    parts: BTreeMap<SocketAddr, usize>,
    /// When each sender finishes its bulk transfer.
    free_at: BTreeMap<SocketAddr, Instant>,
    in_flight: BTreeMap<(Instant, u64), Parcel>,
    count: u64,
    /// Requests whose connection fell silent.
    pub silenced: Vec<u64>,
    /// Bytes of datagrams and frames that each address has sent, without the headers below them.
    pub sent_bytes: BTreeMap<SocketAddr, u64>,
    /// Every sent datagram, while recording.
    pub recording: Option<Vec<Parcel>>,
}

impl Network {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0x6e65_7477_6f72_6b00),
            weather,
            parts: BTreeMap::new(),
            free_at: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            count: 0,
            silenced: Vec::new(),
            sent_bytes: BTreeMap::new(),
            recording: None,
        }
    }

    pub(super) fn send(&mut self, now: Instant, parcel: Parcel) {
        let sent = self.sent_bytes.entry(parcel.from).or_default();
        let Payload::Datagram(bytes) = &parcel.payload else {
            let stream_bytes = parcel.payload.stream_bytes();
            *sent += stream_bytes as u64;
            return self.stream(now, stream_bytes, parcel);
        };
        *sent += bytes.len() as u64;
        if let Some(recording) = &mut self.recording {
            recording.push(parcel.clone());
        }
        if self.rng.random_bool(self.weather.loss) {
            return;
        }
        for _ in 0..1 + usize::from(self.rng.random_bool(self.weather.doubled)) {
            let delay = self.delay();
            self.put(now + delay, parcel.clone());
        }
    }

    /// Sends a message on a stream. It arrives, breaks the stream, or disappears.
    fn stream(&mut self, now: Instant, stream_bytes: usize, mut parcel: Parcel) {
        let fate: f64 = self.rng.random();
        let moving = Duration::from_secs_f64(stream_bytes as f64 / self.weather.rate);
        let mut delay = self.delay() + moving;
        if stream_bytes > BULK_BYTES {
            let free_at = self.free_at.entry(parcel.from).or_insert(now);
            *free_at = (*free_at).max(now) + moving;
            delay += free_at.saturating_duration_since(now + moving);
        }
        let Payload::Question(id, _) = &parcel.payload else {
            return self.put(now + delay, parcel);
        };
        if fate < self.weather.resets {
            let (from, to) = (parcel.to, parcel.from);
            let payload = Payload::Reset(*id);
            parcel = Parcel { from, to, payload };
        } else if fate < self.weather.resets + self.weather.silence {
            self.silenced.push(*id);
            return;
        }
        self.put(now + delay, parcel);
    }

    fn delay(&mut self) -> Duration {
        self.rng.random_range(self.weather.delay.clone())
    }

    fn put(&mut self, at: Instant, parcel: Parcel) {
        self.count += 1;
        self.in_flight.insert((at, self.count), parcel);
    }

    /// Partitions the network. Only addresses of one part reach each other; addresses without a
    /// part form one too.
    pub(super) fn part(&mut self, parts: BTreeMap<SocketAddr, usize>) {
        self.parts = parts;
    }

    /// Returns whether two addresses are in the same part of the network.
    pub(super) fn are_together(&self, one: &SocketAddr, other: &SocketAddr) -> bool {
        self.parts.get(one) == self.parts.get(other)
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// Returns the next parcel whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        self.in_flight
            .first_key_value()
            .filter(|((at, _), _)| *at <= now)?;
        let (_, parcel) = self.in_flight.pop_first()?;
        let together = self.are_together(&parcel.from, &parcel.to);
        Some(if together {
            Due::Arrived(parcel)
        } else {
            Due::Stopped(parcel)
        })
    }
}
