//! Outgoing frames of a connection. The sender writes a frame of up to 144 KiB itself if nothing
//! else waits, so that the frame costs no change of thread. Other frames, and what the socket does
//! not accept at once, are left to the connection's task, which gives a slow peer a limited time.
//!
//! Frames never mix: one begins where the previous one ended. The lock is held while the socket
//! accepts bytes without waiting.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::{Duration, timeout};

use super::counters::DropReason;
use super::framing::io_reason;
use super::limits::PeerLimits;
use super::queue_limit::LastTcpInfo;
use crate::pace::PassedBytes;
use p2pfs_proto::wire::native::tcp::{Frame, FrameKind, HEADER_BYTES};
use p2pfs_records::WRITE_AHEAD_BYTES;

/// Maximum bytes of a frame that its sender encrypts and writes itself. This takes some 50
/// microseconds. The kernel's read-ahead of 128 KiB with its proof fits.
const WRITTEN_AT_ONCE_MAX_BYTES: usize = 144 << 10;

/// Maximum bytes of a frame that overtakes large ones: a page or two with their proof. So a reader
/// that opens a small file, or reads a part of a large one, waits less for read-ahead.
const SMALL_MAX_BYTES: usize = 10 << 10;
/// Maximum number of small frames that overtake one large frame.
const OVERTAKEN_MAX: u8 = 32;

/// Writing side of a connection. A queued answer holds the slot of its request, so the number of
/// slots bounds the queued answers.
pub(super) struct Outbound {
    sending: Mutex<Sending>,
    /// Notified when something is left for the connection's task.
    left: Notify,
}

struct Sending {
    link: LastTcpInfo,
    /// `None` once the connection has ended.
    stream: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    frames: VecDeque<Departing>,
    /// Bytes of the first frame that are written.
    written: usize,
    /// Written bytes that may not have been flushed.
    unflushed_bytes: usize,
    /// Answers being made that can report their cancellation. Dropping the sender reports it.
    open: HashMap<u32, oneshot::Sender<()>>,
    /// Cancelled answers that are still being made.
    unwanted: HashSet<u32>,
    broken: Option<DropReason>,
}

struct Departing {
    frame: Frame,
    /// Number of later frames that went before it.
    overtaken: u8,
    /// Released once the frame is written.
    _slot: Option<OwnedSemaphorePermit>,
    /// Charge of the limit for the frame. Refunded if the frame is not written.
    charge: Option<PassedBytes>,
}

impl Departing {
    fn new(frame: Frame) -> Self {
        Self {
            frame,
            overtaken: 0,
            _slot: None,
            charge: None,
        }
    }
}

impl Outbound {
    pub(super) fn new(stream: impl AsyncWrite + Send + Unpin + 'static, link: LastTcpInfo) -> Self {
        let sending = Sending {
            link,
            stream: Some(Box::new(stream)),
            frames: VecDeque::new(),
            written: 0,
            unflushed_bytes: 0,
            open: HashMap::new(),
            unwanted: HashSet::new(),
            broken: None,
        };
        Self {
            sending: Mutex::new(sending),
            left: Notify::new(),
        }
    }

    /// Sends a frame without blocking. If the connection has ended or breaks now, the frame is
    /// dropped; the connection's task reports that.
    pub(super) fn send(&self, frame: Frame) {
        self.depart(Departing::new(frame));
    }

    /// Sends a frame as [`Self::send`] does. Refunds the charge if the frame is not written.
    pub(super) fn send_charged(&self, frame: Frame, charge: Option<PassedBytes>) {
        self.depart(Departing {
            charge,
            ..Departing::new(frame)
        });
    }

