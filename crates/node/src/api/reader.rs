//! Reading a file while it arrives.
//!
//! A [`Reader`] requests consecutive ranges of a file, called steps, and returns the bytes of each
//! step when it has arrived. After a seek to bytes that have not arrived, the first step is at most
//! one chunk, so that a seek fetches few bytes. Each completed step doubles the length of the next.
//! At the maximum length, several steps are in flight at once, with 4 MiB in total.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use p2pfs_content::{ContentHandle, ContentOpener};
use p2pfs_fs::{FileVersion, FsError, OpenContent, ReadNow, ReadWait};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};

/// Maximum length of a step: the largest request between nodes.
const STEP_MAX_BYTES: u64 = 1 << 20;
/// Number of steps of the maximum length in flight at once, so that the next steps arrive while the
/// program uses the bytes of one.
const STEPS_AT_ONCE: usize = 4;

/// One version of a file, open for reading. A reader returns the bytes of this version or fails,
/// and never mixes versions. Bytes from other nodes are verified, and stay in the cache if it has
/// room.
///
/// A read fails if no byte of the file arrives within the node's read deadline
/// ([`NodeBuilder::read_deadline`](super::NodeBuilder::read_deadline)). The [`io::Error`] contains
/// the [`FsError`].
pub struct Reader {
    open: Arc<ReaderFile>,
    size_bytes: u64,
    position: u64,
    /// Bytes that arrived and were not read yet, beginning at `position`.
    come: Bytes,
    /// Steps in flight, in order. The first begins after `come`.
    asked: VecDeque<StepInFlight>,
    asked_to: u64,
    step_bytes: u64,
}

impl Reader {
    /// Opens one version of a file, even if its name shows another version by now.
    pub(super) async fn open(opener: ContentOpener, version: FileVersion) -> Result<Self, FsError> {
        let size_bytes = version.size_bytes;
        let opened = spawn_blocking(move || opener.open_unchanging(&version)).await;
        let opened = opened.map_err(|_| FsError::Fault)??;
        let file = Some(opened);
        Ok(Self {
            open: Arc::new(ReaderFile { file }),
            size_bytes,
            position: 0,
            come: Bytes::new(),
            asked: VecDeque::new(),
            asked_to: 0,
            step_bytes: CHUNK_BYTES,
        })
    }

    /// Returns the length of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Requests steps of the maximum length from now on, for a program that reads the file to its
    /// end.
    #[must_use]
    pub fn to_the_end(mut self) -> Self {
        self.step_bytes = STEP_MAX_BYTES;
        self
    }

    /// Returns the next bytes as they arrive, without a copy; empty at the end of the file. The
    /// future may be dropped early without losing bytes.
    ///
    /// # Errors
    /// The error of the read. The next call requests the bytes again.
    pub async fn next_bytes(&mut self) -> Result<Bytes, FsError> {
        if self.come.is_empty() {
            self.come = poll_fn(|cx| self.poll_step(cx)).await?;
        }
        let bytes = std::mem::take(&mut self.come);
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    /// Polls for the bytes of the next step; empty at the end of the file.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, FsError>> {
        self.ask_ahead();
        let Some(next) = self.asked.front_mut() else {
            return Poll::Ready(Ok(Bytes::new()));
        };
        let came = ready!(Pin::new(&mut next.answer).poll(cx));
        self.asked.pop_front();
        let outcome = came.unwrap_or(Err(FsError::Fault));
        match outcome {
            Ok(_) => self.step_bytes = (self.step_bytes * 2).min(STEP_MAX_BYTES),
            Err(_) => self.forget(),
        }
        Poll::Ready(outcome)
    }

    fn ask_ahead(&mut self) {
        let at_once = match self.step_bytes {
            STEP_MAX_BYTES => STEPS_AT_ONCE,
            _ => 1,
        };
        while self.asked.len() < at_once && self.asked_to < self.size_bytes {
            // Steps end at the borders of chunks, so that no chunk is in two steps.
            let end = (self.asked_to + self.step_bytes) / CHUNK_BYTES * CHUNK_BYTES;
            let range = ByteRange::new(self.asked_to, end.min(self.size_bytes));
            self.asked.push_back(StepInFlight::new(&self.open, range));
            self.asked_to = range.end;
        }
    }

    /// Cancels the steps in flight and drops unread bytes.
    fn forget(&mut self) {
        self.come = Bytes::new();
        self.asked.clear();
        self.asked_to = self.position;
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.come.is_empty() && buffer.remaining() > 0 {
            self.come = ready!(self.poll_step(cx)).map_err(io_error)?;
        }
        let length = self.come.len().min(buffer.remaining());
        buffer.put_slice(&self.come[..length]);
        self.come.advance(length);
        self.position += length as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for Reader {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.size_bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        let position = position.ok_or(io::ErrorKind::InvalidInput)?;
        let ahead = position.checked_sub(self.position);
        match ahead.and_then(|ahead| usize::try_from(ahead).ok()) {
            Some(ahead) if ahead <= self.come.len() => {
                self.come.advance(ahead);
                self.position = position;
            }
            _ => {
                self.position = position;
                self.step_bytes = CHUNK_BYTES;
                self.forget();
            }
        }
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

fn io_error(error: FsError) -> io::Error {
    io::Error::new(io::Error::from_raw_os_error(error.errno()).kind(), error)
}

/// An open version, shared by the [`Reader`] and its steps in flight. Closed when the last of them
/// is dropped.
struct ReaderFile {
    /// `Some` until drop.
    file: Option<Arc<ContentHandle>>,
}

impl Drop for ReaderFile {
    fn drop(&mut self) {
        let file = self.file.take();
        let close = move || drop(file);
        // Closing a cached file touches the disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(close)),
            Err(_) => close(),
        }
    }
}

/// One step in flight. Dropping it cancels the request.
struct StepInFlight {
    answer: oneshot::Receiver<Result<Bytes, FsError>>,
    /// Dropping the result of this task ([`CancelOnDrop`]) cancels the request.
    _asking: JoinHandle<CancelOnDrop>,
}

impl StepInFlight {
    /// Reads a range on a blocking thread. If this node lacks some of its bytes, requests them from
    /// other nodes.
    fn new(open: &Arc<ReaderFile>, range: ByteRange) -> Self {
        let (tell, answer) = oneshot::channel();
        let open = open.clone();
        let asking = spawn_blocking(move || CancelOnDrop(read_or_request(&open, range, tell)));
        Self {
            answer,
            _asking: asking,
        }
    }
}

struct CancelOnDrop(ReadWait);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn read_or_request(
    open: &ReaderFile,
    range: ByteRange,
    answer: oneshot::Sender<Result<Bytes, FsError>>,
) -> ReadWait {
    let mut buffer = vec![0; range.len() as usize];
    let Some(file) = &open.file else {
        return ReadWait::ended();
    };
    let told = match file.read_now(range.start, &mut buffer) {
        ReadNow::Done(length) if length == buffer.len() => Ok(Bytes::from(buffer)),
        // The file has become shorter, so its bytes are those of another version.
        ReadNow::Done(_) => Err(FsError::Gone),
        ReadNow::Failed(error) => Err(error),
        ReadNow::Wait => {
            let reply = Box::new(move |result| {
                let _gone = answer.send(result);
            });
            return file.read(range, true, reply);
        }
    };
    let _gone = answer.send(told);
    ReadWait::ended()
}
