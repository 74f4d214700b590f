//! The nodes that were announced on the local network, and the order in which their addresses are
//! passed on as hints.
//!
//! Any host on the network can announce any number of nodes. The table has a fixed size, and each
//! sender may use a part of it. Hints are taken from the senders in turn, so a sender that
//! announces much hides no other. Pure.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::message::{Announced, Label};
use p2pfs_types::bucket::TokenBucket;

/// Largest number of nodes that are remembered.
pub const NODES_MAX: usize = 256;
/// Largest number of remembered nodes that one sender announced. A repeater of multicast DNS is one
/// sender for all nodes behind it.
pub const NODES_PER_SENDER_MAX: usize = 32;
/// Longest time that a node is remembered after its last announcement, even if its record has a
/// longer lifetime: the default lifetime of RFC 6762.
const LIFETIME_MAX: Duration = Duration::from_secs(4500);
/// Largest number of senders whose last turn to give a hint is remembered.
const SENDERS_REMEMBERED: usize = 256;
/// Hints a second in the long run. The membership follows 5 a second and drops more of them,
/// whatever their sender, so the rate here is lower.
pub const HINTS_PER_S: u32 = 4;
/// Hints at once after a quiet time.
pub const HINTS_AT_ONCE: u32 = 16;
/// Largest number of addresses that are passed on within [`REPEAT_AFTER`]. They are remembered for
/// that time.
const ADDRESSES_REMEMBERED: usize = 256;
/// How long the same address is not passed on again.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct KnownNode {
    sender: IpAddr,
    label: Label,
    addresses: Vec<SocketAddr>,
    received: Instant,
    lifetime: Duration,
    /// Number of addresses that still wait to be passed on.
    waiting: usize,
    /// When the addresses of the node last began to wait to be passed on.
    queued: Instant,
}

/// The table of nodes.
#[derive(Debug)]
pub(super) struct KnownNodes {
    nodes: Vec<KnownNode>,
    /// Senders with an address that was passed on lately, in the order of the last time. The next
    /// address is taken from a sender that is missing here, otherwise from the first one here with
    /// a waiting address.
    served: VecDeque<IpAddr>,
    recent: VecDeque<(SocketAddr, Instant)>,
    rate: TokenBucket,
}

