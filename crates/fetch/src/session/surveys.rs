//! Surveys: requests to single nodes for the ranges that they have of a content. One survey per
//! node and content is open at a time, so a node that does not answer is not asked repeatedly. At
//! most [`OF_ONE_NODE_MAX`] surveys per node are open at a time, so an unresponsive node with many
//! contents does not displace others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Instant;

use crate::plan::FETCHES_KEPT_MAX;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Maximum open surveys of one node. Further ones wait for their turn.
const OF_ONE_NODE_MAX: usize = 8;

/// Open and waiting surveys of all nodes.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    nodes: BTreeMap<NodeId, NodeSurveys>,
    /// Surveys that the owner sends with the next actions.
    sends: Vec<(NodeId, SocketAddr, ContentHash)>,
}

#[derive(Debug, Default)]
struct NodeSurveys {
    /// Contents of open surveys, and since when they are open.
    asked: BTreeMap<ContentHash, Instant>,
    /// Contents of waiting surveys, at most [`FETCHES_KEPT_MAX`]. Surveys of other contents are
    /// dropped.
    due: BTreeSet<ContentHash>,
    /// Waiting content that was removed last. The next one to be removed follows it in order, so
    /// that each has its turn.
    last: Option<ContentHash>,
}

impl Surveys {
    /// Sends a survey unless it is open already. If too many surveys of the node are open, it
    /// waits; if too many wait, it is dropped.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        (node, address): (NodeId, SocketAddr),
        hash: ContentHash,
    ) {
        let of_node = self.nodes.entry(node).or_default();
        if of_node.asked.contains_key(&hash) {
            return;
        }
        if of_node.asked.len() < OF_ONE_NODE_MAX {
            of_node.asked.insert(hash, now);
            self.sends.push((node, address, hash));
        } else if of_node.due.len() < FETCHES_KEPT_MAX {
            of_node.due.insert(hash);
        }
    }

    /// Sends the next waiting survey of a node with a content for which `is_wanted` returns true,
    /// and drops those before it.
    pub(super) fn begin_next(
        &mut self,
        now: Instant,
        from: (NodeId, SocketAddr),
        is_wanted: impl Fn(&ContentHash) -> bool,
    ) {
        while let Some(hash) = self.next(from.0) {
            if is_wanted(&hash) {
                return self.begin(now, from, hash);
            }
        }
    }

    /// Removes and returns the surveys to send.
    pub(super) fn take_sends(&mut self) -> Vec<(NodeId, SocketAddr, ContentHash)> {
        std::mem::take(&mut self.sends)
    }

    /// Ends a survey. Returns since when it was open.
    pub(super) fn end(&mut self, node: NodeId, hash: &ContentHash) -> Option<Instant> {
        self.nodes.get_mut(&node)?.asked.remove(hash)
    }

    /// Removes and returns the next waiting content of a node.
    fn next(&mut self, node: NodeId) -> Option<ContentHash> {
        let of_node = self.nodes.get_mut(&node)?;
        let after = of_node.last.map_or(Unbounded, Excluded);
        let later = of_node.due.range((after, Unbounded)).next();
        let next = later.or(of_node.due.first()).copied();
        of_node.last = next;
        match next {
            Some(hash) => drop(of_node.due.remove(&hash)),
            None => self.forget_if_unused(node),
        }
        next
    }

    /// Drops the waiting surveys of an unreachable node.
    pub(super) fn drop_waiting(&mut self, node: NodeId) {
        if let Some(of_node) = self.nodes.get_mut(&node) {
            of_node.due.clear();
        }
        self.forget_if_unused(node);
    }

    fn forget_if_unused(&mut self, node: NodeId) {
        let of_node = self.nodes.get(&node);
        if of_node.is_some_and(|it| it.asked.is_empty() && it.due.is_empty()) {
            self.nodes.remove(&node);
        }
    }
}
