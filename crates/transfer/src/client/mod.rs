//! I/O around a [`Session`]: sockets, tasks, threads and the cache.
//!
//! The session chooses the peers, the bytes to keep and the time to give up. One mutex guards it,
//! which is never held across an await, a disk access or a reader's reply. The session's actions
//! are carried out after the mutex is released. Requests are tasks, and blocking threads verify and
//! store the answers. A small range with a waiting reader takes a shorter way, because each change
//! of thread would cost as much as the work itself: the reader's thread writes the request, and the
//! connection's task verifies the answer and delivers it. Readers get their bytes before these are
//! stored.

mod answers;
mod asking;
mod fill;
mod metered;
mod opening;
mod storing;
mod terms;
#[cfg(test)]
mod tests;
mod trace;
mod write_behind;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::Pace;
use crate::net::peer::PeerNet;
use p2pfs_cache::{Cache, CacheFile, ReadOutcome};
use p2pfs_fetch::plan::{
    FilesToClose, HOLDERS_MAX, Offer, PeerNews, PeerRate, PeerRecord, RequestId,
};
use p2pfs_fetch::session::{
    Actions, FetchEvent, FillId, FillProgress, Owner, Read, Session, Shortfall,
};
use p2pfs_fetch::{FetchReport, Supply, TransferError};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

use asking::{OnBytes, RequestSender, TakeBack};
pub use fill::Fill;
use fill::FillSender;
use storing::StoreQueue;
pub use terms::{FetchConfig, FetchTicket, HoldersOf, ReadReply};
use trace::FetchTrace;

/// Maximum events that wait in the channel of [`Fetcher::new`]. Further ones are dropped.
pub const FETCH_EVENTS_MAX: usize = 1024;
/// Default maximum of bytes in memory that the cache refused. They stay for further reads until
/// newer ones displace them.
pub const UNCACHED_MAX_BYTES: u64 = 32 << 20;
/// Maximum open surveys: requests to a node for all ranges that it has of a content. As many as one
/// file may have holders, so that its unreachable holders do not delay the surveys of the others.
const HOLDINGS_AT_ONCE_MAX: usize = HOLDERS_MAX;
/// Answers that tasks may verify at a time, and turns to store one, per processor. While one answer
/// waits for the disk, another one is verified. With one per processor a large fetch was a tenth
/// slower.
const VERIFIERS_PER_PROCESSOR: usize = 2;
/// Maximum of these on any machine. Each answer uses the memory of two pieces.
const VERIFIERS_MAX: usize = 8;

/// Fetcher of contents from other nodes. Clones are the same fetcher.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<FetcherInner>,
}

/// Owner of the session.
struct Client;

impl Owner for Client {
    type ReadHandle = ReadReply;
    type FillHandle = FillSender;
    type File = CacheFile;
    type Question = TakeBack;

    fn tell(sender: &FillSender, progress: FillProgress) {
        sender.progress.send_replace(progress);
    }
}

/// Minimum delay of a wake-up that counts as a standstill of the process: it was stopped or frozen,
/// or other programs had the processors. This is far less than a reader's patience.
const STANDSTILL_MIN: Duration = Duration::from_secs(1);

struct ClientState {
    session: Session<Client>,
    /// When the session will be woken.
    armed: Option<Instant>,
    is_traced: bool,
    /// Events that only inform, until the next timer. See [`FetchEvent::is_patient`].
    patient_events: Vec<FetchEvent>,
}

struct FetcherInner {
    state: Mutex<ClientState>,
    cache: Cache,
    holders: HoldersOf,
    asking: RequestSender,
    on_bytes: OnBytes,
    settings: FetchSettings,
    events: mpsc::Sender<FetchEvent>,
    storing: StoreQueue,
    trace: FetchTrace,
    holdings: Arc<Semaphore>,
    wake: Arc<Notify>,
    runtime: tokio::runtime::Handle,
}

/// Settings of the user of this node for the fetcher.
struct FetchSettings {
    download: Pace,
    metered: watch::Sender<bool>,
    fill_patience: Duration,
}

impl Drop for FetcherInner {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Fetcher {
    /// Creates a fetcher on the current tokio runtime.
    pub fn new(
        config: FetchConfig,
        net: PeerNet,
        cache: Cache,
        holders: HoldersOf,
    ) -> (Self, mpsc::Receiver<FetchEvent>) {
        Self::with_asking(config, RequestSender::over(net), cache, holders)
    }

