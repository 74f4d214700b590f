//! Estimates of the link to a peer: latency, rate, and how much is worth having in flight.

use std::time::{Duration, Instant};

use super::peer::SentState;
use super::{Lane, PIECE_MAX_BYTES, URGENT_MAX_BYTES};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};
use p2pfs_types::least::LeastLately;

/// Minimum window of a peer whose rate was measured in this run, until it has delivered this many
/// bytes. If it transfers fewer bytes in `QUEUE_TIME`, the minimum is what it transfers in that
/// time. Also the maximum number of urgent bytes in flight to one peer, except for small and
/// reissued requests.
pub const WINDOW_START_BYTES: u64 = 4 << 20;
/// Maximum window: 160 ms at 100 MB/s, twice what connections within a continent need.
pub const WINDOW_MAX_BYTES: u64 = 16 << 20;
/// Window of a peer whose rate was not measured in this run, and maximum urgent bytes in flight to
/// a peer of unknown rate: two of the kernel's read-aheads. It is small, so that a dead or slow
/// peer delays few bytes.
const WINDOW_UNKNOWN_BYTES: u64 = 2 * URGENT_MAX_BYTES;
/// Time that a reader may wait for bytes that were requested before its own. The bytes that a peer
/// transfers in this time bound three figures: the window of a peer that has delivered little, the
/// urgent bytes in flight to a slow peer, and the size of one piece.
const QUEUE_TIME: Duration = Duration::from_secs(1);
/// Maximum size in bytes of a small request: a small file, or a page or two of a large one.
pub const SMALL_BYTES: u64 = 8 << 10;
/// Maximum bytes of a TLS record (RFC 8446, 5.1), in which answers arrive. It is the lower bound of
/// an urgent piece from a peer that needs longer than [`QUEUE_TIME`] for a chunk. A peer sends one
/// answer after the other, so a reader that opens a small file waits for the rest of the current
/// piece. Each piece carries its proof from the root of the file's tree, so smaller pieces would be
/// half proof.
pub(super) const RECORD_BYTES: u64 = 16 << 10;
/// Divisor of a peer's estimated rate when the peer reports `Busy`, or when the download limit of
/// this node delayed a request to the peer for long. A limit, of the peer or of this node, may now
/// allow less than the estimate.
const BUSY_RATE_DIVISOR: f64 = 4.0;
/// Usual delay of an answer of a healthy peer, caused by its distance and by short pauses of its
/// machine. It is the latency assumed for an unknown peer, a tolerance when peers are compared, and
/// a part of the window: the window covers twice the distance plus this delay.
pub(super) const USUAL_DELAY: Duration = Duration::from_millis(50);
/// Bytes per second assumed for an unknown peer.
pub(super) const RATE_UNKNOWN: f64 = 10e6;
/// Length of a time span of latency samples. The distance of a peer is its least latency in the
/// current and the previous span. Queueing and disrupted networks add delays that are not distance.
const DISTANCE_SPAN: Duration = Duration::from_secs(60);

/// Estimates of the link to a peer. All of them only steer requests.
#[derive(Debug, Default)]
pub(super) struct LinkEstimate {
    /// Smoothed time to an answer. After the first answer, it excludes the transfer time of the
    /// bytes and of the queue before them.
    latency: Option<Duration>,
    deviation: Duration,
    least: LeastLately,
    /// Smoothed bytes per second.
    rate: Option<f64>,
    /// Whether latency and rate were stored by an earlier run of the daemon. The first complete
    /// answer in this run replaces them.
    is_guess: bool,
    /// Bytes of verified answers, requested by the plan or not.
    delivered_bytes: u64,
    /// Bytes received, needed or not.
    moved_bytes: u64,
    bulk_bytes: u64,
    urgent_bytes: u64,
    /// Part of the urgent bytes that small requests ask for.
    small_bytes: u64,
}

impl LinkEstimate {
    /// Returns estimates from an earlier run of the daemon.
    pub(super) fn guess(latency: Option<Duration>, rate: Option<f64>) -> Self {
        Self {
            latency,
            rate,
            is_guess: true,
            ..Self::default()
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.latency.is_some()
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency
    }

    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }

