//! Checks of late requests, which carry out what `hedge_policy` decides.

use std::time::{Duration, Instant};

use super::hedge_policy::{HedgeAction, HedgePolicy, LateRequest, SILENT_MIN};
use super::patience::Waiting;
use super::peer::{Peer, PeerRank};
use super::schedule::{HolderChoice, RequestPurpose, Scheduler, Wish};
use super::state::{FetchState, Timer};
use super::{
    Decision, Failure, HedgeRefusal, IN_FLIGHT_MAX_BYTES, Lane, PlanEvent, RangeRequest,
    RequestCause, RequestId, STEP_ITEMS_MAX, TakeBackReason,
};
use p2pfs_types::extent::ExtentSet;

/// Maximum peers from which one range is requested at one time. Also the number of holders of a
/// range that have requests in flight but have never been measured, at which no further unmeasured
/// holder is asked for the range.
pub(super) const ASKED_AT_ONCE_MAX: usize = 3;

/// Checks late requests.
#[derive(Debug)]
pub(super) struct Hedger {
    /// The decisions, and the credit for hedges.
    pub policy: HedgePolicy,
}

impl Hedger {
    /// Checks a late request, and carries out what the policy decides.
    pub(super) fn check_overdue(
        &mut self,
        state: &mut FetchState,
        scheduler: &mut Scheduler,
        now: Instant,
        id: RequestId,
    ) {
        let Some((request, asked_at, late)) = self.late_request(state, now, id) else {
            return;
        };
        if let Some(entry) = state.requests.get_mut(id) {
            entry.checks += 1;
        }
        state.postpone_check(id, now + self.policy.next_check(&late));
        if self.policy.is_silent(&late) {
            state.mark_silent(now, request.node);
        }
        if self.policy.is_lost(&late) {
            let (content, node) = (&request.content, &request.node);
            state.files.note_late_node(now, content, node);
        }
        match self.policy.decide(&late) {
            HedgeAction::Wait => {}
            HedgeAction::TakeBack => state.abandon(id, TakeBackReason::SilentPeer),
            HedgeAction::Hedge => {
                self.hedge(state, scheduler, now, &request, asked_at);
                reissue_as_urgent(state, now, id);
            }
            HedgeAction::Reissue => reissue_as_urgent(state, now, id),
        }
    }

    /// Returns a request, the time of its sending and the figures by which the policy decides.
    fn late_request(
        &self,
        state: &FetchState,
        now: Instant,
        id: RequestId,
    ) -> Option<(RangeRequest, Instant, LateRequest)> {
        let entry = state.requests.get(id)?;
        let (request, sent) = (entry.request, &entry.sent);
        let fetch = state.files.get(&request.content)?;
        let peer = state.peers.get(&request.node);
        let mut late = LateRequest {
            is_delayed_here: entry.is_received() || entry.is_throttled(),
            is_waited_for: fetch.has_rest_in_flight()
                || state.demands.is_waited_for(fetch, request.range),
            usual: sent.usual,
            quiet: peer.map_or(Duration::ZERO, |peer| peer.quiet_for(now, sent.at)),
            silent_min: peer.map_or(SILENT_MIN, |peer| peer.silent_min(now)),
            checks: entry.checks,
            remaining: remaining_time(state, now, id),
            is_elsewhere: false,
        };
        // the search examines all holders
        late.is_elsewhere = self.policy.is_silent(&late) && is_elsewhere(state, now, &request);
        Some((request, sent.at, late))
    }

