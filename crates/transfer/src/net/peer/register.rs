//! Register of the accepted connections, and the limits on their number.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::counters::DropReason;
use super::limits::PeerLimits;
use p2pfs_types::id::NodeId;

#[derive(Debug)]
struct AcceptedEntry {
    ip: IpAddr,
    /// Proven node at the other end.
    node: Option<NodeId>,
    /// Task that serves the connection, once started.
    task: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct AcceptedTable {
    /// Entries by number; a lower one is older.
    entries: HashMap<u64, AcceptedEntry>,
    /// Addresses of members, as gossip has proven.
    members_at: HashSet<IpAddr>,
    next: u64,
    closed: bool,
}

impl AcceptedTable {
    fn unproven(&self) -> impl Iterator<Item = (u64, &AcceptedEntry)> {
        let entries = self.entries.iter().filter(|(_, e)| e.node.is_none());
        entries.map(|(number, entry)| (*number, entry))
    }

    /// Makes room for an unproven connection from `ip`. At a limit the oldest unproven connection
    /// is dropped: one from `ip` if that address is at its own limit, otherwise preferably one from
    /// an address without a member. Returns whether one was dropped.
    fn make_room(&mut self, ip: IpAddr, limits: &PeerLimits) -> bool {
        let from_there = || self.unproven().filter(|(_, e)| e.ip == ip);
        let oldest = if from_there().count() >= limits.connections.unproven_per_ip {
            from_there().map(|(number, _)| number).min()
        } else {
            let is_member = |entry: &AcceptedEntry| self.members_at.contains(&entry.ip);
            let (members, strangers): (Vec<_>, Vec<_>) =
                self.unproven().partition(|(_, entry)| is_member(entry));
            let all = members.len() + strangers.len();
            let kept = limits
                .connections
                .unproven
                .saturating_sub(limits.connections.unproven_for_members);
            let is_full = if self.members_at.contains(&ip) {
                all >= limits.connections.unproven
            } else {
                strangers.len() >= kept || all >= limits.connections.unproven
            };
            let first = if strangers.is_empty() {
                members
            } else {
                strangers
            };
            let oldest = first.iter().map(|(number, _)| *number).min();
            oldest.filter(|_| is_full)
        };
        let gone = oldest.and_then(|number| self.entries.remove(&number));
        gone.as_ref().inspect(|entry| abort(entry)).is_some()
    }

    /// Ends the oldest proven connection from the address with the most of them, if that address
    /// has more than one peer may have. Returns whether it did.
    fn end_from_busiest(&mut self, limits: &PeerLimits) -> bool {
        let mut at: HashMap<IpAddr, usize> = HashMap::new();
        for entry in self.entries.values().filter(|e| e.node.is_some()) {
            *at.entry(entry.ip).or_default() += 1;
        }
        let most = at.into_iter().max_by_key(|(_, count)| *count);
        let most = most.filter(|(_, count)| *count > limits.connections.accepted_per_peer);
        most.is_some_and(|(ip, _)| self.end_oldest(|entry| entry.ip == ip))
    }

    /// Ends the oldest of the matching proven connections. Returns whether there was one.
    fn end_oldest(&mut self, is_one: impl Fn(&AcceptedEntry) -> bool) -> bool {
        let entries = self.entries.iter();
        let those = entries.filter(|(_, entry)| entry.node.is_some() && is_one(entry));
        let oldest = those.map(|(number, _)| *number).min();
        let gone = oldest.and_then(|number| self.entries.remove(&number));
        gone.as_ref().inspect(|entry| abort(entry)).is_some()
    }
}

/// Register of the accepted connections. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Register {
    table: Arc<Mutex<AcceptedTable>>,
}

/// Entry of one accepted connection. Dropping it removes the entry.
#[derive(Debug)]
pub(super) struct AcceptedGuard {
    register: Register,
    number: u64,
}

