//! The addresses at which the owner (the caller of this crate) reaches members, and NATs between
//! the members and this node.
//!
//! A member is reached at an IP address at which it was proven, or without one at the address that
//! it advertises. The owner is told when that address changes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::SMALL_CLUSTER;
use super::event::Member;
use super::links::Links;
use p2pfs_proto::wire::canonical;
use p2pfs_types::id::NodeId;

/// Time between two checks whether a NAT could forget this node's mappings. Together with the 20 s
/// after which a link counts as idle, it is below the 30 s for which common NATs keep a mapping.
const KEEP_ALIVE_PERIOD: Duration = Duration::from_secs(5);

/// The addresses that the owner was told, and whether a NAT translates this node's address.
pub(super) struct Reach {
    told: BTreeMap<NodeId, SocketAddr>,
    /// Whether a peer ever saw or used another address of this node than the advertised one.
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

    /// Records the address that the owner is told for a member. Returns whether it is another one
    /// than before.
    pub(super) fn record(&mut self, member: &Member) -> bool {
        self.told.insert(member.node, member.address) != Some(member.address)
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

    /// Renews the mappings of a NAT for this node. In a large cluster only the mappings towards
    /// [`SMALL_CLUSTER`] members are renewed.
    pub(super) fn renew_mappings<'a>(
        &mut self,
        now: Instant,
        live: impl Iterator<Item = &'a Member>,
        links: &mut Links,
    ) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.next = now + KEEP_ALIVE_PERIOD;
        links.keep_alive(now, live.take(SMALL_CLUSTER));
    }
}
