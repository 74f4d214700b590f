//! A file of a legacy peer for which the cache has no room, as a [`Window`].
//!
//! Reads take the bytes from the transfer, and no bytes are stored on disk. A sequential reader,
//! such as a copy or a player, gets the bytes as they arrive, and the peer sends them only as fast
//! as they are read. The last bytes stay in memory for reads out of order. A read before these
//! bytes begins a new transfer.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{Mutex, OwnedSemaphorePermit};

use super::super::tcp::{CLOSE_WAIT, CopyError, Transfer};
use super::{RemoteFile, RemoteFiles};

/// Number of bytes kept before the offset of the last read.
const KEPT_BYTES: u64 = 1 << 20;

/// The transfer of one open. Dropping it ends the transfer.
pub struct Window {
    pub(super) size_bytes: u64,
    file: Arc<RemoteFile>,
    files: RemoteFiles,
    stream: Mutex<WindowStream>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct WindowStream {
    transfer: Transfer,
    /// Offset of the first kept byte.
    start: u64,
    kept: BytesMut,
    /// Whether the transfer has ended, with all bytes and without surplus bytes.
    is_whole: bool,
    failure: Option<CopyError>,
}

impl Window {
    /// Creates a window at the start of a transfer, with the slot `place`.
    pub(super) fn new(
        file: Arc<RemoteFile>,
        transfer: Transfer,
        files: RemoteFiles,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            size_bytes: transfer.size_bytes(),
            file,
            files,
            stream: Mutex::new(WindowStream::new(transfer)),
            _place: place,
        }
    }

    /// Returns the bytes once they have arrived, from a new transfer if they have gone past.
    pub(super) async fn read(
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
                return Err(CopyError::Interrupted("it has another file by now"));
            }
            *stream = WindowStream::new(transfer);
        }
        while stream.reached() < end || (end == self.size_bytes && !stream.is_whole) {
            // The wait for the rate limit does not count towards `patience`.
            stream.transfer.allowed(true).await;
            let patience = patience.max(CLOSE_WAIT * 2);
            let taken = tokio::time::timeout(patience, stream.receive_next(offset)).await;
            let taken = taken.map_err(|_| CopyError::Interrupted("nothing comes"))?;
            if let Err(error) = taken {
                self.files.failed(&self.file, &error);
                stream.failure = Some(error.clone());
                return Err(error);
            }
        }
        let from = usize::try_from(offset - stream.start).unwrap_or(usize::MAX);
        let to = usize::try_from(end - stream.start).unwrap_or(usize::MAX);
        let bytes = stream.kept.get(from..to).map(Bytes::copy_from_slice);
        bytes.ok_or(CopyError::Interrupted("its bytes have gone past"))
    }
}

impl WindowStream {
    fn new(transfer: Transfer) -> Self {
        Self {
            transfer,
            start: 0,
            kept: BytesMut::new(),
            is_whole: false,
            failure: None,
        }
    }

    /// Returns the end of the bytes that have arrived.
    fn reached(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    /// Takes the next bytes of the transfer, and drops those more than [`KEPT_BYTES`] before the
    /// offset `reader`.
    async fn receive_next(&mut self, reader: u64) -> Result<(), CopyError> {
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
