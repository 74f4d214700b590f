//! I/O around a [`Session`](p2pfs_fetch::session::Session): sockets, tasks, threads and the cache.
//!
//! The session chooses the peers, the bytes to keep and the time to give up. One mutex guards it,
//! which is never held across an await, a disk access or a reader's reply. The session's actions
//! are carried out after the mutex is released. Requests are tasks, and blocking threads verify and
//! store the answers. A small range with a waiting reader takes a shorter way, because each change
//! of thread would cost as much as the work itself: the reader's thread writes the request, and the
//! connection's task verifies the answer and delivers it. Readers get their bytes before these are
//! stored.
//!
//! [`Fetcher`] is the interface. `inner` has the session and carries out its actions: `answers`
//! exchanges requests for answers, `opening` opens files of the cache, and `storing` and
//! `write_behind` store verified bytes.

mod answers;
mod asking;
mod fill;
mod inner;
mod opening;
mod storing;
mod terms;
#[cfg(test)]
mod tests;
mod trace;
mod write_behind;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::Pace;
use crate::net::peer::PeerNet;
use p2pfs_content::ContentStore;
use p2pfs_fetch::plan::{FilesToClose, Offer, PeerNews, PeerRate, PeerRecord};
use p2pfs_fetch::session::{FetchEvent, FillId, Read};
use p2pfs_fetch::{FetchReport, Supply, TransferError};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;
use p2pfs_types::read::ReadWait;

use asking::RequestSender;
pub use fill::Fill;
use inner::FetcherInner;
pub use terms::{FetchConfig, HoldersOf, ReadReply};

/// Maximum events that wait in the channel of [`Fetcher::new`]. Further ones are dropped.
pub const FETCH_EVENTS_MAX: usize = 1024;
/// Default maximum of bytes in memory that the cache refused. They stay for further reads until
/// newer ones displace them.
pub const UNCACHED_MAX_BYTES: u64 = 32 << 20;

/// Fetcher of contents from other nodes. Clones are the same fetcher.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<FetcherInner>,
}

impl Fetcher {
    /// Creates a fetcher on the current tokio runtime.
    pub fn new(
        config: FetchConfig,
        net: PeerNet,
        contents: ContentStore,
        holders: HoldersOf,
    ) -> (Self, mpsc::Receiver<FetchEvent>) {
        Self::with_asking(config, RequestSender::over(net), contents, holders)
    }

    fn with_asking(
        config: FetchConfig,
        asking: RequestSender,
        contents: ContentStore,
        holders: HoldersOf,
    ) -> (Self, mpsc::Receiver<FetchEvent>) {
        let (inner, receiver) = FetcherInner::start(config, asking, contents, holders);
        (Self { inner }, receiver)
    }

    /// Returns the download limit.
    pub fn download(&self) -> &Pace {
        &self.inner.settings.download
    }

    /// Sets whether the network is metered. If it is, this fetcher does not read ahead. Fills go
    /// on, because a user requested them.
    pub fn set_metered(&self, metered: bool) {
        self.inner.settings.metered.send_replace(metered);
        self.inner
            .with(|session, _| session.plan.set_metered(metered));
    }

    /// Returns whether the network is metered.
    pub fn is_metered(&self) -> bool {
        *self.inner.settings.metered.borrow()
    }

    /// Returns a receiver that follows the metered state.
    pub fn metered(&self) -> watch::Receiver<bool> {
        self.inner.settings.metered.subscribe()
    }

    /// Reads a range from the cache, or from other nodes until its deadline, which is extended while
    /// bytes of the file arrive. The reply may be called before this returns. It is called with
    /// [`TransferError::Cancelled`] if the read is cancelled. May touch the local disk, so it must
    /// not be called in an async task.
    pub fn read(&self, read: Read<ReadReply>) -> ReadWait {
        let (range, size_bytes) = (read.range, read.content.size_bytes);
        if range.end > size_bytes {
            let (start, end) = (range.start, range.end);
            (read.handle)(Err(TransferError::OutOfRange {
                start,
                end,
                size_bytes,
            }));
            return ReadWait::ended();
        }
        if range.is_empty() {
            (read.handle)(Ok(Bytes::new()));
            return ReadWait::ended();
        }
        match opening::start(&self.inner, read) {
            Some(id) => ReadWait::new(self.inner.clone(), id.0),
            None => ReadWait::ended(),
        }
    }

