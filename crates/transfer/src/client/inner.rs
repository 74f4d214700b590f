//! The session of a fetcher, its timer, and what carries out its actions.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::asking::{OnBytes, RequestSender, TakeBack};
use super::fill::FillSender;
use super::storing::StoreQueue;
use super::trace::FetchTrace;
use super::{FETCH_EVENTS_MAX, FetchConfig, HoldersOf, ReadReply, answers, opening};
use crate::Pace;
use p2pfs_content::{CacheFile, ContentStore, ReadOutcome};
use p2pfs_fetch::plan::{DemandId, HOLDERS_MAX, RequestId};
use p2pfs_fetch::session::{
    Actions, Delivery, FetchEvent, FillProgress, Owner, Session, Shortfall,
};
use p2pfs_proto::wire::native::tcp::{Lane, Request};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;
use p2pfs_types::read::ReadSupplier;

/// Maximum open surveys: requests to a node for all ranges that it has of a content. As many as one
/// file may have holders, so that its unreachable holders do not delay the surveys of the others.
const HOLDINGS_AT_ONCE_MAX: usize = HOLDERS_MAX;
/// Answers that tasks may verify at a time, and turns to store one, per processor. While one answer
/// waits for the disk, another one is verified. With one per processor a large fetch was a tenth
/// slower.
const VERIFIERS_PER_PROCESSOR: usize = 2;
/// Maximum of these on any machine. Each answer uses the memory of two pieces.
const VERIFIERS_MAX: usize = 8;
/// Minimum delay of a wake-up that counts as a standstill of the process: it was stopped or frozen,
/// or other programs had the processors. This is far less than a reader's patience.
const STANDSTILL_MIN: Duration = Duration::from_secs(1);

/// Owner of the session.
pub(super) struct Client;

impl Owner for Client {
    type ReadHandle = ReadReply;
    type FillHandle = FillSender;
    type File = CacheFile;
    type Question = TakeBack;

    fn tell(sender: &FillSender, progress: FillProgress) {
        sender.progress.send_replace(progress);
    }
}

/// The session and its timer.
pub(super) struct ClientState {
    pub(super) session: Session<Client>,
    /// When the session will be woken.
    armed: Option<Instant>,
    is_traced: bool,
    /// Events that only inform, until the next timer. See [`FetchEvent::is_patient`].
    patient_events: Vec<FetchEvent>,
}

/// State that all clones of a fetcher share.
pub(super) struct FetcherInner {
    pub(super) state: Mutex<ClientState>,
    pub(super) contents: ContentStore,
    holders: HoldersOf,
    pub(super) asking: RequestSender,
    pub(super) on_bytes: OnBytes,
    pub(super) settings: FetchSettings,
    events: mpsc::Sender<FetchEvent>,
    pub(super) storing: StoreQueue,
    pub(super) trace: FetchTrace,
    holdings: Arc<Semaphore>,
    pub(super) wake: Arc<Notify>,
    pub(super) runtime: tokio::runtime::Handle,
}

/// Settings of the user of this node for the fetcher.
pub(super) struct FetchSettings {
    pub(super) download: Pace,
    pub(super) metered: watch::Sender<bool>,
    pub(super) fill_patience: Duration,
}

impl Drop for FetcherInner {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl FetcherInner {
    /// Creates the owner of a session whose requests go through `asking`. Must be called within a
    /// tokio runtime.
    pub(super) fn start(
        config: FetchConfig,
        asking: RequestSender,
        contents: ContentStore,
        holders: HoldersOf,
    ) -> (Arc<Self>, mpsc::Receiver<FetchEvent>) {
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
        let inner = Arc::new_cyclic(|inner: &Weak<Self>| Self {
            on_bytes: on_bytes(inner.clone()),
            state: Mutex::new(state),
            contents,
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
        (inner, receiver)
    }

    /// Calls the session, then carries out its actions without the lock.
    pub(super) fn with<R>(
        self: &Arc<Self>,
        tell: impl FnOnce(&mut Session<Client>, Instant) -> R,
    ) -> R {
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
    pub(super) fn tell<R>(
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

    pub(super) fn carry_out(self: &Arc<Self>, actions: Actions<Client>) {
        actions
            .sends
            .into_iter()
            .for_each(|send| answers::begin(self, send));
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
                opening::reopen(&inner, content);
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

    /// Gives a reader its bytes, or restarts its read if some of them cannot be read any more.
    fn deliver(self: &Arc<Self>, delivery: Delivery<ReadReply, CacheFile>) {
        let Delivery { read, sources } = delivery;
        let read_at_disk = |file: &CacheFile, range, buffer: &mut [u8]| {
            // An answer with a turn may wait here for the disk.
            let _call = self.storing.call_disk();
            read_into(file, range, buffer)
        };
        match sources.gather(read.range, read_at_disk) {
            Ok(bytes) => (read.handle)(Ok(bytes)),
            Err(gap) => opening::restart_read(self, read, gap),
        }
    }

    /// Asks a node for all ranges of a content that it has.
    async fn ask_holdings(self: Arc<Self>, node: NodeId, address: SocketAddr, hash: ContentHash) {
        // the semaphore is never closed, so this cannot fail
        let _permit = self.holdings.acquire().await;
        let question = Request::Holdings { hash };
        let answer = (self.asking.ask)(node, address, Lane::Urgent, question, None).await;
        self.with(|session, now| session.holdings(now, (node, address), hash, answer));
    }
}

impl ReadSupplier for FetcherInner {
    fn waits_until(&self, number: u64) -> Option<Instant> {
        let mut state = self.state.lock();
        let now = state.now();
        state.session.plan.waits_until(now, DemandId(number))
    }

    fn cancel(self: Arc<Self>, number: u64) {
        self.with(|session, _| session.cancel(DemandId(number)));
    }
}

impl ClientState {
    /// Returns the current time. A wake-up that is overdue by [`STANDSTILL_MIN`] means that
    /// this process did not run, and is recorded as a standstill.
    pub(super) fn now(&mut self) -> Instant {
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
