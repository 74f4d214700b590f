//! The addresses at which the owner reaches members, and NATs between them and this node.
//!
//! A member is reached at an address at which it was proven, whatever it advertises. The owner is
//! told when that address changes.

use super::links::Introduction;
use super::*;

/// Time between two checks whether a NAT could forget this node's mappings. Together with the 20 s
/// after which a link counts as idle, it is below the 30 s for which common NATs keep a mapping.
const KEEP_ALIVE_PERIOD: Duration = Duration::from_secs(5);

/// The addresses that the owner was told, and whether a NAT translates this node's address.
pub(super) struct Reach {
    told: BTreeMap<NodeId, SocketAddr>,
    /// Whether a peer sees this node at another address than the advertised one.
    is_translated: bool,
    next: Instant,
}

impl Reach {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: BTreeMap::new(),
            is_translated: false,
            next: now,
        }
    }

    /// Records the address that the owner is told for a member.
    pub(super) fn record(&mut self, member: Member) {
        self.told.insert(member.node, member.address);
    }

    /// Forgets a member that is down.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.told.remove(node);
    }

    /// Records the address at which a peer sees or uses this node.
    pub(super) fn record_own(&mut self, me: &Member, reached: SocketAddr) {
        self.is_translated |= canonical(reached) != me.address;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.is_translated.then_some(self.next)
    }
}

impl Cluster {
    /// Returns a member with the address at which this node reaches it.
    pub(super) fn reached(&self, member: &Member) -> Member {
        Member {
            address: self.links.dial_address(member),
            ..*member
        }
    }

    /// Reports a living member that is reached at another address than the owner was told.
    pub(super) fn review_route(&mut self, node: &NodeId) {
        let Some(member) = self.roster.live().get(node) else {
            return;
        };
        let reached = self.reached(member);
        if self.reach.told.insert(*node, reached.address) != Some(reached.address) {
            self.events.push_back(Event::Moved(reached));
        }
    }

    /// Greets a peer at its advertised address if it was proven at another IP address. Then either
    /// address can replace the other when it fails.
    pub(super) fn meet_elsewhere(&mut self, now: Instant, peer: &Introduction) {
        let claimed = peer.who.address;
        let is_elsewhere = claimed.ip() != peer.address.ip() && !claimed.ip().is_loopback();
        let is_proven = self.links.proven(claimed).is_some();
        if is_elsewhere && !is_proven && self.seeds.take_trial(now) {
            self.links.greet(now, claimed);
        }
    }

    /// Greets a member at its advertised address if it is silent where it was proven. The member
    /// has probably moved there.
    pub(super) fn follow_move(&mut self, now: Instant, member: &Member) {
        let is_silent = |at| !self.links.is_current(now, at);
        let is_lost = self.links.route(member).is_some_and(is_silent);
        if is_lost && self.links.proven(member.address).is_none() && self.seeds.take_trial(now) {
            self.links.greet(now, member.address);
        }
    }

    /// Renews the mappings of a NAT for this node. In a large cluster only the mappings towards
    /// [`SMALL_CLUSTER`] members are renewed.
    pub(super) fn renew_mappings(&mut self, now: Instant) {
        if self.reach.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.reach.next = now + KEEP_ALIVE_PERIOD;
        let live = self.roster.live().values().take(SMALL_CLUSTER);
        self.links.keep_alive(now, live);
    }
}