    fn with_asking(
        config: FetchConfig,
        asking: RequestSender,
        cache: Cache,
        holders: HoldersOf,
    ) -> (Self, mpsc::Receiver<FetchEvent>) {
        let (events, receiver) = mpsc::channel(FETCH_EVENTS_MAX);
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let verifiers = (processors * VERIFIERS_PER_PROCESSOR).min(VERIFIERS_MAX);
        let session = Session::new(config.plan, config.seed, config.uncached_max_bytes);
        let state = ClientState {
            session,
            armed: None,
            is_traced: false,
            patient_events: Vec::new(),
        };
        let wake = Arc::new(Notify::new());
        let inner = Arc::new_cyclic(|inner: &Weak<FetcherInner>| FetcherInner {
            on_bytes: on_bytes(inner.clone()),
            state: Mutex::new(state),
            cache,
            holders,
            asking,
            settings: FetchSettings {
                download: Pace::default(),
                metered: watch::Sender::new(false),
                fill_patience: config.fill_patience,
            },
            events,
            storing: StoreQueue::new(verifiers),
            trace: FetchTrace::default(),
            holdings: Arc::new(Semaphore::new(HOLDINGS_AT_ONCE_MAX)),
            wake: wake.clone(),
            runtime: tokio::runtime::Handle::current(),
        });
        inner.runtime.spawn(keep_time(Arc::downgrade(&inner), wake));
        (Self { inner }, receiver)
    }

    /// Returns the download limit.
    pub fn download(&self) -> &Pace {
        &self.inner.settings.download
    }

    /// Reads a range from the cache, or from other nodes until `deadline`, which is extended while
    /// bytes of the file arrive. The reply may be called before this returns. May touch the local
    /// disk, so it must not be called in an async task.
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

    /// Reads a range like [`Fetcher::read`], but without read-ahead.
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
        let content = ContentKey::new(hash, size_bytes);
        let mut read = Read::new(content, range, deadline, reply);
        read.ahead = ahead;
        FetchTicket(self.inner.start(read))
    }

    /// Records that a range was read from the cache without [`Fetcher::read`], so that read-ahead
    /// moves on. Cheap.
    pub fn record_read(&self, content: ContentKey, range: ByteRange) {
        self.inner
            .with(|session, now| session.plan.record_read(now, &content, range));
    }

