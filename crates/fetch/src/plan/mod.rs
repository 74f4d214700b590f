//! Which range to ask of which peer next, over many files and several peers. Pure.
//!
//! The plan is told what readers wait for ([`Plan::demand`]), what they read otherwise
//! ([`Plan::note_read`]), which files are wanted whole ([`Plan::fill`]), who has what
//! ([`Plan::holders`], [`Plan::offer`]), what arrives ([`Plan::arrived`]) and how requests ended
//! ([`Plan::answered`], [`Plan::failed`]). It says what to ask ([`Plan::poll_request`]), what
//! became of the wishes ([`Plan::poll_event`]) and when to wake it ([`Plan::poll_timeout`]).
//!
//! Demands come first, then read-ahead, then fills. A range is asked once, however many wait for
//! it; only hedges ask others for it too, of three nodes in all, and they have a budget. Progress
//! is bytes that arrive, not answers that end: while bytes of a file come from anybody, however
//! slowly, nobody who waits for it is given up. No step costs more than what it touches and the
//! logarithm of what is in flight.
//! The plan moves no bytes, verifies nothing and knows no address; its randomness is seeded, its
//! time handed in, and its iteration order fixed, so one seed gives one run. An error leaves the
//! plan as it was before the call.
//!
//! | what | files |
//! |---|---|
//! | its words | `terms` |
//! | what is known of a file on its way, and of who reads it | `fetch`, `places`, `streams` |
//! | what is known of a peer, and of which | `peer`, `silence`, `past`, `record`, `known` |
//! | times in which this node did not run | `pause` |
//! | which file is next, and what of it is asked of whom | `turns`, `schedule`; `demands` for who waits, `ahead` for who reads on, `filling` for who wants all, `swarm` and `fellows` where many want one file, `metered` |
//! | what becomes of requests | `answers`, `hedge`, `beside`, `closing` |
//! | what people are told | `report` |

mod ahead;
mod answers;
mod beside;
mod closing;
mod demands;
mod fellows;
pub mod fetch;
mod filling;
mod hedge;
pub mod known;
mod metered;
mod past;
mod pause;
pub mod peer;
mod places;
pub mod record;
mod report;
mod schedule;
mod silence;
pub mod streams;
mod swarm;
mod terms;
mod turns;

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

use fetch::{Coverage, Fetch, Filling};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use p2pfs_types::id::NodeId;
use peer::{Peer, Sent};
use turns::{Line, Pass, Want};

pub use fetch::{HOLDERS_MAX, RUNS_MAX};
pub use known::PEERS_MAX;
pub use peer::SMALL_BYTES;
pub use peer::{SHUN, WINDOW_MAX_BYTES, WINDOW_START_BYTES};
pub use record::{PEER_RECORDS_MAX, PeerRecord};
pub use report::{FetchReport, SourceReport};
pub use streams::{AHEAD_MAX_BYTES, AHEAD_MIN_BYTES, AHEAD_OF_ALL_MAX_BYTES, STREAMS_MAX};
pub use swarm::STRIPE_BYTES;
pub use terms::{
    DemandId, Failure, Lane, Listed, Offer, PeerRate, PlanConfig, PlanError, PlanEvent,
    RangeRequest, RequestId,
};

