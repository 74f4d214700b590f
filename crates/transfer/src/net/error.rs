//! Why something could not be sent, asked or opened. What legacy peers do wrong has its own error
//! in `net::legacy`.

use std::io;
use std::net::SocketAddr;

use crate::net::peer::DropReason;
use p2pfs_proto::wire::WireError;

/// Why something could not be sent, asked or opened. Nothing else was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Our own address cannot be used; the administrator can mend it.
    #[error("cannot listen on {address}: {}", bind_reason(.kind))]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// Our own key cannot be used for TLS.
    #[error("the node's key cannot be used for TLS: {why}")]
    Key {
        /// What the library said.
        why: String,
    },
    /// Nobody answers at that address. Another holder, or later, may.
    #[error("cannot reach {address}: {}", io::Error::from(*.kind))]
    Unreachable {
        /// Where we dialled.
        address: SocketAddr,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// This process, or the system, may open no more files, and a connection is one.
    #[error("cannot reach {address}: {why}")]
    OpenFiles {
        /// Where we would have dialled.
        address: SocketAddr,
        /// Which limit, and how it is raised.
        why: String,
    },
    /// Who answers there is not the node that we want, or does not speak our protocol.
    #[error("{address} is not the node that was expected there: {why}")]
    WrongNode {
        /// Where we dialled.
        address: SocketAddr,
        /// What TLS said.
        why: String,
    },
    /// The node did not take our proof, or could not give its own: it is not in our cluster.
    #[error("the node at {address} is not a member of this cluster, or takes us for none")]
    NotMember {
        /// Where we dialled.
        address: SocketAddr,
    },
    /// Our ledger does not have the node as a member, or not any more.
    #[error("that node is not a member of this cluster any more")]
    Outsider,
    /// The node asked for is ourselves.
    #[error("that node is this node")]
    OwnIdentity,
    /// The connection ended before the answer came. Ask another holder at once.
    #[error("the connection was lost: {reason}")]
    Lost { reason: DropReason },
    /// As many connections are open as may be, and none is idle.
    #[error("too many connections are open")]
    TooManyConnections,
    /// The request is over a limit of the protocol: our own fault.
    #[error("the request cannot be sent: {0}")]
    Request(WireError),
    /// The node speaks an older version of the protocol, which has no such request.
    #[error("the node does not know this request")]
    Older,
    /// The invitation's time is over.
    #[error("the invitation has expired; make a new one with 'p2pfs invite'")]
    InviteExpired,
    /// The issuer does not know the invitation (any more).
    #[error(
        "the node that made the invitation refuses it: it was used already, it is older than this \
         node's expulsion, that node was started anew or joined another cluster since, or the name \
         of this node has a meaning there already; make a new one with 'p2pfs invite --name NAME'"
    )]
    InviteRefused,
    /// None of the token's addresses leads to the node that made it.
    #[error(
        "the node that made the invitation does not answer ({why}); start it, or make another \
         with 'p2pfs invite'"
    )]
    InviterAway {
        /// What became of the first address.
        why: String,
    },
    /// We were told to stop.
    #[error("the node is shutting down")]
    Closed,
}

impl NetError {
    /// Whether the same request may succeed at another node, or at this one later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::TooManyConnections => true,
            Self::OpenFiles { .. } => true,
            Self::WrongNode { .. } | Self::NotMember { .. } => true,
            Self::Bind { .. } | Self::Key { .. } | Self::Request(_) | Self::Closed => false,
            Self::Outsider | Self::OwnIdentity | Self::Older => false,
            Self::InviteExpired | Self::InviteRefused => false,
            Self::InviterAway { .. } => true,
        }
    }
}

fn bind_reason(kind: &io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::AddrInUse => "another program uses this port; stop it, or give another \
                                     port with --listen"
            .to_owned(),
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; give one that it has with --listen".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege; give another port with --listen".to_owned()
        }
        other => other.to_string(),
    }
}
