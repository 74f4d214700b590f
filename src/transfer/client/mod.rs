//! Fetching: runs a plan over the network, verifies what comes, keeps it in the cache, and gives
//! readers their bytes.
//!
//! One mutex guards the plan and the tables beside it; it is held for table work only, never
//! across an await, a disk access or a reader's reply. Requests are tasks; verifying and storing
//! is done on blocking threads, as many at a time as there are processors. A small range that
//! somebody waits for takes a shorter way, since each change of thread costs as much as all of its
//! work: the reader's thread writes the request, and the connection's task verifies the answer and
//! gives the reader its bytes. A reader gets them before they are stored. What the cache has no
//! room for is held in a window of bounded memory, so reads go on uncached.
//!
//! An error ends one read or one fill and leaves everything else as it was; verified bytes stay.

mod answers;
mod behind;
mod fill;
mod gather;
mod state;
mod terms;
#[cfg(test)]
mod tests;
mod under_way;
mod window;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::cache::{Cache, CacheFile, ReadOutcome};
use crate::digest::ContentHash;
use crate::extent::{ByteRange, ExtentSet};
use crate::id::NodeId;
use crate::net::NetError;
use crate::net::peer::{OnAnswer, PeerNet, Progress};
use crate::transfer::plan::{Failure, HOLDERS_MAX, Offer, PeerRate, Plan, RequestId};
use crate::transfer::{FetchReport, Pace, TransferError};
use crate::wire::native::tcp::{Lane, Request, Response};

use behind::Behind;
pub use fill::{Fill, FillProgress};
use state::{OpenFile, Outbox, State, Waiting};
pub use terms::{FetchConfig, FetchEvent, FetchTicket, Holder, HoldersOf, ReadReply};
use under_way::UnderWay;

/// How many events wait for their reader; further ones are dropped and counted.
pub const FETCH_EVENTS_MAX: usize = 1024;
/// What the cache refused and is kept in memory for readers nearby.
pub const UNCACHED_WINDOW_BYTES: u64 = 32 << 20;
/// The catalogue is asked again who holds a file when a read misses after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How many peers are asked at one time what parts of a file they have.
const HOLDINGS_AT_ONCE_MAX: usize = 8;
/// Verifiers at one time, whatever the machine has; each holds two pieces of memory.
const VERIFIERS_MAX: usize = 8;

type Answer = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;
/// Asks one peer one thing. Dropping the future takes the question back.
type Ask = Arc<dyn Fn(NodeId, SocketAddr, Lane, Request, Option<Progress>) -> Answer + Send + Sync>;
/// Takes a question back.
type TakeBack = Box<dyn FnOnce() + Send>;
/// The same on the calling thread, where a connection is ready for it; else gives the reply back.
type AskAtOnce = Arc<
    dyn Fn(NodeId, Lane, &Request, OnAnswer, Option<Progress>) -> Result<TakeBack, OnAnswer>
        + Send
        + Sync,
>;
/// Told of bytes of an answer that takes its time: from whom, to which request, how many.
type OnBytes = Arc<dyn Fn(NodeId, u64, u64) + Send + Sync>;

/// The ways to ask.
#[derive(Clone)]
struct Asking {
    ask: Ask,
    at_once: AskAtOnce,
}

