//! Accepting side: from a TCP connection to requests for the node and answers to the peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Duration, sleep, timeout};

use super::Shared;
use super::counters::DropReason;
use super::framing::{FrameReader, Pulse, reason_of};
use super::greet::{Admission, AdmissionPolicy, admit};
use super::outbound::Outbound;
use super::ping_pace::PingPace;
use super::queue_limit::QueueLimitedStream;
use super::register::AcceptedGuard;
use super::request_room::TakenRoom;
use super::send_budget::QueueTarget;
use super::split::SplitConnection;
use super::tcp_info::TcpGauge;
use super::tls::{has_replacements, peer_of};
use crate::pace::PassedBytes;
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::tcp::{Frame, FrameKind, Lane, Phase, Request, Response};
use p2pfs_records::{RecordReader, TlsStream};
use p2pfs_types::id::NodeId;

/// The first byte of a TLS connection (a handshake record, RFC 8446, section 5.1).
const TLS_FIRST_BYTE: u8 = 0x16;
/// Wait after the system could not give us a connection, for example because descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Maximum pongs that wait to be written besides the answers.
const PONGS: usize = 4;

/// Request of a proven peer, for the node to answer.
pub struct Incoming {
    /// Peer that sent the request.
    pub from: NodeId,
    /// Remote address of the peer.
    pub addr: SocketAddr,
    /// Lane of the connection.
    pub lane: Lane,
    /// Request to answer.
    pub request: Request,
    /// Whether the peer can decode records of replacements and deletions (`p2pfs/4` and later).
    pub has_replacements: bool,
    /// Handle for sending the answer.
    pub reply: ReplyTo,
}

/// Handle for one answer. Dropping it answers `Busy`, so that a bug of ours leaves no request
/// unanswered.
pub struct ReplyTo {
    id: u32,
    outbound: Arc<Outbound>,
    slot: Option<OwnedSemaphorePermit>,
    /// Room for the bytes of the request, until it is answered.
    _room: TakenRoom,
}

/// Handler of a proven member's request outside the node's event loop. It returns requests that it
/// does not handle. Called on the task of the member's connection, so it must not block.
pub type AnswerBeside = Arc<dyn Fn(Incoming) -> Option<Incoming> + Send + Sync>;

impl ReplyTo {
    /// Sends the answer without blocking. If the connection is gone, the answer is dropped.
    pub fn send(mut self, response: Response) {
        self.answer(&response, None);
    }

    /// Sends the answer as [`Self::send`] does. Refunds the charge if the answer is not sent.
    pub(crate) fn send_charged(mut self, response: Response, charge: Option<PassedBytes>) {
        self.answer(&response, charge);
    }

    /// Returns whether the asker is still connected. Otherwise work for it can be stopped.
    pub fn is_wanted(&self) -> bool {
        !self.outbound.is_closed()
    }

    fn answer(&mut self, response: &Response, charge: Option<PassedBytes>) {
        let Some(slot) = self.slot.take() else { return };
        // An answer of ours that exceeds a limit is a bug here; the peer must not wait for it.
        let frame = response
            .encode(self.id)
            .unwrap_or_else(|_| Frame::empty(self.id, FrameKind::Busy));
        self.outbound.answer(self.id, frame, Some(slot), charge);
    }

    /// Returns a receiver that resolves when the answer is cancelled. Must be called at most once.
    pub fn unwanted(&self) -> oneshot::Receiver<()> {
        self.outbound.begin(self.id)
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.answer(&Response::Busy, None);
    }
}

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
    let (mut stream, from, admission) = match greeted.unwrap_or(Err(DropReason::SlowGreeting)) {
        Ok(greeted) => greeted,
        Err(reason) => return reason,
    };
    let Admission::Member(lane) = admission else {
        return DropReason::Enrolled;
    };
    let link = stream.get_mut();
    let distances = Arc::clone(&shared.distances);
    link.limit_to(QueueTarget::of(lane), distances, addr.ip());
    if let Some(code_point) = shared.limits.code_point(lane) {
        let _unmarked = link.mark(code_point);
    }
    match place.prove(from, &shared.limits) {
        Ok(true) => shared.counters.lock().drop_for(DropReason::Replaced),
        Ok(false) => {}
        Err(reason) => return reason,
    }
    // an expulsion after this point closes the connection; an expulsion since the greeting is
    // noticed by this check
    if !shared.local.ledger.is_member(&from) {
        return DropReason::Stranger;
    }
    let session = ServedConnection {
        shared,
        from,
        addr,
        lane,
        has_replacements: has_replacements(&stream),
    };
    let reason = session.run(stream).await;
    shared.blame(from, addr, reason);
    reason
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

