//! The connections and the peers at their other ends.
//!
//! [`MeshPeers`] records what is known of each connection and each peer, and answers questions
//! about them. The state machine decides which connections are made and ended.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::offence::{Culprit, MeshOffence, MeshOffenders};
use super::{
    ConnId, HANDSHAKE, HANDSHAKES_MAX, HANDSHAKES_OF_ADDRESS, LINES_BURST, LINES_PER_S,
    SILENCE_MAX, Who, known,
};
use crate::wire::discovery::MemberName;
use crate::wire::mesh::encode_peers;
use p2pfs_types::bucket::TokenBucket;

/// Maximum connections of one peer. Two exist if both sides dialled at the same time. Both are
/// kept, because an original program forgets its peer when one of the two ends.
const CONNS_OF_PEER: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Accepted; the first line is expected.
    Hello,
    /// Accepted; the second line is expected, and then this node answers.
    Listen,
    /// Dialled; the first line is expected.
    Reply,
    /// The handshake is complete.
    Up,
}

/// A connection.
pub(super) struct Conn {
    stage: Stage,
    remote: SocketAddr,
    /// Address that this node dialled; `None` for an accepted connection.
    dialled: Option<MemberName>,
    /// Time when the current step of the handshake began.
    since: Instant,
    id: String,
    name: String,
    /// Address at which other nodes can dial the peer, if known.
    listen: Option<SocketAddrV4>,
    lines: TokenBucket,
}

impl Conn {
    pub(super) fn new(
        now: Instant,
        stage: Stage,
        remote: SocketAddr,
        dialled: Option<MemberName>,
    ) -> Self {
        let listen = match (&dialled, remote) {
            (Some(_), SocketAddr::V4(remote)) => Some(remote),
            _ => None,
        };
        Self {
            stage,
            remote,
            dialled: dialled.map(known::plain),
            since: now,
            id: String::new(),
            name: String::new(),
            listen,
            lines: TokenBucket::per_second(LINES_PER_S, LINES_BURST, now),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn dialled(&self) -> Option<&MemberName> {
        self.dialled.as_ref()
    }

    /// Returns the address where the peer of an accepted connection listens, if it is known.
    pub(super) fn accepted_listen(&self) -> Option<SocketAddrV4> {
        self.listen.filter(|_| self.dialled.is_none())
    }

    /// Returns whether the peer may send one more line now, and counts that line.
    pub(super) fn take_line(&mut self, now: Instant) -> bool {
        self.lines.take(1, now)
    }

    /// Sets the ID and the name from the first line of the peer.
    pub(super) fn introduce(&mut self, id: String, name: String) {
        (self.id, self.name) = (id, name);
    }

    /// Begins the step of the handshake in which the second line is expected.
    pub(super) fn expect_listen(&mut self, now: Instant) {
        (self.stage, self.since) = (Stage::Listen, now);
    }

    fn handshake_ends(&self) -> Option<Instant> {
        (self.stage != Stage::Up).then(|| self.since + HANDSHAKE)
    }

    pub(super) fn culprit(&self) -> Culprit {
        Culprit {
            ip: self.remote.ip(),
            id: self.id.clone(),
            name: self.name.clone(),
        }
    }

    pub(super) fn who(&self) -> Who {
        let address = self.listen.map_or(self.remote, SocketAddr::V4);
        Who {
            id: self.id.clone(),
            name: self.name.clone(),
            address,
        }
    }

    /// Sets the address where the peer listens: the remote IP address of the connection, and the
    /// port from the peer's `LISTEN` line. The host in that line is `localhost` in original
    /// programs.
    pub(super) fn set_listen(&mut self, port: Option<u16>) {
        if let (SocketAddr::V4(remote), Some(port)) = (self.remote, port) {
            self.listen = Some(SocketAddrV4::new(*remote.ip(), port));
        }
    }
}

struct ConnectedPeer {
    name: String,
    /// Connections, the one in use first.
    conns: Vec<ConnId>,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    round_trip: Option<Duration>,
}

/// A peer as `p2pfs peers` shows it, or an offender that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshPeer {
    /// ID; empty for an offender that never sent one.
    pub id: String,
    /// Name; the IP address for an offender that never sent a name.
    pub name: String,
    /// Address as in [`Who::address`]; for an offender that is gone, its former IP address.
    pub address: String,
    /// Whether the peer is connected.
    pub is_up: bool,
    /// Time between the last answered ping and its answer.
    pub round_trip: Option<Duration>,
    /// When the last message or piece of a file arrived, if the peer is connected.
    pub heard_at: Option<Instant>,
    /// Number of its offences.
    pub offences: u64,
    /// Its last offence.
    pub last_offence: Option<MeshOffence>,
}

/// A connection that is established.
pub(super) struct EstablishedConn {
    pub(super) who: Who,
    pub(super) is_dialled: bool,
    /// Whether this is the first connection of its peer.
    pub(super) is_first: bool,
}

/// A connection that was removed.
pub(super) struct RemovedConn {
    pub(super) conn: Conn,
    /// Whether this was the last connection of a connected peer.
    pub(super) was_last: bool,
}

/// The connections, and the connected peers by ID.
#[derive(Default)]
pub(super) struct MeshPeers {
    conns: BTreeMap<ConnId, Conn>,
    peers: BTreeMap<String, ConnectedPeer>,
}

impl MeshPeers {
    /// Returns the number of connected peers.
    pub(super) fn count(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn is_up(&self, id: &str) -> bool {
        self.peers.contains_key(id)
    }

    /// Returns whether one more connection from an address may begin its handshake.
    pub(super) fn has_handshake_room(&self, from: IpAddr) -> bool {
        let is_shaking = |c: &&Conn| matches!(c.stage, Stage::Hello | Stage::Listen);
        let shaking = self.conns.values().filter(is_shaking);
        let of_address = shaking.clone().filter(|c| c.remote.ip() == from);
        of_address.count() < HANDSHAKES_OF_ADDRESS && shaking.count() < HANDSHAKES_MAX
    }

    /// Returns whether a peer may have one more accepted connection: it has none, or all of its
    /// connections are dialled, so that both sides dialled at the same time.
    pub(super) fn may_be_accepted(&self, id: &str) -> bool {
        self.peers.get(id).is_none_or(|peer| {
            let is_dialled = |c: &ConnId| self.conns.get(c).is_some_and(|c| c.dialled.is_some());
            peer.conns.len() < CONNS_OF_PEER && peer.conns.iter().all(is_dialled)
        })
    }

    /// Returns whether a peer may have one more dialled connection.
    pub(super) fn may_be_dialled(&self, id: &str) -> bool {
        let peer = self.peers.get(id);
        peer.is_none_or(|peer| peer.conns.len() < CONNS_OF_PEER)
    }

    pub(super) fn insert(&mut self, id: ConnId, conn: Conn) {
        self.conns.insert(id, conn);
    }

    pub(super) fn get(&self, conn: ConnId) -> Option<&Conn> {
        self.conns.get(&conn)
    }

    pub(super) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(&conn)
    }