/// Fetches contents from other nodes. Clones are the same fetcher.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    cache: Cache,
    holders: HoldersOf,
    asking: Asking,
    on_bytes: OnBytes,
    download: Pace,
    behind: Behind,
    events: mpsc::Sender<FetchEvent>,
    events_lost: AtomicU64,
    verifiers: Arc<Semaphore>,
    holdings: Arc<Semaphore>,
    wake: Arc<Notify>,
    runtime: tokio::runtime::Handle,
    fill_patience: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Fetcher {
    /// A fetcher on the tokio runtime that this is called in.
    pub fn new(
        config: FetchConfig,
        net: PeerNet,
        cache: Cache,
        holders: HoldersOf,
    ) -> (Self, mpsc::Receiver<FetchEvent>) {
        let near = net.clone();
        let ask: Ask = Arc::new(move |node, address, lane, request, progress| {
            let net = net.clone();
            Box::pin(async move {
                net.request_telling(node, address, lane, request, progress)
                    .await
                    .map_err(|error| failure_of(&error))
            })
        });
        let at_once: AskAtOnce = Arc::new(move |node, lane, request, reply, progress| {
            let asked = near.request_at_once(node, lane, request, reply, progress)?;
            Ok(Box::new(move || asked.take_back()))
        });
        Self::with_asking(config, Asking { ask, at_once }, cache, holders)
    }

    fn with_asking(
        config: FetchConfig,
        asking: Asking,
        cache: Cache,
        holders: HoldersOf,
    ) -> (Self, mpsc::Receiver<FetchEvent>) {
        let (events, receiver) = mpsc::channel(FETCH_EVENTS_MAX);
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let plan = Plan::new(config.plan, config.seed);
        let wake = Arc::new(Notify::new());
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| Inner {
            on_bytes: on_bytes(inner.clone()),
            state: Mutex::new(State::new(plan, config.uncached_window_bytes)),
            cache,
            holders,
            asking,
            download: Pace::default(),
            behind: Behind::default(),
            events,
            events_lost: AtomicU64::new(0),
            verifiers: Arc::new(Semaphore::new(processors.clamp(2, VERIFIERS_MAX))),
            holdings: Arc::new(Semaphore::new(HOLDINGS_AT_ONCE_MAX)),
            wake: wake.clone(),
            runtime: tokio::runtime::Handle::current(),
            fill_patience: config.fill_patience,
        });
        inner.runtime.spawn(keep_time(Arc::downgrade(&inner), wake));
        (Self { inner }, receiver)
    }

    /// How much is asked for a second.
    pub fn download(&self) -> &Pace {
        &self.inner.download
    }

    /// Reads a range: from the cache, or from other nodes until `deadline` (which moves on for as
    /// long as bytes of the file come). The reply may be called before this returns. May touch the
    /// local disk, so not for an async task.
    pub fn read(
        &self,
        hash: ContentHash,
        size_bytes: u64,
        range: ByteRange,
        deadline: Instant,
        reply: ReadReply,
    ) -> FetchTicket {
        self.read_with(hash, size_bytes, range, deadline, true, reply)
    }

    /// As [`Fetcher::read`], for a reader that nothing is to be fetched ahead of.
    pub fn read_just(
        &self,
        hash: ContentHash,
        size_bytes: u64,
        range: ByteRange,
        deadline: Instant,
        reply: ReadReply,
    ) -> FetchTicket {
        self.read_with(hash, size_bytes, range, deadline, false, reply)
    }

    fn read_with(
        &self,
        hash: ContentHash,
        size_bytes: u64,
        range: ByteRange,
        deadline: Instant,
        ahead: bool,
        reply: ReadReply,
    ) -> FetchTicket {
        let nothing = FetchTicket(None);
        if range.end > size_bytes {
            let (start, end) = (range.start, range.end);
            reply(Err(TransferError::OutOfRange {
                start,
                end,
                size_bytes,
            }));
            return nothing;
        }
        if range.is_empty() {
            reply(Ok(Bytes::new()));
            return nothing;
        }
        let file = match self.inner.open(hash, size_bytes) {
            Ok(file) => file,
            Err(error) => {
                reply(Err(error));
                return nothing;
            }
        };
        if let Some(bytes) = file.and_then(|file| read_cached(&file, range)) {
            if ahead {
                self.note_read(&hash, range);
            }
            reply(Ok(bytes));
            return nothing;
        }
        let waiting = Waiting {
            hash,
            range,
            deadline,
            ahead,
            retries: 0,
            reply,
        };
        FetchTicket(self.inner.with(|state, now| state.demand(now, waiting)))
    }

    /// Tells that a range was read from the cache by other means than [`Fetcher::read`], so that
    /// read-ahead moves on. Cheap.
    pub fn note_read(&self, hash: &ContentHash, range: ByteRange) {
        self.inner
            .with(|state, now| state.plan.read_ahead(now, hash, range));
    }

    /// Until when a read waits if nothing more comes; nothing where it waits no more. It moves on
    /// as bytes of the file arrive.
    pub fn waits_until(&self, ticket: FetchTicket) -> Option<Instant> {
        let now = Instant::now();
        self.inner.lock().plan.waits_until(now, ticket.0?)
    }

    /// Takes a read back: its reply is called with [`TransferError::Cancelled`], unless it was
    /// called already.
    pub fn cancel(&self, ticket: FetchTicket) {
        let Some(id) = ticket.0 else { return };
        self.inner.with(|state, _| state.cancel(id));
    }

    /// Brings a whole file into the cache. To be called within the runtime.
    pub fn fill(&self, hash: ContentHash, size_bytes: u64) -> Fill {
        let (fill, filler) = Fill::new(self.clone(), hash, size_bytes);
        let inner = self.inner.clone();
        self.inner
            .runtime
            .spawn_blocking(move || inner.begin_fill(hash, size_bytes, filler));
        fill
    }

    fn cancel_fill(&self, hash: &ContentHash, number: u64) {
        self.inner.with(|state, _| state.cancel_fill(hash, number));
    }

    /// A node answers a `Get`: it has some of a file, and is reached at `address`. Of no use
    /// unless the file is being fetched.
    pub fn offer(&self, offer: Offer, address: SocketAddr) {
        let (node, hash) = (offer.node, offer.hash);
        let news = self
            .inner
            .with(|state, now| state.offer(now, &offer, address));
        if news && !offer.all {
            self.inner.survey(node, address, hash);
        }
    }

    /// A node asks for a file that may be on its way here too: each has parts for the other soon.
    pub fn fellow(&self, hash: &ContentHash, node: NodeId, address: SocketAddr) {
        let holder = Holder { node, address };
        self.inner
            .with(|state, now| state.fellow(now, hash, holder));
    }

    /// Lets go of the cached files that are held for readers who may come back within seconds, so
    /// that the cache may be cleared of them.
    pub fn close_idle(&self) {
        self.inner.with(|state, _| state.plan.close_idle());
    }

    /// A node is back: what it failed before is forgotten, but not that it lied.
    pub fn returned(&self, node: &NodeId) {
        self.inner.with(|state, _| state.plan.returned(node));
    }

    /// Every peer that was asked, in order of priority.
    pub fn peers(&self) -> Vec<PeerRate> {
        self.inner.lock().plan.peers(Instant::now())
    }

    /// Every file that is on its way, or was used a moment ago.
    pub fn fetches(&self) -> Vec<FetchReport> {
        self.inner.lock().plan.fetches()
    }

    /// Events that nobody read in time and that were dropped.
    pub fn events_lost(&self) -> u64 {
        self.inner.events_lost.load(Ordering::Relaxed)
    }

    /// Ends every read and fill with [`TransferError::Stopped`]; later ones end so at once.
    pub fn stop(&self) {
        self.inner.with(|state, _| state.stop());
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes the state, then carries out all that follows from it, without the lock.
    fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        let (result, outbox) = {
            let mut state = self.lock();
            let now = Instant::now();
            let result = change(&mut state, now);
            state.pump(now, self);
            if state.rearm() {
                self.wake.notify_one();
            }
            (result, state.take_outbox())
        };
        self.carry_out(outbox);
        result
    }

    fn carry_out(self: &Arc<Self>, outbox: Outbox) {
        for (request, address) in outbox.requests {
            self.begin(request, address);
        }
        outbox.unwanted.into_iter().for_each(UnderWay::take_back);
        for (reply, outcome) in outbox.replies {
            reply(outcome);
        }
        for (waiting, sources) in outbox.deliveries {
            self.deliver(waiting, &sources);
        }
        for (filler, outcome) in outbox.fills {
            // the other end may have gone
            let _ = filler.outcome.send(outcome);
        }
        for event in outbox.events {
            if self.events.try_send(event).is_err() {
                self.events_lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        for hash in outbox.wanted {
            self.look_for_holders(&hash);
        }
        for (node, address, hash) in outbox.surveys {
            self.survey(node, address, hash);
        }
        drop(outbox.closed);
    }

    fn survey(self: &Arc<Self>, node: NodeId, address: SocketAddr, hash: ContentHash) {
        let inner = self.clone();
        self.runtime
            .spawn(async move { inner.ask_holdings(node, address, hash).await });
    }

    /// Begins a fetch unless it has begun, and gives the cache's file where there is one.
    fn open(
        self: &Arc<Self>,
        hash: ContentHash,
        size_bytes: u64,
    ) -> Result<Option<CacheFile>, TransferError> {
        let known = self.lock().known(Instant::now(), &hash, size_bytes)?;
        if let Some((file, looked_at)) = known {
            if looked_at.elapsed() > LOOK_AGAIN {
                self.look_for_holders(&hash);
            }
            return Ok(file);
        }
        // an error of the cache is no error of the read: it goes on uncached
        let file = self.cache.file(hash, size_bytes).ok();
        let present = file
            .as_ref()
            .map_or_else(ExtentSet::new, CacheFile::present);
        let opened = OpenFile::new(size_bytes, file.clone());
        self.with(|state, now| state.open(now, hash, opened, present))?;
        self.look_for_holders(&hash);
        Ok(file)
    }

    fn look_for_holders(self: &Arc<Self>, hash: &ContentHash) {
        let mut holders = (self.holders)(hash);
        holders.truncate(HOLDERS_MAX);
        self.with(|state, now| state.holders(now, hash, &holders));
    }

    /// Does what is due, and says when the next is.
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        self.with(|state, now| state.plan.handle_timeout(now));
        self.lock().arm()
    }
}

