//! Choice of the next request: demands in their order, then read-ahead and fills, each file in
//! turn; and choice of its holder.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::holders::Coverage;
use super::peer::PeerRank;
use super::queue::{QueuePosition, WORK_CLASSES, WorkClass};
use super::requests::{OpenRequest, RequestState};
use super::{
    Decision, IN_FLIGHT_MAX_BYTES, Lane, PIECE_MAX_BYTES, PeerTable, Plan, PlanEvent, RangeRequest,
    RequestCause, RequestId, STRIPE_BYTES, Timer,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Bytes of [`IN_FLIGHT_MAX_BYTES`] that read-ahead and fills leave to demands.
const DEMAND_RESERVE_BYTES: u64 = 16 << 20;
/// Maximum peers without any answer that are tried for one file at one time.
const UNKNOWN_AT_ONCE_MAX: usize = 4;
/// One of this many bulk requests goes to an unknown peer although a known one has room.
const EXPLORE_ONE_IN: u32 = 32;
/// A peer gets no bulk request that another, busy peer would answer this many times sooner and by
/// more than [`WORSE_SLACK`].
pub(super) const WORSE_MULTIPLE: u32 = 2;
/// Minimum gain worth waiting for a busy peer; see [`WORSE_MULTIPLE`].
pub(super) const WORSE_SLACK: Duration = Duration::from_millis(50);
/// Maximum files tried for one request. The others follow in the next step.
const TRIES_MAX: usize = 32;

/// Peer for the beginning of a gap, or why none can be asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HolderChoice {
    Ask(NodeId, ByteRange),
    /// The holders have no room for more requests.
    Full,
    /// No reachable peer has it.
    Nobody,
    /// The range must be requested as a whole. Some peers have parts of it, and no peer has all of
    /// it.
    InParts,
    /// It belongs to another node of the swarm, which does not have it yet.
    Reserved,
}

/// Purpose of a request for a gap.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestPurpose {
    lane: Lane,
    /// Bytes that arrive before it is needed.
    before_bytes: u64,
    /// Since when a reader waits for it, if one does.
    waits_since: Option<Instant>,
}

impl RequestPurpose {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            before_bytes: 0,
            waits_since: None,
        }
    }

    pub(super) fn ahead(before_bytes: u64) -> Self {
        Self {
            before_bytes,
            ..Self::new(Lane::Bulk)
        }
    }

    /// Returns the purpose of a gap that blocks a reader since `since`, or may be treated so.
    pub(super) fn waiting(since: Instant) -> Self {
        Self {
            waits_since: Some(since),
            ..Self::new(Lane::Urgent)
        }
    }
}

/// Holders of a gap that may be asked now.
#[derive(Default)]
struct Candidates {
    any: bool,
    any_in_part: bool,
    /// Whether full holders were excluded because the gap belongs to another node.
    reserved: bool,
    /// Whether an answering peer was excluded because it has no room.
    any_full: bool,
    /// Best score of all answering peers, including those without room.
    least: Option<Duration>,
    best: Option<(Duration, NodeId, ByteRange)>,
    best_stands: PeerRank,
    /// Silent peer with a due try although others answer.
    to_try: Option<(NodeId, ByteRange)>,
    unknown: Vec<(NodeId, ByteRange)>,
    unknown_in_use: usize,
    /// Sum of the bytes per second of the known peers.
    rate: f64,
}