    /// Ends the handshake of a connection. Returns `None` if the connection is gone.
    pub(super) fn establish(
        &mut self,
        now: Instant,
        conn: ConnId,
        own_id: &str,
    ) -> Option<EstablishedConn> {
        let made = self.conns.get_mut(&conn)?;
        made.stage = Stage::Up;
        let (who, is_dialled) = (made.who(), made.dialled.is_some());
        let is_first = match self.peers.get_mut(&who.id) {
            Some(peer) => {
                // both sides use the connection that the node with the smaller ID dialled
                let is_in_use = is_dialled == (own_id < &*who.id);
                let at = if is_in_use { 0 } else { peer.conns.len() };
                peer.conns.insert(at, conn);
                peer.heard_at = now;
                false
            }
            None => {
                let peer = ConnectedPeer {
                    name: who.name.clone(),
                    conns: vec![conn],
                    heard_at: now,
                    pinged_at: None,
                    round_trip: None,
                };
                self.peers.insert(who.id.clone(), peer);
                true
            }
        };
        Some(EstablishedConn {
            who,
            is_dialled,
            is_first,
        })
    }

    /// Removes a connection in any stage, and its peer with the last connection of the peer.
    pub(super) fn remove(&mut self, conn: ConnId) -> Option<RemovedConn> {
        let gone = self.conns.remove(&conn)?;
        let was_last = self.peers.get_mut(&gone.id).is_some_and(|peer| {
            let before = peer.conns.len();
            peer.conns.retain(|kept| *kept != conn);
            peer.conns.len() < before && peer.conns.is_empty()
        });
        if was_last {
            self.peers.remove(&gone.id);
        }
        Some(RemovedConn {
            conn: gone,
            was_last,
        })
    }

    /// Returns when the next timeout of a handshake is due.
    pub(super) fn next_handshake_end(&self) -> Option<Instant> {
        self.conns.values().filter_map(Conn::handshake_ends).min()
    }

    /// Returns the connections with a handshake that takes too long.
    pub(super) fn late_handshakes(&self, now: Instant) -> Vec<(ConnId, Stage)> {
        let is_late = |c: &Conn| c.handshake_ends().is_some_and(|ends| ends <= now);
        let late = self.conns.iter().filter(|(_, c)| is_late(c));
        late.map(|(id, c)| (*id, c.stage)).collect()
    }

