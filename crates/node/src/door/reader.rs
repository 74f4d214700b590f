//! Reading a file while it arrives.
//!
//! A reader asks for steps of a file and gives their bytes as they come. The first step after a
//! seek is one chunk, so that a jump costs little; each step that was read to its end doubles the
//! next, and at full length several are on their way at once, as far as the kernel reads ahead on
//! a mount.

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

use super::FileError;
use crate::{Node, NodeContent};
use p2pfs_fs::{Content, FileVersion, FsError, OpenContent, ReadNow, ReadTicket};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};
use p2pfs_types::path::SharedPath;

/// The longest step: the largest request between nodes.
const STEP_MAX_BYTES: u64 = 1 << 20;
/// Steps of full length that are asked for at one time, so that the next come while one is used.
const STEPS_AT_ONCE: usize = 4;

/// One version of a file, open for reading: the version that its name showed when it was opened,
/// to the last byte or an error, never a mixture. What is read is verified and, where there is
/// room, stays in the cache.
///
/// Reads end by the node's read deadline; the [`FsError`] is inside the [`io::Error`].
pub struct Reader {
    open: Arc<OpenFile>,
    size_bytes: u64,
    position: u64,
    /// Bytes that came and were not read, from `position` on.
    come: Bytes,
    /// Steps on their way, in order; the first begins behind `come`.
    asked: VecDeque<Asked>,
    asked_to: u64,
    step_bytes: u64,
}

impl Node {
    /// Opens a file for reading; links are followed.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::WrongKind`], [`FileError::TooManyLinks`], and
    /// [`FileError::Unreadable`] where neither its bytes nor a holder exist.
    pub async fn open(&self, path: &SharedPath) -> Result<Reader, FileError> {
        let opened = self.open_version(self.version(path)?).await;
        opened.map_err(|source| FileError::Unreadable {
            path: path.clone(),
            source,
        })
    }

    /// Opens one version, whatever its name shows by now; the mount shows an own file as it is on
    /// the disk, this the version alone.
    ///
    /// # Errors
    /// As [`Content::open`].
    pub async fn open_version(&self, version: FileVersion) -> Result<Reader, FsError> {
        let (content, size_bytes) = (self.content.clone(), version.size_bytes);
        let opener = content.clone();
        let opened = spawn_blocking(move || opener.open_unchanging(&version)).await;
        let opened = opened.map_err(|_| FsError::Fault)??;
        let file = Some(opened);
        Ok(Reader {
            open: Arc::new(OpenFile { content, file }),
            size_bytes,
            position: 0,
            come: Bytes::new(),
            asked: VecDeque::new(),
            asked_to: 0,
            step_bytes: CHUNK_BYTES,
        })
    }
}

impl Reader {
    /// How long the file is.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// For who will read it to its end: steps have their full length from the start.
    #[must_use]
    pub fn to_the_end(mut self) -> Self {
        self.step_bytes = STEP_MAX_BYTES;
        self
    }

    /// The next bytes as they come, without a copy; none at the end of the file. May be dropped
    /// before it is done: nothing is lost by that.
    ///
    /// # Errors
    /// What the read ended in; the next call asks again.
    pub async fn next_bytes(&mut self) -> Result<Bytes, FsError> {
        if self.come.is_empty() {
            self.come = poll_fn(|cx| self.poll_step(cx)).await?;
        }
        let bytes = std::mem::take(&mut self.come);
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    /// The bytes of the next step; none at the end.
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
            // steps end where chunks do, so that none is fetched for two of them
            let end = (self.asked_to + self.step_bytes) / CHUNK_BYTES * CHUNK_BYTES;
            let range = ByteRange::new(self.asked_to, end.min(self.size_bytes));
            self.asked.push_back(Asked::new(&self.open, range));
            self.asked_to = range.end;
        }
    }

    /// Takes back what was asked and not read.
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

/// A version that is open; closed when the last of its readers and questions goes.
struct OpenFile {
    content: Arc<NodeContent>,
    /// There until it is dropped.
    file: Option<Arc<dyn OpenContent>>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let file = self.file.take();
        let close = move || drop(file);
        // letting go of a cached file touches the disk
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(close)),
            Err(_) => close(),
        }
    }
}

/// One step that is on its way; dropping it takes the question back.
struct Asked {
    answer: oneshot::Receiver<Result<Bytes, FsError>>,
    /// What takes it back comes out of here, and goes with it.
    _asking: JoinHandle<TakeBack>,
}

impl Asked {
    /// Asks for all of a range: what is here at once, the rest from other nodes.
    fn new(open: &Arc<OpenFile>, range: ByteRange) -> Self {
        let (tell, answer) = oneshot::channel();
        let open = open.clone();
        let asking = spawn_blocking(move || {
            let ticket = read_or_ask(&open, range, tell);
            TakeBack { open, ticket }
        });
        Self {
            answer,
            _asking: asking,
        }
    }
}

struct TakeBack {
    open: Arc<OpenFile>,
    ticket: Option<ReadTicket>,
}

impl Drop for TakeBack {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.open.content.cancel(ticket);
        }
    }
}

fn read_or_ask(
    open: &OpenFile,
    range: ByteRange,
    answer: oneshot::Sender<Result<Bytes, FsError>>,
) -> Option<ReadTicket> {
    let mut buffer = vec![0; range.len() as usize];
    let file = open.file.as_ref()?;
    let told = match file.read_now(range.start, &mut buffer) {
        ReadNow::Done(length) if length == buffer.len() => Ok(Bytes::from(buffer)),
        // what became shorter meanwhile is another version
        ReadNow::Done(_) => Err(FsError::Gone),
        ReadNow::Failed(error) => Err(error),
        ReadNow::Wait => {
            let reply = Box::new(move |result| {
                let _gone = answer.send(result);
            });
            return Some(file.read(range, reply));
        }
    };
    let _gone = answer.send(told);
    None
}