impl Candidates {
    fn time_to_bring(&self, bytes: u64) -> Duration {
        let seconds = bytes as f64 / self.rate.max(1.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Plan {
    /// Returns the next request, or `None` until something changes.
    pub fn poll_request(&mut self, now: Instant) -> Option<RangeRequest> {
        if let Some(request) = self.requests.next_chosen() {
            return Some(request);
        }
        self.rescue_some(now);
        let mut tries = TRIES_MAX;
        loop {
            if let Some(request) = self.next_of_ready(now, &mut tries) {
                return Some(request);
            }
            if tries == 0 {
                // the other files follow at once
                self.timers.insert((now, Timer::Again));
                return None;
            }
            if !self.wake_one() {
                return None;
            }
            tries -= 1;
        }
    }

    fn next_of_ready(&mut self, now: Instant, tries: &mut usize) -> Option<RangeRequest> {
        for class in WORK_CLASSES {
            let reserve = match class {
                WorkClass::Demand => 0,
                WorkClass::ReadAhead | WorkClass::Fill => DEMAND_RESERVE_BYTES,
            };
            while let Some(content) = self.queue.first(class) {
                self.step();
                let in_flight_bytes = self.requests.bytes() + PIECE_MAX_BYTES + reserve;
                if in_flight_bytes > IN_FLIGHT_MAX_BYTES {
                    break;
                }
                if *tries == 0 {
                    return None;
                }
                *tries -= 1;
                let found = match class {
                    WorkClass::Demand => self.next_demanded(now, &content),
                    WorkClass::ReadAhead => self.next_ahead(now, &content),
                    WorkClass::Fill => self.next_filling(now, &content),
                };
                if found.is_some() {
                    self.move_to_end(&content, class);
                    return found;
                }
            }
        }
        None
    }

    fn next_ahead(&mut self, now: Instant, content: &ContentKey) -> Option<RangeRequest> {
        let limit = self.read_ahead.of_each();
        let ranges = self.files.get(content)?.streams.ahead(limit);
        let mut is_any = false;
        // the range of a stream is computed only if the streams before it need nothing
        for range in ranges {
            self.step();
            let fetch = self.files.get(content)?;
            let policy = self.swarm_policy(content, fetch);
            let own = policy.own_stripes_ahead(range, limit);
            for gap in policy.gaps_to_try(now, (own, range.end)) {
                is_any = true;
                let asking = RequestPurpose::ahead(gap.start - range.start);
                if let HolderChoice::Ask(node, part) = self.choose(now, content, gap, asking, &[]) {
                    return Some(self.issue(now, node, RequestCause::ReadAhead, *content, part));
                }
            }
        }
        if is_any {
            self.park(content, WorkClass::ReadAhead)
        } else {
            self.queue.dequeue(content, WorkClass::ReadAhead)
        }
        None
    }

    /// Returns the best holder of the beginning of `gap` that is not in `exclude`.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        content: &ContentKey,
        gap: ByteRange,
        asking: RequestPurpose,
        exclude: &[NodeId],
    ) -> HolderChoice {
        let choice = self.best_of(now, content, gap, asking, exclude);
        if let HolderChoice::Ask(node, _) = choice
            && exclude.is_empty()
        {
            self.mark_if_late(now, content, gap.start, node);
        }
        choice
    }

    fn best_of(
        &mut self,
        now: Instant,
        content: &ContentKey,
        gap: ByteRange,
        asking: RequestPurpose,
        exclude: &[NodeId],
    ) -> HolderChoice {
        let found = self.candidates(now, content, gap, asking, exclude);
        if found.reserved {
            self.wait_for_stripe(now, content, asking.waits_since);
        }
        if !found.any {
            return match (found.reserved, found.any_in_part) {
                (true, _) => HolderChoice::Reserved,
                (_, true) => HolderChoice::InParts,
                (_, false) => HolderChoice::Nobody,
            };
        }
        let lane = asking.lane;
        // a request without a waiting reader tests whether a silent peer is healthy again, at
        // little cost
        if let Some((node, part)) = found.to_try.filter(|_| lane == Lane::Bulk) {
            return HolderChoice::Ask(node, part);
        }
        // an answering peer with a queue is sooner than a silent one
        let only_silent = found.best_stands == PeerRank::Silent && found.unknown.is_empty();
        if only_silent && found.any_full && exclude.is_empty() {
            return HolderChoice::Full;
        }
        let may_explore = !found.unknown.is_empty() && found.unknown_in_use < UNKNOWN_AT_ONCE_MAX;
        if let Some((score, node, part)) = found.best {
            let explore = may_explore
                && (found.best_stands != PeerRank::Answers
                    || lane == Lane::Bulk && self.rng.random_ratio(1, EXPLORE_ONE_IN));
            let least = found.least.unwrap_or(score);
            let due = found.time_to_bring(asking.before_bytes);
            let bearable = (least * WORSE_MULTIPLE + WORSE_SLACK).max(due);
            if !explore {
                let worse = lane == Lane::Bulk && exclude.is_empty() && score > bearable;
                return if worse {
                    HolderChoice::Full
                } else {
                    HolderChoice::Ask(node, part)
                };
            }
        }
        if !may_explore {
            return HolderChoice::Full;
        }
        let (node, part) = found.unknown[self.rng.random_range(0..found.unknown.len())];
        HolderChoice::Ask(node, part)
    }

    fn candidates(
        &self,
        now: Instant,
        content: &ContentKey,
        gap: ByteRange,
        asking: RequestPurpose,
        exclude: &[NodeId],
    ) -> Candidates {
        let (mut found, lane) = (Candidates::default(), asking.lane);
        let Some(fetch) = self.files.get(content) else {
            return found;
        };
        let is_swarm = fetch.is_swarm();
        let of_full =
            !is_swarm || self.may_ask_full_holders(now, fetch, content, gap, asking.waits_since);
        // in a swarm a full holder is asked in time for what only silent peers have
        let in_time = !of_full && self.has_lively_full_holder(now, fetch);
        for (node, coverage) in fetch.holders().iter() {
            self.step();
            let (Some(peer), Some(part)) = (self.peers.get(node), coverage.first_in(gap)) else {
                continue;
            };
            if exclude.contains(node) || peer.backoff.resting_until(now).is_some() {
                continue;
            }
            let is_left = in_time && !peer.silence.may_be_tried(now);
            if is_left || *coverage == Coverage::All && !of_full {
                found.reserved = true;
                continue;
            }
            // a hedge goes to peers that have the whole range
            let hedged = !exclude.is_empty();
            if hedged && part != gap {
                found.any_in_part = true;
                continue;
            }
            found.any = true;
            let mut part = peer.link.first_piece(lane, part);
            if is_swarm && lane == Lane::Bulk {
                part = part.first_grain(STRIPE_BYTES);
            }
            let score = peer.score(lane, part.len());
            let standing = peer.standing(now);
            if peer.is_silent() {
                // a silent peer is not worth waiting for
            } else if peer.link.is_known() {
                found.least = Some(found.least.map_or(score, |least| least.min(score)));
                found.rate += peer.link.rate().unwrap_or_default();
            } else if peer.link.in_flight_bytes() > 0 {
                found.unknown_in_use += 1;
            }
            if !peer.link.has_room(lane, part.len()) {
                found.any_full |= standing == PeerRank::Answers;
                continue;
            }
            if !is_swarm && standing == PeerRank::WorthATry {
                found.to_try = Some((*node, part));
            }
            if !peer.link.is_known() && !peer.is_silent() {
                found.unknown.push((*node, part));
            } else if found.best.is_none_or(|(best, ..)| {
                // a slow peer still wins: a silent one would be asked again and again
                (standing, score) < (found.best_stands, best)
            }) {
                (found.best, found.best_stands) = (Some((score, *node, part)), standing);
            }
        }
        found
    }

    /// Records a request as sent.
    pub(super) fn issue(
        &mut self,
        now: Instant,
        node: NodeId,
        cause: RequestCause,
        content: ContentKey,
        range: ByteRange,
    ) -> RangeRequest {
        let lane = cause.lane();
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let peer = self.peers.entry(node);
        let sent = peer.sent(now, id, lane, range.len());
        let check_at = now + self.hedging.late_after(sent.usual, cause.is_waited_for());
        let expire_at = now + self.config.request_limit;
        self.timers.insert((check_at, Timer::CheckOverdue(id)));
        self.timers.insert((expire_at, Timer::Expire(id)));
        if let Some(fetch) = self.files.get_mut(&content) {
            fetch.asked.insert(range, id);
            fetch.holders_mut().set_starved(false);
            fetch.note_request(now);
        }
        let request = RangeRequest {
            id,
            node,
            lane,
            content,
            range,
        };
        let fetch = self.files.get(&content);
        self.decisions.note(|| Decision::Chosen {
            request,
            cause,
            readers: fetch.map_or_else(Vec::new, |it| {
                it.readers.touching(range).into_iter().collect()
            }),
        });
        self.requests.insert(OpenRequest {
            request,
            cause,
            sent,
            state: RequestState::Sent,
            check_at,
            checks: 0,
            expire_at,
        });
        request
    }

    /// Queues a file that may have something to request.
    pub(super) fn enqueue(&mut self, content: &ContentKey, class: WorkClass) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        if class == WorkClass::Demand {
            fetch.readers.restart_scan();
        }
        let position = match class {
            WorkClass::Demand => fetch.readers.position(),
            WorkClass::ReadAhead => Some(QueuePosition::Last),
            WorkClass::Fill => fetch.filling().is_some().then_some(QueuePosition::Last),
        };
        match position {
            Some(position) => self.queue.enqueue(content, class, position),
            None => self.queue.dequeue(content, class),
        }
    }

    pub(super) fn enqueue_all(&mut self, content: &ContentKey) {
        WORK_CLASSES
            .iter()
            .for_each(|class| self.enqueue(content, *class));
    }

    /// Queues a file anew in each work class after its holders changed.
    pub(super) fn requeue(&mut self, content: &ContentKey) {
        for class in WORK_CLASSES {
            self.queue.dequeue(content, class);
            self.enqueue(content, class);
        }
    }

    /// Moves a file behind the others after a request. Demands keep their order of age instead.
    fn move_to_end(&mut self, content: &ContentKey, class: WorkClass) {
        if class != WorkClass::Demand {
            self.queue.dequeue(content, class);
        } else if let Some(fetch) = self.files.get_mut(content) {
            fetch.readers.end_overdue();
        }
        self.enqueue(content, class);
    }

    /// Parks a file that cannot request anything until a holder has room or a new holder appears.
    pub(super) fn park(&mut self, content: &ContentKey, class: WorkClass) {
        let Some(fetch) = self.files.get(content) else {
            return;
        };
        let position = match class {
            WorkClass::Demand => {
                let newest = QueuePosition::At(self.next_id);
                fetch.readers.position().unwrap_or(newest)
            }
            WorkClass::ReadAhead | WorkClass::Fill => QueuePosition::Last,
        };
        let nodes = fetch.holders().nodes();
        let nodes = nodes.filter(|node| self.peers.get(node).is_some());
        let nodes = nodes.copied().collect();
        self.queue.park(content, class, position, nodes);
    }

    /// Moves a file ahead of older ones if its first reader has waited long without a byte and
    /// would give up before long. Its reader then progresses like a reader of a slow holder.
    pub(super) fn mark_if_overdue(&mut self, now: Instant, content: &ContentKey) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        let first = fetch
            .readers
            .first_unissued()
            .and_then(|id| self.demands.get(&id));
        let Some(first) = first.filter(|_| fetch.asked.is_empty()) else {
            return;
        };
        let is_overdue = fetch.progress_of(first.waiting).is_overdue(now);
        if is_overdue && fetch.readers.mark_overdue() {
            self.enqueue(content, WorkClass::Demand);
        }
    }

