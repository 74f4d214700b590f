//! What the cluster tells its owner.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use p2pfs_proto::wire::native::udp::Head;
pub use p2pfs_proto::wire::native::udp::{Contact as Member, Farewell as Leave};
use p2pfs_types::id::{Generation, NodeId};

/// Something that the owner should know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The member is alive. Comes again with a higher generation, and no event between, where it
    /// restarted before anyone missed it, or with another address where it moved.
    Up(Member),
    /// The node is no longer a member: the owner drops its entries.
    Down {
        node: NodeId,
        /// How it ended.
        why: DownReason,
    },
    /// The member stopped cleanly and said that it will be back: its entries stay until
    /// [`Event::Up`], or until [`Event::Down`] after the time of grace.
    Away { node: NodeId },
    /// A head that is newer than the one we hold. The owner checks its signature and then calls
    /// [`super::Cluster::set_head`], without which it neither counts nor spreads. Author and rank
    /// are as they came beside the bytes: to be checked against them.
    Head(Head),
    /// An application message ([`p2pfs_proto::wire::native::udp::Message`], not decoded here).
    Message {
        /// The node that the session is bound to (any member could have claimed it).
        from: NodeId,
        /// At most [`p2pfs_proto::wire::native::udp::PAYLOAD_MAX_BYTES`].
        body: Bytes,
    },
    /// Time to exchange member lists with this member over TCP:
    /// [`super::Cluster::export_members`] to it, its answer to [`super::Cluster::merge_members`].
    PushPull {
        /// With whom.
        node: NodeId,
        address: SocketAddr,
    },
    /// Members knew a life of this node that is as new as this one, or held it for dead: it goes
    /// on as this generation. Often means the clock went back; more than a few, a copied key.
    Renewed {
        /// What this node is from now on.
        generation: Generation,
    },
    /// Two processes use one key. Comes again where one of them is heard at another address.
    CopiedKey {
        /// Whose: where it is this node's, the other process is not talked to.
        node: NodeId,
        /// Where the other process is; of another node's, where either is.
        addresses: Vec<SocketAddr>,
    },
    /// One of the two that used this node's key, or another's, was not heard for a while.
    CopyGone { node: NodeId },
    /// A statement about who is in that was not heard before: the owner checks it, and where it is
    /// news calls [`super::Cluster::spread_statement`].
    Statement {
        /// Who passes it on.
        from: NodeId,
        /// At most [`p2pfs_proto::wire::native::udp::STATEMENT_MAX_BYTES`].
        bytes: Bytes,
    },
    /// Somebody at this address may be a member, of an epoch or with a certificate that is not
    /// known here: the owner finds out, over TCP.
    Stranger { address: SocketAddr },
    /// A member breaks the rules; told once of each and each way.
    Offended {
        /// Which: the session that it came over is bound to this node's key.
        node: NodeId,
        /// In which way.
        what: Offence,
    },
    /// The farewell that [`super::Cluster::leave`] began is said; the process may end.
    Left,
}

/// What a member does that no honest one would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// It says of another node what that node did not sign.
    SpeaksForOthers,
    /// It speaks of a life that begins long after now, by this machine's clock.
    AheadOfClock,
}

/// How a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// It answered neither us nor those we asked to try.
    Failed,
    /// It said that it would be back, and was not within the time of grace.
    Away,
    /// It left.
    Left,
    /// It is no member any more.
    Expelled,
}

/// What is thought of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    #[default]
    Alive,
    /// Someone could not reach it; it has some seconds to contradict.
    Suspect,
    /// It stopped cleanly and may be back.
    Away,
    /// It is gone, and remembered for a while.
    Down,
    /// It left for good.
    Left,
    /// It was put out.
    Expelled,
}

/// A member, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who and where.
    pub member: Member,
    /// What is thought of it.
    pub state: MemberState,
    /// As measured lately.
    pub round_trip: Option<Duration>,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// At most [`p2pfs_proto::wire::native::udp::DATAGRAM_MAX_BYTES`].
    pub datagram: Vec<u8>,
}
