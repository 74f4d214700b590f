//! Keys that two processes use at the same time, such as after copying a disk with its state.
//!
//! This module records which processes speak for which node. A new generation or address, or a
//! clock that went back, is no evidence of a copy: a node that restarts, moves, or is restored from
//! a backup is another process with the same key too. However, the earlier process is then silent.
//! A key is therefore considered copied only if two processes live at the same time.
//!
//! For another node's key, both must answer challenges that this node made after it had seen both.
//! A process that ended before the other one began cannot do that. Any other datagram proves
//! nothing, because a machine on the way can withhold it and deliver it after a restart.
//!
//! For this node's own key, it suffices that another process proves itself here. This node looks
//! for such a process at the address of each later life of this node that a member reports. A
//! process that cannot be reached there reveals itself by contradicting this node again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::MEMBERS_MAX;
use super::oldest;
use p2pfs_proto::wire::native::udp::Salt;
use p2pfs_types::id::NodeId;

/// Minimum time between two contradictions of this node that count.
const APART: Duration = Duration::from_secs(3);
/// Minimum time between two challenges of one process. A challenge shows whether the process lives
/// at the same time as another one.
const CHALLENGE_PERIOD: Duration = Duration::from_secs(3);
/// Time without a datagram after which a process is forgotten. A key counts as copied only while
/// two processes that use it are remembered.
const UNHEARD: Duration = Duration::from_secs(120);
/// Minimum time between two attempts to find another process with this node's key at one address.
/// Also the time between two checks for processes that have become silent.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Maximum number of processes that are distinguished for one node. Beyond it the one that was
/// silent longest is forgotten.
const PROCESSES_MAX: usize = 4;
/// Maximum number of remembered addresses at which another process with this node's key was looked
/// for. Also the maximum number of addresses that are reported for one key.
const PLACES_MAX: usize = 8;
/// Another process counts as using this node's key after this many members' reports that this node
/// has a later life (a higher generation). A report within [`APART`] after a counted one does not
/// count. One or two reports are harmless: after a partition has healed, some members may remember
/// a later life of this node that others never knew.
const CONTRADICTIONS: u32 = 3;
/// Salt, the number that distinguishes processes with one key, of a process that members report but
/// that this node does not hear.
pub(super) const UNREACHED: Salt = [0; 16];

/// A process that speaks, or did so a while ago.
struct SpeakingProcess {
    salt: Salt,
    address: SocketAddr,
    first: Instant,
    last: Instant,
    /// A time after which the process certainly lived, because it answered a challenge that was
    /// made later. The latest such time is kept.
    lived: Option<Instant>,
    /// When the process was last challenged, to see whether it lives at the same time as another
    /// one.
    challenged: Option<Instant>,
}

impl SpeakingProcess {
    /// Returns whether this process lived after both processes were first seen.
    fn outlived_beginnings(&self, other: &Self) -> bool {
        self.lived > Some(self.first.max(other.first))
    }
}

/// Sign of life of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoken {
    pub(super) salt: Salt,
    /// Proven address of the process. For [`UNREACHED`], the address that members reported.
    pub(super) address: SocketAddr,
    /// If the process answers a challenge: a time at or before the one when this node made that
    /// challenge.
    pub(super) challenged: Option<Instant>,
}