    /// Requests the first missing part that a reader waits for, or the first missing part if no
    /// reader waits, from another peer too, if that is much faster and the budget allows it. Only
    /// that part is requested, because the other peer could take long for the whole range.
    fn hedge(
        &mut self,
        state: &mut FetchState,
        scheduler: &mut Scheduler,
        now: Instant,
        request: &RangeRequest,
        asked_at: Instant,
    ) {
        let content = &request.content;
        let Some(fetch) = state.files.get(content) else {
            return;
        };
        let Some(range) = state.demands.first_waited(fetch, request.range) else {
            return;
        };
        let in_flight_bytes = state.requests.bytes() + range.len();
        if !self.policy.can_pay(range.len()) || in_flight_bytes > IN_FLIGHT_MAX_BYTES {
            return state
                .out
                .note_not_hedged(request.id, HedgeRefusal::NoCredit);
        }
        let asked = fetch.asked.touching(range).into_iter();
        let nodes = asked.filter_map(|id| Some(state.requests.get(id)?.request.node));
        let nodes: Vec<_> = nodes.collect();
        if nodes.len() >= ASKED_AT_ONCE_MAX {
            return state
                .out
                .note_not_hedged(request.id, HedgeRefusal::AskedEnough);
        }
        // earlier failed requests do not restart the reader's wait
        let waits_since = state.demands.waits_since(fetch, range);
        let wish = Wish {
            content,
            gap: range,
            purpose: RequestPurpose::waiting(waits_since.unwrap_or(asked_at)),
            exclude: &nodes,
        };
        match scheduler.choose(state, now, wish) {
            HolderChoice::Ask(node, range) => {
                let other = state.peers.get(&node);
                let is_vain = |other: &Peer| {
                    other.rank(now) == PeerRank::Silent
                        || !HedgePolicy::is_worth(
                            other.link.expected(Lane::Urgent, range.len()),
                            remaining_time(state, now, request.id),
                        )
                };
                if other.is_some_and(is_vain) {
                    return state
                        .out
                        .note_not_hedged(request.id, HedgeRefusal::NotFaster);
                }
                self.policy.pay(range.len());
                let cause = RequestCause::Hedge(request.id);
                let twin = state.issue(now, node, cause, *content, range);
                state.requests.send_first(twin);
            }
            HolderChoice::Nobody => {
                state.out.note_not_hedged(request.id, HedgeRefusal::NoPeer);
                state.starve(now, content);
            }
            HolderChoice::InParts | HolderChoice::NoRoom | HolderChoice::Reserved => {
                state.out.note_not_hedged(request.id, HedgeRefusal::NoPeer);
            }
        }
    }
}

/// Cancels a read-ahead or fill request, and requests the parts that readers wait for as urgent
/// from the same peer. This happens only if a reader waits for a part, later requests overtook the
/// request or a limit of this node delays it, none of its bytes arrived, no other request touches
/// its range, and the peer does not rest. A holder with a rate limit serves waiting readers first,
/// and so does the limit of this node.
fn reissue_as_urgent(state: &mut FetchState, now: Instant, id: RequestId) {
    let Some(entry) = state.requests.get(id) else {
        return;
    };
    let (request, sent) = (entry.request, &entry.sent);
    let has_begun = entry.arrived_bytes() > 0 || entry.is_received();
    let peer = state.peers.get(&request.node);
    let is_held_up = peer.is_some_and(|it| {
        let is_overtaken = entry.is_throttled() || it.link.was_overtaken(sent, request.range.len());
        is_overtaken && it.backoff.resting_until(now).is_none()
    });
    let fetch = state.files.get(&request.content);
    let is_alone = fetch.is_some_and(|it| {
        let asked = it.asked.touching(request.range);
        asked.len() == 1 && state.demands.is_waited_for(it, request.range)
    });
    if request.lane == Lane::Bulk && is_held_up && is_alone && !has_begun {
        state.abandon(id, TakeBackReason::Urgent);
        ask_as_urgent(state, now, &request);
    }
}

/// Cancels a request whose time is over, and returns its failure. Otherwise schedules the next
/// check and returns `None`. A request goes on while its complete answer waits for verification. If
/// the peer sends nothing at all for `PlanConfig::request_limit`, the request fails as
/// `Unreachable`. If the peer answers other requests only, this one fails as `Stalled` after a
/// multiple of that limit without progress of its own.
pub(super) fn expire_or_extend(
    state: &mut FetchState,
    now: Instant,
    id: RequestId,
) -> Option<Failure> {
    let limit = state.config.request_limit;
    let entry = state.requests.get_mut(id)?;
    let (node, since) = (entry.request.node, entry.sent.at);
    let quiet = state
        .peers
        .get(&node)
        .map(|peer| peer.quiet_for(now, since));
    let waiting = Waiting::new(entry.progress_at(), limit);
    let alive = quiet.is_some_and(|quiet| quiet < limit);
    let goes_on = alive && waiting.turn_ends_at(waiting.progress_at()) > now;
    let next = if entry.is_received() {
        Some(now + limit)
    } else if goes_on {
        Some(now + (limit - quiet.unwrap_or_default()))
    } else {
        None
    };
    if let Some(next) = next {
        entry.expire_at = next;
        state.out.timers.insert((next, Timer::Expire(id)));
        return None;
    }
    let why = TakeBackReason::Expired;
    state
        .out
        .decisions
        .record(|| Decision::TakenBack { request: id, why });
    state.out.events.push_back(PlanEvent::Cancel(id));
    Some(if alive {
        Failure::Stalled
    } else {
        Failure::Unreachable
    })
}

