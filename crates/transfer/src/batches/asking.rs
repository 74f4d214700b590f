//! Path of a batch: chooses a holder for each file, requests the batch, verifies the answer, gives
//! the bytes to the waiting readers and stores them in the cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::debug;

use super::table::{Batch, BatchHandle, BatchRead, BatchTable};
use super::{LONG_REST, REST};
use crate::TRACE_TARGET;
use crate::client::{Fetcher, HoldersOf, ReadReply};
use crate::net::NetError;
use crate::net::peer::{PeerNet, Progress};
use p2pfs_content::{ContentStore, Stored};
use p2pfs_fetch::session::Read;
use p2pfs_fetch::{Holder, TransferError};
use p2pfs_proto::wire::native::tcp::{
    BATCH_FILE_MAX_BYTES, BATCH_FILES_MAX, BatchPart, Lane, Request, Response, SmallFile,
    unpack_batch,
};
use p2pfs_types::digest::{self, DigestError, Verified};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};
use p2pfs_types::id::NodeId;
use p2pfs_types::read::ReadSupplier;

/// How long a cache file is held open after a batch stored it.
const HELD_FOR: Duration = Duration::from_secs(2);
/// How long a node that gave wrong bytes gets no new batches: as long as the fetcher shuns it.
const LIED_REST: Duration = p2pfs_fetch::plan::SHUN;

/// State that all clones of [`Batches`](super::Batches) share.
pub(super) struct BatchesInner {
    net: PeerNet,
    contents: ContentStore,
    holders: HoldersOf,
    pub(super) fetcher: Fetcher,
    pub(super) table: Mutex<BatchTable>,
    pub(super) runtime: tokio::runtime::Handle,
}

