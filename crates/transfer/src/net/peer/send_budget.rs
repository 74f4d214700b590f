//! Limit of the bytes in flight on a connection, so that it does not fill the queue of a slow link.
//!
//! The kernel's congestion control goes on until a queue overflows. Routers of slow links let
//! queues grow to seconds. Here, as in LEDBAT (RFC 6817), the delay that a queue adds decides. The
//! limit is what the link brings at its recent rate in the least round trip plus a
//! [`QueueTarget::delay`]. If queues are shorter than that, nothing is held back, and a faster link
//! allows more bytes in flight. The kernel gets little of it ahead of what it can send, because
//! nothing urgent can overtake bytes that a socket has taken.

use tokio::time::{Duration, Instant};

use super::tcp_info::TcpInfo;
use p2pfs_proto::wire::native::tcp::Lane;

/// Maximum interval of the rate samples. It is one round trip if that is shorter, so that the limit
/// grows faster than the kernel's own slow start.
const SAMPLE: Duration = Duration::from_millis(100);
/// Minimum interval of the rate samples.
const SAMPLE_MIN: Duration = Duration::from_millis(10);
/// Minimum and maximum interval of the checks for room.
const LOOK: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// Initial limit in bytes, plus the bytes acknowledged so far. The kernel's own slow start never
/// has more in flight, but its socket holds everything that a slow link cannot bring for seconds.
const START_BYTES: u64 = 64 << 10;
/// Initial limit in bytes if the round trip is short. An answer to the kernel's read-ahead of 128
/// KiB with its proof is then sent at once.
const START_NEAR_BYTES: u64 = 144 << 10;
/// Unsent bytes in the kernel: the minimum, and the limit while the rate is unknown. A few packets
/// keep it busy until the next check.
const UNSENT_BYTES: [u64; 2] = [4 << 10, 16 << 10];
/// Limit of unsent bytes in the kernel once the rate is known, as the time in which the link brings
/// them.
const UNSENT: Duration = Duration::from_millis(100);
/// Round trip from which the unsent bytes are kept short. A nearer link sends them soon, and a busy
/// machine that checks late would leave the link idle.
const LONG: Duration = Duration::from_millis(100);
/// Round trip up to which a link is near.
const NEAR: Duration = Duration::from_millis(1);
/// Acknowledged bytes after which the initial limit no longer applies.
const START_TAKEN_BYTES: u64 = 1 << 20;
/// Limit from which nothing is held back and the kernel is read for samples only. The kernel itself
/// takes no more than some such amount (`tcp_wmem`).
const FREE_BYTES: u64 = 8 << 20;
/// Maximum round trip that counts, that of a geostationary satellite. A longer one is a queue that
/// existed before.
const LEAST_MAX: Duration = Duration::from_millis(600);
/// Weight of the newest rate sample.
const RATE_WEIGHT: f64 = 0.25;

/// Target length of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueTarget {
    /// Delay that the queue may add.
    pub delay: Duration,
    /// Bytes that may be in flight whatever the delay, because others may fill the queue. Twice
    /// that if the round trip is not long.
    pub least_bytes: u64,
}

impl QueueTarget {
    /// Returns the target of a lane. Bulk yields to everything else: 100 ms, the most that RFC 6817
    /// lets LEDBAT add, and one TLS record. Urgent traffic yields later, and less.
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

/// Rate sample in progress.
#[derive(Clone, Copy, Debug)]
struct RateSample {
    since: Instant,
    /// Bytes acknowledged by its start.
    taken_bytes: u64,
    /// Whether the link was idle at some check since its start.
    was_idle: bool,
}

impl RateSample {
    fn begun(now: Instant, reading: &TcpInfo) -> Self {
        Self {
            since: now,
            taken_bytes: reading.taken_bytes,
            was_idle: false,
        }
    }
}

/// Check that found no room.
#[derive(Clone, Copy, Debug)]
struct ExhaustedCheck {
    since: Instant,
    /// Bytes in flight at the check.
    queued_bytes: u64,
}

/// Limit of the bytes in flight, from the kernel's figures.
#[derive(Debug, Default)]
pub(super) struct SendBudget {
    /// `None` if nothing is held back, whatever the queue.
    pub(super) target: Option<QueueTarget>,
    /// Current sample.
    sample: Option<RateSample>,
    /// Bytes per second that the link brought while it was busy.
    rate: Option<f64>,
    /// Bytes that may be in flight. `None` if nothing is held back.
    limit_bytes: Option<u64>,
    /// Last check, if it found no room.
    held: Option<ExhaustedCheck>,
}

impl SendBudget {
    /// Creates a limit for a link with a known recent rate in bytes per second.
    #[cfg(test)]
    pub(super) fn of_rate(target: QueueTarget, rate: f64) -> Self {
        Self {
            target: Some(target),
            rate: Some(rate),
            ..Self::default()
        }
    }

    /// Returns whether the kernel figures must be read before the next bytes are sent.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let fresh = |it: RateSample| now.saturating_duration_since(it.since) < SAMPLE;
        self.limit_bytes.is_some() || !self.sample.is_some_and(fresh)
    }

    /// Evaluates kernel figures. Returns how many bytes may be sent now.
    pub(super) fn take(&mut self, now: Instant, reading: &TcpInfo) -> u64 {
        let Some(target) = self.target else {
            self.sample = Some(RateSample::begun(now, reading));
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
        // with less in flight, the other end may delay its acknowledgement by 40 ms (RFC 1122,
        // 4.2.3.2)
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
        self.held = (room == 0).then_some(ExhaustedCheck {
            since: now,
            queued_bytes: reading.queued_bytes,
        });
        room
    }

    /// Raises the rate if everything in flight arrived by the next check, so that the link is idle.
    /// It may be faster than known. Otherwise a connection whose rate fell during a pause would get
    /// so few bytes at a time that it is never seen busy, and would stay slow. As in slow start,
    /// the limit at most doubles: a shared link may have been free only briefly.
    fn drained(&mut self, now: Instant, held: ExhaustedCheck, within: Duration) {
        let (Some(rate), Some(limit)) = (self.rate, self.limit_bytes) else {
            return;
        };
        let time = now.saturating_duration_since(held.since).as_secs_f64();
        let most = 2.0 * limit as f64 / within.as_secs_f64();
        self.rate = Some(rate.max(most.min(held.queued_bytes as f64 / time)));
    }

    /// Completes a rate sample that is due. A sample with idle times is only a lower bound of the
    /// rate.
    fn take_sample(&mut self, now: Instant, reading: &TcpInfo) {
        let begun = RateSample::begun(now, reading);
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

    /// Returns whether anything is held back.
    pub(super) fn is_limited(&self) -> bool {
        self.limit_bytes.is_some()
    }

    /// Adds a sample to the rate. An increase counts at once, a decrease gradually, since a
    /// repaired loss is not a slower link.
    fn measured(&mut self, sample: f64) {
        let known = self.rate.unwrap_or(sample);
        self.rate = Some(sample.max(known + (sample - known) * RATE_WEIGHT));
    }

    /// Returns when to check again for room.
    pub(super) fn check_after(&self) -> Duration {
        let packet = |rate: f64| Duration::try_from_secs_f64(1500.0 / rate).unwrap_or(LOOK[1]);
        let packet = self.rate.map_or(LOOK[0], packet);
        packet.clamp(LOOK[0], LOOK[1])
    }
}

#[cfg(test)]
mod tests;
