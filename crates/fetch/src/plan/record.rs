//! Figures of peers that are kept over restarts, and how much of them still counts.
//!
//! A record is a first guess: it orders the peers until the first answer, which replaces latency
//! and rate. The older the record, the less its figures count. Wrong bytes of a peer are remembered
//! longer, and a peer that was shunned stays shunned for the rest of [`SHUN`]. Times
//! are ages, since a record may be from before a reboot.

use std::time::Duration;

use super::SHUN;
use p2pfs_types::id::NodeId;

/// Maximum number of exported records. Peers that lied come first, then those heard from most
/// recently.
pub const PEER_RECORDS_MAX: usize = 1024;
/// Age at which the figures of a record say nothing: a laptop has been on other networks by then.
pub(super) const FIGURES_LAST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Age at which a lie is forgotten: as long as the log of an absent node is kept.
pub(super) const LIES_LAST: Duration = Duration::from_secs(30 * 24 * 3600);

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

impl PeerRecord {
    /// Returns how much longer the peer is shunned, or `None` if it is not.
    pub fn shunned_for(&self) -> Option<Duration> {
        let left = self.lied_ago.and_then(|ago| SHUN.checked_sub(ago));
        left.filter(|left| !left.is_zero())
    }
}
