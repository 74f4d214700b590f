//! State of all fetches, and the changes that keep its parts consistent.
//!
//! A request is recorded in three places: in the table of requests, at its file and at its peer.
//! [`FetchState::issue`] and [`FetchState::take_request`] change all three. A waiting reader is
//! recorded at its file and in the table of demands; [`FetchState::take_demand`] removes it from
//! both. The choices are in `schedule`, `hedge`, `stripes`, `waits` and `blame`.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::decisions::DecisionLog;
use super::demands::{Demand, DemandTable};
use super::fetch::FillWish;
use super::peer::Peer;
use super::queue::{QueuePosition, ReadyQueue, WORK_CLASSES, WorkClass};
use super::requests::{OpenRequest, RequestState, RequestTable};
use super::{
    Decision, DemandId, FileTable, HedgeRefusal, PeerTable, PlanConfig, PlanEvent, RangeRequest,
    ReadAheadBudget, RequestCause, RequestId, TakeBackReason,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Delay between the first wish for a file and a `Get`, which asks all nodes for more holders. A
/// short read from a near holder is over by then, and an earlier `Get` would only delay it.
const GET_ANYWAY_AFTER: Duration = Duration::from_millis(3);

/// Event that is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
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
    /// Asks some other nodes that want the file which parts they have by now.
    Survey(ContentKey),
    /// Stripes of other nodes may perhaps be requested from full holders now.
    Stripe(ContentKey),
    /// The last step left some of its work for the next one.
    Again,
}

/// Outputs that the owner of the plan takes: events, the next wake-up time and decisions.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(super) timers: BTreeSet<(Instant, Timer)>,
    pub(super) events: VecDeque<PlanEvent>,
    pub(super) decisions: DecisionLog,
}

impl Outbox {
    /// Returns the next event, if there is one.
    pub(crate) fn poll_event(&mut self) -> Option<PlanEvent> {
        self.events.pop_front()
    }

    /// Removes and returns the first timer that is due.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<Timer> {
        let due = self.timers.first().filter(|(at, _)| *at <= now).copied()?;
        self.timers.remove(&due);
        Some(due.1)
    }

    /// Schedules a search for more holders shortly after the first wish for a file, if `gets` is
    /// true.
    pub(super) fn get_soon(&mut self, now: Instant, content: ContentKey, gets: bool) {
        if gets {
            let at = now + GET_ANYWAY_AFTER;
            self.timers.insert((at, Timer::GetAnyway(content)));
        }
    }

    /// Records why a late request is not hedged.
    pub(super) fn note_not_hedged(&mut self, request: RequestId, why: HedgeRefusal) {
        self.decisions
            .record(|| Decision::NotHedged { request, why });
    }

    /// Starts or stops recording [`Decision`]s.
    pub fn set_traced(&mut self, is_traced: bool) {
        self.decisions.set_traced(is_traced);
    }

    /// Returns the decisions since the last call, in order.
    pub(crate) fn take_decisions(&mut self) -> Vec<Decision> {
        self.decisions.take()
    }
}

/// Number of examined items, by which tests measure the cost of calls.
#[derive(Debug, Default)]
pub(super) struct StepCounter(Cell<u64>);

impl StepCounter {
    /// Counts one examined item.
    pub(super) fn step(&self) {
        self.0.set(self.0.get() + 1);
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn count(&self) -> u64 {
        self.0.get()
    }
}

/// State of all fetches; see the module documentation.
#[derive(Debug)]
pub(super) struct FetchState {
    pub(super) config: PlanConfig,
    /// Open files.
    pub(super) files: FileTable,
    /// Peers and their figures.
    pub(super) peers: PeerTable,
    pub(super) demands: DemandTable,
    pub(super) queue: ReadyQueue,
    /// Requests in flight.
    pub(super) requests: RequestTable,
    /// Read-ahead of all readers together.
    pub(super) read_ahead: ReadAheadBudget,
    /// Outputs for the owner.
    pub(super) out: Outbox,
    pub(super) next_id: u64,
    /// Number of items examined by all calls together, besides demands.
    pub(super) steps: StepCounter,
}

impl FetchState {
    /// Creates a state without files and peers.
    pub(super) fn new(config: PlanConfig) -> Self {
        Self {
            config,
            files: FileTable::default(),
            peers: PeerTable::default(),
            demands: DemandTable::default(),
            queue: ReadyQueue::default(),
            requests: RequestTable::default(),
            read_ahead: ReadAheadBudget::default(),
            out: Outbox::default(),
            next_id: 0,
            steps: StepCounter::default(),
        }
    }

