//! The metrics by name. Names follow the conventions of Prometheus: base units, and `_total` for
//! counters.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::disks::Disks;
use super::ordered_family::OrderedFamily;
use crate::daemon::control::{PeerInfo, PeerState, Peers, Plane, ShareInfo, Status};
use crate::daemon::service::answers::status;
use crate::daemon::service::services::Services;
use p2pfs_node::api::{CacheOpens, DiskRoom};
use p2pfs_node::{Condition, ReadFailure, StandingCondition};

/// Maximum peers with their own metrics; further peers of a large cluster are only in the sums.
const PEERS_TOLD_MAX: usize = 256;

/// Returns all metrics as text; `None` if the node is stopping.
pub(super) async fn text(services: &Services, disks: &Disks) -> Option<String> {
    let (status, peers) = status::for_metrics(services).await?;
    let mut text = String::new();
    let health = Health::of(services, disks).await;
    encode(&mut text, &registry(&status, &peers, &health)).ok()?;
    Some(text)
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct BuildLabel {
    version: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ConditionLabel {
    name: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct OffenceLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct DiskLabel {
    dir: &'static str,
}

/// Values about trouble that are not in [`Status`].
struct Health {
    standing: Vec<StandingCondition>,
    offences: Vec<(&'static str, u64)>,
    failed_reads: Vec<(ReadFailure, u64)>,
    damaged_bytes: u64,
    cache_opens: CacheOpens,
    /// The disks of cache and state, as far as they answer.
    disks: Vec<(&'static str, DiskRoom)>,
}

impl Health {
    async fn of(services: &Services, disks: &Disks) -> Self {
        Self {
            standing: services.node.events().standing(),
            offences: services.node.peers().offences(),
            failed_reads: services.node.events().failed_reads(),
            damaged_bytes: services.node.cache().usage().damaged_bytes,
            cache_opens: services.node.files().cache_opens(),
            disks: disks.rooms().await,
        }
    }
}

/// The registry, filled value by value.
struct Families(Registry);

impl Families {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(name, help, gauge);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn of_peers(&mut self, name: &str, help: &str, peers: &[PeerInfo], of: fn(&PeerInfo) -> u64) {
        let mut family = OrderedFamily::<PeerLabel, Counter>::default();
        for peer in peers {
            family.add(label(peer)).inc_by(of(peer));
        }
        self.0.register(name, help, family);
    }
}

fn label(peer: &PeerInfo) -> PeerLabel {
    PeerLabel {
        peer: peer.name.clone(),
    }
}

/// Registers single values, one a line.
macro_rules! told {
    ($families:ident: $($kind:ident $name:literal $help:literal $value:expr;)*) => {
        $($families.$kind($name, $help, $value);)*
    };
}

fn registry(status: &Status, peers: &Peers, health: &Health) -> Registry {
    let mut families = Families(Registry::with_prefix("p2pfs"));
    let mut build = OrderedFamily::<BuildLabel, Gauge>::default();
    let version = status.version.clone();
    build.add(BuildLabel { version }).set(1);
    families
        .0
        .register("build_info", "The version that runs", build);
    let started = u64::try_from(status.started.as_second()).unwrap_or(0);
    let warnings = status.warnings.len() as u64;
    told! { families:
        gauge "start_time_seconds" "When the daemon started, in Unix time" started;
        gauge "warnings" "Warnings that p2pfs status shows to every user" warnings;
    }
    mount(&mut families, status);
    content(&mut families, status);
    network(&mut families, status, peers);
    trouble(&mut families, health);
    families.0
}

fn trouble(families: &mut Families, health: &Health) {
    let mut conditions = OrderedFamily::<ConditionLabel, Gauge>::default();
    for condition in Condition::ALL {
        let stands = health.standing.iter().any(|it| it.condition == *condition);
        let name = condition.text().name;
        let gauge = conditions.add(ConditionLabel { name });
        gauge.set(i64::from(stands));
    }
    let help = "Whether a condition stands (p2pfs(8), CONDITIONS)";
    families.0.register("condition", help, conditions);
    let mut offences = OrderedFamily::<OffenceLabel, Counter>::default();
    for (kind, count) in &health.offences {
        offences.add(OffenceLabel { kind }).inc_by(*count);
    }
    let help = "Offences of other nodes by kind, such as wrong bytes";
    families.0.register("offences", help, offences);
    let mut failed = OrderedFamily::<ReasonLabel, Counter>::default();
    for (why, count) in &health.failed_reads {
        let reason = why.name();
        failed.add(ReasonLabel { reason }).inc_by(*count);
    }
    let help = "Reads of other nodes' files that failed, by reason";
    families.0.register("failed_reads", help, failed);
    let (mut free, mut total) = (
        OrderedFamily::<DiskLabel, Gauge>::default(),
        OrderedFamily::<DiskLabel, Gauge>::default(),
    );
    let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    for (dir, room) in &health.disks {
        free.add(DiskLabel { dir }).set(bytes(room.free_bytes));
        total.add(DiskLabel { dir }).set(bytes(room.total_bytes));
    }
    let help = "Bytes that the daemon may still write on the disk of a directory";
    families.0.register("disk_free_bytes", help, free);
    let help = "Size of that disk";
    families.0.register("disk_size_bytes", help, total);
    told! { families:
        counter "cache_damaged_bytes" "Cached bytes found wrong or unreadable, and dropped"
            health.damaged_bytes;
        counter "cache_hits" "Opens of other nodes' files with their first bytes in the cache"
            health.cache_opens.hits;
        counter "cache_misses" "Opens of other nodes' files with their first bytes fetched"
            health.cache_opens.misses;
    }
}

fn mount(families: &mut Families, status: &Status) {
    let (mount, activity) = (&status.mount, &status.mount.activity);
    told! { families:
        gauge "mount_up" "Whether the folder is mounted" mount.mounted.into();
        counter "mount_requests" "Requests of the kernel that were answered" activity.requests;
        counter "mount_reads" "Reads that the daemon answered" activity.reads;
        counter "mount_read_bytes" "Bytes that those reads gave" activity.read_bytes;
        gauge "waiting_reads" "Reads that wait for other nodes" status.waiting_reads;
        gauge "open_versions" "File versions open through the mount" status.open_versions;
    }
}

fn content(families: &mut Families, status: &Status) {
    let (cache, names) = (&status.cache, &status.namespace);
    let sum = |of: fn(&ShareInfo) -> u64| status.shares.iter().map(of).sum();
    told! { families:
        gauge "cache_used_bytes" "Bytes that the cache uses" cache.used_bytes;
        gauge "cache_budget_bytes" "The most that it may use" cache.budget_bytes;
        gauge "cache_pinned_bytes" "Bytes that are pinned, here or still to come"
            cache.pinned_bytes;
        gauge "cache_files" "Files in it, whole or in part" cache.files;
        gauge "cache_complete_files" "Whole files in it" cache.complete_files;
        gauge "namespace_entries" "Names in the shared folder" names.entries;
        gauge "namespace_unique_bytes" "Bytes of all different contents in the shared folder"
            names.unique_bytes;
        gauge "share_files" "Files that this node shares" sum(|it| it.files);
        gauge "share_bytes" "Their bytes" sum(|it| it.bytes);
        gauge "share_pending_files" "Files to be hashed" sum(|it| it.pending_files);
        gauge "share_left_out_files" "Names in shares that are not shared"
            sum(|it| it.left_out_files);
    }
}

fn network(families: &mut Families, status: &Status, peers: &Peers) {
    let (traffic, dropped) = (&status.traffic, &status.dropped);
    told! { families:
        counter "received_bytes" "File bytes received" traffic.received_bytes;
        counter "sent_bytes" "File bytes sent" traffic.sent_bytes;
        counter "dropped_datagrams" "Datagrams not taken" dropped.datagrams;
        counter "dropped_connections" "Connections that ended" dropped.connections;
    }
    let mut states = OrderedFamily::<StateLabel, Gauge>::default();
    let counts = &status.peers;
    for (state, count) in [
        ("alive", counts.alive),
        ("suspect", counts.suspect),
        ("away", counts.away),
        ("down", counts.down),
    ] {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        states.add(StateLabel { state }).set(count);
    }
    families.0.register("peers", "Other nodes by state", states);
    let native = |peer: &&PeerInfo| peer.plane == Plane::Native && peer.state == PeerState::Alive;
    let mut told: Vec<PeerInfo> = peers.peers.iter().filter(native).cloned().collect();
    // The order of `peers` changes with the speed of the peers.
    told.sort_by(|one, other| one.name.cmp(&other.name));
    told.truncate(PEERS_TOLD_MAX);
    let mut round_trips =
        OrderedFamily::<PeerLabel, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    for peer in &told {
        if let Some(ms) = peer.round_trip_ms {
            round_trips.add(label(peer)).set(ms / 1e3);
        }
    }
    let help = "The usual round trip of a datagram to a peer";
    families
        .0
        .register("peer_round_trip_seconds", help, round_trips);
    let help = "File bytes that a peer gave";
    families.of_peers("peer_received_bytes", help, &told, |peer| {
        peer.received_bytes
    });
    let help = "File bytes that a peer got";
    families.of_peers("peer_sent_bytes", help, &told, |peer| peer.sent_bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use serde_json::json;

    fn status() -> Status {
        let mount = json!({"enabled": true, "mounted": true, "path": "/mnt/p2p"});
        let traffic = json!({"received_bytes": 0, "sent_bytes": 0, "receive_bytes_per_s": 0,
            "send_bytes_per_s": 0});
        let cache = json!({"used_bytes": 0, "budget_bytes": 0, "floor_bytes": 0,
            "pinned_bytes": 0, "files": 0, "complete_files": 0});
        let status = json!({"name": "desk", "node": "00", "version": "1", "pid": 1,
            "started": "2026-01-01T00:00:00Z", "state": "serving", "address": "192.0.2.1:1378",
            "epoch": "00", "mount": mount,
            "peers": {"alive": 2, "suspect": 0, "away": 0, "down": 0},
            "namespace": {"entries": 0, "unique_bytes": 0}, "cache": cache, "traffic": traffic,
            "waiting_reads": 0, "open_versions": 0,
            "dropped": {"datagrams": 0, "connections": 0}, "shares": [], "legacy": false,
            "warnings": []});
        serde_json::from_value(status).unwrap()
    }

    fn peer(name: &str) -> PeerInfo {
        PeerInfo {
            name: name.to_owned(),
            round_trip_ms: Some(1.0),
            ..PeerInfo::default()
        }
    }

    /// Returns the text of the metrics, if the peers are listed in this order.
    fn told(peers: &[&str]) -> String {
        let peers = Peers {
            peers: peers.iter().map(|name| peer(name)).collect(),
        };
        let room = DiskRoom {
            free_bytes: 1,
            total_bytes: 2,
        };
        let health = Health {
            standing: Vec::new(),
            offences: vec![("wrong-bytes", 0), ("too-slow", 0), ("dates-ahead", 0)],
            failed_reads: vec![(ReadFailure::Gone, 0), (ReadFailure::Deadline, 0)],
            damaged_bytes: 0,
            cache_opens: CacheOpens::default(),
            disks: vec![("cache", room), ("state", room)],
        };
        let mut text = String::new();
        encode(&mut text, &registry(&status(), &peers, &health)).unwrap();
        text
    }

    #[test]
    fn metrics_keep_their_order_between_two_readings() {
        let first = told(&["attic", "desk", "nas"]);
        assert_eq!(told(&["nas", "attic", "desk"]), first);
    }

    #[test]
    fn every_metric_of_the_alert_rules_and_the_board_exists() {
        let text = told(&["attic"]);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let names = lines.filter_map(|line| line.split(['{', ' ']).next());
        let names: BTreeSet<&str> = names.collect();
        for file in [
            include_str!("../../../../packaging/grafana/alerts.yml"),
            include_str!("../../../../packaging/grafana/p2pfs.json"),
        ] {
            let words = file.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let metrics: BTreeSet<&str> = words.filter(|it| it.starts_with("p2pfs_")).collect();
            assert!(metrics.len() > 3, "{metrics:?}");
            let unknown: Vec<_> = metrics.difference(&names).collect();
            assert!(unknown.is_empty(), "{unknown:?} of {names:?}");
        }
    }
}
