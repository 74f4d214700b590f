//! What is known of a peer as a responder: how soon, how fast and how honestly it answers.
//!
//! Everything here is an estimate that only steers; nothing is refused for being slow.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::past::Past;
use super::silence::Silence;
use super::turns::Line;
use super::{Lane, PIECE_MAX_BYTES, RequestId, URGENT_MAX_BYTES};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};
use p2pfs_types::least::LeastLately;

/// In flight to a peer of which little is known yet.
pub const WINDOW_START_BYTES: u64 = 4 << 20;
/// The window is never less than so many pieces, so that the next is under way while one arrives.
const WINDOW_MIN_PIECES: u64 = 2;
/// Until the window is known better, it is no less than what the rate seen so far moves in this
/// time.
const WINDOW_START_TIME: Duration = Duration::from_secs(1);
/// The window is never more than this: 160 ms of 100 MB/s, twice over what a continent needs.
pub const WINDOW_MAX_BYTES: u64 = 16 << 20;
/// In flight in bulk to a peer that never answered yet, so that a dead or slow one costs little.
const WINDOW_UNKNOWN_BYTES: u64 = 256 << 10;
/// In flight for readers to a peer that never answered yet: two of the kernel's read-aheads. It may
/// have a slow link, where more would stand before whatever is asked next.
const URGENT_UNKNOWN_BYTES: u64 = 256 << 10;
/// Small answers that readers wait for go past the window, up to this.
const URGENT_WINDOW_BYTES: u64 = 4 << 20;
/// How much of small answers may be under way where the window is smaller, unless that takes longer
/// than [`URGENT_WINDOW_TIME`]: of a slow peer more would only queue, and not in the order in which
/// it is waited for.
const URGENT_WINDOW_MIN_BYTES: u64 = 1 << 20;
/// See [`URGENT_WINDOW_MIN_BYTES`]; two chunks always may be under way.
const URGENT_WINDOW_TIME: Duration = Duration::from_secs(1);
/// Small requests are sent beside the window, up to this: who opens a small file of a slow peer
/// does not wait until the read-aheads that it brings are through.
const SMALL_BESIDE_BYTES: u64 = 64 << 10;
/// What is small: a small file, or a page or two of a large one.
pub const SMALL_BYTES: u64 = 8 << 10;
/// What the window holds beside two round trips: room for a peer's pauses.
const WINDOW_SLACK: Duration = Duration::from_millis(50);
/// A piece should take no longer than this, so that a slow peer gets small ones.
const PIECE_TIME: Duration = Duration::from_millis(250);
/// The smallest piece of what a reader waits for, where a chunk takes longer than
/// [`URGENT_PIECE_TIME`]: who opens a small file there waits for the rest of the piece that is on
/// its way, since one answer is sent after the other. Each proves the way from the root of its
/// file's tree anew, so that smaller ones would be half proof.
const URGENT_PIECE_MIN_BYTES: u64 = 16 << 10;
/// See [`URGENT_PIECE_MIN_BYTES`].
const URGENT_PIECE_TIME: Duration = Duration::from_secs(1);
/// The first pause after a failure; it doubles with each one after it.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest pause: a reader who waits 10 s for it is to see it tried several times.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// The first pause after `Busy`.
const BUSY_MIN: Duration = Duration::from_millis(25);
/// The longest pause after `Busy`: a busy peer is a live one.
const BUSY_MAX: Duration = Duration::from_millis(800);
/// A peer that brings so much and then nothing for as long as that took is on the way to silence.
const RECORDS_BYTES: f64 = 3.0 * 16_384.0;
/// A busy peer is taken to give so many times less than before, until it answers.
const BUSY_RATE_DIVISOR: f64 = 4.0;
/// A wrong byte keeps a peer out for this long.
pub const SHUN: Duration = Duration::from_secs(600);
/// What an unknown peer is taken for where a figure is needed.
pub(super) const LATENCY_UNKNOWN: Duration = Duration::from_millis(50);
pub(super) const RATE_UNKNOWN: f64 = 10e6;
/// How much later a silent peer is taken to answer.
const SILENCE_PENALTY: Duration = Duration::from_secs(10);
/// The distance of a peer is the least latency seen in this time, or in as much before it: what
/// queueing, or a torn network, adds is not distance.
const DISTANCE_SPAN: Duration = Duration::from_secs(60);