    /// Returns the figures of a peer, and creates them if there are none. Returns `None` if the
    /// table is full and no peer can be forgotten.
    pub(super) fn peer_or_new(&mut self, node: NodeId) -> Option<&mut Peer> {
        if self.peers.is_full_for(&node) {
            let files = self.files.iter();
            let holders: BTreeSet<_> = files.flat_map(|(_, it)| it.holders().nodes()).collect();
            let (queue, steps) = (&self.queue, &self.steps);
            let is_unused = |node: &NodeId| {
                steps.step();
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

    /// Ends the fill of a file. Answers of requests in flight may still arrive.
    pub(super) fn cancel_fill(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.fill = FillWish::None;
        }
        self.queue.dequeue(content, WorkClass::Fill);
    }

    /// Removes a demand, with its timer.
    pub(super) fn take_demand(&mut self, id: DemandId) -> Option<Demand> {
        let demand = self.demands.remove(id)?;
        self.out
            .timers
            .remove(&(demand.deadline, Timer::Deadline(id)));
        if let Some(fetch) = self.files.get_mut(&demand.content) {
            fetch.readers.remove(id);
        }
        Some(demand)
    }

    /// Removes a request from all places where it is recorded, with its timers.
    pub(super) fn take_request(&mut self, id: RequestId) -> Option<OpenRequest> {
        let entry = self.requests.remove(id)?;
        let request = &entry.request;
        self.out
            .timers
            .remove(&(entry.check_at, Timer::CheckOverdue(id)));
        self.out
            .timers
            .remove(&(entry.expire_at, Timer::Expire(id)));
        if let Some(peer) = self.peers.get_mut(&request.node) {
            peer.ended(id, request.lane, request.range.len());
        }
        if let Some(fetch) = self.files.get_mut(&request.content) {
            fetch.asked.remove(id);
            if entry.is_open() {
                fetch.suppliers.record_end(&request.node);
            }
        }
        self.wake(request.node);
        Some(entry)
    }

    /// Ends the rest of a peer that can be asked again.
    pub(super) fn end_rest(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.rested();
            self.wake(node);
        }
    }

    /// Cancels a request whose answer is not needed, or not from this peer.
    pub(super) fn take_back(&mut self, id: RequestId, why: TakeBackReason) -> Option<OpenRequest> {
        let entry = self.take_request(id)?;
        let request = &entry.request;
        if let Some(fetch) = self.files.get_mut(&request.content)
            && why.is_unneeded()
        {
            fetch.suppliers.record_unneeded(&request.node);
        }
        self.out
            .decisions
            .record(|| Decision::TakenBack { request: id, why });
        self.out.events.push_back(PlanEvent::Cancel(id));
        Some(entry)
    }

    /// Makes the missing parts of a range requestable again, after their request ended without them
    /// or the cache lost them.
    pub(super) fn ask_again(&mut self, content: &ContentKey, range: ByteRange) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        fetch.readers.add_unissued(range);
        if let Some(filling) = fetch.filling_mut() {
            filling.cursor = filling.cursor.min(range.start);
        }
        self.enqueue_all(content);
    }

