//! The connections that we accepted, and how many there may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use super::counters::DropReason;
use super::limits::PeerLimits;
use crate::id::NodeId;

#[derive(Debug)]
struct Entry {
    ip: IpAddr,
    /// Who it is, once proven.
    node: Option<NodeId>,
    /// The task that serves it, once started.
    task: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    next: u64,
    closed: bool,
}

/// Who is connected to us. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Register {
    table: Arc<Mutex<Table>>,
}

/// One accepted connection's place in the register; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    register: Register,
    number: u64,
}

impl Register {
    /// A place for a connection that has proven nothing yet; none where the limits are reached.
    pub(super) fn enter(&self, ip: IpAddr, limits: &PeerLimits) -> Option<Place> {
        let mut table = self.lock();
        let unproven = || table.entries.values().filter(|entry| entry.node.is_none());
        let from_there = unproven().filter(|entry| entry.ip == ip).count();
        let full = unproven().count() >= limits.unproven || from_there >= limits.unproven_per_ip;
        if full || table.closed {
            return None;
        }
        let number = table.next;
        table.next += 1;
        table.entries.insert(
            number,
            Entry {
                ip,
                node: None,
                task: None,
            },
        );
        Some(Place {
            register: self.clone(),
            number,
        })
    }

    /// Tells which task serves the connection, so that it can be ended from outside.
    pub(super) fn started(&self, number: u64, task: AbortHandle) {
        let mut table = self.lock();
        if table.closed {
            task.abort();
        } else if let Some(entry) = table.entries.get_mut(&number) {
            entry.task = Some(task);
        }
    }

    /// Ends the connections of one node; says how many.
    pub(super) fn close_peer(&self, node: NodeId) -> usize {
        let table = self.lock();
        let of_node = |entry: &&Entry| entry.node == Some(node);
        table.entries.values().filter(of_node).map(abort).count()
    }

    /// Ends all connections and takes no more.
    pub(super) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.entries.values().for_each(abort);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn abort(entry: &Entry) {
    if let Some(task) = &entry.task {
        task.abort();
    }
}

impl Place {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The connection is `node`'s. Says whether an older one of the same node gave way to it.
    ///
    /// # Errors
    /// [`DropReason::TooMany`] where all nodes together have as many as may be.
    pub(super) fn prove(&self, node: NodeId, limits: &PeerLimits) -> Result<bool, DropReason> {
        let mut table = self.register.lock();
        let proven = table
            .entries
            .values()
            .filter(|entry| entry.node.is_some())
            .count();
        let of_node = |(_, entry): &(&u64, &Entry)| entry.node == Some(node);
        let held = table.entries.iter().filter(of_node).count();
        let mut replaced = false;
        if held >= limits.accepted_per_peer {
            let oldest = table
                .entries
                .iter()
                .filter(of_node)
                .map(|(number, _)| *number)
                .min();
            let oldest = oldest.and_then(|number| table.entries.remove(&number));
            replaced = oldest.iter().map(abort).count() > 0;
        } else if proven >= limits.accepted {
            return Err(DropReason::TooMany);
        }
        if let Some(entry) = table.entries.get_mut(&self.number) {
            entry.node = Some(node);
        }
        Ok(replaced)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.register.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId::new([1; 32]);
    const B: NodeId = NodeId::new([2; 32]);

    fn ip(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn unproven_connections_are_few_from_one_address_and_in_all() {
        let register = Register::default();
        let limits = PeerLimits {
            unproven: 3,
            unproven_per_ip: 2,
            ..PeerLimits::default()
        };
        let first = register.enter(ip(1), &limits).unwrap();
        let _second = register.enter(ip(1), &limits).unwrap();
        assert!(register.enter(ip(1), &limits).is_none());
        let _third = register.enter(ip(2), &limits).unwrap();
        assert!(register.enter(ip(3), &limits).is_none());
        first.prove(A, &limits).unwrap();
        assert!(register.enter(ip(1), &limits).is_some());
    }

    #[test]
    fn a_place_is_given_back_when_its_connection_ends() {
        let register = Register::default();
        let limits = PeerLimits {
            unproven: 1,
            ..PeerLimits::default()
        };
        let place = register.enter(ip(1), &limits).unwrap();
        assert!(register.enter(ip(2), &limits).is_none());
        drop(place);
        assert!(register.enter(ip(2), &limits).is_some());
    }

    #[test]
    fn a_peers_oldest_connection_gives_way_and_others_keep_theirs() {
        let register = Register::default();
        let limits = PeerLimits {
            accepted_per_peer: 2,
            accepted: 3,
            ..PeerLimits::default()
        };
        let prove = |node| {
            let place = register.enter(ip(1), &limits).unwrap();
            place.prove(node, &limits).map(|replaced| (place, replaced))
        };
        let kept: Vec<_> = [A, A, B]
            .into_iter()
            .map(|node| prove(node).unwrap())
            .collect();
        assert!(kept.iter().all(|(_, replaced)| !replaced));
        assert_eq!(prove(B).unwrap_err(), DropReason::TooMany);
        let (_newest, replaced) = prove(A).unwrap();
        assert!(replaced);
        assert_eq!(register.close_peer(A), 2);
    }

    #[test]
    fn a_closed_register_takes_nobody() {
        let register = Register::default();
        register.close();
        assert!(register.enter(ip(1), &PeerLimits::default()).is_none());
    }
}