    /// Records that a range was read from the cache without [`Fetcher::read`], so that read-ahead
    /// moves on. Cheap.
    pub fn record_read(&self, content: ContentKey, range: ByteRange) {
        self.inner
            .with(|session, now| session.plan.record_read(now, &content, range));
    }

    /// Returns whether a holder of a content is known. False for a content that is neither being
    /// fetched nor was used recently.
    pub fn has_holder(&self, content: &ContentKey) -> bool {
        self.inner
            .state
            .lock()
            .session
            .plan
            .files()
            .has_holder(content)
    }

    /// Returns what this node has of a file, and the nodes that were asked for it lately. Returns
    /// nothing if the file was not used lately.
    pub fn supply(&self, content: &ContentKey) -> Supply {
        let state = self.inner.state.lock();
        state.session.plan.files().supply(content)
    }

    /// Starts to bring a whole file into the cache. Does not block.
    pub fn fill(&self, hash: ContentHash, size_bytes: u64) -> Fill {
        let content = ContentKey::new(hash, size_bytes);
        let (fill, id, sender) = Fill::new(self.clone(), content);
        let inner = self.inner.clone();
        self.inner
            .runtime
            .spawn_blocking(move || opening::begin_fill(&inner, content, id, sender));
        fill
    }

    fn cancel_fill(&self, content: &ContentKey, id: FillId) {
        self.inner
            .with(|session, _| session.cancel_fill(content, id));
    }

    /// Records an offer: a node has some of a file and is reached at `address`. Adds no holder to a
    /// file that is neither being fetched nor was used recently.
    pub fn record_offer(&self, offer: Offer, address: SocketAddr) {
        self.inner
            .with(|session, now| session.record_offer(now, &offer, address));
    }

    /// Records a node that asks for a content as a future holder of its parts, if this node fetches
    /// the content too.
    pub fn add_fellow(&self, hash: &ContentHash, node: NodeId, address: SocketAddr) {
        self.inner
            .with(|session, now| session.add_fellow(now, hash, node, address));
    }

    /// Closes the cache files that no reader and no fill waits for, so that the cache may be
    /// cleared. Blocks until they are closed. Files that the session closed earlier may still be
    /// closing on another thread.
    pub fn close_idle(&self) {
        let ((), mut actions, is_sooner) = self
            .inner
            .tell(|session, _| session.plan.close_files(FilesToClose::Idle));
        drop(std::mem::take(&mut actions.closed));
        self.inner.carry_out(actions);
        if is_sooner {
            self.inner.wake.notify_one();
        }
    }

    /// Forgets the failures of a node that has returned, but not that it sent wrong bytes.
    pub fn returned(&self, node: &NodeId) {
        self.inner
            .with(|session, _| session.plan.record_peer_news(*node, PeerNews::Returned));
    }

    /// Records that a node gave verified bytes for a request outside this fetcher, such as a batch.
    pub fn gave(&self, node: NodeId, bytes: u64) {
        self.inner.with(|session, _| {
            session
                .plan
                .record_peer_news(node, PeerNews::Gave { bytes })
        });
    }

    /// Shuns and reports a node that gave wrong bytes of a content outside this fetcher.
    pub fn lied(&self, node: NodeId, content: ContentKey) {
        self.inner.with(|session, now| {
            session
                .plan
                .record_peer_news(node, PeerNews::Lied { now, content })
        });
    }

    /// Returns all known peers, in order of priority.
    pub fn peers(&self) -> Vec<PeerRate> {
        self.inner
            .state
            .lock()
            .session
            .plan
            .peers()
            .rates(Instant::now())
    }

    /// Returns the records of the peers to keep over a restart, at most
    /// [`PEER_RECORDS_MAX`](p2pfs_fetch::PEER_RECORDS_MAX).
    pub fn peer_records(&self) -> Vec<PeerRecord> {
        let state = self.inner.state.lock();
        state.session.plan.peers().records(Instant::now())
    }

    /// Restores peer records of an earlier run, for peers that this run does not know yet.
    pub fn recall(&self, records: &[PeerRecord]) {
        self.inner
            .with(|session, now| session.plan.recall(now, records));
    }

    /// Returns all files that are being fetched or were used recently, in order of their hashes.
    pub fn fetches(&self) -> Vec<FetchReport> {
        FetchReport::of_all(&self.inner.state.lock().session.plan)
    }

    /// Ends every read and fill with [`TransferError::Stopped`]. Later ones end in the same way at
    /// once.
    pub fn stop(&self) {
        self.inner.with(|session, _| session.stop());
    }
}
