//! The requests to other nodes in flight, and the live members that this node has to ask for their
//! heads.
//!
//! `QuestionTable` assigns the request IDs and enforces the limits. Requests for logs have slots of
//! their own. Of the other slots, a node that does not answer holds at most [`REQUESTS_EACH_MAX`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::late_heads::LateHeads;
use super::{Outgoing, RequestId};
use p2pfs_proto::wire::native::tcp::Request;
use p2pfs_types::id::NodeId;

/// Maximum number of requests in flight, except for logs. Without a free slot, a member that must
/// be asked for its heads waits. Any other request is dropped.
pub const REQUESTS_MAX: usize = 192;
/// Maximum number of requests in flight to one node, except for logs. It suffices for the first
/// requests to the node before and after a restart, or for the first requests and a push-pull.
pub const REQUESTS_EACH_MAX: usize = 6;
/// Maximum number of requests for logs in flight. A request for which the machine no longer waits
/// counts until it is answered or fails.
pub const LOG_REQUESTS_MAX: usize = 64;

/// Delay until a live member that did not answer a request for heads is asked again.
const HEADS_RETRY: Duration = Duration::from_secs(1);
/// Number of failed requests in a row after which this node gives up asking a live member for the
/// heads that it knows. The member then counts as read (`MemberReport::is_read`), and is asked
/// again only after it becomes live anew. Such a member answers datagrams but no connection.
const HEADS_TRIES: u32 = 10;

/// The kind of a request in flight, with the context for its response.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestContext {
    Log {
        author: NodeId,
        from: NodeId,
    },
    Heads {
        from: NodeId,
    },
    /// A request for heads in place of the members whose own answers are late.
    LateHeads {
        from: NodeId,
    },
    Members {
        from: NodeId,
    },
    Trust {
        from: NodeId,
        address: SocketAddr,
        told_all: bool,
    },
}

impl RequestContext {
    pub(super) fn is_log(&self) -> bool {
        matches!(self, Self::Log { .. })
    }

    /// Returns the node that received the request.
    pub(super) fn of(&self) -> NodeId {
        match self {
            Self::Log { from, .. }
            | Self::Heads { from }
            | Self::LateHeads { from }
            | Self::Members { from }
            | Self::Trust { from, .. } => *from,
        }
    }
}

/// The outcome of the requests to a node for its heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadsAnswer {
    Arrived,
    /// The node was not reached at its address, or did not answer, `tries` times in a row.
    Failed {
        tries: u32,
    },
}

/// The requests in flight and the members still to be asked.
#[derive(Default)]
pub(super) struct QuestionTable {
    asked: BTreeMap<RequestId, RequestContext>,
    next: u64,
    outgoing: VecDeque<Outgoing>,
    /// Live members to be asked for their heads, with their addresses. The time is the earliest
    /// retry for a member that did not answer, and `None` for a member to be asked at once.
    newcomers: BTreeMap<NodeId, (SocketAddr, Option<Instant>)>,
    /// By member, whether its heads arrived, or else how many requests for them failed in a row.
    told: BTreeMap<NodeId, HeadsAnswer>,
    /// The requests to other members in place of those that have not answered.
    pub(super) late: LateHeads,
}

