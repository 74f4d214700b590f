//! The dialling side: one connection to one node, many requests on it at a time.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadHalf, split};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

use super::Shared;
use super::counters::DropReason;
use super::framing::{FrameReader, Pulse, reason_of};
use super::greet::{Ends, prove};
use super::limits::{BULK_READ_BYTES, PeerLimits, TLS_WRITE_BYTES, URGENT_READ_BYTES};
use super::outbound::Outbound;
use super::tls::{nameless, peer_of, write_ahead};
use crate::id::NodeId;
use crate::net::NetError;
use crate::wire::native::tcp::{Frame, FrameHeader, Kind, Lane, Phase, Request, Response};

/// What to do with an answer. Called once, on the task of the connection or where it is ended, so
/// it must not wait for anything.
pub type OnAnswer = Box<dyn FnOnce(Result<Response, NetError>) + Send>;

/// How often is told that bytes of an answer came which takes its time.
const TELL_EACH: Duration = Duration::from_millis(50);

/// Whom to tell that bytes of an answer came before it is whole. Told of slow answers only, each
/// [`TELL_EACH`] or so, and also of one that nobody waits for any more.
#[derive(Clone)]
pub struct Progress {
    /// Given the node, the key and how many bytes came since the last time. Called on the task of
    /// the connection, so it must not wait for anything.
    pub tell: Arc<dyn Fn(NodeId, u64, u64) + Send + Sync>,
    /// Whom is asked.
    pub node: NodeId,
    /// What the asker calls the request.
    pub key: u64,
}

/// A request on its way.
struct Waiter {
    reply: OnAnswer,
    progress: Option<Progress>,
    /// Held until the answer comes, also where nobody waits for it any more: the peer is busy
    /// with it all the same.
    _slot: OwnedSemaphorePermit,
    sent: Instant,
}

struct Table {
    waiters: HashMap<u32, Waiter>,
    next_id: u32,
    /// When the connection's task looks at the clock again.
    next_look: Instant,
    /// When the first of the waiters came to an idle connection.
    busy_since: Instant,
    last_used: Instant,
    /// When bytes of an answer last came.
    brought: Instant,
    closed: Option<DropReason>,
}

/// What the users of a connection and its task share.
struct Line {
    table: Mutex<Table>,
    slots: Arc<Semaphore>,
    /// Rung when an idle connection gets a request that its task would look at too late.
    woken: Notify,
    /// How soon a request is to be looked at.
    look_after: Duration,
    pulse: Pulse,
}

/// A proven connection to a node, for one lane.
pub(super) struct Connection {
    line: Arc<Line>,
    outbound: Arc<Outbound>,
    task: AbortHandle,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Dials, proves, and starts the task that serves the connection.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<Self, NetError> {
        let mut stream = connect(shared, node, addr, read_bytes(lane)).await?;
        let ends = Ends {
            client: shared.me,
            server: node,
        };
        let greeting = prove(&mut stream, ends, &shared.keyring, lane, &shared.limits);
        let greeted = timeout(shared.limits.handshake, greeting).await;
        greeted
            .unwrap_or(Err(DropReason::SlowGreeting))
            .map_err(|reason| match reason {
                DropReason::Stranger | DropReason::PeerClosed => {
                    NetError::NotMember { address: addr }
                }
                DropReason::TlsFailed => NetError::NotMember { address: addr },
                reason => NetError::Lost { reason },
            })?;
        write_ahead(&mut stream, TLS_WRITE_BYTES);
        Ok(Self::start(shared, stream, lane))
    }

