//! Errors of sending, requesting and listening.

use std::io;
use std::net::SocketAddr;

use crate::net::peer::DropReason;
use p2pfs_proto::wire::WireError;
use p2pfs_proto::wire::native::tcp::DeclineReason;

/// Reason why something could not be sent, requested or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// This node's own address cannot be used. The administrator can correct it.
    #[error("cannot listen on {address}: {}", bind_reason(.kind))]
    Bind {
        /// Address to listen on.
        address: SocketAddr,
        /// Error of the system.
        kind: io::ErrorKind,
    },
    /// This node's own key cannot be used for TLS.
    #[error("the node's key cannot be used for TLS: {why}")]
    Key {
        /// Error of the TLS library.
        why: String,
    },
    /// No connection to that address could be opened. Another holder may answer, or this one later.
    #[error("cannot reach {address}: {}", io::Error::from(*.kind))]
    Unreachable {
        /// Dialled address.
        address: SocketAddr,
        /// Error of the system.
        kind: io::ErrorKind,
    },
    /// This process, or the system, may open no more files. A connection is a file.
    #[error("cannot reach {address}: {why}")]
    OpenFiles {
        /// Address to dial.
        address: SocketAddr,
        /// Name of the limit, and how to raise it.
        why: String,
    },
    /// The other end is not the expected node, or does not speak our protocol.
    #[error("{address} is not the node that was expected there: {why}")]
    WrongNode {
        /// Dialled address.
        address: SocketAddr,
        /// Error of TLS.
        why: String,
    },
    /// The node rejected our proof of membership, or gave no valid proof of its own.
    #[error("the node at {address} is not a member of this cluster, or takes us for none")]
    NotMember {
        /// Dialled address.
        address: SocketAddr,
    },
    /// The node has proven that this node was expelled or has left.
    #[error("the node at {address} takes us for a former member of this cluster")]
    PutOut {
        /// Dialled address.
        address: SocketAddr,
    },
    /// Our ledger does not list the node as a member, or not any longer.
    #[error("that node is not a member of this cluster any more")]
    Outsider,
    /// The requested node is this node.
    #[error("that node is this node")]
    OwnIdentity,
    /// The connection ended before the answer arrived. Another holder can be asked at once.
    #[error("the connection was lost: {reason}")]
    Lost {
        /// Reason why the connection ended.
        reason: DropReason,
    },
    /// The maximum of connections is open, and none is idle.
    #[error("too many connections are open")]
    TooManyConnections,
    /// The request exceeds a limit of the protocol. The fault is on this node.
    #[error("the request cannot be sent: {0}")]
    Request(WireError),
    /// The node speaks an older version of the protocol without this request.
    #[error("the node does not know this request")]
    Older,
    /// The invitation has expired.
    #[error("the invitation has expired; make a new one with 'p2pfs invite'")]
    InviteExpired,
    /// The issuer knows the invitation and does not admit this node by it.
    #[error("the node that made the invitation does not accept it: {why}")]
    InviteDeclined {
        /// Reason and remedy.
        why: DeclineReason,
    },
    /// The issuer does not accept the invitation, and gives no reason: it does not remember the
    /// invitation, it may not admit nodes, or it speaks an older version of the protocol.
    #[error(
        "the node that made the invitation does not know it, most likely because it was restarted \
         since; make another invitation there with 'p2pfs invite'; if that is refused too, see \
         'p2pfs events' there for the reason"
    )]
    InviteRefused,
    /// None of the token's addresses leads to its issuer.
    #[error(
        "the node that made the invitation does not answer ({why}); see there whether it runs; if \
         it was restarted since, make another invitation there with 'p2pfs invite'"
    )]
    InviterAway {
        /// Error of the first address.
        why: String,
    },
    /// The connection to the issuer was lost before its answer arrived. This node may use the
    /// invitation again.
    #[error(
        "the connection to the node that made the invitation was lost before its answer arrived \
         ({reason}); run the command again with the same token, or make another with 'p2pfs \
         invite' if it is lost each time"
    )]
    InviteUnanswered {
        /// Reason why the connection ended.
        reason: DropReason,
    },
    /// This node is shutting down.
    #[error("the node is shutting down")]
    Closed,
}

impl NetError {
    /// Returns whether the same request may succeed at another node, or at this one later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::TooManyConnections => true,
            Self::OpenFiles { .. } => true,
            Self::WrongNode { .. } | Self::NotMember { .. } => true,
            Self::PutOut { .. } => true,
            Self::Bind { .. } | Self::Key { .. } | Self::Request(_) | Self::Closed => false,
            Self::Outsider | Self::OwnIdentity | Self::Older => false,
            Self::InviteExpired | Self::InviteDeclined { .. } | Self::InviteRefused => false,
            Self::InviterAway { .. } | Self::InviteUnanswered { .. } => true,
        }
    }
}

fn bind_reason(kind: &io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::AddrInUse => "another program uses this port; stop it (ss -tulpn), or set \
                                     listen to another"
            .to_owned(),
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; set listen to one that it has".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege; set listen to another port".to_owned()
        }
        other => other.to_string(),
    }
}
