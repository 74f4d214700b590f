//! How requests end, and what the passing of time does: answers, failures, hedges, deadlines.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::fetch::Fetch;
use super::schedule::Choice;
use super::{Demand, DemandId, Failure, InFlight, Plan, PlanError, PlanEvent, RequestId, Timer};
use crate::digest::ContentHash;
use crate::extent::ByteRange;
use crate::id::NodeId;

/// Hedges of peers that still answer others cost at most this at once, and in the long run one
/// byte in [`HEDGE_SHARE`]: a slow cluster must not be asked for everything twice.
pub(super) const HEDGE_CREDIT_MAX_BYTES: u64 = 4 << 20;
/// See [`HEDGE_CREDIT_MAX_BYTES`].
const HEDGE_SHARE: u64 = 10;
/// How many peers are asked for one range at one time, those that have fallen silent not counted.
const ASKED_AT_ONCE_MAX: usize = 3;
/// The same, all counted.
const ASKED_IN_VAIN_MAX: usize = 12;
/// A hedge follows after so many times the usual time.
const HEDGE_MULTIPLE: u32 = 3;

impl Plan {
    /// The range of a request came, was verified, and can be read from now on. `false` where
    /// nobody needs it any more: another peer was sooner.
    pub fn answered(&mut self, now: Instant, id: RequestId) -> bool {
        let Some(entry) = self.take_request(id) else {
            return false;
        };
        let (hash, range) = (entry.request.hash, entry.request.range);
        if let Some(peer) = self.peers.get_mut(&entry.request.node) {
            peer.answered(now, &entry.sent, range.len());
        }
        let credit = self.hedge_credit_bytes + range.len() / HEDGE_SHARE;
        self.hedge_credit_bytes = credit.min(HEDGE_CREDIT_MAX_BYTES);
        self.cancel_twins(now, &hash, range);
        let Some(fetch) = self.fetches.get_mut(&hash) else {
            return false;
        };
        fetch.have.insert(range);
        fetch.last_used = now;
        *fetch.received.entry(entry.request.node).or_default() += range.len();
        fetch.lied_to = false;
        if let Some(filling) = &mut fetch.filling {
            filling.deadline = now + filling.patience;
        }
        self.tell_readers(now, &hash);
        self.tell_if_filled(&hash);
        self.settled = false;
        true
    }

    /// A request came to nothing; its range goes to another peer.
    pub fn failed(&mut self, now: Instant, id: RequestId, failure: Failure) {
        let Some(entry) = self.take_request(id) else {
            return;
        };
        let (node, hash) = (entry.request.node, entry.request.hash);
        self.blame(now, node, hash, failure);
        self.ask_again(&hash, entry.request.range);
    }

