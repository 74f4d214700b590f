//! Answers about the node and its peers, and the data for metrics and rates.

use std::cmp::Reverse;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::{Asked, Services, Sight, legacy, mesh, shares};
use crate::daemon::control::{
    AbsentPeer, Answer, CacheUsage, Dropped, Failure, KeptFiles, NamespaceStatus, PeerCounts,
    PeerInfo, Peers, Plane, ShareInfo, Status, Traffic, WrittenUsage, parameters,
};
use crate::daemon::service::conditions;
use crate::daemon::service::rates::{Counter, CurrentRates};
use p2pfs_node::api::{MemberState, PeerReport};
use p2pfs_node::{MemberReport, StandingCondition};

impl Answer<Asked> for parameters::Status {
    async fn answer(self, asked: &mut Asked) -> Result<Status, Failure> {
        conditions::review(&asked.services).await;
        let sight = asked.viewer.sight;
        asked
            .blocking(move |services| Ok(status(services, sight)))
            .await
    }
}

impl Answer<Asked> for parameters::Peers {
    async fn answer(self, asked: &mut Asked) -> Result<Peers, Failure> {
        peers(&asked.services).await
    }
}

fn status(services: &Services, sight: Sight) -> Status {
    let status = services.node.status();
    let mut mount = services.lifecycle.mount.borrow().clone();
    mount.activity = services.activity.served.activity();
    let audience = sight.audience();
    let mut warnings = services.node.events().happenings(audience);
    let standing = conditions::standing(services, audience);
    warnings.extend(standing.iter().map(StandingCondition::sentence));
    let errors = standing.iter().filter(|it| it.is_error());
    let errors = errors.map(StandingCondition::sentence).collect();
    let shares = shares::shares(services, sight).shares;
    Status {
        name: services.node.peers().name_of(&status.id),
        node: status.id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: services.lifecycle.started,
        state: *services.lifecycle.state.borrow(),
        address: status.address.to_string(),
        epoch: status.epoch.to_string(),
        mount,
        peers: count_peers(&status.members),
        absent: absent_peers(services, &status.members),
        namespace: NamespaceStatus {
            entries: status.folder.entries,
            unique_bytes: status.folder.unique_bytes,
        },
        cache: cache_usage(services),
        keep: kept_files(services),
        traffic: traffic(services, &current_rates(services)),
        waiting_reads: status.reads.waiting,
        open_versions: status.reads.open_versions as u64,
        dropped: Dropped {
            datagrams: status.dropped.datagrams,
            connections: status.dropped.connections,
        },
        written: written_usage(services, &shares),
        shares,
        legacy: services.settings.at_start.legacy.enabled,
        mesh: mesh::mesh_address(services),
        warnings,
        errors,
    }
}

fn written_usage(services: &Services, shares: &[ShareInfo]) -> Option<WrittenUsage> {
    let writable = || shares.iter().filter(|share| share.writable);
    writable().next()?;
    Some(WrittenUsage {
        used_bytes: writable().map(|share| share.bytes).sum(),
        budget_bytes: services.settings.at_start.write.budget_bytes,
    })
}

/// Publishes the current status in `.p2pfs/status.json`, with the information that every user may
/// see, and returns it. Returns `None` once the node stops.
pub(in crate::daemon::service) fn publish_status(services: &Services) -> Option<Status> {
    if services.lifecycle.is_stopping() {
        return None;
    }
    let status = status(services, NOBODY);
    if let Ok(mut json) = serde_json::to_vec_pretty(&status) {
        json.push(b'\n');
        services.node.publish_status(json);
    }
    Some(status)
}

/// Returns the data for metrics, limited to the information for any user.
pub(in crate::daemon::service) async fn for_metrics(
    services: &Services,
) -> Option<(Status, Peers)> {
    Some((status(services, NOBODY), peers(services).await.ok()?))
}

/// Records the counters for the rates.
pub(in crate::daemon::service) fn take_rates(services: &Services) {
    let now = Instant::now();
    let node = [
        (Counter::Received, services.node.traffic().received_bytes()),
        (Counter::Sent, services.node.traffic().sent_bytes()),
    ];
    let fetches = services.node.files().fetches().into_iter();
    let files = fetches.map(|it| (Counter::File(it.hash), it.received_bytes()));
    let peers = services.node.traffic().received_bytes_by_peer().into_iter();
    let peers = peers.map(|(node, bytes)| (Counter::Peer(node), bytes));
    let readers = services.activity.served.read_bytes().into_iter();
    let counters = node.into_iter().chain(files).chain(peers).chain(readers);
    services.activity.rates.record(now, counters);
    services.activity.served.update_readers();
}

