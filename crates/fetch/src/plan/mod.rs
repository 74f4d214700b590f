//! Chooses the next range to request and its peer, over many files and several peers. Pure.
//!
//! The inputs are demands of readers ([`Plan::demand`]), other reads ([`Plan::note_read`]), files
//! wanted whole ([`Plan::fill`]), holders ([`Plan::holders`], [`Plan::offer`]), arriving bytes
//! ([`Plan::arrived`]) and ends of requests ([`Plan::answered`], [`Plan::failed`]). The outputs are
//! the next request ([`Plan::poll_request`]), events ([`Plan::poll_event`]) and the next wake-up
//! time ([`Plan::poll_timeout`]).
//!
//! Demands come first, then read-ahead, then fills. A range is requested once, however many readers
//! wait for it. Only hedges request it from other peers too, from three peers in total, and hedges
//! have a budget. Progress means arriving bytes, not finished answers: while bytes of a file arrive
//! from any peer, however slowly, its readers keep waiting. The cost of a step is proportional to
//! what it touches, times the logarithm of the number of requests in flight.
//!
//! The plan moves no bytes, verifies nothing and knows no addresses. Its randomness is seeded, the
//! caller passes in the time, and its iteration order is fixed, so one seed gives one run. A call
//! that returns an error leaves the plan unchanged.
//!
//! | subject | files |
//! |---|---|
//! | types of the interface | `terms` |
//! | state of a file and its readers | `files`, `fetch`, `holders`, `readers`, `places`, `streams` |
//! | state of a peer, and which peers have one | `peers`, `peer`, `link`, `backoff`, `silence`, `past`, `record` |
//! | how long a wait goes on | `patience` |
//! | choice of the next file, range and peer | `queue`, `schedule`; `demands` for waiting readers, `ahead` for sequential readers, `filling` for whole files, `stripes` and `swarm` for files that many nodes want |
//! | ends of requests and of files | `answers`, `hedge`, `hedge_policy`, `beside`, `closing` |
//! | reports for users and traces | `report`, `decisions` |

pub mod ahead;
mod answers;
mod backoff;
mod beside;
mod closing;
mod decisions;
mod demands;
mod fetch;
pub mod files;
mod filling;
mod hedge;
mod hedge_policy;
pub mod holders;
pub mod link;
mod past;
mod patience;
mod peer;
pub mod peers;
mod places;
mod queue;
mod readers;
pub mod record;
mod report;
mod requests;
mod schedule;
mod silence;
pub mod streams;
mod stripes;
mod swarm;
mod terms;

#[cfg(test)]
#[path = "../../../../tests/support/fluid.rs"]
mod fluid;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use decisions::DecisionLog;
use fetch::{FileFetch, FillState, FillWish};
use hedge_policy::HedgePolicy;
use holders::Coverage;
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use p2pfs_types::id::NodeId;
use patience::{Pause, Waiting};
use peer::Peer;
use queue::{ReadyQueue, WorkClass};
use requests::RequestTable;

pub use ahead::ReadAheadBudget;
pub use backoff::SHUN;
pub use decisions::{Decision, HedgeRefusal, HoldBack, RequestCause, TakeBackReason};
pub use files::FileTable;
pub use holders::{HOLDERS_MAX, RUNS_MAX};
pub use link::{SMALL_BYTES, WINDOW_MAX_BYTES, WINDOW_START_BYTES};
pub use peers::{PEERS_MAX, PeerTable};
pub use record::{PEER_RECORDS_MAX, PeerRecord};
pub use report::{FetchReport, SourceReport};
pub use streams::{AHEAD_MAX_BYTES, AHEAD_MIN_BYTES, AHEAD_OF_ALL_MAX_BYTES, STREAMS_MAX};
pub use swarm::STRIPE_BYTES;
pub use terms::{
    DemandId, Failure, Lane, Listed, Offer, PeerRate, PlanConfig, PlanError, PlanEvent,
    RangeRequest, RequestId,
};

/// Maximum bytes of one request, and the alignment of bulk requests: the limit of the wire format.
pub const PIECE_MAX_BYTES: u64 = 1 << 20;
/// Maximum bytes of a demand that uses the urgent lane. This is the kernel's default read-ahead.
pub const URGENT_MAX_BYTES: u64 = 128 << 10;
/// Maximum bytes in flight to all peers together. It bounds the memory of the transfer.
pub const IN_FLIGHT_MAX_BYTES: u64 = 48 << 20;
/// Maximum number of waiting reads; one more fails. It exceeds what the kernel may have under way:
/// its read-aheads (`fuse::BACKGROUND_MAX`) and one read for each thread of a machine.
pub const DEMANDS_MAX: usize = 1 << 16;
/// Maximum number of open files; one more fails. It exceeds the number of the kernel's concurrent
/// read-aheads, each possibly in another file.
pub const FETCHES_MAX: usize = 1 << 14;
/// Number of open files from which idle files are closed.
pub const FETCHES_KEPT_MAX: usize = 1024;
/// Size in bytes above which a `Get` looks for more holders even if holders are known.
const GET_ANYWAY_BYTES: u64 = 1 << 20;
/// Delay of that `Get` after the first wish for the file. A short read from a known holder ends
/// before that, and the `Get` would only delay it.
const GET_ANYWAY_AFTER: Duration = Duration::from_millis(3);

