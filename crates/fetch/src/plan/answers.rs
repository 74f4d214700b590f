//! Ends of requests and of time limits: answers, failures, deadlines.

use std::time::Instant;

use rand::RngExt;

use super::fetch::{FileFetch, FillWish};
use super::holders::GONE;
use super::patience::Waiting;
use super::requests::{OpenRequest, RequestState};
use super::{
    Decision, Demand, DemandId, Failure, Plan, PlanError, PlanEvent, RequestCause, RequestId,
    TakeBackReason, Timer,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

impl Plan {
    /// Records that bytes of an answer arrived from a peer, even if the answer is not needed any
    /// longer. It is worth a call only for an answer that takes long; [`Plan::answered`] is enough
    /// for others. Zero bytes mean that the peer is at work for the request, for example that its
    /// handshake progresses.
    pub fn arrived(&mut self, now: Instant, node: NodeId, id: RequestId, bytes: u64) {
        if let Some(entry) = self.requests.get_mut(id).filter(|_| bytes > 0) {
            entry.note_arrived(now, bytes);
            if let Some(fetch) = self.files.get_mut(&entry.request.content) {
                fetch.note_progress(now);
            }
        }
        self.heard(now, node, bytes);
    }

    /// Marks a request as delayed by a limit of this node. Its peer is then not silent although
    /// nothing arrives.
    pub fn mark_throttled(&mut self, id: RequestId) {
        if let Some(entry) = self.requests.get_mut(id) {
            entry.state = RequestState::Throttled;
            if let Some(fetch) = self.files.get_mut(&entry.request.content) {
                fetch.note_answer();
            }
            self.decisions.note(|| Decision::Throttled(id));
        }
    }

    /// Marks a delayed request as sent now. Bytes that arrived before say nothing about its answer.
    pub fn mark_sent(&mut self, now: Instant, id: RequestId) {
        let Some(entry) = self.requests.get_mut(id) else {
            return;
        };
        entry.state = RequestState::Sent;
        self.decisions.note(|| Decision::Released(id));
        entry.sent.at = now;
        if let Some(fetch) = self.files.get_mut(&entry.request.content) {
            fetch.note_request(now);
        }
        if let Some(peer) = self.peers.get(&entry.request.node) {
            entry.sent.moved_bytes = peer.link.moved_bytes();
        }
    }

    /// Marks an answer as complete and waiting for verification until the disk accepts more. The
    /// delay from now on is not the sender's silence, and the range is not requested from other
    /// peers.
    pub fn mark_received(&mut self, id: RequestId) {
        if let Some(entry) = self.requests.get_mut(id) {
            let bytes = entry.arrived_bytes();
            entry.state = RequestState::Received { bytes };
        }
    }

    fn heard(&mut self, now: Instant, node: NodeId, bytes: u64) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let was_silent = peer.is_silent();
        peer.moved(now, bytes);
        if was_silent {
            self.wake(node);
        }
    }

    /// Records that the range of a request arrived, was verified and can be read from now on.
    /// Returns `false` if it is no longer needed because another peer was sooner.
    pub fn answered(&mut self, now: Instant, id: RequestId) -> bool {
        let Some(entry) = self.take_request(id) else {
            return false;
        };
        let (node, content, range) = (
            entry.request.node,
            entry.request.content,
            entry.request.range,
        );
        self.decisions.note(|| Decision::Answered(id));
        self.heard(now, node, range.len().saturating_sub(entry.arrived_bytes()));
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.answered(now, &entry.sent, range.len());
        }
        self.hedging.earn(range.len());
        let Some(fetch) = self.files.get_mut(&content) else {
            return false;
        };
        fetch.gain(range);
        fetch.times.last_used = now;
        fetch.note_progress(now);
        *fetch.received.entry(node).or_default() += range.len();
        fetch.failures.is_lied_to = false;
        if fetch.is_complete() {
            self.forget_streams(&content);
        }
        self.cancel_duplicates(now, &content, range);
        self.notify_readers(&content, range);
        self.notify_if_filled(&content);
        if matches!(entry.cause, RequestCause::Hedge(_)) {
            // the next bytes that its reader waits for are as late
            self.hasten_checks(now, &content, ByteRange::at(range.end, 1));
        }
        true
    }

    /// Ends a request without data. Its range goes to another peer.
    pub fn failed(&mut self, now: Instant, id: RequestId, failure: Failure) {
        let Some(entry) = self.take_request(id) else {
            return;
        };
        if failure != Failure::Unreachable
            && let Some(fetch) = self.files.get_mut(&entry.request.content)
        {
            fetch.note_answer();
        }
        self.decisions.note(|| Decision::Failed {
            request: id,
            failure,
        });
        self.blame(now, &entry, failure);
        self.ask_again(&entry.request.content, entry.request.range);
        self.mark_if_overdue(now, &entry.request.content);
    }

    /// Forgets the failures of a peer that has returned, but not that it sent wrong bytes.
    pub fn returned(&mut self, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.rested();
            self.wake(*node);
        }
    }

    /// Handles all timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::CheckOverdue(id) => self.check_overdue(now, id),
                Timer::Expire(id) => self.expire(now, id),
                Timer::Deadline(id) => self.check_patience(now, id),
                Timer::FillDeadline(content) => self.give_up_filling(now, content),
                Timer::Idle(content) => self.close_if_idle(now, content),
                Timer::Wanted(content) => {
                    self.give_up_old_waits(now, content);
                    self.enqueue_all(&content);
                }
                Timer::GetAnyway(content) => self.get_anyway(&content),
                Timer::Rested(node) => self.wake(node),
                Timer::Survey(content) => self.survey(now, content),
                Timer::Stripe(content) => self.recheck_stripes(&content),
                Timer::Again => {}
            }
        }
    }

    /// Looks for holders besides the known ones, or postpones that while nothing is wanted.
    fn get_anyway(&mut self, content: &ContentKey) {
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        if fetch.is_idle() {
            let is_to_get = !fetch.is_complete();
            fetch.holders_mut().get_later(is_to_get);
        } else {
            self.events.push_back(PlanEvent::Wanted(*content))
        }
    }

    fn blame(&mut self, now: Instant, entry: &OpenRequest, failure: Failure) {
        let (node, content) = (entry.request.node, entry.request.content);
        let jitter = self.rng.random::<f64>();
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let until = match failure {
            Failure::Unreachable => peer.backoff.rest(now, entry.sent.at, jitter),
            Failure::Busy => peer.rest_busy(now, &entry.sent, jitter, true),
            Failure::Limited => peer.hold_back(now, &entry.sent, jitter),
            Failure::Refused | Failure::Ours => peer.rest_busy(now, &entry.sent, jitter, false),
            Failure::Lied => peer.shun(now),
            Failure::Gone => {
                if let Some(fetch) = self.files.get_mut(&content) {
                    fetch.remove_holder(now, node);
                }
                self.requeue(&content);
                return self.look_up_if_gone(now, content);
            }
        };
        self.timers.insert((until, Timer::Rested(node)));
        if failure == Failure::Lied {
            self.report_liar(node, content);
        }
        if matches!(failure, Failure::Lied | Failure::Unreachable) {
            self.mark_peer_late(now, &content, node);
        }
    }

    /// Backs off from a peer that a question outside the plan, sent at `asked_at`, could not reach.
    /// The pause is that of a failed request of the plan.
    pub fn unreachable(&mut self, now: Instant, node: NodeId, asked_at: Instant) {
        let jitter = self.rng.random::<f64>();
        if let Some(peer) = self.peers.get_mut(&node) {
            let until = peer.backoff.rest(now, asked_at, jitter);
            self.timers.insert((until, Timer::Rested(node)));
        }
    }

    /// Removes a request from flight, with its timers and counters.
    pub(super) fn take_request(&mut self, id: RequestId) -> Option<OpenRequest> {
        let entry = self.requests.remove(id)?;
        let request = &entry.request;
        self.timers
            .remove(&(entry.check_at, Timer::CheckOverdue(id)));
        self.timers.remove(&(entry.expire_at, Timer::Expire(id)));
        if let Some(peer) = self.peers.get_mut(&request.node) {
            peer.ended(id, request.lane, request.range.len());
        }
        if let Some(fetch) = self.files.get_mut(&request.content) {
            fetch.asked.remove(id);
        }
        self.wake(request.node);
        Some(entry)
    }

    /// Cancels a request whose answer is not needed, or not from this peer.
    pub(super) fn take_back(&mut self, id: RequestId, why: TakeBackReason) -> Option<OpenRequest> {
        let entry = self.take_request(id)?;
        self.decisions
            .note(|| Decision::TakenBack { request: id, why });
        self.events.push_back(PlanEvent::Cancel(id));
        Some(entry)
    }

    /// Cancels the other requests whose whole range has arrived with this one.
    fn cancel_duplicates(&mut self, now: Instant, content: &ContentKey, range: ByteRange) {
        let Some(fetch) = self.files.get(content) else {
            return;
        };
        let is_here = |id: &RequestId| {
            let entry = self.requests.get(*id);
            entry.is_some_and(|entry| fetch.have().contains(entry.request.range))
        };
        let mut twins = fetch.asked.touching(range);
        twins.retain(is_here);
        for id in twins {
            self.step();
            let Some(entry) = self.take_back(id, TakeBackReason::Duplicate) else {
                continue;
            };
            if let Some(peer) = self.peers.get_mut(&entry.request.node) {
                peer.link.note_slow(now, &entry.sent);
            }
        }
    }

    /// Returns the demands that touch a range.
    pub(super) fn waiting_for(&self, content: &ContentKey, range: ByteRange) -> Vec<DemandId> {
        let Some(fetch) = self.files.get(content) else {
            return vec![];
        };
        let waiting = fetch.readers.touching(range).into_iter();
        waiting.inspect(|_| self.step()).collect()
    }

    pub(super) fn is_waited_for(&self, content: &ContentKey, range: ByteRange) -> bool {
        !self.waiting_for(content, range).is_empty()
    }

    /// Returns since when the longest-waiting reader of a range waits.
    pub(super) fn waits_since(&self, content: &ContentKey, range: ByteRange) -> Option<Instant> {
        let waiting = self.waiting_for(content, range);
        let since = |id| {
            self.demands
                .get(id)
                .map(|demand: &Demand| demand.waiting.since)
        };
        waiting.iter().filter_map(since).min()
    }

    /// Makes a range requestable again that is not on this node and not in flight.
    pub(super) fn ask_again(&mut self, content: &ContentKey, range: ByteRange) {
        let waiting = self.waiting_for(content, range);
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        fetch.readers.add_unissued(waiting);
        if let Some(filling) = fetch.filling_mut() {
            filling.cursor = filling.cursor.min(range.start);
        }
        self.enqueue_all(content);
    }

    /// Ends the waits that a range completes.
    fn notify_readers(&mut self, content: &ContentKey, range: ByteRange) {
        for id in self.waiting_for(content, range) {
            let (Some(demand), Some(fetch)) = (self.demands.get(&id), self.files.get(content))
            else {
                continue;
            };
            if fetch.have().contains(demand.range) {
                self.take_demand(id);
                self.decisions.note(|| Decision::ReadReady(id));
                self.events.push_back(PlanEvent::Ready(id));
            }
        }
    }

    fn notify_if_filled(&mut self, content: &ContentKey) {
        let fetch = self.files.get(content);
        if fetch.is_some_and(|fetch| fetch.filling().is_some() && fetch.is_complete()) {
            self.cancel_fill(content);
            self.note_filled(content);
        }
    }

    pub(super) fn note_filled(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.fill = FillWish::BeingStored;
        }
        self.decisions.note(|| Decision::FillReady(*content));
        self.events.push_back(PlanEvent::Filled(*content));
    }

    /// Returns until when a demand waits, as matters stand.
    pub(super) fn patient_until(&self, now: Instant, demand: &Demand) -> Option<Instant> {
        let fetch = self.files.get(&demand.content)?;
        let waiting = fetch.progress_of(demand.waiting);
        let its_turn = Some(waiting.progress_at());
        Some(self.patience_deadline(now, (fetch, demand.range), waiting, its_turn))
    }

    /// Returns until when the wait for a range of a file continues. Holders of the file that work
    /// for other requests extend it up to a limit, counted from `its_turn`. The limit does not
    /// apply if that is not set, or while a limit of this node holds back a healthy holder of the
    /// range.
    pub(super) fn patience_deadline(
        &self,
        now: Instant,
        (fetch, range): (&FileFetch, ByteRange),
        waiting: Waiting,
        its_turn: Option<Instant>,
    ) -> Instant {
        let limit = waiting.limit;
        let mut holders = fetch.holders_of(range).filter_map(|it| self.peers.get(it));
        let is_limited = holders.any(|peer| peer.is_held_back(now, limit));
        let its_turn = its_turn.filter(|_| !is_limited);
        let worked_at = self.latest_of_holders(now, fetch).map(|at| at.min(now));
        let until = waiting.extended(worked_at, its_turn);
        let excused = self.pause.map(|pause| pause.excuses_until(limit));
        excused.map_or(until, |excused| until.max(excused))
    }

    fn latest_of_holders(&self, now: Instant, fetch: &FileFetch) -> Option<Instant> {
        let holders = fetch.holders().nodes();
        holders
            .filter_map(|node| self.peers.get(node)?.worked_at(now))
            .max()
    }

    fn check_patience(&mut self, now: Instant, id: DemandId) {
        let later = match self.demands.get(&id) {
            Some(demand) => self.patient_until(now, demand),
            None => return,
        };
        let Some(later) = later.filter(|later| *later > now) else {
            return self.give_up(now, id);
        };
        let Some(demand) = self.demands.get_mut(&id) else {
            return;
        };
        demand.deadline = later;
        self.decisions.note(|| Decision::ReadExtended {
            read: id,
            until: later,
        });
        self.timers.insert((later, Timer::Deadline(id)));
        let content = demand.content;
        self.mark_if_overdue(now, &content);
    }

    fn give_up(&mut self, now: Instant, id: DemandId) {
        let Some(demand) = self.take_demand(id) else {
            return;
        };
        let mut why = PlanError::NoHolder;
        if let Some(fetch) = self.files.get_mut(&demand.content) {
            why = reason(fetch, demand.range);
            let failed_silently = matches!(why, PlanError::NoHolder | PlanError::TimedOut);
            if failed_silently
                && fetch.is_unanswered(now, demand.waiting.since, demand.waiting.limit)
            {
                self.events.push_back(PlanEvent::Unanswered(demand.content));
            }
            for gap in fetch.have().missing_in(demand.range).iter() {
                fetch.failures.remember(now, gap, why.clone());
            }
        }
        self.decisions.note(|| Decision::ReadGivenUp {
            read: id,
            why: why.clone(),
        });
        self.events.push_back(PlanEvent::Failed(id, why));
    }

    /// Looks a file up in the catalogue once all its holders report it gone. Readers need not wait
    /// for a file that is gone, unless other nodes have it since. The last lookup was when a reader
    /// began to wait.
    fn look_up_if_gone(&mut self, now: Instant, content: ContentKey) {
        let Some(fetch) = self.files.get_mut(&content) else {
            return;
        };
        if !fetch.is_idle() && fetch.is_just_gone_in(now, fetch.whole()) {
            fetch.holders_mut().begin_lookup();
            self.events.push_back(PlanEvent::LookUp(content));
        }
    }

    /// Gives up what is still gone after the catalogue lookup.
    pub(super) fn give_up_after_lookup(&mut self, now: Instant, content: ContentKey) {
        let Some(fetch) = self.files.get_mut(&content) else {
            return;
        };
        let was_looked_up = fetch.holders_mut().end_lookup();
        if was_looked_up && fetch.is_just_gone_in(now, fetch.whole()) {
            self.give_up_gone(now, content, |_| true);
        }
    }

    /// Gives up the older waits for a file that is gone once several `Get`s found no new holder.
    fn give_up_old_waits(&mut self, now: Instant, content: ContentKey) {
        if self
            .files
            .get(&content)
            .is_some_and(|fetch| fetch.holders().has_long_asked())
        {
            self.give_up_gone(now, content, |since| since + GONE <= now);
        }
    }

    /// Ends the waits for a file that is gone, if `is_over` returns true for the time at which they
    /// began.
    fn give_up_gone(
        &mut self,
        now: Instant,
        content: ContentKey,
        is_over: impl Fn(Instant) -> bool,
    ) {
        let Some(fetch) = self.files.get(&content) else {
            return;
        };
        let whole = fetch.whole();
        if !fetch.is_gone_in(whole) {
            return;
        }
        let why = reason(fetch, whole);
        let fills = fetch.filling().is_some_and(|it| is_over(it.waiting.since));
        let is_gone = |id: &DemandId| {
            let demand = self.demands.get(id);
            demand.is_some_and(|it| is_over(it.waiting.since) && fetch.is_gone_in(it.range))
        };
        let waiting = self.waiting_for(&content, whole);
        let waiting: Vec<_> = waiting.into_iter().filter(is_gone).collect();
        waiting.into_iter().for_each(|id| self.give_up(now, id));
        if fills {
            self.fail_fill(content, why);
        }
    }

    fn close_if_idle(&mut self, now: Instant, content: ContentKey) {
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
        self.timers.insert((next, Timer::Idle(content)));
    }
}

pub(super) fn reason(fetch: &FileFetch, range: ByteRange) -> PlanError {
    if !fetch.failures.is_lied_to && fetch.is_gone_in(range) {
        return PlanError::Gone;
    }
    match (fetch.failures.is_lied_to, fetch.holders().is_starved()) {
        (true, _) => PlanError::OnlyLiars,
        (false, true) => PlanError::NoHolder,
        (false, false) => PlanError::TimedOut,
    }
}