/// Cancels requests to peers that have fallen silent if another live holder can be asked, a few at
/// a time. The rest follows in the next step. Otherwise each request would have to become late
/// first.
pub(super) fn rescue_some(state: &mut FetchState, now: Instant) {
    for _ in 0..STEP_ITEMS_MAX {
        if !state.peers.has_rescues() {
            return;
        }
        if let Some(id) = state.peers.next_rescue() {
            rescue(state, now, id);
        }
    }
    state.out.timers.insert((now, Timer::Again));
}

/// Requests the parts of a cancelled request for which readers wait, from the same peer, as urgent,
/// even if the peer has no room. Otherwise a fill would request them in bulk again, behind
/// everything that is queued at the peer by now.
fn ask_as_urgent(state: &mut FetchState, now: Instant, before: &RangeRequest) {
    let (node, content) = (before.node, before.content);
    let Some(fetch) = state.files.get(&content) else {
        return;
    };
    // if the peer is silent or no holder any longer, the scheduler finds another holder
    let is_well = state.peers.get(&node).is_some_and(|it| !it.is_silent());
    if !is_well || !fetch.holders().contains(&node) {
        return;
    }
    let mut waited = ExtentSet::new();
    for (_, demand) in state.demands.touching(fetch, before.range) {
        waited.insert(demand.range.intersection(&before.range));
    }
    for run in waited.without(fetch.presence.here()).iter() {
        let mut rest = run;
        while let Some(peer) = state.peers.get(&node).filter(|_| !rest.is_empty()) {
            let part = peer.link.first_piece(Lane::Urgent, rest, 0);
            rest.start = part.end;
            let cause = RequestCause::Reissue(before.id);
            let anew = state.issue(now, node, cause, content, part);
            state.requests.send_first(anew);
        }
    }
}

/// Cancels a request to a silent peer if another live holder has the beginning of its range, so
/// that it is requested there. Without a live holder the request stays open, and may be hedged.
/// Otherwise, if all holders are slow, a range could be cancelled at one after the other and never
/// arrive.
fn rescue(state: &mut FetchState, now: Instant, id: RequestId) {
    let Some(entry) = state.requests.get(id).filter(|it| !it.is_received()) else {
        return;
    };
    if is_elsewhere(state, now, &entry.request) {
        state.abandon(id, TakeBackReason::SilentPeer);
    }
}

/// Returns whether another live holder has the beginning of a request's range.
fn is_elsewhere(state: &FetchState, now: Instant, request: &RangeRequest) -> bool {
    let Some(fetch) = state.files.get(&request.content) else {
        return false;
    };
    fetch.holders().iter().any(|(node, coverage)| {
        state.steps.step();
        let has = coverage.first_in(request.range);
        let has = has.is_some_and(|part| part.start == request.range.start);
        let lively = |node| {
            state
                .peers
                .get(node)
                .is_some_and(|peer| peer.is_lively(now))
        };
        *node != request.node && has && lively(node)
    })
}

/// Returns the expected time until the rest of an answer arrives, at the pace of all bytes that the
/// peer sent since the request. If none of the answer has arrived, the rest includes the bytes that
/// were queued before it. Returns `None` if the peer has sent nothing for [`Peer::silent_min`] or since
/// the request, or if none of the answer has arrived and many later requests overtook it.
fn remaining_time(state: &FetchState, now: Instant, id: RequestId) -> Option<Duration> {
    let entry = state.requests.get(id)?;
    let peer = state.peers.get(&entry.request.node)?;
    if peer.quiet_for(now, entry.sent.at) >= peer.silent_min(now) {
        return None;
    }
    let own = entry.request.range.len();
    let before = match entry.arrived_bytes() {
        0 if peer.link.was_far_overtaken(&entry.sent, own) => return None,
        0 => peer.link.bytes_left_before(&entry.sent),
        _ => 0,
    };
    let left = before + own.saturating_sub(entry.arrived_bytes());
    let pace = peer.link.pace_since(now, &entry.sent)?;
    Duration::try_from_secs_f64(left as f64 / pace).ok()
}