    /// Starts the task of a connection that is proven.
    pub(super) fn start<S>(shared: &Arc<Shared>, stream: TlsStream<S>, lane: Lane) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let line = Arc::new(Line::new(
            shared.limits.in_flight(lane),
            shared.limits.ping_after,
        ));
        let (reading, writing) = split(stream);
        let outbound = Arc::new(Outbound::new(writing));
        let end = End {
            shared: Arc::clone(shared),
            line: Arc::clone(&line),
            outbound: Arc::clone(&outbound),
        };
        let task = tokio::spawn(run(end, reading));
        Self {
            line,
            outbound,
            task: task.abort_handle(),
        }
    }

    /// Sends a request and waits for its answer. Dropping the future takes the request back.
    pub(super) async fn ask(
        &self,
        request: &Request,
        progress: Option<Progress>,
    ) -> Result<Response, NetError> {
        let slot = Arc::clone(&self.line.slots).acquire_owned().await;
        let slot = slot.map_err(|_| self.line.lost())?;
        let (reply, answer) = oneshot::channel();
        // whoever gave up waiting needs no answer
        let reply: OnAnswer = Box::new(move |outcome| drop(reply.send(outcome)));
        let sent = self.send(slot, request, reply, progress);
        let asked = TakenBackUnlessAnswered(Some(sent.map_err(|(error, _)| error)?));
        let outcome = answer.await.unwrap_or_else(|_| Err(self.line.lost()));
        asked.answered();
        outcome
    }

    /// Sends a request without waiting for a slot; gives the reply back where it was not sent.
    pub(super) fn ask_at_once(
        &self,
        request: &Request,
        reply: OnAnswer,
        progress: Option<Progress>,
    ) -> Result<Asked, OnAnswer> {
        match Arc::clone(&self.line.slots).try_acquire_owned() {
            Ok(slot) => {
                let sent = self.send(slot, request, reply, progress);
                sent.map_err(|(_, reply)| reply)
            }
            Err(_) => Err(reply),
        }
    }

    fn send(
        &self,
        slot: OwnedSemaphorePermit,
        request: &Request,
        reply: OnAnswer,
        progress: Option<Progress>,
    ) -> Result<Asked, (NetError, OnAnswer)> {
        let sent = Instant::now();
        let waiter = Waiter {
            reply,
            progress,
            _slot: slot,
            sent,
        };
        let id = self.line.add(waiter)?;
        match request.encode(id) {
            // the answer's slot is held until it comes, so the frame needs none
            Ok(frame) => self.outbound.send(frame, None),
            Err(error) => {
                if let Some(waiter) = self.line.take(id) {
                    return Err((NetError::Request(error), waiter.reply));
                }
            }
        }
        Ok(Asked {
            line: Arc::clone(&self.line),
            outbound: Arc::clone(&self.outbound),
            id,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.line.lock().closed.is_none()
    }

    /// Since when nobody uses it; none while someone does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let table = self.line.lock();
        table.waiters.is_empty().then_some(table.last_used)
    }

    /// Ends it; whoever waits on it is told at once.
    pub(super) fn close(&self) {
        self.line.fail(DropReason::ClosedHere);
        self.task.abort();
    }
}

/// A request that was sent, by which it can be taken back.
pub struct Asked {
    line: Arc<Line>,
    outbound: Arc<Outbound>,
    id: u32,
}

impl Asked {
    /// Tells the peer that its answer is of no use any more. Whoever waits for it waits in vain
    /// from now on. Some answer still comes: a short one, or the rest of one that had begun.
    pub fn take_back(self) {
        if self.line.forget(self.id) {
            // a ping that names a request: one who knows no more than pings answers it as such
            self.outbound.send(Frame::empty(self.id, Kind::Ping), None);
        }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("id", &self.id).finish()
    }
}

struct TakenBackUnlessAnswered(Option<Asked>);

