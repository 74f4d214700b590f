//! Dialling side: one connection to one node, with many requests at a time.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::Shared;
use super::counters::DropReason;
use super::framing::{FrameReader, reason_of};
use super::greet::prove;
use super::limits::PeerLimits;
use super::line::{ConnectionCheck, ConnectionState, OnAnswer, OpenRequest, Progress};
use super::outbound::Outbound;
use super::queue_limit::QueueLimitedStream;
use super::split::SplitConnection;
use super::tcp_info::TcpGauge;
use super::tls::{self, KnownRequests, peer_of};
use crate::net::NetError;
use crate::pace::PassedBytes;
use p2pfs_proto::wire::native::tcp::{
    Frame, FrameHeader, FrameKind, Lane, Phase, Request, Response,
};
use p2pfs_records::{RecordReader, TlsStream};
use p2pfs_types::files::limit_of_open_files;
use p2pfs_types::id::NodeId;

/// Interval of the progress reports for an answer that takes long.
const TELL_EACH: Duration = Duration::from_millis(50);
/// Minimum time between two extra pings that refresh the kernel's figures before a silent
/// connection is ended.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Proven connection to a node, for one lane.
pub(super) struct Connection {
    line: Arc<ConnectionState>,
    outbound: Arc<Outbound>,
    known: KnownRequests,
    task: AbortHandle,
}