impl QuestionTable {
    /// Queues a request if there is a free slot, and returns whether there was.
    pub(super) fn ask(
        &mut self,
        node: NodeId,
        address: SocketAddr,
        request: Request,
        asked: RequestContext,
    ) -> bool {
        let has_room = match asked {
            RequestContext::Log { .. } => self.logs() < LOG_REQUESTS_MAX,
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

    /// Removes a request that was answered or failed, and returns its context.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<RequestContext> {
        self.asked.remove(&id)
    }

    pub(super) fn poll(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    /// Returns how many more requests may be sent to a node, not counting requests for logs.
    fn room_for(&self, node: &NodeId) -> usize {
        let of_node = |asked: &&RequestContext| !asked.is_log() && asked.of() == *node;
        let each = self.asked.values().filter(of_node).count();
        self.room().min(REQUESTS_EACH_MAX.saturating_sub(each))
    }

    fn room(&self) -> usize {
        REQUESTS_MAX.saturating_sub(self.asked.len() - self.logs())
    }

    fn logs(&self) -> usize {
        self.asked.values().filter(|asked| asked.is_log()).count()
    }

    /// Records that a member is live and must be asked for its heads.
    pub(super) fn add_newcomer(&mut self, node: NodeId, address: SocketAddr) {
        // The recorded outcome may be that of the node before a restart.
        self.forget_member(&node);
        self.newcomers.insert(node, (address, None));
    }

    /// Records that a live member told its heads.
    pub(super) fn mark_heads_told(&mut self, node: NodeId) {
        self.told.insert(node, HeadsAnswer::Arrived);
    }

    /// Records that a member did not answer a request for its heads. Schedules the next request,
    /// unless [`HEADS_TRIES`] have failed. Has no effect if the member answered an earlier request,
    /// or if `address` is `None` because the member is no longer live.
    pub(super) fn mark_heads_missed(
        &mut self,
        now: Instant,
        node: NodeId,
        address: Option<SocketAddr>,
    ) {
        let before = match self.told.get(&node) {
            Some(HeadsAnswer::Arrived) => return,
            Some(HeadsAnswer::Failed { tries }) => *tries,
            None => 0,
        };
        let Some(address) = address else {
            return;
        };
        let tries = before + 1;
        self.told.insert(node, HeadsAnswer::Failed { tries });
        if tries < HEADS_TRIES {
            let due = Some(now + HEADS_RETRY);
            self.newcomers.insert(node, (address, due));
        }
    }

    /// Returns whether a live member has told its heads, or has failed [`HEADS_TRIES`] times.
    pub(super) fn has_told(&self, node: &NodeId) -> bool {
        match self.told.get(node) {
            Some(HeadsAnswer::Arrived) => true,
            Some(HeadsAnswer::Failed { tries }) => *tries >= HEADS_TRIES,
            None => false,
        }
    }

    /// Returns whether a live member has told its heads.
    pub(super) fn has_answered(&self, node: &NodeId) -> bool {
        self.told.get(node) == Some(&HeadsAnswer::Arrived)
    }

    /// Returns whether a live member was asked for its heads and has neither told them nor failed
    /// [`HEADS_TRIES`] times.
    pub(super) fn is_awaited(&self, node: &NodeId) -> bool {
        if self.told.contains_key(node) {
            return !self.has_told(node);
        }
        let is_asked = |asked: &RequestContext| match asked {
            RequestContext::Heads { from } => from == node,
            _ => false,
        };
        self.asked.values().any(is_asked)
    }

    /// Returns when the next member must be asked again, or another member in its place.
    pub(super) fn next_again(&self) -> Option<Instant> {
        let due = self.newcomers.values().filter_map(|(_, due)| *due);
        due.chain(self.late.poll_timeout()).min()
    }

    /// Clears the retry times that have passed. These members then wait only for free slots.
    pub(super) fn mark_due(&mut self, now: Instant) {
        for (_, due) in self.newcomers.values_mut() {
            *due = due.filter(|at| *at > now);
        }
    }

    /// Changes the address of a member. Asks the member again if it did not answer at the previous
    /// address.
    pub(super) fn readdress(&mut self, node: NodeId, address: SocketAddr) {
        if let Some(known) = self.newcomers.get_mut(&node) {
            known.0 = address;
        }
        // The failed requests went to an address at which the node may no longer have been.
        if let Some(HeadsAnswer::Failed { .. }) = self.told.get(&node) {
            self.add_newcomer(node, address);
        }
    }

    /// Forgets a member that is gone.
    pub(super) fn forget_member(&mut self, node: &NodeId) {
        self.told.remove(node);
        self.late.forget(node);
        self.newcomers.remove(node);
    }

    /// Forgets a new member that was asked.
    pub(super) fn forget_newcomer(&mut self, node: &NodeId) {
        self.newcomers.remove(node);
    }

    /// Returns a member that must be asked now and for which at least `questions` slots are free.
    pub(super) fn newcomer(&self, questions: usize) -> Option<(NodeId, SocketAddr)> {
        if self.newcomers.is_empty() || self.room() < questions {
            return None;
        }
        let has_room = |node: &NodeId| self.room_for(node) >= questions;
        let mut due = self.newcomers.iter().filter(|(_, (_, due))| due.is_none());
        let newcomer = due.find(|(node, _)| has_room(node));
        newcomer.map(|(node, (address, _))| (*node, *address))
    }
}

#[cfg(test)]
impl QuestionTable {
    pub(super) fn forget_all(&mut self) {
        self.asked.clear();
    }
}
