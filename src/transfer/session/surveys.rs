//! Questions to single nodes what they have of a content: one at a time for each of both, so that
//! who does not answer is not asked again and again; and few at a time for each node, so that one
//! that wants many contents too and answers nothing takes no place of others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::{Owner, Session};
use crate::digest::{ContentHash, ContentKey};
use crate::extent::ByteRange;
use crate::id::NodeId;
use crate::transfer::plan::{Failure, Offer};
use crate::wire::native::tcp::Response;

/// Questions to one node at one time; further ones wait for their turn.
const OF_ONE_NODE_MAX: usize = 8;
/// So many wait; of further contents it is asked when they are due again.
const WAITING_MAX: usize = 1024;

/// Who is asked what it has of which content, and who is to be.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    nodes: BTreeMap<NodeId, OfNode>,
}

#[derive(Debug, Default)]
struct OfNode {
    /// Since when it is asked about which.
    asked: BTreeMap<ContentHash, Instant>,
    waiting: VecDeque<(SocketAddr, ContentHash)>,
    /// Those that wait.
    due: BTreeSet<ContentHash>,
}

impl Surveys {
    /// Whether the node is to be asked now; if not, it is asked already or is to be later.
    fn begin(&mut self, now: Instant, node: NodeId, about: (SocketAddr, ContentHash)) -> bool {
        let of_node = self.nodes.entry(node).or_default();
        if of_node.asked.contains_key(&about.1) {
            return false;
        }
        let is_next = of_node.asked.len() < OF_ONE_NODE_MAX;
        if is_next {
            of_node.asked.insert(about.1, now);
        } else if of_node.waiting.len() < WAITING_MAX && of_node.due.insert(about.1) {
            of_node.waiting.push_back(about);
        }
        is_next
    }

    /// A question has ended: since when it was open, and what is to be asked of the node next.
    fn end(
        &mut self,
        node: NodeId,
        hash: &ContentHash,
    ) -> (Option<Instant>, Option<(SocketAddr, ContentHash)>) {
        let Some(of_node) = self.nodes.get_mut(&node) else {
            return (None, None);
        };
        let since = of_node.asked.remove(hash);
        let next = of_node.waiting.pop_front();
        if let Some((_, hash)) = &next {
            of_node.due.remove(hash);
        }
        if of_node.asked.is_empty() && next.is_none() {
            self.nodes.remove(&node);
        }
        (since, next)
    }

    /// The node cannot be reached: what waits is left until it is due again.
    fn let_go(&mut self, node: NodeId) {
        if let Some(of_node) = self.nodes.get_mut(&node) {
            of_node.waiting.clear();
            of_node.due.clear();
        }
    }
}

impl<O: Owner> Session<O> {
    pub(super) fn survey(
        &mut self,
        now: Instant,
        node: NodeId,
        address: SocketAddr,
        hash: ContentHash,
    ) {
        if self.surveys.begin(now, node, (address, hash)) {
            self.actions.surveys.push((node, address, hash));
        }
    }

    /// A question has ended, so that the next may be asked, about what is fetched still. Gives
    /// since when it was open.
    fn end_survey(&mut self, now: Instant, node: NodeId, hash: &ContentHash) -> Option<Instant> {
        let (since, mut next) = self.surveys.end(node, hash);
        while let Some((address, hash)) = next {
            if !self.opened(&hash).is_empty() {
                self.survey(now, node, address, hash);
                break;
            }
            (_, next) = self.surveys.end(node, &hash);
        }
        since
    }

    /// A node that was asked for it says all that it has of a content, or does not.
    pub fn holdings(
        &mut self,
        now: Instant,
        (node, address): (NodeId, SocketAddr),
        hash: ContentHash,
        answer: Result<Response, Failure>,
    ) {
        if answer == Err(Failure::Unreachable) {
            self.surveys.let_go(node);
        }
        let since = self.end_survey(now, node, &hash);
        let (ranges, size_bytes) = match answer {
            Ok(Response::Holdings { ranges, size_bytes }) => (ranges, size_bytes),
            Err(Failure::Unreachable) => {
                return self.plan.unreachable(now, node, since.unwrap_or(now));
            }
            Ok(_) | Err(_) => return,
        };
        let content = ContentKey::new(hash, size_bytes);
        let offer = Offer {
            node,
            content,
            all: ranges.contains(ByteRange::new(0, size_bytes)),
            ranges,
            load: 0,
        };
        self.hear_offer(now, &offer);
        self.plan.offer(now, &offer);
        self.note_address(&content, node, address);
    }
}
