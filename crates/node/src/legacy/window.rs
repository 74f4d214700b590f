//! A file of a legacy peer for which the cache has no room: its bytes go past.
//!
//! They are taken from the transfer as they are read, so a reader that goes forward, as a copy or a
//! player does, has them as they come and slows the peer to its own pace. The last ones are kept
//! for reads that come out of order; to read again what has gone past begins the transfer anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{Mutex, OwnedSemaphorePermit};

use super::copy::RemoteCopy;
use super::error::CopyError;
use super::files::{RemoteFile, RemoteFiles};
use super::incoming::Incoming;
use p2pfs_fs::ReadNow;
use p2pfs_legacy::net::discovery::CLOSE_WAIT;

/// Bytes that are kept before the one that was read last.
const KEPT_BYTES: u64 = 1 << 20;

/// What one open of a legacy peer's file reads from.
#[derive(Clone)]
pub enum RemoteBytes {
    /// All of it, in the cache's folder.
    Copy(Arc<RemoteCopy>),
    /// What is read of it now.
    Window(Arc<Window>),
}

impl RemoteBytes {
    /// How many bytes the file has.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Copy(copy) => copy.size_bytes,
            Self::Window(window) => window.size_bytes,
        }
    }

    /// Fills the buffer if its bytes are there.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        match self {
            Self::Copy(copy) => copy.read_now(offset, buffer),
            Self::Window(_) => ReadNow::Wait,
        }
    }

    /// Waits until the bytes are there, for as long as more come within each `patience`.
    ///
    /// # Errors
    /// [`CopyError`] where the transfer failed, or nothing comes.
    pub async fn read(
        &self,
        offset: u64,
        length: usize,
        patience: Duration,
    ) -> Result<Bytes, CopyError> {
        match self {
            Self::Copy(copy) => copy.read(offset, length, patience).await,
            Self::Window(window) => window.read(offset, length, patience).await,
        }
    }
}

/// The transfer of one open. Dropping it ends the transfer.
pub struct Window {
    size_bytes: u64,
    file: Arc<RemoteFile>,
    files: RemoteFiles,
    stream: Mutex<Stream>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Stream {
    transfer: Incoming,
    /// Where the kept bytes begin.
    start: u64,
    kept: BytesMut,
    /// All have come, and the peer has kept its word to the end.
    is_whole: bool,
    failure: Option<CopyError>,
}

impl RemoteFiles {
    /// A transfer that is read as it comes, without a copy.
    ///
    /// # Errors
    /// [`CopyError`]; [`CopyError::NoRoom`] where there are as many windows as there may be.
    pub async fn window(&self, file: &Arc<RemoteFile>) -> Result<Arc<Window>, CopyError> {
        let place = self.place_of_window(file)?;
        let transfer = self.transfer(file).await?;
        if transfer.size_bytes() == file.size_bytes {
            let window = Window::new(file.clone(), transfer, self.clone(), place);
            return Ok(Arc::new(window));
        }
        let renewed = self.found(file.name.clone(), file.peer, transfer);
        let transfer = renewed.take_parked().ok_or(CopyError::Refused)?;
        let window = Window::new(renewed, transfer, self.clone(), place);
        Ok(Arc::new(window))
    }
}

impl Window {
    fn new(
        file: Arc<RemoteFile>,
        transfer: Incoming,
        files: RemoteFiles,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            size_bytes: transfer.size_bytes(),
            file,
            files,
            stream: Mutex::new(Stream::new(transfer)),
            _place: place,
        }
    }

    async fn read(
        &self,
        offset: u64,
        length: usize,
        patience: Duration,
    ) -> Result<Bytes, CopyError> {
        let end = self.size_bytes.min(offset.saturating_add(length as u64));
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut stream = self.stream.lock().await;
        if let Some(failure) = &stream.failure {
            return Err(failure.clone());
        }
        if offset < stream.start {
            let transfer = self.files.transfer(&self.file).await?;
            if transfer.size_bytes() != self.size_bytes {
                return Err(CopyError::interrupted("it has another file by now"));
            }
            *stream = Stream::new(transfer);
        }
        while stream.reached() < end || (end == self.size_bytes && !stream.is_whole) {
            // outside the time that the peer has
            stream.transfer.allowed(true).await;
            let patience = patience.max(CLOSE_WAIT * 2);
            let taken = tokio::time::timeout(patience, stream.take(offset)).await;
            let taken = taken.map_err(|_| CopyError::interrupted("nothing comes"))?;
            if let Err(error) = taken {
                self.files.failed(&self.file, &error);
                stream.failure = Some(error.clone());
                return Err(error);
            }
        }
        let from = usize::try_from(offset - stream.start).unwrap_or(usize::MAX);
        let to = usize::try_from(end - stream.start).unwrap_or(usize::MAX);
        let bytes = stream.kept.get(from..to).map(Bytes::copy_from_slice);
        bytes.ok_or_else(|| CopyError::interrupted("its bytes have gone past"))
    }
}

impl Stream {
    fn new(transfer: Incoming) -> Self {
        Self {
            transfer,
            start: 0,
            kept: BytesMut::new(),
            is_whole: false,
            failure: None,
        }
    }

    /// Up to where bytes have come.
    fn reached(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    /// Takes what comes next, and lets go of what is far before the reader.
    async fn take(&mut self, reader: u64) -> Result<(), CopyError> {
        match self.transfer.next().await? {
            Some(part) => self.kept.extend_from_slice(&part),
            None => self.is_whole = true,
        }
        let keep_from = reader.saturating_sub(KEPT_BYTES);
        let past = keep_from.saturating_sub(self.start);
        let past = self
            .kept
            .len()
            .min(usize::try_from(past).unwrap_or(usize::MAX));
        self.kept.advance(past);
        self.start += past as u64;
        Ok(())
    }
}