/// Contradictions of this process by later lives, at least [`APART`] apart.
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

    /// Records that a process speaks for the node `node`, which is `me` or another one. If that
    /// reveals a copied key or a further address of one, returns all reported addresses of its
    /// processes.
    pub(super) fn record_speaker(
        &mut self,
        now: Instant,
        me: NodeId,
        node: NodeId,
        spoken: Spoken,
    ) -> Option<Vec<SocketAddr>> {
        if node == me {
            self.record_own_process(now, me, spoken)
        } else {
            self.record_process(now, node, spoken)
        }
    }

    /// Records that a process announced its end.
    pub(super) fn record_end(&mut self, node: NodeId, salt: Salt) {
        let all = self.processes.entry(node).or_default();
        let left = all.iter().find(|it| it.salt == salt);
        if let Some(address) = left.map(|it| it.address) {
            // Also removes the entry of an unreached process at that address.
            all.retain(|it| it.address != address);
        }
    }

    /// Returns the addresses of the known processes of a node, without this process.
    pub(super) fn addresses_of(&self, node: &NodeId) -> Vec<SocketAddr> {
        let all = self.processes.get(node);
        all.into_iter().flatten().map(|it| it.address).collect()
    }

    /// Records a process that speaks for `node`, another node than this one. If that reveals that
    /// the key of `node` is copied, or a further address of a copied key, returns all reported
    /// addresses of its processes.
    fn record_process(
        &mut self,
        now: Instant,
        node: NodeId,
        spoken: Spoken,
    ) -> Option<Vec<SocketAddr>> {
        self.record(now, node, spoken)?;
        let at = living_together(self.processes.get(&node)?);
        if at.is_empty() {
            return None;
        }
        self.report(node, at)
    }

    /// Returns whether to challenge the process that just spoke, to see whether it lives beside
    /// another one.
    pub(super) fn is_to_be_challenged(&mut self, now: Instant, node: &NodeId, salt: &Salt) -> bool {
        let Some(all) = self.processes.get_mut(node) else {
            return false;
        };
        let Some(at) = all.iter().position(|it| it.salt == *salt) else {
            return false;
        };
        let (process, period) = (&all[at], CHALLENGE_PERIOD);
        let is_open = |other: &SpeakingProcess| {
            // a challenge of the same time as a beginning would prove nothing
            other.salt != *salt
                && other.first.max(process.first) < now
                && !process.outlived_beginnings(other)
        };
        let is_due = process.challenged.is_none_or(|at| now >= at + period);
        let is_wanted = is_due && all.iter().any(is_open);
        if is_wanted {
            all[at].challenged = Some(now);
        }
        is_wanted
    }

    /// Records that another process with this node's key is at this address. If the address was not
    /// reported yet, returns all reported addresses of such processes.
    fn record_own_process(
        &mut self,
        now: Instant,
        me: NodeId,
        spoken: Spoken,
    ) -> Option<Vec<SocketAddr>> {
        self.record(now, me, spoken)?;
        self.report(me, vec![spoken.address])
    }

    /// Records that a process spoke. Returns `None` if there is no room for its node.
    fn record(&mut self, now: Instant, node: NodeId, spoken: Spoken) -> Option<()> {
        if !self.processes.contains_key(&node) && self.processes.len() >= MEMBERS_MAX {
            return None;
        }
        let Spoken {
            salt,
            address,
            challenged,
        } = spoken;
        let all = self.processes.entry(node).or_default();
        if let Some(process) = all.iter_mut().find(|it| it.salt == salt) {
            (process.last, process.address) = (now, address);
            process.lived = process.lived.max(challenged);
            return Some(());
        }
        if all.len() >= PROCESSES_MAX {
            let silent = (0..all.len()).min_by_key(|at| all[*at].last)?;
            all.swap_remove(silent);
        }
        all.push(SpeakingProcess {
            salt,
            address,
            first: now,
            last: now,
            lived: challenged,
            challenged: None,
        });
        Some(())
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
    pub(super) fn is_worth_a_look(&mut self, now: Instant, address: SocketAddr) -> bool {
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

    /// Counts a contradiction by a later life of this node, unless another one counted less than
    /// [`APART`] ago. Returns whether at least [`CONTRADICTIONS`] were counted, without a gap of
    /// [`UNHEARD`] between two of them.
    pub(super) fn is_contradicted_again(&mut self, now: Instant) -> bool {
        let past = |it: &ContradictionCount| now.saturating_duration_since(it.last);
        let known = self.contradicted.take();
        let known = known.filter(|it| past(it) < UNHEARD);
        let count = match &known {
            Some(it) if past(it) < APART => {
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

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.processes.is_empty()).then_some(self.next)
    }

    /// Returns whether a check for silent processes is due, and schedules the next one.
    pub(super) fn take_check(&mut self, now: Instant) -> bool {
        let is_due = self.poll_timeout().is_some_and(|at| at <= now);
        if is_due {
            self.next = now + LOOK_PERIOD;
        }
        is_due
    }

    /// Forgets silent processes. Returns the nodes with a reported copied key that two processes no
    /// longer use.
    pub(super) fn forget_silent(&mut self, now: Instant, me: &NodeId) -> Vec<NodeId> {
        let mut over = Vec::new();
        self.processes.retain(|node, all| {
            all.retain(|it| !is_silent(it, now));
            let is_copied = if node == me {
                !all.is_empty()
            } else {
                !living_together(all).is_empty()
            };
            if !is_copied && self.told.remove(node).is_some() {
                over.push(*node);
            }
            !all.is_empty()
        });
        over
    }
}

/// Returns the addresses of processes that lived at the same time as another one.
fn living_together(all: &[SpeakingProcess]) -> Vec<SocketAddr> {
    let is_beside = |one: &SpeakingProcess, other: &SpeakingProcess| {
        one.salt != other.salt && one.outlived_beginnings(other) && other.outlived_beginnings(one)
    };
    let living = all
        .iter()
        .filter(|one| all.iter().any(|other| is_beside(one, other)));
    living.map(|it| it.address).collect()
}

fn is_silent(process: &SpeakingProcess, now: Instant) -> bool {
    now.saturating_duration_since(process.last) >= UNHEARD
}

#[cfg(test)]
mod tests;
