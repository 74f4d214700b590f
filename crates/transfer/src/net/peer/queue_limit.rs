//! Stream that does not fill the queue of a slow link. It limits the bytes in flight by a target
//! for the delay that they add. Otherwise a fetch would make the link useless for everything else,
//! such as gossip and readers.
//!
//! [`SendBudget`] contains the rule.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, Sleep, sleep};

use super::distances::Distances;
use super::low_water::BytesLacked;
use super::send_budget::{QueueTarget, SendBudget};
use super::tcp_info::{TcpGauge, TcpInfo};

/// Last kernel figures of a connection. Clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub(super) struct LastTcpInfo(Arc<Mutex<LinkFigures>>);

#[derive(Debug, Default)]
struct LinkFigures {
    reading: Option<(Instant, TcpInfo)>,
    is_held_back: bool,
    passed_over: Option<Instant>,
}

impl LastTcpInfo {
    /// Returns the round trip, or zero if it is unknown.
    pub(super) fn round_trip(&self) -> Duration {
        let known = self.0.lock().reading;
        known.map_or(Duration::ZERO, |(_, reading)| reading.round_trip)
    }

    /// Returns when the other end's kernel last acknowledged anything, as far as is known.
    pub(super) fn acked(&self) -> Option<Instant> {
        let (at, reading) = self.0.lock().reading?;
        at.checked_sub(reading.acked_ago)
    }

    /// Returns when bytes of the other end last arrived, as far as is known.
    pub(super) fn answered_at(&self) -> Option<Instant> {
        let (at, reading) = self.0.lock().reading?;
        at.checked_sub(reading.came_ago)
    }

    /// Returns when a record without content last arrived. The bytes that the kernel counted until
    /// then are not part of a frame.
    pub(super) fn passed_over(&self) -> Option<Instant> {
        self.0.lock().passed_over
    }

    /// Records that a record without content arrived.
    pub(super) fn pass_over(&self, at: Instant) {
        self.0.lock().passed_over = Some(at);
    }

    /// Returns whether the bytes in flight are limited now, so that outgoing bytes may have to wait
    /// for the link.
    pub(super) fn is_throttled(&self) -> bool {
        self.0.lock().is_held_back
    }

    pub(super) fn set(&self, at: Instant, reading: TcpInfo) {
        self.0.lock().reading = Some((at, reading));
    }

    fn set_throttled(&self, is_held_back: bool) {
        self.0.lock().is_held_back = is_held_back;
    }
}

/// Stream that keeps to its target and publishes its kernel figures.
pub(super) struct QueueLimitedStream<S> {
    stream: S,
    room: SendBudget,
    far_end: Option<(Arc<Distances>, IpAddr)>,
    last: LastTcpInfo,
    look: Pin<Box<Sleep>>,
    waits: bool,
    lack: BytesLacked,
    low_water_bytes: usize,
}

impl<S> QueueLimitedStream<S> {
    /// Wraps a stream. Nothing is held back before [`Self::limit_to`]. Needs a running tokio
    /// runtime.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            room: SendBudget::default(),
            far_end: None,
            last: LastTcpInfo::default(),
            look: Box::pin(sleep(Duration::ZERO)),
            waits: false,
            lack: BytesLacked::default(),
            low_water_bytes: 1,
        }
    }

    /// Limits the bytes in flight by a target for the queue and by the least round trip to this
    /// address.
    pub(super) fn limit_to(
        &mut self,
        target: QueueTarget,
        distances: Arc<Distances>,
        address: IpAddr,
    ) {
        (self.room.target, self.far_end) = (Some(target), Some((distances, address)));
    }

    /// Returns the kernel's figures of the connection (TCP_INFO). A write refreshes them if they
    /// are 100 ms old.
    pub(super) fn last_reading(&self) -> LastTcpInfo {
        self.last.clone()
    }

    /// Returns the handle by which the reader of the stream says how many bytes it lacks. The
    /// reader is not woken for fewer.
    pub(super) fn lack(&self) -> BytesLacked {
        self.lack.clone()
    }
}

impl<S: TcpGauge> QueueLimitedStream<S> {
    /// Marks outgoing packets; see [`TcpGauge::mark`].
    pub(super) fn mark(&self, code_point: u8) -> io::Result<()> {
        self.stream.mark(code_point)
    }