    /// Records that bytes of the peer at the other end of an established connection arrived.
    pub(super) fn record_heard(&mut self, now: Instant, conn: ConnId) {
        if let Some(conn) = self.conns.get(&conn).filter(|c| c.stage == Stage::Up)
            && let Some(peer) = self.peers.get_mut(&conn.id)
        {
            peer.heard_at = now;
        }
    }

    /// Returns the connections of the peers that were silent for [`SILENCE_MAX`].
    pub(super) fn silent(&self, now: Instant) -> Vec<ConnId> {
        let is_silent =
            |peer: &&ConnectedPeer| now.saturating_duration_since(peer.heard_at) > SILENCE_MAX;
        let silent = self.peers.values().filter(is_silent);
        silent.flat_map(|peer| peer.conns.clone()).collect()
    }

    /// Records that a ping is sent to every peer.
    pub(super) fn record_pings(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            peer.pinged_at = Some(now);
        }
    }

    /// Records the answer to a ping.
    pub(super) fn record_pong(&mut self, now: Instant, id: &str) {
        if let Some(peer) = self.peers.get_mut(id)
            && let Some(at) = peer.pinged_at.take()
        {
            peer.round_trip = Some(now.saturating_duration_since(at));
        }
    }

    /// Returns the connection in use of each peer.
    pub(super) fn in_use(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        let first = self.peers.values().filter_map(|peer| peer.conns.first());
        first.filter_map(|conn| Some((*conn, self.conns.get(conn)?)))
    }

    /// Returns the list of the other peers that the peer of a connection can dial, as it is sent.
    /// Returns `None` if there are none.
    pub(super) fn list_for(&self, conn: ConnId) -> Option<Vec<u8>> {
        let reader = self.conns.get(&conn)?;
        let is_for =
            |listed: &SocketAddrV4| reader.remote.ip().is_loopback() || !listed.ip().is_loopback();
        let others = self.in_use().filter(|(_, conn)| conn.id != reader.id);
        let listed: Vec<SocketAddrV4> = others
            .filter_map(|(_, conn)| conn.listen)
            .filter(is_for)
            .collect();
        encode_peers(&listed)
    }

    pub(super) fn is_connected(&self, address: &MemberName) -> bool {
        let is_it = |c: &Conn| {
            let listen = c.listen.map(MemberName::Address);
            c.dialled.as_ref() == Some(address) || listen.as_ref() == Some(address)
        };
        self.conns.values().any(is_it)
    }

    /// Returns the addresses that are connected.
    pub(super) fn addresses(&self) -> Vec<MemberName> {
        let listen = self.conns.values().filter_map(|c| c.listen);
        let dialled = self.conns.values().filter_map(|c| c.dialled.clone());
        listen.map(MemberName::Address).chain(dialled).collect()
    }

    /// Returns the peers, then the offenders that are gone.
    pub(super) fn reports(&self, offenders: &MeshOffenders) -> Vec<MeshPeer> {
        let peers = self.peers.iter();
        let mut reports: Vec<MeshPeer> = peers
            .map(|(id, peer)| self.report(id, peer, offenders))
            .collect();
        for (culprit, count, last) in offenders.all() {
            let is_connected = self.peers.get(&culprit.id).is_some_and(|peer| {
                let conns = peer.conns.iter().filter_map(|conn| self.conns.get(conn));
                conns.into_iter().any(|c| c.remote.ip() == culprit.ip)
            });
            if !is_connected {
                let name = match culprit.name.as_str() {
                    "" => culprit.ip.to_string(),
                    name => name.to_owned(),
                };
                reports.push(MeshPeer {
                    id: culprit.id.clone(),
                    name,
                    address: culprit.ip.to_string(),
                    is_up: false,
                    round_trip: None,
                    heard_at: None,
                    offences: count,
                    last_offence: Some(last),
                });
            }
        }
        reports
    }

    fn report(&self, id: &str, peer: &ConnectedPeer, offenders: &MeshOffenders) -> MeshPeer {
        let conn = peer.conns.first().and_then(|conn| self.conns.get(conn));
        let offences = offenders.all().filter(|(culprit, ..)| {
            culprit.id == id && conn.is_some_and(|conn| conn.remote.ip() == culprit.ip)
        });
        let offences: Vec<_> = offences.collect();
        MeshPeer {
            id: id.to_owned(),
            name: peer.name.clone(),
            address: conn.map_or_else(String::new, |conn| conn.who().address.to_string()),
            is_up: true,
            round_trip: peer.round_trip,
            heard_at: Some(peer.heard_at),
            offences: offences.iter().map(|(_, count, _)| count).sum(),
            last_offence: offences.last().map(|(.., last)| *last),
        }
    }
}
