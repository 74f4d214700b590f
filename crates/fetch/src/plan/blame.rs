//! Consequences of a failed request for its peer and its file.

use std::time::Instant;

use super::requests::OpenRequest;
use super::state::{FetchState, Timer};
use super::{Decision, Failure, PlanEvent, TakeBackReason};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::id::NodeId;

/// Ends a request without data that was removed from the state. `jitter` is in 0..1.
pub(super) fn end_failed(
    state: &mut FetchState,
    now: Instant,
    entry: &OpenRequest,
    failure: Failure,
    jitter: f64,
) {
    let request = entry.request.id;
    state
        .out
        .decisions
        .record(|| Decision::Failed { request, failure });
    blame(state, now, entry, failure, jitter);
    state.ask_again(&entry.request.content, entry.request.range);
    state.mark_if_overdue(now, &entry.request.content);
}

/// Records the failure of a request at its peer: the peer rests, is shunned, or is not a holder
/// of the file any longer. `jitter` is in 0..1.
fn blame(state: &mut FetchState, now: Instant, entry: &OpenRequest, failure: Failure, jitter: f64) {
    let (node, content) = (entry.request.node, entry.request.content);
    let Some(peer) = state.peers.get_mut(&node) else {
        return;
    };
    let until = match failure {
        Failure::Unreachable => peer.unreachable(now, &entry.sent, jitter),
        Failure::Busy => peer.rest_busy(now, &entry.sent, jitter, true),
        Failure::Limited => peer.hold_back(now, &entry.sent, jitter),
        Failure::Refused | Failure::Ours | Failure::Stalled => {
            peer.rest_busy(now, &entry.sent, jitter, false)
        }
        Failure::Lied => peer.shun(now),
        Failure::Gone => {
            if let Some(fetch) = state.files.get_mut(&content) {
                fetch.remove_holder(now, node);
            }
            state.requeue(&content);
            return look_up_if_gone(state, now, content);
        }
    };
    state.out.timers.insert((until, Timer::Rested(node)));
    if failure == Failure::Lied {
        report_liar(state, node, content);
    }
    if matches!(failure, Failure::Lied | Failure::Unreachable) {
        state.files.note_late_node(now, &content, &node);
    }
}

/// Requests a catalogue lookup of a file that is in use and just gone
/// (`FileFetch::is_just_gone_in`). Other nodes may have the file by now.
fn look_up_if_gone(state: &mut FetchState, now: Instant, content: ContentKey) {
    let Some(fetch) = state.files.get_mut(&content) else {
        return;
    };
    if !fetch.is_idle() && fetch.is_just_gone_in(now, fetch.whole()) {
        fetch.holders_mut().begin_lookup();
        state.out.events.push_back(PlanEvent::LookUp(content));
    }
}

/// Reports a liar and cancels all requests to it.
pub(super) fn report_liar(state: &mut FetchState, node: NodeId, content: ContentKey) {
    state
        .out
        .decisions
        .record(|| Decision::Shunned { node, content });
    state.out.events.push_back(PlanEvent::Liar(node, content));
    if let Some(fetch) = state.files.get_mut(&content) {
        fetch.failures.is_lied_to = true;
    }
    let asked = state.peers.get(&node).map(|peer| peer.asked().clone());
    for id in asked.unwrap_or_default() {
        state.abandon(id, TakeBackReason::Liar);
    }
}
