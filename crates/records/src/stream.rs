//! Both directions of a connection after its handshake. An incoming record is opened directly into
//! the reader's buffer if it fits there. Outgoing bytes are sealed ahead of the socket, so that one
//! system call can take many records.
//!
//! The directions share only the socket and [`KeyUpdates`]: one reads while the other writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};

use crate::exporter::Exporter;
use crate::handshake::Side;
use crate::keys::KeyUpdates;
use crate::limits::{EMPTY_RECORDS_MAX, HANDSHAKE_MAX_BYTES, READ_AHEAD_BYTES, WRITE_AHEAD_BYTES};
use crate::seal::{
    CARRIED_MAX_BYTES, HEADER_BYTES, KEY_UPDATE_BYTES, OVERHEAD_BYTES, Opened, Opener,
    RECORD_MAX_BYTES, REFUSAL_BYTES, RecordError, Sealer,
};

/// Minimum size of the read buffer in bytes: some requests or small answers.
const FIRST_ROOM_BYTES: usize = 4 << 10;
/// Size in bytes of the write buffer that a connection owns, for small messages.
const SMALL_ROOM_BYTES: usize = 4 << 10;
/// Size in bytes of a borrowed write buffer: [`WRITE_AHEAD_BYTES`], and one more record with a key
/// update before it.
const LARGE_ROOM_BYTES: usize =
    WRITE_AHEAD_BYTES + KEY_UPDATE_BYTES + CARRIED_MAX_BYTES + OVERHEAD_BYTES;
/// Maximum large write buffers kept in [`SPARE`] to be borrowed. A connection returns its large
/// buffer when the socket has accepted all sealed bytes, or when it ends.
const SPARE_BUFFERS: usize = 4;

// a whole record must fit, however long it is
const _: () = assert!(READ_AHEAD_BYTES >= RECORD_MAX_BYTES);
// the bytes that arrived behind a handshake must fit too
const _: () = assert!(READ_AHEAD_BYTES >= HANDSHAKE_MAX_BYTES);

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Receiver of news about incoming records, for the timing of a connection.
pub trait RecordObserver: Send {
    /// Receives, before each read of the socket, the number of bytes that the next record still
    /// lacks, or its header while that is incomplete.
    fn lacks(&self, bytes: usize);
    /// Receives the arrival of a record that carries no byte of the stream.
    fn passed_over(&self);
}

/// Facts about a connection that its handshake established.
pub(crate) struct ConnectionFacts {
    pub(crate) side: Side,
    pub(crate) peer_certificate: Option<CertificateDer<'static>>,
    pub(crate) alpn_protocol: Option<Vec<u8>>,
    pub(crate) exporter: Exporter,
}

/// Error of [`TlsStream::split`]: number of bytes of an opened record that were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes of a record were not read")]
pub struct UnreadBytes(pub usize);

/// The two directions of a connection after [`TlsStream::split`].
pub type SplitStream<S> = (RecordReader<ReadHalf<S>>, RecordWriter<WriteHalf<S>>);

/// A connection after its handshake, both directions together.
pub struct TlsStream<S> {
    stream: S,
    facts: ConnectionFacts,
    reading: ReadState,
    writing: WriteState,
}

impl<S> TlsStream<S> {
    /// Creates a stream. `arrived` are the bytes received behind the handshake.
    pub(crate) fn new(
        stream: S,
        facts: ConnectionFacts,
        (sealer, opener): (Sealer, Opener),
        updates: Arc<KeyUpdates>,
        arrived: &[u8],
    ) -> Self {
        let mut reading = ReadState::new(opener, updates.clone());
        reading.room.resize(arrived.len().max(FIRST_ROOM_BYTES), 0);
        reading.room[..arrived.len()].copy_from_slice(arrived);
        reading.end = arrived.len();
        Self {
            stream,
            facts,
            reading,
            writing: WriteState::new(sealer, updates),
        }
    }

    /// Returns the stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns the stream below.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Returns which end this is.
    pub fn side(&self) -> Side {
        self.facts.side
    }

