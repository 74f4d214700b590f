//! State of one peer as a responder: its link, its back-off, its silence and its honesty.
//!
//! The estimates of the link only steer requests.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::hedge_policy::LOST_MIN;
use super::link::{LinkEstimate, RATE_UNKNOWN, RECORD_BYTES, USUAL_DELAY};
use super::past::{AgedInstant, PastFigures};
use super::record::{FIGURES_LAST, LIES_LAST, PeerRecord};
use super::silence::{RecentPause, Silence};
use super::{Lane, RequestId};
use p2pfs_types::id::NodeId;

/// State of a peer at the time when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentState {
    /// When the request was sent. If a limit of this node delayed it, when the delay ended.
    pub at: Instant,
    /// Expected time until its whole answer is here, with twice the usual deviation.
    pub usual: Duration,
    /// Bytes that had arrived from the peer, for any request, when this one was sent.
    pub moved_bytes: u64,
    /// Bytes in flight to the peer before the request, in its lane.
    pub queue_bytes: u64,
    /// Bytes in flight to the peer before the request, in both lanes.
    pub ahead_bytes: u64,
    /// Whether less than half of the peer's window was in flight, this request included. Its answer
    /// then cannot lower the estimate of the rate.
    pub app_limited: bool,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    pub link: LinkEstimate,
    pub backoff: Backoff,
    pub silence: Silence,
    pauses: RecentPause,
    /// Load that it reported, 0 to 255.
    pub load: u8,
    past: PastFigures,
    /// Open requests to it.
    asked: BTreeSet<RequestId>,
    /// Since when at least one request to the peer has always been open.
    busy_since: Option<Instant>,
    /// When bytes last arrived from it, or a request to it last failed as `Busy`, `Refused`, `Ours`
    /// or `Stalled`.
    heard_at: Option<Instant>,
    /// When bytes last arrived from it, it last reported that it is busy, or a limit of this node
    /// last delayed a request to it.
    worked_at: Option<Instant>,
    greeting: GreetingWork,
}

/// Work of a peer in the handshake and greeting of a new connection.
#[derive(Clone, Copy, Debug, Default)]
enum GreetingWork {
    #[default]
    None,
    /// It last progressed at this time.
    At(Instant),
    /// It ended without a connection. The next handshake extends no wait until bytes arrive:
    /// otherwise handshakes that always break would extend each wait to its maximum.
    Broken,
}

/// Rank of a peer among the candidates of a request, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerRank {
    Answers,
    WorthATry,
    Silent,
}

impl Peer {
    /// Returns its open requests.
    pub(super) fn asked(&self) -> &BTreeSet<RequestId> {
        &self.asked
    }

    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Returns how often the peer sent wrong bytes.
    pub(super) fn lies(&self) -> u64 {
        self.past.lies
    }

    /// Returns whether it is silent: other peers come first until it answers.
    pub(super) fn is_silent(&self) -> bool {
        self.silence.is_silent()
    }

    /// Returns its rank, the best unless it is silent. A silent peer is worth a try if its next try
    /// is due, it has no open request and it does not rest. Only a request can show whether it is
    /// healthy again.
    pub(super) fn rank(&self, now: Instant) -> PeerRank {
        let is_idle = self.asked.is_empty() && self.backoff.resting_until(now).is_none();
        if !self.is_silent() {
            PeerRank::Answers
        } else if is_idle && self.silence.may_be_tried(now) {
            PeerRank::WorthATry
        } else {
            PeerRank::Silent
        }
    }

    /// Returns whether it has no open requests and was not shunned.
    pub(super) fn is_spare(&self) -> bool {
        self.asked.is_empty() && !self.backoff.was_shunned()
    }

    /// Returns a score to compare peers of one rank: the expected time of an answer, longer for a
    /// loaded peer.
    pub(super) fn score(&self, lane: Lane, bytes: u64) -> Duration {
        let expected = self.link.expected(lane, bytes);
        expected.mul_f64(1.0 + f64::from(self.load) / 64.0)
    }

