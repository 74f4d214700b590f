//! The settings and their defaults, with one struct for each section of the file. The file, the
//! daemon and the output of `--check-config` use the same types.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::{group, user};
use super::dscp::Dscp;
use super::fields::{
    absolute, listen_address, lossy, optional_absolute, optional_lossy, patterns, positive, yes,
};
use super::giving::{InboxSettings, MeshSettings};
use super::group::{Group, readers};
use super::mask::ModeMask;
use super::metrics::MetricsAddress;
use super::place::Place;
use super::program_budget::ProgramBudget;
use super::rate_limit::RateLimit;
use super::seed::Seed;
use super::units;
use p2pfs_node::door::defaults;
use p2pfs_types::id::NodeName;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name of this node; by default the host's name.
    pub name: NodeName,
    /// The address that the node listens on, for UDP and TCP alike. Port 0 lets the kernel choose.
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// The nodes to contact first.
    pub seeds: Vec<Seed>,
    /// Groups of nodes, for the readers of shares.
    pub groups: Vec<Group>,
    /// A file with the cluster's secret, instead of invitations.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_absolute",
        serialize_with = "optional_lossy"
    )]
    pub secret_file: Option<PathBuf>,
    /// The directory of the node's key, secrets and catalogue.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub state_dir: PathBuf,
    /// The directory of the cache.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub cache_dir: PathBuf,
    /// The control socket.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub socket: PathBuf,
    /// `[cache]`
    pub cache: CacheSettings,
    /// `[mount]`
    pub mount: MountSettings,
    /// `[readers]`
    pub readers: ReaderSettings,
    /// `[lan]`
    pub lan: LanSettings,
    /// `[membership]`
    pub membership: MembershipSettings,
    /// `[legacy]`
    pub legacy: LegacySettings,
    /// `[mesh]`
    pub mesh: MeshSettings,
    /// `[inbox]`
    pub inbox: InboxSettings,
    /// `[limits]`
    pub limits: LimitSettings,
    /// `[metrics]`
    pub metrics: MetricsSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[[share]]`
    pub share: Vec<ShareSettings>,
}

/// `[cache]`: the local cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// Maximum bytes of the cache.
    #[serde(rename = "size", with = "units::positive_size")]
    pub size_bytes: u64,
    /// Bytes that it leaves free on its filesystem.
    #[serde(rename = "floor", with = "units::size")]
    pub floor_bytes: u64,
}

/// `[mount]`: the mounted folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountSettings {
    /// Whether the daemon mounts.
    pub enabled: bool,
    /// The directory to mount at, an absolute path.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub dir: PathBuf,
    /// The owner of its files; by default the user that mounts.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "user")]
    pub uid: Option<u32>,
    /// The group of its files.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "group")]
    pub gid: Option<u32>,
    /// The permissions removed from all files and directories, as by umask(2).
    pub umask: ModeMask,
    /// The permissions removed from files only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fmask: Option<ModeMask>,
    /// The permissions removed from directories only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dmask: Option<ModeMask>,
    /// How long a read waits without progress before it fails.
    #[serde(with = "units::positive_duration")]
    pub read_deadline: Duration,
}

/// `[readers]`: the programs that read in the mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderSettings {
    /// Programs that may read cached bytes only, by the name of their process or unit.
    pub cached_only: Vec<String>,
    /// Programs with a fetch budget, by the name of their process or unit.
    pub budgets: Vec<ProgramBudget>,
}

/// `[[share]]`: one folder that this node shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSettings {
    /// The folder, an absolute path.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub dir: PathBuf,
    /// Whether files that other users may not read are shared, too.
    #[serde(default)]
    pub include_private: bool,
    /// Whether legacy peers receive its files.
    #[serde(default)]
    pub legacy: bool,
    /// The readers; by default all nodes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "readers"
    )]
    pub readers: Option<Vec<String>>,
    /// Patterns of excluded files.
    #[serde(default, deserialize_with = "patterns")]
    pub exclude: Vec<String>,
    /// Whether the default excludes apply, too.
    #[serde(default = "yes")]
    pub default_excludes: bool,
}

impl ShareSettings {
    /// Creates a share with defaults for all settings except its folder.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            include_private: false,
            legacy: false,
            readers: None,
            exclude: Vec::new(),
            default_excludes: true,
        }
    }
}

/// `[lan]`: discovery of nodes nearby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanSettings {
    /// Whether to announce this node and discover others by multicast DNS.
    pub mdns: bool,
}

/// `[membership]`: detection of live nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MembershipSettings {
    /// Interval between probes; each probe checks one other node.
    #[serde(with = "units::positive_duration")]
    pub period: Duration,
    /// How long a node that stopped cleanly still counts as live.
    #[serde(with = "units::duration")]
    pub away_grace: Duration,
}

/// `[legacy]`: the legacy text protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LegacySettings {
    /// Whether the protocol is enabled.
    pub enabled: bool,
    /// The legacy peers to contact first.
    pub members: Vec<Seed>,
    /// Interval between transmissions of the member list.
    #[serde(with = "units::positive_duration")]
    pub period: Duration,
    /// Maximum duration of a search for a file.
    #[serde(with = "units::positive_duration")]
    pub waiting: Duration,
    /// Maximum wait of the lookup of a name that only a legacy peer may have.
    #[serde(with = "units::duration")]
    pub lookup: Duration,
    /// How long an unknown peer waits for our answer.
    #[serde(with = "units::duration")]
    pub responder_delay: Duration,
    /// Whether files of other native nodes are offered to legacy peers.
    pub bridge: bool,
}

/// `[limits]`: limits on this machine's traffic and connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Upper limit of the rate to other nodes, including legacy peers.
    pub up: RateLimit,
    /// Upper limit of the rate from other nodes.
    pub down: RateLimit,
    /// Whether the network is metered, so that only data that a user requested is fetched.
    pub metered: bool,
    /// Network mark of packets of bulk transfers.
    pub dscp: Dscp,
    /// Maximum connections from other nodes.
    #[serde(deserialize_with = "positive")]
    pub peer_connections: u32,
    /// Maximum connections to the control socket.
    #[serde(deserialize_with = "positive")]
    pub control_connections: u32,
}

/// `[metrics]`: the endpoint for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// The local address of the endpoint; if absent, the endpoint is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<MetricsAddress>,
}

/// `[log]`: the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: LogLevel,
}

/// A level of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// Also conditions that the user should know.
    Warn,
    /// Also normal events.
    Info,
    /// Also details of events.
    Debug,
    /// Also everything else.
    Trace,
}

impl Config {
    /// Returns the defaults of all settings.
    pub fn defaults(place: &Place) -> Self {
        Self {
            name: NodeName::from_host(&place.host),
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, super::DEFAULT_PORT)),
            seeds: Vec::new(),
            groups: Vec::new(),
            secret_file: None,
            state_dir: place.state_dir.clone(),
            cache_dir: place.cache_dir.clone(),
            socket: place.socket.clone(),
            cache: CacheSettings::default(),
            mount: MountSettings {
                dir: place.mount_dir.clone(),
                ..MountSettings::default()
            },
            readers: ReaderSettings::default(),
            lan: LanSettings::default(),
            membership: MembershipSettings::default(),
            legacy: LegacySettings::default(),
            mesh: MeshSettings::default(),
            inbox: InboxSettings {
                dir: place.inbox_dir.clone(),
                ..InboxSettings::default()
            },
            limits: LimitSettings::default(),
            metrics: MetricsSettings::default(),
            log: LogSettings::default(),
            share: Vec::new(),
        }
    }

    /// Returns the folder for files from mesh peers.
    pub fn mesh_inbox(&self) -> &Path {
        self.mesh.inbox.as_deref().unwrap_or(&self.inbox.dir)
    }

    /// Returns the inboxes that accept files, each with the setting that names it.
    pub fn inboxes(&self) -> Vec<(&'static str, &Path)> {
        let mut open = Vec::new();
        if !self.inbox.from.is_empty() {
            open.push(("inbox.dir", self.inbox.dir.as_path()));
        }
        if self.mesh.listen.is_some() {
            let key = match self.mesh.inbox {
                Some(_) => "mesh.inbox",
                None => "inbox.dir",
            };
            open.push((key, self.mesh_inbox()));
        }
        open.dedup_by_key(|(_, dir)| *dir);
        open
    }

    /// Returns the settings as a configuration file that sets all of them.
    pub fn to_toml(&self) -> String {
        // All these types have a TOML form, and tables follow plain values.
        toml::to_string(self).unwrap_or_else(|e| format!("# cannot be written: {e}\n"))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::defaults(&Place::system("node"))
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            size_bytes: defaults::CACHE_BYTES,
            floor_bytes: defaults::FLOOR_BYTES,
        }
    }
}

impl Default for MountSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: PathBuf::from("/mnt/p2p"),
            uid: None,
            gid: None,
            umask: ModeMask(0o022),
            fmask: None,
            dmask: None,
            read_deadline: defaults::READ_DEADLINE,
        }
    }
}

impl Default for ReaderSettings {
    /// Returns the programs of common desktops that read all files they find: thumbnailers,
    /// indexers, `updatedb`.
    fn default() -> Self {
        let programs = [
            "tumblerd",
            "evince-thumbnailer",
            "papers-thumbnailer",
            "atril-thumbnailer",
            "xreader-thumbnailer",
            "totem-video-thumbnailer",
            "gst-video-thumbnailer",
            "gst-audio-thumbnailer",
            "ffmpegthumbnailer",
            "gdk-pixbuf-thumbnailer",
            "glycin-thumbnailer",
            "gsf-office-thumbnailer",
            "gnome-thumbnail-font",
            "mate-thumbnail-font",
            "thumbnail.so",
            "localsearch-3",
            "localsearch-extractor-3",
            "tracker-miner-fs-3",
            "tracker-extract-3",
            "baloo_file",
            "baloo_file_extractor",
            "recollindex",
            "updatedb",
            "updatedb.plocate",
            "updatedb.mlocate",
            "tumblerd.service",
            "localsearch-3.service",
            "tracker-miner-fs-3.service",
            "kde-baloo.service",
            "plocate-updatedb.service",
            "mlocate-updatedb.service",
        ];
        Self {
            cached_only: programs.map(str::to_owned).to_vec(),
            budgets: Vec::new(),
        }
    }
}

impl Default for LanSettings {
    fn default() -> Self {
        Self { mdns: true }
    }
}

impl Default for MembershipSettings {
    fn default() -> Self {
        Self {
            period: defaults::PROBE_PERIOD,
            away_grace: defaults::AWAY_GRACE,
        }
    }
}

impl Default for LegacySettings {
    /// Returns the time limits of the legacy programs. The lookup outlasts their ten seconds.
    fn default() -> Self {
        Self {
            enabled: false,
            members: Vec::new(),
            period: Duration::from_secs(20),
            waiting: Duration::from_secs(100),
            lookup: Duration::from_secs(12),
            responder_delay: Duration::from_secs(10),
            bridge: false,
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            up: RateLimit(None),
            down: RateLimit(None),
            metered: false,
            dscp: Dscp::default(),
            peer_connections: defaults::PEER_CONNECTIONS,
            control_connections: 64,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
        }
    }
}