impl Connection {
    /// Dials, proves membership, and starts the task of the connection. `gets_on` is called,
    /// possibly several times, when the other end answers in the handshake.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
        gets_on: impl Fn(),
    ) -> Result<Self, NetError> {
        let mut stream = connect(shared, node, addr, &gets_on).await?;
        gets_on();
        let greeted = prove(shared, &mut stream, lane).await;
        greeted.map_err(|reason| not_proven(reason, addr))?;
        if let Some(code_point) = shared.limits.code_point(lane) {
            let _unmarked = stream.get_ref().mark(code_point);
        }
        let started = Self::start(shared, stream, addr, lane);
        started.map_err(|reason| NetError::Lost { reason })
    }

    /// Starts the task of a proven connection.
    pub(super) fn start<S>(
        shared: &Arc<Shared>,
        stream: TlsStream<QueueLimitedStream<S>>,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<Self, DropReason>
    where
        S: AsyncRead + AsyncWrite + TcpGauge + Unpin + Send + 'static,
    {
        let known = KnownRequests::of(&stream);
        let peer = peer_of(&stream);
        let SplitConnection {
            reading,
            writing,
            link,
        } = SplitConnection::after_greeting(stream)?;
        let line = Arc::new(ConnectionState::new(
            shared.limits.in_flight(lane),
            shared.limits.times.ping_after,
            link.clone(),
        ));
        let outbound = Arc::new(Outbound::new(writing, link));
        let end = ConnectionEnd {
            peer,
            addr,
            shared: Arc::clone(shared),
            line: Arc::clone(&line),
            outbound: Arc::clone(&outbound),
        };
        let task = tokio::spawn(run(end, reading));
        Ok(Self {
            line,
            outbound,
            known,
            task: task.abort_handle(),
        })
    }

    /// Sends a request and waits for its answer. Dropping the future cancels the request.
    pub(super) async fn ask(
        &self,
        request: &Request,
        progress: Option<Progress>,
    ) -> Result<Response, NetError> {
        self.ask_charged(request, progress, None).await
    }

    /// Sends a request as [`Self::ask`] does. Refunds the charge if the request is not sent.
    pub(super) async fn ask_charged(
        &self,
        request: &Request,
        progress: Option<Progress>,
        charge: Option<PassedBytes>,
    ) -> Result<Response, NetError> {
        if !self.known.has(request) {
            return Err(NetError::Older);
        }
        let slot = Arc::clone(&self.line.slots).acquire_owned().await;
        let slot = slot.map_err(|_| self.line.lost())?;
        let (reply, answer) = oneshot::channel();
        // the asker may have gone
        let reply: OnAnswer = Box::new(move |outcome| drop(reply.send(outcome)));
        let sent = self.send(slot, request, reply, progress, charge);
        let _asked = CancelOnDrop(sent.map_err(|(error, _)| error)?);
        answer.await.unwrap_or_else(|_| Err(self.line.lost()))
    }

    /// Sends a request if the connection has a slot for one more open request. Does not wait for a
    /// slot. Returns the callback if the request was not sent.
    pub(super) fn ask_at_once(
        &self,
        request: &Request,
        reply: OnAnswer,
        progress: Option<Progress>,
    ) -> Result<SentRequest, OnAnswer> {
        let known = self.known.has(request);
        match Arc::clone(&self.line.slots).try_acquire_owned() {
            Ok(slot) if known => {
                let sent = self.send(slot, request, reply, progress, None);
                sent.map_err(|(_, reply)| reply)
            }
            _ => Err(reply),
        }
    }

    fn send(
        &self,
        slot: OwnedSemaphorePermit,
        request: &Request,
        reply: OnAnswer,
        progress: Option<Progress>,
        charge: Option<PassedBytes>,
    ) -> Result<SentRequest, (NetError, OnAnswer)> {
        let sent = Instant::now();
        let waiter = OpenRequest {
            reply,
            progress,
            _slot: slot,
            sent,
        };
        let id = self.line.add(waiter)?;
        match request.encode(id) {
            // the slot is held until the answer arrives, so the frame needs none
            Ok(frame) => self.outbound.send_charged(frame, charge),
            Err(error) => {
                if let Some(waiter) = self.line.take(id) {
                    return Err((NetError::Request(error), waiter.reply));
                }
            }
        }
        Ok(SentRequest {
            line: Arc::clone(&self.line),
            outbound: Arc::clone(&self.outbound),
            id,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.line.lock().closed.is_none()
    }

    /// Returns since when it is idle, or `None` if a request is open.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let table = self.line.lock();
        table.waiters.is_empty().then_some(table.last_used)
    }

    /// Ends the connection. Its requests fail at once.
    pub(super) fn close(&self) {
        self.line.fail(DropReason::ClosedHere);
        self.task.abort();
    }
}

/// Handle of a sent request, which can cancel it.
pub struct SentRequest {
    line: Arc<ConnectionState>,
    outbound: Arc<Outbound>,
    id: u32,
}

impl SentRequest {
    /// Cancels the request, and tells the peer that its answer is not needed. The callback is
    /// dropped without a call. The peer still answers, usually with a short answer. Does nothing if
    /// the request is no longer open.
    pub fn take_back(&self) {
        if self.line.forget(self.id) {
            // a ping with the id of a request cancels it; an older peer answers this ping like any
            // other
            self.line.record_ping();
            self.outbound.send(Frame::empty(self.id, FrameKind::Ping));
        }
    }
}

/// Cancels a request when dropped, unless it was answered.
struct CancelOnDrop(SentRequest);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.take_back();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
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

/// Guard that fails all requests of a connection when its task ends, aborted or not.
struct ConnectionEnd {
    peer: Option<NodeId>,
    addr: SocketAddr,
    shared: Arc<Shared>,
    line: Arc<ConnectionState>,
    outbound: Arc<Outbound>,
}

impl Drop for ConnectionEnd {
    fn drop(&mut self) {
        self.outbound.close();
        self.line.fail(DropReason::ClosedHere);
        let reason = self.line.lock().closed.unwrap_or(DropReason::ClosedHere);
        self.shared.counters.lock().drop_for(reason);
        if let Some(peer) = self.peer {
            self.shared.blame(peer, self.addr, reason);
        }
    }
}

async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    end: ConnectionEnd,
    reading: RecordReader<ReadHalf<S>>,
) {
    let (limits, line, outbound) = (&end.shared.limits, &end.line, &end.outbound);
    let frames = FrameReader::new(reading, limits, &line.pulse).with_pool(&end.shared.pieces);
    let reason = tokio::select! {
        reason = read_answers(frames, line) => reason,
        reason = outbound.write_rest(limits) => reason,
        reason = watch(line, limits, outbound) => reason,
    };
    line.fail(reason);
}

