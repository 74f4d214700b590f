//! Answers about the node and its peers.

use std::time::Instant;

use super::{Counter, Service, Sight};
use crate::daemon::control::{
    CacheUsage, Dropped, Failure, NamespaceStatus, PeerCounts, PeerInfo, Peers, Plane,
    ServiceState, Status, Traffic,
};
use p2pfs_node::api::{MemberState, PeerReport};
use p2pfs_node::{MemberReport, StandingCondition};

impl Service {
    pub(super) fn status(&self, sight: Sight) -> Status {
        let status = self.node.status();
        let mut mount = self.mount.borrow().clone();
        mount.activity = self.served.activity();
        let audience = sight.audience();
        let mut warnings = self.node.happenings(audience);
        let standing = self.standing(audience);
        warnings.extend(standing.iter().map(StandingCondition::sentence));
        Status {
            name: self.node.name_of(&status.id),
            node: status.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started,
            state: *self.state.borrow(),
            address: status.address.to_string(),
            epoch: status.epoch.to_string(),
            mount,
            peers: count_peers(&status.members),
            namespace: NamespaceStatus {
                entries: status.entries,
                unique_bytes: status.unique_bytes,
            },
            cache: self.cache_usage(),
            traffic: self.traffic(),
            waiting_reads: status.waiting_reads,
            open_versions: status.open_versions as u64,
            dropped: Dropped {
                datagrams: status.dropped_datagrams,
                connections: status.dropped_connections,
            },
            shares: self.shares(sight).shares,
            legacy: self.config.legacy.enabled,
            mesh: self.mesh_address(),
            warnings,
        }
    }

    /// Publishes the current status in `.p2pfs/status.json` for all users and returns it; returns
    /// `None` once the node stops.
    pub(in crate::daemon::service) fn publish_status(&self) -> Option<Status> {
        if *self.state.borrow() == ServiceState::Stopping {
            return None;
        }
        let status = self.status(NOBODY);
        if let Ok(mut json) = serde_json::to_vec_pretty(&status) {
            json.push(b'\n');
            self.node.publish_status(json);
        }
        Some(status)
    }

    /// Returns the data for metrics, limited to the information for any user.
    pub(in crate::daemon::service) async fn for_metrics(&self) -> Option<(Status, Peers)> {
        Some((self.status(NOBODY), self.peers().await.ok()?))
    }

    /// Records the counters for the rates.
    pub(in crate::daemon::service) fn take_rates(&self) {
        let now = Instant::now();
        let node = [
            (Counter::Received, self.node.received_bytes()),
            (Counter::Sent, self.node.sent_bytes()),
        ];
        let fetches = self.node.fetches().into_iter();
        let files = fetches.map(|it| (Counter::File(it.hash), it.received_bytes()));
        let peers = self.node.received_bytes_by_peer().into_iter();
        let peers = peers.map(|(node, bytes)| (Counter::Peer(node), bytes));
        let readers = self.served.read_bytes().into_iter();
        let counters = node.into_iter().chain(files).chain(peers).chain(readers);
        self.rates.record(now, counters);
        self.served.update_readers();
    }

    pub(super) fn cache_usage(&self) -> CacheUsage {
        let usage = self.node.cache_usage();
        CacheUsage {
            used_bytes: usage.used_bytes,
            budget_bytes: usage.budget_bytes,
            floor_bytes: self.config.cache.floor_bytes,
            pinned_bytes: self.node.pinned_bytes(),
            files: usage.files as u64,
            complete_files: usage.complete_files as u64,
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let (received_bytes, sent_bytes) = (self.node.received_bytes(), self.node.sent_bytes());
        let now = Instant::now();
        let rate = |counter, bytes| self.rates.per_second(now, counter, bytes);
        Traffic {
            received_bytes,
            sent_bytes,
            receive_bytes_per_s: rate(Counter::Received, received_bytes),
            send_bytes_per_s: rate(Counter::Sent, sent_bytes),
            metered: self.node.is_metered(),
        }
    }

    pub(super) async fn peers(&self) -> Result<Peers, Failure> {
        let reports = self.node.peers().await?;
        let mut peers: Vec<PeerInfo> = reports.iter().map(|it| self.peer_info(it)).collect();
        peers.extend(self.legacy_peers(&peers).await);
        peers.extend(self.mesh_peers(&peers).await);
        peers.sort_by_key(|peer| (peer.priority.is_none(), peer.priority, peer.name.clone()));
        Ok(Peers { peers })
    }

    fn peer_info(&self, peer: &PeerReport) -> PeerInfo {
        let (member, rate) = (&peer.member, peer.rate.as_ref());
        let contact = member.status.member;
        PeerInfo {
            name: self.node.name_of(&contact.node),
            node: contact.node.to_string(),
            address: contact.address.to_string(),
            state: member.status.state,
            plane: Plane::Native,
            round_trip_ms: member
                .status
                .round_trip
                .map(|time| time.as_secs_f64() * 1e3),
            receive_bytes_per_s: Some(self.rates.per_second(
                Instant::now(),
                Counter::Peer(contact.node),
                peer.received_bytes,
            )),
            rate_bytes_per_s: rate
                .and_then(|rate| rate.rate_bytes_per_s)
                .map(|rate| rate as u64),
            latency_ms: rate
                .and_then(|rate| rate.latency)
                .map(|time| time.as_secs_f64() * 1e3),
            failures: rate.map_or(0, |rate| rate.failures),
            unanswered: rate.map_or(0, |rate| rate.unanswered),
            lies: rate.map_or(0, |rate| rate.lies),
            priority: rate.and_then(|rate| u32::try_from(rate.priority).ok()),
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
            entries: member.entries,
            shunned: rate.filter(|rate| rate.shunned).map(|_| LIED.to_owned()),
            offences: peer.offences.map_or(0, |(count, _)| count),
            last_offence: peer.offences.map(|(_, last)| last.to_string()),
        }
    }
}

/// The view of a caller that is not a user of this machine.
const NOBODY: Sight = Sight::Own(u32::MAX);
/// The only reason for which a peer is shunned.
const LIED: &str = "sent bytes that do not fit their hash";

fn count_peers(members: &[MemberReport]) -> PeerCounts {
    let count = |state| {
        members
            .iter()
            .filter(|member| member.status.state == state)
            .count() as u64
    };
    PeerCounts {
        alive: count(MemberState::Alive),
        suspect: count(MemberState::Suspect),
        away: count(MemberState::Away),
        down: count(MemberState::Down),
    }
}