    /// Sets the low-water mark. If the system refuses it, the reader is woken for fewer bytes than
    /// it lacks.
    fn set_low_water_mark(&mut self) {
        let bytes = self.lack.bytes();
        if bytes != self.low_water_bytes && self.stream.set_low_water(bytes).is_ok() {
            self.low_water_bytes = bytes;
        }
    }

    /// Returns how many bytes may be sent now.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        loop {
            if self.waits {
                ready!(self.look.as_mut().poll(context));
                self.waits = false;
            }
            let now = Instant::now();
            if !self.room.is_due(now) {
                return Poll::Ready(usize::MAX);
            }
            let Some(mut reading) = self.stream.read_gauge() else {
                return Poll::Ready(usize::MAX);
            };
            if let Some((distances, address)) = &self.far_end {
                reading.least = distances.record(now, *address, reading.least);
            }
            let room = self.room.take(now, &reading);
            self.last.set(now, reading);
            self.last.set_throttled(self.room.is_limited());
            if room > 0 {
                return Poll::Ready(usize::try_from(room).unwrap_or(usize::MAX));
            }
            self.look.as_mut().reset(now + self.room.check_after());
            self.waits = true;
        }
    }
}

impl<S: TcpGauge + AsyncWrite + Unpin> AsyncWrite for QueueLimitedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(context));
        let some = &bytes[..bytes.len().min(room)];
        Pin::new(&mut self.stream).poll_write(context, some)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(context));
        match within(parts, room) {
            Ok(parts) => Pin::new(&mut self.stream).poll_write_vectored(context, parts),
            Err(some) => Pin::new(&mut self.stream).poll_write(context, some),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Returns the first parts that fit into `bytes` together, so that one system call sends them. If
/// not even the first one fits, returns as much of it as does.
fn within<'a, 'b>(parts: &'a [IoSlice<'b>], bytes: usize) -> Result<&'a [IoSlice<'b>], &'a [u8]> {
    let empty = parts.iter().take_while(|part| part.is_empty()).count();
    let parts = &parts[empty..];
    let left = parts.iter().scan(bytes, |left, part| {
        *left = left.checked_sub(part.len())?;
        Some(())
    });
    match (left.count(), parts.first()) {
        (0, Some(first)) => Err(&first[..bytes]),
        (count, _) => Ok(&parts[..count]),
    }
}

impl<S: TcpGauge + AsyncRead + Unpin> AsyncRead for QueueLimitedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if outcome.is_pending() {
            self.set_low_water_mark();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use p2pfs_proto::wire::native::tcp::Lane;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn data_that_fits_is_sent_at_once_within_the_limit() {
        let parts = [&b""[..], b"header", b"", b"body"].map(IoSlice::new);
        let lengths = |bytes| match within(&parts, bytes) {
            Ok(parts) => parts.iter().map(|part| part.len()).collect(),
            Err(some) => vec![some.len()],
        };
        assert_eq!(lengths(usize::MAX), [6, 0, 4]);
        assert_eq!(lengths(10), [6, 0, 4]);
        assert_eq!(lengths(9), [6, 0]);
        assert_eq!(lengths(5), [5]);
        assert_eq!(within(&[IoSlice::new(b"")], 5).map(<[_]>::len), Ok(0));
    }

    /// The time limit is long, since other tests may need the processors meanwhile.
    #[tokio::test]
    async fn a_slow_local_connection_is_no_longer_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (near, (mut far, _)) = (dialled.await.unwrap(), listener.accept().await.unwrap());
        tokio::spawn(async move {
            let mut bytes = vec![0; 1 << 20];
            while far.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        });
        let mut polite = QueueLimitedStream::new(near);
        let (target, address) = (QueueTarget::of(Lane::Bulk), IpAddr::V4(Ipv4Addr::LOCALHOST));
        polite.limit_to(target, Arc::new(Distances::new()), address);
        polite.room = SendBudget::of_rate(target, 1e3);
        let record = vec![7; 16_406];
        let freed = timeout(PATIENCE, async {
            polite.write_all(&record).await.unwrap();
            while polite.room.is_limited() {
                polite.write_all(&record).await.unwrap();
            }
        });
        assert!(freed.await.is_ok(), "{:?}", polite.room);
    }
}