async fn read_answers(
    mut reader: FrameReader<'_, impl AsyncRead + Unpin>,
    line: &ConnectionState,
) -> DropReason {
    loop {
        let (mut untold, mut left_bytes, mut told_at) = (0, None, Instant::now());
        let tell = |header: &FrameHeader, bytes: usize| {
            untold += bytes as u64;
            let left_bytes = left_bytes.get_or_insert(header.body_bytes);
            *left_bytes -= bytes;
            // the last part is reported by the answer itself
            if *left_bytes > 0 && told_at + TELL_EACH <= Instant::now() {
                line.record_part(header.id, std::mem::take(&mut untold));
                told_at = Instant::now();
            }
        };
        let (header, body) = match reader.next_telling(Phase::Responses, tell).await {
            Ok(frame) => frame,
            Err(reason) => return reason,
        };
        let FrameHeader { id, kind, .. } = header;
        if kind == FrameKind::Pong {
            if line.take_pong() {
                continue;
            }
            return DropReason::Pings;
        }
        let Some(waiter) = line.take(id) else {
            return DropReason::Malformed;
        };
        match Response::decode(kind, body) {
            Ok(response) => (waiter.reply)(Ok(response)),
            Err(error) => {
                let reason = reason_of(&error);
                (waiter.reply)(Err(NetError::Lost { reason }));
                return reason;
            }
        }
    }
}

/// Watches the time limits until one of them ends the connection. Before it ends a silent
/// connection, sends an extra ping, unless it did so less than [`ASK_AGAIN`] ago. Writing it
/// refreshes the kernel's figures.
async fn watch(line: &ConnectionState, limits: &PeerLimits, outbound: &Outbound) -> DropReason {
    let (mut pinged, mut asked) = (None, Instant::now());
    loop {
        let now = Instant::now();
        let check = line.check(now, &mut pinged, limits);
        line.report_part();
        match check {
            ConnectionCheck::End(DropReason::Silent) if now >= asked + ASK_AGAIN => asked = now,
            ConnectionCheck::End(reason) => return reason,
            ConnectionCheck::Ping => {}
            ConnectionCheck::Again(next) => {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = line.woken.notified() => {}
                }
                continue;
            }
        }
        line.record_ping();
        outbound.send(Frame::empty(0, FrameKind::Ping));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncWriteExt, duplex};
    use tokio::time::sleep;

    use super::super::queue_limit::LastTcpInfo;
    use super::*;

    const BODY_BYTES: usize = 64 << 10;

    /// Returns the progress reports for an answer that arrives in these parts, each this long after
    /// the previous one.
    async fn told(parts: &[(Duration, usize)]) -> Vec<u64> {
        let limits = PeerLimits::default();
        let (near, mut far) = duplex(1 << 20);
        let line = ConnectionState::new(1, limits.times.ping_after, LastTcpInfo::default());
        let told: Arc<Mutex<Vec<u64>>> = Arc::default();
        let noting = Arc::clone(&told);
        let progress = Progress {
            tell: Arc::new(move |_, _, bytes| noting.lock().unwrap().push(bytes)),
            node: NodeId::new([1; 32]),
            key: 7,
        };
        let waiter = OpenRequest {
            reply: Box::new(drop),
            progress: Some(progress),
            _slot: Arc::clone(&line.slots).acquire_owned().await.unwrap(),
            sent: Instant::now(),
        };
        let id = line.add(waiter).map_err(|(error, _)| error).unwrap();
        let proof = vec![1; BODY_BYTES].into();
        let frame = Response::Data { proof }.encode(id).unwrap();
        let saying = async {
            let (mut header, mut at) = (&frame.header[..], 0);
            for (after, length) in parts {
                sleep(*after).await;
                far.write_all(std::mem::take(&mut header)).await.unwrap();
                let part = &frame.body[at..at + length];
                far.write_all(part).await.unwrap();
                at += length;
            }
            sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            reason = read_answers(FrameReader::new(near, &limits, &line.pulse), &line) => panic!("{reason}"),
            () = saying => {}
        }
        let told = told.lock().unwrap();
        told.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_of_a_slow_answer_are_reported() {
        let first = (Duration::from_millis(100), 16 << 10);
        assert_eq!(told(&[first]).await, [16 << 10]);
        let second = (Duration::from_secs(5), 8 << 10);
        assert_eq!(told(&[first, second]).await, [16 << 10, 8 << 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_arrives_at_once_reports_no_progress() {
        for pause in [0, 1000] {
            let pause = Duration::from_millis(pause);
            let told = told(&[(pause, BODY_BYTES)]).await;
            assert!(told.is_empty(), "{told:?}");
        }
    }
}