    fn depart(&self, departing: Departing) {
        let mut sending = self.sending.lock();
        if sending.stream.is_none() || sending.broken.is_some() {
            return;
        }
        // If something is left, the task is writing it, and its wait must not be disturbed.
        let was_idle = sending.is_idle();
        let small = departing.frame.len_bytes() <= WRITTEN_AT_ONCE_MAX_BYTES;
        sending.enqueue(departing);
        if !was_idle {
            return;
        }
        let mut nobody = Context::from_waker(Waker::noop());
        if small && sending.poll_next(&mut nobody).is_ready() && sending.poll_rest(&mut nobody) {
            return;
        }
        drop(sending);
        self.left.notify_one();
    }

    /// Registers an answer that is being made. The receiver resolves when the answer is cancelled.
    pub(super) fn begin(&self, id: u32) -> oneshot::Receiver<()> {
        let (unwanted, told) = oneshot::channel();
        self.sending.lock().open.insert(id, unwanted);
        told
    }

    /// Sends an answer, or `Busy` if it was cancelled. `slot` is held until the frame is written.
    /// Refunds the charge if the answer is not written.
    pub(super) fn answer(
        &self,
        id: u32,
        frame: Frame,
        slot: Option<OwnedSemaphorePermit>,
        charge: Option<PassedBytes>,
    ) {
        let mut sending = self.sending.lock();
        sending.open.remove(&id);
        let unwanted = sending.unwanted.remove(&id);
        drop(sending);
        let answer = if unwanted {
            Departing::new(Frame::empty(id, FrameKind::Busy))
        } else {
            Departing {
                charge,
                ..Departing::new(frame)
            }
        };
        self.depart(Departing {
            _slot: slot,
            ..answer
        });
    }

    /// Cancels an answer that [`Self::begin`] registered, or a queued one whose writing has not
    /// begun: `Busy` is sent in its place. Returns false if there is no such answer.
    pub(super) fn take_back(&self, id: u32) -> bool {
        let mut sending = self.sending.lock();
        if sending.open.remove(&id).is_some() {
            sending.unwanted.insert(id);
            return true;
        }
        let begun = usize::from(sending.written > 0);
        let queued = sending.frames.iter_mut().skip(begun);
        let answer = queued.into_iter().find(|it| it.frame.answers(id));
        let found = answer.is_some();
        if let Some(departing) = answer {
            departing.frame = Frame::empty(id, FrameKind::Busy);
            departing.charge = None;
        }
        found
    }

    /// Returns how many frames wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.sending.lock().frames.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sending.lock().stream.is_none()
    }

    /// Drops the socket and all frames.
    pub(super) fn close(&self) {
        let (stream, frames) = {
            let mut sending = self.sending.lock();
            sending.open.clear();
            sending.count_written_part();
            (sending.stream.take(), std::mem::take(&mut sending.frames))
        };
        drop((stream, frames));
    }

    /// Runs the task's part: writes what is left, until the stream breaks or a frame takes too
    /// long.
    pub(super) async fn write_rest(&self, limits: &PeerLimits) -> DropReason {
        loop {
            self.left.notified().await;
            while let Some(limit) = self.next_limit(limits) {
                let step = std::future::poll_fn(|context| self.sending.lock().poll_next(context));
                if timeout(limit, step).await.is_err() {
                    return DropReason::SlowReader;
                }
                // a connection with a fast socket must not keep the thread from other connections
                tokio::task::yield_now().await;
            }
            let broken = self.sending.lock().broken;
            if let Some(reason) = broken {
                return reason;
            }
        }
    }

    /// Returns how long the next step may take, or `None` if none is due.
    fn next_limit(&self, limits: &PeerLimits) -> Option<Duration> {
        let sending = self.sending.lock();
        if sending.broken.is_some() || sending.is_idle() {
            return None;
        }
        let first = sending.frames.front();
        let length = first.map_or(0, |departing| departing.frame.len_bytes());
        // bytes that TLS has taken are written before the frame
        Some(limits.answer_time(length + sending.unflushed_bytes.min(WRITE_AHEAD_BYTES)))
    }
}

