//! Many small files at once, before anybody reads them: asked for in batches, verified, given to
//! whoever waits, and kept in the cache.
//!
//! Owns the batches that are under way and what has come of them until it is stored. A read that
//! finds its file in a batch under way waits for that, but not for long: where the batch breaks, or
//! takes its time, the file is fetched alone. It never decides what to ask for, and a batch that
//! comes to nothing is nobody's error.
//!
//! One mutex guards the table; it is held for table work only. Bytes are verified and stored on
//! blocking threads.

mod asking;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::client::{FetchTicket, Fetcher, HoldersOf, ReadReply};
use crate::net::peer::PeerNet;
use p2pfs_cache::Cache;
use p2pfs_fetch::TransferError;
pub use p2pfs_proto::wire::native::tcp::{BATCH_FILE_MAX_BYTES, SmallFile};
use p2pfs_types::extent::ByteRange;

use table::{Reading, Table};

/// The most batches under way to one node at a time: with [`BATCH_TARGET_BYTES`] each, they move
/// 50 MB/s over 20 ms.
pub const BATCHES_PER_NODE_MAX: usize = 4;
/// What a batch has of files together, unless one file alone is more: small enough that the first
/// of them is not kept waiting by the last on a link of 1 MB/s.
pub const BATCH_TARGET_BYTES: u64 = 256 << 10;
/// The most files that are asked for, wait to be asked for, or are here and not stored; what is
/// wanted beyond that is not asked for.
pub const COMING_MAX: usize = 1024;
/// How long a read waits for a batch before its file is fetched alone: less than a reader may see
/// of a holder that fell silent.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long nothing is asked in batches of a node that is busy, late or does not answer.
const REST: Duration = Duration::from_secs(1);
/// How long nothing is asked in batches of a node that does not know them, since it may be of
/// another version when it is back, or of which even small ones are late.
const LONG_REST: Duration = Duration::from_secs(60);
/// What marks the ticket of a read that waits for a batch.
const OURS: u64 = 1 << 63;

/// Small files on their way in batches. Clones are the same.
#[derive(Clone)]
pub struct Batches {
    inner: Arc<Inner>,
}

struct Inner {
    net: PeerNet,
    cache: Cache,
    holders: HoldersOf,
    fetcher: Fetcher,
    table: Mutex<Table>,
    runtime: tokio::runtime::Handle,
}

impl Batches {
    /// Nothing is under way yet. To be called within the runtime that does the work.
    pub fn new(net: PeerNet, cache: Cache, holders: HoldersOf, fetcher: Fetcher) -> Self {
        let inner = Inner {
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

    /// Asks for whole small files, the one wanted first first; those that are here, on their way,
    /// too large or held by nobody are left out. Never waits.
    pub fn ask(&self, files: &[SmallFile]) {
        self.inner.ask(files);
    }

    /// A file that has come and is not stored yet.
    pub fn here(&self, file: &SmallFile) -> Option<Bytes> {
        self.inner.table.lock().here(file)
    }

    /// Reads from a batch that is under way, or alone where it breaks; gives the reply back where
    /// the file is in none. The reply may be called before this returns.
    ///
    /// # Errors
    /// The reply, which was not called.
    pub fn read(
        &self,
        file: SmallFile,
        range: ByteRange,
        deadline: Instant,
        reply: ReadReply,
    ) -> Result<u64, ReadReply> {
        let reading = Reading {
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
        let inner = Arc::downgrade(&self.inner);
        self.inner.runtime.spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            if let Some(inner) = inner.upgrade() {
                let late = inner.table.lock().late(number, Instant::now());
                if !late.is_empty() {
                    // opens files of the cache, whose disk may stand still
                    tokio::task::spawn_blocking(move || inner.fetch_alone(late));
                }
            }
        });
        Ok(number | OURS)
    }

    /// Until when a read waits; nothing where it waits no more, or the ticket is not of here.
    pub fn waits_until(&self, ticket: u64) -> Option<Instant> {
        let waits = self.inner.table.lock().waits(ticket & !OURS)?;
        match waits {
            Ok(deadline) => Some(deadline),
            Err(alone) => self.inner.fetcher.waits_until(alone),
        }
    }

    /// Takes a read back, as [`Fetcher::cancel`] does.
    pub fn cancel(&self, ticket: u64) {
        let cancelled = self.inner.table.lock().cancel(ticket & !OURS);
        match cancelled {
            Some(Ok(reading)) => (reading.reply)(Err(TransferError::Cancelled)),
            Some(Err(alone)) => self.inner.fetcher.cancel(alone),
            None => {}
        }
    }

    /// Lets go of the cached files that are held for who was expected to read them, so that the
    /// cache may be cleared of them. May touch the disk.
    pub fn close_idle(&self) {
        self.inner.let_go(Instant::now());
    }

    /// Whether a ticket is of a read here.
    pub fn is_ours(ticket: u64) -> bool {
        ticket & OURS != 0
    }
}

impl Inner {
    /// Reads whose batch broke, or takes its time, go on as any other.
    fn fetch_alone(self: &Arc<Self>, readings: impl IntoIterator<Item = (u64, Reading)>) {
        for (number, reading) in readings {
            let Reading {
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
            let ticket: FetchTicket = self
                .fetcher
                .read_just(hash, size_bytes, range, deadline, answer);
            if !self.table.lock().is_alone(number, ticket) {
                self.fetcher.cancel(ticket);
            }
        }
    }
}
