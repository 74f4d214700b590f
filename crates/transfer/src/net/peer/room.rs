//! How much may be under way on a connection that does not fill the queue of a slow link.
//!
//! The kernel's congestion control goes on until a queue overflows, which routers of slow links let
//! grow to seconds. Here, as in LEDBAT (RFC 6817), the delay that a queue adds is what counts: no
//! more is under way than what the link, by what it brought lately, brings in the least round trip
//! and a [`Target::delay`]. Where a queue is shorter than that nothing is ever held back, and a
//! link that brings more lets more be under way at once. Of that the kernel gets little ahead of
//! what it can send: what a socket has taken nothing that is more urgent can overtake.

use tokio::time::{Duration, Instant};

use super::gauge::Reading;
use p2pfs_proto::wire::native::tcp::Lane;

/// How often the rate is measured at least; each round trip where that is shorter, so that what may
/// be under way grows faster than the kernel's own slow start.
const SAMPLE: Duration = Duration::from_millis(100);
/// The shortest time in which it is measured.
const SAMPLE_MIN: Duration = Duration::from_millis(10);
/// How soon is looked again whether there is room, at least and at most.
const LOOK: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// What may be under way at the beginning, besides as much as was taken: the kernel's own slow
/// start never has more, but it has all that a slow link will not bring for seconds.
const START_BYTES: u64 = 64 << 10;
/// The same where the round trip is short: an answer to the kernel's read-ahead of 128 KiB with its
/// proof goes at once.
const START_NEAR_BYTES: u64 = 144 << 10;
/// What the kernel may have that it has not sent, at least, and while the rate is not known: some
/// packets, which keep it busy until it is looked after.
const UNSENT_BYTES: [u64; 2] = [4 << 10, 16 << 10];
/// The same where the rate is known: what the link brings in this time.
const UNSENT: Duration = Duration::from_millis(100);
/// A round trip from which on what a socket holds is kept short: on a nearer link it is gone soon,
/// and a busy machine, which looks after it late, would leave the link idle.
const LONG: Duration = Duration::from_millis(100);
/// A round trip that is short.
const NEAR: Duration = Duration::from_millis(1);
/// After so much the beginning is over.
const START_TAKEN_BYTES: u64 = 1 << 20;
/// The kernel takes no more than some such amount by itself (`tcp_wmem`): beyond it nothing is held
/// back, and the kernel is asked for samples alone.
const FREE_BYTES: u64 = 8 << 20;
/// Round trips count up to this, that of a geostationary satellite: what is longer is a queue that
/// was there before.
const LEAST_MAX: Duration = Duration::from_millis(600);
/// The weight of the newest sample of the rate.
const RATE_WEIGHT: f64 = 0.25;

/// How long a queue may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The delay that it may add.
    pub delay: Duration,
    /// What may be under way whatever the delay: others may fill the queue. Twice that where the
    /// round trip is not long.
    pub least_bytes: u64,
}

impl Target {
    /// Bulk gives way to all else: 100 ms, the most that RFC 6817 lets LEDBAT add, and one TLS
    /// record. What readers wait for gives way later, and less.
    pub(super) fn of(lane: Lane) -> Self {
        match lane {
            Lane::Bulk => Self {
                delay: Duration::from_millis(100),
                least_bytes: 16 << 10,
            },
            Lane::Urgent => Self {
                delay: Duration::from_millis(300),
                least_bytes: 32 << 10,
            },
        }
    }
}

/// What the link brings from some moment on.
#[derive(Clone, Copy, Debug)]
struct Sample {
    since: Instant,
    /// What had been taken by then.
    taken_bytes: u64,
    /// Whether the link had nothing to bring at some look since.
    was_idle: bool,
}

impl Sample {
    fn begun(now: Instant, reading: &Reading) -> Self {
        Self {
            since: now,
            taken_bytes: reading.taken_bytes,
            was_idle: false,
        }
    }
}

/// A look that found no room.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Instant,
    /// What was under way.
    queued_bytes: u64,
}

/// How much may be under way, by what the kernel says.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Nothing where nothing is held back, whatever the queue.
    pub(super) target: Option<Target>,
    /// The sample that is being taken.
    sample: Option<Sample>,
    /// Bytes a second that the link brought while there was more to bring.
    rate: Option<f64>,
    /// What may be under way; nothing where nothing is held back.
    limit_bytes: Option<u64>,
    /// The last look, where it found no room.
    held: Option<Held>,
}

