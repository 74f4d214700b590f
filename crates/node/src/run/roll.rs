//! Publishing the members and their addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::NodeHandles;
use crate::machine::{Machine, NodeEvent};
use crate::persist::Persister;
use crate::published::{MemberReport, Published};
use p2pfs_membership::{MemberState, MemberStatus};
use p2pfs_types::id::NodeId;

/// Publishes the members, with the time since when each has its state.
pub(super) fn publish_members(machine: &Machine, published: &Published) -> Arc<Vec<MemberReport>> {
    let mut members = machine.member_reports();
    let before = published.members.load();
    MemberReport::set_since(SystemTime::now(), &before, &mut members);
    let members = Arc::new(members);
    published.members.store(Arc::clone(&members));
    members
}

/// Publishes the addresses of these members that can be reached, and stores them.
pub(super) fn publish_addresses(
    members: &[MemberReport],
    handles: &NodeHandles,
    persister: &mut Persister,
) {
    let is_reachable =
        |member: &&MemberStatus| matches!(member.state, MemberState::Alive | MemberState::Suspect);
    let reachable = members.iter().map(|it| &it.status).filter(is_reachable);
    let addresses: BTreeMap<NodeId, SocketAddr> = reachable
        .map(|status| (status.member.node, status.member.address))
        .collect();
    let reachable = addresses.iter().map(|(node, at)| (*node, *at)).collect();
    persister.set_reachable(reachable);
    handles.net.set_members_at(addresses.values().copied());
    handles.published.set_addresses(addresses);
}

/// Returns whether an event changes the members or their addresses.
pub(super) fn is_of_the_roll(event: &NodeEvent) -> bool {
    matches!(
        event,
        NodeEvent::PeerUp(_)
            | NodeEvent::PeerMoved(_)
            | NodeEvent::PeerDown { .. }
            | NodeEvent::PeerAway { .. }
    )
}