    /// Returns the first certificate of the other end, or its raw public key. Returns `None` if it
    /// sent neither.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.facts.peer_certificate.as_ref()
    }

    /// Returns the negotiated application protocol (ALPN), if there is one.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.facts.alpn_protocol.as_deref()
    }

    /// Derives 32 bytes for `label`. Only the two ends of this connection can derive them (RFC
    /// 8446, section 7.5). Returns `None` if the connection's cipher suite cannot give 32 bytes.
    pub fn export_keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        self.facts.exporter.export(label)
    }

    /// Seals a refusal of the other end behind the sealed bytes that wait for the socket. The next
    /// flush sends it. The caller must write nothing after it.
    ///
    /// # Errors
    /// [`RecordError::Worn`]
    pub fn refuse(&mut self) -> Result<(), RecordError> {
        self.writing.seal_refusal()
    }

    /// Returns the stream and the current keys. Buffered bytes are lost.
    #[cfg(any(test, feature = "test-support"))]
    pub fn into_parts(mut self) -> (S, Sealer, Opener) {
        let (unused, _) = crate::testing::way(0);
        let sealer = std::mem::replace(&mut self.writing.sealer, unused);
        (self.stream, sealer, self.reading.opener)
    }
}

#[cfg(any(test, feature = "test-support"))]
impl<R> RecordReader<R> {
    /// Creates a reader with these keys.
    pub(crate) fn with_keys(stream: R, opener: Opener, updates: Arc<KeyUpdates>) -> Self {
        let mut state = ReadState::new(opener, updates);
        state.read_ahead_bytes = READ_AHEAD_BYTES;
        Self { stream, state }
    }

    /// Sets the observer of incoming records.
    pub fn observed_by(mut self, observer: impl RecordObserver + 'static) -> Self {
        self.state.observer = Some(Box::new(observer));
        self
    }
}

#[cfg(any(test, feature = "test-support"))]
impl<W> RecordWriter<W> {
    /// Creates a writer with these keys.
    pub(crate) fn with_keys(stream: W, sealer: Sealer, updates: Arc<KeyUpdates>) -> Self {
        let state = WriteState::new(sealer, updates);
        Self { stream, state }
    }

    /// Makes this end update its key before it seals the next record.
    pub fn request_update(&self) {
        self.state.updates.request_update();
    }
}

impl<S: AsyncRead + AsyncWrite> TlsStream<S> {
    /// Splits the directions. From then on, one read of the socket takes up to
    /// `READ_AHEAD_BYTES`.
    ///
    /// # Errors
    /// [`UnreadBytes`] if the caller has read only a part of an opened record.
    pub fn split(
        self,
        observer: impl RecordObserver + 'static,
    ) -> Result<SplitStream<S>, UnreadBytes> {
        let mut reading = self.reading;
        match reading.opened.len() - reading.read {
            0 => {}
            unread => return Err(UnreadBytes(unread)),
        }
        reading.read_ahead_bytes = READ_AHEAD_BYTES;
        if reading.room.len() > FIRST_ROOM_BYTES {
            // The largest record may fit into this buffer already, so `poll_more` might never
            // enlarge it.
            reading.room.resize(READ_AHEAD_BYTES, 0);
        }
        reading.observer = Some(Box::new(observer));
        let (stream, sink) = split(self.stream);
        let (writing, state) = (self.writing, reading);
        Ok((
            RecordReader { stream, state },
            RecordWriter {
                stream: sink,
                state: writing,
            },
        ))
    }
}

impl From<RecordError> for io::Error {
    fn from(broken: RecordError) -> Self {
        match broken {
            RecordError::Forged | RecordError::Malformed | RecordError::Empty => {
                Self::new(io::ErrorKind::InvalidData, broken)
            }
            RecordError::Refused => Self::new(io::ErrorKind::PermissionDenied, broken),
            RecordError::Over | RecordError::Worn => io::ErrorKind::UnexpectedEof.into(),
        }
    }
}

/// Incoming direction.
pub struct RecordReader<R> {
    stream: R,
    state: ReadState,
}

struct ReadState {
    opener: Opener,
    updates: Arc<KeyUpdates>,
    observer: Option<Box<dyn RecordObserver>>,
    read_ahead_bytes: usize,
    /// Records without a byte since the last one that carried some.
    empty_in_a_row: u32,
    /// Buffer. The received bytes that are not opened yet are from `start` to `end`.
    room: Vec<u8>,
    start: usize,
    end: usize,
    /// Opened bytes. Those from `read` on are not delivered yet.
    opened: Vec<u8>,
    read: usize,
    /// Error to return when all opened bytes are delivered.
    broken: Option<RecordError>,
}

