//! Both directions of a connection after its greeting. Incoming records are opened directly into
//! the reader's buffer. Outgoing bytes are sealed some way ahead of the socket, so that one system
//! call takes many records.
//!
//! The directions share only the socket: one is read while the other is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use super::cork::Corked;
use super::counters::DropReason;
use super::gauge::TcpGauge;
use super::limits::{EMPTY_RECORDS_MAX, READ_AHEAD_BYTES, WRITE_AHEAD_BYTES};
use super::low_water::BytesLacked;
use super::polite::{LastTcpInfo, QueueLimitedStream};
use super::seal::{
    CARRIED_MAX_BYTES, HEADER_BYTES, OVERHEAD_BYTES, Opener, RECORD_MAX_BYTES, RecordError, Sealer,
};
use super::tls::keys_of;

/// Initial size of the read buffer in bytes: some requests or small answers.
const FIRST_ROOM_BYTES: usize = 4 << 10;
/// Size of the write buffer in bytes that a connection keeps.
const SMALL_ROOM_BYTES: usize = 4 << 10;
/// Size of the borrowed write buffer in bytes: the maximum that waits, and one record more.
const LARGE_ROOM_BYTES: usize = WRITE_AHEAD_BYTES + CARRIED_MAX_BYTES + OVERHEAD_BYTES;
/// Maximum spare buffers kept for the next connection that needs one. A connection with nothing to
/// send has none.
const SPARE_BUFFERS: usize = 4;

// a whole record must fit, however long it is
const _: () = assert!(READ_AHEAD_BYTES >= RECORD_MAX_BYTES);

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Wear of a connection's keys: whether they have been used so much that the connection must be
/// replaced.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyWear(Arc<AtomicBool>);

