//! Choice of the next request: demands in their order, then read-ahead, then fills, each file in
//! turn; and choice of its holder.
//!
//! A reader that requests much at once, as a command does that copies a whole file, is blocked by
//! its first missing byte. In a swarm, the gap at that byte may be requested from full holders
//! after a delay, although another node owns its stripe. Later gaps are tried only if this node
//! owns their stripes or a partial holder has their beginning.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::hedge::ASKED_AT_ONCE_MAX;
use super::holders::Coverage;
use super::link::USUAL_DELAY;
use super::peer::{Peer, PeerRank};
use super::queue::{WORK_CLASSES, WorkClass};
use super::state::{FetchState, Timer};
use super::streams::AheadRange;
use super::stripes;
use super::swarm_policy::SwarmPolicy;
use super::{
    Decision, DemandId, HoldBack, IN_FLIGHT_MAX_BYTES, Lane, PIECE_MAX_BYTES, RangeRequest,
    RequestCause, STEP_ITEMS_MAX, STRIPE_BYTES, WINDOW_MAX_BYTES,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Of the bulk requests for which a measured holder has room, one in this many, on average, goes to
/// a holder that was never measured, if there is one. So unmeasured holders become known.
const EXPLORE_ONE_IN: u32 = 32;
/// A peer gets no bulk request if its answer would take more than this many times as long as that
/// of the best peer, plus [`USUAL_DELAY`]. This holds even if the best peer has no room, but not if
/// the bytes are needed only after that time. A hedge is sent only if the rest of the late request
/// would take more than this many times as long as the hedge, or cannot be estimated.
pub(super) const WORSE_MULTIPLE: u32 = 2;

/// Peer for the beginning of a gap, or the reason why none is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HolderChoice {
    Ask(NodeId, ByteRange),
    /// The answering holders have no room for more requests, or only much slower ones have.
    NoRoom,
    /// No holder that may be asked now has it.
    Nobody,
    /// A hedge must request its range as a whole. Other peers that may be asked now have parts of
    /// it, and none has all of it.
    InParts,
    /// It may not be requested from its holders yet, because it belongs to another node of the
    /// swarm or they are silent.
    Reserved,
}

/// Gap that a peer is to be chosen for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub content: &'a ContentKey,
    pub gap: ByteRange,
    pub purpose: RequestPurpose,
    /// Peers that are asked for it already. If there are any, the wish is for a hedge, which goes
    /// to another peer.
    pub exclude: &'a [NodeId],
}

impl<'a> Wish<'a> {
    /// Returns the wish for a gap that is requested from no peer yet.
    fn new(content: &'a ContentKey, gap: ByteRange, purpose: RequestPurpose) -> Self {
        Self {
            content,
            gap,
            purpose,
            exclude: &[],
        }
    }

    fn is_hedge(&self) -> bool {
        !self.exclude.is_empty()
    }
}

/// Purpose of a request for a gap.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestPurpose {
    lane: Lane,
    /// Bytes that are expected to arrive before the gap is needed.
    before_bytes: u64,
    /// Since when the gap blocks a reader, if it does.
    waits_since: Option<Instant>,
    /// Offset from which the pieces of the gap are counted.
    origin: u64,
}

impl RequestPurpose {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            before_bytes: 0,
            waits_since: None,
            origin: 0,
        }
    }

    pub(super) fn ahead(before_bytes: u64) -> Self {
        Self {
            before_bytes,
            ..Self::new(Lane::Bulk)
        }
    }

    /// Counts the pieces of the gap from `origin`.
    fn counted_from(self, origin: u64) -> Self {
        Self { origin, ..self }
    }

    /// Returns the purpose of a gap that has blocked a reader since `since`.
    pub(super) fn waiting(since: Instant) -> Self {
        Self {
            waits_since: Some(since),
            ..Self::new(Lane::Urgent)
        }
    }
}

/// Measured or silent holder with room, and the part of the gap to request from it.
#[derive(Clone, Copy, Debug)]
struct RankedHolder {
    rank: PeerRank,
    score: Duration,
    node: NodeId,
    part: ByteRange,
}