/// What to remember of a request when it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub at: Instant,
    pub usual: Duration,
    pub(super) moved_bytes: u64,
    pub(super) queue_bytes: u64,
    /// What was asked of the peer before, in any line.
    pub(super) ahead_bytes: u64,
    app_limited: bool,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Smoothed time to an answer beyond what its bytes and the queue before it take.
    pub(super) latency: Option<Duration>,
    deviation: Duration,
    least: LeastLately,
    /// Smoothed bytes a second.
    pub(super) rate: Option<f64>,
    pub delivered_bytes: u64,
    /// What came from it, of use or not.
    pub(super) moved_bytes: u64,
    bulk_bytes: u64,
    urgent_bytes: u64,
    /// Of these, what is asked for in small requests.
    small_bytes: u64,
    /// What is asked of it.
    pub asked: BTreeSet<RequestId>,
    /// Files that wait until it has room, for each kind of wish.
    pub parked: [Line; 3],
    /// When anything of it last came.
    pub(super) heard_at: Option<Instant>,
    /// When bytes of it last came, or it said that it is busy.
    worked_at: Option<Instant>,
    /// When a limit of this node last held back what was to be asked of it, while nothing was held
    /// against it.
    limited_at: Option<Instant>,
    /// Since when something is asked of it without a pause.
    busy_since: Option<Instant>,
    pub silence: Silence,
    /// Failures since the last answer; what broke at one time counts once.
    failures: u32,
    pub(super) failed_at: Option<Instant>,
    busy: u32,
    busy_at: Option<Instant>,
    pub failures_total: u64,
    not_before: Option<Instant>,
    pub shunned_until: Option<Instant>,
    pub load: u8,
    pub past: Past,
}

