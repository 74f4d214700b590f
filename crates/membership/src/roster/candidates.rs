//! Nodes that other members told of and that this node has not met yet.
//!
//! In a cluster with a secret file, a member can make up any number of nodes, and sign for each of
//! them. A node that was only told of is therefore no member at once. This node greets it, and the
//! node becomes a member by its own packets. If it does not answer, other members may still reach
//! it. It then becomes an *unmet* member, within narrow limits, and the engine's probes through
//! other members decide whether it lives. An unmet member is not told to others, so that each node
//! judges the claims of a teller by itself.
//!
//! ```text
//!   told ──▶ waiting ──▶ greeted ──▶ (answers) met
//!                           └──▶ (silent) unmet ──▶ met, or down and forgotten
//! ```
//!
//! Each teller has a share of every step, and displaces only its own claims.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::engine::Update;
use crate::config::{
    CANDIDATES_MAX, GREETED_MAX, GREETED_PER_TELLER_MAX, UNMET_MAX, UNMET_PER_TELLER_MAX,
};
use crate::sender_table::SenderTable;
use p2pfs_proto::wire::native::udp::Contact;
use p2pfs_types::id::NodeId;

/// Time after which a greeted candidate without an answer may become an unmet member. It allows for
/// the loss of two hellos. A later answer still makes the candidate a met one.
const GREETING_TIME: Duration = Duration::from_secs(1);
/// Time for which an unmet member that is down is remembered. In this time it uses a part of its
/// teller's share, which slows a teller that makes up nodes.
pub(super) const UNMET_MEMORY: Duration = Duration::from_secs(60);

/// A candidate that was greeted and has not answered yet.
struct GreetedCandidate {
    teller: NodeId,
    told: Update,
    until: Instant,
}

/// The nodes that were only told of.
pub(super) struct Candidates {
    /// Candidates that were not greeted yet, each with its teller.
    waiting: SenderTable<NodeId, Update>,
    greeted: BTreeMap<NodeId, GreetedCandidate>,
    /// Members that never spoke to this node, each with its teller.
    unmet: BTreeMap<NodeId, NodeId>,
    /// The teller of the candidate that was greeted last.
    last_teller: Option<NodeId>,
    greetings: VecDeque<Contact>,
}

impl Candidates {
    pub(super) fn new() -> Self {
        Self {
            waiting: SenderTable::new(CANDIDATES_MAX),
            greeted: BTreeMap::new(),
            unmet: BTreeMap::new(),
            last_teller: None,
            greetings: VecDeque::new(),
        }
    }

    /// Adds a node that `teller` told of, or a later life of a waiting one. Returns whether another
    /// candidate was dropped for it.
    pub(super) fn add(&mut self, now: Instant, teller: NodeId, told: &Update) -> bool {
        let node = told.id().0.node;
        let is_later = |known: &Update| known.id().0.generation < told.id().0.generation;
        if let Some(greeted) = self.greeted.get_mut(&node) {
            if is_later(&greeted.told) {
                greeted.told = told.clone();
                self.greetings.push_back(told.id().0);
            }
            return false;
        }
        // A repetition does not change the teller. Otherwise a member could repeat the claims of
        // others and then displace them as its own.
        let teller = self.waiting.sender_of(&node).unwrap_or(teller);
        if !self.waiting.get(&node).is_none_or(is_later) {
            return false;
        }
        let displaced = self.waiting.insert(teller, node, told.clone());
        self.greet_waiting(now);
        displaced.is_some()
    }

    /// Removes a waiting candidate that a member calls gone.
    pub(super) fn remove_waiting(&mut self, life: &Contact) {
        let known = self.waiting.get(&life.node);
        if known.is_some_and(|known| known.id().0.generation <= life.generation) {
            self.waiting.remove(&life.node);
        }
    }

    /// Records that a node has spoken to this one, which makes it a member by its own word.
    pub(super) fn meet(&mut self, now: Instant, node: &NodeId) {
        self.forget(node);
        self.greet_waiting(now);
    }

