//! Connection between two members for one lane, with many requests at a time in each direction.
//!
//! One task reads all frames: an answer goes to its request, a request goes to the node, and a ping
//! is answered at once. Each end numbers its own requests. Up to `p2pfs/3`, only the dialler asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until};

use super::Shared;
use super::counters::DropReason;
use super::framing::{FrameReader, reason_of};
use super::limits::PeerLimits;
use super::line::{ConnectionCheck, ConnectionState, OnAnswer, OpenRequest, Progress};
use super::outbound::Outbound;
use super::ping_pace::PingPace;
use super::queue_limit::QueueLimitedStream;
use super::request_room::TakenRoom;
use super::send_budget::QueueTarget;
use super::split::SplitConnection;
use super::tcp_info::TcpGauge;
use super::tls::Protocol;
use crate::net::NetError;
use crate::pace::PassedBytes;
use p2pfs_proto::wire::native::tcp::{
    Frame, FrameHeader, FrameKind, Lane, Phase, Request, Response,
};
use p2pfs_records::{RecordReader, Side, TlsStream};
use p2pfs_types::id::NodeId;

/// Interval of the progress reports for an answer that takes long.
const TELL_EACH: Duration = Duration::from_millis(50);
/// Minimum time between two extra pings that refresh the kernel's figures before a silent
/// connection is ended.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Maximum pongs that wait to be written besides requests and answers.
const PONGS: usize = 4;

/// Proven connection to a member, for one lane.
pub(super) struct Connection {
    pub(super) peer: NodeId,
    pub(super) addr: SocketAddr,
    pub(super) lane: Lane,
    /// The end that dialled is the client.
    side: Side,
    protocol: Protocol,
    line: ConnectionState,
    outbound: Outbound,
    /// Slots for requests of the peer.
    answers: Arc<Semaphore>,
    /// Whether another connection is asked in place of this one.
    is_retired: AtomicBool,
}

/// Reading direction of a connection whose stream is `S`.
pub(super) type Reading<S> = RecordReader<ReadHalf<QueueLimitedStream<S>>>;

impl Connection {
    /// Takes over a stream after its greeting. [`Self::run`] must follow.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if the greeting is followed by bytes in the same record.
    pub(super) fn new<S>(
        shared: &Shared,
        mut stream: TlsStream<QueueLimitedStream<S>>,
        peer: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<(Arc<Self>, Reading<S>), DropReason>
    where
        S: AsyncRead + AsyncWrite + TcpGauge + Unpin + Send + 'static,
    {
        let (side, protocol) = (stream.side(), Protocol::of(&stream));
        let socket = stream.get_mut();
        if side == Side::Server || protocol.is_symmetric() {
            let distances = Arc::clone(&shared.distances);
            socket.limit_to(QueueTarget::of(lane), distances, addr.ip());
        }
        if let Some(code_point) = shared.limits.code_point(lane) {
            let _unmarked = socket.mark(code_point);
        }
        let SplitConnection {
            reading,
            writing,
            link,
        } = SplitConnection::after_greeting(stream)?;
        let (limits, in_flight) = (&shared.limits, shared.limits.in_flight(lane));
        let connection = Self {
            peer,
            addr,
            lane,
            side,
            protocol,
            line: ConnectionState::new(in_flight, limits.times.ping_after, link.clone()),
            outbound: Outbound::new(writing, link),
            answers: Arc::new(Semaphore::new(in_flight)),
            is_retired: AtomicBool::new(false),
        };
        Ok((Arc::new(connection), reading))
    }

    /// Returns whether this node dialled.
    pub(super) fn is_dialled(&self) -> bool {
        self.side == Side::Client
    }

    /// Returns whether both ends may ask.
    pub(super) fn is_symmetric(&self) -> bool {
        self.protocol.is_symmetric()
    }

    /// Returns whether this end may ask now. An accepted connection that was unused for long is
    /// about to be ended by its dialler.
    pub(super) fn is_usable(&self, limits: &PeerLimits) -> bool {
        let oldest_use = || Instant::now().checked_sub(limits.times.idle_dialled * 3 / 4);
        let since = if self.is_dialled() {
            None
        } else {
            oldest_use()
        };
        self.line.is_used_since(since)
    }

    /// Returns since when it is idle, or `None` if a request of this end is open.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.line.idle_since()
    }

