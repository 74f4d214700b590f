//! Counters of connections, with the reasons why they ended.

use std::fmt;

/// Reason why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The peer closed it.
    PeerClosed,
    /// The system reported an error, such as a reset.
    Broken,
    /// It was unused for a while.
    Idle,
    /// Nothing arrived for too long while requests were unanswered, or in the middle of a frame.
    Silent,
    /// A request stayed unanswered for too long.
    Unanswered,
    /// A frame took too long to arrive, though bytes arrived in the second half of the time: the
    /// link is slow.
    SlowFrame,
    /// A frame took too long to arrive, and the peer sent it in pieces that no honest node makes.
    Drip,
    /// The peer took too long to accept a frame.
    SlowReader,
    /// The greeting took too long.
    SlowGreeting,
    /// The first byte was not that of TLS, and no foreign plane took the connection.
    NotTls,
    /// TLS failed: another key, another protocol, garbage.
    TlsFailed,
    /// The peer could not prove membership, or a valid invitation.
    Stranger,
    /// The peer refused this node.
    Refused,
    /// The peer refused this node and proved that this node is expelled or has left.
    PutOut,
    /// The peer has our own key.
    OwnIdentity,
    /// A frame exceeded its limit.
    Oversized,
    /// A frame or a record was invalid, or invalid at this point.
    Malformed,
    /// Too many records in a row carried no byte.
    EmptyRecords,
    /// Pings arrived faster than any node needs them, or a pong without a ping.
    Pings,
    /// A limit on the number of connections was reached.
    TooMany,
    /// A newer connection took its place at a limit on the number of connections.
    Replaced,
    /// An invitation was redeemed, which ends its connection.
    Enrolled,
    /// This node closed it on purpose.
    ClosedHere,
}

impl DropReason {
    /// All reasons, in the order of [`PeerCounters::dropped`], with their labels in a table of
    /// counters.
    pub const ALL: [(Self, &str); 23] = [
        (Self::PeerClosed, "closed by the peer"),
        (Self::Broken, "broken"),
        (Self::Idle, "idle"),
        (Self::Silent, "silent peer"),
        (Self::Unanswered, "unanswered request"),
        (Self::SlowFrame, "slow frame"),
        (Self::Drip, "frame in drips"),
        (Self::SlowReader, "slow reader"),
        (Self::SlowGreeting, "slow greeting"),
        (Self::NotTls, "not TLS"),
        (Self::TlsFailed, "TLS failed"),
        (Self::Stranger, "stranger"),
        (Self::Refused, "refused by the peer"),
        (Self::PutOut, "put out by the peer"),
        (Self::OwnIdentity, "own identity"),
        (Self::Oversized, "oversized frame"),
        (Self::Malformed, "malformed frame"),
        (Self::EmptyRecords, "empty records"),
        (Self::Pings, "too many pings"),
        (Self::TooMany, "too many connections"),
        (Self::Replaced, "replaced by a newer connection"),
        (Self::Enrolled, "enrolment done"),
        (Self::ClosedHere, "closed here"),
    ];

    /// Returns whether only a peer that breaks the protocol can be the cause, not a killed process
    /// or a failed link.
    pub const fn is_breach(self) -> bool {
        matches!(
            self,
            Self::Drip | Self::Oversized | Self::Malformed | Self::EmptyRecords | Self::Pings
        )
    }

    /// Returns the label of the reason.
    pub const fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Counters of the TCP side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Connections dialled and proven.
    pub dialled: u64,
    /// Connections handed to a foreign plane.
    pub foreign_plane: u64,
    /// Requests answered `Busy` because the node's queue was full.
    pub overloaded: u64,
    /// Ended connections by reason, in the order of [`DropReason::ALL`].
    pub dropped: [u64; DropReason::ALL.len()],
}

impl PeerCounters {
    /// Returns how many connections ended for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(super) fn drop_for(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let mut counters = PeerCounters::default();
        for (index, (reason, _)) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            (0..=index).for_each(|_| counters.drop_for(reason));
        }
        for (index, (reason, _)) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(counters.dropped(reason), index as u64 + 1);
        }
    }
}
