//! Batches: many small files requested at once before they are read, then verified, given to their
//! readers and cached.
//!
//! This module owns the batches in flight and their results until they are stored. A read whose
//! file is in a batch in flight waits for the batch, but not for long. If the batch breaks or is
//! slow, the file is fetched alone. The caller chooses the files, and a batch without result is not
//! an error for any reader.
//!
//! One mutex guards the table; it is held for table work only. Bytes are verified and stored on
//! blocking threads.

mod asking;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tracing::debug;

use super::client::{FetchTicket, Fetcher, HoldersOf, ReadReply};
use crate::TRACE_TARGET;
use crate::net::peer::PeerNet;
use p2pfs_cache::Cache;
use p2pfs_fetch::TransferError;
pub use p2pfs_proto::wire::native::tcp::{BATCH_FILE_MAX_BYTES, SmallFile};
use p2pfs_types::extent::ByteRange;

use table::{BatchRead, BatchTable};

/// Maximum batches in flight to one node. With [`BATCH_TARGET_BYTES`] each, they move 50 MB/s over
/// 20 ms.
pub const BATCHES_PER_NODE_MAX: usize = 4;
/// Maximum bytes of the files of a batch, unless a single file is larger. On a link of 1 MB/s the
/// first file then need not wait long for the last.
pub const BATCH_TARGET_BYTES: u64 = 256 << 10;
/// Maximum number of files that are in flight, queued, or received and not stored. Further files
/// are not requested.
pub const COMING_MAX: usize = 1024;
/// How long a read waits for a batch before its file is fetched alone. It is less than a reader may
/// notice of a silent holder.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a node that is busy, late or unreachable gets no batches.
const REST: Duration = Duration::from_secs(1);
/// How long a node that does not support batches gets none, since it may return with another
/// version. The pause also applies to a node at which even small batches are late.
const LONG_REST: Duration = Duration::from_secs(60);
/// Flag in the ticket of a read that waits for a batch.
const OURS: u64 = 1 << 63;

/// Small files requested in batches. Clones share the state.
#[derive(Clone)]
pub struct Batches {
    inner: Arc<BatchesInner>,
}

struct BatchesInner {
    net: PeerNet,
    cache: Cache,
    holders: HoldersOf,
    fetcher: Fetcher,
    table: Mutex<BatchTable>,
    runtime: tokio::runtime::Handle,
}

impl Batches {
    /// Creates an empty instance. Must be called within the runtime that does the work.
    pub fn new(net: PeerNet, cache: Cache, holders: HoldersOf, fetcher: Fetcher) -> Self {
        let inner = BatchesInner {
            net,
            cache,
            holders,
            fetcher,
            table: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Requests whole small files, the most wanted first. Files that are here, in flight, too large
    /// or without a holder are left out. Never blocks.
    pub fn ask(&self, files: &[SmallFile]) {
        self.inner.ask(files);
    }

    /// Returns the bytes of a file that arrived and is not stored yet.
    pub fn here(&self, file: &SmallFile) -> Option<Bytes> {
        self.inner.table.lock().here(file)
    }

    /// Reads from a batch in flight, or fetches the file alone if the batch breaks. Returns the
    /// ticket. The reply may be called before this returns.
    ///
    /// # Errors
    /// The reply, which was not called, if no batch has the file.
    pub fn read(
        &self,
        file: SmallFile,
        range: ByteRange,
        deadline: Instant,
        reply: ReadReply,
    ) -> Result<u64, ReadReply> {
        let reading = BatchRead {
            file,
            range,
            deadline,
            reply,
        };
        let number = self
            .inner
            .table
            .lock()
            .wait(reading)
            .map_err(|it| it.reply)?;
        debug!(target: TRACE_TARGET, hash = %file.hash, "the read waits for a batch");
        let inner = Arc::downgrade(&self.inner);
        self.inner.runtime.spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            if let Some(inner) = inner.upgrade() {
                let late = inner.table.lock().take_late(number, Instant::now());
                if !late.is_empty() {
                    // this opens files of the cache, and its disk may hang
                    tokio::task::spawn_blocking(move || inner.fetch_alone(late));
                }
            }
        });
        Ok(number | OURS)
    }

    /// Returns until when a read waits. `None` if it does not wait, or the ticket is not from this
    /// type.
    pub fn waits_until(&self, ticket: u64) -> Option<Instant> {
        let waits = self.inner.table.lock().waits(ticket & !OURS)?;
        match waits {
            Ok(deadline) => Some(deadline),
            Err(alone) => self.inner.fetcher.waits_until(alone),
        }
    }

    /// Cancels a read, as [`Fetcher::cancel`] does.
    pub fn cancel(&self, ticket: u64) {
        let cancelled = self.inner.table.lock().cancel(ticket & !OURS);
        match cancelled {
            Some(Ok(reading)) => (reading.reply)(Err(TransferError::Cancelled)),
            Some(Err(alone)) => self.inner.fetcher.cancel(alone),
            None => {}
        }
    }

    /// Closes the cached files that are held for expected readers, so that the cache may be
    /// cleared. May touch the disk.
    pub fn close_idle(&self) {
        self.inner.close_held(Instant::now());
    }

    /// Returns whether a ticket is from [`Batches::read`].
    pub fn is_ours(ticket: u64) -> bool {
        ticket & OURS != 0
    }
}

impl BatchesInner {
    /// Fetches files alone for reads after their batch broke or is late.
    fn fetch_alone(self: &Arc<Self>, readings: impl IntoIterator<Item = (u64, BatchRead)>) {
        for (number, reading) in readings {
            let BatchRead {
                file,
                range,
                deadline,
                reply,
            } = reading;
            let inner = self.clone();
            let answer: ReadReply = Box::new(move |outcome| {
                inner.table.lock().end(number);
                reply(outcome);
            });
            let SmallFile { hash, size_bytes } = file;
            debug!(target: TRACE_TARGET, %hash, "the file is fetched without its batch");
            let ticket: FetchTicket = self
                .fetcher
                .read_just(hash, size_bytes, range, deadline, answer);
            if !self.table.lock().is_alone(number, ticket) {
                self.fetcher.cancel(ticket);
            }
        }
    }
}