fn on_bytes(inner: Weak<Inner>) -> OnBytes {
    Arc::new(move |node, key, bytes| {
        if let Some(inner) = inner.upgrade() {
            inner.with(|state, now| state.plan.arrived(now, node, RequestId(key), bytes));
        }
    })
}

/// Wakes the plan when it asked to be woken, for as long as there is a fetcher.
async fn keep_time(inner: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let next = match inner.upgrade() {
            Some(inner) => inner.tick(),
            None => return,
        };
        match next {
            Some(at) => {
                // either end of the wait leads to the same look at the clock
                let _ = tokio::time::timeout_at(at.into(), wake.notified()).await;
            }
            None => wake.notified().await,
        }
    }
}

fn read_cached(file: &CacheFile, range: ByteRange) -> Option<Bytes> {
    if !file.missing_in(range).is_empty() {
        return None;
    }
    let mut buffer = vec![0; range.len() as usize];
    match file.read_at(range.start, &mut buffer) {
        Ok(ReadOutcome::Ready(length)) if length == buffer.len() => Some(buffer.into()),
        _ => None,
    }
}

fn failure_of(error: &NetError) -> Failure {
    match error {
        NetError::Request(_) | NetError::TooManyConnections | NetError::Closed => Failure::Ours,
        _ => Failure::Unreachable,
    }
}
