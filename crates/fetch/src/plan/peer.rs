//! Figures of a peer as a responder: latency, rate and honesty.
//!
//! All of them are estimates that only steer requests. A slow peer is never refused.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::past::PastFigures;
use super::silence::Silence;
use super::{Lane, PIECE_MAX_BYTES, RequestId, URGENT_MAX_BYTES};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};
use p2pfs_types::least::LeastLately;

/// Bytes in flight to a peer that is little known yet.
pub const WINDOW_START_BYTES: u64 = 4 << 20;
/// Minimum window in pieces, so that the next piece is under way while one arrives.
const WINDOW_MIN_PIECES: u64 = 2;
/// Minimum window of a peer that has delivered little, as the time to transfer it at the rate seen
/// so far.
const WINDOW_START_TIME: Duration = Duration::from_secs(1);
/// Maximum window: 160 ms at 100 MB/s, twice what connections within a continent need.
pub const WINDOW_MAX_BYTES: u64 = 16 << 20;
/// Maximum bulk bytes in flight to a peer that has never answered, so that a dead or slow peer
/// costs little.
const WINDOW_UNKNOWN_BYTES: u64 = 256 << 10;
/// Maximum urgent bytes in flight to a peer that has never answered: two of the kernel's
/// read-aheads. Its link may be slow, and more bytes would delay every later request.
const URGENT_UNKNOWN_BYTES: u64 = 256 << 10;
/// Maximum urgent bytes in flight to a peer. They may exceed its window.
const URGENT_WINDOW_BYTES: u64 = 4 << 20;
/// Urgent bytes that may be in flight even if the window is smaller, unless they take longer than
/// [`URGENT_WINDOW_TIME`]. At a slow peer more bytes would only queue, and not in the order in
/// which readers wait for them.
const URGENT_WINDOW_MIN_BYTES: u64 = 1 << 20;
/// Time limit of [`URGENT_WINDOW_MIN_BYTES`]. Two chunks may always be in flight.
const URGENT_WINDOW_TIME: Duration = Duration::from_secs(1);
/// Maximum bytes of small requests sent in excess of the window. A reader that opens a small file
/// at a slow peer need not wait until its read-aheads have arrived.
const SMALL_BESIDE_BYTES: u64 = 64 << 10;
/// Maximum size in bytes of a small request: a small file, or a page or two of a large one.
pub const SMALL_BYTES: u64 = 8 << 10;
/// Time that the window covers in addition to two round trips, for a peer's pauses.
const WINDOW_SLACK: Duration = Duration::from_millis(50);
/// Target transfer time of one piece, so that a slow peer gets small pieces.
const PIECE_TIME: Duration = Duration::from_millis(250);
/// Smallest urgent piece, used if a chunk takes longer than [`URGENT_PIECE_TIME`]. A peer sends one
/// answer after the other, so a reader that opens a small file waits for the rest of the current
/// piece. Each piece carries its proof from the root of the file's tree, so smaller ones would be
/// half proof.
const URGENT_PIECE_MIN_BYTES: u64 = 16 << 10;
/// Transfer time of a chunk above which urgent pieces are smaller; see [`URGENT_PIECE_MIN_BYTES`].
const URGENT_PIECE_TIME: Duration = Duration::from_secs(1);
/// First back-off after a failure. It doubles with each further failure.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Maximum back-off after failures. A peer is tried several times while a reader waits 10 s for it.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// First back-off after `Busy`.
const BUSY_MIN: Duration = Duration::from_millis(25);
/// Maximum back-off after `Busy`: a busy peer is alive.
const BUSY_MAX: Duration = Duration::from_millis(800);
/// Bytes whose transfer time is the minimum gap before a peer counts as about to fall silent: three
/// TLS records.
const RECORDS_BYTES: f64 = 3.0 * 16_384.0;
/// Divisor of a peer's estimated rate when it reports `Busy`, until its next answers.
const BUSY_RATE_DIVISOR: f64 = 4.0;
/// How long a peer is shunned after wrong bytes.
pub const SHUN: Duration = Duration::from_secs(600);
/// Figures assumed for an unknown peer.
pub(super) const LATENCY_UNKNOWN: Duration = Duration::from_millis(50);
pub(super) const RATE_UNKNOWN: f64 = 10e6;
/// Penalty added to the score of a silent peer.
const SILENCE_PENALTY: Duration = Duration::from_secs(10);
/// Length of each of the two latest intervals whose least latency is a peer's distance. Queueing
/// and disrupted networks add delays that are not distance.
const DISTANCE_SPAN: Duration = Duration::from_secs(60);

