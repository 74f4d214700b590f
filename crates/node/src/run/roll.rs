//! Publishing the members and their addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::EventLoop;
use crate::machine::NodeEvent;
use crate::published::MemberReport;
use p2pfs_membership::{MemberState, MemberStatus};
use p2pfs_types::id::NodeId;

impl EventLoop {
    /// Handles the events of the state machine. If some of them change addresses of members, the
    /// addresses are published first, once for all of these events: one publication takes time in
    /// proportion to the size of the cluster.
    pub(super) fn handle_events(&mut self) {
        loop {
            let events: Vec<_> = std::iter::from_fn(|| self.machine.poll_event()).collect();
            if events.is_empty() {
                return;
            }
            if events.iter().any(is_of_the_roll) {
                self.publish_addresses();
            }
            for event in events {
                self.handle_event(event);
            }
        }
    }

    pub(super) fn publish_members(&mut self) -> Arc<Vec<MemberReport>> {
        let mut members = self.machine.member_reports();
        let before = self.handles.published.members.load();
        MemberReport::set_since(SystemTime::now(), &before, &mut members);
        let members = Arc::new(members);
        self.handles.published.members.store(Arc::clone(&members));
        members
    }

    pub(super) fn publish_addresses(&mut self) {
        let members = self.publish_members();
        let is_reachable = |member: &&MemberStatus| {
            matches!(member.state, MemberState::Alive | MemberState::Suspect)
        };
        let reachable = members.iter().map(|it| &it.status).filter(is_reachable);
        let addresses: BTreeMap<NodeId, SocketAddr> = reachable
            .map(|status| (status.member.node, status.member.address))
            .collect();
        let reachable = addresses.iter().map(|(node, at)| (*node, *at)).collect();
        self.parts.persister.set_reachable(reachable);
        self.handles.net.set_members_at(addresses.values().copied());
        self.handles.published.set_addresses(addresses);
    }
}

fn is_of_the_roll(event: &NodeEvent) -> bool {
    matches!(
        event,
        NodeEvent::PeerUp(_)
            | NodeEvent::PeerMoved(_)
            | NodeEvent::PeerDown { .. }
            | NodeEvent::PeerAway { .. }
    )
}
