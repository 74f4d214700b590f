//! The connected peers: admission, keepalive, lists of peers, and removal.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::known::DialResult;
use super::offence::MeshOffence;
use super::{
    ConnId, DownWhy, MeshEvent, MeshMachine, Rejection, SILENCE_MAX, Stage, Who, encode_hello,
    encode_peers, is_for,
};
use crate::wire::discovery::MemberName;
use crate::wire::mesh::{DUPLICATE, MAX_PEERS, PING, REQUEST_PEERS};

/// Maximum connections of one peer. Two exist if both sides dialled at the same time. Both are
/// kept, because an original program forgets its peer when one of the two ends.
const CONNS_OF_PEER: usize = 2;

pub(super) struct ConnectedPeer {
    name: String,
    /// Connections, the one in use first.
    conns: Vec<ConnId>,
    pub(super) heard_at: Instant,
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

impl MeshMachine {
    /// Returns the peers, then the offenders that are gone.
    pub fn peers(&self) -> Vec<MeshPeer> {
        let mut peers: Vec<MeshPeer> = self.peers.keys().map(|id| self.peer(id)).collect();
        for (culprit, count, last) in self.offenders.all() {
            let is_connected = self.peers.get(&culprit.id).is_some_and(|peer| {
                let conns = peer.conns.iter().filter_map(|conn| self.conns.get(conn));
                conns.into_iter().any(|c| c.remote.ip() == culprit.ip)
            });
            if !is_connected {
                let name = match culprit.name.as_str() {
                    "" => culprit.ip.to_string(),
                    name => name.to_owned(),
                };
                peers.push(MeshPeer {
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
        peers
    }

    pub(super) fn peer(&self, id: &str) -> MeshPeer {
        let peer = &self.peers[id];
        let conn = peer.conns.first().and_then(|conn| self.conns.get(conn));
        let offences = self.offenders.all().filter(|(culprit, ..)| {
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

    /// Returns the connection in use of each peer.
    pub fn in_use(&self) -> Vec<(ConnId, Who)> {
        let first = self.peers.values().filter_map(|peer| peer.conns.first());
        first
            .filter_map(|conn| Some((*conn, self.conns.get(conn)?.who())))
            .collect()
    }

    /// Returns the addresses that are known and not connected.
    pub fn known(&self) -> Vec<MemberName> {
        let connected = self.connected_addresses();
        let unconnected = self.addresses.all().filter(|a| !connected.contains(a));
        unconnected.cloned().collect()
    }

    /// Processes the first line of an accepted connection: rejects the peer, or waits for its
    /// second line.
    pub(super) fn admit(&mut self, now: Instant, conn: ConnId, id: String, name: String) {
        let is_own = id == self.config.id;
        let refusal = match self.peers.get(&id) {
            Some(_) => Some(DUPLICATE),
            None if self.peers.len() >= self.config.max_peers => Some(MAX_PEERS),
            None => None,
        };
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        (made.id, made.name, made.since) = (id, name, now);
        match refusal {
            _ if is_own => self.close(conn),
            Some(refusal) => {
                self.send(conn, refusal.to_vec());
                self.close(conn);
            }
            None => made.stage = Stage::Listen,
        }
    }

    /// Answers an accepted connection after its second line or the timeout for that line:
    /// establishes the connection, or rejects the peer.
    pub(super) fn establish_accepted(&mut self, now: Instant, conn: ConnId) {
        let Some(id) = self.conns.get(&conn).map(|c| c.id.clone()) else {
            return;
        };
        let known = self.peers.get(&id).map(|peer| peer.conns.clone());
        let crossed = known.as_ref().is_none_or(|conns| {
            let is_dialled = |c: &ConnId| self.conns.get(c).is_some_and(|c| c.dialled.is_some());
            conns.len() < CONNS_OF_PEER && conns.iter().all(is_dialled)
        });
        if !crossed {
            self.send(conn, DUPLICATE.to_vec());
            return self.close(conn);
        }
        if known.is_none() && self.peers.len() >= self.config.max_peers {
            self.send(conn, MAX_PEERS.to_vec());
            return self.close(conn);
        }
        self.send(conn, encode_hello(&self.config.id, &self.config.name));
        self.establish(now, conn);
    }

    /// Processes the first line of a dialled peer: establishes or closes the connection.
    pub(super) fn answered(&mut self, now: Instant, conn: ConnId, id: String, name: String) {
        let own = id == self.config.id;
        let known = self.peers.get(&id).map_or(0, |peer| peer.conns.len());
        let is_full = known == 0 && self.peers.len() >= self.config.max_peers;
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        (made.id, made.name) = (id, name);
        let address = made.dialled.clone();
        let how = if own || known >= CONNS_OF_PEER {
            DialResult::Known
        } else if is_full {
            DialResult::Full
        } else {
            DialResult::Connected
        };
        if let Some(address) = address {
            self.addresses.dialled(now, &address, how);
        }
        if how == DialResult::Connected {
            self.establish(now, conn);
            self.send(conn, REQUEST_PEERS.to_vec());
        } else {
            self.close(conn);
        }
    }

    pub(super) fn rejected(&mut self, now: Instant, conn: ConnId, why: Rejection) {
        if let Some(address) = self.conns.get(&conn).and_then(|c| c.dialled.clone()) {
            let how = match why {
                Rejection::Duplicate => DialResult::Known,
                Rejection::MaxPeers => DialResult::Full,
                Rejection::Silent => DialResult::Failed,
            };
            self.addresses.dialled(now, &address, how);
            self.push_event(MeshEvent::Rejected(address, why));
        }
        self.close(conn);
    }

    fn establish(&mut self, now: Instant, conn: ConnId) {
        let own_id = self.config.id.clone();
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        made.stage = Stage::Up;
        let (who, is_dialled) = (made.who(), made.dialled.is_some());
        self.push_event(MeshEvent::Established(conn, who.clone()));
        match self.peers.get_mut(&who.id) {
            Some(peer) => {
                // both sides use the connection that the node with the smaller ID dialled
                let is_first = is_dialled == (own_id < who.id);
                let at = if is_first { 0 } else { peer.conns.len() };
                peer.conns.insert(at, conn);
                peer.heard_at = now;
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
                self.push_event(MeshEvent::PeerUp {
                    who,
                    dialled: is_dialled,
                });
            }
        }
        self.send_peer_list(conn);
    }

    /// Sends a peer the list of the other peers, unless that list is empty.
    pub(super) fn send_peer_list(&mut self, conn: ConnId) {
        let Some(reader) = self.conns.get(&conn) else {
            return;
        };
        let (reader_id, reader_ip): (&str, IpAddr) = (&reader.id, reader.remote.ip());
        let others = self.peers.iter().filter(|(id, _)| *id != reader_id);
        let listed: Vec<SocketAddrV4> = others
            .filter_map(|(_, peer)| self.conns.get(peer.conns.first()?)?.listen)
            .filter(|listed| is_for(*listed, reader_ip))
            .collect();
        if let Some(list) = encode_peers(&listed) {
            self.send(conn, list);
        }
    }

    /// Records the answer to a ping.
    pub(super) fn pong(&mut self, now: Instant, id: &str) {
        if let Some(peer) = self.peers.get_mut(id)
            && let Some(at) = peer.pinged_at.take()
        {
            peer.round_trip = Some(now.saturating_duration_since(at));
        }
    }

    pub(super) fn ping(&mut self, now: Instant) {
        let is_silent =
            |peer: &ConnectedPeer| now.saturating_duration_since(peer.heard_at) > SILENCE_MAX;
        let silent = self.peers.values().filter(|peer| is_silent(peer));
        let silent: Vec<ConnId> = silent.flat_map(|peer| peer.conns.clone()).collect();
        for conn in silent {
            self.end(now, conn, DownWhy::Silent);
        }
        for peer in self.peers.values_mut() {
            peer.pinged_at = Some(now);
        }
        self.send_all(PING);
    }

    /// Ends a connection in the handshake, without [`MeshEvent::PeerDown`].
    pub(super) fn close(&mut self, conn: ConnId) {
        if self.conns.remove(&conn).is_some() {
            self.push_event(MeshEvent::Close(conn));
        }
    }

    /// Ends a connection in any stage.
    pub(super) fn end(&mut self, now: Instant, conn: ConnId, why: DownWhy) {
        if self.conns.contains_key(&conn) {
            self.push_event(MeshEvent::Close(conn));
            self.drop_conn(now, conn, why);
        }
    }

    pub(super) fn drop_conn(&mut self, now: Instant, conn: ConnId, why: DownWhy) {
        let Some(gone) = self.conns.remove(&conn) else {
            return;
        };
        if gone.stage == Stage::Reply
            && let Some(address) = &gone.dialled
        {
            // a rejection may have been lost with the connection
            self.addresses.dialled(now, address, DialResult::Failed);
            self.push_event(MeshEvent::Rejected(address.clone(), Rejection::Silent));
        }
        let Some(peer) = self.peers.get_mut(&gone.id) else {
            return;
        };
        let before = peer.conns.len();
        peer.conns.retain(|kept| *kept != conn);
        if peer.conns.len() == before || !peer.conns.is_empty() {
            return;
        }
        self.peers.remove(&gone.id);
        if let (Some(listen), None) = (gone.listen, &gone.dialled) {
            // the peer listened there and may come back
            self.addresses.learn(MemberName::Address(listen), None, now);
        }
        self.push_event(MeshEvent::PeerDown(gone.who(), why));
        self.dial_soon(now);
    }

    pub(super) fn is_connected(&self, address: &MemberName) -> bool {
        let is_it = |c: &super::Conn| {
            let listen = c.listen.map(MemberName::Address);
            c.dialled.as_ref() == Some(address) || listen.as_ref() == Some(address)
        };
        self.conns.values().any(is_it)
    }

    pub(super) fn connected_addresses(&self) -> Vec<MemberName> {
        let listen = self.conns.values().filter_map(|c| c.listen);
        let dialled = self.conns.values().filter_map(|c| c.dialled.clone());
        listen.map(MemberName::Address).chain(dialled).collect()
    }

    /// Sets the address where a peer listens: the remote IP address of the connection, and the port
    /// from the peer's `LISTEN` line. The host in that line is `localhost` in original programs.
    pub(super) fn set_listen(&mut self, conn: ConnId, port: Option<u16>) {
        if let Some(made) = self.conns.get_mut(&conn)
            && let (SocketAddr::V4(remote), Some(port)) = (made.remote, port)
        {
            made.listen = Some(SocketAddrV4::new(*remote.ip(), port));
        }
    }
}
