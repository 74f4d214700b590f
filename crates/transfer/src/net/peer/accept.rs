//! Accepting side: from a TCP connection to a proven connection of a member.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, sleep, timeout};

use super::Shared;
use super::connection::Connection;
use super::counters::DropReason;
use super::greet::{Admission, AdmissionPolicy, admit};
use super::queue_limit::QueueLimitedStream;
use super::register::AcceptedGuard;
use super::tcp_info::TcpGauge;
use super::tls::peer_of;
use p2pfs_proto::wire::canonical;
use p2pfs_records::TlsStream;
use p2pfs_types::id::NodeId;

/// The first byte of a TLS connection (a handshake record, RFC 8446, section 5.1).
const TLS_FIRST_BYTE: u8 = 0x16;
/// Wait after the system could not give us a connection, for example because descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts connections until it is aborted.
pub(super) async fn accept_all(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Ok((stream, addr)) = listener.accept().await else {
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        shared.counters.lock().accepted += 1;
        let addr = canonical(addr);
        let Some((place, gave_way)) = shared.register.enter(addr.ip(), &shared.limits) else {
            shared.counters.lock().drop_for(DropReason::ClosedHere);
            continue;
        };
        if gave_way {
            shared.counters.lock().drop_for(DropReason::TooMany);
        }
        let number = place.number();
        let task = tokio::spawn(serve_socket(Arc::clone(&shared), stream, addr, place));
        shared.register.started(number, task.abort_handle());
    }
}

async fn serve_socket(
    shared: Arc<Shared>,
    stream: TcpStream,
    addr: SocketAddr,
    place: AcceptedGuard,
) {
    let mut first = [0];
    let reason = match timeout(shared.limits.times.first_byte, stream.peek(&mut first)).await {
        Err(_) => DropReason::SlowGreeting,
        Ok(Err(_)) => DropReason::Broken,
        Ok(Ok(0)) => DropReason::PeerClosed,
        Ok(Ok(_)) if first[0] != TLS_FIRST_BYTE => return hand_over(&shared, stream, addr),
        Ok(Ok(_)) => {
            let _ = stream.set_nodelay(true);
            serve_stream(&shared, stream, addr, place).await
        }
    };
    tracing::debug!(%addr, %reason, "accepted connection ended");
    shared.counters.lock().drop_for(reason);
}

fn hand_over(shared: &Shared, stream: TcpStream, addr: SocketAddr) {
    let foreign_plane = shared.foreign_plane.load_full();
    let taken = foreign_plane.is_some_and(|plane| plane.try_send((stream, addr)).is_ok());
    if taken {
        shared.counters.lock().foreign_plane += 1;
    } else {
        shared.counters.lock().drop_for(DropReason::NotTls);
    }
}

/// Serves one connection to its end. Returns the reason of the end.
pub(super) async fn serve_stream<S>(
    shared: &Shared,
    stream: S,
    addr: SocketAddr,
    place: AcceptedGuard,
) -> DropReason
where
    S: AsyncRead + AsyncWrite + TcpGauge + Unpin + Send + 'static,
{
    let stream = QueueLimitedStream::new(stream);
    let greeting = greet(shared, stream, addr);
    let greeted = timeout(shared.limits.times.handshake, greeting).await;
    let (stream, from, admission) = match greeted.unwrap_or(Err(DropReason::SlowGreeting)) {
        Ok(greeted) => greeted,
        Err(reason) => return reason,
    };
    let Admission::Member(lane) = admission else {
        return DropReason::Enrolled;
    };
    match place.prove(from, &shared.limits) {
        Ok(true) => shared.counters.lock().drop_for(DropReason::Replaced),
        Ok(false) => {}
        Err(reason) => return reason,
    }
    match Connection::new(shared, stream, from, addr, lane) {
        Ok((connection, reading)) => shared.host(&connection, reading).await,
        Err(reason) => reason,
    }
}

type Greeted<S> = (TlsStream<S>, NodeId, Admission);

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: S,
    addr: SocketAddr,
) -> Result<Greeted<S>, DropReason> {
    let stream = shared.local.tls.accept(stream).await;
    let mut stream = stream.map_err(|_| DropReason::TlsFailed)?;
    let client = peer_of(&stream).ok_or(DropReason::TlsFailed)?;
    if client == shared.local.me {
        return Err(DropReason::OwnIdentity);
    }
    let invites = shared.local.invites.load_full();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let door = AdmissionPolicy {
        ledger: &shared.local.ledger,
        invites,
        now_unix_s: now.as_secs(),
        on_refused: &|refused| shared.report_refused(addr, refused),
    };
    let admission = admit(&mut stream, shared.local.me, door, &shared.limits).await?;
    Ok((stream, client, admission))
}