/// The largest range of one request, and the grain of what is asked in bulk: the wire's limit.
pub const PIECE_MAX_BYTES: u64 = 1 << 20;
/// Demands up to this size travel apart from bulk: as far as the kernel reads ahead unless told
/// otherwise.
pub const URGENT_MAX_BYTES: u64 = 128 << 10;
/// A file up to this size is asked for as a whole, whatever is read of it: one chunk.
const WHOLE_MAX_BYTES: u64 = CHUNK_BYTES;
/// In flight to all peers together; bounds the memory of the transfer.
pub const IN_FLIGHT_MAX_BYTES: u64 = 48 << 20;
/// Reads that may wait at one time; one more fails. More than the kernel may have under way: its
/// read-aheads (`fuse::BACKGROUND_MAX`), and one for each thread of a machine.
pub const DEMANDS_MAX: usize = 1 << 16;
/// Files on their way at one time; one more fails. More than the kernel may have read-aheads under
/// way, each of which may be of another file.
pub const FETCHES_MAX: usize = 1 << 14;
/// Where so many are open, those that nobody waits for are let go of.
pub const FETCHES_KEPT_MAX: usize = 1024;
/// A file above this size is looked for with a `Get` even where holders are known.
const GET_ANYWAY_BYTES: u64 = 1 << 20;
/// How long after something of it is wanted: a short read of a holder that is known is over by
/// then, and the question would only be in its way.
const GET_ANYWAY_AFTER: Duration = Duration::from_millis(3);
/// A reader whose file makes no progress waits for its turn at a holder that is at work for others,
/// but not beyond so many times its patience.
const TURN_PATIENCE: u32 = 6;
/// Whose file made no progress for so many times its patience gets a part of it before the others.
const OVERDUE_PATIENCE: u32 = 2;

#[derive(Debug)]
struct Demand {
    content: ContentKey,
    range: ByteRange,
    since: Instant,
    /// Where its reader can go on no farther, since nothing of it is asked of anybody, and since
    /// when.
    stuck: Option<(u64, Instant)>,
    /// How long to wait without progress.
    patience: Duration,
    /// When that is looked at next.
    deadline: Instant,
}

#[derive(Debug)]
struct InFlight {
    request: RangeRequest,
    sent: Sent,
    /// When it is looked at whether it is late, and how often it was.
    look_at: Instant,
    looks: u32,
    expire_at: Instant,
    /// What came of its answer so far, and when that last was.
    arrived_bytes: u64,
    arrived_at: Option<Instant>,
    /// Whether a limit of this node keeps it from being asked yet: its peer knows nothing of it.
    is_held: bool,
    /// Whether all of its answer is here, and waits to be verified: nobody is late.
    is_here: bool,
    /// Whether it hedges another.
    is_hedge: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Look(RequestId),
    Expire(RequestId),
    Deadline(DemandId),
    FillDeadline(ContentKey),
    Wanted(ContentKey),
    /// Other holders are looked for if something of the file is still wanted.
    GetAnyway(ContentKey),
    Idle(ContentKey),
    /// A peer's rest is over.
    Rested(NodeId),
    /// Others that want the file are asked what they have by now.
    Survey(ContentKey),
    /// What belongs to others may be asked of full holders.
    Stripe(ContentKey),
    /// A step left some of its work for the next.
    Again,
}

/// The scheduler; see the module.
#[derive(Debug)]
pub struct Plan {
    config: PlanConfig,
    rng: StdRng,
    fetches: BTreeMap<ContentKey, Fetch>,
    /// How many were opened since those that nobody waits for were looked for.
    opened: usize,
    peers: BTreeMap<NodeId, Peer>,
    demands: BTreeMap<DemandId, Demand>,
    /// Files that have something to ask, for each kind of wish in turn.
    called: [Line; 3],
    next_turn: u64,
    /// Peers that may have room for a file that is parked at them.
    awake: BTreeMap<NodeId, Pass>,
    /// Peers that fell silent, and the first of their requests that is yet to be asked elsewhere.
    rescues: BTreeMap<NodeId, RequestId>,
    in_flight: BTreeMap<RequestId, InFlight>,
    in_flight_bytes: u64,
    hedges: VecDeque<RangeRequest>,
    hedge_credit_bytes: u64,
    timers: BTreeSet<(Instant, Timer)>,
    events: VecDeque<PlanEvent>,
    next_id: u64,
    established_streams: usize,
    ahead_budget_bytes: Option<u64>,
    /// Nothing is fetched that nobody reads.
    metered: bool,
    /// Looks at one thing, all calls together.
    steps: Cell<u64>,
    /// When this node last did not run for a while.
    pause: Option<pause::Pause>,
}

