//! Settings of a node, with their defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::api::KeepSettings;
use super::foreign::ForeignPeers;
use super::giving::GivingSettings;
use p2pfs_content::cache::CacheConfig;
use p2pfs_fs::WriteLimits;
use p2pfs_types::id::NodeName;

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of the node.
    pub name: NodeName,
    /// The addresses and connections of the node.
    pub network: NetworkConfig,
    /// File with the cluster's secret.
    pub secret_file: Option<PathBuf>,
    /// Directory for key, secret, catalogue and share state.
    pub state_dir: PathBuf,
    /// Settings of the cache.
    pub cache: CacheConfig,
    /// Interval between probes of other nodes. The other times that determine how soon a dead node
    /// is noticed scale with it.
    pub probe_period: Duration,
    /// How long other nodes keep this node's entries after a clean stop.
    pub away_grace: Duration,
    /// The files of other nodes that the node keeps.
    pub keep: KeepSettings,
    /// How long a read may wait while no byte of its file arrives.
    pub read_deadline: Duration,
    /// The peers of other protocols that the node speaks to.
    pub foreign: Option<Arc<dyn ForeignPeers>>,
    /// Limits of what programs write into the mount.
    pub writing: WriteLimits,
    /// Settings for pushed files and chat.
    pub giving: GivingSettings,
    /// Paths at and below which nothing is shared or opened, such as own mounts. The state
    /// directory and the cache directory are always added.
    pub refuse_beneath: Vec<PathBuf>,
    /// Folders in the state directory that may be shared all the same.
    pub allow_beneath: Vec<PathBuf>,
}

/// The addresses and connections of a node.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Address to listen on; port 0 takes any free port.
    pub listen: SocketAddr,
    /// Address at which other nodes reach this node, if it differs from the listening address.
    pub advertise: Option<SocketAddr>,
    /// Addresses to join through, in addition to those of the members stored by an earlier run.
    pub seeds: Vec<SocketAddr>,
    /// Whether to find other nodes by mDNS and be found.
    pub mdns: bool,
    /// Maximum number of accepted connections.
    pub peer_connections: usize,
    /// DSCP code point of bulk packets; `None` leaves them unmarked.
    pub bulk_code_point: Option<u8>,
}

impl NodeConfig {
    /// Returns the default settings of a node with its directories below `dir`.
    pub(crate) fn new(name: NodeName, dir: &Path) -> Self {
        Self {
            name,
            network: NetworkConfig {
                listen: SocketAddr::from(([0, 0, 0, 0], 0)),
                advertise: None,
                seeds: Vec::new(),
                mdns: true,
                peer_connections: defaults::PEER_CONNECTIONS as usize,
                bulk_code_point: defaults::BULK_CODE_POINT,
            },
            secret_file: None,
            state_dir: dir.join("state"),
            cache: CacheConfig {
                dir: dir.join("cache"),
                budget_bytes: defaults::CACHE_BYTES,
                floor_bytes: defaults::FLOOR_BYTES,
            },
            probe_period: defaults::PROBE_PERIOD,
            away_grace: defaults::AWAY_GRACE,
            keep: KeepSettings {
                paths: Vec::new(),
                budget_bytes: None,
                copies: None,
                takeover: defaults::TAKEOVER,
            },
            read_deadline: defaults::READ_DEADLINE,
            foreign: None,
            writing: WriteLimits::default(),
            giving: GivingSettings::default(),
            refuse_beneath: Vec::new(),
            allow_beneath: Vec::new(),
        }
    }
}

/// Defaults of the settings that both the daemon and an embedding program can set.
pub mod defaults {
    use std::time::Duration;

    use p2pfs_transfer::net::peer;

    /// Budget of the cache: 10 GiB.
    pub const CACHE_BYTES: u64 = 10 << 30;
    /// Space that the cache and the inbox leave free on their filesystems: 1 GiB.
    pub const FLOOR_BYTES: u64 = 1 << 30;
    /// Space that programs which write into the mount leave free: 256 MiB. The cache stops earlier,
    /// so that a full cache leaves room for them.
    pub const WRITE_FLOOR_BYTES: u64 = p2pfs_fs::FLOOR_BYTES;
    /// Maximum size of another node's file that is copied before a change of it: 256 MiB.
    pub const COPY_UP_MAX_BYTES: u64 = p2pfs_fs::COPY_MAX_BYTES;
    /// How long removed and replaced files are kept: 30 days.
    pub const KEEP_REPLACED: Duration = p2pfs_fs::KEPT_TIME;
    /// Budget of an inbox: 10 GiB.
    pub const INBOX_BYTES: u64 = 10 << 30;
    /// Maximum number of connected foreign peers.
    pub const FOREIGN_PEERS: u32 = 20;
    /// Interval between probes of other nodes.
    pub const PROBE_PERIOD: Duration = p2pfs_membership::PROBE_PERIOD;
    /// Maximum number of accepted connections.
    pub const PEER_CONNECTIONS: u32 = peer::ACCEPTED_CONNECTIONS;
    /// DSCP code point of bulk packets: Lower Effort (RFC 8622).
    pub const BULK_CODE_POINT: Option<u8> = Some(1);
    /// How long other nodes keep a node's entries after it stopped cleanly.
    pub const AWAY_GRACE: Duration = p2pfs_membership::AWAY_GRACE;
    /// How long another keeper may be absent before the next one keeps its files: 10 minutes, longer
    /// than most machines take for a restart with an upgrade.
    pub const TAKEOVER: Duration = Duration::from_secs(600);
    /// How long a read waits while no byte of its file arrives.
    /// [`NodeBuilder::read_deadline`](crate::api::NodeBuilder::read_deadline) says when it waits longer.
    pub const READ_DEADLINE: Duration = Duration::from_secs(10);
}