    /// A peer came back to life: what it failed before is forgotten, but not that it lied.
    pub fn returned(&mut self, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.rested();
            self.settled = false;
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Hedge(id) => self.hedge(now, id),
                Timer::Expire(id) => self.expire(now, id),
                Timer::Deadline(id) if self.waits_its_turn(now, id) => {}
                Timer::Deadline(id) => self.give_up(now, id),
                Timer::FillDeadline(hash) => self.give_up_filling(now, hash),
                Timer::Idle(hash) => self.close_if_idle(now, hash),
                Timer::Wanted(_) | Timer::Rested => self.settled = false,
            }
        }
    }

    fn blame(&mut self, now: Instant, node: NodeId, hash: ContentHash, failure: Failure) {
        let jitter = self.rng.random::<f64>();
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let until = match failure {
            Failure::Unreachable => peer.rest(now, jitter),
            Failure::Busy | Failure::Ours => peer.rest_busy(now, jitter),
            Failure::Lied => peer.shun(now),
            Failure::Gone => {
                if let Some(fetch) = self.fetches.get_mut(&hash) {
                    fetch.remove_holder(now, node);
                }
                return;
            }
        };
        self.timers.insert((until, Timer::Rested));
        if failure == Failure::Lied {
            self.events.push_back(PlanEvent::Liar(node, hash));
            if let Some(fetch) = self.fetches.get_mut(&hash) {
                fetch.lied_to = true;
            }
            self.drop_requests_to(node);
        }
    }

    fn drop_requests_to(&mut self, node: NodeId) {
        let of_node = |entry: &&InFlight| entry.request.node == node;
        let lost: Vec<_> = self
            .in_flight
            .values()
            .filter(of_node)
            .map(|entry| entry.request)
            .collect();
        for request in lost {
            self.take_request(request.id);
            self.events.push_back(PlanEvent::Cancel(request.id));
            self.ask_again(&request.hash, request.range);
        }
    }

    /// Takes a request out of flight, with everything that hangs on it.
    fn take_request(&mut self, id: RequestId) -> Option<InFlight> {
        let entry = self.in_flight.remove(&id)?;
        let request = &entry.request;
        self.timers.remove(&(entry.hedge_at, Timer::Hedge(id)));
        self.timers.remove(&(entry.expire_at, Timer::Expire(id)));
        self.in_flight_bytes -= request.range.len();
        if let Some(peer) = self.peers.get_mut(&request.node) {
            peer.ended(request.lane, request.range.len());
        }
        if let Some(fetch) = self.fetches.get_mut(&request.hash) {
            fetch.in_flight.remove(&id);
            fetch.pending.remove(request.range);
            for twin in fetch
                .in_flight
                .iter()
                .filter_map(|id| self.in_flight.get(id))
            {
                if !twin.request.range.intersection(&request.range).is_empty() {
                    fetch.pending.insert(twin.request.range);
                }
            }
        }
        Some(entry)
    }

    /// The others that were asked for a range that is here now.
    fn cancel_twins(&mut self, now: Instant, hash: &ContentHash, range: ByteRange) {
        for id in self.asked_for(hash, range) {
            let Some(entry) = self.take_request(id) else {
                continue;
            };
            if let Some(peer) = self.peers.get_mut(&entry.request.node) {
                peer.note_slow(now, &entry.sent);
            }
            self.events.push_back(PlanEvent::Cancel(id));
        }
    }

    /// The requests under way that touch a range.
    fn asked_for(&self, hash: &ContentHash, range: ByteRange) -> Vec<RequestId> {
        let Some(fetch) = self.fetches.get(hash) else {
            return vec![];
        };
        let touches = |id: &&RequestId| {
            let entry = self.in_flight.get(id);
            entry.is_some_and(|e| !e.request.range.intersection(&range).is_empty())
        };
        fetch.in_flight.iter().filter(touches).copied().collect()
    }

    fn is_waited_for(&self, fetch: &Fetch, range: ByteRange) -> bool {
        let touches = |id| {
            let demand: Option<&Demand> = self.demands.get(id);
            demand.is_some_and(|d| !d.range.intersection(&range).is_empty())
        };
        fetch.demands.iter().any(touches)
    }

    fn ask_again(&mut self, hash: &ContentHash, range: ByteRange) {
        self.settled = false;
        let Some(fetch) = self.fetches.get_mut(hash) else {
            return;
        };
        for id in &fetch.demands {
            let demand = self.demands.get(id);
            if demand.is_some_and(|d| !d.range.intersection(&range).is_empty()) {
                self.hungry.insert(*id);
            }
        }
        if let Some(filling) = &mut fetch.filling {
            filling.cursor = filling.cursor.min(range.start);
        }
        if !self.ahead_turns.contains(hash) {
            self.ahead_turns.push_back(*hash);
        }
    }

    /// Ends the waits whose range is complete, and gives the others of the file more time.
    fn tell_readers(&mut self, now: Instant, hash: &ContentHash) {
        let Some(fetch) = self.fetches.get_mut(hash) else {
            return;
        };
        let mut ready = Vec::new();
        for id in &fetch.demands {
            let Some(demand) = self.demands.get_mut(id) else {
                continue;
            };
            if fetch.have.contains(demand.range) {
                ready.push(*id);
                continue;
            }
            let later = (now + demand.patience).min(demand.latest);
            // moved in steps, so that each answer does not touch each timer
            if later > demand.deadline + demand.patience / 16 {
                self.timers.remove(&(demand.deadline, Timer::Deadline(*id)));
                demand.deadline = later;
                self.timers.insert((later, Timer::Deadline(*id)));
            }
        }
        for id in ready {
            self.take_demand(id);
            self.events.push_back(PlanEvent::Ready(id));
        }
    }

    fn tell_if_filled(&mut self, hash: &ContentHash) {
        let Some(fetch) = self.fetches.get_mut(hash) else {
            return;
        };
        if fetch.filling.is_some() && fetch.is_complete() {
            fetch.filling = None;
            self.events.push_back(PlanEvent::Filled(*hash));
        }
    }

    /// How long a request may take before another peer is asked too.
    pub(super) fn hedge_span(&self, usual: Duration, waited: bool) -> Duration {
        let (least, most) = match waited {
            true => self.config.hedge,
            false => self.config.background_hedge,
        };
        (usual * HEDGE_MULTIPLE).clamp(least, most)
    }

    /// A reader waits now for what was asked in the background: it may be hedged sooner.
    pub(super) fn hurry_what_is_asked(
        &mut self,
        now: Instant,
        hash: &ContentHash,
        range: ByteRange,
    ) {
        for id in self.asked_for(hash, range) {
            let Some(entry) = self.in_flight.get(&id) else {
                continue;
            };
            let at = (entry.sent.at + self.hedge_span(entry.sent.usual, true)).max(now);
            if at < entry.hedge_at {
                self.hedge_later(id, at);
            }
        }
    }

    fn hedge_later(&mut self, id: RequestId, at: Instant) {
        let Some(entry) = self.in_flight.get_mut(&id) else {
            return;
        };
        self.timers.remove(&(entry.hedge_at, Timer::Hedge(id)));
        entry.hedge_at = at;
        self.timers.insert((at, Timer::Hedge(id)));
    }

    /// A request takes long: where somebody waits for it, or its peer answers nothing at all,
    /// another peer is asked for the same.
    fn hedge(&mut self, now: Instant, id: RequestId) {
        let Some(entry) = self.in_flight.get(&id) else {
            return;
        };
        let (request, since) = (entry.request, entry.sent.at);
        let Some(fetch) = self.fetches.get(&request.hash) else {
            return;
        };
        let waited = self.is_waited_for(fetch, request.range);
        let usual = self.hedge_span(entry.sent.usual, waited);
        let quiet = self
            .peers
            .get(&request.node)
            .map(|peer| peer.quiet_for(now, since));
        let quiet = quiet.unwrap_or_default();
        let silent = quiet >= usual;
        if let Some(peer) = self.peers.get_mut(&request.node).filter(|_| silent) {
            peer.note_silence();
        }
        let asked = self.asked_for(&request.hash, request.range);
        let again = if waited {
            self.config.hedge.1
        } else {
            self.config.background_hedge.1
        };
        self.hedge_later(id, now + again);
        if silent && quiet >= self.config.background_hedge.0 {
            self.hedge_all_of(now, request.node);
        }
        let affordable = silent || self.hedge_credit_bytes >= request.range.len();
        let busy: Vec<_> = asked
            .iter()
            .filter_map(|id| self.in_flight.get(id))
            .map(|e| e.request.node)
            .collect();
        let lively = |node: &&NodeId| self.peers.get(node).is_some_and(|p| !p.is_silent());
        let enough = busy.iter().filter(lively).count() >= ASKED_AT_ONCE_MAX;
        if !(waited || silent) || !affordable || enough || busy.len() >= ASKED_IN_VAIN_MAX {
            return;
        }
        match self.choose(now, &request.hash, request.range, request.lane, &busy) {
            Choice::Ask(node, range) => {
                if !silent {
                    self.hedge_credit_bytes -= range.len();
                }
                let twin = self.issue(now, node, request.lane, request.hash, range, waited);
                self.hedges.push_back(twin);
            }
            Choice::Nobody => self.starve(now, &request.hash),
            Choice::InParts if silent => self.abandon(id),
            Choice::InParts | Choice::Full => self.hedge_later(id, now + self.config.hedge.0),
        }
    }

    /// Takes a request back, so that its range can be asked in other pieces.
    fn abandon(&mut self, id: RequestId) {
        if let Some(entry) = self.take_request(id) {
            self.events.push_back(PlanEvent::Cancel(id));
            self.ask_again(&entry.request.hash, entry.request.range);
        }
    }

    /// A peer is silent: what else was asked of it before then need not wait to find that out.
    fn hedge_all_of(&mut self, now: Instant, node: NodeId) {
        let (due, long) = (now + self.config.hedge.0, self.config.hedge.1);
        let stuck = |entry: &&InFlight| {
            let old = entry.sent.at + long <= now;
            entry.request.node == node && old && entry.hedge_at > due
        };
        let stuck: Vec<_> = self
            .in_flight
            .values()
            .filter(stuck)
            .map(|e| e.request.id)
            .collect();
        stuck.into_iter().for_each(|id| self.hedge_later(id, due));
    }

    /// A request took longer than any may. A peer that answers others meanwhile is only slow.
    fn expire(&mut self, now: Instant, id: RequestId) {
        let Some(entry) = self.in_flight.get(&id) else {
            return;
        };
        let (node, since) = (entry.request.node, entry.sent.at);
        let mut failure = Failure::Unreachable;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.halve_pieces();
            if peer.quiet_for(now, since) < self.config.request_limit {
                failure = Failure::Ours;
            }
        }
        self.events.push_back(PlanEvent::Cancel(id));
        self.failed(now, id, failure);
    }

    /// Gives a reader more time whose holder is at work for others: its turn comes. Only a file
    /// whose holders bring nothing to anybody makes no progress.
    fn waits_its_turn(&mut self, now: Instant, id: DemandId) -> bool {
        let Some(demand) = self.demands.get_mut(&id) else {
            return false;
        };
        let holders = self.fetches.get(&demand.hash).map(|f| f.holders.keys());
        let brought = holders
            .into_iter()
            .flatten()
            .filter_map(|node| self.peers.get(node)?.delivered_at(now))
            .max();
        let Some(later) = brought.map(|at| (at + demand.patience).min(demand.latest)) else {
            return false;
        };
        if later <= now {
            return false;
        }
        demand.deadline = later;
        self.timers.insert((later, Timer::Deadline(id)));
        true
    }

    fn give_up(&mut self, now: Instant, id: DemandId) {
        let Some(demand) = self.take_demand(id) else {
            return;
        };
        let mut why = PlanError::NoHolder;
        if let Some(fetch) = self.fetches.get_mut(&demand.hash) {
            why = reason(fetch);
            for gap in fetch.have.missing_in(demand.range).iter() {
                fetch.remember_failure(now, gap, why.clone());
            }
        }
        self.events.push_back(PlanEvent::Failed(id, why));
    }

    fn give_up_filling(&mut self, now: Instant, hash: ContentHash) {
        let Some(fetch) = self.fetches.get_mut(&hash) else {
            return;
        };
        let Some(filling) = &fetch.filling else {
            return;
        };
        if filling.deadline > now {
            self.timers
                .insert((filling.deadline, Timer::FillDeadline(hash)));
            return;
        }
        fetch.filling = None;
        let why = reason(fetch);
        self.events.push_back(PlanEvent::FillFailed(hash, why));
    }

    fn close_if_idle(&mut self, now: Instant, hash: ContentHash) {
        let Some(fetch) = self.fetches.get(&hash) else {
            return;
        };
        let due = fetch.last_used + self.config.idle;
        if fetch.is_idle() && due <= now {
            return self.close(&hash);
        }
        let next = if due > now {
            due
        } else {
            now + self.config.idle
        };
        self.timers.insert((next, Timer::Idle(hash)));
    }
}

fn reason(fetch: &Fetch) -> PlanError {
    match (fetch.lied_to, fetch.starved || fetch.holders.is_empty()) {
        (true, _) => PlanError::OnlyLiars,
        (false, true) => PlanError::NoHolder,
        (false, false) => PlanError::TimedOut,
    }
}