pub(super) fn cache_usage(services: &Services) -> CacheUsage {
    let usage = services.node.cache().usage();
    CacheUsage {
        used_bytes: usage.used_bytes,
        budget_bytes: usage.budget_bytes,
        floor_bytes: services.settings.at_start.cache.floor_bytes,
        pinned_bytes: services.node.pins().bytes(),
        files: usage.files as u64,
        complete_files: usage.complete_files as u64,
    }
}

fn kept_files(services: &Services) -> KeptFiles {
    let keeper = services.node.keeper();
    let report = keeper.report();
    KeptFiles {
        enabled: !keeper.settings().paths.is_empty(),
        files: report.complete.files,
        bytes: report.complete.bytes,
        missing_files: report.missing.files,
        missing_bytes: report.missing.bytes,
        left_out_files: report.left_out.files,
        left_out_bytes: report.left_out.bytes,
        only_here_files: report.only_here.files,
        only_here_bytes: report.only_here.bytes,
    }
}

pub(super) fn traffic(services: &Services, rates: &CurrentRates) -> Traffic {
    let (received_bytes, sent_bytes) = (
        services.node.traffic().received_bytes(),
        services.node.traffic().sent_bytes(),
    );
    Traffic {
        received_bytes,
        sent_bytes,
        receive_bytes_per_s: rates.per_second(Counter::Received, received_bytes),
        send_bytes_per_s: rates.per_second(Counter::Sent, sent_bytes),
        metered: services.node.traffic().is_metered(),
    }
}

fn current_rates(services: &Services) -> CurrentRates {
    services.activity.rates.at(Instant::now())
}

async fn peers(services: &Services) -> Result<Peers, Failure> {
    let (peers, _) = peers_and_rates(services).await?;
    Ok(peers)
}

/// Returns the peers, and the rates at the time of their counters.
pub(super) async fn peers_and_rates(services: &Services) -> Result<(Peers, CurrentRates), Failure> {
    let reports = services.node.peers().reports().await?;
    let rates = current_rates(services);
    let peers = reports.iter().map(|it| peer_info(services, it, &rates));
    let mut peers: Vec<PeerInfo> = peers.collect();
    peers.extend(legacy::legacy_peers(services, &peers).await);
    peers.extend(mesh::mesh_peers(services, &peers).await);
    peers.sort_by_key(|peer| (peer.priority.is_none(), peer.priority, peer.name.clone()));
    Ok((Peers { peers }, rates))
}

fn peer_info(services: &Services, peer: &PeerReport, rates: &CurrentRates) -> PeerInfo {
    let (member, rate) = (&peer.member, peer.rate.as_ref());
    let contact = member.status.member;
    PeerInfo {
        name: services.node.peers().name_of(&contact.node),
        node: contact.node.to_string(),
        address: contact.address.to_string(),
        state: member.status.state,
        since: since(member),
        plane: Plane::Native,
        round_trip_ms: member
            .status
            .round_trip
            .map(|time| time.as_secs_f64() * 1e3),
        receive_bytes_per_s: Some(
            rates.per_second(Counter::Peer(contact.node), peer.received_bytes),
        ),
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
        last_offence_time: peer.last_offence_age.and_then(|age| {
            let age = SignedDuration::try_from(age).ok()?;
            Timestamp::now().checked_sub(age).ok()
        }),
    }
}

/// The view of a caller that is not a user of this machine.
const NOBODY: Sight = Sight::Own(u32::MAX);
/// The only reason for which a peer is shunned.
const LIED: &str = "sent bytes that do not fit their hash";

/// Maximum number of absent nodes in the status. `p2pfs peers` shows all.
const ABSENT_MAX: usize = 5;

/// Returns the nodes that are suspect, away or down, the latest first, up to [`ABSENT_MAX`]. A node
/// that is down is mentioned as long as the membership remembers it.
fn absent_peers(services: &Services, members: &[MemberReport]) -> Vec<AbsentPeer> {
    let is_absent = |member: &&MemberReport| {
        let state = member.status.state;
        matches!(
            state,
            MemberState::Suspect | MemberState::Away | MemberState::Down
        )
    };
    let mut absent: Vec<_> = members.iter().filter(is_absent).collect();
    absent.sort_by_key(|member| Reverse(member.since));
    let peer = |member: &MemberReport| {
        let node = member.status.member.node;
        AbsentPeer {
            name: services.node.peers().name_of(&node),
            node: node.to_string(),
            state: member.status.state,
            since: since(member).unwrap_or_default(),
        }
    };
    absent.into_iter().take(ABSENT_MAX).map(peer).collect()
}

/// Returns since when a member has its state, as far as this node knows.
fn since(member: &MemberReport) -> Option<Timestamp> {
    member.since.and_then(|at| Timestamp::try_from(at).ok())
}

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
