//! Probe of an address: the node that answers there, and whether it accepts us as a member.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::counters::DropReason;
use super::greet::prove;
use super::tls::{self, peer_of};
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_records::TlsStream;
use p2pfs_types::files::limit_of_open_files;
use p2pfs_types::id::NodeId;

/// Result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// A member of this cluster.
    Member(NodeId),
    /// A node that does not prove membership in this cluster, or does not accept us as a member.
    Stranger(NodeId),
    /// A node whose connections end in the greeting, which any machine on the way can cause.
    Broken(NodeId),
    /// This node itself.
    Ourselves,
    /// A process that speaks another protocol.
    Other,
    /// The machine is there, and no process listens.
    Closed,
    /// No connection was established in time.
    Silent,
    /// It accepts a connection, but the greeting is not complete in time: for example, large
    /// packets are lost on the way, or it waits for another protocol.
    Stalled,
    /// The system has no route to it or no resources for it, with the reason.
    Unreachable(String),
}

/// Dials, greets and hangs up, within `patience` and the limits of a dial and of a greeting. If the
/// other end hangs up first, it may be stopping, so the probe is repeated once if there is time.
pub(super) async fn probe(shared: &Arc<Shared>, addr: SocketAddr, patience: Duration) -> Probed {
    let begun = Instant::now();
    let first = match attempt(shared, addr, patience).await {
        ProbeAttempt::Sure(probed) => return probed,
        ProbeAttempt::HungUp(probed) => probed,
    };
    let pause = shared.limits.times.look_again;
    if patience.saturating_sub(begun.elapsed()) <= pause {
        return first;
    }
    sleep(pause).await;
    let left = patience.saturating_sub(begun.elapsed());
    match attempt(shared, addr, left).await {
        ProbeAttempt::Sure(probed) | ProbeAttempt::HungUp(probed) => probed,
    }
}

/// Result of one attempt.
enum ProbeAttempt {
    Sure(Probed),
    /// The connection ended early. The value is the result if the next one does so too.
    HungUp(Probed),
}

async fn attempt(shared: &Arc<Shared>, addr: SocketAddr, patience: Duration) -> ProbeAttempt {
    let begun = Instant::now();
    let dial = shared.limits.times.dial.min(patience);
    let connected = AtomicBool::new(false);
    let handshake = |stream| {
        connected.store(true, Ordering::Relaxed);
        handshake(shared, stream)
    };
    let talking = async {
        match shared.narrow_paths.open(addr, dial, handshake).await {
            Err(error) => ProbeAttempt::Sure(not_connected(&error)),
            Ok(Err(failed)) => failed,
            Ok(Ok(stream)) => greet_any(shared, stream).await,
        }
    };
    let talked = timeout(patience.saturating_sub(begun.elapsed()), talking).await;
    talked.unwrap_or_else(|_| {
        let is_connected = connected.load(Ordering::Relaxed);
        let probed = if is_connected {
            Probed::Stalled
        } else {
            Probed::Silent
        };
        ProbeAttempt::Sure(probed)
    })
}

/// Opens a TLS connection to any node.
async fn handshake(
    shared: &Shared,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ProbeAttempt> {
    let Ok(dialler) = shared.local.tls.dialler(None) else {
        return Err(ProbeAttempt::Sure(Probed::Other));
    };
    let (begun, times) = (Instant::now(), &shared.limits.times);
    let handshake = timeout(times.handshake, tls::dial(&dialler, stream, || ())).await;
    match handshake.map(|outcome| outcome.map_err(io::Error::from)) {
        Err(_) => Err(ProbeAttempt::Sure(Probed::Stalled)),
        // an answer that is not TLS
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
            Err(ProbeAttempt::Sure(Probed::Other))
        }
        // the other end hung up after half of its time limit for the first byte, so it was waiting
        // for bytes that did not arrive or that it did not understand
        Ok(Err(_)) if begun.elapsed() > times.first_byte / 2 => {
            Err(ProbeAttempt::Sure(Probed::Stalled))
        }
        Ok(Err(_)) => Err(ProbeAttempt::HungUp(Probed::Other)),
        Ok(Ok(stream)) => Ok(stream),
    }
}

/// Finds out which node is at the other end of a connection.
async fn greet_any(shared: &Shared, stream: TlsStream<TcpStream>) -> ProbeAttempt {
    match peer_of(&stream) {
        None => ProbeAttempt::Sure(Probed::Other),
        Some(node) if node == shared.local.me => ProbeAttempt::Sure(Probed::Ourselves),
        Some(node) => greet(shared, stream, node).await,
    }
}

async fn greet(shared: &Shared, mut stream: TlsStream<TcpStream>, node: NodeId) -> ProbeAttempt {
    match prove(shared, &mut stream, Lane::Urgent).await {
        Ok(()) => ProbeAttempt::Sure(Probed::Member(node)),
        Err(DropReason::SlowGreeting) => ProbeAttempt::Sure(Probed::Stalled),
        Err(DropReason::Stranger | DropReason::Refused | DropReason::PutOut) => {
            ProbeAttempt::Sure(Probed::Stranger(node))
        }
        Err(_) => ProbeAttempt::HungUp(Probed::Broken(node)),
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
