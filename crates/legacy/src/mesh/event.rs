//! The events of the state machine, and the reasons in them.

use std::net::SocketAddr;

use bytes::Bytes;

use super::offence::{Culprit, MeshOffence};
use super::{ConnId, SILENCE_MAX};
use crate::wire::discovery::MemberName;

/// An event or a request of the state machine to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshEvent {
    /// Request: connect, and report to [`dialled`](super::MeshMachine::dialled) or
    /// [`dial_failed`](super::MeshMachine::dial_failed).
    Dial(MemberName),
    /// Request: close the connection after its pending bytes are sent. No later event has this
    /// number.
    Close(ConnId),
    /// The handshake of a connection is complete. Files on the connection come from this peer.
    Established(ConnId, Who),
    /// The first connection of a peer is established.
    PeerUp {
        /// The peer.
        who: Who,
        /// Whether this node dialled the peer.
        dialled: bool,
    },
    /// The last connection of a peer ended.
    PeerDown(Who, DownWhy),
    /// A peer rejected this node's connection.
    Rejected(MemberName, Rejection),
    /// A chat message.
    Chat(Who, String),
    /// A payload that is not part of a file, with its length. The bytes are `None` if it is too
    /// long to be passed on.
    Binary(Who, u64, Option<Bytes>),
    /// A peer sent this number of new addresses.
    Learned(Who, usize),
    /// A peer breaks the rules, and a report of it is due.
    Offended(Culprit, MeshOffence),
}

/// A peer, as it identifies itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// ID of the peer.
    pub id: String,
    /// Display name of the peer.
    pub name: String,
    /// Address where the peer listens. If that is not known, the remote address of its connection.
    pub address: SocketAddr,
}

/// Why the last connection of a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownWhy {
    /// The peer or the network closed the connection.
    #[error("its connection ended")]
    Closed,
    /// The peer was silent for [`SILENCE_MAX`].
    #[error("silent for more than {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// The peer broke the rules.
    #[error("it {0}")]
    Offended(MeshOffence),
}

/// Why a peer rejects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The peer is already connected to this node.
    #[error("peer rejected: duplicate connection")]
    Duplicate,
    /// The peer has as many peers as it accepts.
    #[error("peer rejected: max peers reached")]
    MaxPeers,
    /// The connection ended before an answer arrived. A rejection may have been lost with it.
    #[error("it closed the connection, or speaks another protocol")]
    Silent,
}
