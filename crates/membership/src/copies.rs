//! Keys that two processes use at the same time, such as after copying a disk with its state.
//!
//! This module owns which processes speak for which node. Generations, addresses and clocks do not
//! count here. A node that restarts, moves, or is restored from a backup is another process with
//! the same key too, but the earlier process is silent from then on. A key is therefore considered
//! copied only if two processes speak in turn. For another node, an earlier process must be heard
//! long after a later one began, and then the later one again. For this node, another process must
//! answer. This node looks for such a process wherever a member reports a later life of this node.
//! If that process is unreachable, it reveals itself by contradicting this node again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::MEMBERS_MAX;
use super::event::Event;
use super::{Cluster, oldest};
use p2pfs_proto::wire::native::udp::{Contact, Salt};
use p2pfs_types::id::NodeId;

/// Minimum time after the beginning of a later process at which an earlier one must be heard. It
/// exceeds the time for which a network can delay a datagram.
const OVERLAP: Duration = Duration::from_secs(3);
/// Time without a datagram after which a process is forgotten. A key counts as copied only while
/// two processes that use it are remembered.
const UNHEARD: Duration = Duration::from_secs(120);
/// Minimum time between two attempts to find another process with this node's key at one address.
/// Also the time between two checks for processes that have become silent.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Maximum number of processes that are distinguished for one node. Beyond it the one that was
/// silent longest is forgotten.
const PROCESSES_MAX: usize = 4;
/// Maximum number of addresses at which another process with this node's key is looked for, and of
/// addresses that are reported for one key.
const PLACES_MAX: usize = 8;
/// Number of contradictions by later lives of this node, each at least [`OVERLAP`] after the
/// previous one, that show another process. A later life that only some members remember
/// contradicts this node once or twice, after a partition has healed.
const CONTRADICTIONS: u32 = 3;
/// Salt that stands for a process that members report but that this node does not hear.
const UNREACHED: Salt = [0; 16];

/// A process that speaks, or did so a while ago.
struct SpeakingProcess {
    salt: Salt,
    address: SocketAddr,
    first: Instant,
    last: Instant,
    /// Whether this process was heard at least [`OVERLAP`] after a later process began.
    outlasts: bool,
}

/// Contradictions of this process by later lives, at least [`OVERLAP`] apart.
struct ContradictionCount {
    count: u32,
    last: Instant,
}

/// The processes that speak for each node.
pub(super) struct Copies {
    processes: BTreeMap<NodeId, Vec<SpeakingProcess>>,
    /// Reported copies: the nodes with copied keys, and the addresses of the processes.
    told: BTreeMap<NodeId, BTreeSet<SocketAddr>>,
    looked: BTreeMap<SocketAddr, Instant>,
    contradicted: Option<ContradictionCount>,
    next: Instant,
}

impl Copies {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            processes: BTreeMap::new(),
            told: BTreeMap::new(),
            looked: BTreeMap::new(),
            contradicted: None,
            next: now + LOOK_PERIOD,
        }
    }

    /// Returns whether the key of this or another node is known to be copied.
    pub(super) fn is_copied(&self, node: &NodeId) -> bool {
        self.told.contains_key(node)
    }

    /// Records that a process at this proven address speaks for another node. If that reveals a
    /// copied key that was not reported yet, returns all addresses of its processes.
    fn record_process(
        &mut self,
        now: Instant,
        node: NodeId,
        salt: Salt,
        address: SocketAddr,
    ) -> Option<Vec<SocketAddr>> {
        let begun = self.record(now, node, salt, address)?;
        let all = self.processes.get(&node)?;
        let is_later =
            |it: &&SpeakingProcess| it.outlasts && it.first < begun && !is_silent(it, now);
        let mut at: Vec<_> = all.iter().filter(is_later).map(|it| it.address).collect();
        if at.is_empty() {
            return None;
        }
        at.push(address);
        self.report(node, at)
    }

    /// Records that another process with this node's key is at this address. If that was not
    /// reported yet, returns all addresses of such processes.
    fn record_own_process(
        &mut self,
        now: Instant,
        me: NodeId,
        salt: Salt,
        address: SocketAddr,
    ) -> Option<Vec<SocketAddr>> {
        self.record(now, me, salt, address)?;
        self.report(me, vec![address])
    }

    /// Records that a process spoke. Returns when it was first heard.
    fn record(
        &mut self,
        now: Instant,
        node: NodeId,
        salt: Salt,
        address: SocketAddr,
    ) -> Option<Instant> {
        if !self.processes.contains_key(&node) && self.processes.len() >= MEMBERS_MAX {
            return None;
        }
        let all = self.processes.entry(node).or_default();
        let Some(at) = all.iter().position(|it| it.salt == salt) else {
            if all.len() >= PROCESSES_MAX {
                let silent = (0..all.len()).min_by_key(|at| all[*at].last)?;
                all.swap_remove(silent);
            }
            all.push(SpeakingProcess {
                salt,
                address,
                first: now,
                last: now,
                outlasts: false,
            });
            return Some(now);
        };
        let first = all[at].first;
        let began_long_ago = |it: &SpeakingProcess| it.first > first && now >= it.first + OVERLAP;
        let outlasts = all
            .iter()
            .any(|it| began_long_ago(it) && !is_silent(it, now));
        let process = &mut all[at];
        (process.last, process.address) = (now, address);
        process.outlasts |= outlasts;
        Some(first)
    }

    fn report(&mut self, node: NodeId, at: Vec<SocketAddr>) -> Option<Vec<SocketAddr>> {
        let told = self.told.entry(node).or_default();
        let before = told.len();
        told.extend(at);
        while told.len() > PLACES_MAX.max(before) {
            told.pop_last();
        }
        (told.len() > before).then(|| told.iter().copied().collect())
    }

    /// Returns whether to look for another process of this node at `address`, where a member says
    /// that a later life of this node is.
    fn is_worth_a_look(&mut self, now: Instant, address: SocketAddr) -> bool {
        let looked = self.looked.get(&address);
        if looked.is_some_and(|at| now.saturating_duration_since(*at) < LOOK_PERIOD) {
            return false;
        }
        if looked.is_none() && self.looked.len() >= PLACES_MAX {
            let oldest = oldest(&self.looked, |at| *at);
            oldest.and_then(|address| self.looked.remove(&address));
        }
        self.looked.insert(address, now);
        true
    }

    /// Counts a reported life of this node that is later than the present one. Returns true from
    /// the third one on, if they are at least [`OVERLAP`] apart ([`CONTRADICTIONS`]).
    fn is_contradicted_again(&mut self, now: Instant) -> bool {
        let past = |it: &ContradictionCount| now.saturating_duration_since(it.last);
        let known = self.contradicted.take();
        let known = known.filter(|it| past(it) < UNHEARD);
        let count = match &known {
            Some(it) if past(it) < OVERLAP => {
                let count = it.count;
                self.contradicted = known;
                return count >= CONTRADICTIONS;
            }
            Some(it) => it.count + 1,
            None => 1,
        };
        self.contradicted = Some(ContradictionCount { count, last: now });
        count >= CONTRADICTIONS
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (!self.processes.is_empty()).then_some(self.next)
    }

    /// Forgets silent processes. Returns the nodes with a reported copied key that two processes no
    /// longer use.
    fn forget_silent(&mut self, now: Instant, me: &NodeId) -> Vec<NodeId> {
        let mut over = Vec::new();
        self.processes.retain(|node, all| {
            all.retain(|it| !is_silent(it, now));
            let latest = all.iter().map(|it| it.first).max();
            all.iter_mut()
                .for_each(|it| it.outlasts &= Some(it.first) < latest);
            let is_copied = if node == me {
                !all.is_empty()
            } else {
                all.iter().any(|it| it.outlasts)
            };
            if !is_copied && self.told.remove(node).is_some() {
                over.push(*node);
            }
            !all.is_empty()
        });
        over
    }
}

