//! Why datagrams and messages were dropped.

use super::event::Offence;

/// How often each thing happened since the start; all of them wrap at 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Datagrams that were opened and understood.
    pub accepted: u64,
    /// Not a datagram of this plane, or of another version of it.
    pub foreign: u64,
    /// Sealed with a secret that this node has not.
    pub unknown_epoch: u64,
    /// The seal does not hold: forged, damaged, or of another secret of that name.
    pub bad_seal: u64,
    /// Sealed well and yet not what the encoder writes: a faulty member.
    pub malformed: u64,
    /// Not from the process, or not of the node, that it says: a member that speaks as another.
    pub forged: u64,
    /// Of a life that begins long after now: a wrong clock, there or here.
    pub ahead_of_clock: u64,
    /// From a node that has the secret and is no member.
    pub not_a_member: u64,
    /// Our own datagram, come back.
    pub own: u64,
    /// Seen before, or too old to tell.
    pub replayed: u64,
    /// An answer to a hello that we did not send, or not lately.
    pub stale_reply: u64,
    /// From an address and salt without a proven session, or for an earlier life of this process.
    pub unproven: u64,
    /// Not answered, since too many addresses without proof ask at once.
    pub unanswered: u64,
    /// One session claims to be two nodes.
    pub two_faced: u64,
    /// A session sends more messages than it may.
    pub flooding: u64,
    /// A membership packet that the engine refuses.
    pub bad_swim: u64,
    /// News of a member when the table is full.
    pub too_many_members: u64,
    /// A contradiction of our own life that came too soon after the last ones.
    pub too_many_renewals: u64,
    /// Frames that waited for a proof that did not come.
    pub never_proven: u64,
    /// Datagrams, events or broadcasts that the limits on queues and rates kept back.
    pub overflow: u64,
}

/// Why one datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
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

impl From<Offence> for Dropped {
    fn from(what: Offence) -> Self {
        match what {
            Offence::SpeaksForOthers => Self::Forged,
            Offence::AheadOfClock => Self::AheadOfClock,
        }
    }
}

impl Counters {
    /// Datagrams that were not taken, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.foreign
            + self.unknown_epoch
            + self.bad_seal
            + self.malformed
            + self.replayed
            + self.unproven
            + self.two_faced
            + self.flooding
            + self.bad_swim
            + self.forged
            + self.not_a_member
            + self.ahead_of_clock
            + self.overflow
    }

    pub(super) fn count(&mut self, dropped: Dropped) {
        let counter = match dropped {
            Dropped::Foreign => &mut self.foreign,
            Dropped::UnknownEpoch => &mut self.unknown_epoch,
            Dropped::BadSeal => &mut self.bad_seal,
            Dropped::Malformed => &mut self.malformed,
            Dropped::Own => &mut self.own,
            Dropped::Replayed => &mut self.replayed,
            Dropped::StaleReply => &mut self.stale_reply,
            Dropped::Unproven => &mut self.unproven,
            Dropped::TwoFaced => &mut self.two_faced,
            Dropped::Forged => &mut self.forged,
            Dropped::AheadOfClock => &mut self.ahead_of_clock,
            Dropped::NotAMember => &mut self.not_a_member,
        };
        *counter = counter.wrapping_add(1);
    }
}