#[derive(Debug)]
struct Demand {
    content: ContentKey,
    range: ByteRange,
    waiting: Waiting,
    /// First byte that blocks the reader and has not been requested from any peer, and since when.
    stuck: Option<(u64, Instant)>,
    /// When the wait is checked next.
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    CheckOverdue(RequestId),
    Expire(RequestId),
    Deadline(DemandId),
    FillDeadline(ContentKey),
    Wanted(ContentKey),
    /// Looks for more holders if some of the file is still wanted.
    GetAnyway(ContentKey),
    Idle(ContentKey),
    /// The back-off of a peer is over.
    Rested(NodeId),
    /// Asks the other nodes that want the file which parts they have by now.
    Survey(ContentKey),
    /// Stripes that belong to other nodes may be requested from full holders.
    Stripe(ContentKey),
    /// The last step left some of its work for the next one.
    Again,
}

/// Scheduler of all fetches; see the module documentation.
#[derive(Debug)]
pub struct Plan {
    config: PlanConfig,
    rng: StdRng,
    /// Open files.
    pub files: FileTable,
    /// Peers and their figures.
    pub peers: PeerTable,
    demands: BTreeMap<DemandId, Demand>,
    queue: ReadyQueue,
    requests: RequestTable,
    hedging: HedgePolicy,
    timers: BTreeSet<(Instant, Timer)>,
    events: VecDeque<PlanEvent>,
    decisions: DecisionLog,
    next_id: u64,
    /// Read-ahead of all readers together.
    pub read_ahead: ReadAheadBudget,
    /// Number of items examined by all calls together.
    steps: Cell<u64>,
    /// Last time in which this node did not run.
    pause: Option<Pause>,
}

impl Plan {
    /// Creates a plan with nothing to do.
    pub fn new(config: PlanConfig, seed: u64) -> Self {
        Self {
            hedging: HedgePolicy::new(&config),
            config,
            rng: StdRng::seed_from_u64(seed),
            files: FileTable::default(),
            peers: PeerTable::default(),
            demands: BTreeMap::new(),
            queue: ReadyQueue::default(),
            requests: RequestTable::default(),
            timers: BTreeSet::new(),
            events: VecDeque::new(),
            decisions: DecisionLog::default(),
            next_id: 0,
            pause: None,
            read_ahead: ReadAheadBudget::default(),
            steps: Cell::new(0),
        }
    }

    /// Opens a file whose ranges `present` are already on this node. An open file stays as it is.
    ///
    /// # Errors
    /// [`PlanError::TooMany`] if [`FETCHES_MAX`] files are in use.
    pub fn open(
        &mut self,
        now: Instant,
        content: ContentKey,
        present: ExtentSet,
    ) -> Result<(), PlanError> {
        if let Some(fetch) = self.files.get_mut(&content) {
            fetch.times.last_used = now;
            return Ok(());
        }
        let step = || self.steps.set(self.steps.get() + 1);
        for idle in self.files.idle_over_limit(step) {
            self.close(&idle);
        }
        if !self.files.has_room() {
            return Err(PlanError::TooMany);
        }
        let fetch = FileFetch::new(content.size_bytes, present, now);
        self.files.insert(content, fetch);
        self.timers
            .insert((now + self.config.idle, Timer::Idle(content)));
        Ok(())
    }