    /// Reports that a whole file arrived for its fill.
    pub(super) fn record_filled(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.fill = FillWish::BeingStored;
        }
        self.out.decisions.record(|| Decision::FillReady(*content));
        self.out.events.push_back(PlanEvent::Filled(*content));
    }

    /// Checks the requests that touch a range sooner, because a reader waits for it now: resets
    /// their check counts, and moves the next checks to the time that applies with a waiting
    /// reader, if that is earlier.
    pub(super) fn hasten_checks(&mut self, now: Instant, content: &ContentKey, range: ByteRange) {
        let Some(fetch) = self.files.get(content) else {
            return;
        };
        for id in fetch.asked.touching(range) {
            let Some(entry) = self.requests.get_mut(id) else {
                continue;
            };
            entry.checks = 0;
            let (sent, check_at) = (entry.sent, entry.check_at);
            let at = (sent.at + self.config.late_after(sent.usual, true)).max(now);
            if at < check_at {
                self.postpone_check(id, at);
            }
        }
    }

    /// Moves the next check of a request.
    pub(super) fn postpone_check(&mut self, id: RequestId, at: Instant) {
        let Some(entry) = self.requests.get_mut(id) else {
            return;
        };
        self.out
            .timers
            .remove(&(entry.check_at, Timer::CheckOverdue(id)));
        entry.check_at = at;
        self.out.timers.insert((at, Timer::CheckOverdue(id)));
    }

    /// Cancels a request and makes its range requestable again, from any peer.
    pub(super) fn abandon(&mut self, id: RequestId, why: TakeBackReason) {
        if let Some(entry) = self.take_back(id, why) {
            self.ask_again(&entry.request.content, entry.request.range);
        }
    }

    /// Closes a file.
    pub(super) fn close(&mut self, content: &ContentKey) {
        self.queue.remove(content);
        self.forget_streams(content);
        if self.files.remove(content).is_some() {
            self.out.events.push_back(PlanEvent::Closed(*content));
        }
    }

    /// Creates a request and records it as sent.
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
        let sent = peer.record_sent(now, id, lane, range.len());
        let check_at = now + self.config.late_after(sent.usual, cause.is_waited_for());
        let expire_at = now + self.config.request_limit;
        self.out.timers.insert((check_at, Timer::CheckOverdue(id)));
        self.out.timers.insert((expire_at, Timer::Expire(id)));
        if let Some(fetch) = self.files.get_mut(&content) {
            fetch.asked.insert(range, id);
            fetch.holders_mut().set_starved(false);
            fetch.suppliers.record_request(now, node);
        }
        let request = RangeRequest {
            id,
            node,
            lane,
            content,
            range,
        };
        let fetch = self.files.get(&content);
        self.out.decisions.record(|| Decision::Chosen {
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

    /// Queues a file in a work class. Removes it instead if no bytes of its demands are to be
    /// requested, or if it has no fill.
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

    /// Queues a file in each work class.
    pub(super) fn enqueue_all(&mut self, content: &ContentKey) {
        WORK_CLASSES
            .iter()
            .for_each(|class| self.enqueue(content, *class));
    }

    /// Queues a file again in each work class after its holders changed. For read-ahead and fills,
    /// it goes behind all other files.
    pub(super) fn requeue(&mut self, content: &ContentKey) {
        for class in WORK_CLASSES {
            self.queue.dequeue(content, class);
            self.enqueue(content, class);
        }
    }

    /// Parks a file at its holders until one of them has room, or another event queues the file.
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

    /// Moves a file ahead of all others if it has no request in flight and the wait of its oldest
    /// unrequested demand is overdue ([`Waiting::is_overdue`](super::patience::Waiting)). Without
    /// this, the reader could give up before the turn of its file.
    pub(super) fn mark_if_overdue(&mut self, now: Instant, content: &ContentKey) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        let first = fetch
            .readers
            .first_unissued()
            .and_then(|id| self.demands.get(id));
        let Some(first) = first.filter(|_| fetch.asked.is_empty()) else {
            return;
        };
        let is_overdue = fetch.progress_of(first.waiting).is_overdue(now);
        if is_overdue && fetch.readers.mark_overdue() {
            self.enqueue(content, WorkClass::Demand);
        }
    }

    /// Wakes the files parked at a peer that may have room. If the peer has room for demands, an
    /// overdue file parked there is queued at once, before all other files.
    pub(super) fn wake(&mut self, node: NodeId) {
        self.queue.wake(node);
        let has_room = self.peers.has_room(&node, WorkClass::Demand.lane());
        let overdue = self.queue.overdue_at(&node).filter(|_| has_room);
        if let Some(content) = overdue {
            self.enqueue(&content, WorkClass::Demand);
        }
    }

    /// Marks a peer as silent.
    pub(super) fn mark_silent(&mut self, now: Instant, node: NodeId) {
        if self.peers.mark_silent(now, node) {
            self.out.decisions.record(|| Decision::Silent(node));
            // files that wait for room at this peer may be requested from other peers now
            self.wake(node);
        }
    }

    /// Closes a file that is idle and was not used for a while, or schedules the next check.
    pub(super) fn close_if_idle(&mut self, now: Instant, content: ContentKey) {
        let Some(fetch) = self.files.get(&content) else {
            return;
        };
        let due = fetch.times.last_used + self.config.idle;
        if fetch.is_idle() && due <= now {
            return self.close(&content);
        }
        let next = if due > now {
            due
        } else {
            now + self.config.idle
        };
        self.out.timers.insert((next, Timer::Idle(content)));
    }

    /// Requests a search for more holders if the file is in use. Otherwise the search starts when
    /// the file is next wanted, unless the whole file is here.
    pub(super) fn get_anyway(&mut self, content: &ContentKey) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        if fetch.is_idle() {
            let is_to_get = !fetch.presence.is_whole();
            fetch.holders_mut().get_later(is_to_get);
        } else {
            self.out.events.push_back(PlanEvent::Wanted(*content))
        }
    }