impl KnownNodes {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            nodes: Vec::new(),
            served: VecDeque::new(),
            recent: VecDeque::new(),
            rate: TokenBucket::per_second(HINTS_PER_S, HINTS_AT_ONCE, now),
        }
    }

    /// Remembers a node that a sender announces, if there is room, or forgets it at its goodbye.
    pub(super) fn receive(&mut self, sender: IpAddr, announced: Announced, now: Instant) {
        let of_it = |it: &KnownNode| it.sender == sender && it.label == announced.label;
        let place = self.nodes.iter().position(of_it);
        if announced.lifetime.is_zero() {
            place.map(|place| self.nodes.swap_remove(place));
            return;
        }
        let lifetime = announced.lifetime.min(LIFETIME_MAX);
        if let Some(place) = place {
            let node = &mut self.nodes[place];
            let is_new = node.addresses != announced.addresses;
            if is_new || node.waiting == 0 && now - node.queued >= REPEAT_AFTER {
                node.waiting = announced.addresses.len();
                node.queued = now;
            }
            node.addresses = announced.addresses;
            (node.received, node.lifetime) = (now, lifetime);
        } else if self.make_room(sender, now) {
            self.nodes.push(KnownNode {
                sender,
                label: announced.label,
                waiting: announced.addresses.len(),
                addresses: announced.addresses,
                received: now,
                lifetime,
                queued: now,
            });
        }
    }

    /// Makes room for one more node of `sender`. Returns whether there is room. At a limit, removes
    /// the expired nodes. At the limit of `sender`, also removes one of its other nodes. Otherwise,
    /// if the table is still full, removes one node of a sender with the most nodes. The only node
    /// of a sender stays as long as its addresses wait to be passed on.
    fn make_room(&mut self, sender: IpAddr, now: Instant) -> bool {
        let mut counts = HashMap::new();
        for node in &self.nodes {
            *counts.entry(node.sender).or_insert(0) += 1;
        }
        let own = counts.get(&sender).copied().unwrap_or(0);
        if own < NODES_PER_SENDER_MAX && self.nodes.len() < NODES_MAX {
            return true;
        }
        self.forget_expired(now);
        let (most_of, most) = if own >= NODES_PER_SENDER_MAX {
            (Some(sender), own)
        } else {
            (None, counts.values().copied().max().unwrap_or(0))
        };
        if most_of.is_none() && self.nodes.len() < NODES_MAX {
            return true;
        }
        let may_go = |node: &KnownNode| match most_of {
            Some(sender) => node.sender == sender,
            None => counts[&node.sender] == most && (most > 1 || node.waiting == 0),
        };
        let candidates = self.nodes.iter().enumerate();
        let candidates = candidates.filter(|(_, node)| may_go(node));
        let oldest = candidates.min_by_key(|(_, node)| (node.waiting > 0, node.received));
        let place = oldest.map(|(place, _)| place);
        place.map(|place| self.nodes.swap_remove(place)).is_some()
    }

    fn forget_expired(&mut self, now: Instant) {
        let is_valid =
            |node: &KnownNode| now.saturating_duration_since(node.received) < node.lifetime;
        self.nodes.retain(is_valid);
    }

    /// Returns the next address to pass on, if the rate allows one now.
    pub(super) fn next_hint(&mut self, now: Instant) -> Option<SocketAddr> {
        let is_old =
            |(_, at): &(SocketAddr, Instant)| now.saturating_duration_since(*at) >= REPEAT_AFTER;
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
        while self.rate.ready_at() <= now && self.recent.len() < ADDRESSES_REMEMBERED {
            let (sender, address) = self.take_waiting()?;
            if self.recent.iter().any(|(it, _)| *it == address) {
                continue;
            }
            self.rate.take(1, now);
            self.recent.push_back((address, now));
            self.served.retain(|it| *it != sender);
            if self.served.len() >= SENDERS_REMEMBERED {
                self.served.pop_front();
            }
            self.served.push_back(sender);
            return Some(address);
        }
        None
    }

    /// Takes an address of a sender without a remembered hint, otherwise of the one with the oldest
    /// last hint.
    fn take_waiting(&mut self) -> Option<(IpAddr, SocketAddr)> {
        let served = self.served.iter().enumerate();
        let turns: HashMap<_, _> = served.map(|(turn, sender)| (*sender, turn + 1)).collect();
        let waiting = self.nodes.iter_mut().filter(|node| node.waiting > 0);
        let turn = |node: &&mut KnownNode| {
            let last = turns.get(&node.sender).copied().unwrap_or(0);
            (last, node.queued)
        };
        let node = waiting.min_by_key(turn)?;
        node.waiting -= 1;
        Some((node.sender, node.addresses[node.waiting]))
    }

    /// Returns when [`Self::next_hint`] has something to give, at the earliest.
    pub(super) fn hint_at(&self) -> Option<Instant> {
        let waits = self.nodes.iter().any(|node| node.waiting > 0);
        let oldest = self.recent.front().map(|(_, at)| *at + REPEAT_AFTER);
        let room = oldest.filter(|_| self.recent.len() >= ADDRESSES_REMEMBERED);
        let ready = self.rate.ready_at();
        waits.then(|| room.map_or(ready, |room| room.max(ready)))
    }

    /// Returns up to `count` nodes with more than half of their lifetime left, each with the time
    /// that is left.
    pub(super) fn fresh(&mut self, count: usize, now: Instant) -> Vec<(Label, Duration)> {
        self.forget_expired(now);
        let left = |node: &KnownNode| {
            let age = now.saturating_duration_since(node.received);
            let left = node.lifetime.saturating_sub(age);
            (left > node.lifetime / 2).then(|| (node.label.clone(), left))
        };
        self.nodes.iter().filter_map(left).take(count).collect()
    }

    /// Returns up to `count` addresses of remembered nodes, one of each node, in turn of their
    /// senders, so that a sender that announces much hides no other.
    pub(super) fn sample(&mut self, count: usize, now: Instant) -> Vec<SocketAddr> {
        self.forget_expired(now);
        let mut taken: HashMap<IpAddr, usize> = HashMap::new();
        let mut turns: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|node| {
                let address = *node.addresses.first()?;
                let turn = taken.entry(node.sender).or_default();
                *turn += 1;
                Some((*turn, address))
            })
            .collect();
        turns.sort_by_key(|(turn, _)| *turn);
        turns.into_iter().map(|(_, at)| at).take(count).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}