    /// Forgets a node.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.waiting.remove(node);
        self.greeted.remove(node);
        self.unmet.remove(node);
    }

    /// Forgets the nodes that are not members of the cluster.
    pub(super) fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.waiting.retain(&is_member);
        self.greeted.retain(|node, _| is_member(node));
        self.unmet.retain(|node, _| is_member(node));
    }

    /// Returns whether a member never spoke to this node.
    pub(super) fn is_unmet(&self, node: &NodeId) -> bool {
        self.unmet.contains_key(node)
    }

    /// Returns the members that never spoke to this node.
    pub(super) fn unmet(&self) -> impl ExactSizeIterator<Item = &NodeId> {
        self.unmet.keys()
    }

    /// Returns the next node to greet.
    pub(super) fn poll_greeting(&mut self) -> Option<Contact> {
        self.greetings.pop_front()
    }

    /// Returns when [`Self::end_due`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.greeted.values().map(|it| it.until).min()
    }

    /// Ends the greetings that were not answered in time. Returns the candidates that become unmet
    /// members. Drops those that exceed a limit.
    pub(super) fn end_due(&mut self, now: Instant) -> Vec<Update> {
        let due = self.greeted.extract_if(.., |_, it| it.until <= now);
        let due: Vec<_> = due.map(|(_, it)| it).collect();
        let mut members = Vec::new();
        for GreetedCandidate { teller, told, .. } in due {
            let of_teller = self.unmet.values().filter(|it| **it == teller).count();
            if self.unmet.len() < UNMET_MAX && of_teller < UNMET_PER_TELLER_MAX {
                self.unmet.insert(told.id().0.node, teller);
                members.push(told);
            }
        }
        self.greet_waiting(now);
        members
    }

    /// Greets waiting candidates within the limits, those of the teller with the fewest greeted
    /// ones first.
    fn greet_waiting(&mut self, now: Instant) {
        while self.greeted.len() < GREETED_MAX {
            let Some(teller) = self.next_teller() else {
                return;
            };
            let Some((node, told)) = self.waiting.take_oldest(&teller) else {
                return;
            };
            self.last_teller = Some(teller);
            self.greetings.push_back(told.id().0);
            let until = now + GREETING_TIME;
            let greeted = GreetedCandidate {
                teller,
                told,
                until,
            };
            self.greeted.insert(node, greeted);
        }
    }

    /// Returns the teller of the next candidate to greet. Of tellers with equally many greeted
    /// candidates, it is the one after the last teller.
    fn next_teller(&self) -> Option<NodeId> {
        let mut counts = BTreeMap::<NodeId, usize>::new();
        for greeted in self.greeted.values() {
            *counts.entry(greeted.teller).or_default() += 1;
        }
        let count = |teller: &NodeId| counts.get(teller).copied().unwrap_or(0);
        let tellers = self.waiting.senders();
        let within = tellers.filter(|teller| count(teller) < GREETED_PER_TELLER_MAX);
        let turn = |teller: &NodeId| (count(teller), Some(*teller) <= self.last_teller, *teller);
        within.min_by_key(|teller| turn(teller)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::MemberLife;
    use p2pfs_types::id::Generation;

    fn node(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::new(bytes)
    }

    fn told(n: u32) -> Update {
        Update::alive(MemberLife(Contact {
            node: node(n),
            address: ([10, 0, 0, 1], 1378).into(),
            generation: Generation(1),
        }))
    }

    fn greeted(candidates: &mut Candidates) -> Vec<NodeId> {
        let greetings = std::iter::from_fn(|| candidates.poll_greeting());
        greetings.map(|contact| contact.node).collect()
    }

    const LIAR: u32 = u32::MAX;
    const HONEST: u32 = u32::MAX - 1;

    #[test]
    fn a_teller_of_very_many_nodes_delays_no_candidate_of_another_teller() {
        let (mut candidates, now) = (Candidates::new(), Instant::now());
        let mut displaced = 0;
        for n in 0..2 * CANDIDATES_MAX as u32 {
            displaced += usize::from(candidates.add(now, node(LIAR), &told(n)));
        }
        assert_eq!(greeted(&mut candidates).len(), GREETED_PER_TELLER_MAX);
        assert_eq!(displaced, CANDIDATES_MAX - GREETED_PER_TELLER_MAX);
        let own = 1 << 20..(1 << 20) + GREETED_PER_TELLER_MAX as u32;
        for n in own.clone() {
            candidates.add(now, node(HONEST), &told(n));
        }
        let expected: Vec<_> = own.map(node).collect();
        assert_eq!(greeted(&mut candidates), expected);
    }

    #[test]
    fn greeted_candidates_of_all_tellers_are_bounded() {
        let (mut candidates, now) = (Candidates::new(), Instant::now());
        for teller in 1000..1200 {
            candidates.add(now, node(teller), &told(teller + 1000));
        }
        assert_eq!(greeted(&mut candidates).len(), GREETED_MAX);
    }

    #[test]
    fn silent_candidates_become_unmet_members_within_the_share_of_their_teller() {
        let (mut candidates, mut now) = (Candidates::new(), Instant::now());
        for n in 0..1000 {
            candidates.add(now, node(LIAR), &told(n));
        }
        let mut members = 0;
        while let Some(at) = candidates.poll_timeout() {
            now = at;
            members += candidates.end_due(now).len();
        }
        assert_eq!(members, UNMET_PER_TELLER_MAX);
        for teller in 2000..2100 {
            candidates.add(now, node(teller), &told(teller + 1000));
        }
        while let Some(at) = candidates.poll_timeout() {
            members += candidates.end_due(at).len();
        }
        assert_eq!(members, UNMET_MAX);
        candidates.meet(now, &node(0));
        assert!(!candidates.is_unmet(&node(0)));
        assert_eq!(candidates.unmet().len(), UNMET_MAX - 1);
    }

    #[test]
    fn an_answer_makes_room_for_the_next_candidate_at_once() {
        let (mut candidates, now) = (Candidates::new(), Instant::now());
        for n in 0..200 {
            candidates.add(now, node(HONEST), &told(n));
        }
        let mut met = 0;
        while let Some(contact) = candidates.poll_greeting() {
            candidates.meet(now, &contact.node);
            met += 1;
        }
        assert_eq!((met, candidates.poll_timeout()), (200, None));
    }

    #[test]
    fn a_repeated_claim_stays_the_first_tellers() {
        let (mut candidates, now) = (Candidates::new(), Instant::now());
        for n in 0..100 {
            candidates.add(now, node(HONEST), &told(n));
            candidates.add(now, node(LIAR), &told(n));
        }
        for n in 100..2 * CANDIDATES_MAX as u32 {
            candidates.add(now, node(LIAR), &told(n));
        }
        let waiting = (0..100).filter(|n| candidates.waiting.contains(&node(*n)));
        assert_eq!(waiting.count(), 100 - GREETED_PER_TELLER_MAX);
    }

    #[test]
    fn a_candidate_that_is_called_gone_is_not_greeted() {
        let (mut candidates, now) = (Candidates::new(), Instant::now());
        let last = GREETED_PER_TELLER_MAX as u32;
        for n in 0..=last {
            candidates.add(now, node(HONEST), &told(n));
        }
        candidates.remove_waiting(&told(last).id().0);
        while let Some(contact) = candidates.poll_greeting() {
            assert_ne!(contact.node, node(last));
            candidates.meet(now, &contact.node);
        }
    }
}
