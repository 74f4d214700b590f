//! The questions to other nodes that are under way, and whom to ask for the first time.
//!
//! Owns their numbers and their limits: what one node leaves unanswered takes no other's place, and
//! logs have places of their own. Knows nothing of what is answered.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::answers::Asked;
use super::{Outgoing, RequestId};
use p2pfs_proto::wire::native::tcp::Request;
use p2pfs_types::id::NodeId;

/// Questions under way, those for logs left out; further ones wait for the next push-pull.
pub const REQUESTS_MAX: usize = 192;
/// Of these, to one node: what is asked of two lives of it, or of one and in a push-pull.
pub const REQUESTS_EACH_MAX: usize = 6;
/// Questions for logs under way: those that are waited for, and those that were given up and may
/// still be answered.
pub const LOG_REQUESTS_MAX: usize = 64;

/// What is asked, and what is to be.
#[derive(Default)]
pub(super) struct Questions {
    asked: BTreeMap<RequestId, Asked>,
    next: u64,
    outgoing: VecDeque<Outgoing>,
    /// Living members that were not asked for their heads yet, and where they are.
    newcomers: BTreeMap<NodeId, SocketAddr>,
}

impl Questions {
    /// One more, where there is room for it.
    pub(super) fn ask(
        &mut self,
        node: NodeId,
        address: SocketAddr,
        request: Request,
        asked: Asked,
    ) -> bool {
        let has_room = match asked {
            Asked::Log { .. } => self.logs() < LOG_REQUESTS_MAX,
            _ => self.room_for(&node) > 0,
        };
        if !has_room {
            return false;
        }
        let id = RequestId(self.next);
        self.next += 1;
        self.asked.insert(id, asked);
        self.outgoing.push_back(Outgoing {
            id,
            node,
            address,
            request,
        });
        true
    }

    /// An answer came to this one, or can come no more.
    pub(super) fn take(&mut self, id: RequestId) -> Option<Asked> {
        self.asked.remove(&id)
    }

    pub(super) fn poll(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    /// How many more may be asked of a node, those for logs left out.
    fn room_for(&self, node: &NodeId) -> usize {
        let of_node = |asked: &&Asked| !asked.is_log() && asked.of() == *node;
        let each = self.asked.values().filter(of_node).count();
        self.room().min(REQUESTS_EACH_MAX.saturating_sub(each))
    }

    fn room(&self) -> usize {
        REQUESTS_MAX.saturating_sub(self.asked.len() - self.logs())
    }

    fn logs(&self) -> usize {
        self.asked.values().filter(|asked| asked.is_log()).count()
    }

    /// A member lives, which is to be asked.
    pub(super) fn comes(&mut self, node: NodeId, address: SocketAddr) {
        self.newcomers.insert(node, address);
    }

    /// It was asked, or is gone.
    pub(super) fn forget_newcomer(&mut self, node: &NodeId) {
        self.newcomers.remove(node);
    }

    /// One that is to be asked, and may be asked so many questions now.
    pub(super) fn newcomer(&self, questions: usize) -> Option<(NodeId, SocketAddr)> {
        if self.newcomers.is_empty() || self.room() < questions {
            return None;
        }
        let has_room = |node: &NodeId| self.room_for(node) >= questions;
        let mut newcomers = self.newcomers.iter();
        let newcomer = newcomers.find(|(node, _)| has_room(node));
        newcomer.map(|(node, address)| (*node, *address))
    }
}

#[cfg(test)]
impl Questions {
    pub(super) fn forget_all(&mut self) {
        self.asked.clear();
    }
}