impl Sending {
    fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.unflushed_bytes == 0
    }

    /// Keeps the charge of the written part of the first frame.
    fn count_written_part(&mut self) {
        let charge = self.frames.front_mut().and_then(|it| it.charge.as_mut());
        if let Some(charge) = charge {
            charge.count_transferred(self.written as u64);
        }
    }

    /// Queues a frame. A small one goes before the large ones at the end of the queue. A large one
    /// does not give way if its writing has begun, or after [`OVERTAKEN_MAX`] times.
    fn enqueue(&mut self, departing: Departing) {
        let is_large = |it: &Departing| it.frame.len_bytes() > SMALL_MAX_BYTES;
        let mut place = self.frames.len();
        if !is_large(&departing) {
            let begun = usize::from(self.written > 0);
            let waiting = self.frames.iter_mut().skip(begun).rev();
            let gives_way = |it: &&mut Departing| is_large(it) && it.overtaken < OVERTAKEN_MAX;
            for large in waiting.take_while(gives_way) {
                large.overtaken += 1;
                place -= 1;
            }
        }
        self.frames.insert(place, departing);
    }

    /// Flushes the written frames, after the last one was written. Returns whether that succeeded
    /// at once. A failure is recorded.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> bool {
        self.broken.is_none()
            && (self.is_idle() || self.poll_next(context).is_ready())
            && self.broken.is_none()
    }

    /// Writes one frame, or flushes the written ones if there is none. The body is not copied on
    /// the way to TLS. A failure is recorded.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let outcome = if self.frames.is_empty() {
            ready!(self.poll_flush(context))
        } else {
            ready!(self.poll_write(context))
        };
        if let Err(error) = outcome {
            self.broken = Some(io_reason(&error));
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written == 0 && self.unflushed_bytes > 0 && self.link.is_throttled() {
            // flush before the next frame: a later urgent frame cannot overtake bytes that TLS has
            // taken
            ready!(self.poll_flush(context))?;
        }
        let (Some(stream), Some(first)) = (&mut self.stream, self.frames.front()) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let frame = &first.frame;
        while self.written < frame.len_bytes() {
            let stream = Pin::new(&mut **stream);
            let step = if self.written < HEADER_BYTES {
                let parts = [
                    IoSlice::new(&frame.header[self.written..]),
                    IoSlice::new(&frame.body),
                ];
                ready!(stream.poll_write_vectored(context, &parts))
            } else {
                let rest = &frame.body[self.written - HEADER_BYTES..];
                ready!(stream.poll_write(context, rest))
            };
            match step {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(step) => self.written += step,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.unflushed_bytes += frame.len_bytes();
        let written = self.frames.pop_front();
        self.written = 0;
        if let Some(charge) = written.and_then(|it| it.charge) {
            charge.mark_transferred();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let outcome = ready!(Pin::new(&mut **stream).poll_flush(context));
        self.unflushed_bytes = 0;
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;
    use crate::pace::Pace;
    use p2pfs_proto::wire::native::tcp::Response;

    fn answer(length: usize) -> Frame {
        Response::Data {
            proof: Bytes::from(vec![7; length]),
        }
        .encode(3)
        .unwrap()
    }

    #[tokio::test]
    async fn a_small_frame_is_sent_before_the_task_runs() {
        let (near, mut far) = duplex(1 << 16);
        let outbound = Outbound::new(near, LastTcpInfo::default());
        outbound.send(answer(100));
        assert_eq!(outbound.waiting(), 0);
        let mut bytes = vec![0; HEADER_BYTES + 100];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes[..HEADER_BYTES], answer(100).header);
    }

    #[tokio::test]
    async fn bytes_refused_by_a_narrow_pipe_follow_completely_and_in_order() {
        let (near, mut far) = duplex(100);
        let outbound = Arc::new(Outbound::new(near, LastTcpInfo::default()));
        let lengths = [50, 5000, 0, 7, 200_000];
        for length in lengths {
            outbound.send(answer(length));
        }
        assert!(outbound.waiting() > 0);
        let task = outbound.clone();
        let writing = tokio::spawn(async move { task.write_rest(&PeerLimits::default()).await });
        for length in lengths {
            let mut bytes = vec![0; HEADER_BYTES + length];
            far.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes[..HEADER_BYTES], answer(length).header);
            assert!(bytes[HEADER_BYTES..].iter().all(|byte| *byte == 7));
        }
        drop(far);
        outbound.send(answer(9));
        assert_eq!(writing.await.unwrap(), DropReason::Broken);
    }

    #[tokio::test]
    async fn a_small_answer_overtakes_large_ones_without_starving_them() {
        let (near, mut far) = duplex(100);
        let outbound = Arc::new(Outbound::new(near, LastTcpInfo::default()));
        let lengths = [50_000, 50_001, 60_000];
        for length in lengths {
            outbound.send(answer(length));
        }
        let small = 10..10 + usize::from(OVERTAKEN_MAX) + 2;
        small
            .clone()
            .for_each(|length| outbound.send(answer(length)));
        let task = outbound.clone();
        tokio::spawn(async move { task.write_rest(&PeerLimits::default()).await });
        // the first had begun
        let first = small.clone().take(usize::from(OVERTAKEN_MAX));
        let rest = small.skip(usize::from(OVERTAKEN_MAX));
        let order = [50_000]
            .into_iter()
            .chain(first)
            .chain([50_001, 60_000])
            .chain(rest);
        for length in order {
            let mut bytes = vec![0; HEADER_BYTES + length];
            far.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes[..HEADER_BYTES], answer(length).header);
        }
    }

    #[tokio::test]
    async fn an_answer_cancelled_before_it_began_yields_to_a_short_one() {
        let (near, mut far) = duplex(100);
        let outbound = Arc::new(Outbound::new(near, LastTcpInfo::default()));
        let numbered = |id, length| {
            let proof = Bytes::from(vec![7; length]);
            Response::Data { proof }.encode(id).unwrap()
        };
        let told = outbound.begin(3);
        for id in 1..=2 {
            outbound.answer(id, numbered(id, 5000), None, None);
        }
        // the first has begun, the second is in the queue, the third is being made
        let found = [1, 2, 3].map(|id| outbound.take_back(id));
        assert_eq!(found, [false, true, true]);
        assert!(told.await.is_err());
        outbound.answer(3, numbered(3, 5000), None, None);
        let task = outbound.clone();
        tokio::spawn(async move { task.write_rest(&PeerLimits::default()).await });
        let mut bytes = vec![0; HEADER_BYTES + 5000 + 2 * HEADER_BYTES];
        far.read_exact(&mut bytes).await.unwrap();
        let short = |id| Frame::empty(id, FrameKind::Busy).header;
        let rest = &bytes[HEADER_BYTES + 5000..];
        assert_eq!(rest[..HEADER_BYTES], short(2));
        assert_eq!(rest[HEADER_BYTES..], short(3));
    }

    #[tokio::test]
    async fn an_unlimited_socket_leaves_other_connections_their_turn() {
        let outbound = Outbound::new(tokio::io::sink(), LastTcpInfo::default());
        let outbound = Arc::new(outbound);
        for _ in 0..3 {
            outbound.send(answer(WRITTEN_AT_ONCE_MAX_BYTES));
        }
        assert_eq!(outbound.waiting(), 3);
        let task = outbound.clone();
        tokio::spawn(async move { task.write_rest(&PeerLimits::default()).await });
        let another = tokio::spawn(async move { outbound.waiting() });
        assert_eq!(another.await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_its_answer_is_given_up() {
        let (near, _far) = duplex(64);
        let outbound = Outbound::new(near, LastTcpInfo::default());
        outbound.send(answer(1000));
        let reason = outbound.write_rest(&PeerLimits::default()).await;
        assert_eq!(reason, DropReason::SlowReader);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_receiver_gets_everything_including_bytes_encrypted_ahead() {
        let (near, mut far) = duplex(64);
        let ahead = tokio::io::BufWriter::with_capacity(16 << 10, near);
        let outbound = Outbound::new(ahead, LastTcpInfo::default());
        outbound.send(answer(10_000));
        let taking = async {
            let mut packet = [0; 400];
            for _ in 0..10_000 / packet.len() {
                far.read_exact(&mut packet).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let limits = PeerLimits::default();
        tokio::select! {
            reason = outbound.write_rest(&limits) => panic!("{reason}"),
            () = taking => {}
        }
    }

    #[tokio::test]
    async fn an_ended_connection_holds_neither_socket_nor_slot() {
        let slots = Arc::new(tokio::sync::Semaphore::new(2));
        let (near, mut far) = duplex(64);
        let outbound = Outbound::new(near, LastTcpInfo::default());
        for _ in 0..2 {
            let slot = slots.clone().try_acquire_owned().unwrap();
            outbound.answer(3, answer(1000), Some(slot), None);
        }
        assert_eq!(slots.available_permits(), 0);
        outbound.close();
        assert!(outbound.is_closed() && slots.available_permits() == 2);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() <= 64);
    }

    const LIMIT_BYTES_PER_S: u64 = 1 << 20;

    /// Returns an outbound to a pipe of this size, the other end, and a limit that one answer of
    /// [`answer_charged`] overdraws.
    fn charged(pipe_bytes: usize) -> (Outbound, tokio::io::DuplexStream, Pace) {
        let (near, far) = duplex(pipe_bytes);
        let outbound = Outbound::new(near, LastTcpInfo::default());
        let pace = Pace::default();
        pace.set(Some(LIMIT_BYTES_PER_S));
        (outbound, far, pace)
    }

    fn answer_charged(outbound: &Outbound, pace: &Pace) {
        assert!(pace.pass_at_once(LIMIT_BYTES_PER_S, true));
        let charge = pace.passed(LIMIT_BYTES_PER_S);
        outbound.answer(3, answer(1 << 20), None, Some(charge));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_sent_is_refunded() {
        let (outbound, _far, pace) = charged(64);
        outbound.send(answer(1000));
        answer_charged(&outbound, &pace);
        assert!(!pace.pass_at_once(1, false), "it waits");
        assert!(outbound.take_back(3));
        assert!(pace.pass_at_once(1, false), "it is cancelled in the queue");

        let (outbound, _far, pace) = charged(64);
        let _told = outbound.begin(3);
        assert!(outbound.take_back(3));
        answer_charged(&outbound, &pace);
        assert!(pace.pass_at_once(1, false), "it was cancelled before");

        let (outbound, _far, pace) = charged(64);
        outbound.send(answer(1000));
        answer_charged(&outbound, &pace);
        outbound.close();
        assert!(pace.pass_at_once(1, false), "the connection ended");
        answer_charged(&outbound, &pace);
        assert!(pace.pass_at_once(1, false), "the connection had ended");
    }

    #[tokio::test]
    async fn an_answer_that_is_sent_stays_charged() {
        let (outbound, _far, pace) = charged(4 << 20);
        answer_charged(&outbound, &pace);
        let limits = PeerLimits::default();
        let writing = outbound.write_rest(&limits);
        tokio::select! {
            reason = writing => panic!("{reason}"),
            () = async { while outbound.waiting() > 0 { tokio::task::yield_now().await } } => {}
        }
        outbound.close();
        assert!(!pace.pass_at_once(1, false));
    }

    #[tokio::test]
    async fn the_part_of_an_answer_that_was_sent_stays_charged() {
        const SENT_BYTES: usize = 200 << 10;
        let (outbound, _far, pace) = charged(SENT_BYTES);
        answer_charged(&outbound, &pace);
        let limits = PeerLimits::default();
        let writing = outbound.write_rest(&limits);
        tokio::select! {
            biased;
            reason = writing => panic!("{reason}"),
            () = tokio::task::yield_now() => {}
        }
        outbound.close();
        assert!(!pace.pass_at_once(1, false), "more than the burst was sent");
        assert!(pace.pass_at_once(64 << 10, true), "the rest is refunded");
    }
}
