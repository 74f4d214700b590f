//! Limit of the bytes in flight on a connection, so that they do not fill the queue of a slow link.
//!
//! The kernel's congestion control sends more and more until a queue overflows. Routers of slow
//! links let queues grow to seconds. Here, as in LEDBAT (RFC 6817), the delay that a queue adds
//! decides. The limit is the number of bytes that the link carries at its recent rate in the least
//! round trip plus [`QueueTarget::delay`]. If the round trip is long ([`LONG`]), the kernel gets
//! only a few more bytes than it can send at once. Urgent bytes cannot overtake bytes that a socket
//! has taken.

use tokio::time::{Duration, Instant};

use super::tcp_info::TcpInfo;
use p2pfs_proto::wire::native::tcp::Lane;

/// Time after which a rate sample is complete. One round trip suffices if that is shorter, so that
/// the limit grows faster than the kernel's own slow start.
const SAMPLE: Duration = Duration::from_millis(100);
/// Minimum duration of a rate sample.
const SAMPLE_MIN: Duration = Duration::from_millis(10);
/// Minimum and maximum time until the next check, after a check that found no room to send.
const LOOK: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// While the rate is unknown, this number of bytes, plus the bytes acknowledged so far, may be in
/// flight. The kernel's own slow start never has more in flight. Without this limit, the kernel's
/// socket would take bytes for which a slow link needs seconds.
const START_BYTES: u64 = 64 << 10;
/// Replaces [`START_BYTES`] if the round trip is less than [`NEAR`]. An answer to the kernel's
/// read-ahead of 128 KiB, with its proof, is then sent at once.
const START_NEAR_BYTES: u64 = 144 << 10;
/// Limits of the unsent bytes in the kernel if the round trip is at least [`LONG`]. The first is
/// the minimum of the limit that follows from a known rate ([`UNSENT`]). The second is the limit
/// while the rate is unknown. A few packets keep the kernel busy until the next check.
const UNSENT_BYTES: [u64; 2] = [4 << 10, 16 << 10];
/// Limit of unsent bytes in the kernel once the rate is known, as the time in which the link
/// carries them.
const UNSENT: Duration = Duration::from_millis(100);
/// Round trip from which on the unsent bytes have a limit of their own. A link with a shorter round
/// trip sends its unsent bytes soon. With such a limit, that link would be idle whenever this
/// machine is busy and checks late.
const LONG: Duration = Duration::from_millis(100);
/// Round trip below which a link is near.
const NEAR: Duration = Duration::from_millis(1);
/// Acknowledged bytes above which nothing is held back while the rate is unknown: neither
/// [`START_BYTES`] nor [`START_NEAR_BYTES`] applies then.
const START_TAKEN_BYTES: u64 = 1 << 20;
/// If the computed limit is at least this number of bytes, nothing is held back, and the kernel's
/// figures are read only for rate samples. The kernel itself takes at most about this number of
/// bytes (`tcp_wmem`).
const FREE_BYTES: u64 = 8 << 20;
/// Upper bound of the least round trip: that of a geostationary satellite. A longer least round
/// trip contains the delay of a queue that existed before the connection.
const LEAST_MAX: Duration = Duration::from_millis(600);
/// Weight of the newest rate sample.
const RATE_WEIGHT: f64 = 0.25;

/// Target length of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueTarget {
    /// Delay that the queue may add.
    pub delay: Duration,
    /// Bytes that may be in flight whatever the delay, because other traffic may fill the queue.
    /// Twice as many if the round trip is shorter than [`LONG`].
    pub least_bytes: u64,
}

impl QueueTarget {
    /// Returns the target of a lane. Bulk traffic yields to all other traffic: it adds at most 100
    /// ms, the most that RFC 6817 lets LEDBAT add, but may always have one TLS record (16 KiB) in
    /// flight. Urgent traffic may add more delay.
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
    /// Bytes acknowledged by the start of the sample.
    taken_bytes: u64,
    /// Whether the link was idle at some check since the start of the sample.
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
    /// Bytes per second that the link carried while it was busy.
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

    /// Updates the limit from the kernel's figures. Returns how many bytes may be sent now.
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
        // with less than two segments in flight, the other end may delay its acknowledgement by 40
        // ms (RFC 1122, 4.2.3.2)
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

    /// Raises the rate. Must be called if a check found no room and the next check finds nothing in
    /// flight. The link has been idle, so it may be faster than `rate`. Without this, a connection
    /// whose rate fell during a pause would stay slow: it would get so few bytes at a time that it
    /// is never seen busy. As in slow start, the limit at most doubles, since a shared link may
    /// have been free only briefly.
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

    /// Adds a sample to the rate. An increase counts at once, a decrease gradually, because the
    /// repair of a loss lowers a sample although the link is as fast as before.
    fn measured(&mut self, sample: f64) {
        let known = self.rate.unwrap_or(sample);
        self.rate = Some(sample.max(known + (sample - known) * RATE_WEIGHT));
    }

    /// Returns how long to wait before the next check for room.
    pub(super) fn check_after(&self) -> Duration {
        let packet = |rate: f64| Duration::try_from_secs_f64(1500.0 / rate).unwrap_or(LOOK[1]);
        let packet = self.rate.map_or(LOOK[0], packet);
        packet.clamp(LOOK[0], LOOK[1])
    }
}

#[cfg(test)]
mod tests;