/// State of a peer at the time when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentState {
    pub at: Instant,
    pub usual: Duration,
    pub(super) moved_bytes: u64,
    pub(super) queue_bytes: u64,
    /// Bytes in flight to the peer before the request, in both lanes.
    pub(super) ahead_bytes: u64,
    app_limited: bool,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Smoothed time to an answer, without the transfer time of its bytes and of the queue before
    /// it.
    pub(super) latency: Option<Duration>,
    deviation: Duration,
    least: LeastLately,
    /// Smoothed bytes per second.
    pub(super) rate: Option<f64>,
    pub delivered_bytes: u64,
    /// Bytes received from it, needed or not.
    pub(super) moved_bytes: u64,
    bulk_bytes: u64,
    urgent_bytes: u64,
    /// Part of the urgent bytes that small requests ask for.
    small_bytes: u64,
    /// Open requests to it.
    pub asked: BTreeSet<RequestId>,
    /// When anything last arrived from it.
    pub(super) heard_at: Option<Instant>,
    /// When bytes last arrived from it, or it last reported that it is busy.
    worked_at: Option<Instant>,
    /// When a limit of this node last delayed a request to it while it had no failures.
    limited_at: Option<Instant>,
    /// Since when requests to it have been open without a pause.
    busy_since: Option<Instant>,
    pub silence: Silence,
    /// Failures since its last answer. Requests that failed together count once.
    failures: u32,
    pub(super) failed_at: Option<Instant>,
    busy: u32,
    busy_at: Option<Instant>,
    pub failures_total: u64,
    not_before: Option<Instant>,
    pub shunned_until: Option<Instant>,
    pub load: u8,
    pub past: PastFigures,
}

/// Rank of a peer among the candidates of a request, the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerRank {
    #[default]
    Answers,
    WorthATry,
    Silent,
}

impl Peer {
    pub(super) fn is_known(&self) -> bool {
        self.latency.is_some()
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency
    }

    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Returns whether it is silent: other peers come first until it answers.
    pub(super) fn is_silent(&self) -> bool {
        self.silence.is_kept()
    }

    /// Returns its rank. Answering peers come first. A peer that has been silent comes next if its
    /// last try was long enough ago: it may be healthy again, which only a request can show.
    pub(super) fn standing(&self, now: Instant) -> PeerRank {
        let is_idle = self.asked.is_empty() && self.resting_until(now).is_none();
        match self.is_silent() {
            false => PeerRank::Answers,
            true if is_idle && self.silence.may_be_tried(now) => PeerRank::WorthATry,
            true => PeerRank::Silent,
        }
    }