    /// Wakes the files parked at a peer that may have room. An overdue one is queued at once,
    /// before all other files.
    pub(super) fn wake(&mut self, node: NodeId) {
        self.queue.wake(node);
        let has_room = has_room_for_piece(&self.peers, &node, WorkClass::Demand.lane());
        let overdue = self.queue.overdue_at(&node).filter(|_| has_room);
        if let Some(content) = overdue {
            self.enqueue(&content, WorkClass::Demand);
        }
    }

    /// Queues one file that is parked at a woken peer with room. Returns false if there is none.
    fn wake_one(&mut self) -> bool {
        let peers = &self.peers;
        let has_room = |node: &NodeId, lane| has_room_for_piece(peers, node, lane);
        let Some((content, class)) = self.queue.next_woken(has_room) else {
            return false;
        };
        self.enqueue(&content, class);
        true
    }

    /// Looks for holders, repeatedly, because no known peer can serve the wish.
    pub(super) fn starve(&mut self, now: Instant, content: &ContentKey) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        fetch.holders_mut().set_starved(true);
        if let Some(next) = fetch.holders_mut().take_get_turn(now) {
            self.decisions.note(|| Decision::HoldersWanted(*content));
            self.events.push_back(PlanEvent::Wanted(*content));
            self.timers.insert((next, Timer::Wanted(*content)));
        }
    }
}

fn has_room_for_piece(peers: &PeerTable, node: &NodeId, lane: Lane) -> bool {
    let peer = peers.get(node);
    peer.is_some_and(|peer| peer.link.has_room(lane, peer.link.piece_bytes(lane)))
}