    pub(super) fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }

    pub(super) fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }

    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.bulk_bytes + self.urgent_bytes
    }

    /// Returns the distance of the peer: the least of its recent latencies, or the smoothed latency
    /// if there is no sample.
    fn distance(&self) -> Option<Duration> {
        self.least.get().or(self.latency)
    }

    /// Returns the maximum bulk bytes in flight to the peer.
    pub(super) fn window_bytes(&self) -> u64 {
        let (Some(distance), Some(rate)) = (self.distance(), self.rate) else {
            return WINDOW_UNKNOWN_BYTES;
        };
        if self.is_guess {
            return WINDOW_UNKNOWN_BYTES;
        }
        let span = distance.as_secs_f64() * 2.0 + USUAL_DELAY.as_secs_f64();
        // two pieces, so that the next one is under way while one arrives
        let mut floor = self.piece_bytes(Lane::Bulk) * 2;
        if self.delivered_bytes < WINDOW_START_BYTES {
            let moved = (rate * QUEUE_TIME.as_secs_f64()) as u64;
            floor = floor.max(moved.min(WINDOW_START_BYTES));
        }
        ((rate * span) as u64).clamp(floor, WINDOW_MAX_BYTES)
    }

    /// Returns whether one more piece of `bytes` may be requested from it.
    pub(super) fn has_room(&self, lane: Lane, bytes: u64) -> bool {
        match lane {
            Lane::Urgent => {
                // at a slow peer more bytes would only queue, and not in the order in which their
                // readers wait
                let most = self.rate.map_or(WINDOW_UNKNOWN_BYTES, |rate| {
                    let moved = (rate * QUEUE_TIME.as_secs_f64()) as u64;
                    let least = moved.clamp(2 * CHUNK_BYTES, PIECE_MAX_BYTES);
                    (self.window_bytes() * 2).clamp(least, WINDOW_START_BYTES)
                });
                // the peer sends a small answer ahead of its queued large ones, so a reader that
                // opens a small file need not wait for the read-aheads in flight
                let beside = is_small(lane, bytes) && self.small_bytes < CHUNK_BYTES;
                self.urgent_bytes == 0 || beside || self.urgent_bytes + bytes <= most
            }
            // an unknown link carries no bulk requests while a reader waits on it
            Lane::Bulk if self.rate.is_none() && self.urgent_bytes > 0 => false,
            Lane::Bulk => self.bulk_bytes == 0 || self.bulk_bytes + bytes <= self.window_bytes(),
        }
    }

    /// Returns the first piece of a range to request from it. Pieces are counted from `origin`.
    pub(super) fn first_piece(&self, lane: Lane, range: ByteRange, origin: u64) -> ByteRange {
        range.first_grain_from(origin, self.piece_bytes(lane))
    }

    /// Returns the maximum piece in bytes, a power of two. A slow peer gets small pieces: each
    /// takes at most a quarter of [`QUEUE_TIME`], but has at least a chunk. An urgent piece is
    /// smaller than a chunk only if a chunk takes longer than [`QUEUE_TIME`], and the peer has
    /// delivered at least one: before that, the rate comes from small answers, which measure the
    /// distance.
    pub(super) fn piece_bytes(&self, lane: Lane) -> u64 {
        let moved_in = |time: Duration| self.rate.map(|it| (it * time.as_secs_f64()) as u64);
        let by_rate = moved_in(QUEUE_TIME / 4).unwrap_or(CHUNK_BYTES);
        let usual = by_rate.clamp(CHUNK_BYTES, PIECE_MAX_BYTES);
        let most = match (lane, moved_in(QUEUE_TIME)) {
            (Lane::Bulk, _) => usual,
            (Lane::Urgent, Some(few))
                if few < CHUNK_BYTES && self.delivered_bytes >= CHUNK_BYTES =>
            {
                few.max(RECORD_BYTES)
            }
            (Lane::Urgent, _) => usual.min(URGENT_MAX_BYTES),
        };
        1 << most.ilog2()
    }

    fn queue_bytes(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Urgent => self.urgent_bytes,
            Lane::Bulk => self.bulk_bytes,
        }
    }

    /// Returns the expected time until `bytes` more arrive, if they are requested now.
    pub(super) fn expected(&self, lane: Lane, bytes: u64) -> Duration {
        let rate = self.rate.unwrap_or(RATE_UNKNOWN).max(1.0);
        let moving = Duration::from_secs_f64((self.queue_bytes(lane) + bytes) as f64 / rate);
        self.latency.unwrap_or(USUAL_DELAY) + moving
    }

    /// Records a request as sent. Returns the figures by which its answer will be judged.
    pub(super) fn begin(&mut self, now: Instant, lane: Lane, bytes: u64) -> SentState {
        let usual = self.expected(lane, bytes) + self.deviation * 2;
        let queue_bytes = self.queue_bytes(lane);
        let ahead_bytes = self.in_flight_bytes();
        match lane {
            Lane::Urgent => self.urgent_bytes += bytes,
            Lane::Bulk => self.bulk_bytes += bytes,
        }
        if is_small(lane, bytes) {
            self.small_bytes += bytes;
        }
        let app_limited = self.in_flight_bytes() * 2 < self.window_bytes();
        SentState {
            at: now,
            usual,
            moved_bytes: self.moved_bytes,
            queue_bytes,
            ahead_bytes,
            app_limited,
        }
    }

    /// Removes an ended request from the bytes in flight.
    pub(super) fn end(&mut self, lane: Lane, bytes: u64) {
        match lane {
            Lane::Urgent => self.urgent_bytes -= bytes,
            Lane::Bulk => self.bulk_bytes -= bytes,
        }
        if is_small(lane, bytes) {
            self.small_bytes -= bytes;
        }
    }

    /// Records arrived bytes, needed or not.
    pub(super) fn record_moved(&mut self, bytes: u64) {
        self.moved_bytes += bytes;
    }

    /// Records verified bytes that the plan did not request.
    pub(super) fn record_delivered(&mut self, bytes: u64) {
        self.delivered_bytes += bytes;
    }

    /// Learns from a complete answer. Its bytes have been recorded with
    /// [`LinkEstimate::record_moved`].
    pub(super) fn learn(&mut self, now: Instant, sent: &SentState, bytes: u64) {
        self.delivered_bytes += bytes;
        if std::mem::take(&mut self.is_guess) {
            (self.latency, self.rate) = (None, None);
        }
        let took = now
            .saturating_duration_since(sent.at)
            .max(Duration::from_micros(20));
        self.learn_rate(sent, took, bytes);
        self.learn_latency(now, sent, took, bytes);
    }

    /// Updates the rate by the bytes that arrived from the peer while the request was open. If less
    /// than half of the window was in flight when the request was sent, the sample can only raise
    /// the estimate.
    fn learn_rate(&mut self, sent: &SentState, took: Duration, bytes: u64) {
        let moved = self.bytes_since(sent).max(bytes);
        let sample = moved as f64 / took.as_secs_f64();
        self.rate = Some(match self.rate {
            None => sample,
            Some(rate) if sample > rate => rate + (sample - rate) / 2.0,
            Some(rate) if sent.app_limited => rate,
            Some(rate) => rate + (sample - rate) / 8.0,
        });
    }

    /// Updates the latency with Jacobson and Karels' smoothing (RFC 6298). The first answer counts
    /// with its whole time. Later samples exclude the transfer time of the bytes and of the queue.
    fn learn_latency(&mut self, now: Instant, sent: &SentState, took: Duration, bytes: u64) {
        let rate = self.rate.unwrap_or(RATE_UNKNOWN).max(1.0);
        let moving = Duration::from_secs_f64((sent.queue_bytes + bytes) as f64 / rate);
        let sample = took.saturating_sub(moving).max(took / 8);
        self.least.record(now, DISTANCE_SPAN, sample);
        let Some(latency) = self.latency else {
            self.latency = Some(took);
            self.deviation = took / 2;
            return;
        };
        self.deviation = (self.deviation * 3 + latency.abs_diff(sample)) / 4;
        self.latency = Some((latency * 7 + sample) / 8);
    }

    /// Records that another peer was faster: raises the latency towards the time that the request
    /// has taken so far, if that is longer.
    pub(super) fn record_slow(&mut self, now: Instant, sent: &SentState) {
        let took = now.saturating_duration_since(sent.at);
        let moved = self.bytes_since(sent);
        if self.rate.is_none() && moved > 0 {
            self.rate = Some(moved as f64 / took.as_secs_f64().max(1e-3));
        }
        match self.latency {
            None => self.latency = Some(took),
            Some(latency) if took > latency => self.latency = Some((latency * 7 + took) / 8),
            Some(_) => {}
        }
    }

    /// Resets the latency to the distance, at most [`USUAL_DELAY`], after an unhealthy time.
    /// Figures of an earlier run stay.
    pub(super) fn forget_delays(&mut self) {
        if let Some(latency) = self.distance().filter(|_| !self.is_guess) {
            let latency = latency.min(USUAL_DELAY);
            (self.latency, self.deviation) = (Some(latency), latency / 2);
            self.least = LeastLately::of(latency);
        }
    }

    /// Divides the estimated rate by [`BUSY_RATE_DIVISOR`]. The peer may have a rate limit by now
    /// that its earlier rate does not reflect.
    pub(super) fn record_busy(&mut self) {
        self.rate = self.rate.map(|rate| rate / BUSY_RATE_DIVISOR);
    }

    /// Returns the bytes that arrived since a request was sent, for any request.
    fn bytes_since(&self, sent: &SentState) -> u64 {
        self.moved_bytes - sent.moved_bytes
    }

    /// Returns the bytes per second since a request was sent, if any bytes arrived.
    pub(super) fn pace_since(&self, now: Instant, sent: &SentState) -> Option<f64> {
        let moved = self.bytes_since(sent) as f64;
        let took = now.saturating_duration_since(sent.at).as_secs_f64();
        (moved > 0.0 && took > 0.0).then(|| moved / took)
    }

    /// Returns whether many later requests overtook a request. The peer's disk may hang for the
    /// file of this request alone. The threshold is twice the sum of the bytes in flight before the
    /// request and its own bytes, since two lanes share the link.
    pub(super) fn was_far_overtaken(&self, sent: &SentState, own_bytes: u64) -> bool {
        self.bytes_since(sent) > (sent.ahead_bytes + own_bytes) * 2
    }

    /// Returns whether later requests overtook a request.
    pub(super) fn was_overtaken(&self, sent: &SentState, own_bytes: u64) -> bool {
        self.bytes_since(sent) > sent.ahead_bytes + own_bytes
    }

    /// Returns the bytes still to arrive of those queued before a request.
    pub(super) fn bytes_left_before(&self, sent: &SentState) -> u64 {
        sent.queue_bytes.saturating_sub(self.bytes_since(sent))
    }
}

/// Returns whether a request is small and a reader waits for it.
fn is_small(lane: Lane, bytes: u64) -> bool {
    lane == Lane::Urgent && bytes <= SMALL_BYTES
}
