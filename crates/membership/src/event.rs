//! Events of the cluster for its owner.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use p2pfs_proto::wire::native::udp::Head;
pub use p2pfs_proto::wire::native::udp::{Contact as Member, Farewell as Leave};
use p2pfs_types::id::{Generation, NodeId};

/// An event that the owner should know or handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The member is alive. Repeated with a higher generation, without another event between, if
    /// the member restarted unnoticed, or with another address if it moved.
    Up(Member),
    /// This node now reaches the living member at another address.
    Moved(Member),
    /// The node has ceased to be a member. The owner drops its entries.
    Down {
        /// The node.
        node: NodeId,
        /// How the membership ended.
        why: DownReason,
    },
    /// The member stopped cleanly and announced its return. Its entries stay until [`Event::Up`],
    /// or until [`Event::Down`] after the time of grace.
    Away {
        /// The member.
        node: NodeId,
    },
    /// A head that is newer than the stored one. The owner verifies its signature and then calls
    /// [`super::Cluster::set_head`]; otherwise it does not count and does not spread. Author and
    /// rank are as received, and the owner checks them against the bytes.
    Head(Head),
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
    /// This node continues with a new generation. Its address changed, members believed it dead, or
    /// a member knew a life of this node that is at least as new as the present one. The last cause
    /// usually means that this machine's clock went back. If the last cause occurs more than a few
    /// times, the key was copied.
    Renewed {
        /// Generation of this node from now on.
        generation: Generation,
    },
    /// Two processes use one key. Repeated if either process is heard at another address.
    CopiedKey {
        /// The node with that key. If it is this node, the other process is ignored.
        node: NodeId,
        /// Address of the other process; for another node's key, the addresses of both.
        addresses: Vec<SocketAddr>,
    },
    /// One of the two processes with this key was not heard for a while.
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
    /// owner finds out over TCP.
    Stranger {
        /// Address of the possible member.
        address: SocketAddr,
    },
    /// A member breaks the rules. Reported once for each member and kind.
    Offended {
        /// For [`Offence::SpeaksForOthers`], the member that sent the claim over its own session.
        /// For [`Offence::AheadOfClock`], the node that the life names. Another node may have sent
        /// it.
        node: NodeId,
        /// Kind of the offence.
        what: Offence,
    },
    /// The farewell of [`super::Cluster::leave`] was sent. The process may end.
    Left,
}

/// Kind of a rule violation. A correct member commits none as long as its clock and this machine's
/// clock are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// The member claims something about another node that the node did not sign.
    SpeaksForOthers,
    /// The member uses a life that begins long after the present time of this machine's clock.
    AheadOfClock,
}

/// How a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// The member did not answer this node or the members asked to try.
    Failed,
    /// The member announced its return, but did not return within the time of grace.
    Away,
    /// The member left.
    Left,
    /// The keyring says that the node is not a member.
    Expelled,
}

/// State of a member as seen by this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// The member answers.
    #[default]
    Alive,
    /// Some node could not reach the member. The member has a few seconds to contradict.
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