impl BatchesInner {
    pub(super) fn new(
        net: PeerNet,
        contents: ContentStore,
        holders: HoldersOf,
        fetcher: Fetcher,
    ) -> Self {
        Self {
            net,
            contents,
            holders,
            fetcher,
            table: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    pub(super) fn ask(self: &Arc<Self>, files: &[SmallFile]) {
        let now = Instant::now();
        let peers = self.fetcher.peers();
        let shunned = |node: &NodeId| peers.iter().any(|it| it.node == *node && it.shunned);
        let priority = |holder: &Holder| {
            let known = peers.iter().find(|peer| peer.node == holder.node);
            known.map_or(usize::MAX, |peer| peer.priority)
        };
        let mut batches: Vec<Batch> = Vec::new();
        let mut room = self.table.lock().room();
        for file in files {
            let is_small = (1..=BATCH_FILE_MAX_BYTES).contains(&file.size_bytes);
            if room == 0 || !is_small || self.contents.is_whole(&file.hash) {
                continue;
            }
            let mut holders = (self.holders)(&file.hash);
            {
                let table = self.table.lock();
                holders.retain(|it| {
                    let says_so = it.size_bytes == file.size_bytes;
                    says_so && !table.is_resting(&it.node, now) && !shunned(&it.node)
                });
                if table.is_coming(file) {
                    continue;
                }
            }
            let Some(best) = holders.into_iter().min_by_key(priority) else {
                continue;
            };
            let most = self.table.lock().most_bytes(&best.node);
            let fits = |bytes| bytes <= most && !self.fetcher.download().is_too_much(bytes);
            let is_in = |batch: &Batch| batch.files.contains(file);
            if !batches.iter().any(is_in) {
                add(&mut batches, best, *file, fits);
                room -= 1;
            }
        }
        let mut table = self.table.lock();
        // a concurrent call may have requested some of these files meanwhile
        for batch in &mut batches {
            batch.files.retain(|file| !table.is_coming(file));
        }
        for batch in batches {
            // The node may have begun to rest since it was chosen.
            if !batch.files.is_empty() && !table.is_resting(&batch.from.node, now) {
                table.queue(batch);
            }
        }
        drop(table);
        self.send();
    }

    /// Sends the batches that may be sent now.
    fn send(self: &Arc<Self>) {
        loop {
            let Some((batch, under_way)) = self.table.lock().next() else {
                return;
            };
            let inner = self.clone();
            self.runtime
                .spawn(async move { inner.exchange(batch, under_way).await });
        }
    }

    async fn exchange(self: Arc<Self>, mut batch: Batch, under_way: BatchHandle) {
        let BatchHandle { number, taken_back } = under_way;
        let parts = tokio::select! {
            parts = self.answer(&mut batch) => Some(parts),
            _ = taken_back => None,
        };
        self.table.lock().remove_in_flight(batch.from.node, number);
        self.send();
        // no reader waits for the answer of a cancelled batch
        let Some(parts) = parts else { return };
        let inner = self.clone();
        let taking = move || inner.take(&batch, parts);
        // the task can fail only by a panic, which the panic hook reports
        let _ = self.runtime.spawn_blocking(taking).await;
        self.close_held_later();
    }

    /// Waits until the download limit lets the batch pass, then requests those of its files that
    /// are still expected from its holder. Returns the parts of the answer, or none if the request
    /// was not sent or got no valid answer. Dropping the future cancels the request.
    async fn answer(self: &Arc<Self>, batch: &mut Batch) -> Vec<BatchPart> {
        let Holder { node, address, .. } = batch.from;
        let download = self.fetcher.download();
        let passed_bytes = bytes_of(&batch.files);
        download.pass(passed_bytes, false).await;
        let mut passed = download.passed(passed_bytes);
        {
            let table = self.table.lock();
            batch.files.retain(|file| table.is_wanted(file, &node));
        }
        let mut bytes = bytes_of(&batch.files);
        if self.fetcher.is_metered() || download.is_too_much(bytes) {
            bytes = 0;
        }
        passed.reduce_to(bytes);
        if bytes == 0 {
            return Vec::new();
        }
        let files = batch.files.clone();
        debug!(target: TRACE_TARGET, peer = %node, bytes, "batch of {} files requested", files.len());
        let (asked, begun) = (Request::Batch { files }, Instant::now());
        let progress = passed.on_bytes().map(|on_bytes| Progress {
            tell: Arc::new(move |_, _, bytes| on_bytes(bytes)),
            node,
            key: 0,
        });
        let asking = self
            .net
            .request_telling(node, address, lane_of(bytes), asked, progress);
        let answer = asking.await;
        debug!(target: TRACE_TARGET, peer = %node, is_answered = answer.is_ok(), "the batch ended");
        let mut table = self.table.lock();
        let rest = match answer {
            Ok(Response::Batch { packed }) => {
                passed.mark_transferred();
                table.record_duration(node, bytes, begun.elapsed());
                return unpack_batch(&packed).unwrap_or_default();
            }
            Err(NetError::Older) => LONG_REST,
            _ => REST,
        };
        let alone = table.rest(node, Instant::now(), rest);
        drop(table);
        if !alone.is_empty() {
            let inner = self.clone();
            self.runtime
                .spawn_blocking(move || inner.fetch_alone(alone));
        }
        Vec::new()
    }

    /// Schedules the closing of held files. The reference is weak, so that this timer does not keep
    /// the cache open.
    fn close_held_later(self: &Arc<Self>) {
        let inner = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(HELD_FOR).await;
            let letting_go = move || {
                if let Some(inner) = inner.upgrade() {
                    inner.close_held(Instant::now() - HELD_FOR);
                }
            };
            tokio::task::spawn_blocking(letting_go).await
        });
    }

    /// Verifies the files of an answer, gives their bytes to the waiting reads, then stores them.
    /// For a file without valid bytes, fetches the ranges of its waiting reads alone. Blocking.
    fn take(self: &Arc<Self>, batch: &Batch, parts: Vec<BatchPart>) {
        let (mut verified, mut lie) = (Vec::new(), None);
        let mut parts = parts.into_iter();
        for file in &batch.files {
            match proven(file, parts.next()) {
                Ok(proven) => {
                    self.deliver(file, &proven);
                    verified.push((*file, proven));
                    continue;
                }
                Err(Some(DigestError::ProofFailed)) => lie = Some(*file),
                Err(_) => {}
            }
            debug!(target: TRACE_TARGET, hash = %file.hash, "the batch lacks the file");
            let waiting = self.table.lock().failed(file, &batch.from.node);
            self.fetch_alone(waiting);
        }
        let node = batch.from.node;
        let given_bytes = verified.iter().map(|(file, _)| file.size_bytes).sum();
        self.fetcher.gave(node, given_bytes);
        if let Some(file) = lie {
            let alone = self.table.lock().rest(node, Instant::now(), LIED_REST);
            self.fetcher.lied(node, file);
            self.fetch_alone(alone);
        }
        for (file, proven) in &verified {
            self.store(file, proven);
        }
    }