    /// Leaves further requests of this end to another connection. The dialler ends this one once no
    /// end uses it.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        self.line.woken.notify_one();
    }

    /// Ends the connection. The requests of this end fail at once.
    pub(super) fn close(&self) {
        self.end(DropReason::ClosedHere);
    }

    fn end(&self, reason: DropReason) {
        self.outbound.close();
        self.line.fail(reason);
    }

    /// Sends a request and waits for its answer. Dropping the future cancels the request. Refunds
    /// the charge if the request is not sent.
    pub(super) async fn ask(
        self: &Arc<Self>,
        request: &Request,
        progress: Option<Progress>,
        charge: Option<PassedBytes>,
    ) -> Result<Response, NetError> {
        if !self.protocol.knows(request) {
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
        self: &Arc<Self>,
        request: &Request,
        reply: OnAnswer,
        progress: Option<Progress>,
    ) -> Result<SentRequest, OnAnswer> {
        let known = self.protocol.knows(request);
        match Arc::clone(&self.line.slots).try_acquire_owned() {
            Ok(slot) if known => {
                let sent = self.send(slot, request, reply, progress, None);
                sent.map_err(|(_, reply)| reply)
            }
            _ => Err(reply),
        }
    }

    fn send(
        self: &Arc<Self>,
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
            connection: Arc::clone(self),
            id,
        })
    }

    /// Sends a ping, with the id of a request to cancel it.
    fn ping(&self, id: u32) {
        self.line.record_ping();
        self.outbound.send(Frame::empty(id, FrameKind::Ping));
    }

    /// Reads, writes and watches until the connection ends, and returns the reason. It also ends if
    /// the future is dropped.
    pub(super) async fn run(
        self: &Arc<Self>,
        shared: &Shared,
        reading: impl AsyncRead + Unpin,
    ) -> DropReason {
        let end = EndOnDrop(self);
        if self.is_dialled() && self.is_symmetric() {
            // a connection without any frame is a probe, on which the acceptor does not ask
            self.ping(0);
        }
        let reason = tokio::select! {
            reason = self.read_frames(shared, reading) => reason,
            reason = self.outbound.write_rest(&shared.limits) => reason,
            reason = self.watch(&shared.limits) => reason,
        };
        self.end(reason);
        drop(end);
        let reason = self.line.end_reason();
        shared.blame(self.peer, self.addr, reason);
        reason
    }

    async fn read_frames(
        self: &Arc<Self>,
        shared: &Shared,
        reading: impl AsyncRead + Unpin,
    ) -> DropReason {
        let reader = FrameReader::new(reading, &shared.limits, &self.line.pulse);
        let mut reader = reader.with_pool(&shared.pieces);
        let mut pings = PingPace::new(shared.limits.in_flight(self.lane));
        let mut is_probe = !self.is_dialled();
        loop {
            let (header, body) = match self.next_frame(&mut reader).await {
                Ok(frame) => frame,
                Err(reason) => return reason,
            };
            if std::mem::take(&mut is_probe) {
                shared.pool.adopt(shared, self);
            }
            let handled = match header.kind {
                FrameKind::Ping if pings.take() => {
                    self.answer_ping(header.id, &shared.limits);
                    Ok(())
                }
                FrameKind::Pong if self.line.take_pong() => Ok(()),
                FrameKind::Ping | FrameKind::Pong => Err(DropReason::Pings),
                kind if kind.is_response() => self.take_answer(header, body),
                _ => {
                    pings.add_request();
                    self.take_request(shared, header, body).await
                }
            };
            if let Err(reason) = handled {
                return reason;
            }
        }
    }

    /// Reads the next frame, and reports the progress of an answer that takes long.
    async fn next_frame(
        &self,
        reader: &mut FrameReader<'_, impl AsyncRead + Unpin>,
    ) -> Result<(FrameHeader, Bytes), DropReason> {
        let (mut untold, mut left_bytes, mut told_at) = (0, None, Instant::now());
        let tell = |header: &FrameHeader, bytes: usize| {
            untold += bytes as u64;
            let left_bytes = left_bytes.get_or_insert(header.body_bytes);
            *left_bytes -= bytes;
            // the last part is reported by the answer itself
            if *left_bytes > 0 && told_at + TELL_EACH <= Instant::now() {
                let untold = std::mem::take(&mut untold);
                if header.kind.is_response() {
                    self.line.record_part(header.id, untold);
                }
                told_at = Instant::now();
            }
        };
        let phase = match (self.is_symmetric(), self.side) {
            (true, _) => Phase::Both,
            (false, Side::Client) => Phase::Responses,
            (false, Side::Server) => Phase::Requests,
        };
        reader.next_telling(phase, tell).await
    }

    /// Hands an answer to its request.
    fn take_answer(&self, header: FrameHeader, body: Bytes) -> Result<(), DropReason> {
        let waiter = self.line.take(header.id).ok_or(DropReason::Malformed)?;
        let answer = Response::decode(header.kind, body).map_err(|error| reason_of(&error));
        let failed = answer.as_ref().err().copied();
        (waiter.reply)(answer.map_err(|reason| NetError::Lost { reason }));
        failed.map_or(Ok(()), Err)
    }

    /// Cancels the answer with this id, or answers the ping.
    fn answer_ping(&self, id: u32, limits: &PeerLimits) {
        if id != 0 && self.outbound.take_back(id) {
            return;
        }
        // a peer that pings faster than it reads gets fewer pongs
        if self.outbound.waiting() < 2 * limits.in_flight(self.lane) + PONGS {
            self.outbound.send(Frame::empty(id, FrameKind::Pong));
        }
    }

    /// Hands a request to the node, or answers it `Busy` if the node or the memory has no room.
    async fn take_request(
        self: &Arc<Self>,
        shared: &Shared,
        header: FrameHeader,
        body: Bytes,
    ) -> Result<(), DropReason> {
        let room = shared.request_room.take(self.peer, body.len());
        let request = Request::decode(header.kind, body).map_err(|error| reason_of(&error))?;
        // A request that has no room is dropped before it waits for its place.
        let admitted = room.map(|room| (request, room));
        // Reading pauses here when too many requests are in flight. The peer's further frames then
        // wait in the connection. A peer that keeps to the limit never waits.
        let slot = Arc::clone(&self.answers).acquire_owned().await;
        let slot = slot.map_err(|_| DropReason::ClosedHere)?;
        let Some((request, room)) = admitted else {
            shared.counters.lock().overloaded += 1;
            let busy = Frame::empty(header.id, FrameKind::Busy);
            self.outbound.answer(header.id, busy, Some(slot), None);
            return Ok(());
        };
        let incoming = Incoming {
            from: self.peer,
            addr: self.addr,
            lane: self.lane,
            request,
            has_replacements: self.protocol.has_replacements(),
            reply: ReplyTo {
                id: header.id,
                connection: Arc::clone(self),
                slot: Some(slot),
                _room: room,
            },
        };
        let beside = shared.beside.load();
        let left = match beside.as_ref() {
            Some(answer) => answer(incoming),
            None => Some(incoming),
        };
        let Some(incoming) = left else { return Ok(()) };
        match shared.incoming.try_send(incoming) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_answered_busy)) => {
                shared.counters.lock().overloaded += 1;
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(DropReason::ClosedHere),
        }
    }

    /// Watches the time limits until one of them ends the connection. Before it ends a silent
    /// connection, sends an extra ping, unless it did so less than [`ASK_AGAIN`] ago. Writing it
    /// refreshes the kernel's figures.
    async fn watch(&self, limits: &PeerLimits) -> DropReason {
        let (mut pinged, mut asked) = (None, Instant::now());
        loop {
            let now = Instant::now();
            if self.answers.available_permits() < limits.in_flight(self.lane) {
                self.line.record_use();
            }
            let check = self
                .line
                .check(now, &mut pinged, limits, self.idle_time(limits));
            self.line.report_part();
            match check {
                ConnectionCheck::End(DropReason::Silent) if now >= asked + ASK_AGAIN => asked = now,
                ConnectionCheck::End(reason) => return reason,
                ConnectionCheck::Ping => {}
                ConnectionCheck::Again(next) => {
                    tokio::select! {
                        () = sleep_until(next) => {}
                        () = self.line.woken.notified() => {}
                    }
                    continue;
                }
            }
            self.ping(0);
        }
    }

    /// Returns how long the connection may be unused. The dialler ends it first. It keeps a retired
    /// one until the peer knows the other one or has given it up.
    fn idle_time(&self, limits: &PeerLimits) -> Duration {
        let times = &limits.times;
        match self.side {
            Side::Server => times.idle_accepted,
            Side::Client if self.is_retired.load(Ordering::Relaxed) => times.handshake,
            Side::Client => times.idle_dialled,
        }
    }
}

