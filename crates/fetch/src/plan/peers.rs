//! The peers with recorded figures. Peers in use are kept, others while there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::peer::Peer;
use super::record::{PEER_RECORDS_MAX, PeerRecord};
use super::{Lane, PeerRate, RequestId, URGENT_MAX_BYTES};
use p2pfs_types::id::NodeId;

/// Maximum peers with recorded figures.
pub const PEERS_MAX: usize = 2048;
/// When the number of peers, or of open files, reaches its limit, a batch is removed: one in this
/// many of the limit, those not heard from, or not used, for the longest time. The search for
/// unused ones examines all of them, so several are removed at once.
pub(super) const EVICT_ONE_IN: usize = 8;

/// The peers with recorded figures.
#[derive(Debug, Default)]
pub struct PeerTable {
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that fell silent, each with the lowest id of a request that the rescue may still
    /// examine.
    rescues: BTreeMap<NodeId, RequestId>,
}

impl PeerTable {
    pub(super) fn get(&self, node: &NodeId) -> Option<&Peer> {
        self.peers.get(node)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Peer> {
        self.peers.get_mut(node)
    }

    /// Returns the figures of a peer, and creates them if needed, even beyond [`PEERS_MAX`].
    pub(super) fn entry(&mut self, node: NodeId) -> &mut Peer {
        self.peers.entry(node).or_default()
    }

    /// Returns whether a peer has room for one more request.
    pub(super) fn has_room(&self, node: &NodeId, lane: Lane) -> bool {
        let peer = self.get(node);
        peer.is_some_and(|peer| peer.link.has_room(lane, peer.link.piece_bytes(lane)))
    }

    /// Returns the latest time at which one of `nodes` worked for any request. Ignores shunned
    /// peers.
    pub(super) fn last_work<'a>(
        &self,
        now: Instant,
        nodes: impl Iterator<Item = &'a NodeId>,
    ) -> Option<Instant> {
        nodes
            .filter_map(|node| self.get(node)?.worked_at(now))
            .max()
    }

    /// Returns whether the table has no room for this peer.
    pub(super) fn is_full_for(&self, node: &NodeId) -> bool {
        !self.peers.contains_key(node) && self.peers.len() >= PEERS_MAX
    }

    /// Forgets some of the spare peers for which `is_unused` returns true, those not heard from for
    /// the longest first. Returns them.
    pub(super) fn forget_some(&mut self, is_unused: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
        let spare = self.peers.iter();
        let spare = spare.filter(|(node, peer)| peer.is_spare() && is_unused(node));
        let spare: BTreeSet<_> = spare
            .map(|(node, peer)| (peer.last_heard(), *node))
            .collect();
        let gone = spare.into_iter().take(PEERS_MAX / EVICT_ONE_IN);
        let gone: Vec<_> = gone.map(|(_, node)| node).collect();
        gone.iter().for_each(|node| drop(self.peers.remove(node)));
        gone
    }

    /// Marks a peer as silent. Returns whether that is news. Its requests are then due for rescue.
    pub(super) fn mark_silent(&mut self, now: Instant, node: NodeId) -> bool {
        let peer = self.peers.get_mut(&node);
        let is_news = peer.is_some_and(|peer| peer.silence.begin(now));
        if is_news {
            self.rescues.insert(node, RequestId(0));
        }
        is_news
    }

    pub(super) fn has_rescues(&self) -> bool {
        !self.rescues.is_empty()
    }

    /// Returns the next request to a silent peer that is due for rescue. Returns `None` once after
    /// the last request of each silent peer: call it again while [`Self::has_rescues`] is true.
    pub(super) fn next_rescue(&mut self) -> Option<RequestId> {
        let (node, from) = self.rescues.first_key_value().map(|(n, f)| (*n, *f))?;
        let peer = self.peers.get(&node).filter(|peer| peer.is_silent());
        let next = peer.and_then(|peer| peer.asked().range(from..).next().copied());
        match next {
            None => drop(self.rescues.remove(&node)),
            Some(id) => drop(self.rescues.insert(node, RequestId(id.0 + 1))),
        }
        next
    }

    /// Returns all peers, in order of priority, for users.
    pub fn rates(&self, now: Instant) -> Vec<PeerRate> {
        let mut order: Vec<_> = self.peers.iter().collect();
        order.sort_by_key(|(_, peer)| {
            (
                peer.backoff.resting_until(now).is_some(),
                !peer.link.is_known(),
                peer.is_silent(),
                peer.score(Lane::Urgent, URGENT_MAX_BYTES),
            )
        });
        let rate = |(place, (node, peer)): (usize, (&NodeId, &Peer))| PeerRate {
            node: *node,
            priority: place + 1,
            latency: peer.link.latency(),
            rate_bytes_per_s: peer.link.rate(),
            delivered_bytes: peer.link.delivered_bytes(),
            in_flight_bytes: peer.link.in_flight_bytes(),
            failures: peer.backoff.failures_total(),
            unanswered: peer.backoff.unanswered(),
            unanswered_since: peer.backoff.unanswered_since(),
            lies: peer.lies(),
            shunned: peer.backoff.is_shunned(now),
        };
        order.into_iter().enumerate().map(rate).collect()
    }

    /// Returns the records of the peers to keep over a restart, at most [`PEER_RECORDS_MAX`].
    pub fn records(&self, now: Instant) -> Vec<PeerRecord> {
        let records = self.peers.iter();
        let mut records: Vec<_> = records
            .filter_map(|(node, peer)| peer.record(*node, now))
            .collect();
        records.sort_by_key(|record| (record.lies == 0, record.age, record.node));
        records.truncate(PEER_RECORDS_MAX);
        records
    }

    /// Restores the record of an earlier run, unless the peer is known or there is no room. Returns
    /// until when the peer is shunned, if it is.
    pub(super) fn recall(&mut self, now: Instant, record: &PeerRecord) -> Option<Instant> {
        if self.peers.contains_key(&record.node) || self.peers.len() >= PEERS_MAX {
            return None;
        }
        let (peer, until) = Peer::recalled(now, record);
        self.peers.insert(record.node, peer);
        until
    }
}
