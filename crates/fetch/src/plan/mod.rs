//! Chooses the next range to request and its peer, over many files and several peers. Pure.
//!
//! The main inputs are demands of readers (`Plan::demand`), their reads ([`Plan::record_read`]),
//! files wanted whole (`Plan::fill`), holders (`Plan::record_holders`, `Plan::record_offer`),
//! arriving bytes ([`Plan::arrived`]), ends of requests (`Plan::answered`, `Plan::failed`) and news
//! of peers ([`Plan::record_peer_news`]). The outputs are the next request (`Plan::poll_request`),
//! the next wake-up time ([`Plan::poll_timeout`]), and events and decisions in the [`Outbox`]. A
//! plan is composed of `FetchState` with the data, `Scheduler`, which chooses requests, `Hedger`,
//! which checks late requests, and [`Patience`], which decides how long readers and fills wait.
//! Calls that a session must know of are visible to the session only.
//!
//! Demands come first, then read-ahead, then fills. A range is requested once, however many readers
//! wait for it. Only a hedge requests a range that is already in flight, from another peer. At most
//! three peers are asked for one range at a time, and hedges have a budget. Progress means arriving
//! bytes, not finished answers: whenever bytes of a file arrive, from any peer, the time limit of
//! its readers starts again.
//!
//! The plan moves no bytes, verifies nothing and knows no addresses. `presence` keeps verified
//! answers in memory for the session, but the plan only uses their ranges. The plan's randomness is
//! seeded, the caller passes in the time, and the iteration order is fixed, so the same seed and
//! the same calls give the same requests. A call that returns an error leaves the plan unchanged.
//!
//! | subject | files |
//! |---|---|
//! | types of the interface | `terms` |
//! | state of a file and its readers | `files`, `fetch`, `presence`, `holders`, `suppliers`, `demands`, `readers`, `range_index`, `streams` |
//! | requests in flight | `requests` |
//! | state of a peer, and which peers have one | `peers`, `peer`, `link`, `backoff`, `silence`, `past`, `record` |
//! | how long a wait goes on, and growing pauses between retries | `patience`; `pause` |
//! | all of it together, changed consistently | `state` |
//! | choice of the next file, range and peer | `queue`, `schedule`; `swarm_policy`, `swarm` and `stripes` for files that many nodes want |
//! | late requests | `hedge`, `hedge_policy` |
//! | ends of waits; what a failed request means for its peer | `waits`; `blame` |
//! | reports for users and traces | `report`, `decisions` |

mod backoff;
mod blame;
mod decisions;
mod demands;
mod fetch;
pub mod files;
mod hedge;
mod hedge_policy;
pub mod holders;
pub mod link;
mod past;
mod patience;
mod pause;
mod peer;
pub mod peers;
pub(crate) mod presence;
mod queue;
mod range_index;
mod readers;
pub mod record;
mod report;
pub mod requests;
mod schedule;
mod silence;
mod state;
pub mod streams;
mod stripes;
mod suppliers;
mod swarm;
mod swarm_policy;
mod terms;
mod waits;

#[cfg(test)]
#[path = "../../../../tests/support/fluid.rs"]
mod fluid;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use demands::Demand;
use fetch::{FileFetch, FillState, FillWish};
use hedge::Hedger;
use hedge_policy::HedgePolicy;
use holders::Coverage;
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet, PAGE_BYTES};
use p2pfs_types::id::NodeId;
use patience::Waiting;
use presence::PresentBytes;
use queue::WorkClass;
use requests::RequestState;
use schedule::Scheduler;
use state::{FetchState, Timer};

