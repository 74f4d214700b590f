//! What peers did beside the plan: whole small files that came in batches, which it did not ask
//! for.

use std::time::Instant;

use super::{Plan, PlanEvent, Timer};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::id::NodeId;

impl Plan {
    /// A peer gave verified bytes that the plan had not asked for.
    pub fn gave(&mut self, node: NodeId, bytes: u64) {
        if let Some(peer) = self.peer_or_new(node) {
            peer.delivered_bytes += bytes;
        }
    }

    /// A peer gave wrong bytes of a content, wherever, or said a wrong size of it: it is shunned,
    /// unless it is already, and all that is asked of it is asked of others.
    pub fn lied(&mut self, now: Instant, node: NodeId, content: ContentKey) {
        let Some(peer) = self.peer_or_new(node) else {
            return;
        };
        if peer.is_shunned(now) {
            return;
        }
        let until = peer.shun(now);
        self.timers.insert((until, Timer::Rested(node)));
        self.unmask(node, content);
    }

    /// Tells of a liar, whom nothing is asked of any more.
    pub(super) fn unmask(&mut self, node: NodeId, content: ContentKey) {
        self.events.push_back(PlanEvent::Liar(node, content));
        if let Some(fetch) = self.fetches.get_mut(&content) {
            fetch.lied_to = true;
        }
        let asked = self.peers.get(&node).map(|peer| peer.asked.clone());
        for id in asked.unwrap_or_default() {
            self.abandon(id);
        }
    }
}
