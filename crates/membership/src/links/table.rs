//! The addresses with which this node exchanges datagrams, and the one that is used for each node.
//!
//! A node may be reachable at several addresses, and the one that it advertises may be none of
//! them: behind a NAT, on another network card, beside a VPN. Traffic for a node therefore goes to
//! an address at which the node was proven. Until an address is proven, the traffic goes to the
//! advertised address.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::pair::PairKey;
use super::seal::SealKey;
use super::sessions::{LinkSession, Sessions};
use crate::config::{LINKS_MAX, ROUTES_MAX, WAITING_FRAMES_MAX};
use crate::counters::DatagramDropCause;
use p2pfs_proto::trust::TrustView;
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::udp::{Contact, DatagramFrame, Header, Salt, Token};
use p2pfs_types::host::HostPrefix;
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

/// An address with which this node exchanges datagrams.
pub(super) struct PeerLink {
    /// Salt of the process that is proven to be at this address. Its session counts this link, so
    /// only [`LinkTable`] changes the salt.
    salt: Option<Salt>,
    /// The token to send with each frame until the peer is known to have accepted it.
    pub(super) token: Option<Token>,
    /// Frames that wait until a peer is proven here, each with the only node that may receive it,
    /// if there is such a node.
    pub(super) waiting: VecDeque<(Option<NodeId>, DatagramFrame)>,
    pub(super) heard: Instant,
    /// Time of the last frame to the proven peer, except frames that had waited for its proof.
    pub(super) sent: Option<Instant>,
}

impl PeerLink {
    /// Returns the salt of the process that is proven to be at this address.
    pub(super) fn salt(&self) -> Option<Salt> {
        self.salt
    }

    /// Queues a frame for the peer that will be proven here, or for this node alone. Returns
    /// whether the oldest waiting frame was dropped for it.
    pub(super) fn queue(&mut self, node: Option<NodeId>, frame: DatagramFrame) -> bool {
        let is_full = self.waiting.len() >= WAITING_FRAMES_MAX;
        if is_full {
            self.waiting.pop_front();
        }
        self.waiting.push_back((node, frame));
        is_full
    }
}

/// The links that a proof displaces. [`super::Links`] must forget each of them.
#[must_use = "the displaced links exceed the limits of the table"]
pub(super) struct DisplacedLinks {
    /// The link that makes room, if the table was full.
    pub(super) oldest: Option<SocketAddr>,
    /// The longest silent other address of the proven node, if the node has more than
    /// [`ROUTES_MAX`] addresses now.
    pub(super) route: Option<SocketAddr>,
}

/// The addresses to which a packet of the membership engine goes.
pub(super) struct PacketTargets {
    /// Proven addresses of the node.
    pub(super) proven: Vec<SocketAddr>,
    /// Whether the packet also goes to the advertised address, which is not proven.
    pub(super) to_advertised: bool,
}

/// The links, the sessions of the processes that are proven there, and the addresses of each node.
///
/// Each session counts the links at which its process is proven, and ends with the last of them.
pub(crate) struct LinkTable {
    links: BTreeMap<SocketAddr, PeerLink>,
    sessions: Sessions,
    /// Proven addresses of each node, in the order of their proofs.
    routes: BTreeMap<NodeId, Vec<SocketAddr>>,
}

impl LinkTable {
    pub(super) fn new() -> Self {
        Self {
            links: BTreeMap::new(),
            sessions: Sessions::new(),
            routes: BTreeMap::new(),
        }
    }

    /// Returns the number of links.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// Returns the sessions of the processes that are proven at the links.
    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Returns the session of the process with this salt.
    pub(super) fn session_mut(&mut self, salt: &Salt) -> Option<&mut LinkSession> {
        self.sessions.get_mut(salt)
    }

    /// Returns the link to `address`, if there is one.
    pub(super) fn link_at(&mut self, address: SocketAddr) -> Option<&mut PeerLink> {
        self.links.get_mut(&address)
    }