    /// Adds the nodes that have all of the file according to the catalogue.
    pub fn holders(&mut self, now: Instant, content: &ContentKey, listed: &[Listed]) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        for one in listed {
            fetch.add_listed_holder(now, *one);
        }
        let nodes = listed.iter().map(|one| one.node);
        let held: Vec<_> = nodes
            .filter(|it| self.files.is_holder(content, it))
            .collect();
        for node in held {
            self.peer_or_new(node);
        }
        self.requeue(content);
        self.give_up_after_lookup(now, *content);
    }

    /// Returns whether a request is still unanswered.
    pub fn is_asked(&self, id: RequestId) -> bool {
        self.requests.contains(id)
    }

    /// Returns the figures of a peer, and creates them if there are none. Returns `None` at the
    /// limit if all peers are in use.
    fn peer_or_new(&mut self, node: NodeId) -> Option<&mut Peer> {
        if self.peers.is_full_for(&node) {
            let files = self.files.iter();
            let holders: BTreeSet<_> = files.flat_map(|(_, it)| it.holders().nodes()).collect();
            let (queue, steps) = (&self.queue, &self.steps);
            let is_unused = |node: &NodeId| {
                steps.set(steps.get() + 1);
                !queue.has_parked(node) && !holders.contains(node)
            };
            for gone in self.peers.forget_some(is_unused) {
                self.queue.forget_peer(&gone);
            }
            if self.peers.is_full_for(&node) {
                return None;
            }
        }
        Some(self.peers.entry(node))
    }

    /// Returns whether a holder of a file is known.
    pub fn has_holder(&self, content: &ContentKey) -> bool {
        let fetch = self.files.get(content);
        fetch.is_some_and(|fetch| fetch.holders().nodes().next().is_some())
    }

    /// Restores the records of an earlier run, for peers that this run does not know yet.
    pub fn recall(&mut self, now: Instant, records: &[PeerRecord]) {
        for record in records.iter().take(PEER_RECORDS_MAX) {
            if let Some(until) = self.peers.recall(now, record) {
                self.timers.insert((until, Timer::Rested(record.node)));
            }
        }
    }

    /// Records which ranges a node has. Returns whether the offer was useful. It is not if it is
    /// for a file that is not open, has another size, comes from a shunned peer or adds nothing
    /// new.
    pub fn offer(&mut self, now: Instant, offer: &Offer) -> bool {
        if !self.files.is_open(&offer.content) {
            return false;
        }
        let Some(peer) = self.peer_or_new(offer.node) else {
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
        let fetch = self.files.get_mut(&offer.content);
        let news = fetch.is_some_and(|fetch| {
            let news = fetch.add_holder(offer.node, coverage);
            fetch.note_ranges(&offer.node);
            news
        });
        self.requeue(&offer.content);
        news
    }

    /// Requests the whole open file, and gives up after `patience` without progress. Ends in
    /// [`PlanEvent::Filled`] or [`PlanEvent::FillFailed`]. After `Filled` the file stays open until
    /// [`Plan::cancel_fill`] reports that it is stored.
    pub fn fill(&mut self, now: Instant, content: ContentKey, patience: Duration) {
        let Some(fetch) = self.files.get_mut(&content) else {
            return;
        };
        fetch.times.last_used = now;
        if fetch.is_complete() {
            self.note_filled(&content);
            return;
        }
        fetch.fill = FillWish::Wanted(FillState::new(Waiting::new(now, patience)));
        self.decisions.note(|| Decision::FillBegan(content));
        let gets = fetch.holders_mut().take_to_get();
        self.timers
            .insert((now + patience, Timer::FillDeadline(content)));
        self.get_soon(now, content, gets);
        self.enqueue(&content, WorkClass::Fill);
    }

    fn get_soon(&mut self, now: Instant, content: ContentKey, gets: bool) {
        if gets {
            let at = now + GET_ANYWAY_AFTER;
            self.timers.insert((at, Timer::GetAnyway(content)));
        }
    }

    /// Ends the wish for the whole file. Answers of requests in flight may still arrive.
    pub fn cancel_fill(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.fill = FillWish::None;
        }
        self.queue.dequeue(content, WorkClass::Fill);
    }

    /// Removes the demand of a reader that has gone. Answers in flight may still arrive; nothing
    /// more is requested for it.
    pub fn cancel(&mut self, id: DemandId) {
        let Some(demand) = self.take_demand(id) else {
            return;
        };
        self.decisions.note(|| Decision::ReadCancelled(id));
        let fetch = self.files.get(&demand.content);
        if fetch.is_some_and(|fetch| fetch.readers.is_empty()) {
            self.forget_streams(&demand.content);
        }
    }

    /// Marks bytes as missing that were on this node: the cache had no room for them. If readers
    /// still wait for them, they are requested again.
    pub fn lost(&mut self, content: &ContentKey, range: ByteRange) {
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.lose(range);
        }
        self.ask_again(content, range);
    }

    /// Returns until when a reader waits if nothing more arrives, or `None` if it no longer waits.
    /// Bytes of its file that arrive extend the time.
    pub fn waits_until(&self, now: Instant, id: DemandId) -> Option<Instant> {
        let demand = self.demands.get(&id)?;
        Some(self.patient_until(now, demand)?.max(demand.deadline))
    }

    /// Records that this node did not run for `took` until `now`. Must be called before deadlines
    /// are checked.
    pub fn note_pause(&mut self, now: Instant, took: Duration) {
        self.pause = Some(Pause::new(now, took));
    }

    /// Returns the next event, if there is one.
    pub fn poll_event(&mut self) -> Option<PlanEvent> {
        self.events.pop_front()
    }

    /// Starts or stops recording [`Decision`]s.
    pub fn set_traced(&mut self, is_traced: bool) {
        self.decisions.set_traced(is_traced);
    }

    /// Returns the decisions since the last call, in order.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        self.decisions.take()
    }

    /// Returns the latest time for the next call of [`Plan::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn take_demand(&mut self, id: DemandId) -> Option<Demand> {
        let demand = self.demands.remove(&id)?;
        self.timers.remove(&(demand.deadline, Timer::Deadline(id)));
        if let Some(fetch) = self.files.get_mut(&demand.content) {
            fetch.readers.remove(id);
        }
        Some(demand)
    }

    /// Returns the number of items examined so far. Tests measure the cost of calls with it.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Returns the bytes requested and not answered yet.
    pub fn in_flight_bytes(&self) -> u64 {
        self.requests.bytes()
    }

    /// Counts one examined item.
    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }
}
