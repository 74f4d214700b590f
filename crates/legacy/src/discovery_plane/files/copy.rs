//! The bytes of one transfer from a legacy peer, in a file, during the transfer and after it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::super::tcp::{CLOSE_WAIT, CopyError, Transfer};
use p2pfs_content::Reservation;
use p2pfs_fs::{FsError, ReadNow};

/// Progress of a transfer.
#[derive(Clone, Debug, Default)]
struct CopyProgress {
    written_bytes: u64,
    /// Whether the transfer is throttled by the rate limit.
    is_held: bool,
    outcome: Option<Result<(), CopyError>>,
}

/// The bytes of one transfer. Dropping the last reference removes them and ends the transfer.
///
/// A read that reaches the end of the file waits until the transfer has ended. Only then is it sure
/// that the peer sent no more bytes than announced; surplus bytes mean that it sent another file.
/// Once a transfer has failed, every read of its bytes fails.
#[derive(Debug)]
pub struct RemoteCopy {
    /// Size of the complete file in bytes.
    pub size_bytes: u64,
    file: Arc<File>,
    path: PathBuf,
    progress: watch::Receiver<CopyProgress>,
    room: Arc<Mutex<Reservation>>,
    /// Cloned by each read that waits for bytes, so that the count of its references tells whether
    /// one does.
    waited_for: Arc<()>,
    _place: OwnedSemaphorePermit,
}

impl RemoteCopy {
    /// Creates the copy in a new file at `path`. The reservation `room` grows as bytes arrive. Also
    /// returns the writer that carries a transfer into the copy.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn start(
        size_bytes: u64,
        path: PathBuf,
        room: Reservation,
        place: OwnedSemaphorePermit,
    ) -> io::Result<(Arc<Self>, CopyWriter)> {
        let opened = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let file = Arc::new(opened?);
        let (progress, seen) = watch::channel(CopyProgress::default());
        let copy = Arc::new(Self {
            size_bytes,
            file,
            path,
            progress: seen,
            room: Arc::new(Mutex::new(room)),
            waited_for: Arc::default(),
            _place: place,
        });
        let carrier = CopyWriter {
            copy: Arc::downgrade(&copy),
            progress,
        };
        Ok((copy, carrier))
    }

    /// Waits until the bytes have arrived and returns them. Gives up when the peer makes no
    /// progress for `patience`, at least for twice [`CLOSE_WAIT`].
    ///
    /// # Errors
    /// [`CopyError`] if the transfer failed, at whatever byte, or makes no progress.
    pub async fn read(
        &self,
        offset: u64,
        length: usize,
        patience: Duration,
    ) -> Result<Bytes, CopyError> {
        let end = self.size_bytes.min(offset.saturating_add(length as u64));
        let patience = patience.max(CLOSE_WAIT * 2);
        let mut progress = self.progress.clone();
        let _waits = self.waited_for.clone();
        let outcome = loop {
            let now = progress.borrow_and_update().clone();
            if self.has(&now, end) {
                break now.outcome;
            }
            let changed = if now.is_held {
                // A transfer throttled by the rate limit will resume; the peer is not silent.
                Ok(progress.changed().await)
            } else {
                timeout(patience, progress.changed()).await
            };
            match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(CopyError::Interrupted("the transfer ended")),
                Err(_) => return Err(CopyError::Interrupted("nothing comes")),
            }
        };
        if let Some(Err(error)) = outcome {
            return Err(error);
        }
        let (file, count) = (self.file.clone(), end.saturating_sub(offset));
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; usize::try_from(count).unwrap_or(0)];
            file.read_exact_at(&mut buffer, offset).map(|()| buffer)
        });
        match read.await {
            Ok(Ok(buffer)) => Ok(buffer.into()),
            Ok(Err(error)) => Err(CopyError::Disk(error.to_string())),
            Err(_) => Err(CopyError::Disk("the read did not end".to_owned())),
        }
    }

    /// Fills the buffer if its bytes have arrived.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let now = self.progress.borrow().clone();
        match now.outcome {
            Some(Err(error)) => ReadNow::Failed(error.as_fs_error()),
            _ if !self.has(&now, offset.saturating_add(buffer.len() as u64)) => ReadNow::Wait,
            _ => match self.file.read_exact_at(buffer, offset) {
                Ok(()) => ReadNow::Done(buffer.len()),
                Err(_) => ReadNow::Failed(FsError::Disk),
            },
        }
    }

    /// Waits until the transfer has ended, with all bytes and without surplus bytes.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn whole(&self) -> Result<(), CopyError> {
        let mut progress = self.progress.clone();
        let ended = progress.wait_for(|now| now.outcome.is_some()).await;
        let ended = ended.map(|now| now.outcome.clone());
        match ended {
            Ok(Some(outcome)) => outcome,
            _ => Err(CopyError::Interrupted("the transfer ended")),
        }
    }

    /// Opens the file again for independent reading, useful once the copy is complete.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn reopen(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Returns whether the bytes before `end` can be returned, or the transfer is over. The last
    /// byte waits for the end of the transfer, because the peer may send more bytes than it
    /// announced.
    fn has(&self, now: &CopyProgress, end: u64) -> bool {
        now.outcome.is_some() || (now.written_bytes >= end && end < self.size_bytes)
    }

    /// Returns how many bytes have arrived.
    pub(super) fn written_bytes(&self) -> u64 {
        self.progress.borrow().written_bytes
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.progress.borrow().outcome, Some(Err(_)))
    }
}