/// Proven connection of an asking peer.
struct ServedConnection<'a> {
    shared: &'a Shared,
    from: NodeId,
    addr: SocketAddr,
    lane: Lane,
    has_replacements: bool,
}

/// Cancels the request with this id, or answers the ping.
fn answer_ping(id: u32, outbound: &Outbound, slots: usize) {
    if id != 0 && outbound.take_back(id) {
        return;
    }
    // a peer that pings faster than it reads gets fewer pongs
    if outbound.waiting() < slots + PONGS {
        outbound.send(Frame::empty(id, FrameKind::Pong));
    }
}

/// Guard that drops the socket of a connection when its task ends in any way.
struct OutboundGuard(Arc<Outbound>);

impl Drop for OutboundGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl ServedConnection<'_> {
    async fn run<S>(&self, stream: TlsStream<QueueLimitedStream<S>>) -> DropReason
    where
        S: AsyncRead + AsyncWrite + TcpGauge + Unpin + Send + 'static,
    {
        let records = SplitConnection::after_greeting(stream);
        let SplitConnection {
            reading,
            writing,
            link,
        } = match records {
            Ok(records) => records,
            Err(reason) => return reason,
        };
        let outbound = OutboundGuard(Arc::new(Outbound::new(writing, link)));
        tokio::select! {
            reason = self.read_requests(reading, &outbound.0) => reason,
            reason = outbound.0.write_rest(&self.shared.limits) => reason,
        }
    }

    async fn read_requests<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: RecordReader<ReadHalf<S>>,
        outbound: &Arc<Outbound>,
    ) -> DropReason {
        let (limits, pulse) = (&self.shared.limits, Pulse::new());
        let mut reader = FrameReader::new(stream, limits, &pulse).with_pool(&self.shared.pieces);
        let all_slots = limits.in_flight(self.lane);
        let slots = Arc::new(Semaphore::new(all_slots));
        let mut pings = PingPace::new(all_slots);
        loop {
            match timeout(limits.times.idle_accepted, reader.wait()).await {
                Err(_) if slots.available_permits() == all_slots => return DropReason::Idle,
                Err(_) => continue,
                Ok(Err(reason)) => return reason,
                Ok(Ok(())) => {}
            }
            let (header, body) = match reader.next(Phase::Requests).await {
                Ok(frame) => frame,
                Err(reason) => return reason,
            };
            if header.kind == FrameKind::Ping {
                if !pings.take() {
                    return DropReason::Pings;
                }
                answer_ping(header.id, outbound, all_slots);
                continue;
            }
            pings.add_request();
            let room = self.shared.request_room.take(self.from, body.len());
            let request = match Request::decode(header.kind, body) {
                Ok(request) => request,
                Err(error) => return reason_of(&error),
            };
            // A request that has no room is dropped before it waits for its place.
            let admitted = room.map(|room| (request, room));
            // Reading pauses here when too many requests are in flight. The peer's further requests
            // then wait in the connection.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return DropReason::ClosedHere;
            };
            let Some((request, room)) = admitted else {
                self.shared.counters.lock().overloaded += 1;
                outbound.answer(
                    header.id,
                    Frame::empty(header.id, FrameKind::Busy),
                    Some(slot),
                    None,
                );
                continue;
            };
            let reply = ReplyTo {
                id: header.id,
                outbound: Arc::clone(outbound),
                slot: Some(slot),
                _room: room,
            };
            let incoming = Incoming {
                from: self.from,
                addr: self.addr,
                lane: self.lane,
                request,
                has_replacements: self.has_replacements,
                reply,
            };
            let beside = self.shared.beside.load();
            let left = match beside.as_ref() {
                Some(answer) => answer(incoming),
                None => Some(incoming),
            };
            if left.is_some_and(|incoming| !self.hand_in(incoming)) {
                return DropReason::ClosedHere;
            }
        }
    }

    /// Hands a request to the node, or answers it `Busy` if the queue is full. Returns false if the
    /// node is gone.
    fn hand_in(&self, incoming: Incoming) -> bool {
        match self.shared.incoming.try_send(incoming) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_answered_busy)) => {
                self.shared.counters.lock().overloaded += 1;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}