    /// Records a request as sent.
    pub(super) fn record_sent(
        &mut self,
        now: Instant,
        id: RequestId,
        lane: Lane,
        bytes: u64,
    ) -> SentState {
        if self.asked.is_empty() {
            self.busy_since = Some(now);
        }
        self.asked.insert(id);
        self.silence.tried(now);
        self.link.begin(now, lane, bytes)
    }

    /// Removes an ended request.
    pub(super) fn ended(&mut self, id: RequestId, lane: Lane, bytes: u64) {
        self.asked.remove(&id);
        self.link.end(lane, bytes);
    }

    /// Records arrived bytes, needed or not. Zero bytes are progress of a handshake.
    pub(super) fn moved(&mut self, now: Instant, bytes: u64) {
        self.link.record_moved(bytes);
        if let Some(since) = self
            .busy_since
            .filter(|_| bytes > 0 && !self.asked.is_empty())
        {
            self.pauses.record(now, self.quiet_for(now, since));
        }
        self.heard_at = Some(now);
        self.silence = Silence::default();
        match self.greeting {
            _ if bytes > 0 => {
                self.worked_at = Some(now);
                self.greeting = GreetingWork::None;
            }
            GreetingWork::Broken => {}
            GreetingWork::None | GreetingWork::At(_) => self.greeting = GreetingWork::At(now),
        }
    }

    /// Records that a request failed as `Unreachable`. `jitter` is in 0..1. Returns the end of its
    /// back-off.
    pub(super) fn unreachable(&mut self, now: Instant, sent: &SentState, jitter: f64) -> Instant {
        if let GreetingWork::At(_) = self.greeting {
            self.greeting = GreetingWork::Broken;
        }
        self.backoff.rest(now, sent.at, jitter)
    }

    /// Records a complete answer. Its bytes have been recorded with [`Peer::moved`].
    pub(super) fn answered(&mut self, now: Instant, sent: &SentState, bytes: u64) {
        self.backoff.end();
        self.link.learn(now, sent, bytes);
    }

    /// Returns how long nothing arrived from it while a request sent at `since` was open.
    pub(super) fn quiet_for(&self, now: Instant, since: Instant) -> Duration {
        let from = self.heard_at.map_or(since, |heard| heard.max(since));
        now.saturating_duration_since(from)
    }

    /// Returns the minimum time for which it may send nothing before it counts as silent: twice its
    /// longest recent pause, at least [`SILENT_MIN`] and at most [`LOST_MIN`].
    ///
    /// [`SILENT_MIN`]: super::hedge_policy::SILENT_MIN
    pub(super) fn silent_min(&self, now: Instant) -> Duration {
        let pauses = self.pauses.longest_at(now) * 2;
        pauses.min(LOST_MIN).max(self.silence.patience())
    }

    /// Returns whether it can be relied on now: it is not silent, does not rest, and has not been
    /// quiet for [`Peer::silent_min`] while requests were open. A slow peer is quiet between two TLS
    /// records (RFC 8446, 5.1), so the limit is at least the time of three records at its rate.
    pub(super) fn is_lively(&self, now: Instant) -> bool {
        let idle = self.asked.is_empty();
        let since = self.busy_since.unwrap_or(now);
        let records_bytes = 3.0 * RECORD_BYTES as f64;
        let record = |rate: f64| Duration::try_from_secs_f64(records_bytes / rate).ok();
        let limit = self
            .silent_min(now)
            .max(self.link.rate().and_then(record).unwrap_or_default());
        !self.is_silent()
            && self.backoff.resting_until(now).is_none()
            && (idle || self.quiet_for(now, since) < limit)
    }

    /// Returns when it last worked for any request. Returns `None` if it never did, or is shunned
    /// now.
    pub(super) fn worked_at(&self, now: Instant) -> Option<Instant> {
        let greeted_at = match self.greeting {
            GreetingWork::At(at) => Some(at),
            GreetingWork::None | GreetingWork::Broken => None,
        };
        let worked_at = self.worked_at.max(greeted_at);
        worked_at.filter(|_| !self.backoff.is_shunned(now))
    }