fn is_silent(process: &SpeakingProcess, now: Instant) -> bool {
    now.saturating_duration_since(process.last) >= UNHEARD
}

impl Cluster {
    /// Returns whether two processes are known to use the key of this or another node.
    pub fn is_copied(&self, node: &NodeId) -> bool {
        self.copies.is_copied(node)
    }

    /// Records which process speaks for which node.
    pub(super) fn record_speaker(
        &mut self,
        now: Instant,
        node: NodeId,
        salt: Salt,
        address: SocketAddr,
    ) {
        let me = self.links.me().node;
        let told = if node == me {
            self.copies.record_own_process(now, me, salt, address)
        } else {
            self.copies.record_process(now, node, salt, address)
        };
        if let Some(addresses) = told {
            self.events.push_back(Event::CopiedKey { node, addresses });
            if node == me {
                self.roster.quarrel(now, true);
            }
        }
    }

    /// Looks for another process with this node's key at the address of `known`, a later life of
    /// this node that a member reported. `contradicted` says whether this node continues after
    /// `known`.
    pub(super) fn record_later_life(&mut self, now: Instant, known: &Contact, contradicted: bool) {
        let (me, address) = (self.links.me(), known.address);
        if address != me.address && self.copies.is_worth_a_look(now, address) {
            self.links.greet(now, address);
        }
        let counts = contradicted || self.copies.is_copied(&me.node);
        if counts && self.copies.is_contradicted_again(now) {
            self.record_speaker(now, me.node, UNREACHED, address);
        }
    }

    pub(super) fn copies_timeout(&self) -> Option<Instant> {
        self.copies.poll_timeout()
    }

    /// Checks whether copied keys are still in use by two processes.
    pub(super) fn review_copies(&mut self, now: Instant) {
        if self.copies.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.copies.next = now + LOOK_PERIOD;
        self.end_copies(now);
        for address in self.own_copies() {
            self.links.greet(now, address);
        }
    }

    /// Records that a process announced its end.
    pub(super) fn speaker_left(&mut self, now: Instant, node: NodeId, salt: Salt) {
        let all = self.copies.processes.entry(node).or_default();
        let left = all.iter().find(|it| it.salt == salt);
        if let Some(address) = left.map(|it| it.address) {
            // Also removes the entry of an unreached process at that address.
            all.retain(|it| it.address != address);
        }
        self.end_copies(now);
    }

    fn end_copies(&mut self, now: Instant) {
        let me = self.links.me().node;
        for node in self.copies.forget_silent(now, &me) {
            self.events.push_back(Event::CopyGone { node });
            if node == me {
                self.roster.quarrel(now, false);
            }
        }
    }

    /// Returns the addresses of other processes with this node's key.
    pub(super) fn own_copies(&self) -> Vec<SocketAddr> {
        let own = self.copies.processes.get(&self.links.me().node);
        own.into_iter().flatten().map(|it| it.address).collect()
    }
}

#[cfg(test)]
mod tests;
