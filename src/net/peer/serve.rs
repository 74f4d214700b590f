//! The accepting side: from a TCP connection to requests for the node and answers to the peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::TlsStream;

use super::Shared;
use super::counters::{Counters, DropReason};
use super::framing::{FrameReader, Pulse, flush, reason_of, write_frame};
use super::greet::{Admission, Door, Ends, admit};
use super::limits::{SERVE_READ_BYTES, TLS_WRITE_BYTES};
use super::register::Place;
use super::tls::{peer_of, write_ahead};
use crate::id::NodeId;
use crate::net::port::canonical;
use crate::wire::native::tcp::{Frame, Kind, Lane, Phase, Request, Response};

/// The first byte of a TLS connection (a handshake record, RFC 8446, section 5.1).
const TLS_FIRST_BYTE: u8 = 0x16;
/// The wait after the system could not give us a connection, for instance for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Pongs that wait to be written; a peer that pings faster gets fewer pongs.
const PONGS: usize = 4;

/// A request of a proven peer, for the node to answer.
#[derive(Debug)]
pub struct Incoming {
    /// Who asks.
    pub from: NodeId,
    /// From where.
    pub addr: SocketAddr,
    /// How urgently.
    pub lane: Lane,
    /// What.
    pub request: Request,
    /// Where the answer goes.
    pub reply: ReplyTo,
}

/// The place of one answer. Dropping it answers `Busy`, so that no request hangs on a bug of ours.
#[derive(Debug)]
pub struct ReplyTo {
    id: u32,
    answers: mpsc::Sender<Answer>,
    slot: Option<OwnedSemaphorePermit>,
}

/// A frame to write; its slot is free once it is written.
#[derive(Debug)]
struct Answer {
    frame: Frame,
    _slot: OwnedSemaphorePermit,
}

impl ReplyTo {
    /// Sends the answer, never blocking. Where the connection is gone, so is the answer.
    pub fn send(mut self, response: Response) {
        self.answer(&response);
    }

    /// Whether the asker is still connected, so that work for one who is gone can be left.
    pub fn is_wanted(&self) -> bool {
        !self.answers.is_closed()
    }

    fn answer(&mut self, response: &Response) {
        let Some(slot) = self.slot.take() else { return };
        // An answer of ours that is over a limit is a bug here; the peer must not wait for it.
        let frame = response
            .encode(self.id)
            .unwrap_or_else(|_| Frame::empty(self.id, Kind::Busy));
        // The channel has a place for every slot, so it is only ever closed, never full.
        let _ = self.answers.try_send(Answer { frame, _slot: slot });
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.answer(&Response::Busy);
    }
}

/// Accepts connections until it is aborted.
pub(super) async fn accept_all(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Ok((stream, addr)) = listener.accept().await else {
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        Counters::add(&shared.counters.accepted);
        let addr = canonical(addr);
        let Some(place) = shared.register.enter(addr.ip(), &shared.limits) else {
            shared.counters.drop_for(DropReason::TooMany);
            continue;
        };
        let number = place.number();
        let task = tokio::spawn(serve_socket(Arc::clone(&shared), stream, addr, place));
        shared.register.started(number, task.abort_handle());
    }
}

async fn serve_socket(shared: Arc<Shared>, stream: TcpStream, addr: SocketAddr, place: Place) {
    let mut first = [0];
    let reason = match timeout(shared.limits.handshake, stream.peek(&mut first)).await {
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
    shared.counters.drop_for(reason);
}

fn hand_over(shared: &Shared, stream: TcpStream, addr: SocketAddr) {
    let older_plane = shared.older_plane.load_full();
    let taken = older_plane.is_some_and(|plane| plane.try_send((stream, addr)).is_ok());
    if taken {
        Counters::add(&shared.counters.older_plane);
    } else {
        shared.counters.drop_for(DropReason::NotTls);
    }
}

/// Serves one connection to its end; gives the reason of the end.
pub(super) async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: S,
    addr: SocketAddr,
    place: Place,
) -> DropReason {
    let greeted = timeout(shared.limits.handshake, greet(shared, stream)).await;
    let (stream, from, admission) = match greeted.unwrap_or(Err(DropReason::SlowGreeting)) {
        Ok(greeted) => greeted,
        Err(reason) => return reason,
    };
    let Admission::Member(lane) = admission else {
        return DropReason::Enrolled;
    };
    match place.prove(from, &shared.limits) {
        Ok(true) => shared.counters.drop_for(DropReason::Replaced),
        Ok(false) => {}
        Err(reason) => return reason,
    }
    let session = Session {
        shared,
        from,
        addr,
        lane,
    };
    session.run(stream).await
}