impl Room {
    /// One whose link brought so many bytes a second lately.
    #[cfg(test)]
    pub(super) fn of_rate(target: Target, rate: f64) -> Self {
        Self {
            target: Some(target),
            rate: Some(rate),
            ..Self::default()
        }
    }

    /// Whether the kernel is to be asked before the next bytes go.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let fresh = |it: Sample| now.saturating_duration_since(it.since) < SAMPLE;
        self.limit_bytes.is_some() || !self.sample.is_some_and(fresh)
    }

    /// Takes a reading in; says how many bytes may follow now.
    pub(super) fn take(&mut self, now: Instant, reading: &Reading) -> u64 {
        let Some(target) = self.target else {
            self.sample = Some(Sample::begun(now, reading));
            return u64::MAX;
        };
        let within = reading.least.min(LEAST_MAX) + target.delay;
        if let Some(held) = self.held.take()
            && reading.queued_bytes == 0
        {
            self.drained(now, held, within);
        }
        self.take_sample(now, reading);
        let is_long = reading.round_trip >= LONG;
        let least_bytes = if is_long {
            target.least_bytes
        } else {
            target.least_bytes * 2
        };
        // of less the other end says only 40 ms later that it has it (RFC 1122, 4.2.3.2)
        let least_bytes = least_bytes.max(2 * reading.segment_bytes);
        let limit = match self.rate {
            Some(rate) => least_bytes.max((rate * within.as_secs_f64()) as u64),
            None if reading.taken_bytes > START_TAKEN_BYTES => FREE_BYTES,
            None if reading.round_trip < NEAR => START_NEAR_BYTES + reading.taken_bytes,
            None => START_BYTES + reading.taken_bytes,
        };
        self.limit_bytes = (limit < FREE_BYTES).then_some(limit);
        let Some(limit) = self.limit_bytes else {
            return u64::MAX;
        };
        let unsent = match self.rate {
            _ if !is_long => limit,
            Some(rate) => UNSENT_BYTES[0].max((rate * UNSENT.as_secs_f64()) as u64),
            None => UNSENT_BYTES[1],
        };
        let unsent = unsent.saturating_sub(reading.unsent_bytes);
        let room = limit.saturating_sub(reading.queued_bytes).min(unsent);
        self.held = (room == 0).then_some(Held {
            since: now,
            queued_bytes: reading.queued_bytes,
        });
        room
    }

    /// All that was under way is there by the next look, and the link stands idle: it may bring
    /// more. Without this one whose rate fell while it stood still would be given so little at a
    /// time that it is never seen at work, and creep. As in a slow start no more than twice as much
    /// is under way next: of a link that others share it may have been a moment without them.
    fn drained(&mut self, now: Instant, held: Held, within: Duration) {
        let (Some(rate), Some(limit)) = (self.rate, self.limit_bytes) else {
            return;
        };
        let time = now.saturating_duration_since(held.since).as_secs_f64();
        let most = 2.0 * limit as f64 / within.as_secs_f64();
        self.rate = Some(rate.max(most.min(held.queued_bytes as f64 / time)));
    }

    /// What came while the link stood idle at times says what it brings at least, no more.
    fn take_sample(&mut self, now: Instant, reading: &Reading) {
        let begun = Sample::begun(now, reading);
        let mut sample = self.sample.unwrap_or(begun);
        sample.was_idle |= reading.queued_bytes == 0;
        let time = now.saturating_duration_since(sample.since);
        if time >= reading.round_trip.clamp(SAMPLE_MIN, SAMPLE) {
            let came = reading.taken_bytes.saturating_sub(sample.taken_bytes);
            let rate = came as f64 / time.as_secs_f64();
            if sample.was_idle {
                self.rate = self.rate.map(|known| known.max(rate))
            } else {
                self.measured(rate)
            }
            sample = begun;
        }
        self.sample = Some(sample);
    }

    /// Whether anything is held back.
    pub(super) fn is_limited(&self) -> bool {
        self.limit_bytes.is_some()
    }

    /// More is believed at once, less by and by: a loss that is mended is not a slower link.
    fn measured(&mut self, sample: f64) {
        let known = self.rate.unwrap_or(sample);
        self.rate = Some(sample.max(known + (sample - known) * RATE_WEIGHT));
    }

    /// When there may be room for more.
    pub(super) fn look_after(&self) -> Duration {
        let packet = |rate: f64| Duration::try_from_secs_f64(1500.0 / rate).unwrap_or(LOOK[1]);
        let packet = self.rate.map_or(LOOK[0], packet);
        packet.clamp(LOOK[0], LOOK[1])
    }
}

#[cfg(test)]
mod tests;