    /// Fetches the ranges of these reads alone, after their batch failed or was late.
    pub(super) fn fetch_alone(
        self: &Arc<Self>,
        readings: impl IntoIterator<Item = (u64, BatchRead)>,
    ) {
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
            debug!(target: TRACE_TARGET, hash = %file.hash, "the file is fetched without its batch");
            let mut read = Read::new(file, range, deadline, answer);
            read.ahead = false;
            let wait = self.fetcher.read(read);
            if !self.table.lock().is_alone(number, wait.clone()) {
                wait.cancel();
            }
        }
    }

    fn deliver(&self, file: &SmallFile, proven: &Verified) {
        let readings = self.table.lock().mark_received(*file, proven.bytes.clone());
        for BatchRead { range, reply, .. } in readings {
            let end = range.end.min(file.size_bytes);
            let part = proven
                .bytes
                .slice(range.start.min(end) as usize..end as usize);
            reply(Ok(part));
        }
    }

    /// Stores a file in the cache. If that fails, the file stays in memory until newer ones
    /// displace it.
    fn store(&self, file: &SmallFile, proven: &Verified) {
        let opened = self.contents.place(file);
        let stored = opened.filter(|opened| matches!(opened.store(proven), Ok(Stored::Kept)));
        let closed = match stored {
            Some(opened) => {
                let now = Instant::now();
                self.table.lock().stored(file, opened, now)
            }
            None => {
                self.table.lock().refused(*file);
                Vec::new()
            }
        };
        drop(closed);
    }

    /// Closes the held cache files that were stored at or before a time. Blocking.
    pub(super) fn close_held(&self, before: Instant) {
        let closed = self.table.lock().close_held(before);
        drop(closed);
    }
}

impl ReadSupplier for BatchesInner {
    fn waits_until(&self, number: u64) -> Option<Instant> {
        let waits = self.table.lock().waits(number)?;
        match waits {
            Ok(deadline) => Some(deadline),
            Err(alone) => alone.until(),
        }
    }

    fn cancel(self: Arc<Self>, number: u64) {
        let cancelled = self.table.lock().cancel(number);
        match cancelled {
            Some(Ok(reading)) => (reading.reply)(Err(TransferError::Cancelled)),
            Some(Err(alone)) => alone.cancel(),
            None => {}
        }
    }
}

/// Returns the lane of a batch. A batch of at most one chunk is urgent, so that the reader of one
/// small file does not wait for large answers in flight.
fn lane_of(size_bytes: u64) -> Lane {
    if size_bytes <= CHUNK_BYTES {
        Lane::Urgent
    } else {
        Lane::Bulk
    }
}

/// Returns the verified bytes of a file. The error is `None` if `part` has no bytes, and otherwise
/// the reason why they are not accepted.
fn proven(file: &SmallFile, part: Option<BatchPart>) -> Result<Verified, Option<DigestError>> {
    let Some(BatchPart::Here(proof)) = part else {
        return Err(None);
    };
    let whole = ByteRange::new(0, file.size_bytes);
    digest::decode(file.hash, file.size_bytes, whole, proof).map_err(Some)
}

fn bytes_of(files: &[SmallFile]) -> u64 {
    files.iter().map(|file| file.size_bytes).sum()
}

/// Adds a file to the last batch of its holder that has room, or to a new one. `fits` returns
/// whether a batch may have this many bytes.
fn add(batches: &mut Vec<Batch>, from: Holder, file: SmallFile, fits: impl Fn(u64) -> bool) {
    let has_room = |batch: &&mut Batch| {
        batch.from.node == from.node
            && batch.files.len() < BATCH_FILES_MAX
            && fits(bytes_of(&batch.files) + file.size_bytes)
    };
    match batches.iter_mut().rfind(has_room) {
        Some(batch) => batch.files.push(file),
        None => batches.push(Batch {
            from,
            files: vec![file],
        }),
    }
}
