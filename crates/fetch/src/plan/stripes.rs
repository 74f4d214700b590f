//! Changes to the state of a file that a swarm wants. `swarm_policy` decides, and this module
//! carries the decisions out.

use std::time::Instant;

use super::holders::{ASK_AGAIN, Coverage};
use super::link::USUAL_DELAY;
use super::state::{FetchState, Timer};
use super::swarm::STRIPE_BYTES;
use super::swarm_policy::{STRIPE_PATIENCE, SwarmPolicy};
use super::{PlanEvent, RequestId, TakeBackReason, URGENT_MAX_BYTES};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ExtentSet;
use p2pfs_types::id::NodeId;

/// Maximum nodes asked by one survey, in rotation. With 32, when 64 nodes filled one file, its
/// holder sent the file 2.8 times instead of 1.8 times.
const SURVEYED_AT_ONCE_MAX: usize = 16;

/// Records a node that also wants an open file and will have parts of it soon.
pub(super) fn add_fellow(state: &mut FetchState, now: Instant, content: &ContentKey, node: NodeId) {
    let Some(fetch) = state.files.get(content) else {
        return;
    };
    let known = fetch.swarm.contains(&node);
    if known || node == state.config.me || fetch.presence.is_whole() {
        return;
    }
    if state.peer_or_new(node).is_none() {
        return;
    }
    if let Some(fetch) = state.files.get_mut(content) {
        fetch.add_holder(node, Coverage::Part(ExtentSet::new()));
        // beyond the limit of holders it was not added
        if let Some(coverage) = fetch.holders().get(&node) {
            let is_partial = *coverage != Coverage::All;
            let first = fetch.swarm.add(node, is_partial);
            if first {
                state
                    .out
                    .timers
                    .insert((now + ASK_AGAIN.first, Timer::Survey(*content)));
            }
        }
    }
    cancel_foreign_stripes(state, now, content);
    state.requeue(content);
}

/// Cancels requests to full holders for stripes that now belong to other nodes. The requests were
/// sent while fewer nodes were known to want the file. A request stays if bytes of it arrived or a
/// reader needs it next. Once this node has more than [`URGENT_MAX_BYTES`] of the file, nothing is
/// cancelled.
fn cancel_foreign_stripes(state: &mut FetchState, now: Instant, content: &ContentKey) {
    let Some(fetch) = state.files.get(content) else {
        return;
    };
    if !fetch.is_swarm() || fetch.presence.bytes() > URGENT_MAX_BYTES {
        return;
    }
    let policy = SwarmPolicy::new(state, content, fetch);
    let is_of_others = |id: &RequestId| {
        let Some(entry) = state.requests.get(*id) else {
            return false;
        };
        let (node, range) = (entry.request.node, entry.request.range);
        state.steps.step();
        entry.arrived_bytes() == 0
            && fetch.holders().is_full(&node)
            && !policy.is_mine(now, range.start / STRIPE_BYTES)
            && !state.demands.is_next_to_be_read(fetch, range)
    };
    let ids: Vec<_> = fetch.asked.ids().filter(is_of_others).collect();
    ids.into_iter()
        .for_each(|id| state.abandon(id, TakeBackReason::OfAnotherNode));
}

/// Asks some partial holders of a file in use which ranges they have by now. Schedules the next
/// survey until the whole file is here.
pub(super) fn survey(state: &mut FetchState, now: Instant, content: ContentKey) {
    let Some(fetch) = state.files.get_mut(&content) else {
        return;
    };
    let have_bytes = fetch.presence.bytes();
    let idle = fetch.is_idle();
    let next = now + fetch.swarm.survey_pace(have_bytes, idle);
    if fetch.presence.is_whole() {
        return;
    }
    state.out.timers.insert((next, Timer::Survey(content)));
    if idle {
        return;
    }
    let peers = &state.peers;
    let may_be_asked = |node: &NodeId| {
        let peer = peers.get(node);
        peer.is_some_and(|peer| peer.backoff.resting_until(now).is_none())
    };
    let asked = fetch
        .swarm
        .next_surveyed(SURVEYED_AT_ONCE_MAX, may_be_asked);
    let surveys = asked
        .into_iter()
        .map(|node| PlanEvent::Survey(content, node));
    state.out.events.extend(surveys);
}

/// Schedules another examination after a request was withheld because the stripe belongs to
/// another node.
pub(super) fn wait_for_stripe(
    state: &mut FetchState,
    now: Instant,
    content: &ContentKey,
    waits_since: Option<Instant>,
) {
    let due = (waits_since.unwrap_or(now) + STRIPE_PATIENCE).max(now + USUAL_DELAY);
    let Some(fetch) = state.files.get_mut(content) else {
        return;
    };
    if fetch.swarm.schedule_stripes(due) {
        state.out.timers.insert((due, Timer::Stripe(*content)));
    }
}

/// Queues a file again whose requests for stripes of other nodes were withheld.
pub(super) fn recheck_stripes(state: &mut FetchState, content: &ContentKey) {
    if let Some(fetch) = state.files.get_mut(content) {
        fetch.swarm.end_stripes();
    }
    state.enqueue_all(content);
}

/// Marks the owner of a stripe as late if this node requests the stripe from a full holder
/// (`asked`) instead. Does nothing before this node has [`URGENT_MAX_BYTES`] of the file.
pub(super) fn mark_if_late(
    state: &mut FetchState,
    now: Instant,
    content: &ContentKey,
    start: u64,
    asked: NodeId,
) {
    let Some(fetch) = state.files.get(content) else {
        return;
    };
    let of_full = fetch.holders().is_full(&asked);
    if !of_full || !fetch.is_swarm() || fetch.presence.bytes() < URGENT_MAX_BYTES {
        return;
    }
    let owner = SwarmPolicy::new(state, content, fetch).owner(now, start / STRIPE_BYTES);
    state.files.note_late_node(now, content, &owner);
}