pub use backoff::SHUN;
pub use decisions::{Decision, HedgeRefusal, HoldBack, RequestCause, TakeBackReason};
pub use files::FileTable;
pub use holders::{HOLDERS_MAX, RUNS_MAX};
pub use link::{SMALL_BYTES, WINDOW_MAX_BYTES, WINDOW_START_BYTES};
pub use peers::{PEERS_MAX, PeerTable};
pub use record::{PEER_RECORDS_MAX, PeerRecord};
pub use report::{FetchReport, SourceReport};
pub use requests::RequestTable;
pub use state::Outbox;
pub use streams::{AHEAD_MAX_BYTES, AHEAD_OF_ALL_MAX_BYTES, ReadAheadBudget, STREAMS_MAX};
pub use suppliers::{Supplier, Supply};
pub use swarm::STRIPE_BYTES;
pub use terms::{
    DemandId, Failure, FilesToClose, FillEnd, Lane, LateBounds, Listed, Offer, PeerNews, PeerRate,
    PlanConfig, PlanError, PlanEvent, RangeRequest, RequestId, RequestStage,
};
pub use waits::Patience;

/// Maximum bytes of one request, which is the limit of the wire format. No request crosses a
/// multiple of this size.
pub const PIECE_MAX_BYTES: u64 = 1 << 20;
/// Maximum bytes of one request in the urgent lane: the kernel's default read-ahead
/// (`VM_READAHEAD_PAGES`). Hashing it takes some 80 microseconds. This is also the minimum
/// read-ahead window, unless [`ReadAheadBudget`] allows less.
pub const URGENT_MAX_BYTES: u64 = 128 << 10;
/// Maximum bytes in flight to all peers together. It bounds the memory of answers until they are
/// verified.
pub const IN_FLIGHT_MAX_BYTES: u64 = 48 << 20;
/// Maximum number of waiting reads; another read that would have to wait fails. It exceeds what the
/// kernel may have under way: its read-aheads (`fuse::BACKGROUND_MAX`) and one read for each thread
/// of a machine.
pub const DEMANDS_MAX: usize = 1 << 16;
/// Maximum number of open files. Opening one more fails if none of them is idle. It exceeds the
/// number of the kernel's concurrent read-aheads, each possibly in another file.
pub const FETCHES_MAX: usize = 1 << 14;
/// Number of open files at which opening another one closes idle ones, in batches.
pub const FETCHES_KEPT_MAX: usize = 1024;
/// How long a use of a file, a failed range and a lookup of holders count as recent. It is longer
/// than the usual pause of a reader between two reads.
pub(crate) const RECENT: Duration = Duration::from_secs(1);
/// Maximum number of files, demands or requests that one loop examines before it stops. The loops
/// of the scheduler and of the rescue go on later, so that each call stays short.
const STEP_ITEMS_MAX: usize = 32;

/// Coordinator of all fetches; see the module documentation.
#[derive(Debug)]
pub struct Plan {
    state: FetchState,
    /// How long readers and fills wait.
    pub patience: Patience,
    scheduler: Scheduler,
    hedger: Hedger,
}

impl Plan {
    /// Creates a plan with nothing to do.
    pub(crate) fn new(config: PlanConfig, seed: u64) -> Self {
        Self {
            hedger: Hedger {
                policy: HedgePolicy::new(config),
            },
            state: FetchState::new(config),
            scheduler: Scheduler::new(seed),
            patience: Patience::default(),
        }
    }

    /// Returns the open files.
    pub fn files(&self) -> &FileTable {
        &self.state.files
    }

    /// Returns which bytes of an open file are here, for a change.
    pub(crate) fn presence(&mut self, content: &ContentKey) -> Option<&mut PresentBytes> {
        let file = self.state.files.get_mut(content)?;
        Some(&mut file.presence)
    }

    /// Returns the peers and their figures.
    pub fn peers(&self) -> &PeerTable {
        &self.state.peers
    }

    /// Returns the requests in flight.
    pub fn requests(&self) -> &RequestTable {
        &self.state.requests
    }

