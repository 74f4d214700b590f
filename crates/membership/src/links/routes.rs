//! Proven addresses of each node, and the one that is used.
//!
//! A node may be reachable at several addresses, and the one that it advertises may be none of
//! them: behind a NAT, on another network card, beside a VPN. Traffic for a node therefore goes to
//! an address at which the node was proven. Until an address is proven, the traffic goes to the
//! advertised address.

use super::*;
use crate::config::ROUTES_MAX;
use p2pfs_types::id::NodeId;

/// A proven address of a node stays in use until it has been silent for this much longer than
/// another address of the node. This exceeds the time between two datagrams of a peer in a cluster
/// of a few nodes.
const ROUTE_LAG: Duration = Duration::from_secs(3);
/// Time of silence after which packets of the membership engine go to all proven addresses of a
/// node. It is below the time after which, by default, a silent member counts as down.
const ROUTE_SILENCE: Duration = Duration::from_secs(1);
/// Time without a datagram to an address after which a NAT may forget its mapping, less a margin.
/// Common NATs keep a UDP mapping for 30 s.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(20);

impl Links {
    /// Returns the address to use for a node: a proven address that was heard within [`ROUTE_LAG`]
    /// of the node's last datagram. The advertised address is preferred, then the one that was
    /// proven first. Returns `None` if no address is proven.
    pub(crate) fn route(&self, to: &Contact) -> Option<SocketAddr> {
        let routes = self.proven.routes.get(&to.node)?;
        let latest = routes.iter().filter_map(|at| self.heard_at(*at)).max()?;
        let is_used = |at: SocketAddr| {
            let heard = self.heard_at(at);
            heard.is_some_and(|heard| latest.saturating_duration_since(heard) <= ROUTE_LAG)
        };
        if routes.contains(&to.address) && is_used(to.address) {
            return Some(to.address);
        }
        routes.iter().copied().find(|at| is_used(*at))
    }

    /// Returns the address at which to connect to a node over TCP. Its port is the advertised one,
    /// because the UDP port that a NAT maps leads nowhere for TCP.
    pub(crate) fn dial_address(&self, to: &Contact) -> SocketAddr {
        let mut address = self.route(to).unwrap_or(to.address);
        address.set_port(to.address.port());
        address
    }

    /// Returns all proven addresses of a node, and its advertised address.
    pub(crate) fn addresses(&self, to: &Contact) -> BTreeSet<SocketAddr> {
        let proven = self
            .proven
            .routes
            .get(&to.node)
            .into_iter()
            .flatten()
            .copied();
        proven.chain([canonical(to.address)]).collect()
    }

    /// Returns whether a node is proven at an address and was recently heard there.
    pub(crate) fn is_current(&self, now: Instant, address: SocketAddr) -> bool {
        let heard = self.heard_at(canonical(address));
        heard.is_some_and(|heard| now.saturating_duration_since(heard) <= ROUTE_LAG)
    }

    /// Sends a frame to a node at one address.
    pub(crate) fn send_to(&mut self, now: Instant, to: &Contact, frame: Frame) {
        match self.route(to) {
            Some(address) => self.send(now, address, frame),
            None => self.send_unproven(now, to, frame),
        }
    }

    /// Sends a packet of the membership engine to a node: to the address of [`Self::route`], and to
    /// the address at which the node was heard last, which may have replaced it. If the node is
    /// silent, the packet goes to all its proven addresses, because any of them may have failed. If
    /// no address is proven, or the node is silent and `is_live` is false, the packet also goes to
    /// the advertised address.
    pub(crate) fn send_packet(&mut self, now: Instant, to: &Contact, packet: Bytes, is_live: bool) {
        let routes = self
            .proven
            .routes
            .get(&to.node)
            .cloned()
            .unwrap_or_default();
        let last = routes.iter().copied().max_by_key(|at| self.heard_at(*at));
        let heard = last.and_then(|at| self.heard_at(at));
        let is_silent = heard.is_none_or(|at| now.saturating_duration_since(at) >= ROUTE_SILENCE);
        let used = self.route(to);
        for at in routes.iter().copied() {
            if is_silent || Some(at) == used || Some(at) == last {
                self.send(now, at, Frame::Swim(packet.clone()));
            }
        }
        if routes.is_empty() || (is_silent && !is_live && !routes.contains(&to.address)) {
            self.send_unproven(now, to, Frame::Swim(packet));
        }
    }

    /// Sends a frame to the advertised address of a node that is not proven there. If another node
    /// is proven there, the frame is dropped. The address is then greeted, because that node may
    /// have gone.
    fn send_unproven(&mut self, now: Instant, to: &Contact, frame: Frame) {
        let address = canonical(to.address);
        if self.proven(address).is_some() {
            self.counters.excess.never_proven += 1;
            return self.greet(now, address);
        }
        self.queue_unproven(now, address, Some(to.node), frame);
    }

    /// Sends a datagram to each of these nodes to which none was sent recently, so that a NAT on
    /// the way keeps its mapping.
    pub(crate) fn keep_alive<'a>(
        &mut self,
        now: Instant,
        nodes: impl Iterator<Item = &'a Contact>,
    ) {
        for to in nodes {
            let Some(address) = self.route(to) else {
                continue;
            };
            let sent = self.links.get(&address).and_then(|link| link.sent);
            let is_idle = |at| now.saturating_duration_since(at) >= KEEP_ALIVE_AFTER;
            if sent.is_none_or(is_idle) {
                self.send(now, address, Frame::Nothing);
            }
        }
    }

    /// Records that a node is proven at an address. Beyond [`ROUTES_MAX`], forgets the longest
    /// silent other address of this node.
    pub(super) fn add_route(&mut self, node: NodeId, address: SocketAddr) {
        let routes = self.proven.routes.entry(node).or_default();
        if routes.contains(&address) {
            return;
        }
        routes.push(address);
        if routes.len() > ROUTES_MAX {
            let others = routes.iter().copied().filter(|at| *at != address);
            let silent = others.min_by_key(|at| self.links.get(at).map(|link| link.heard));
            silent.into_iter().for_each(|at| self.forget(at));
        }
    }

    pub(super) fn remove_route(&mut self, node: &NodeId, address: SocketAddr) {
        if let Some(routes) = self.proven.routes.get_mut(node) {
            routes.retain(|at| *at != address);
            if routes.is_empty() {
                self.proven.routes.remove(node);
            }
        }
    }

    /// Records a later life of the peer that is proven at an address.
    pub(crate) fn renew(&mut self, address: SocketAddr, life: Contact) {
        let salt = self.links.get(&address).and_then(|link| link.salt);
        let session = salt.and_then(|salt| self.proven.sessions.get_mut(&salt));
        if let Some(session) = session.filter(|it| it.who.generation < life.generation) {
            session.who = Contact {
                address: canonical(life.address),
                ..life
            };
        }
    }

    fn heard_at(&self, address: SocketAddr) -> Option<Instant> {
        let link = self.links.get(&address)?;
        link.salt.map(|_| link.heard)
    }
}
