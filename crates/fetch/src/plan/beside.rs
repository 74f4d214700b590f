//! Deliveries that the plan did not request: whole small files that arrived in batches.

use std::time::Instant;

use super::{Decision, Plan, PlanEvent, TakeBackReason, Timer};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::id::NodeId;

impl Plan {
    /// Records verified bytes from a peer that the plan had not requested.
    pub fn gave(&mut self, node: NodeId, bytes: u64) {
        if let Some(peer) = self.peer_or_new(node) {
            peer.link.note_delivered(bytes);
        }
    }

    /// Shuns a peer that gave wrong bytes of a content, in or outside the plan, or a wrong size of
    /// it. Its requests go to other peers. A peer that is already shunned stays as it is.
    pub fn lied(&mut self, now: Instant, node: NodeId, content: ContentKey) {
        let Some(peer) = self.peer_or_new(node) else {
            return;
        };
        if peer.backoff.is_shunned(now) {
            return;
        }
        let until = peer.shun(now);
        self.timers.insert((until, Timer::Rested(node)));
        self.report_liar(node, content);
    }

    /// Reports a liar and cancels all requests to it.
    pub(super) fn report_liar(&mut self, node: NodeId, content: ContentKey) {
        self.decisions.note(|| Decision::Shunned { node, content });
        self.events.push_back(PlanEvent::Liar(node, content));
        if let Some(fetch) = self.files.get_mut(&content) {
            fetch.failures.is_lied_to = true;
        }
        let asked = self.peers.get(&node).map(|peer| peer.asked().clone());
        for id in asked.unwrap_or_default() {
            self.abandon(id, TakeBackReason::Liar);
        }
    }
}