    /// Returns the link to drop before [`Self::link`] makes one to `address`, if the table is full:
    /// the unproven one that was silent longest. If all are proven, the one of the host with the
    /// most links that was silent longest.
    pub(super) fn displaced_by(&self, address: SocketAddr) -> Option<SocketAddr> {
        if self.links.len() < LINKS_MAX || self.links.contains_key(&address) {
            return None;
        }
        let longest_silent = |may_go: &dyn Fn(&SocketAddr, &PeerLink) -> bool| {
            let links = self.links.iter().filter(|(at, link)| may_go(at, link));
            let first = links.min_by_key(|(_, link)| link.heard);
            first.map(|(at, _)| *at)
        };
        let unproven = longest_silent(&|_, link| link.salt.is_none());
        unproven.or_else(|| {
            let host_of = |at: &SocketAddr| HostPrefix::of(at.ip());
            let mut counts = BTreeMap::<HostPrefix, usize>::new();
            for at in self.links.keys() {
                *counts.entry(host_of(at)).or_default() += 1;
            }
            let most = counts.values().copied().max();
            longest_silent(&|at, _| counts.get(&host_of(at)).copied() == most)
        })
    }

    /// Returns the link to `address`, a new one if there is none.
    pub(super) fn link(&mut self, now: Instant, address: SocketAddr) -> &mut PeerLink {
        self.links.entry(address).or_insert_with(|| PeerLink {
            salt: None,
            token: None,
            waiting: VecDeque::new(),
            heard: now,
            sent: None,
        })
    }

    /// Returns the links that were silent for longer than `idle`.
    pub(super) fn silent_for(&self, idle: Duration, now: Instant) -> Vec<SocketAddr> {
        let silent = |link: &PeerLink| now.saturating_duration_since(link.heard) > idle;
        let links = self.links.iter().filter(|(_, link)| silent(link));
        links.map(|(address, _)| *address).collect()
    }

    /// Returns the links to nodes that are not members any longer.
    pub(super) fn of_former_members(&self, trust: &TrustView) -> Vec<SocketAddr> {
        let gone = self.sessions.of_former_members(trust);
        let links = self.links.iter();
        let theirs = links.filter(|(_, link)| link.salt.is_some_and(|salt| gone.contains(&salt)));
        theirs.map(|(address, _)| *address).collect()
    }

    /// Removes a link. Ends its session if the process is proven at no other address.
    pub(super) fn remove(&mut self, address: SocketAddr) -> Option<PeerLink> {
        let link = self.links.remove(&address)?;
        self.release(address, link.salt);
        Some(link)
    }

    /// Records that the process of this header is proven at an address, as the node `who`. Begins
    /// its session if it has none.
    ///
    /// # Errors
    /// As [`Sessions::add_link`]. Nothing was changed.
    pub(super) fn prove(
        &mut self,
        now: Instant,
        header: &Header,
        address: SocketAddr,
        who: Contact,
        keys: (Option<SealKey>, PairKey),
    ) -> Result<DisplacedLinks, DatagramDropCause> {
        self.sessions.add_link(now, header, who, keys)?;
        let oldest = self.displaced_by(address);
        let link = self.link(now, address);
        link.heard = now;
        let before = link.salt.replace(header.salt);
        let route = if before == Some(header.salt) {
            // The session counted this link before.
            self.sessions.remove_link(header.salt);
            None
        } else {
            link.token = None;
            self.release(address, before);
            self.add_route(who.node, address)
        };
        Ok(DisplacedLinks { oldest, route })
    }

    /// Records that the process with this salt is not at the address any more.
    fn release(&mut self, address: SocketAddr, salt: Option<Salt>) {
        let Some(salt) = salt else { return };
        let node = self.sessions.get(&salt).map(|session| session.who.node);
        node.into_iter()
            .for_each(|node| self.remove_route(&node, address));
        self.sessions.remove_link(salt);
    }

    /// Adds a proven address of a node. Beyond [`ROUTES_MAX`], returns the longest silent other
    /// address of this node.
    fn add_route(&mut self, node: NodeId, address: SocketAddr) -> Option<SocketAddr> {
        let routes = self.routes.entry(node).or_default();
        if routes.contains(&address) {
            return None;
        }
        routes.push(address);
        if routes.len() <= ROUTES_MAX {
            return None;
        }
        let others = routes.iter().copied().filter(|at| *at != address);
        others.min_by_key(|at| self.links.get(at).map(|link| link.heard))
    }

    fn remove_route(&mut self, node: &NodeId, address: SocketAddr) {
        if let Some(routes) = self.routes.get_mut(node) {
            routes.retain(|at| *at != address);
            if routes.is_empty() {
                self.routes.remove(node);
            }
        }
    }