    /// Records that no known peer can be asked for some wanted bytes of a file. If a search for
    /// holders is due, requests it, and schedules the next examination of the file.
    pub(super) fn starve(&mut self, now: Instant, content: &ContentKey) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        fetch.holders_mut().set_starved(true);
        if let Some(next) = fetch.holders_mut().take_get_turn(now) {
            self.out
                .decisions
                .record(|| Decision::HoldersWanted(*content));
            self.out.events.push_back(PlanEvent::Wanted(*content));
            self.out.timers.insert((next, Timer::Wanted(*content)));
        }
    }

    /// Forgets the streams of a file; see [`ReadAheadBudget::forget`].
    pub(super) fn forget_streams(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.files.get_mut(content) {
            self.read_ahead.forget(fetch);
        }
    }

    /// Cancels the open requests that touch `range` and whose whole ranges are on this node now.
    pub(super) fn cancel_duplicates(
        &mut self,
        now: Instant,
        content: &ContentKey,
        range: ByteRange,
    ) {
        let Some(fetch) = self.files.get(content) else {
            return;
        };
        let is_here = |id: &RequestId| {
            let entry = self.requests.get(*id);
            entry.is_some_and(|entry| fetch.presence.here().contains(entry.request.range))
        };
        let mut twins = fetch.asked.touching(range);
        twins.retain(is_here);
        for id in twins {
            self.steps.step();
            let Some(entry) = self.take_back(id, TakeBackReason::Duplicate) else {
                continue;
            };
            if let Some(peer) = self.peers.get_mut(&entry.request.node) {
                peer.link.record_slow(now, &entry.sent);
            }
        }
    }

    /// Records that bytes arrived from a peer, needed or not.
    pub(super) fn record_moved(&mut self, now: Instant, node: NodeId, bytes: u64) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let was_silent = peer.is_silent();
        peer.moved(now, bytes);
        if was_silent {
            self.wake(node);
        }
    }
}