impl Plan {
    /// A plan with nothing to do.
    pub fn new(config: PlanConfig, seed: u64) -> Self {
        Self {
            config,
            rng: StdRng::seed_from_u64(seed),
            fetches: BTreeMap::new(),
            opened: 0,
            peers: BTreeMap::new(),
            demands: BTreeMap::new(),
            called: Default::default(),
            next_turn: 0,
            awake: BTreeMap::new(),
            rescues: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            hedges: VecDeque::new(),
            hedge_credit_bytes: hedge::HEDGE_CREDIT_MAX_BYTES,
            timers: BTreeSet::new(),
            events: VecDeque::new(),
            next_id: 0,
            pause: None,
            established_streams: 0,
            ahead_budget_bytes: None,
            metered: false,
            steps: Cell::new(0),
        }
    }

    /// Whether the file is on its way.
    pub fn is_open(&self, content: &ContentKey) -> bool {
        self.fetches.contains_key(content)
    }

    /// Begins a fetch of a file of which `present` is here already; one that has begun stays.
    ///
    /// # Errors
    /// [`PlanError::TooMany`] where [`FETCHES_MAX`] files are all in use.
    pub fn open(
        &mut self,
        now: Instant,
        content: ContentKey,
        present: ExtentSet,
    ) -> Result<(), PlanError> {
        if let Some(fetch) = self.fetches.get_mut(&content) {
            fetch.last_used = now;
            return Ok(());
        }
        if !self.make_room() {
            return Err(PlanError::TooMany);
        }
        let mut fetch = Fetch::new(content.size_bytes, present, now);
        fetch.is_to_get = content.size_bytes > GET_ANYWAY_BYTES && !fetch.is_complete();
        self.fetches.insert(content, fetch);
        self.timers
            .insert((now + self.config.idle, Timer::Idle(content)));
        Ok(())
    }

    /// Nodes that have all of the file, as the catalogue says.
    pub fn holders(&mut self, now: Instant, content: &ContentKey, listed: &[Listed]) {
        self.take_out_all(content);
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        for one in listed {
            fetch.add_listed_holder(now, *one);
        }
        let nodes = listed.iter().map(|one| one.node);
        let held: Vec<_> = nodes.filter(|it| self.is_holder(content, it)).collect();
        for node in held {
            self.peer_or_new(node);
        }
        self.call_up_all(content);
        self.give_up_what_is_gone(now, *content);
    }

    /// Whether a request is still to be answered.
    pub fn is_asked(&self, id: RequestId) -> bool {
        self.in_flight.contains_key(&id)
    }

    /// Whether a node counts as a holder of an open file.
    pub fn is_holder(&self, content: &ContentKey, node: &NodeId) -> bool {
        self.fetches
            .get(content)
            .is_some_and(|fetch| fetch.holders().contains_key(node))
    }

    /// Whether a node that had all of an open file said a moment ago that it has it no more: the
    /// catalogue may know better by now.
    pub fn was_just_lost(&self, now: Instant, content: &ContentKey) -> bool {
        let fetch = self.fetches.get(content);
        fetch.is_some_and(|fetch| fetch.was_just_lost(now))
    }

    /// A node says what it has. Says whether that was of use: an offer of another size, for a file
    /// that nobody wants or from a shunned peer is not.
    pub fn offer(&mut self, now: Instant, offer: &Offer) -> bool {
        if !self.is_open(&offer.content) {
            return false;
        }
        let Some(peer) = self.peer_or_new(offer.node) else {
            return false;
        };
        peer.load = offer.load;
        if peer.is_shunned(now) {
            return false;
        }
        let size_bytes = offer.content.size_bytes;
        let coverage = if offer.all {
            Coverage::All
        } else {
            Coverage::Part(offer.ranges.align_in(CHUNK_BYTES, size_bytes))
        };
        self.take_out_all(&offer.content);
        let fetch = self.fetches.get_mut(&offer.content);
        let news = fetch.is_some_and(|fetch| {
            let news = fetch.add_holder(offer.node, coverage);
            fetch.note_furthest(&offer.node);
            news
        });
        self.call_up_all(&offer.content);
        news
    }

