//! Batches: many small files requested at once before they are read, then verified, given to their
//! readers and cached.
//!
//! This module owns the batches that are queued or in flight, and their files until these are
//! stored. A read of a file in such a batch waits for the batch, but only for `PATIENCE`. If the
//! batch fails or is late, the read requests its range alone.
//!
//! One mutex guards the table. Bytes are verified and stored without it, on blocking threads.

mod asking;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::debug;

use super::client::{Fetcher, HoldersOf, ReadReply};
use crate::TRACE_TARGET;
use crate::net::peer::PeerNet;
use p2pfs_content::ContentStore;
pub use p2pfs_proto::wire::native::tcp::{BATCH_FILE_MAX_BYTES, SmallFile};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::read::ReadWait;

use asking::BatchesInner;
use table::BatchRead;

/// Maximum batches in flight to one node. With [`BATCH_TARGET_BYTES`] each, they move 50 MB/s over
/// a round trip of 20 ms.
pub const BATCHES_PER_NODE_MAX: usize = 4;
/// Maximum bytes of the files of a batch. A file reaches its reader when its whole batch has
/// arrived, which takes 0.26 s on a link of 1 MB/s.
pub const BATCH_TARGET_BYTES: u64 = 256 << 10;
/// Maximum number of files that are queued, in flight, or received but not stored. At this number,
/// no further files are requested.
pub const COMING_MAX: usize = 1024;
/// How long a read waits for a batch before its range is requested alone.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a node gets no new batches after a batch from it failed or was late.
const REST: Duration = Duration::from_secs(1);
/// How long no batch is requested from a node that does not support batches. After this time it may
/// run a newer version. Also how long none is requested from a node that was late with a batch of
/// the minimum size.
const LONG_REST: Duration = Duration::from_secs(60);

/// Small files requested in batches. Clones share the state.
#[derive(Clone)]
pub struct Batches {
    inner: Arc<BatchesInner>,
}

impl Batches {
    /// Creates an empty instance. Must be called within a tokio runtime, which then does the work.
    pub fn new(net: PeerNet, contents: ContentStore, holders: HoldersOf, fetcher: Fetcher) -> Self {
        let inner = Arc::new(BatchesInner::new(net, contents, holders, fetcher));
        Self { inner }
    }

    /// Requests whole small files without waiting for them. Leaves out files that are complete in
    /// the cache, already requested, empty, larger than [`BATCH_FILE_MAX_BYTES`], or without a
    /// holder that takes batches now. If [`COMING_MAX`] leaves no room for all, the last ones of
    /// `files` are left out.
    pub fn ask(&self, files: &[SmallFile]) {
        self.inner.ask(files);
    }

    /// Returns the bytes of a file that arrived in a batch and is not in the cache.
    pub fn here(&self, file: &SmallFile) -> Option<Bytes> {
        self.inner.table.lock().here(file)
    }

    /// Reads a range of a file that is in a queued batch or in one in flight. If the batch fails or
    /// is late, requests the range alone. The reply may be called before this returns.
    ///
    /// # Errors
    /// The reply, which was not called, if the file is in no such batch.
    pub fn read(
        &self,
        file: SmallFile,
        range: ByteRange,
        deadline: Instant,
        reply: ReadReply,
    ) -> Result<ReadWait, ReadReply> {
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
        Ok(ReadWait::new(self.inner.clone(), number))
    }

    /// Closes the cached files that are held for expected readers, so that the cache may be
    /// cleared. May touch the disk.
    pub fn close_idle(&self) {
        self.inner.close_held(Instant::now());
    }
}