    /// Returns the outputs for the owner.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.state.out
    }

    /// Returns the time by which [`Plan::handle_timeout`] must next be called, or `None` if no
    /// timer is set.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.state.out.timers.first().map(|(at, _)| *at)
    }

    /// Returns the number of items examined by all calls together, by which tests measure the cost
    /// of calls.
    #[cfg(any(test, feature = "test-support"))]
    pub fn steps(&self) -> u64 {
        self.state.steps.count() + self.state.demands.examined()
    }

    /// Bounds the read-ahead of all readers together to `budget_bytes`. The bound is
    /// [`AHEAD_OF_ALL_MAX_BYTES`] if that is less, or for `None`.
    pub(crate) fn limit_read_ahead(&mut self, budget_bytes: Option<u64>) {
        self.state.read_ahead.limit(budget_bytes);
    }

    /// Returns the next request, or `None` until the next call of another kind or the next timer.
    pub(crate) fn poll_request(&mut self, now: Instant) -> Option<RangeRequest> {
        if let Some(request) = self.state.requests.next_chosen() {
            return Some(request);
        }
        hedge::rescue_some(&mut self.state, now);
        self.scheduler.poll_request(&mut self.state, now)
    }

    /// Returns until when a reader waits if nothing more happens, or `None` if it does not wait.
    pub fn waits_until(&self, now: Instant, id: DemandId) -> Option<Instant> {
        let demand = self.state.demands.get(id)?;
        let until = self.patience.patient_until(&self.state, now, demand)?;
        Some(until.max(demand.deadline))
    }

    /// Closes the open files that `which` selects. Requests for a disproven file are cancelled.
    pub fn close_files(&mut self, which: FilesToClose) {
        let closed = match which {
            FilesToClose::Idle => self.state.files.idle(),
            FilesToClose::LongIdle { now, kept } => {
                let mut closed = self.state.files.long_idle(now);
                closed.retain(|content| *content != kept);
                closed
            }
            FilesToClose::Disproven(content) => {
                let asked = self.state.files.get(&content).map(|it| it.asked.ids());
                let asked: Vec<_> = asked.into_iter().flatten().collect();
                for id in asked {
                    self.state.take_back(id, TakeBackReason::Unwanted);
                }
                vec![content]
            }
        };
        closed.iter().for_each(|content| self.state.close(content));
    }

    /// Ends the fill of a file. An abandoned fill ([`FillEnd::Abandoned`]) also cancels the file's
    /// requests of which no byte has arrived, if no reader waits for the file and none is read
    /// ahead. They would delay other files. All other requests continue.
    pub(crate) fn end_fill(&mut self, content: &ContentKey, why: FillEnd) {
        self.state.cancel_fill(content);
        let fetch = self.state.files.get(content);
        let is_read = |fetch: &&FileFetch| fetch.readers.count() + fetch.streams.established() > 0;
        let asked = fetch.filter(|fetch| why == FillEnd::Abandoned && !is_read(fetch));
        let asked: Vec<_> = asked.map(|it| it.asked.ids().collect()).unwrap_or_default();
        for id in asked {
            let entry = self.state.requests.get(id);
            if entry.is_some_and(|entry| entry.arrived_bytes() == 0) {
                self.state.take_back(id, TakeBackReason::Unwanted);
            }
        }
    }

    /// Records the progress of a request within this node.
    pub fn record_stage(&mut self, id: RequestId, stage: RequestStage) {
        let state = &mut self.state;
        let Some(entry) = state.requests.get_mut(id) else {
            return;
        };
        let (node, was_open) = (entry.request.node, entry.is_open());
        let fetch = state.files.get_mut(&entry.request.content);
        let suppliers = fetch.map(|fetch| &mut fetch.suppliers);
        match stage {
            RequestStage::Throttled => {
                entry.state = RequestState::Throttled;
                if let Some(suppliers) = suppliers
                    && was_open
                {
                    suppliers.record_delay(&node);
                }
                state.out.decisions.record(|| Decision::Throttled(id));
            }
            RequestStage::Sent { at } => {
                entry.state = RequestState::Sent;
                entry.sent.at = at;
                if let Some(suppliers) = suppliers
                    && !was_open
                {
                    suppliers.record_request(at, node);
                }
                if let Some(peer) = state.peers.get(&node) {
                    entry.sent.moved_bytes = peer.link.moved_bytes();
                }
                state.out.decisions.record(|| Decision::Released(id));
            }
            RequestStage::Received => {
                let bytes = entry.arrived_bytes();
                entry.state = RequestState::Received { bytes };
                if let Some(suppliers) = suppliers
                    && was_open
                {
                    suppliers.record_received(&node);
                }
            }
        }
    }

    /// Records an event of a peer outside the plan's own requests.
    pub fn record_peer_news(&mut self, node: NodeId, news: PeerNews) {
        match news {
            PeerNews::Returned => {
                self.state.files.forgive(&node);
                self.state.end_rest(node);
            }
            PeerNews::Answered => {
                let peer = self.state.peers.get(&node);
                if peer.is_some_and(|it| it.backoff.unanswered() > 0) {
                    self.state.end_rest(node);
                }
            }
            PeerNews::Unreachable { now, asked_at } => {
                let jitter = self.scheduler.jitter();
                if let Some(peer) = self.state.peers.get_mut(&node) {
                    let until = peer.backoff.rest(now, asked_at, jitter);
                    self.state.out.timers.insert((until, Timer::Rested(node)));
                }
            }
            PeerNews::Gave { bytes } => {
                if let Some(peer) = self.state.peer_or_new(node) {
                    peer.link.record_delivered(bytes);
                }
            }
            PeerNews::Wants { now, content } => {
                stripes::add_fellow(&mut self.state, now, &content, node);
            }
            PeerNews::Lied { now, content } => {
                let peer = self.state.peer_or_new(node);
                let Some(peer) = peer.filter(|it| !it.backoff.is_shunned(now)) else {
                    return;
                };
                let until = peer.shun(now);
                self.state.out.timers.insert((until, Timer::Rested(node)));
                blame::report_liar(&mut self.state, node, content);
            }
        }
    }

    /// Opens a file whose ranges `present` are already on this node. If the file is already open,
    /// only its time of use changes.
    ///
    /// # Errors
    /// [`PlanError::TooMany`] if [`FETCHES_MAX`] files are in use.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        content: ContentKey,
        present: ExtentSet,
    ) -> Result<(), PlanError> {
        if let Some(fetch) = self.state.files.get_mut(&content) {
            fetch.times.last_used = now;
            return Ok(());
        }
        let steps = &self.state.steps;
        for idle in self.state.files.idle_over_limit(|| steps.step()) {
            self.state.close(&idle);
        }
        if !self.state.files.has_room() {
            return Err(PlanError::TooMany);
        }
        let fetch = FileFetch::new(content.size_bytes, present, now);
        self.state.files.insert(content, fetch);
        self.state
            .out
            .timers
            .insert((now + self.state.config.idle, Timer::Idle(content)));
        Ok(())
    }

    /// Adds the nodes that have all of an open file according to the catalogue. After
    /// [`PlanEvent::LookUp`], if the file is still gone, ends the waits that need bytes without a
    /// holder.
    pub(crate) fn record_holders(&mut self, now: Instant, content: &ContentKey, listed: &[Listed]) {
        let Some(fetch) = self.state.files.get_mut(content) else {
            return;
        };
        fetch.make_room_for(listed);
        for one in listed {
            fetch.add_listed_holder(now, *one);
        }
        let nodes = listed.iter().map(|one| one.node);
        let held: Vec<_> = nodes
            .filter(|it| self.state.files.is_holder(content, it))
            .collect();
        for node in held {
            self.state.peer_or_new(node);
        }
        self.state.requeue(content);
        waits::give_up_after_lookup(&mut self.state, now, *content);
    }

    /// Restores the records of an earlier run, for peers that this run does not know yet.
    pub fn recall(&mut self, now: Instant, records: &[PeerRecord]) {
        for record in records.iter().take(PEER_RECORDS_MAX) {
            if let Some(until) = self.state.peers.recall(now, record) {
                self.state
                    .out
                    .timers
                    .insert((until, Timer::Rested(record.node)));
            }
        }
    }

    /// Records which ranges of an open file a node has. Returns whether the node is a new holder or
    /// has new ranges. Ignores offers of shunned peers, and new nodes beyond the limits.
    pub(crate) fn record_offer(&mut self, now: Instant, offer: &Offer) -> bool {
        if !self.state.files.is_open(&offer.content) {
            return false;
        }
        let Some(peer) = self.state.peer_or_new(offer.node) else {
            return false;
        };
        peer.load = offer.load;
        if peer.backoff.is_shunned(now) {
            return false;
        }
        let size_bytes = offer.content.size_bytes;
        let coverage = if offer.all {
            Coverage::All
        } else {
            Coverage::Part(offer.ranges.align_in(CHUNK_BYTES, size_bytes))
        };
        let fetch = self.state.files.get_mut(&offer.content);
        let news = fetch.is_some_and(|fetch| {
            let news = fetch.add_holder(offer.node, coverage);
            fetch.record_ranges(&offer.node);
            news
        });
        self.state.requeue(&offer.content);
        news
    }

    /// Starts a fill of an open file. `patience` is the limit of its wait without progress; see
    /// [`Patience`]. Ends in [`PlanEvent::Filled`] or [`PlanEvent::FillFailed`], unless
    /// [`Plan::end_fill`] ends it before. After `Filled` the file counts as in use until
    /// [`Plan::end_fill`].
    pub(crate) fn fill(&mut self, now: Instant, content: ContentKey, patience: Duration) {
        let Some(fetch) = self.state.files.get_mut(&content) else {
            return;
        };
        fetch.times.last_used = now;
        if fetch.presence.is_whole() {
            self.state.record_filled(&content);
            return;
        }
        fetch.fill = FillWish::Wanted(FillState::new(Waiting::new(now, patience)));
        self.state
            .out
            .decisions
            .record(|| Decision::FillBegan(content));
        let gets = fetch.holders_mut().take_to_get();
        self.state
            .out
            .timers
            .insert((now + patience, Timer::FillDeadline(content)));
        self.state.out.get_soon(now, content, gets);
        self.state.enqueue(&content, WorkClass::Fill);
    }

    /// Removes the demand of a reader that has gone. If no other reader of the file waits, its
    /// read-ahead ends too. Requests in flight continue.
    pub(crate) fn cancel(&mut self, id: DemandId) {
        if waits::take_unmet(&mut self.state, id).is_some() {
            self.state
                .out
                .decisions
                .record(|| Decision::ReadCancelled(id));
        }
    }

    /// Marks bytes as missing that were on this node, for example because the cache refused or lost
    /// them. If readers or a fill still want them, they are requested again.
    pub(crate) fn mark_lost(&mut self, content: &ContentKey, range: ByteRange) {
        if let Some(fetch) = self.state.files.get_mut(content) {
            fetch.presence.lose(range);
        }
        self.state.ask_again(content, range);
    }

    /// Records that bytes of an answer arrived from a peer, even if the answer is not needed any
    /// longer. Only an answer that takes long needs such calls: `Plan::answered` counts the bytes
    /// that were not reported before. Zero bytes mean that the peer is at work, for example in a
    /// handshake.
    pub fn arrived(&mut self, now: Instant, node: NodeId, id: RequestId, bytes: u64) {
        if let Some(entry) = self.state.requests.get_mut(id).filter(|_| bytes > 0) {
            entry.record_arrived(now, bytes);
            if let Some(fetch) = self.state.files.get_mut(&entry.request.content) {
                fetch.record_progress(now, &node);
            }
        }
        self.state.record_moved(now, node, bytes);
    }

    /// Records that the range of a request arrived, was verified and can be read from now on.
    /// Returns `false` if the request or its file is not open any longer, for example because
    /// another peer was faster.
    pub(crate) fn answered(&mut self, now: Instant, id: RequestId) -> bool {
        let Some(entry) = self.state.take_request(id) else {
            return false;
        };
        let (node, content, range) = (
            entry.request.node,
            entry.request.content,
            entry.request.range,
        );
        self.state.out.decisions.record(|| Decision::Answered(id));
        self.state
            .record_moved(now, node, range.len().saturating_sub(entry.arrived_bytes()));
        if let Some(peer) = self.state.peers.get_mut(&node) {
            peer.answered(now, &entry.sent, range.len());
        }
        self.hedger.policy.earn(range.len());
        let Some(fetch) = self.state.files.get_mut(&content) else {
            return false;
        };
        fetch.presence.gain(range);
        fetch.times.last_used = now;
        fetch.record_progress(now, &node);
        fetch.suppliers.record_bytes(node, range.len());
        fetch.failures.is_lied_to = false;
        if fetch.presence.is_whole() {
            self.state.forget_streams(&content);
        }
        self.state.cancel_duplicates(now, &content, range);
        waits::notify_readers(&mut self.state, &content, range);
        waits::notify_if_filled(&mut self.state, &content);
        if matches!(entry.cause, RequestCause::Hedge(_)) {
            // the request for the bytes after a hedged range is probably late too
            self.state
                .hasten_checks(now, &content, ByteRange::at(range.end, 1));
        }
        true
    }

    /// Ends a request without data. Its range can be requested again, also from the same peer.
    pub(crate) fn failed(&mut self, now: Instant, id: RequestId, failure: Failure) {
        let Some(entry) = self.state.take_request(id) else {
            return;
        };
        let node = &entry.request.node;
        if let Some(fetch) = self.state.files.get_mut(&entry.request.content) {
            let suppliers = &mut fetch.suppliers;
            match failure {
                Failure::Unreachable => {}
                Failure::Busy | Failure::Gone | Failure::Refused => {
                    suppliers.record_refusal(now, node)
                }
                Failure::Limited | Failure::Lied | Failure::Ours | Failure::Stalled => {
                    suppliers.record_answer(now, node)
                }
            }
        }
        let jitter = self.scheduler.jitter();
        blame::end_failed(&mut self.state, now, &entry, failure, jitter);
    }

    /// Handles all timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.state.out.next_due(now) {
            match timer {
                Timer::CheckOverdue(id) => {
                    self.hedger
                        .check_overdue(&mut self.state, &mut self.scheduler, now, id)
                }
                Timer::Expire(id) => {
                    // The end of its time is not an answer of its peer.
                    if let Some(failure) = hedge::expire_or_extend(&mut self.state, now, id)
                        && let Some(entry) = self.state.take_request(id)
                    {
                        let jitter = self.scheduler.jitter();
                        blame::end_failed(&mut self.state, now, &entry, failure, jitter);
                    }
                }
                Timer::Deadline(id) => self.patience.check_patience(&mut self.state, now, id),
                Timer::FillDeadline(content) => {
                    self.patience.give_up_filling(&mut self.state, now, content)
                }
                Timer::Idle(content) => self.state.close_if_idle(now, content),
                Timer::Wanted(content) => {
                    waits::give_up_old_waits(&mut self.state, now, content);
                    self.state.enqueue_all(&content);
                }
                Timer::GetAnyway(content) => self.state.get_anyway(&content),
                Timer::Rested(node) => self.state.wake(node),
                Timer::Survey(content) => stripes::survey(&mut self.state, now, content),
                Timer::Stripe(content) => stripes::recheck_stripes(&mut self.state, &content),
                Timer::Again => {}
            }
        }
    }

    /// Adds a reader that waits for `range` of an open file. The time until `deadline` is the limit
    /// of its wait without progress; see [`Patience`]. Ends in [`PlanEvent::Ready`] or
    /// [`PlanEvent::Failed`], unless [`Plan::cancel`] removes it.
    ///
    /// # Errors
    /// The recent failure of some of the range; [`PlanError::Gone`] if some of the range has no
    /// holder left and a full holder recently reported the file gone; [`PlanError::TooMany`];
    /// [`PlanError::NoHolder`] if the file is not open.
    pub(crate) fn demand(
        &mut self,
        now: Instant,
        content: ContentKey,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<DemandId, PlanError> {
        let id = DemandId(self.state.next_id);
        self.demand_as(now, id, content, range, deadline)?;
        self.state.next_id += 1;
        Ok(id)
    }

    /// Adds a demand as [`Plan::demand`] does, under a given id. A demand that ended in
    /// [`PlanEvent::Ready`] although its bytes could not be read is added again under its own id,
    /// by which its reader cancels it and queries its deadline.
    ///
    /// # Errors
    /// Those of [`Plan::demand`].
    pub(crate) fn demand_as(
        &mut self,
        now: Instant,
        id: DemandId,
        content: ContentKey,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(), PlanError> {
        let full = self.state.demands.count() >= DEMANDS_MAX;
        let fetch = self
            .state
            .files
            .get_mut(&content)
            .ok_or(PlanError::NoHolder)?;
        // a file of one chunk is requested as a whole
        let range = if fetch.size_bytes <= CHUNK_BYTES {
            fetch.whole()
        } else {
            range.align_out(PAGE_BYTES, fetch.size_bytes)
        };
        let present = fetch.presence.here().contains(range);
        if present {
            self.state.out.events.push_back(PlanEvent::Ready(id));
            return Ok(());
        }
        match fetch.failures.of(now, range) {
            Some(why) => return Err(why),
            None if fetch.is_just_gone_in(now, range) => return Err(PlanError::Gone),
            None if full => return Err(PlanError::TooMany),
            None => {}
        }
        fetch.readers.insert(range, id);
        let gets = fetch.holders_mut().take_to_get();
        let asked = &fetch.asked;
        self.state.out.decisions.record(|| Decision::ReadBegan {
            read: id,
            content,
            range,
            joined: asked.touching(range).into_iter().collect(),
        });
        let demand = Demand {
            content,
            range,
            waiting: Waiting::new(now, deadline.saturating_duration_since(now)),
            stuck: None,
            deadline,
        };
        self.state.demands.insert(id, demand);
        self.state
            .out
            .timers
            .insert((deadline, Timer::Deadline(id)));
        self.state.out.get_soon(now, content, gets);
        self.state.enqueue(&content, WorkClass::Demand);
        self.state.hasten_checks(now, &content, range);
        Ok(())
    }

    /// Records that a reader reads `range` of an open file. May extend its read-ahead.
    pub fn record_read(&mut self, now: Instant, content: &ContentKey, range: ByteRange) {
        let Some(fetch) = self.state.files.get_mut(content) else {
            return;
        };
        fetch.times.last_used = now;
        if self.state.read_ahead.extend(fetch, range) {
            self.state.enqueue(content, WorkClass::ReadAhead);
        }
    }

    /// Turns read-ahead off for a metered network, or on again. Requests in flight continue. Fills
    /// continue too, because a user requested them.
    pub fn set_metered(&mut self, metered: bool) {
        self.state.read_ahead.is_metered = metered;
        if !metered {
            return;
        }
        for content in self.state.files.contents() {
            self.state.forget_streams(&content);
            self.state.queue.dequeue(&content, WorkClass::ReadAhead);
        }
    }
}