    /// Returns until when a read waits if nothing more arrives, or `None` if it does not wait.
    /// Bytes of its file that arrive extend the time.
    pub fn waits_until(&self, ticket: FetchTicket) -> Option<Instant> {
        let mut state = self.inner.state.lock();
        let now = state.now();
        state.session.plan.waits_until(now, ticket.0?)
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

    /// Cancels a read: calls its reply with [`TransferError::Cancelled`], unless it was called
    /// already.
    pub fn cancel(&self, ticket: FetchTicket) {
        let Some(id) = ticket.0 else { return };
        self.inner.with(|session, _| session.cancel(id));
    }

    /// Starts to bring a whole file into the cache. Does not block.
    pub fn fill(&self, hash: ContentHash, size_bytes: u64) -> Fill {
        let content = ContentKey::new(hash, size_bytes);
        let (fill, id, sender) = Fill::new(self.clone(), content);
        let inner = self.inner.clone();
        self.inner
            .runtime
            .spawn_blocking(move || inner.begin_fill(content, id, sender));
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

impl FetcherInner {
    /// Calls the session, then carries out its actions without the lock.
    fn with<R>(self: &Arc<Self>, tell: impl FnOnce(&mut Session<Client>, Instant) -> R) -> R {
        let (result, actions, is_sooner) = self.tell(tell);
        self.carry_out(actions);
        // last, because the woken thread would compete with the request
        if is_sooner {
            self.wake.notify_one();
        }
        result
    }

    /// Calls the session. Returns the result, the session's actions, and whether its timer must be
    /// woken to be set to an earlier time.
    fn tell<R>(
        &self,
        tell: impl FnOnce(&mut Session<Client>, Instant) -> R,
    ) -> (R, Actions<Client>, bool) {
        let (result, actions, is_sooner) = {
            let mut state = self.state.lock();
            let now = state.now();
            state.set_traced(&self.trace);
            let result = tell(&mut state.session, now);
            let mut actions = state.session.actions(now);
            self.trace.add(std::mem::take(&mut actions.decisions));
            state.hold_patient(&mut actions.events);
            (result, actions, state.rearm())
        };
        if FetchTrace::is_wanted() {
            self.trace.log();
        }
        (result, actions, is_sooner)
    }

    fn carry_out(self: &Arc<Self>, actions: Actions<Client>) {
        actions.sends.into_iter().for_each(|send| self.begin(send));
        actions
            .cancels
            .into_iter()
            .for_each(|take_back| take_back());
        for (reply, why) in actions.ends {
            reply(Err(why));
        }
        for delivery in actions.deliveries {
            self.deliver(delivery);
        }
        for (sender, outcome) in actions.fills {
            // the receiver may be gone
            let _ = sender.outcome.send(outcome);
        }
        self.send_events(actions.events);
        for hash in actions.wanted {
            let holders = (self.holders)(&hash);
            self.with(|session, now| session.record_holders(now, &hash, &holders));
        }
        for (node, address, hash) in actions.surveys {
            let inner = self.clone();
            self.runtime
                .spawn(async move { inner.ask_holdings(node, address, hash).await });
        }
        self.close_beside(actions.closed, actions.reopens);
    }

    fn send_events(&self, events: Vec<FetchEvent>) {
        for event in events {
            // no wait depends on events, so those that are not read in time are dropped
            let _full = self.events.try_send(event);
        }
    }

    /// Closes the files `closed`, then opens the files of `reopens`, for which the cache may have
    /// room now. Uses a blocking thread, because the session's timer and the connections must not
    /// wait for the disk.
    fn close_beside(self: &Arc<Self>, closed: Vec<CacheFile>, reopens: Vec<ContentKey>) {
        if closed.is_empty() && reopens.is_empty() {
            return;
        }
        let inner = self.clone();
        self.runtime.spawn_blocking(move || {
            drop(closed);
            for content in reopens {
                inner.reopen(content);
            }
        });
    }

    /// Handles due timers. Returns the time of the next one. Sends the held events if a timer was
    /// due or none is left. If the timer was only woken to be set again, they wait, because sending
    /// them would compete with the request in flight.
    fn tick(self: &Arc<Self>, is_due: bool) -> Option<Instant> {
        self.with(|session, now| session.plan.handle_timeout(now));
        let mut state = self.state.lock();
        let next = state.arm();
        // without a next timer nothing would send them
        let sends = is_due || next.is_none();
        let events = sends.then(|| std::mem::take(&mut state.patient_events));
        drop(state);
        self.send_events(events.unwrap_or_default());
        next
    }
}

impl ClientState {
    /// Returns the current time. A wake-up that is overdue by [`STANDSTILL_MIN`] means that
    /// this process did not run, and is recorded as a standstill.
    fn now(&mut self) -> Instant {
        let now = Instant::now();
        let late = self.armed.map(|at| now.saturating_duration_since(at));
        if let Some(late) = late.filter(|late| *late >= STANDSTILL_MIN) {
            self.session.plan.patience.record_standstill(now, late);
        }
        now
    }

    /// Turns the session's trace on or off if a subscriber newly wants it or no longer does.
    fn set_traced(&mut self, trace: &FetchTrace) {
        let is_traced = FetchTrace::is_wanted();
        if is_traced != self.is_traced {
            self.is_traced = is_traced;
            self.session.plan.outbox().set_traced(is_traced);
            trace.clear();
        }
    }

    /// Moves `events` to the held events. If any held one does not only inform, no timer is set or
    /// too many are held, moves all of them to `events` instead, in order. Does nothing if `events`
    /// is empty.
    fn hold_patient(&mut self, events: &mut Vec<FetchEvent>) {
        if events.is_empty() {
            return;
        }
        self.patient_events.append(events);
        let may_wait = self.patient_events.len() < FETCH_EVENTS_MAX
            && self.session.plan.poll_timeout().is_some()
            && self.patient_events.iter().all(FetchEvent::is_patient);
        if !may_wait {
            std::mem::swap(&mut self.patient_events, events);
        }
    }

    /// Plans an earlier wake-up if the session wants to be woken sooner than planned, or none is
    /// planned. Returns whether it did.
    fn rearm(&mut self) -> bool {
        let Some(next) = self.session.plan.poll_timeout() else {
            return false;
        };
        let is_sooner = self.armed.is_none_or(|armed| next < armed);
        if is_sooner {
            self.armed = Some(next);
        }
        is_sooner
    }

    /// Plans the next wake-up of the session. Returns its time.
    fn arm(&mut self) -> Option<Instant> {
        self.armed = self.session.plan.poll_timeout();
        self.armed
    }
}

fn on_bytes(inner: Weak<FetcherInner>) -> OnBytes {
    Arc::new(move |node, key, bytes| {
        if let Some(inner) = inner.upgrade() {
            inner.with(|session, now| session.plan.arrived(now, node, RequestId(key), bytes));
        }
    })
}

/// Wakes the session at the times that it asks for, as long as the fetcher exists.
async fn keep_time(inner: Weak<FetcherInner>, wake: Arc<Notify>) {
    let mut is_due = false;
    loop {
        let next = match inner.upgrade() {
            Some(inner) => inner.tick(is_due),
            None => return,
        };
        is_due = match next {
            Some(at) => {
                let woken = tokio::time::timeout_at(at.into(), wake.notified()).await;
                woken.is_err()
            }
            None => {
                wake.notified().await;
                false
            }
        };
    }
}

/// Reads a range from a file of the cache into a buffer.
fn read_into(file: &CacheFile, range: ByteRange, buffer: &mut [u8]) -> Result<(), Shortfall> {
    match file.read_at(range.start, buffer) {
        Ok(ReadOutcome::Ready(length)) if length as u64 == range.len() => Ok(()),
        Ok(ReadOutcome::Ready(_)) => Err(Shortfall::missing(range)),
        Ok(ReadOutcome::Missing(gap)) => {
            // the first gap; there may be more, for example after a power cut
            let mut missing = file.missing_in(range);
            missing.insert(gap);
            Err(Shortfall::all_missing(missing))
        }
        Err(error) => Err(Shortfall {
            missing: ExtentSet::of(range),
            why: error.to_string(),
        }),
    }
}
