//! Late requests: what the policy decides about them is carried out here.

use std::time::{Duration, Instant};

use super::hedge_policy::{HedgeAction, HedgePolicy, LateRequest, SILENT_MIN};
use super::patience::Waiting;
use super::peer::{Peer, PeerRank};
use super::schedule::{HolderChoice, RequestPurpose};
use super::{
    Decision, Failure, HedgeRefusal, IN_FLIGHT_MAX_BYTES, Lane, Plan, PlanEvent, RangeRequest,
    RequestCause, RequestId, TakeBackReason, Timer,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// Maximum peers from which one range is requested at one time.
const ASKED_AT_ONCE_MAX: usize = 3;
/// Maximum requests to silent peers examined in one step.
const RESCUES_MAX: usize = 16;

impl Plan {
    /// Moves the checks of background requests forward because a reader now waits for their range.
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
            let at = (sent.at + self.hedging.late_after(sent.usual, true)).max(now);
            if at < check_at {
                self.postpone_check(id, at);
            }
        }
    }

    fn postpone_check(&mut self, id: RequestId, at: Instant) {
        let Some(entry) = self.requests.get_mut(id) else {
            return;
        };
        self.timers
            .remove(&(entry.check_at, Timer::CheckOverdue(id)));
        entry.check_at = at;
        self.timers.insert((at, Timer::CheckOverdue(id)));
    }

    /// Checks a late request, and carries out what the policy decides.
    pub(super) fn check_overdue(&mut self, now: Instant, id: RequestId) {
        let Some((request, asked_at, late)) = self.late_request(now, id) else {
            return;
        };
        if let Some(entry) = self.requests.get_mut(id) {
            entry.checks += 1;
        }
        self.postpone_check(id, now + self.hedging.next_check(&late));
        if self.hedging.is_silent(&late) {
            self.mark_silent(now, request.node);
        }
        if self.hedging.is_lost(&late) {
            self.mark_peer_late(now, &request.content, request.node);
        }
        match self.hedging.decide(&late) {
            HedgeAction::Wait => {}
            HedgeAction::TakeBack => self.abandon(id, TakeBackReason::SilentPeer),
            HedgeAction::Hedge => {
                self.hedge(now, &request, asked_at);
                self.reissue_as_urgent(now, id);
            }
            HedgeAction::Reissue => self.reissue_as_urgent(now, id),
        }
    }

    /// Returns a request with the time of its sending and the figures to decide by.
    fn late_request(
        &self,
        now: Instant,
        id: RequestId,
    ) -> Option<(RangeRequest, Instant, LateRequest)> {
        let entry = self.requests.get(id)?;
        let (request, sent) = (entry.request, &entry.sent);
        let fetch = self.files.get(&request.content)?;
        let quiet = self.peers.get(&request.node);
        let mut late = LateRequest {
            is_delayed_here: entry.is_received() || entry.is_throttled(),
            is_waited_for: fetch.has_rest_in_flight()
                || self.is_waited_for(&request.content, request.range),
            usual: sent.usual,
            quiet: quiet.map_or(Duration::ZERO, |peer| peer.quiet_for(now, sent.at)),
            checks: entry.checks,
            remaining: self.remaining_time(now, id),
            is_elsewhere: false,
        };
        // the search examines all holders
        late.is_elsewhere = self.hedging.is_silent(&late) && self.is_elsewhere(now, &request);
        Some((request, sent.at, late))
    }

    /// Reissues a read-ahead or fill request as urgent if a reader now waits for it. This happens
    /// if later requests overtake it or a limit of this node delays it, and only if no other peer
    /// has been asked. A holder with a rate limit serves waiting readers first, and so does the
    /// limit of this node.
    fn reissue_as_urgent(&mut self, now: Instant, id: RequestId) {
        let Some(entry) = self.requests.get(id) else {
            return;
        };
        let (request, sent) = (entry.request, &entry.sent);
        let has_begun = entry.arrived_bytes() > 0 || entry.is_received();
        let peer = self.peers.get(&request.node);
        let is_passed_over = peer.is_some_and(|it| {
            let is_overtaken = entry.is_throttled() || it.link.overtook(sent, request.range.len());
            is_overtaken && it.backoff.resting_until(now).is_none()
        });
        let fetch = self.files.get(&request.content);
        let is_alone = fetch.is_some_and(|it| it.asked.touching(request.range).len() == 1);
        if request.lane == Lane::Bulk
            && is_passed_over
            && is_alone
            && !has_begun
            && self.is_waited_for(&request.content, request.range)
        {
            self.abandon(id, TakeBackReason::Urgent);
            self.ask_as_urgent(now, &request);
        }
    }

    /// Requests the parts of a cancelled request for which readers wait, even if the peer has no
    /// room. A fill would request them in bulk again, behind everything that is queued there by
    /// now.
    fn ask_as_urgent(&mut self, now: Instant, before: &RangeRequest) {
        let (node, content) = (before.node, before.content);
        let Some(fetch) = self.files.get(&content) else {
            return;
        };
        // otherwise its readers find another holder
        let is_well = self.peers.get(&node).is_some_and(|it| !it.is_silent());
        if !is_well || !fetch.holders().contains(&node) {
            return;
        }
        let mut waited = ExtentSet::new();
        for id in self.waiting_for(&content, before.range) {
            if let Some(demand) = self.demands.get(&id) {
                waited.insert(demand.range.intersection(&before.range));
            }
        }
        for run in waited.without(fetch.have()).iter() {
            let mut rest = run;
            while let Some(peer) = self.peers.get(&node).filter(|_| !rest.is_empty()) {
                let part = peer.link.first_piece(Lane::Urgent, rest);
                rest.start = part.end;
                let cause = RequestCause::Reissue(before.id);
                let anew = self.issue(now, node, cause, content, part);
                self.requests.send_first(anew);
            }
        }
    }

    fn mark_silent(&mut self, now: Instant, node: NodeId) {
        if self.peers.mark_silent(now, node) {
            self.decisions.note(|| Decision::Silent(node));
            // requests that wait for room there may go to other peers now
            self.wake(node);
        }
    }

    /// Returns the first missing part of a range that blocks a reader.
    fn first_waited(&self, content: &ContentKey, range: ByteRange) -> Option<ByteRange> {
        let waiting = self.waiting_for(content, range);
        let demands = waiting.iter().filter_map(|id| self.demands.get(id));
        let parts = demands.map(|demand| demand.range.intersection(&range));
        let first = parts.min_by_key(|part| part.start).unwrap_or(range);
        let have = self.files.get(content)?.have();
        have.missing_in(first).iter().next()
    }

    /// Requests the part that blocks a reader from another peer too, if that is much faster and the
    /// budget allows it. A slower peer could take long for the whole range, so only that first part
    /// is hedged.
    fn hedge(&mut self, now: Instant, request: &RangeRequest, asked_at: Instant) {
        let content = &request.content;
        let Some(range) = self.first_waited(content, request.range) else {
            return;
        };
        let in_flight_bytes = self.requests.bytes() + range.len();
        if !self.hedging.can_pay(range.len()) || in_flight_bytes > IN_FLIGHT_MAX_BYTES {
            return self.note_not_hedged(request.id, HedgeRefusal::NoCredit);
        }
        let Some(fetch) = self.files.get(content) else {
            return;
        };
        let asked = fetch.asked.touching(range).into_iter();
        let nodes = asked.filter_map(|id| Some(self.requests.get(id)?.request.node));
        let nodes: Vec<_> = nodes.collect();
        if nodes.len() >= ASKED_AT_ONCE_MAX {
            return self.note_not_hedged(request.id, HedgeRefusal::AskedEnough);
        }
        // earlier failed requests do not restart the reader's wait
        let waits_since = self.waits_since(content, range);
        let asking = RequestPurpose::waiting(waits_since.unwrap_or(asked_at));
        match self.choose(now, content, range, asking, &nodes) {
            HolderChoice::Ask(node, range) => {
                let other = self.peers.get(&node);
                let is_vain = |other: &Peer| {
                    other.standing(now) == PeerRank::Silent
                        || !HedgePolicy::is_worth(
                            other.link.expected(Lane::Urgent, range.len()),
                            self.remaining_time(now, request.id),
                        )
                };
                if other.is_some_and(is_vain) {
                    return self.note_not_hedged(request.id, HedgeRefusal::NotFaster);
                }
                self.hedging.pay(range.len());
                let cause = RequestCause::Hedge(request.id);
                let twin = self.issue(now, node, cause, *content, range);
                self.requests.send_first(twin);
            }
            HolderChoice::Nobody => {
                self.note_not_hedged(request.id, HedgeRefusal::NoPeer);
                self.starve(now, content);
            }
            HolderChoice::InParts | HolderChoice::Full | HolderChoice::Reserved => {
                self.note_not_hedged(request.id, HedgeRefusal::NoPeer);
            }
        }
    }

    fn note_not_hedged(&mut self, request: RequestId, why: HedgeRefusal) {
        self.decisions.note(|| Decision::NotHedged { request, why });
    }

    /// Moves other requests away from silent peers, a few at a time. The rest follows in the next
    /// step. These requests need not discover the silence one by one.
    pub(super) fn rescue_some(&mut self, now: Instant) {
        for _ in 0..RESCUES_MAX {
            if !self.peers.has_rescues() {
                return;
            }
            if let Some(id) = self.peers.next_rescue() {
                self.rescue(now, id);
            }
        }
        self.timers.insert((now, Timer::Again));
    }

    /// Cancels a request to a silent peer if another live holder has its range, so that it is
    /// requested there. If the other holder was silent too, a hedge is used instead. If all holders
    /// are slow, a range that is cancelled at one after the other never arrives.
    fn rescue(&mut self, now: Instant, id: RequestId) {
        let Some(entry) = self.requests.get(id).filter(|it| !it.is_received()) else {
            return;
        };
        if self.is_elsewhere(now, &entry.request) {
            self.abandon(id, TakeBackReason::SilentPeer);
        }
    }

    /// Returns whether another live holder has the beginning of a request's range.
    fn is_elsewhere(&self, now: Instant, request: &RangeRequest) -> bool {
        let Some(fetch) = self.files.get(&request.content) else {
            return false;
        };
        fetch.holders().iter().any(|(node, coverage)| {
            self.step();
            let has = coverage.first_in(request.range);
            let has = has.is_some_and(|part| part.start == request.range.start);
            let lively = |node| {
                self.peers
                    .get(node)
                    .is_some_and(|peer| peer.is_lively(now, SILENT_MIN))
            };
            *node != request.node && has && lively(node)
        })
    }

    /// Cancels a request, so that its range can be requested elsewhere.
    pub(super) fn abandon(&mut self, id: RequestId, why: TakeBackReason) {
        if let Some(entry) = self.take_back(id, why) {
            self.ask_again(&entry.request.content, entry.request.range);
        }
    }

    /// Ends an old request if its peer sends nothing at all. While its own bytes arrive it goes on.
    /// While the peer serves other requests it waits its turn, for a limited time.
    pub(super) fn expire(&mut self, now: Instant, id: RequestId) {
        let limit = self.config.request_limit;
        let Some(entry) = self.requests.get_mut(id) else {
            return;
        };
        if entry.is_received() {
            entry.expire_at = now + limit;
            self.timers.insert((entry.expire_at, Timer::Expire(id)));
            return;
        }
        let (node, since) = (entry.request.node, entry.sent.at);
        let quiet = self.peers.get(&node).map(|peer| peer.quiet_for(now, since));
        let waiting = Waiting::new(entry.progress_at(), limit);
        let alive = quiet.is_some_and(|quiet| quiet < limit);
        if alive && waiting.turn_ends_at(waiting.progress_at()) > now {
            let quiet = quiet.unwrap_or_default();
            entry.expire_at = now + (limit - quiet);
            self.timers.insert((entry.expire_at, Timer::Expire(id)));
            return;
        }
        let failure = if alive {
            Failure::Ours
        } else {
            Failure::Unreachable
        };
        self.decisions.note(|| Decision::TakenBack {
            request: id,
            why: TakeBackReason::Expired,
        });
        self.events.push_back(PlanEvent::Cancel(id));
        self.failed(now, id, failure);
    }
}

impl Plan {
    /// Returns the expected time until the rest of an answer arrives. The pace is that of the bytes
    /// that arrived since the request, for it and for requests queued before it. Returns `None` if
    /// the peer sends nothing, or only answers to other requests.
    fn remaining_time(&self, now: Instant, id: RequestId) -> Option<Duration> {
        let entry = self.requests.get(id)?;
        let peer = self.peers.get(&entry.request.node)?;
        if peer.quiet_for(now, entry.sent.at) >= SILENT_MIN {
            return None;
        }
        let own = entry.request.range.len();
        let before = match entry.arrived_bytes() {
            0 if peer.link.passed_over(&entry.sent, own) => return None,
            0 => peer.link.bytes_left_before(&entry.sent),
            _ => 0,
        };
        let left = before + own.saturating_sub(entry.arrived_bytes());
        let pace = peer.link.pace_since(now, &entry.sent)?;
        Duration::try_from_secs_f64(left as f64 / pace).ok()
    }
}
