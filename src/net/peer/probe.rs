//! A look at an address: who answers there, and whether it takes us for a member.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::Shared;
use super::counters::DropReason;
use super::greet::{Ends, prove};
use super::limits::SERVE_READ_BYTES;
use super::tls::{nameless, peer_of};
use crate::files::limit_of_open_files;
use crate::id::NodeId;
use crate::wire::native::tcp::Lane;

/// What was found at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// A member of this cluster.
    Member(NodeId),
    /// A node that is not in this cluster, or takes us for none that is.
    Stranger(NodeId),
    /// This node itself.
    Ourselves,
    /// Something that speaks another protocol.
    Other,
    /// The machine is there and nobody listens.
    Closed,
    /// Nothing came back in time.
    Silent,
    /// The system knows no way there, or has none to give: why.
    Unreachable(String),
}

/// Dials, greets and hangs up.
pub(super) async fn probe(shared: &Arc<Shared>, addr: SocketAddr) -> Probed {
    let stream = match timeout(shared.limits.dial, TcpStream::connect(addr)).await {
        Err(_) => return Probed::Silent,
        Ok(Err(error)) => return not_connected(&error),
        Ok(Ok(stream)) => BufReader::with_capacity(SERVE_READ_BYTES, stream),
    };
    let Ok(connector) = shared.tls.connector_to_any() else {
        return Probed::Other;
    };
    let handshake = connector.connect(nameless(), stream);
    let mut stream = match timeout(shared.limits.handshake, handshake).await {
        Err(_) => return Probed::Silent,
        Ok(Err(_)) => return Probed::Other,
        Ok(Ok(stream)) => TlsStream::from(stream),
    };
    let Some(node) = peer_of(&stream) else {
        return Probed::Other;
    };
    if node == shared.me {
        return Probed::Ourselves;
    }
    let ends = Ends {
        client: shared.me,
        server: node,
    };
    let greeting = prove(
        &mut stream,
        ends,
        &shared.keyring,
        Lane::Urgent,
        &shared.limits,
    );
    let greeted = timeout(shared.limits.handshake, greeting).await;
    match greeted.unwrap_or(Err(DropReason::SlowGreeting)) {
        Ok(()) => Probed::Member(node),
        Err(DropReason::SlowGreeting) => Probed::Silent,
        Err(_) => Probed::Stranger(node),
    }
}

fn not_connected(error: &io::Error) -> Probed {
    match error.kind() {
        ErrorKind::ConnectionRefused => Probed::Closed,
        ErrorKind::TimedOut => Probed::Silent,
        kind => {
            let limit = limit_of_open_files(error);
            Probed::Unreachable(limit.unwrap_or_else(|| kind.to_string()))
        }
    }
}