/// Guard that ends a connection when its task ends in any way.
struct EndOnDrop<'a>(&'a Connection);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Handle of a sent request, which can cancel it.
pub struct SentRequest {
    connection: Arc<Connection>,
    id: u32,
}

impl SentRequest {
    /// Cancels the request, and tells the peer that its answer is not needed. The callback is
    /// dropped without a call. The peer still answers, usually with a short answer. Does nothing if
    /// the request is no longer open.
    pub fn take_back(&self) {
        if self.connection.line.forget(self.id) {
            // a ping with the id of a request cancels it; an older peer answers this ping like any
            // other
            self.connection.ping(self.id);
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
    connection: Arc<Connection>,
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
        !self.connection.outbound.is_closed()
    }

    fn answer(&mut self, response: &Response, charge: Option<PassedBytes>) {
        let Some(slot) = self.slot.take() else { return };
        // An answer of ours that exceeds a limit is a bug here; the peer must not wait for it.
        let frame = response
            .encode(self.id)
            .unwrap_or_else(|_| Frame::empty(self.id, FrameKind::Busy));
        (self.connection.outbound).answer(self.id, frame, Some(slot), charge);
    }

    /// Returns a receiver that resolves when the answer is cancelled. Must be called at most once.
    pub fn unwanted(&self) -> oneshot::Receiver<()> {
        self.connection.outbound.begin(self.id)
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.answer(&Response::Busy, None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex, sink};
    use tokio::time::sleep;

    use super::super::queue_limit::LastTcpInfo;
    use super::*;

    const BODY_BYTES: usize = 64 << 10;

    /// Returns a connection that sends nothing.
    fn asking(limits: &PeerLimits) -> Connection {
        let link = LastTcpInfo::default();
        Connection {
            peer: NodeId::new([1; 32]),
            addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            lane: Lane::Bulk,
            side: Side::Client,
            protocol: Protocol::NEWEST,
            line: ConnectionState::new(1, limits.times.ping_after, link.clone()),
            outbound: Outbound::new(sink(), link),
            answers: Arc::new(Semaphore::new(1)),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Reads answers until the connection ends.
    async fn read_answers(connection: &Connection, near: DuplexStream, limits: &PeerLimits) {
        let mut reader = FrameReader::new(near, limits, &connection.line.pulse);
        loop {
            let (header, body) = connection.next_frame(&mut reader).await.unwrap();
            connection.take_answer(header, body).unwrap();
        }
    }

    /// Returns the progress reports for an answer that arrives in these parts, each this long after
    /// the previous one.
    async fn told(parts: &[(Duration, usize)]) -> Vec<u64> {
        let limits = PeerLimits::default();
        let (near, mut far) = duplex(1 << 20);
        let connection = asking(&limits);
        let told: Arc<Mutex<Vec<u64>>> = Arc::default();
        let noting = Arc::clone(&told);
        let progress = Progress {
            tell: Arc::new(move |_, _, bytes| noting.lock().unwrap().push(bytes)),
            node: connection.peer,
            key: 7,
        };
        let slots = Arc::clone(&connection.line.slots);
        let waiter = OpenRequest {
            reply: Box::new(drop),
            progress: Some(progress),
            _slot: slots.acquire_owned().await.unwrap(),
            sent: Instant::now(),
        };
        let added = connection.line.add(waiter);
        let id = added.map_err(|(error, _)| error).unwrap();
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
            () = read_answers(&connection, near, &limits) => unreachable!(),
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
