//! Dialling side: from an address to a proven connection of a member.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use super::connection::{Connection, Reading};
use super::counters::DropReason;
use super::greet::prove;
use super::queue_limit::QueueLimitedStream;
use super::tls::{self, peer_of};
use crate::net::NetError;
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_records::TlsStream;
use p2pfs_types::files::limit_of_open_files;
use p2pfs_types::id::NodeId;

/// Dials a member and proves membership. `gets_on` is called, possibly several times, when the
/// other end answers in the handshake.
pub(super) async fn dial(
    shared: &Shared,
    node: NodeId,
    addr: SocketAddr,
    lane: Lane,
    gets_on: impl Fn(),
) -> Result<(Arc<Connection>, Reading<TcpStream>), NetError> {
    let mut stream = connect(shared, node, addr, &gets_on).await?;
    gets_on();
    let greeted = prove(shared, &mut stream, lane).await;
    greeted.map_err(|reason| not_proven(reason, addr))?;
    let connection = Connection::new(shared, stream, node, addr, lane);
    connection.map_err(|reason| NetError::Lost { reason })
}

/// Opens a TLS connection to `node` and no other. Membership is not proven yet.
pub(super) async fn connect(
    shared: &Shared,
    node: NodeId,
    addr: SocketAddr,
    on_first_bytes: impl Fn(),
) -> Result<TlsStream<QueueLimitedStream<TcpStream>>, NetError> {
    let dialler = shared.local.tls.dialler(Some(node))?;
    let stream = connect_with(shared, &dialler, addr, on_first_bytes).await?;
    if peer_of(&stream) == Some(node) {
        Ok(stream)
    } else {
        Err(speaks_otherwise(addr))
    }
}

/// Opens a TLS connection to any node at an address. Returns the node's id too.
pub(super) async fn connect_any(
    shared: &Shared,
    addr: SocketAddr,
) -> Result<(TlsStream<QueueLimitedStream<TcpStream>>, NodeId), NetError> {
    let dialler = shared.local.tls.dialler(None)?;
    let stream = connect_with(shared, &dialler, addr, || ()).await?;
    let node = peer_of(&stream).ok_or_else(|| speaks_otherwise(addr))?;
    Ok((stream, node))
}

/// Returns the error for a greeting that ended for this reason. [`NetError::NotMember`] means that
/// the other end refused this node or did not prove membership, and [`NetError::PutOut`] that it
/// proved that this node is not a member any more. Other reasons are
/// [`NetError::Lost`], because any machine on the way can break the connection.
pub(super) fn not_proven(reason: DropReason, address: SocketAddr) -> NetError {
    match reason {
        DropReason::Stranger | DropReason::Refused => NetError::NotMember { address },
        DropReason::PutOut => NetError::PutOut { address },
        reason => NetError::Lost { reason },
    }
}

fn speaks_otherwise(address: SocketAddr) -> NetError {
    let why = "it speaks no protocol from p2pfs/1 to p2pfs/4".to_owned();
    NetError::WrongNode { address, why }
}

async fn connect_with(
    shared: &Shared,
    dialler: &ClientConfig,
    addr: SocketAddr,
    on_first_bytes: impl Fn(),
) -> Result<TlsStream<QueueLimitedStream<TcpStream>>, NetError> {
    let unreachable = move |kind| NetError::Unreachable {
        address: addr,
        kind,
    };
    let times = &shared.limits.times;
    // rustls reports a fault of the other end as invalid data; all other errors come from the
    // network
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidData => NetError::WrongNode {
            address: addr,
            why: error.to_string(),
        },
        kind => unreachable(kind),
    };
    let (failed, on_first_bytes) = (&failed, &on_first_bytes);
    let handshake = |stream: TcpStream| async move {
        let _ = stream.set_nodelay(true);
        let stream = QueueLimitedStream::new(stream);
        let handshake = tls::dial(dialler, stream, on_first_bytes);
        let stream = timeout(times.handshake, handshake).await;
        let stream = stream.map_err(|_| unreachable(std::io::ErrorKind::TimedOut))?;
        stream.map_err(|error| failed(error.into()))
    };
    let opened = shared.narrow_paths.open(addr, times.dial, handshake).await;
    opened.map_err(|error| match limit_of_open_files(&error) {
        Some(why) => NetError::OpenFiles { address: addr, why },
        None => unreachable(error.kind()),
    })?
}
