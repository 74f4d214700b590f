//! Why connections ended, counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The peer closed it.
    PeerClosed,
    /// The system reported an error, such as a reset.
    Broken,
    /// Nobody used it for a while.
    Idle,
    /// Nothing came for too long while requests were unanswered, or in the middle of a frame.
    Silent,
    /// A request stayed unanswered for too long.
    Unanswered,
    /// A frame took too long to come, though bytes of it came to the end.
    SlowFrame,
    /// A frame took too long to be taken.
    SlowReader,
    /// The greeting took too long.
    SlowGreeting,
    /// The first byte was not that of TLS, and no legacy plane listens.
    NotTls,
    /// TLS failed: another key, another protocol, garbage.
    TlsFailed,
    /// The peer could not prove membership, or a valid invitation.
    Stranger,
    /// The allow-list does not name the peer.
    NotAllowed,
    /// The peer has our own key.
    OwnIdentity,
    /// A frame was over its limit.
    Oversized,
    /// A frame meant nothing, or nothing now.
    Malformed,
    /// A limit on the number of connections was reached.
    TooMany,
    /// The peer opened a newer one.
    Replaced,
    /// An invitation was used, which ends its connection.
    Enrolled,
    /// We closed it on purpose.
    ClosedHere,
}

impl DropReason {
    /// All of them, in the order of [`PeerCounters::dropped`].
    pub const ALL: [Self; 19] = [
        Self::PeerClosed,
        Self::Broken,
        Self::Idle,
        Self::Silent,
        Self::Unanswered,
        Self::SlowFrame,
        Self::SlowReader,
        Self::SlowGreeting,
        Self::NotTls,
        Self::TlsFailed,
        Self::Stranger,
        Self::NotAllowed,
        Self::OwnIdentity,
        Self::Oversized,
        Self::Malformed,
        Self::TooMany,
        Self::Replaced,
        Self::Enrolled,
        Self::ClosedHere,
    ];

    /// Whether only a peer that breaks the protocol can be the cause: not one that was killed, nor
    /// a link that failed.
    pub const fn is_breach(self) -> bool {
        matches!(self, Self::SlowFrame | Self::Oversized | Self::Malformed)
    }

    /// What a table of counters calls it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "closed by the peer",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Silent => "silent peer",
            Self::Unanswered => "unanswered request",
            Self::SlowFrame => "slow frame",
            Self::SlowReader => "slow reader",
            Self::SlowGreeting => "slow greeting",
            Self::NotTls => "not TLS",
            Self::TlsFailed => "TLS failed",
            Self::Stranger => "stranger",
            Self::NotAllowed => "not on the allow-list",
            Self::OwnIdentity => "own identity",
            Self::Oversized => "oversized frame",
            Self::Malformed => "malformed frame",
            Self::TooMany => "too many connections",
            Self::Replaced => "replaced by a newer connection",
            Self::Enrolled => "enrolment done",
            Self::ClosedHere => "closed here",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A moment's view of the counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCounters {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Connections dialled and proven.
    pub dialled: u64,
    /// Connections handed to a legacy plane.
    pub legacy_plane: u64,
    /// Requests answered `Busy` since the node's queue was full.
    pub overloaded: u64,
    /// Ended connections by reason, in the order of [`DropReason::ALL`].
    pub dropped: [u64; DropReason::ALL.len()],
}

impl PeerCounters {
    /// How many connections ended for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) dialled: AtomicU64,
    pub(super) legacy_plane: AtomicU64,
    pub(super) overloaded: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn drop_for(&self, reason: DropReason) {
        Self::add(&self.dropped[reason as usize]);
    }

    pub(super) fn snapshot(&self) -> PeerCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerCounters {
            accepted: read(&self.accepted),
            dialled: read(&self.dialled),
            legacy_plane: read(&self.legacy_plane),
            overloaded: read(&self.overloaded),
            dropped: std::array::from_fn(|index| read(&self.dropped[index])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = Counters::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            (0..=index).for_each(|_| counters.drop_for(reason));
        }
        let snapshot = counters.snapshot();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(snapshot.dropped(reason), index as u64 + 1);
        }
    }
}
