//! The hosts of the members that spoke to this node, and which member makes room in a full table.
//!
//! With a secret file, one host can speak for any number of keys. The hosts therefore share a full
//! table.

use std::collections::BTreeMap;

use foca::State;

use super::engine::Update;
use p2pfs_types::host::HostPrefix;
use p2pfs_types::id::NodeId;

/// The hosts from which members spoke last.
#[derive(Default)]
pub(super) struct MetHosts {
    hosts: BTreeMap<NodeId, HostPrefix>,
}

impl MetHosts {
    pub(super) fn record(&mut self, node: NodeId, host: HostPrefix) {
        self.hosts.insert(node, host);
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        self.hosts.remove(node);
    }

    /// Returns the member of a full table that makes room for a node of `host`: one of the host
    /// with the most members, if that are more than `host` has with the new one. Otherwise one of
    /// `host` that is down. Prefers members that are down.
    pub(super) fn displaced_by(&self, host: HostPrefix, entries: &[&Update]) -> Option<NodeId> {
        let host_of = |entry: &Update| self.hosts.get(&entry.id().0.node).copied();
        let mut counts = BTreeMap::<Option<HostPrefix>, usize>::new();
        for entry in entries {
            *counts.entry(host_of(entry)).or_default() += 1;
        }
        let own = counts.get(&Some(host)).copied().unwrap_or(0);
        let (largest, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let is_down = |entry: &Update| entry.state() == State::Down;
        let may_go = |entry: &Update| {
            if count > own + 1 {
                host_of(entry) == largest
            } else {
                host_of(entry) == Some(host) && is_down(entry)
            }
        };
        let candidates = entries.iter().filter(|entry| may_go(entry));
        let first = candidates.min_by_key(|entry| !is_down(entry))?;
        Some(first.id().0.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::MemberLife;
    use p2pfs_proto::wire::native::udp::Contact;
    use p2pfs_types::id::Generation;

    fn entry(n: u8, state: State) -> Update {
        let life = MemberLife(Contact {
            node: NodeId::new([n; 32]),
            address: ([10, 0, 0, n], 1378).into(),
            generation: Generation(1),
        });
        Update::new(life, 0, state)
    }

    #[test]
    fn the_host_with_the_most_members_makes_room_and_its_lost_members_go_first() {
        let host = |n: u8| HostPrefix::of([10, 0, 0, n].into());
        let mut met = MetHosts::default();
        for n in 0..6 {
            met.record(NodeId::new([n; 32]), host(if n < 4 { 1 } else { n }));
        }
        let mut entries: Vec<_> = (0..6).map(|n| entry(n, State::Alive)).collect();
        entries[2] = entry(2, State::Down);
        let displaced = |of: u8, entries: &[Update]| {
            let entries: Vec<_> = entries.iter().collect();
            met.displaced_by(host(of), &entries)
        };
        assert_eq!(displaced(9, &entries), Some(NodeId::new([2; 32])));
        assert_eq!(displaced(1, &entries), Some(NodeId::new([2; 32])));
        entries[2] = entry(2, State::Alive);
        assert!(displaced(9, &entries).is_some());
        assert_eq!(displaced(1, &entries), None, "it has the most itself");
    }
}