impl RankedHolder {
    /// Returns the key to compare two of them; the less is better. A slow answering peer comes
    /// before a silent one, which would otherwise be asked again and again.
    fn order(&self) -> (PeerRank, Duration) {
        (self.rank, self.score)
    }
}

/// Holders of a gap that may be asked now.
#[derive(Debug, Default)]
struct Candidates {
    any: bool,
    any_in_part: bool,
    /// Whether holders were excluded because the gap waits for the node that owns its stripe, or
    /// for a live full holder.
    reserved: bool,
    /// Whether an answering peer was excluded because it has no room.
    any_without_room: bool,
    /// Best score of all known answering peers, including those without room.
    least: Option<Duration>,
    best: Option<RankedHolder>,
    /// Silent peer whose next try is due, although others may answer.
    to_try: Option<(NodeId, ByteRange)>,
    /// Answering peers with room that were never measured.
    unknown: Vec<(NodeId, ByteRange)>,
    /// Number of answering peers that were never measured and have requests in flight.
    unknown_in_use: usize,
    /// Sum of the bytes per second of the known answering peers.
    rate: f64,
}

impl Candidates {
    fn time_to_bring(&self, bytes: u64) -> Duration {
        let seconds = bytes as f64 / self.rate.max(1.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Counts an answering peer, with or without room.
    fn count_answering(&mut self, peer: &Peer, score: Duration) {
        if peer.link.is_known() {
            self.least = Some(self.least.map_or(score, |least| least.min(score)));
            self.rate += peer.link.rate().unwrap_or_default();
        } else if peer.link.in_flight_bytes() > 0 {
            self.unknown_in_use += 1;
        }
    }

    /// Returns whether a never measured holder may be asked.
    fn may_explore(&self) -> bool {
        !self.unknown.is_empty() && self.unknown_in_use < ASKED_AT_ONCE_MAX
    }

    /// Returns whether an answering peer without room is worth waiting for, because all holders
    /// with room are silent and not due for a try. It answers sooner than they do.
    fn has_only_silent_room(&self) -> bool {
        let is_silent = self.best.is_some_and(|it| it.rank == PeerRank::Silent);
        is_silent && self.unknown.is_empty() && self.any_without_room
    }

    /// Returns whether the answer of the best holder with room would take much longer than that of
    /// the best peer of all, and the bytes are needed earlier.
    fn is_much_worse(&self, best: &RankedHolder, before_bytes: u64) -> bool {
        let least = self.least.unwrap_or(best.score);
        let due = self.time_to_bring(before_bytes);
        best.score > (least * WORSE_MULTIPLE + USUAL_DELAY).max(due)
    }
}

/// Result of trying one demand.
enum DemandAttempt {
    Asked(RangeRequest),
    /// All of the demand is in flight or on this node.
    AllAsked,
    /// No peer can be asked for any part of the demand now.
    InVain,
}

/// Chooses the next request. Its only state is the random number generator.
#[derive(Debug)]
pub(super) struct Scheduler {
    rng: StdRng,
}

impl Scheduler {
    /// Creates a scheduler whose choices derive from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Returns a random number in 0..1, by which back-offs are varied.
    pub(super) fn jitter(&mut self) -> f64 {
        self.rng.random()
    }

    pub(super) fn next_filling(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        content: &ContentKey,
    ) -> Option<RangeRequest> {
        let fetch = state.files.get_mut(content)?;
        let from = fetch.filling().map(|filling| filling.cursor)?;
        let rest = ByteRange::new(from, fetch.size_bytes);
        let first = fetch.first_gap(rest);
        let cursor = first.map_or(fetch.size_bytes, |gap| gap.start);
        if let Some(filling) = fetch.filling_mut() {
            filling.cursor = cursor;
        }
        let Some(first) = first else {
            state.queue.dequeue(content, WorkClass::Fill);
            return None;
        };
        let left_bytes = fetch.size_bytes - fetch.presence.bytes();
        let rest = ByteRange::new(cursor, rest.end);
        let fetch = state.files.get(content)?;
        let policy = SwarmPolicy::new(state, content, fetch);
        let gaps = policy.gaps_to_try(now, (rest, rest.end), 0);
        for gap in gaps {
            let wish = Wish::new(content, gap, RequestPurpose::ahead(left_bytes));
            match self.choose(state, now, wish) {
                HolderChoice::Ask(node, part) => {
                    return Some(self.ask_to_fill(state, now, node, *content, part));
                }
                HolderChoice::NoRoom | HolderChoice::Reserved => {}
                HolderChoice::Nobody | HolderChoice::InParts => {
                    let elsewhere = self.fill_from_parts(state, now, content, first.start);
                    if elsewhere.is_some() {
                        return elsewhere;
                    }
                    state.starve(now, content);
                    break;
                }
            }
        }
        state.park(content, WorkClass::Fill);
        None
    }

    /// Fills other gaps from partial holders when no holder has the first gap.
    fn fill_from_parts(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        content: &ContentKey,
        from: u64,
    ) -> Option<RangeRequest> {
        let fetch = state.files.get(content)?;
        let rest = ByteRange::new(from, fetch.size_bytes);
        let left_bytes = fetch.size_bytes - fetch.presence.bytes();
        for gap in fetch.gaps_in_parts(rest) {
            let wish = Wish::new(content, gap, RequestPurpose::ahead(left_bytes));
            if let HolderChoice::Ask(node, part) = self.choose(state, now, wish) {
                return Some(self.ask_to_fill(state, now, node, *content, part));
            }
        }
        None
    }

    fn ask_to_fill(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        node: NodeId,
        content: ContentKey,
        part: ByteRange,
    ) -> RangeRequest {
        let fetch = state.files.get_mut(&content);
        if let Some(filling) = fetch.and_then(|it| it.filling_mut()) {
            filling.turn_at.get_or_insert(now);
        }
        state.issue(now, node, RequestCause::Fill, content, part)
    }

    /// Returns the next request in the order of the files. Returns `None` if there is none now, or
    /// if the next step continues the search.
    pub(super) fn poll_request(
        &mut self,
        state: &mut FetchState,
        now: Instant,
    ) -> Option<RangeRequest> {
        let mut tries = STEP_ITEMS_MAX;
        loop {
            if let Some(request) = self.next_of_ready(state, now, &mut tries) {
                return Some(request);
            }
            if tries == 0 {
                // the other files follow in the next step, without delay
                state.out.timers.insert((now, Timer::Again));
                return None;
            }
            if !self.wake_one(state) {
                return None;
            }
            tries -= 1;
        }
    }

    fn next_of_ready(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        tries: &mut usize,
    ) -> Option<RangeRequest> {
        for class in WORK_CLASSES {
            let reserve = match class {
                WorkClass::Demand => 0,
                // read-ahead and fills leave as many bytes unused as one peer's full window, for
                // demands
                WorkClass::ReadAhead | WorkClass::Fill => WINDOW_MAX_BYTES,
            };
            while let Some(content) = state.queue.first(class) {
                state.steps.step();
                let in_flight_bytes = state.requests.bytes() + PIECE_MAX_BYTES + reserve;
                if in_flight_bytes > IN_FLIGHT_MAX_BYTES {
                    break;
                }
                if *tries == 0 {
                    return None;
                }
                *tries -= 1;
                let found = match class {
                    WorkClass::Demand => self.next_demanded(state, now, &content),
                    WorkClass::ReadAhead => self.next_ahead(state, now, &content),
                    WorkClass::Fill => self.next_filling(state, now, &content),
                };
                if found.is_some() {
                    self.move_to_end(state, &content, class);
                    return found;
                }
            }
        }
        None
    }

    fn next_ahead(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        content: &ContentKey,
    ) -> Option<RangeRequest> {
        let limit = state.read_ahead.of_each();
        let ranges = state.files.get(content)?.streams.ahead(limit);
        let mut is_any = false;
        // the gaps of a stream are searched only if no range of the streams before it can be
        // requested
        for AheadRange { range, origin } in ranges {
            state.steps.step();
            let fetch = state.files.get(content)?;
            let policy = SwarmPolicy::new(state, content, fetch);
            let own = policy.own_stripes_ahead(range, limit);
            for gap in policy.gaps_to_try(now, (own, range.end), origin) {
                is_any = true;
                let purpose = RequestPurpose::ahead(gap.start - range.start).counted_from(origin);
                let wish = Wish::new(content, gap, purpose);
                if let HolderChoice::Ask(node, part) = self.choose(state, now, wish) {
                    return Some(state.issue(now, node, RequestCause::ReadAhead, *content, part));
                }
            }
        }
        if is_any {
            state.park(content, WorkClass::ReadAhead)
        } else {
            state.queue.dequeue(content, WorkClass::ReadAhead)
        }
        None
    }

    /// Returns the holder to ask for the beginning of a gap, or why none is asked. May mark the
    /// owner of its stripe as late.
    pub(super) fn choose(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        wish: Wish<'_>,
    ) -> HolderChoice {
        let choice = self.best_of(state, now, wish);
        if let HolderChoice::Ask(node, _) = choice
            && !wish.is_hedge()
        {
            stripes::mark_if_late(state, now, wish.content, wish.gap.start, node);
        }
        choice
    }

    /// Returns the holder to ask, in this order of preference:
    ///
    /// 1. For a bulk request outside a swarm, a silent holder whose next try is due: the request
    ///    tests whether the holder is healthy again, and no reader waits for the answer.
    /// 2. None for now ([`HolderChoice::NoRoom`]), if all holders with room are silent and not due
    ///    for a try, others answer but have no room, and the wish is not for a hedge.
    /// 3. A random holder that was never measured, if fewer than [`ASKED_AT_ONCE_MAX`] of those
    ///    are in use: always if no measured holder that answers has room, otherwise for one bulk
    ///    request in [`EXPLORE_ONE_IN`].
    /// 4. The best holder with room, by its rank and then by its score. For a bulk request that is
    ///    not a hedge, none for now if this holder is much slower than the best peer of all.
    ///
    /// If no holder may be asked, returns why.
    fn best_of(&mut self, state: &mut FetchState, now: Instant, wish: Wish<'_>) -> HolderChoice {
        let found = candidates(state, now, wish);
        let (purpose, is_hedge) = (wish.purpose, wish.is_hedge());
        if found.reserved {
            stripes::wait_for_stripe(state, now, wish.content, purpose.waits_since);
        }
        if !found.any {
            return if found.reserved {
                HolderChoice::Reserved
            } else if found.any_in_part {
                HolderChoice::InParts
            } else {
                HolderChoice::Nobody
            };
        }
        let is_bulk = purpose.lane == Lane::Bulk;
        if let Some((node, part)) = found.to_try.filter(|_| is_bulk) {
            return HolderChoice::Ask(node, part);
        }
        if found.has_only_silent_room() && !is_hedge {
            return HolderChoice::NoRoom;
        }
        let may_explore = found.may_explore();
        if let Some(best) = found.best {
            let explores = may_explore
                && (best.rank != PeerRank::Answers
                    || is_bulk && self.rng.random_ratio(1, EXPLORE_ONE_IN));
            if !explores {
                let waits_for_better =
                    is_bulk && !is_hedge && found.is_much_worse(&best, purpose.before_bytes);
                return if waits_for_better {
                    HolderChoice::NoRoom
                } else {
                    HolderChoice::Ask(best.node, best.part)
                };
            }
        }
        if !may_explore {
            return HolderChoice::NoRoom;
        }
        let (node, part) = found.unknown[self.rng.random_range(0..found.unknown.len())];
        HolderChoice::Ask(node, part)
    }

    /// Moves a file behind the others of its work class after a request. For demands, the file
    /// takes its position by age instead, and is not overdue any longer.
    fn move_to_end(&mut self, state: &mut FetchState, content: &ContentKey, class: WorkClass) {
        if class != WorkClass::Demand {
            state.queue.dequeue(content, class);
        } else if let Some(fetch) = state.files.get_mut(content) {
            fetch.readers.end_overdue();
        }
        state.enqueue(content, class);
    }

    /// Queues one file that is parked at a woken peer with room. Returns false if there is none.
    fn wake_one(&mut self, state: &mut FetchState) -> bool {
        let peers = &state.peers;
        let has_room = |node: &NodeId, lane| peers.has_room(node, lane);
        let Some((content, class)) = state.queue.next_woken(has_room) else {
            return false;
        };
        state.enqueue(&content, class);
        true
    }

    /// Requests the next part of one of a file's demands, in the order of the pass. Parks the file
    /// if no peer can be asked for any demand that is left. Examines a limited number of demands.
    pub(super) fn next_demanded(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        content: &ContentKey,
    ) -> Option<RangeRequest> {
        for _ in 0..STEP_ITEMS_MAX {
            let fetch = state.files.get_mut(content)?;
            let Some((next, begins)) = fetch.readers.scan_next() else {
                state.park(content, WorkClass::Demand);
                return None;
            };
            let in_parts = fetch.holders().has_partial();
            let row = begins.then(|| state.demands.first_in_row(fetch, next));
            // if no peer has the first demand of a row, one may have a later demand
            for id in row.filter(|first| *first != next).into_iter().chain([next]) {
                match self.ask_for_demand(state, now, content, id) {
                    DemandAttempt::Asked(request) => return Some(request),
                    DemandAttempt::AllAsked => return None,
                    // if all holders have everything, the next demand cannot be requested either
                    DemandAttempt::InVain if !in_parts => {
                        state.park(content, WorkClass::Demand);
                        return None;
                    }
                    DemandAttempt::InVain => {}
                }
            }
        }
        None
    }

    /// Requests the next part of one demand.
    fn ask_for_demand(
        &mut self,
        state: &mut FetchState,
        now: Instant,
        content: &ContentKey,
        id: DemandId,
    ) -> DemandAttempt {
        let range = state.demands.get(id).map(|demand| demand.range);
        let Some(fetch) = state.files.get_mut(content) else {
            return DemandAttempt::AllAsked;
        };
        let gap = range.and_then(|range| Some((range, fetch.first_gap(range)?)));
        let Some((range, first)) = gap else {
            fetch.readers.finish_issuing(id, state.next_id);
            state.next_id += 1;
            state.enqueue(content, WorkClass::Demand);
            return DemandAttempt::AllAsked;
        };
        for wish in gaps_of_demand(state, now, content, id, range, first) {
            let why = match self.choose(state, now, wish) {
                HolderChoice::Ask(node, part) => {
                    let request = state.issue(now, node, RequestCause::Demand, *content, part);
                    return DemandAttempt::Asked(request);
                }
                HolderChoice::NoRoom => HoldBack::NoRoom,
                HolderChoice::Reserved => HoldBack::OfAnotherNode,
                HolderChoice::Nobody | HolderChoice::InParts => {
                    state.starve(now, content);
                    HoldBack::NoHolder
                }
            };
            let held_back = Decision::ReadHeldBack {
                read: id,
                gap: wish.gap,
                why,
            };
            state.out.decisions.record(|| held_back);
        }
        DemandAttempt::InVain
    }
}

/// Returns the holders that may be asked for a gap now.
fn candidates(state: &FetchState, now: Instant, wish: Wish<'_>) -> Candidates {
    let Some(fetch) = state.files.get(wish.content) else {
        return Candidates::default();
    };
    let is_swarm = fetch.is_swarm();
    let policy = SwarmPolicy::new(state, wish.content, fetch);
    let may_ask_full =
        !is_swarm || policy.may_ask_full_holders(now, wish.gap, wish.purpose.waits_since);
    let mut search = HolderSearch {
        state,
        now,
        wish,
        is_swarm,
        may_ask_full,
        full_holder_will_be_asked: !may_ask_full && policy.has_lively_full_holder(now),
        found: Candidates::default(),
    };
    for (node, coverage) in fetch.holders().iter() {
        state.steps.step();
        search.weigh(*node, coverage);
    }
    search.found
}

/// Search for the holders of a gap that may be asked now.
struct HolderSearch<'a> {
    state: &'a FetchState,
    now: Instant,
    wish: Wish<'a>,
    is_swarm: bool,
    /// Whether full holders may be asked. In a swarm, they are asked only after the wait for the
    /// owner of the stripe.
    may_ask_full: bool,
    /// Whether a live full holder will be asked after that wait. Until then, silent partial holders
    /// that are not due for another try are left out too.
    full_holder_will_be_asked: bool,
    found: Candidates,
}

impl HolderSearch<'_> {
    /// Adds a holder to the candidates if it has the beginning of the gap and may be asked now.
    /// Otherwise records why not.
    fn weigh(&mut self, node: NodeId, coverage: &Coverage) {
        let (gap, now) = (self.wish.gap, self.now);
        let (Some(peer), Some(part)) = (self.state.peers.get(&node), coverage.first_in(gap)) else {
            return;
        };
        if self.wish.exclude.contains(&node) || peer.backoff.resting_until(now).is_some() {
            return;
        }
        let is_left_to_full_holder =
            self.full_holder_will_be_asked && !peer.silence.may_be_tried(now);
        if is_left_to_full_holder || *coverage == Coverage::All && !self.may_ask_full {
            self.found.reserved = true;
            return;
        }
        // a hedge goes to peers that have the whole range
        if self.wish.is_hedge() && part != gap {
            self.found.any_in_part = true;
            return;
        }
        self.add(node, peer, part);
    }