impl TakenBackUnlessAnswered {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for TakenBackUnlessAnswered {
    fn drop(&mut self) {
        if let Some(asked) = self.0.take() {
            asked.take_back();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read_bytes(lane: Lane) -> usize {
    match lane {
        Lane::Urgent => URGENT_READ_BYTES,
        Lane::Bulk => BULK_READ_BYTES,
    }
}

/// A TLS connection to `node` and no other; nothing is proven about membership yet.
pub(super) async fn connect(
    shared: &Shared,
    node: NodeId,
    addr: SocketAddr,
    read_buffer_bytes: usize,
) -> Result<TlsStream<BufReader<TcpStream>>, NetError> {
    let connector = shared.tls.connector(node)?;
    let stream = connect_with(shared, connector, addr, read_buffer_bytes).await?;
    match peer_of(&stream) == Some(node) {
        true => Ok(stream),
        false => Err(speaks_otherwise(addr)),
    }
}

/// A TLS connection to whoever is there, and who it is.
pub(super) async fn connect_any(
    shared: &Shared,
    addr: SocketAddr,
) -> Result<(TlsStream<BufReader<TcpStream>>, NodeId), NetError> {
    let connector = shared.tls.connector_to_any()?;
    let stream = connect_with(shared, connector, addr, URGENT_READ_BYTES).await?;
    let node = peer_of(&stream).ok_or_else(|| speaks_otherwise(addr))?;
    Ok((stream, node))
}

fn speaks_otherwise(address: SocketAddr) -> NetError {
    let why = "it does not speak p2pfs/1".to_owned();
    NetError::WrongNode { address, why }
}

async fn connect_with(
    shared: &Shared,
    connector: TlsConnector,
    addr: SocketAddr,
    read_buffer_bytes: usize,
) -> Result<TlsStream<BufReader<TcpStream>>, NetError> {
    let unreachable = |kind| NetError::Unreachable {
        address: addr,
        kind,
    };
    let stream = timeout(shared.limits.dial, TcpStream::connect(addr)).await;
    let stream = stream.map_err(|_| unreachable(std::io::ErrorKind::TimedOut))?;
    let stream = stream.map_err(|error| unreachable(error.kind()))?;
    let _ = stream.set_nodelay(true);
    let stream = BufReader::with_capacity(read_buffer_bytes, stream);
    let handshake = connector.connect(nameless(), stream);
    let stream = timeout(shared.limits.handshake, handshake).await;
    let stream = stream.map_err(|_| unreachable(std::io::ErrorKind::TimedOut))?;
    let wrong = |why: String| NetError::WrongNode { address: addr, why };
    // rustls reports what the other end did wrong as invalid data; the rest is the network.
    let stream = stream.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => wrong(error.to_string()),
        kind => unreachable(kind),
    })?;
    Ok(TlsStream::from(stream))
}

impl Line {
    fn new(in_flight: usize, look_after: Duration) -> Self {
        let now = Instant::now();
        let table = Table {
            waiters: HashMap::new(),
            next_id: 1,
            next_look: now,
            busy_since: now,
            last_used: now,
            brought: now,
            closed: None,
        };
        let slots = Arc::new(Semaphore::new(in_flight));
        Self {
            table: Mutex::new(table),
            slots,
            woken: Notify::new(),
            look_after,
            pulse: Pulse::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The waiter's id; who is not taken is given back with the reason.
    fn add(&self, waiter: Waiter) -> Result<u32, (NetError, OnAnswer)> {
        let mut table = self.lock();
        if let Some(reason) = table.closed {
            return Err((NetError::Lost { reason }, waiter.reply));
        }
        let sent = waiter.sent;
        let was_idle = table.waiters.is_empty();
        if was_idle {
            table.busy_since = sent;
        }
        // Ids come round after four thousand million; at most a few dozen are in flight.
        let id = table.next_id;
        table.next_id = id.wrapping_add(1);
        table.waiters.insert(id, waiter);
        if was_idle && sent + self.look_after < table.next_look {
            // one ring for all until then
            table.next_look = sent;
            self.woken.notify_one();
        }
        Ok(id)
    }

    fn take(&self, id: u32) -> Option<Waiter> {
        let mut table = self.lock();
        let now = Instant::now();
        (table.last_used, table.brought) = (now, now);
        table.waiters.remove(&id)
    }

    /// Nobody waits for this answer any more; false where it came already.
    fn forget(&self, id: u32) -> bool {
        let mut table = self.lock();
        let waiter = table.waiters.get_mut(&id);
        let unwanted = waiter.map(|waiter| std::mem::replace(&mut waiter.reply, Box::new(|_| ())));
        drop(table);
        unwanted.is_some()
    }

    /// Bytes of an answer came, and there are more to come.
    fn bring(&self, id: u32, bytes: u64) {
        let mut table = self.lock();
        table.brought = Instant::now();
        let progress = table.waiters.get(&id).and_then(|it| it.progress.clone());
        drop(table);
        if let Some(Progress { tell, node, key }) = progress {
            tell(node, key, bytes);
        }
    }

    /// The first reason stays; every waiter learns it at once.
    fn fail(&self, mut reason: DropReason) {
        let waiters = {
            let mut table = self.lock();
            reason = *table.closed.get_or_insert(reason);
            std::mem::take(&mut table.waiters)
        };
        self.slots.close();
        for waiter in waiters.into_values() {
            (waiter.reply)(Err(NetError::Lost { reason }));
        }
    }

    fn lost(&self) -> NetError {
        NetError::Lost {
            reason: self.lock().closed.unwrap_or(DropReason::ClosedHere),
        }
    }

    /// What the clock says about the connection, and when to look again.
    fn check(&self, now: Instant, pinged: &mut Option<Silence>, limits: &PeerLimits) -> Check {
        let mut table = self.lock();
        let check = self.look(&table, now, pinged, limits);
        if let Check::Again(next) = check {
            table.next_look = next;
        }
        check
    }

    fn look(
        &self,
        table: &Table,
        now: Instant,
        pinged: &mut Option<Silence>,
        limits: &PeerLimits,
    ) -> Check {
        let Some(oldest) = table.waiters.values().map(|waiter| waiter.sent).min() else {
            let end = table.last_used + limits.idle_dialled;
            return if now >= end {
                Check::End(DropReason::Idle)
            } else {
                Check::Again(end)
            };
        };
        let silence = Silence {
            beats: self.pulse.beats(),
            busy_since: table.busy_since,
        };
        let quiet_since = self.pulse.last().max(table.busy_since);
        let silent = quiet_since + limits.silent_after;
        let unanswered = limits.unanswered(oldest, table.brought);
        let ping = quiet_since + limits.ping_after;
        if now >= silent {
            Check::End(DropReason::Silent)
        } else if now >= unanswered {
            Check::End(DropReason::Unanswered)
        } else if *pinged == Some(silence) {
            Check::Again(silent.min(unanswered))
        } else if now >= ping {
            *pinged = Some(silence);
            Check::Ping
        } else {
            Check::Again(ping.min(unanswered))
        }
    }
}

/// Which silence it is: the next one begins when bytes come, or with a request after none. Counted
/// and not timed, since an answer may come within the same tick of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silence {
    beats: u64,
    busy_since: Instant,
}

/// What to do about a connection's silence.
#[derive(Debug, PartialEq, Eq)]
enum Check {
    Again(Instant),
    Ping,
    End(DropReason),
}

/// However the task ends, aborted or not, nobody waits on its connection any more.
struct End {
    shared: Arc<Shared>,
    line: Arc<Line>,
    outbound: Arc<Outbound>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.outbound.close();
        self.line.fail(DropReason::ClosedHere);
        let reason = self.line.lock().closed.unwrap_or(DropReason::ClosedHere);
        self.shared.counters.drop_for(reason);
    }
}

async fn run<S: AsyncRead + AsyncWrite + Unpin>(end: End, reading: ReadHalf<TlsStream<S>>) {
    let (limits, line, outbound) = (&end.shared.limits, &end.line, &end.outbound);
    let reason = tokio::select! {
        reason = read_answers(reading, line, limits) => reason,
        reason = outbound.write_rest(limits) => reason,
        reason = watch(line, limits, outbound) => reason,
    };
    line.fail(reason);
}

async fn read_answers<S: AsyncRead + AsyncWrite + Unpin>(
    stream: ReadHalf<S>,
    line: &Line,
    limits: &PeerLimits,
) -> DropReason {
    let mut reader = FrameReader::new(stream, limits, &line.pulse);
    loop {
        let (mut untold, mut told_at) = (0, None);
        let tell = |header: &FrameHeader, bytes: usize| {
            untold += bytes as u64;
            if *told_at.get_or_insert_with(Instant::now) + TELL_EACH <= Instant::now() {
                line.bring(header.id, std::mem::take(&mut untold));
                told_at = Some(Instant::now());
            }
        };
        let (header, body) = match reader.next_telling(Phase::Responses, tell).await {
            Ok(frame) => frame,
            Err(reason) => return reason,
        };
        let FrameHeader { id, kind, .. } = header;
        if kind == Kind::Pong {
            continue;
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

async fn watch(line: &Line, limits: &PeerLimits, outbound: &Outbound) -> DropReason {
    let mut pinged = None;
    loop {
        match line.check(Instant::now(), &mut pinged, limits) {
            Check::End(reason) => return reason,
            Check::Ping => outbound.send(Frame::empty(0, Kind::Ping), None),
            Check::Again(next) => tokio::select! {
                () = sleep_until(next) => {}
                () = line.woken.notified() => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(in_flight: usize) -> Line {
        Line::new(in_flight, PeerLimits::default().ping_after)
    }

    fn waiter(line: &Line) -> (Waiter, oneshot::Receiver<Result<Response, NetError>>) {
        let slot = Arc::clone(&line.slots).try_acquire_owned().unwrap();
        let (reply, answer) = oneshot::channel();
        (
            Waiter {
                reply: Box::new(move |outcome| drop(reply.send(outcome))),
                progress: None,
                _slot: slot,
                sent: Instant::now(),
            },
            answer,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lives_until_its_time_and_is_never_pinged() {
        let (line, limits) = (line(4), PeerLimits::default());
        let start = Instant::now();
        let end = start + limits.idle_dialled;
        assert_eq!(line.check(start, &mut None, &limits), Check::Again(end));
        assert_eq!(
            line.check(end, &mut None, &limits),
            Check::End(DropReason::Idle)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_with_a_request_out_is_asked_about_after_1_s_and_dead_after_2_s() {
        let (line, limits) = (line(4), PeerLimits::default());
        tokio::time::advance(Duration::from_secs(30)).await;
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let (start, mut pinged) = (Instant::now(), None);
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(
            line.check(start, &mut pinged, &limits),
            Check::Again(after(1000))
        );
        assert_eq!(line.check(after(1000), &mut pinged, &limits), Check::Ping);
        assert_eq!(
            line.check(after(1000), &mut pinged, &limits),
            Check::Again(after(2000))
        );
        let dead = Check::End(DropReason::Silent);
        assert_eq!(line.check(after(2000), &mut pinged, &limits), dead);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_others_overtake_for_too_long_ends_the_connection() {
        let line = line(4);
        let limits = PeerLimits {
            silent_after: Duration::from_secs(99),
            ..PeerLimits::default()
        };
        let (waiting, _answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let later = Instant::now() + limits.unanswered_after;
        let end = Check::End(DropReason::Unanswered);
        assert_eq!(line.check(later, &mut None, &limits), end);
    }

    #[tokio::test]
    async fn a_failed_connection_tells_its_waiters_and_takes_no_more() {
        let line = line(4);
        let (waiting, answer) = waiter(&line);
        line.add(waiting).ok().unwrap();
        let (late, _) = waiter(&line);
        line.fail(DropReason::Silent);
        line.fail(DropReason::Broken);
        let lost = NetError::Lost {
            reason: DropReason::Silent,
        };
        assert_eq!(answer.await.unwrap().unwrap_err(), lost);
        assert_eq!(line.lost(), lost);
        assert_eq!(line.add(late).err().unwrap().0, lost);
        assert!(lost.is_retryable());
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_in_turn_wake_the_watch_once_a_look() {
        let (line, limits) = (line(4), PeerLimits::default());
        let idle = line.check(Instant::now(), &mut None, &limits);
        assert!(matches!(idle, Check::Again(_)));
        let mut rung = 0;
        for _ in 0..50 {
            let (waiting, _answer) = waiter(&line);
            let id = line.add(waiting).ok().unwrap();
            if std::pin::pin!(line.woken.notified()).enable() {
                rung += 1;
                line.check(Instant::now(), &mut None, &limits);
            }
            line.take(id);
        }
        assert_eq!(rung, 1);
    }
}