impl Register {
    /// Adds an unproven connection. Returns its entry, and whether an older connection was dropped
    /// for it. Returns `None` once the register is closed.
    pub(super) fn enter(&self, ip: IpAddr, limits: &PeerLimits) -> Option<(AcceptedGuard, bool)> {
        let mut table = self.table.lock();
        if table.closed {
            return None;
        }
        let made_room = table.make_room(ip, limits);
        let number = table.next;
        table.next += 1;
        table.entries.insert(
            number,
            AcceptedEntry {
                ip,
                node: None,
                task: None,
            },
        );
        let register = self.clone();
        Some((AcceptedGuard { register, number }, made_room))
    }

    /// Sets the addresses for which room is reserved.
    pub(super) fn set_members_at(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.table.lock().members_at = addresses.into_iter().collect();
    }

    /// Records the task of a connection, so that it can be ended from outside.
    pub(super) fn started(&self, number: u64, task: AbortHandle) {
        let mut table = self.table.lock();
        if table.closed {
            task.abort();
        } else if let Some(entry) = table.entries.get_mut(&number) {
            entry.task = Some(task);
        } else {
            // the connection was dropped already
            task.abort();
        }
    }

    /// Ends all connections and accepts no more.
    pub(super) fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        table.entries.values().for_each(abort);
    }
}

fn abort(entry: &AcceptedEntry) {
    if let Some(task) = &entry.task {
        task.abort();
    }
}

impl AcceptedGuard {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Marks the connection as `node`'s. Returns whether an older one was dropped for it. At the
    /// limit of a node or an address, that is the oldest one of the same node or address. At the
    /// limit for all nodes, it is the oldest one of the address with the most connections.
    ///
    /// # Errors
    /// [`DropReason::TooMany`] if, at the limit for all nodes, no address has more
    /// connections than one peer may have; [`DropReason::Replaced`] if this connection was dropped
    /// itself meanwhile.
    pub(super) fn prove(&self, node: NodeId, limits: &PeerLimits) -> Result<bool, DropReason> {
        let mut table = self.register.table.lock();
        if !table.entries.contains_key(&self.number) {
            return Err(DropReason::Replaced);
        }
        let ip = table.entries.get(&self.number).map(|entry| entry.ip);
        let proven = || table.entries.values().filter(|entry| entry.node.is_some());
        let held = proven().filter(|entry| entry.node == Some(node)).count();
        let from_there = proven().filter(|entry| Some(entry.ip) == ip).count();
        let all = proven().count();
        let replaced = if held >= limits.connections.accepted_per_peer {
            table.end_oldest(|entry| entry.node == Some(node))
        } else if from_there >= limits.connections.accepted_per_ip {
            table.end_oldest(|entry| Some(entry.ip) == ip)
        } else if all >= limits.connections.accepted {
            if !table.end_from_busiest(limits) {
                return Err(DropReason::TooMany);
            }
            true
        } else {
            false
        };
        if let Some(entry) = table.entries.get_mut(&self.number) {
            entry.node = Some(node);
        }
        Ok(replaced)
    }
}