    /// Returns whether the process with this salt is proven at an address.
    pub(super) fn is_at(&self, address: SocketAddr, salt: &Salt) -> bool {
        let link = self.links.get(&address);
        link.is_some_and(|link| link.salt == Some(*salt))
    }

    /// Returns the peer that is proven to be at `address`, and the salt of its process.
    pub(super) fn speaker_at(&self, address: SocketAddr) -> Option<(Contact, Salt)> {
        let salt = self.links.get(&address)?.salt?;
        let session = self.sessions.get(&salt)?;
        Some((session.who, salt))
    }

    /// Returns the peer that is proven to be at `address`.
    pub(crate) fn proven(&self, address: SocketAddr) -> Option<Contact> {
        self.speaker_at(address).map(|(who, _)| who)
    }

    /// Returns the address to use for a node: a proven address that was heard within [`ROUTE_LAG`]
    /// of the node's last datagram. The advertised address is preferred, then the one that was
    /// proven first. Returns `None` if no address is proven.
    pub(crate) fn route(&self, to: &Contact) -> Option<SocketAddr> {
        let routes = self.routes.get(&to.node)?;
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
        let proven = self.routes.get(&to.node).into_iter().flatten().copied();
        proven.chain([canonical(to.address)]).collect()
    }

    /// Returns the addresses to which a packet of the membership engine for a node goes.
    ///
    /// The proven addresses are the one of [`Self::route`], and the one at which the node was heard
    /// last, which may have replaced it. If the node is silent, they are all of them, because any
    /// of them may have failed. The advertised address is added if no address is proven, or if the
    /// node is silent and `is_live` is false.
    pub(super) fn packet_targets(
        &self,
        now: Instant,
        to: &Contact,
        is_live: bool,
    ) -> PacketTargets {
        let mut routes = self.routes.get(&to.node).cloned().unwrap_or_default();
        let last = routes.iter().copied().max_by_key(|at| self.heard_at(*at));
        let heard = last.and_then(|at| self.heard_at(at));
        let is_silent = heard.is_none_or(|at| now.saturating_duration_since(at) >= ROUTE_SILENCE);
        let is_lost = is_silent && !is_live && !routes.contains(&to.address);
        let to_advertised = routes.is_empty() || is_lost;
        let used = self.route(to);
        routes.retain(|at| is_silent || Some(*at) == used || Some(*at) == last);
        PacketTargets {
            proven: routes,
            to_advertised,
        }
    }

    /// Returns the address of [`Self::route`], if no frame was sent there recently. A NAT on the
    /// way could forget its mapping.
    pub(super) fn idle_route(&self, now: Instant, to: &Contact) -> Option<SocketAddr> {
        let address = self.route(to)?;
        let sent = self.links.get(&address).and_then(|link| link.sent);
        let is_idle = |at| now.saturating_duration_since(at) >= KEEP_ALIVE_AFTER;
        sent.is_none_or(is_idle).then_some(address)
    }

    /// Returns whether a node is proven at an address and was recently heard there.
    pub(crate) fn is_current(&self, now: Instant, address: SocketAddr) -> bool {
        let heard = self.heard_at(canonical(address));
        heard.is_some_and(|heard| now.saturating_duration_since(heard) <= ROUTE_LAG)
    }

    fn heard_at(&self, address: SocketAddr) -> Option<Instant> {
        let link = self.links.get(&address)?;
        link.salt.map(|_| link.heard)
    }

    /// Records a later life of the peer that is proven at an address.
    pub(crate) fn renew(&mut self, address: SocketAddr, life: Contact) {
        let salt = self.links.get(&address).and_then(|link| link.salt);
        let session = salt.and_then(|salt| self.sessions.get_mut(&salt));
        if let Some(session) = session.filter(|it| it.who.generation < life.generation) {
            session.who = Contact {
                address: canonical(life.address),
                ..life
            };
        }
    }

    /// Returns whether the session at this address may send one more message within
    /// [`crate::config::MESSAGES_PER_S`], and counts that message.
    pub(super) fn take_message(&mut self, address: SocketAddr, now: Instant) -> bool {
        let salt = self.links.get(&address).and_then(|link| link.salt);
        let session = salt.and_then(|salt| self.sessions.get_mut(&salt));
        session.is_some_and(|session| session.messages.take(1, now))
    }
}
