//! Figures of peers that are kept over restarts, and how much of them still counts.
//!
//! A record is a first guess: it orders the peers until the first answer, which replaces it. The
//! older it is, the less it says. Lies of a peer are remembered longer, and it stays shunned for
//! the rest of its time. Times are ages, since a record may be from before a reboot. The owner that
//! stores the records stores dates.

use std::time::{Duration, Instant};

use super::past::AgedInstant;
use super::peer::{LATENCY_UNKNOWN, Peer, RATE_UNKNOWN, SHUN};
use super::{PEERS_MAX, Plan, Timer};
use p2pfs_types::id::NodeId;

/// Maximum number of exported records. Peers that lied come first, then those heard from last.
pub const PEER_RECORDS_MAX: usize = 1024;
/// Age at which the figures of a record say nothing: a laptop has been on other networks by then.
const FIGURES_LAST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Age at which a lie is forgotten: as long as the log of an absent node is kept.
const LIES_LAST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Figures of one peer as a responder, kept over a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerRecord {
    /// Peer that the record describes.
    pub node: NodeId,
    /// Time since something was last learnt about it.
    pub age: Duration,
    /// Smoothed time to a small answer.
    pub latency: Option<Duration>,
    /// Smoothed bytes per second.
    pub rate_bytes_per_s: Option<f64>,
    /// Number of its failures.
    pub failures: u64,
    /// How often it was shunned for wrong bytes.
    pub lies: u64,
    /// Time since the last such shunning, if there was one.
    pub lied_ago: Option<Duration>,
}

impl Peer {
    /// Returns the record of this peer if anything is known about it.
    fn record(&self, node: NodeId, now: Instant) -> Option<PeerRecord> {
        let here = self.heard_at.max(self.failed_at);
        let here = here.map(|at| now.saturating_duration_since(at));
        let before = self.past.learnt.map(|learnt| learnt.ago(now));
        let lied_ago = self.past.lied.map(|lied| lied.ago(now));
        let age = [here, before, lied_ago].into_iter().flatten().min()?;
        Some(PeerRecord {
            node,
            age,
            latency: self.latency,
            rate_bytes_per_s: self.rate,
            failures: self.failures_total,
            lies: self.past.lies,
            lied_ago,
        })
    }

    /// Restores the figures of an earlier run. Returns the end of its shunning, if that is in the
    /// future.
    fn recall(&mut self, now: Instant, record: &PeerRecord) -> Option<Instant> {
        let moment = |before| AgedInstant { at: now, before };
        self.past.learnt = Some(moment(record.age));
        if record.age < FIGURES_LAST {
            let share = record.age.as_secs_f64() / FIGURES_LAST.as_secs_f64();
            let mixed = |known: f64, unknown: f64| known + (unknown - known) * share;
            let latency =
                |known: Duration| mixed(known.as_secs_f64(), LATENCY_UNKNOWN.as_secs_f64());
            let latency = record.latency.map(latency);
            self.latency = latency.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            self.rate = record
                .rate_bytes_per_s
                .map(|rate| mixed(rate, RATE_UNKNOWN));
            self.failures_total = record.failures;
            self.past.is_guess = true;
        }
        let lied_ago = record.lied_ago.filter(|ago| *ago < LIES_LAST)?;
        self.past.lies = record.lies;
        self.past.lied = Some(moment(lied_ago));
        let left = SHUN.checked_sub(lied_ago).filter(|left| !left.is_zero())?;
        self.shunned_until = Some(now + left);
        self.shunned_until
    }
}

impl Plan {
    /// Returns the records of the peers to keep over a restart, at most [`PEER_RECORDS_MAX`].
    pub fn peer_records(&self, now: Instant) -> Vec<PeerRecord> {
        let records = self.peers.iter();
        let mut records: Vec<_> = records
            .filter_map(|(node, peer)| peer.record(*node, now))
            .collect();
        records.sort_by_key(|record| (record.lies == 0, record.age, record.node));
        records.truncate(PEER_RECORDS_MAX);
        records
    }

    /// Restores the records of an earlier run, for peers that this run does not know yet.
    pub fn recall(&mut self, now: Instant, records: &[PeerRecord]) {
        for record in records.iter().take(PEER_RECORDS_MAX) {
            let room = self.peers.len() < PEERS_MAX;
            if !room || self.peers.contains_key(&record.node) {
                continue;
            }
            let mut peer = Peer::default();
            if let Some(until) = peer.recall(now, record) {
                self.timers.insert((until, Timer::Rested(record.node)));
            }
            self.peers.insert(record.node, peer);
        }
    }
}