type Greeted<S> = (TlsStream<BufReader<S>>, NodeId, Admission);

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: S,
) -> Result<Greeted<S>, DropReason> {
    let stream = BufReader::with_capacity(SERVE_READ_BYTES, stream);
    let stream = shared.tls.acceptor().accept(stream).await;
    let mut stream = TlsStream::from(stream.map_err(|_| DropReason::TlsFailed)?);
    let client = peer_of(&stream).ok_or(DropReason::TlsFailed)?;
    if client == shared.me {
        return Err(DropReason::OwnIdentity);
    }
    if !shared.allow.load().allows(&client) {
        return Err(DropReason::NotAllowed);
    }
    let ends = Ends {
        client,
        server: shared.me,
    };
    let invites = shared.invites.load_full();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let door = Door {
        keyring: &shared.keyring,
        invites,
        now_unix_s: now.as_secs(),
    };
    let admission = admit(&mut stream, ends, door, &shared.limits).await?;
    write_ahead(&mut stream, TLS_WRITE_BYTES);
    Ok((stream, client, admission))
}

/// A proven connection that asks.
struct Session<'a> {
    shared: &'a Shared,
    from: NodeId,
    addr: SocketAddr,
    lane: Lane,
}

impl Session<'_> {
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: TlsStream<S>) -> DropReason {
        let in_flight = self.shared.limits.in_flight(self.lane);
        let (answers, to_write) = mpsc::channel(in_flight);
        let (pongs, to_pong) = mpsc::channel(PONGS);
        let slots = Arc::new(Semaphore::new(in_flight));
        let (reading, writing) = split(stream);
        // One task for both: they never run at the same time, so the halves never contend.
        tokio::select! {
            reason = self.read_requests(reading, &slots, answers, pongs) => reason,
            reason = self.write_answers(writing, to_write, to_pong) => reason,
        }
    }

    async fn read_requests<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: ReadHalf<S>,
        slots: &Arc<Semaphore>,
        answers: mpsc::Sender<Answer>,
        pongs: mpsc::Sender<u32>,
    ) -> DropReason {
        let (limits, pulse) = (&self.shared.limits, Pulse::new());
        let mut reader = FrameReader::new(stream, limits, &pulse);
        let all_slots = limits.in_flight(self.lane);
        loop {
            match timeout(limits.idle_accepted, reader.wait()).await {
                Err(_) if slots.available_permits() == all_slots => return DropReason::Idle,
                Err(_) => continue,
                Ok(Err(reason)) => return reason,
                Ok(Ok(())) => {}
            }
            let (header, body) = match reader.next(Phase::Requests).await {
                Ok(frame) => frame,
                Err(reason) => return reason,
            };
            if header.kind == Kind::Ping {
                let _ = pongs.try_send(header.id);
                continue;
            }
            let request = match Request::decode(header.kind, body) {
                Ok(request) => request,
                Err(error) => return reason_of(&error),
            };
            // Reading pauses here when too many are in flight: the peer feels it as a full pipe.
            let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
                return DropReason::ClosedHere;
            };
            let reply = ReplyTo {
                id: header.id,
                answers: answers.clone(),
                slot: Some(slot),
            };
            if !self.hand_in(request, reply) {
                return DropReason::ClosedHere;
            }
        }
    }

    /// Gives the request to the node; false where the node is gone.
    fn hand_in(&self, request: Request, reply: ReplyTo) -> bool {
        let Self {
            from, addr, lane, ..
        } = *self;
        match self.shared.incoming.try_send(Incoming {
            from,
            addr,
            lane,
            request,
            reply,
        }) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_answered_busy)) => {
                Counters::add(&self.shared.counters.overloaded);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    async fn write_answers<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: WriteHalf<S>,
        mut answers: mpsc::Receiver<Answer>,
        mut pongs: mpsc::Receiver<u32>,
    ) -> DropReason {
        let limits = &self.shared.limits;
        loop {
            let written = tokio::select! {
                Some(id) = pongs.recv() => {
                    write_frame(&mut stream, &Frame::empty(id, Kind::Pong), limits).await
                }
                Some(answer) = answers.recv() => {
                    write_frame(&mut stream, &answer.frame, limits).await
                }
                else => return DropReason::ClosedHere,
            };
            let mut written = written;
            if written.is_ok() && answers.is_empty() && pongs.is_empty() {
                written = flush(&mut stream, limits).await;
            }
            if let Err(reason) = written {
                return reason;
            }
        }
    }
}