impl Drop for AcceptedGuard {
    fn drop(&mut self) {
        self.register.table.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::ConnectionLimits;
    use super::*;

    const A: NodeId = NodeId::new([1; 32]);
    const B: NodeId = NodeId::new([2; 32]);

    fn ip(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    fn enter(register: &Register, last: u8, limits: &PeerLimits) -> (AcceptedGuard, bool) {
        register.enter(ip(last), limits).unwrap()
    }

    fn is_there(register: &Register, place: &AcceptedGuard) -> bool {
        register.table.lock().entries.contains_key(&place.number)
    }

    #[test]
    fn an_addresss_oldest_unproven_connection_yields_to_its_next() {
        let register = Register::default();
        let limits = PeerLimits {
            connections: ConnectionLimits {
                unproven_per_ip: 2,
                ..ConnectionLimits::default()
            },
            ..PeerLimits::default()
        };
        let other = enter(&register, 2, &limits).0;
        let first = enter(&register, 1, &limits).0;
        let (second, gave_way) = enter(&register, 1, &limits);
        assert!(!gave_way);
        let (_third, gave_way) = enter(&register, 1, &limits);
        assert!(gave_way && !is_there(&register, &first));
        assert!(is_there(&register, &second) && is_there(&register, &other));
        assert_eq!(first.prove(A, &limits), Err(DropReason::Replaced));
        second.prove(A, &limits).unwrap();
        assert!(
            !enter(&register, 1, &limits).1,
            "a proven one counts no more"
        );
    }

    #[test]
    fn idle_connections_from_many_addresses_exclude_no_peer() {
        let register = Register::default();
        let limits = PeerLimits {
            connections: ConnectionLimits {
                unproven: 6,
                unproven_for_members: 2,
                ..ConnectionLimits::default()
            },
            ..PeerLimits::default()
        };
        register.set_members_at([ip(200)]);
        let idle: Vec<_> = (1..100).map(|n| enter(&register, n, &limits).0).collect();
        assert_eq!(
            register.table.lock().entries.len(),
            4,
            "room is kept for members"
        );
        let (member, gave_way) = enter(&register, 200, &limits);
        assert!(!gave_way);
        let newcomer = enter(&register, 150, &limits).0;
        let _more: Vec<_> = (100..103).map(|n| enter(&register, n, &limits)).collect();
        for place in [&member, &newcomer] {
            assert!(is_there(&register, place));
            place.prove(A, &limits).unwrap();
        }
        assert!(!is_there(&register, &idle[98]));
    }

    #[test]
    fn a_slot_is_freed_when_its_connection_ends() {
        let register = Register::default();
        let limits = PeerLimits {
            connections: ConnectionLimits {
                unproven: 1,
                unproven_for_members: 0,
                ..ConnectionLimits::default()
            },
            ..PeerLimits::default()
        };
        let (place, _) = enter(&register, 1, &limits);
        drop(place);
        assert!(!enter(&register, 2, &limits).1);
    }

    #[test]
    fn many_keys_from_one_address_do_not_fill_the_table_of_proven_connections() {
        let register = Register::default();
        let limits = PeerLimits {
            connections: ConnectionLimits {
                accepted: 20,
                accepted_per_peer: 2,
                ..ConnectionLimits::default()
            },
            ..PeerLimits::default()
        };
        let honest = enter(&register, 1, &limits).0;
        honest.prove(A, &limits).unwrap();
        let made_up: Vec<_> = (0..100)
            .map(|n| {
                let place = enter(&register, 66, &limits).0;
                place.prove(NodeId::new([100 + n; 32]), &limits).unwrap();
                place
            })
            .collect();
        assert_eq!(
            register.table.lock().entries.len(),
            limits.connections.accepted
        );
        let newcomer = enter(&register, 2, &limits).0;
        newcomer.prove(B, &limits).unwrap();
        assert!(is_there(&register, &honest) && is_there(&register, &newcomer));
        assert!(!is_there(&register, &made_up[0]));
    }

    #[test]
    fn a_peers_oldest_connection_is_dropped_and_others_keep_theirs() {
        let register = Register::default();
        let limits = PeerLimits {
            connections: ConnectionLimits {
                accepted_per_peer: 2,
                ..ConnectionLimits::default()
            },
            ..PeerLimits::default()
        };
        let prove = |node| {
            let place = enter(&register, 1, &limits).0;
            place.prove(node, &limits).map(|replaced| (place, replaced))
        };
        let kept: Vec<_> = [A, A, B]
            .into_iter()
            .map(|node| prove(node).unwrap())
            .collect();
        assert!(kept.iter().all(|(_, replaced)| !replaced));
        let (newest, replaced) = prove(A).unwrap();
        assert!(replaced && is_there(&register, &newest));
        let left = kept.iter().map(|(place, _)| is_there(&register, place));
        assert_eq!(left.collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn a_closed_register_accepts_no_connection() {
        let register = Register::default();
        register.close();
        assert!(register.enter(ip(1), &PeerLimits::default()).is_none());
    }
}
