//! Counters of dropped datagrams and messages.

use super::event::Offence;

/// Number of occurrences since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams queued for sending.
    pub sent: u64,
    /// Bytes of the datagrams queued for sending.
    pub sent_bytes: u64,
    /// Datagrams that were opened and decoded, and are a hello or from a proven peer. Their content
    /// may still be refused.
    pub accepted: u64,
    /// Datagrams that cannot be opened or have no use.
    pub unusable: UnusableDatagrams,
    /// Opened datagrams with a sender that is not believed.
    pub untrusted: UntrustedDatagrams,
    /// Datagrams, frames and news that exceeded a limit.
    pub excess: ExcessCounters,
}

/// Number of datagrams that cannot be opened or have no use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnusableDatagrams {
    /// Datagrams of another protocol or another version.
    pub foreign: u64,
    /// Datagrams sealed with a secret that this node does not have.
    pub unknown_epoch: u64,
    /// Datagrams with an invalid seal: forged, damaged, or sealed with another secret of the same
    /// id.
    pub bad_seal: u64,
    /// Validly sealed datagrams that the encoder would not write: a faulty member.
    pub malformed: u64,
    /// This node's own datagrams that returned.
    pub own: u64,
    /// Datagrams that were seen before, or that are too old to tell.
    pub replayed: u64,
    /// Answers that match no waiting hello to the address from which they arrived.
    pub stale_reply: u64,
}

/// Number of opened datagrams with a sender that is not believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UntrustedDatagrams {
    /// Datagrams, lives and farewells that the process or node named in them did not make: a member
    /// that impersonates another one.
    pub forged: u64,
    /// Lives with a generation long after the present time: a wrong clock, there or here.
    pub ahead_of_clock: u64,
    /// Datagrams from nodes that have the secret but are not members.
    pub not_a_member: u64,
    /// Datagrams of three kinds: from an address and salt without a proven session, to an earlier
    /// process of this node, and with proofs beyond the limit per second.
    pub unproven: u64,
    /// Proofs of a session that claims to be two nodes.
    pub two_faced: u64,
    /// Membership packets that cannot be decoded, name another sender or are refused by the engine.
    pub bad_swim: u64,
}

/// Number of datagrams, frames and news that exceeded a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExcessCounters {
    /// Hellos and unproven datagrams that were not answered, because there were too many at once or
    /// because they are shorter than the answer.
    pub unanswered: u64,
    /// Frames beyond a session's limit, or from a member that is ignored because of its forgeries.
    pub flooding: u64,
    /// Packets and member lists with a member that did not fit into the full table.
    pub too_many_members: u64,
    /// Contradictions of this node's own life that came too soon after the previous ones.
    pub too_many_renewals: u64,
    /// Frames that waited for the proof of their receiver and were dropped without it, or were for
    /// another node than the one at their address.
    pub never_proven: u64,
    /// Datagrams, events or broadcasts beyond the limits of queues, rates and sizes.
    pub overflow: u64,
}

/// Reason why one datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DatagramDropCause {
    Foreign,
    UnknownEpoch,
    BadSeal,
    Malformed,
    Own,
    Replayed,
    StaleReply,
    Unproven,
    TwoFaced,
    Forged,
    AheadOfClock,
    NotAMember,
}

impl From<Offence> for DatagramDropCause {
    fn from(what: Offence) -> Self {
        match what {
            Offence::SpeaksForOthers => Self::Forged,
            Offence::AheadOfClock => Self::AheadOfClock,
        }
    }
}

impl Counters {
    /// Returns the number of dropped datagrams, frames, events and broadcasts. Excludes this node's
    /// own datagrams, stale replies, and all of [`ExcessCounters`] except `flooding` and
    /// `overflow`.
    pub fn dropped(&self) -> u64 {
        self.unusable.foreign
            + self.unusable.unknown_epoch
            + self.unusable.bad_seal
            + self.unusable.malformed
            + self.unusable.replayed
            + self.untrusted.unproven
            + self.untrusted.two_faced
            + self.excess.flooding
            + self.untrusted.bad_swim
            + self.untrusted.forged
            + self.untrusted.not_a_member
            + self.untrusted.ahead_of_clock
            + self.excess.overflow
    }

    pub(super) fn count(&mut self, dropped: DatagramDropCause) {
        let counter = match dropped {
            DatagramDropCause::Foreign => &mut self.unusable.foreign,
            DatagramDropCause::UnknownEpoch => &mut self.unusable.unknown_epoch,
            DatagramDropCause::BadSeal => &mut self.unusable.bad_seal,
            DatagramDropCause::Malformed => &mut self.unusable.malformed,
            DatagramDropCause::Own => &mut self.unusable.own,
            DatagramDropCause::Replayed => &mut self.unusable.replayed,
            DatagramDropCause::StaleReply => &mut self.unusable.stale_reply,
            DatagramDropCause::Unproven => &mut self.untrusted.unproven,
            DatagramDropCause::TwoFaced => &mut self.untrusted.two_faced,
            DatagramDropCause::Forged => &mut self.untrusted.forged,
            DatagramDropCause::AheadOfClock => &mut self.untrusted.ahead_of_clock,
            DatagramDropCause::NotAMember => &mut self.untrusted.not_a_member,
        };
        *counter = counter.wrapping_add(1);
    }
}