impl ReadState {
    fn new(opener: Opener, updates: Arc<KeyUpdates>) -> Self {
        Self {
            opener,
            updates,
            observer: None,
            read_ahead_bytes: RECORD_MAX_BYTES,
            empty_in_a_row: 0,
            room: vec![0; FIRST_ROOM_BYTES],
            start: 0,
            end: 0,
            opened: Vec::new(),
            read: 0,
            broken: None,
        }
    }

    /// Copies undelivered bytes of `opened` into `buffer`, as many as fit.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let some = (self.opened.len() - self.read).min(buffer.remaining());
        buffer.put_slice(&self.opened[self.read..][..some]);
        self.read += some;
    }

    /// Opens complete records until `buffer` is full or no complete record is left. A record that
    /// may not fit into `buffer` is opened into `opened` and delivered in parts.
    fn open(&mut self, buffer: &mut ReadBuf<'_>) -> Result<(), RecordError> {
        while self.read == self.opened.len() && buffer.remaining() > 0 {
            let came = &self.room[self.start..self.end];
            let length = Opener::length_of(came)?;
            let Some(record) = length.and_then(|length| came.get(..length)) else {
                break;
            };
            let room_bytes = Opener::room_for(record.len());
            let opened = if room_bytes <= buffer.remaining() {
                let room = buffer.initialize_unfilled_to(room_bytes);
                let opened = self.opener.open(record, room)?;
                buffer.advance(opened.bytes());
                opened
            } else {
                self.opened.resize(room_bytes, 0);
                let opened = self.opener.open(record, &mut self.opened);
                self.opened.truncate(opened.map_or(0, Opened::bytes));
                self.read = 0;
                opened?
            };
            self.start += record.len();
            if let Opened::KeyUpdate { is_requested } = opened {
                self.update_key(is_requested)?;
            }
            self.count_empty(opened.bytes())?;
            self.give(buffer);
        }
        Ok(())
    }

    /// Replaces the opener by that of the other end's next key. If `is_requested`, requests an
    /// update of this end's key too.
    fn update_key(&mut self, is_requested: bool) -> Result<(), RecordError> {
        self.opener = self.updates.next_opener()?;
        if is_requested {
            self.updates.request_update();
        }
        Ok(())
    }

    /// Counts records in a row that carry no byte of the stream, and reports each to the observer.
    ///
    /// # Errors
    /// [`RecordError::Empty`] if more than [`EMPTY_RECORDS_MAX`] arrived in a row.
    fn count_empty(&mut self, carried: usize) -> Result<(), RecordError> {
        if carried > 0 {
            self.empty_in_a_row = 0;
            return Ok(());
        }
        self.empty_in_a_row += 1;
        if let Some(observer) = &self.observer {
            observer.passed_over();
        }
        let is_within = self.empty_in_a_row <= EMPTY_RECORDS_MAX;
        is_within.then_some(()).ok_or(RecordError::Empty)
    }

    /// Reads from the stream into `room`. Returns the number of bytes read, zero at the end of the
    /// stream.
    fn poll_more<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.room.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let whole = Opener::length_of(&self.room[..self.end])?;
        let wanted = whole.unwrap_or(HEADER_BYTES);
        if self.room.len() < wanted {
            self.room.resize(self.read_ahead_bytes, 0);
        }
        if let Some(observer) = &self.observer {
            observer.lacks(wanted - self.end);
        }
        let mut room = ReadBuf::new(&mut self.room[self.end..]);
        ready!(Pin::new(stream).poll_read(context, &mut room))?;
        let came = room.filled().len();
        self.end += came;
        Poll::Ready(Ok(came))
    }

    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            self.give(buffer);
            if self.broken.is_none() {
                self.broken = self.open(buffer).err();
            }
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(broken) = self.broken {
                return Poll::Ready(Err(broken.into()));
            }
            if ready!(self.poll_more(stream, context))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for RecordReader<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, state } = self.get_mut();
        state.poll_read(stream, context, buffer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.reading.poll_read(&mut this.stream, context, buffer)
    }
}

/// Outgoing direction.
pub struct RecordWriter<W> {
    stream: W,
    state: WriteState,
}

struct WriteState {
    sealer: Sealer,
    updates: Arc<KeyUpdates>,
    /// Buffer. The sealed bytes that wait for the socket are from `start` to `end`.
    room: Vec<u8>,
    start: usize,
    end: usize,
    /// Error after which nothing more is sealed.
    broken: Option<RecordError>,
}