    /// The whole open file is wanted; gives up after `patience` without progress. Ends in
    /// [`PlanEvent::Filled`], from which on it stays open until [`Plan::cancel_fill`] says that it
    /// is stored, or in [`PlanEvent::FillFailed`].
    pub fn fill(&mut self, now: Instant, content: ContentKey, patience: Duration) {
        let Some(fetch) = self.fetches.get_mut(&content) else {
            return;
        };
        fetch.last_used = now;
        if fetch.is_complete() {
            self.note_filled(&content);
            return;
        }
        fetch.filling = Some(Filling::new(now, patience));
        let gets = std::mem::take(&mut fetch.is_to_get);
        self.timers
            .insert((now + patience, Timer::FillDeadline(content)));
        self.get_soon(now, content, gets);
        self.call_up(&content, Want::Fill);
    }

    fn get_soon(&mut self, now: Instant, content: ContentKey, gets: bool) {
        if gets {
            let at = now + GET_ANYWAY_AFTER;
            self.timers.insert((at, Timer::GetAnyway(content)));
        }
    }

    /// Nobody wants the whole file any more; what is asked already may still come.
    pub fn cancel_fill(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.fetches.get_mut(content) {
            fetch.filling = None;
            fetch.is_being_stored = false;
        }
        self.take_out(content, Want::Fill);
    }

    /// The reader has gone. What is asked already may still come; nothing more is asked for it.
    pub fn cancel(&mut self, id: DemandId) {
        let Some(demand) = self.take_demand(id) else {
            return;
        };
        let fetch = self.fetches.get(&demand.content);
        if fetch.is_some_and(|fetch| fetch.waits.is_empty()) {
            self.forget_streams(&demand.content);
        }
    }

    /// Bytes that were here are not any more: the cache had no room for them. Whoever waits for
    /// them still has them asked again.
    pub fn lost(&mut self, content: &ContentKey, range: ByteRange) {
        if let Some(fetch) = self.fetches.get_mut(content) {
            fetch.lose(range);
        }
        self.ask_again(content, range);
    }

    /// Until when a reader waits if nothing more comes; nothing where it waits no more. It moves
    /// on as bytes of its file arrive.
    pub fn waits_until(&self, now: Instant, id: DemandId) -> Option<Instant> {
        let demand = self.demands.get(&id)?;
        Some(self.patient_until(now, demand)?.max(demand.deadline))
    }

    /// How many bytes of an open file are here.
    pub fn ready_bytes(&self, content: &ContentKey) -> Option<u64> {
        self.fetches.get(content).map(Fetch::have_bytes)
    }

    /// What is here of an open file beside what `kept` has.
    pub fn ready_beside(&self, content: &ContentKey, kept: &ExtentSet) -> ExtentSet {
        let fetch = self.fetches.get(content);
        fetch.map_or_else(ExtentSet::new, |fetch| fetch.have().without(kept))
    }

    /// What became of the wishes since the last call.
    pub fn poll_event(&mut self) -> Option<PlanEvent> {
        self.events.pop_front()
    }

    /// When to call [`Plan::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn take_demand(&mut self, id: DemandId) -> Option<Demand> {
        let demand = self.demands.remove(&id)?;
        self.timers.remove(&(demand.deadline, Timer::Deadline(id)));
        if let Some(fetch) = self.fetches.get_mut(&demand.content) {
            fetch.waits.remove(id);
            fetch.no_longer_hungry(&id);
        }
        Some(demand)
    }

    /// How many things were looked at so far: what the calls of a plan cost, for tests.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// What is asked and not answered.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// One look at one thing.
    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }
}