impl KeyWear {
    pub(super) fn is_worn(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, is_worn: bool) {
        if is_worn {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Both directions of a connection.
pub(super) struct Records<S> {
    pub(super) reading: RecordReader<ReadHalf<S>>,
    pub(super) writing: RecordWriter<WriteHalf<S>>,
    pub(super) wear: KeyWear,
    pub(super) link: LastTcpInfo,
}

impl<S: AsyncRead + AsyncWrite + TcpGauge + Unpin> Records<QueueLimitedStream<S>> {
    /// Takes a connection over after the greeting, before anything else is sent.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if the other end has sent more than the greeting,
    /// [`DropReason::TlsFailed`] if TLS itself still has something to send.
    pub(super) fn after_greeting(
        stream: TlsStream<Corked<QueueLimitedStream<S>>>,
    ) -> Result<Self, DropReason> {
        let (stream, sealer, opener) = keys_of(stream)?;
        let stream = stream.into_inner().ok_or(DropReason::Malformed)?;
        let (link, lack, wear) = (stream.last_reading(), stream.lack(), KeyWear::default());
        let (reading, writing) = split(stream);
        Ok(Self {
            reading: RecordReader::new(reading, opener, wear.clone(), lack, link.clone()),
            writing: RecordWriter::new(writing, sealer, wear.clone()),
            wear,
            link,
        })
    }
}

impl From<RecordError> for io::Error {
    fn from(broken: RecordError) -> Self {
        match broken {
            RecordError::Forged | RecordError::Malformed | RecordError::Empty => {
                Self::new(io::ErrorKind::InvalidData, broken)
            }
            RecordError::Over | RecordError::Worn => io::ErrorKind::UnexpectedEof.into(),
        }
    }
}

/// Incoming direction.
pub(super) struct RecordReader<R> {
    stream: R,
    opener: Opener,
    wear: KeyWear,
    lack: BytesLacked,
    link: LastTcpInfo,
    /// Records without a byte since the last one that carried some.
    empty_in_a_row: u32,
    /// Received and unopened bytes are from `start` to `end`.
    room: Vec<u8>,
    start: usize,
    end: usize,
    /// Opened bytes that were not read yet, from `read` on.
    opened: Vec<u8>,
    read: usize,
    /// Error after those bytes.
    broken: Option<RecordError>,
}

impl<R: AsyncRead + Unpin> RecordReader<R> {
    fn new(stream: R, opener: Opener, wear: KeyWear, lack: BytesLacked, link: LastTcpInfo) -> Self {
        Self {
            stream,
            opener,
            wear,
            lack,
            link,
            empty_in_a_row: 0,
            room: vec![0; FIRST_ROOM_BYTES],
            start: 0,
            end: 0,
            opened: Vec::new(),
            read: 0,
            broken: None,
        }
    }

    /// Copies bytes that were opened before.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let some = (self.opened.len() - self.read).min(buffer.remaining());
        buffer.put_slice(&self.opened[self.read..][..some]);
        self.read += some;
    }

    /// Opens the complete records as far as `buffer` has room. The last one may be delivered in
    /// parts.
    fn open(&mut self, buffer: &mut ReadBuf<'_>) -> Result<(), RecordError> {
        while self.read == self.opened.len() && buffer.remaining() > 0 {
            let came = &self.room[self.start..self.end];
            let length = Opener::length_of(came)?;
            let Some(record) = length.and_then(|length| came.get(..length)) else {
                break;
            };
            let room_bytes = Opener::room_for(record.len());
            let carried = if room_bytes <= buffer.remaining() {
                let room = buffer.initialize_unfilled_to(room_bytes);
                let carried = self.opener.open(record, room)?;
                buffer.advance(carried);
                carried
            } else {
                self.opened.resize(room_bytes, 0);
                let carried = self.opener.open(record, &mut self.opened);
                self.opened.truncate(carried.unwrap_or_default());
                self.read = 0;
                carried?
            };
            self.start += record.len();
            self.count_empty(carried)?;
            self.give(buffer);
        }
        self.wear.note(self.opener.is_worn());
        Ok(())
    }

    /// Counts records that carry no byte. Their bytes are not part of an answer, so their arrival
    /// is not progress.
    ///
    /// # Errors
    /// [`RecordError::Empty`] if more arrived in a row than allowed.
    fn count_empty(&mut self, carried: usize) -> Result<(), RecordError> {
        if carried > 0 {
            self.empty_in_a_row = 0;
            return Ok(());
        }
        self.empty_in_a_row += 1;
        self.link.pass_over(Instant::now());
        let is_within = self.empty_in_a_row <= EMPTY_RECORDS_MAX;
        is_within.then_some(()).ok_or(RecordError::Empty)
    }

    /// Reads from the stream. Returns the number of bytes, zero at its end.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.room.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let whole = Opener::length_of(&self.room[..self.end])?;
        let wanted = whole.unwrap_or(HEADER_BYTES);
        if self.room.len() < wanted {
            self.room.resize(READ_AHEAD_BYTES, 0);
        }
        self.lack.set(wanted - self.end);
        let mut room = ReadBuf::new(&mut self.room[self.end..]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut room))?;
        let came = room.filled().len();
        self.end += came;
        Poll::Ready(Ok(came))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for RecordReader<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buffer.filled().len());
        loop {
            this.give(buffer);
            if this.broken.is_none() {
                this.broken = this.open(buffer).err();
            }
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(broken) = this.broken {
                return Poll::Ready(Err(broken.into()));
            }
            if ready!(this.poll_more(context))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Outgoing direction.
pub(super) struct RecordWriter<W> {
    stream: W,
    sealer: Sealer,
    wear: KeyWear,
    /// Sealed and unwritten bytes are from `start` to `end`.
    room: Vec<u8>,
    start: usize,
    end: usize,
}

impl<W: AsyncWrite + Unpin> RecordWriter<W> {
    fn new(stream: W, sealer: Sealer, wear: KeyWear) -> Self {
        Self {
            stream,
            sealer,
            wear,
            room: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    fn waiting_bytes(&self) -> usize {
        self.end - self.start
    }

    /// Seals bytes within the limit, at least one record. Returns how many.
    fn seal(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, RecordError> {
        let mut sealed = 0;
        loop {
            let rest = after(parts, sealed);
            let rest_bytes: usize = rest.clone().map(<[u8]>::len).sum();
            if rest_bytes == 0 || self.waiting_bytes() >= WRITE_AHEAD_BYTES {
                break;
            }
            self.make_room(rest_bytes.min(CARRIED_MAX_BYTES) + OVERHEAD_BYTES);
            let carried = match self.sealer.seal(rest, &mut self.room[self.end..]) {
                Err(_) if sealed > 0 => break,
                carried => carried?,
            };
            self.end += carried + OVERHEAD_BYTES;
            sealed += carried;
        }
        self.wear.note(self.sealer.is_worn());
        Ok(sealed)
    }

    /// Makes room behind the waiting bytes. A small buffer is kept, a large one is borrowed.
    fn make_room(&mut self, bytes: usize) {
        if self.end + bytes <= self.room.len() {
            return;
        }
        let waiting = self.start..self.end;
        if waiting.len() + bytes <= self.room.len() {
            self.room.copy_within(waiting.clone(), 0);
        } else {
            let mut room = if waiting.len() + bytes <= SMALL_ROOM_BYTES {
                vec![0; SMALL_ROOM_BYTES]
            } else {
                borrow()
            };
            room[..waiting.len()].copy_from_slice(&self.room[waiting.clone()]);
            give_back(std::mem::replace(&mut self.room, room));
        }
        (self.start, self.end) = (0, waiting.len());
    }

    /// Writes the waiting bytes to the socket as it accepts them.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.end {
            let sealed = &self.room[self.start..self.end];
            match ready!(Pin::new(&mut self.stream).poll_write(context, sealed))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.start += written,
            }
        }
        (self.start, self.end) = (0, 0);
        if self.room.len() > SMALL_ROOM_BYTES {
            give_back(std::mem::take(&mut self.room));
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for RecordWriter<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.waiting_bytes() >= WRITE_AHEAD_BYTES {
            ready!(this.poll_out(context))?;
        }
        let sealed = match this.seal(parts) {
            Ok(sealed) => sealed,
            Err(broken) => {
                // the other end must still receive what was sealed before
                ready!(this.poll_out(context))?;
                return Poll::Ready(Err(broken.into()));
            }
        };
        match this.poll_out(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(sealed)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

impl<W> Drop for RecordWriter<W> {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.room));
    }
}

/// Returns the rest of the parts after `bytes`.
fn after<'a>(parts: &'a [IoSlice<'_>], bytes: usize) -> impl Iterator<Item = &'a [u8]> + Clone {
    parts.iter().scan(bytes, |skipped, part| {
        let cut = part.len().min(*skipped);
        *skipped -= cut;
        Some(&part[cut..])
    })
}

fn borrow() -> Vec<u8> {
    let spare = SPARE.lock().pop();
    spare.unwrap_or_else(|| vec![0; LARGE_ROOM_BYTES])
}

fn give_back(room: Vec<u8>) {
    let mut spare = SPARE.lock();
    if room.len() == LARGE_ROOM_BYTES && spare.len() < SPARE_BUFFERS {
        spare.push(room);
    }
}

#[cfg(test)]
mod tests;