    /// Ends its back-off and its silence, and forgets its delays, because it is reported healthy
    /// again.
    pub(super) fn rested(&mut self) {
        self.backoff.end();
        self.silence = Silence::default();
        self.link.forget_delays();
    }

    /// Backs off from a peer without counting a failure. `says_so` is whether the peer reported
    /// itself busy. Such a report counts as work, and lowers its estimated rate, because it may
    /// have a rate limit by now. A request that was sent before the last such back-off began
    /// changes neither the back-off nor the rate.
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

    /// Backs off from a peer as if it had reported itself busy, because a limit of this node
    /// delayed the request. Unless the peer is silent or has failures since its last answer, the
    /// delay is remembered for [`Peer::is_held_back`].
    pub(super) fn hold_back(&mut self, now: Instant, sent: &SentState, jitter: f64) -> Instant {
        self.worked_at = Some(now);
        if !self.is_silent() {
            self.backoff.record_limited(now);
        }
        self.spare(now, sent, jitter, true)
    }

    /// Returns whether the peer is not silent and [`Backoff::was_limited`] holds for it.
    pub(super) fn is_held_back(&self, now: Instant, within: Duration) -> bool {
        !self.is_silent() && self.backoff.was_limited(now, within)
    }

    fn spare(&mut self, now: Instant, sent: &SentState, jitter: f64, gives_less: bool) -> Instant {
        let spared = self.backoff.spare(now, sent.at, jitter);
        if spared.is_new && gives_less {
            self.link.record_busy();
        }
        spared.until
    }

    /// Shuns it for wrong bytes. Returns until when.
    pub(super) fn shun(&mut self, now: Instant) -> Instant {
        self.past.record_lie(now);
        self.backoff.shun(now)
    }

    /// Returns its record for later runs if anything is known about it.
    pub(super) fn record(&self, node: NodeId, now: Instant) -> Option<PeerRecord> {
        let here = self.heard_at.max(self.backoff.failed_at());
        let here = here.map(|at| now.saturating_duration_since(at));
        let before = self.past.learnt.map(|learnt| learnt.ago(now));
        let lied_ago = self.past.lied.map(|lied| lied.ago(now));
        let age = [here, before, lied_ago].into_iter().flatten().min()?;
        Some(PeerRecord {
            node,
            age,
            latency: self.link.latency(),
            rate_bytes_per_s: self.link.rate(),
            failures: self.backoff.failures_total(),
            lies: self.past.lies,
            lied_ago,
        })
    }

    /// Returns a peer with the figures of an earlier run, and the end of its shunning if that is in
    /// the future. The older the record, the closer latency and rate are moved to those of an
    /// unknown peer. A record of the age [`FIGURES_LAST`] or older gives neither.
    pub(super) fn recalled(now: Instant, record: &PeerRecord) -> (Self, Option<Instant>) {
        let mut peer = Self::default();
        let moment = |before| AgedInstant { at: now, before };
        peer.past.learnt = Some(moment(record.age));
        let mut failures = 0;
        if record.age < FIGURES_LAST {
            let share = record.age.as_secs_f64() / FIGURES_LAST.as_secs_f64();
            let mixed = |known: f64, unknown: f64| known + (unknown - known) * share;
            let latency = |known: Duration| mixed(known.as_secs_f64(), USUAL_DELAY.as_secs_f64());
            let latency = record.latency.map(latency);
            let latency = latency.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let rate = record.rate_bytes_per_s;
            let rate = rate.map(|rate| mixed(rate, RATE_UNKNOWN));
            peer.link = LinkEstimate::guess(latency, rate);
            failures = record.failures;
        }
        let lied_ago = record.lied_ago.filter(|ago| *ago < LIES_LAST);
        let until = record.shunned_for().map(|left| now + left);
        if let Some(ago) = lied_ago {
            peer.past.lies = record.lies;
            peer.past.lied = Some(moment(ago));
        }
        peer.backoff.recall(failures, until);
        (peer, until)
    }
}

#[cfg(test)]
mod tests;