impl Drop for RemoteCopy {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.path);
    }
}

/// Writes a transfer into its copy until the last reference to the copy is dropped.
pub(super) struct CopyWriter {
    copy: Weak<RemoteCopy>,
    progress: watch::Sender<CopyProgress>,
}

impl CopyWriter {
    /// Writes the transfer into the copy. Returns its outcome, or `None` if the copy was dropped.
    /// If the cache has no room for some bytes, calls `make_room`, and tries these bytes once more
    /// if that returns true.
    pub(super) async fn carry(
        &self,
        mut transfer: Transfer,
        make_room: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Option<Result<(), CopyError>> {
        loop {
            self.allowed(&mut transfer).await?;
            let part = match transfer.next().await {
                Ok(Some(part)) => part,
                Ok(None) => return Some(Ok(())),
                Err(error) => return Some(Err(error)),
            };
            let copy = self.copy.upgrade()?;
            let length = part.len() as u64;
            if let Err(error) = self.write(&copy, part, make_room.clone()).await {
                return Some(Err(error));
            }
            self.progress.send_modify(|now| now.written_bytes += length);
        }
    }

    /// Waits for the rate limit and marks the transfer as throttled meanwhile. Returns `None` if
    /// the copy was dropped.
    async fn allowed(&self, transfer: &mut Transfer) -> Option<()> {
        let is_waited_for = Arc::strong_count(&self.copy()?.waited_for) > 1;
        let allowed = transfer.allowed(is_waited_for);
        tokio::pin!(allowed);
        tokio::select! {
            biased;
            () = &mut allowed => return Some(()),
            () = std::future::ready(()) => {}
        }
        self.progress.send_modify(|now| now.is_held = true);
        allowed.await;
        self.progress.send_modify(|now| now.is_held = false);
        Some(())
    }

    /// Returns the copy if it was not dropped.
    pub(super) fn copy(&self) -> Option<Arc<RemoteCopy>> {
        self.copy.upgrade()
    }

    /// Publishes the outcome to the readers of the copy.
    pub(super) fn end(self, outcome: Result<(), CopyError>) {
        self.progress.send_modify(|now| now.outcome = Some(outcome));
    }

    /// Writes a part. Reserves its space first, so that the copy never exceeds the cache's budget.
    async fn write(
        &self,
        copy: &RemoteCopy,
        part: Bytes,
        make_room: impl Fn() -> bool + Send + 'static,
    ) -> Result<(), CopyError> {
        let at = self.progress.borrow().written_bytes;
        let (file, room) = (copy.file.clone(), copy.room.clone());
        let size_bytes = copy.size_bytes;
        let written = tokio::task::spawn_blocking(move || {
            let end = at + part.len() as u64;
            let grow = || {
                let mut room = room.lock();
                room.grow_to(end)
            };
            let has_room = grow() || (make_room() && grow());
            if !has_room {
                return Err(CopyError::NoRoom { size_bytes });
            }
            let written = file.write_all_at(&part, at);
            written.map_err(|error| CopyError::Disk(error.to_string()))
        });
        let written = written.await;
        written.unwrap_or_else(|_| Err(CopyError::Disk("the write did not end".to_owned())))
    }
}