/// How a peer stands among those that may be asked, the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
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

    /// Whether it answers nothing: others come first until it does.
    pub(super) fn is_silent(&self) -> bool {
        self.silence.is_kept()
    }

    /// Who answers comes first. Who was silent when it was asked last, long enough ago, comes then:
    /// it may be well again, which nobody learns who does not ask.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let is_idle = self.asked.is_empty() && self.resting_until(now).is_none();
        match self.is_silent() {
            false => Standing::Answers,
            true if is_idle && self.silence.may_be_tried(now) => Standing::WorthATry,
            true => Standing::Silent,
        }
    }

    /// Failures since the last answer.
    pub(super) fn unanswered(&self) -> u32 {
        self.failures
    }

    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.bulk_bytes + self.urgent_bytes
    }

    /// Until when nothing may be asked, where that is so now.
    pub(super) fn resting_until(&self, now: Instant) -> Option<Instant> {
        self.not_before
            .max(self.shunned_until)
            .filter(|until| *until > now)
    }

    /// Whether nothing is asked of it, nor waits for it, nor is held against it.
    pub(super) fn is_spare(&self) -> bool {
        let is_free = self.asked.is_empty() && self.parked.iter().all(Line::is_empty);
        is_free && self.shunned_until.is_none()
    }

    pub(super) fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| until > now)
    }

    /// Its distance: latency without what a line or a torn network adds.
    fn distance(&self) -> Option<Duration> {
        self.least.get().or(self.latency)
    }

    /// How much may be in flight to it in bulk.
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

    /// Whether one more piece of `bytes` may be asked of it.
    pub(super) fn has_room(&self, lane: Lane, bytes: u64) -> bool {
        match lane {
            Lane::Urgent => {
                let most = self.rate.map_or(URGENT_UNKNOWN_BYTES, |rate| {
                    let moved = (rate * URGENT_WINDOW_TIME.as_secs_f64()) as u64;
                    let least = moved.clamp(2 * CHUNK_BYTES, URGENT_WINDOW_MIN_BYTES);
                    (self.window_bytes() * 2).clamp(least, URGENT_WINDOW_BYTES)
                });
                // the other end sends a small answer before the large ones that wait there
                let beside = is_small(lane, bytes) && self.small_bytes < SMALL_BESIDE_BYTES;
                self.urgent_bytes == 0 || beside || self.urgent_bytes + bytes <= most
            }
            // of a link of which nothing is known, nothing is asked beside what a reader waits for
            Lane::Bulk if self.rate.is_none() && self.urgent_bytes > 0 => false,
            Lane::Bulk => self.bulk_bytes == 0 || self.bulk_bytes + bytes <= self.window_bytes(),
        }
    }

    /// What to ask at one time of a range.
    pub(super) fn first_piece(&self, lane: Lane, range: ByteRange) -> ByteRange {
        range.first_grain(self.piece_bytes(lane))
    }

    /// The largest piece to ask: a power of two. What a few small answers took says more of the
    /// distance than of the rate, so it makes nobody a slow peer for those who wait.
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

    /// When `bytes` more would be here, were they asked now.
    pub(super) fn expected(&self, lane: Lane, bytes: u64) -> Duration {
        let rate = self.rate.unwrap_or(RATE_UNKNOWN).max(1.0);
        let moving = Duration::from_secs_f64((self.queue_bytes(lane) + bytes) as f64 / rate);
        self.latency.unwrap_or(LATENCY_UNKNOWN) + moving
    }

    /// The same as a figure to compare peers by: load and silence count.
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

    pub(super) fn sent(&mut self, now: Instant, id: RequestId, lane: Lane, bytes: u64) -> Sent {
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
        Sent {
            at: now,
            usual,
            moved_bytes: self.moved_bytes,
            queue_bytes,
            ahead_bytes,
            app_limited,
        }
    }

    /// Takes a request out of flight, however it ended.
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

    /// Bytes came, of use or not.
    pub(super) fn moved(&mut self, now: Instant, bytes: u64) {
        self.moved_bytes += bytes;
        (self.heard_at, self.worked_at) = (Some(now), Some(now));
        self.silence = Silence::default();
    }

    /// An answer is whole. Its bytes were told of with [`Peer::moved`].
    pub(super) fn answered(&mut self, now: Instant, sent: &Sent, bytes: u64) {
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

    /// What came while this one was under way; where we asked for too little to fill the link,
    /// that only ever raises the estimate.
    fn learn_rate(&mut self, sent: &Sent, took: Duration, bytes: u64) {
        let moved = (self.moved_bytes - sent.moved_bytes).max(bytes);
        let sample = moved as f64 / took.as_secs_f64();
        self.rate = Some(match self.rate {
            None => sample,
            Some(rate) if sample > rate => rate + (sample - rate) / 2.0,
            Some(rate) if sent.app_limited => rate,
            Some(rate) => rate + (sample - rate) / 8.0,
        });
    }

    /// Jacobson and Karels' smoothing (RFC 6298), of what bytes and queue do not explain.
    fn learn_latency(&mut self, now: Instant, sent: &Sent, took: Duration, bytes: u64) {
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

    /// How long nothing at all came of it, while something asked at `since` was open.
    pub(super) fn quiet_for(&self, now: Instant, since: Instant) -> Duration {
        let from = self.heard_at.map_or(since, |heard| heard.max(since));
        now.saturating_duration_since(from)
    }

    /// Whether it may be counted on: it is not silent, nor on the way to it. Bytes come in records
    /// (RFC 8446, 5.1): one that brings few a second is quiet between them.
    pub(super) fn is_lively(&self, now: Instant, limit: Duration) -> bool {
        let idle = self.asked.is_empty();
        let since = self.busy_since.unwrap_or(now);
        let record = |rate: f64| Duration::try_from_secs_f64(RECORDS_BYTES / rate).ok();
        let limit = limit.max(self.rate.and_then(record).unwrap_or_default());
        !self.is_silent()
            && self.resting_until(now).is_none()
            && (idle || self.quiet_for(now, since) < limit)
    }

    /// When it was last known to be at work, for whomever; nothing where it may not be asked.
    pub(super) fn worked_at(&self, now: Instant) -> Option<Instant> {
        self.worked_at.filter(|_| !self.is_shunned(now))
    }

    /// Another was sooner: it takes at least as long as it has taken so far.
    pub(super) fn note_slow(&mut self, now: Instant, sent: &Sent) {
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

    /// It is said to be well again: what it took while it was not says nothing about it now.
    pub(super) fn rested(&mut self) {
        (self.failures, self.busy, self.not_before) = (0, 0, None);
        self.silence = Silence::default();
        if let Some(latency) = self.distance().filter(|_| !self.past.is_guess) {
            let latency = latency.min(LATENCY_UNKNOWN);
            (self.latency, self.deviation) = (Some(latency), latency / 2);
            self.least = LeastLately::of(latency);
        }
    }

    /// It could not be reached, or answered nonsense, in what was asked at `sent_at`. `jitter` is
    /// in 0..1. Says until when it rests.
    pub(super) fn rest(&mut self, now: Instant, sent_at: Instant, jitter: f64) -> Instant {
        self.limited_at = None;
        if self.failed_at.is_some_and(|failed| sent_at <= failed) {
            // what broke then broke this too
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

    /// Nothing is held against it; where it says itself that it is busy, our turn will come, for
    /// less: it may have a limit by now that what it gave before says nothing of. What was asked
    /// before it said so last tells nothing new.
    pub(super) fn rest_busy(
        &mut self,
        now: Instant,
        sent: &Sent,
        jitter: f64,
        says_so: bool,
    ) -> Instant {
        self.heard_at = Some(now);
        if says_so {
            self.worked_at = Some(now);
        }
        self.spare(now, sent, jitter, says_so)
    }

    /// A limit of this node held back what was to be asked of it, as if it were busy; which says
    /// nothing of it.
    pub(super) fn hold_back(&mut self, now: Instant, sent: &Sent, jitter: f64) -> Instant {
        self.worked_at = Some(now);
        if self.failures == 0 && !self.is_silent() {
            self.limited_at = Some(now);
        }
        self.spare(now, sent, jitter, true)
    }

    /// Whether it was held back by a limit of this node alone within so long before now.
    pub(super) fn is_held_back(&self, now: Instant, within: Duration) -> bool {
        !self.is_silent() && self.limited_at.is_some_and(|at| at + within > now)
    }

    fn spare(&mut self, now: Instant, sent: &Sent, jitter: f64, gives_less: bool) -> Instant {
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

/// Whether a request is for little that somebody waits for.
fn is_small(lane: Lane, bytes: u64) -> bool {
    lane == Lane::Urgent && bytes <= SMALL_BYTES
}

#[cfg(test)]
mod tests;