    /// Returns the number of failures since its last answer.
    pub(super) fn unanswered(&self) -> u32 {
        self.failures
    }

    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.bulk_bytes + self.urgent_bytes
    }

    /// Returns the end of its back-off or shunning, if it rests now.
    pub(super) fn resting_until(&self, now: Instant) -> Option<Instant> {
        self.not_before
            .max(self.shunned_until)
            .filter(|until| *until > now)
    }

    /// Returns whether it has no open requests and is not shunned.
    pub(super) fn is_spare(&self) -> bool {
        self.asked.is_empty() && self.shunned_until.is_none()
    }

    pub(super) fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| until > now)
    }

    /// Returns its distance: the latency without queueing and network disruptions.
    fn distance(&self) -> Option<Duration> {
        self.least.get().or(self.latency)
    }

    /// Returns the maximum bulk bytes in flight to it.
    pub(super) fn window_bytes(&self) -> u64 {
        let (Some(distance), Some(rate)) = (self.distance(), self.rate) else {
            return WINDOW_UNKNOWN_BYTES;
        };
        if self.past.is_guess {
            return WINDOW_UNKNOWN_BYTES;
        }
        let span = distance.as_secs_f64() * 2.0 + WINDOW_SLACK.as_secs_f64();
        let mut floor = self.piece_bytes(Lane::Bulk) * WINDOW_MIN_PIECES;
        if self.delivered_bytes < WINDOW_START_BYTES {
            let moved = (rate * WINDOW_START_TIME.as_secs_f64()) as u64;
            floor = floor.max(moved.min(WINDOW_START_BYTES));
        }
        ((rate * span) as u64).clamp(floor, WINDOW_MAX_BYTES)
    }

    /// Returns whether one more piece of `bytes` may be requested from it.
    pub(super) fn has_room(&self, lane: Lane, bytes: u64) -> bool {
        match lane {
            Lane::Urgent => {
                let most = self.rate.map_or(URGENT_UNKNOWN_BYTES, |rate| {
                    let moved = (rate * URGENT_WINDOW_TIME.as_secs_f64()) as u64;
                    let least = moved.clamp(2 * CHUNK_BYTES, URGENT_WINDOW_MIN_BYTES);
                    (self.window_bytes() * 2).clamp(least, URGENT_WINDOW_BYTES)
                });
                // the peer sends a small answer ahead of its queued large ones
                let beside = is_small(lane, bytes) && self.small_bytes < SMALL_BESIDE_BYTES;
                self.urgent_bytes == 0 || beside || self.urgent_bytes + bytes <= most
            }
            // an unknown link carries no bulk requests while a reader waits on it
            Lane::Bulk if self.rate.is_none() && self.urgent_bytes > 0 => false,
            Lane::Bulk => self.bulk_bytes == 0 || self.bulk_bytes + bytes <= self.window_bytes(),
        }
    }

    /// Returns the first piece of a range to request from it.
    pub(super) fn first_piece(&self, lane: Lane, range: ByteRange) -> ByteRange {
        range.first_grain(self.piece_bytes(lane))
    }

    /// Returns the maximum piece in bytes, a power of two. A few small answers measure distance
    /// rather than rate, so they do not make urgent pieces smaller.
    pub(super) fn piece_bytes(&self, lane: Lane) -> u64 {
        let moved_in = |time: Duration| self.rate.map(|it| (it * time.as_secs_f64()) as u64);
        let by_rate = moved_in(PIECE_TIME).unwrap_or(CHUNK_BYTES);
        let usual = by_rate.clamp(CHUNK_BYTES, PIECE_MAX_BYTES);
        let most = match (lane, moved_in(URGENT_PIECE_TIME)) {
            (Lane::Bulk, _) => usual,
            (Lane::Urgent, Some(few))
                if few < CHUNK_BYTES && self.delivered_bytes >= CHUNK_BYTES =>
            {
                few.max(URGENT_PIECE_MIN_BYTES)
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
        self.latency.unwrap_or(LATENCY_UNKNOWN) + moving
    }

    /// Returns the expected time with penalties for load and silence, as a score to compare peers.
    pub(super) fn score(&self, lane: Lane, bytes: u64) -> Duration {
        let penalty = if self.is_silent() {
            SILENCE_PENALTY
        } else {
            Duration::ZERO
        };
        self.expected(lane, bytes)
            .mul_f64(1.0 + f64::from(self.load) / 64.0)
            + penalty
    }

    pub(super) fn sent(
        &mut self,
        now: Instant,
        id: RequestId,
        lane: Lane,
        bytes: u64,
    ) -> SentState {
        let usual = self.expected(lane, bytes) + self.deviation * 2;
        let queue_bytes = self.queue_bytes(lane);
        let ahead_bytes = self.in_flight_bytes();
        if self.asked.is_empty() {
            self.busy_since = Some(now);
        }
        self.asked.insert(id);
        self.silence.tried(now);
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

    /// Removes an ended request from the counters.
    pub(super) fn ended(&mut self, id: RequestId, lane: Lane, bytes: u64) {
        self.asked.remove(&id);
        match lane {
            Lane::Urgent => self.urgent_bytes -= bytes,
            Lane::Bulk => self.bulk_bytes -= bytes,
        }
        if is_small(lane, bytes) {
            self.small_bytes -= bytes;
        }
    }

    /// Records arrived bytes, needed or not.
    pub(super) fn moved(&mut self, now: Instant, bytes: u64) {
        self.moved_bytes += bytes;
        (self.heard_at, self.worked_at) = (Some(now), Some(now));
        self.silence = Silence::default();
    }

    /// Records a complete answer. Its bytes have been recorded with [`Peer::moved`].
    pub(super) fn answered(&mut self, now: Instant, sent: &SentState, bytes: u64) {
        self.delivered_bytes += bytes;
        (self.failures, self.busy) = (0, 0);
        self.not_before = None;
        if std::mem::take(&mut self.past.is_guess) {
            (self.latency, self.rate) = (None, None);
        }
        let took = now
            .saturating_duration_since(sent.at)
            .max(Duration::from_micros(20));
        self.learn_rate(sent, took, bytes);
        self.learn_latency(now, sent, took, bytes);
    }

    /// Updates the rate by the bytes that arrived during the request. If the requests in flight did
    /// not fill the link, the sample can only raise the estimate.
    fn learn_rate(&mut self, sent: &SentState, took: Duration, bytes: u64) {
        let moved = (self.moved_bytes - sent.moved_bytes).max(bytes);
        let sample = moved as f64 / took.as_secs_f64();
        self.rate = Some(match self.rate {
            None => sample,
            Some(rate) if sample > rate => rate + (sample - rate) / 2.0,
            Some(rate) if sent.app_limited => rate,
            Some(rate) => rate + (sample - rate) / 8.0,
        });
    }

    /// Updates the latency with Jacobson and Karels' smoothing (RFC 6298). The sample excludes the
    /// transfer time of the bytes and of the queue.
    fn learn_latency(&mut self, now: Instant, sent: &SentState, took: Duration, bytes: u64) {
        let rate = self.rate.unwrap_or(RATE_UNKNOWN).max(1.0);
        let moving = Duration::from_secs_f64((sent.queue_bytes + bytes) as f64 / rate);
        let sample = took.saturating_sub(moving).max(took / 8);
        self.least.note(now, DISTANCE_SPAN, sample);
        let Some(latency) = self.latency else {
            self.latency = Some(took);
            self.deviation = took / 2;
            return;
        };
        self.deviation = (self.deviation * 3 + latency.abs_diff(sample)) / 4;
        self.latency = Some((latency * 7 + sample) / 8);
    }

    /// Returns how long nothing arrived from it while a request sent at `since` was open.
    pub(super) fn quiet_for(&self, now: Instant, since: Instant) -> Duration {
        let from = self.heard_at.map_or(since, |heard| heard.max(since));
        now.saturating_duration_since(from)
    }

    /// Returns whether it is reliable now, so not silent and not about to be. Bytes arrive in
    /// records (RFC 8446, 5.1), so a slow peer is quiet between them.
    pub(super) fn is_lively(&self, now: Instant, limit: Duration) -> bool {
        let idle = self.asked.is_empty();
        let since = self.busy_since.unwrap_or(now);
        let record = |rate: f64| Duration::try_from_secs_f64(RECORDS_BYTES / rate).ok();
        let limit = limit.max(self.rate.and_then(record).unwrap_or_default());
        !self.is_silent()
            && self.resting_until(now).is_none()
            && (idle || self.quiet_for(now, since) < limit)
    }

    /// Returns when it last worked for any request, or `None` if it is shunned.
    pub(super) fn worked_at(&self, now: Instant) -> Option<Instant> {
        self.worked_at.filter(|_| !self.is_shunned(now))
    }

    /// Records that another peer was faster: its latency is at least the time taken so far.
    pub(super) fn note_slow(&mut self, now: Instant, sent: &SentState) {
        let took = now.saturating_duration_since(sent.at);
        let moved = self.moved_bytes - sent.moved_bytes;
        if self.rate.is_none() && moved > 0 {
            self.rate = Some(moved as f64 / took.as_secs_f64().max(1e-3));
        }
        match self.latency {
            None => self.latency = Some(took),
            Some(latency) if took > latency => self.latency = Some((latency * 7 + took) / 8),
            Some(_) => {}
        }
    }

    /// Resets its failures, since it is reported healthy again. Its delays of the unhealthy time
    /// say nothing about it now.
    pub(super) fn rested(&mut self) {
        (self.failures, self.busy, self.not_before) = (0, 0, None);
        self.silence = Silence::default();
        if let Some(latency) = self.distance().filter(|_| !self.past.is_guess) {
            let latency = latency.min(LATENCY_UNKNOWN);
            (self.latency, self.deviation) = (Some(latency), latency / 2);
            self.least = LeastLately::of(latency);
        }
    }

    /// Records that the request sent at `sent_at` could not reach it, or got an invalid answer.
    /// `jitter` is in 0..1. Returns the end of its back-off.
    pub(super) fn rest(&mut self, now: Instant, sent_at: Instant, jitter: f64) -> Instant {
        self.limited_at = None;
        if self.failed_at.is_some_and(|failed| sent_at <= failed) {
            // the failure that broke the earlier request broke this one too
            return self.not_before.unwrap_or(now);
        }
        self.failed_at = Some(now);
        self.failures += 1;
        self.failures_total += 1;
        let doubled = BACKOFF_MIN * (1 << (self.failures - 1).min(10));
        let until = now + doubled.min(BACKOFF_MAX).mul_f64(0.75 + jitter / 2.0);
        self.not_before = Some(until);
        until
    }

    /// Backs off from a live peer without counting a failure. If it reported itself busy, our turn
    /// will come, at a lower rate: it may have a rate limit by now that its earlier rate does not
    /// reflect. A request sent before the last such report says nothing new.
    pub(super) fn rest_busy(
        &mut self,
        now: Instant,
        sent: &SentState,
        jitter: f64,
        says_so: bool,
    ) -> Instant {
        self.heard_at = Some(now);
        if says_so {
            self.worked_at = Some(now);
        }
        self.spare(now, sent, jitter, says_so)
    }

    /// Backs off from a peer as if it were busy, because a limit of this node delayed the request.
    /// That says nothing about the peer.
    pub(super) fn hold_back(&mut self, now: Instant, sent: &SentState, jitter: f64) -> Instant {
        self.worked_at = Some(now);
        if self.failures == 0 && !self.is_silent() {
            self.limited_at = Some(now);
        }
        self.spare(now, sent, jitter, true)
    }

    /// Returns whether a limit of this node alone held requests to it back, within this time before
    /// now.
    pub(super) fn is_held_back(&self, now: Instant, within: Duration) -> bool {
        !self.is_silent() && self.limited_at.is_some_and(|at| at + within > now)
    }

    fn spare(&mut self, now: Instant, sent: &SentState, jitter: f64, gives_less: bool) -> Instant {
        if let (Some(at), Some(until)) = (self.busy_at, self.not_before)
            && sent.at < at
        {
            return until;
        }
        self.busy_at = Some(now);
        if gives_less {
            self.rate = self.rate.map(|rate| rate / BUSY_RATE_DIVISOR);
        }
        self.busy += 1;
        let doubled = BUSY_MIN * (1 << (self.busy - 1).min(10));
        let until = now + doubled.min(BUSY_MAX).mul_f64(0.75 + jitter / 2.0);
        self.not_before = Some(until);
        until
    }

    pub(super) fn shun(&mut self, now: Instant) -> Instant {
        self.failures_total += 1;
        self.past.note_lie(now);
        let until = now + SHUN;
        self.shunned_until = Some(until);
        until
    }
}

/// Returns whether a request is small and a reader waits for it.
fn is_small(lane: Lane, bytes: u64) -> bool {
    lane == Lane::Urgent && bytes <= SMALL_BYTES
}

#[cfg(test)]
mod tests;