impl WriteState {
    fn new(sealer: Sealer, updates: Arc<KeyUpdates>) -> Self {
        Self {
            sealer,
            updates,
            room: Vec::new(),
            start: 0,
            end: 0,
            broken: None,
        }
    }

    fn waiting_bytes(&self) -> usize {
        self.end - self.start
    }

    /// Seals `parts`, record by record, until all are sealed or at least [`WRITE_AHEAD_BYTES`]
    /// wait. Returns the number of bytes of `parts` that were sealed.
    fn seal(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, RecordError> {
        let mut sealed = 0;
        while self.broken.is_none() {
            let rest = after(parts, sealed);
            let rest_bytes: usize = rest.clone().map(<[u8]>::len).sum();
            if rest_bytes == 0 || self.waiting_bytes() >= WRITE_AHEAD_BYTES {
                break;
            }
            let record_bytes = rest_bytes.min(CARRIED_MAX_BYTES) + OVERHEAD_BYTES;
            let carried = match self.seal_one(rest, record_bytes) {
                Err(broken) => {
                    self.broken = Some(broken);
                    break;
                }
                Ok(carried) => carried,
            };
            self.end += carried + OVERHEAD_BYTES;
            sealed += carried;
        }
        match self.broken {
            // Returns the bytes that were sealed before the error. The next call returns the error.
            Some(broken) if sealed == 0 => Err(broken),
            _ => Ok(sealed),
        }
    }

    fn seal_refusal(&mut self) -> Result<(), RecordError> {
        self.make_room(REFUSAL_BYTES);
        self.sealer.seal_refusal(&mut self.room[self.end..])?;
        self.end += REFUSAL_BYTES;
        Ok(())
    }

    /// Seals one record behind the waiting bytes. Updates the key before it, if that is due.
    /// Returns the number of bytes of `rest` that were sealed.
    fn seal_one<'a>(
        &mut self,
        rest: impl Iterator<Item = &'a [u8]> + Clone,
        record_bytes: usize,
    ) -> Result<usize, RecordError> {
        if self.sealer.needs_update() || self.updates.take_update() {
            let next = self.updates.next_sealer()?;
            self.make_room(KEY_UPDATE_BYTES);
            self.sealer.seal_update(&mut self.room[self.end..])?;
            self.sealer = next;
            self.end += KEY_UPDATE_BYTES;
        }
        self.make_room(record_bytes);
        self.sealer.seal(rest, &mut self.room[self.end..])
    }

    /// Makes room for `bytes` more behind the waiting bytes. If the buffer is too small, replaces
    /// it by one of [`SMALL_ROOM_BYTES`], or by a borrowed one of [`LARGE_ROOM_BYTES`].
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

    /// Writes the waiting bytes to the socket. Ready when the socket has accepted all of them or
    /// failed.
    fn poll_out<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.start < self.end {
            let sealed = &self.room[self.start..self.end];
            match ready!(Pin::new(&mut *stream).poll_write(context, sealed))? {
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

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waiting_bytes() >= WRITE_AHEAD_BYTES {
            ready!(self.poll_out(stream, context))?;
        }
        let sealed = match self.seal(parts) {
            Ok(sealed) => sealed,
            Err(broken) => {
                // the other end must still receive what was sealed before
                ready!(self.poll_out(stream, context))?;
                return Poll::Ready(Err(broken.into()));
            }
        };
        match self.poll_out(stream, context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(sealed)),
        }
    }
}

impl Drop for WriteState {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.room));
    }
}

/// The methods of `AsyncWrite` for both types that write.
macro_rules! writes_records {
    ($state:ident) => {
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
            this.$state.poll_write(&mut this.stream, context, parts)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            ready!(this.$state.poll_out(&mut this.stream, context))?;
            Pin::new(&mut this.stream).poll_flush(context)
        }

        fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            ready!(this.$state.poll_out(&mut this.stream, context))?;
            Pin::new(&mut this.stream).poll_shutdown(context)
        }
    };
}

impl<W: AsyncWrite + Unpin> AsyncWrite for RecordWriter<W> {
    writes_records!(state);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    writes_records!(writing);
}

/// Returns `parts` without their first `bytes` bytes.
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
