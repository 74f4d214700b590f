//! A look at an address: who answers there, and whether it takes us for a member.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsStream;

use super::Shared;
use super::cork::Corked;
use super::counters::DropReason;
use super::greet::prove;
use super::tls::{nameless, peer_of};
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_types::files::limit_of_open_files;
use p2pfs_types::id::NodeId;

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
    /// No connection came about in time.
    Silent,
    /// It takes a connection, over which nothing more comes: what is large is lost on the way, or
    /// it waits for words of another protocol.
    Stalled,
    /// The system knows no way there, or has none to give: why.
    Unreachable(String),
}

/// Dials, greets and hangs up. Who is hung up on is refused without a word, or met one that stops
/// in this moment: it looks again, and only who is hung up on then as well is refused.
pub(super) async fn probe(shared: &Arc<Shared>, addr: SocketAddr) -> Probed {
    match look(shared, addr).await {
        Look::Sure(probed) => probed,
        Look::HungUp(_) => {
            sleep(shared.limits.look_again).await;
            match look(shared, addr).await {
                Look::Sure(probed) | Look::HungUp(probed) => probed,
            }
        }
    }
}

/// What one look has shown.
enum Look {
    Sure(Probed),
    /// The other end hung up before it was done, and what that means unless it happens to stop.
    HungUp(Probed),
}

async fn look(shared: &Arc<Shared>, addr: SocketAddr) -> Look {
    let stream = match timeout(shared.limits.dial, TcpStream::connect(addr)).await {
        Err(_) => return Look::Sure(Probed::Silent),
        Ok(Err(error)) => return Look::Sure(not_connected(&error)),
        Ok(Ok(stream)) => Corked::new(stream),
    };
    let Ok(connector) = shared.tls.connector(None) else {
        return Look::Sure(Probed::Other);
    };
    let begun = Instant::now();
    let handshake = connector.connect(nameless(), stream);
    let stream = match timeout(shared.limits.handshake, handshake).await {
        Err(_) => return Look::Sure(Probed::Stalled),
        // what is said and is no TLS
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
            return Look::Sure(Probed::Other);
        }
        // one that waited for our first words for as long as it waits for anybody's
        Ok(Err(_)) if begun.elapsed() > shared.limits.handshake / 2 => {
            return Look::Sure(Probed::Stalled);
        }
        Ok(Err(_)) => return Look::HungUp(Probed::Other),
        Ok(Ok(stream)) => TlsStream::from(stream),
    };
    match peer_of(&stream) {
        None => Look::Sure(Probed::Other),
        Some(node) if node == shared.me => Look::Sure(Probed::Ourselves),
        Some(node) => greet(shared, stream, node).await,
    }
}

async fn greet(shared: &Shared, mut stream: TlsStream<Corked<TcpStream>>, node: NodeId) -> Look {
    match prove(shared, &mut stream, Lane::Urgent).await {
        Ok(()) => Look::Sure(Probed::Member(node)),
        Err(DropReason::SlowGreeting) => Look::Sure(Probed::Stalled),
        Err(DropReason::PeerClosed | DropReason::Broken) => Look::HungUp(Probed::Stranger(node)),
        Err(_) => Look::Sure(Probed::Stranger(node)),
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