    /// Adds a holder that has `part` and may be asked now to the candidates.
    fn add(&mut self, node: NodeId, peer: &Peer, part: ByteRange) {
        let (lane, found) = (self.wish.purpose.lane, &mut self.found);
        found.any = true;
        let mut part = peer.link.first_piece(lane, part, self.wish.purpose.origin);
        if self.is_swarm && lane == Lane::Bulk {
            part = part.first_grain(STRIPE_BYTES);
        }
        let (rank, score) = (peer.rank(self.now), peer.score(lane, part.len()));
        if !peer.is_silent() {
            found.count_answering(peer, score);
        }
        if !peer.link.has_room(lane, part.len()) {
            found.any_without_room |= rank == PeerRank::Answers;
            return;
        }
        if !self.is_swarm && rank == PeerRank::WorthATry {
            found.to_try = Some((node, part));
        }
        if !peer.link.is_known() && !peer.is_silent() {
            found.unknown.push((node, part));
            return;
        }
        let holder = RankedHolder {
            rank,
            score,
            node,
            part,
        };
        if found.best.is_none_or(|best| holder.order() < best.order()) {
            found.best = Some(holder);
        }
    }
}

/// Returns the gaps of a demand to try. The first gap comes first; it blocks the reader if the
/// reader has reached it. In a swarm, some later gaps follow: those in stripes that this node owns,
/// and those that a partial holder has from their beginning.
fn gaps_of_demand<'a>(
    state: &mut FetchState,
    now: Instant,
    content: &'a ContentKey,
    id: DemandId,
    range: ByteRange,
    first: ByteRange,
) -> Vec<Wish<'a>> {
    let file = state.files.get(content);
    let since = file.and_then(|file| state.demands.stuck_since(file, now, id, first.start));
    let urgent = RequestPurpose::new(Lane::Urgent);
    let purpose = since.map_or(urgent, RequestPurpose::waiting);
    let mut tried = vec![Wish::new(content, first, purpose)];
    let Some(fetch) = state.files.get(content).filter(|it| it.is_swarm()) else {
        return tried;
    };
    let gaps = SwarmPolicy::new(state, content, fetch).gaps_to_try(now, (range, range.end), 0);
    let behind = gaps.into_iter().filter(|gap| gap.start > first.start);
    tried.extend(behind.map(|gap| Wish::new(content, gap, urgent)));
    tried
}
