//! Events of the cluster for its owner.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use p2pfs_proto::wire::native::udp::EncodedHead;
pub use p2pfs_proto::wire::native::udp::{Contact as Member, Farewell as Leave};
use p2pfs_types::id::{Generation, NodeId};

/// An event that the owner should know or handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node is a living member. Repeated if it takes another generation or advertises another
    /// address, also without an [`Event::Down`] before.
    Up(Member),
    /// This node now reaches the living member at another address.
    Moved(Member),
    /// The node is no longer a living member. The owner should drop its entries.
    Down {
        /// The node.
        node: NodeId,
        /// How the membership ended.
        why: DownReason,
    },
    /// The member stopped cleanly and announced its return. Its entries should stay until
    /// [`Event::Up`] or [`Event::Down`].
    Away {
        /// The member.
        node: NodeId,
    },
    /// A received head of a higher rank than the stored one, or of an author without one. The owner
    /// verifies its signature, and that the bytes have this author and rank. The head is stored and
    /// spread only by [`super::Cluster::set_head`].
    Head {
        /// The member that sent the head, which may not be its author.
        from: NodeId,
        /// The head.
        head: EncodedHead,
    },
    /// An application message ([`p2pfs_proto::wire::native::udp::Message`], not decoded here).
    Message {
        /// The node to which the session is bound.
        from: NodeId,
        /// The body, at most [`p2pfs_proto::wire::native::udp::PAYLOAD_MAX_BYTES`].
        body: Bytes,
    },
    /// The owner should exchange member lists with this member over TCP. It sends
    /// [`super::Cluster::export_members`] and passes the answer to
    /// [`super::Cluster::merge_members`].
    PushPull {
        /// The member.
        node: NodeId,
        /// The address at which this node reaches it.
        address: SocketAddr,
    },
    /// This node continues with a new generation. Its address changed, members believed it gone, or
    /// a member knew a life of this node that is later than the present one or has another address.
    /// The last cause usually means that this machine's clock went back. If it occurs more than a
    /// few times, the key was copied.
    Renewed {
        /// Generation of this node from now on.
        generation: Generation,
    },
    /// Two processes use one key. Repeated if a process with that key is heard at a further
    /// address.
    CopiedKey {
        /// The node with that key, which may be this node.
        node: NodeId,
        /// Known addresses of the processes with that key, without this process.
        addresses: Vec<SocketAddr>,
    },
    /// The key is not used by two processes any more: a process ended or was not heard for a while.
    CopyGone {
        /// The node with that key.
        node: NodeId,
    },
    /// A membership statement that was not heard recently. The owner verifies it, and calls
    /// [`super::Cluster::spread_statement`] if it is new.
    Statement {
        /// The node that passed it on.
        from: NodeId,
        /// The encoded statement, at most [`p2pfs_proto::wire::native::udp::STATEMENT_MAX_BYTES`].
        bytes: Bytes,
    },
    /// A member may be at this address, with an epoch or a certificate that is unknown here. The
    /// owner should identify it over TCP.
    Stranger {
        /// Address of the possible member.
        address: SocketAddr,
    },
    /// A member broke the rules. Repetitions of the same kind are not reported while this one is
    /// remembered.
    Offended {
        /// For [`Offence::SpeaksForOthers`], the member that sent the claim over its own session.
        /// For [`Offence::AheadOfClock`], the node that the life names, even if another node sent
        /// it.
        node: NodeId,
        /// Kind of the offence.
        what: Offence,
    },
    /// The last datagrams of the farewell are queued. The process may end after
    /// [`super::Cluster::poll_transmit`] has returned them.
    Left,
}

/// Kind of a rule violation. A correct member commits none as long as its clock and this machine's
/// clock are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// The member sent a life or a farewell that the node named in it did not sign.
    SpeaksForOthers,
    /// The member signed a life with a generation more than [`super::GENERATION_AHEAD_MAX_S`] above
    /// this machine's clock.
    AheadOfClock,
}

/// How a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// The member was suspected of being gone and did not contradict in time.
    Failed,
    /// The member announced its return, but did not return within the time of grace.
    Away,
    /// The member left.
    Left,
    /// The ledger says that the node is not a member.
    Expelled,
}

/// State of a member as seen by this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// The member is alive and not suspected.
    #[default]
    Alive,
    /// A node claims that the member does not answer or is gone. The member may still contradict.
    Suspect,
    /// The member stopped cleanly and may return.
    Away,
    /// The member is gone, and is remembered for a while.
    Down,
    /// The member left for good.
    Left,
    /// The member was expelled.
    Expelled,
}

/// A member with its state, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Node, address and generation.
    pub member: Member,
    /// State of the member.
    pub state: MemberState,
    /// Moving average of recent round trips.
    pub round_trip: Option<Duration>,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Destination.
    pub to: SocketAddr,
    /// The datagram, at most [`p2pfs_proto::wire::native::udp::DATAGRAM_MAX_BYTES`].
    pub datagram: Vec<u8>,
}
