//! The settings themselves, with their defaults. One struct a section of the file; what is written
//! there, what the daemon uses and what `--check-config` prints are the same types.

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
    /// What this node calls itself; the host's name where nothing is said.
    pub name: NodeName,
    /// Where the node listens, UDP and TCP alike. Port 0 lets the kernel choose.
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// Nodes to say hello to.
    pub seeds: Vec<Seed>,
    /// Several nodes under one name each, for the readers of shares.
    pub groups: Vec<Group>,
    /// A file with the cluster's secret, instead of invitations.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_absolute",
        serialize_with = "optional_lossy"
    )]
    pub secret_file: Option<PathBuf>,
    /// Where the node keeps its key, its secrets and its catalogue.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub state_dir: PathBuf,
    /// Where the cache is.
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
    /// The most it may use.
    #[serde(rename = "size", with = "units::positive_size")]
    pub size_bytes: u64,
    /// What it leaves free on its filesystem.
    #[serde(rename = "floor", with = "units::size")]
    pub floor_bytes: u64,
}

/// `[mount]`: the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountSettings {
    /// Whether there is one.
    pub enabled: bool,
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub dir: PathBuf,
    /// Who owns its files; who mounts where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "user")]
    pub uid: Option<u32>,
    /// Their group.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "group")]
    pub gid: Option<u32>,
    /// What nobody may do there, as by umask(2).
    pub umask: ModeMask,
    /// The same for files alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fmask: Option<ModeMask>,
    /// The same for directories alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dmask: Option<ModeMask>,
    /// How long a read waits without progress before it fails.
    #[serde(with = "units::positive_duration")]
    pub read_deadline: Duration,
}

/// `[readers]`: who reads in the mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderSettings {
    /// Programs that are given cached bytes only, by the name of their process or of their unit.
    pub cached_only: Vec<String>,
    /// Programs, named so, that may have only so much fetched a second.
    pub budgets: Vec<ProgramBudget>,
}

/// `[[share]]`: one folder that this node shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSettings {
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub dir: PathBuf,
    /// Whether files that others may not read are shared as well.
    #[serde(default)]
    pub include_private: bool,
    /// Whether legacy peers are given its files.
    #[serde(default)]
    pub legacy: bool,
    /// Who reads it; everybody where nothing is said.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "readers"
    )]
    pub readers: Option<Vec<String>>,
    /// Patterns of what is kept back.
    #[serde(default, deserialize_with = "patterns")]
    pub exclude: Vec<String>,
    /// Whether what hardly anybody means to share is kept back, too.
    #[serde(default = "yes")]
    pub default_excludes: bool,
}

impl ShareSettings {
    /// A share as it is where nothing is said but its folder.
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

/// `[lan]`: finding other nodes nearby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanSettings {
    /// Whether to look for nodes, and be found, by multicast DNS.
    pub mdns: bool,
}

/// `[membership]`: who counts as alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MembershipSettings {
    /// How often one other node is probed.
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
    /// Whether it is spoken.
    pub enabled: bool,
    /// Legacy peers to say hello to.
    pub members: Vec<Seed>,
    /// How often the member list is sent.
    #[serde(with = "units::positive_duration")]
    pub period: Duration,
    /// How long a search for a file lasts at most.
    #[serde(with = "units::positive_duration")]
    pub waiting: Duration,
    /// How long the lookup of a name that only a legacy peer may have waits.
    #[serde(with = "units::duration")]
    pub lookup: Duration,
    /// How long a stranger waits for our answer.
    #[serde(with = "units::duration")]
    pub responder_delay: Duration,
    /// Whether files of other native nodes are offered to legacy peers.
    pub bridge: bool,
}

/// `[limits]`: what others may take of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// The most that is sent to others, legacy peers included.
    pub up: RateLimit,
    /// The most that is fetched from them.
    pub down: RateLimit,
    /// Whether nothing is fetched that nobody asked for.
    pub metered: bool,
    /// How what is fetched in bulk is marked for the network.
    pub dscp: Dscp,
    /// Connections of other nodes at one time.
    #[serde(deserialize_with = "positive")]
    pub peer_connections: u32,
    /// Connections to the control socket at one time.
    #[serde(deserialize_with = "positive")]
    pub control_connections: u32,
}

/// `[metrics]`: what Prometheus reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where, on this machine alone; nowhere where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<MetricsAddress>,
}

/// `[log]`: what is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// The least that is told.
    pub level: LogLevel,
}

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what the user should know.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// And everything else.
    Trace,
}

impl Config {
    /// The settings where nothing is said.
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

    /// Where the mesh's files go.
    pub fn mesh_inbox(&self) -> &Path {
        self.mesh.inbox.as_deref().unwrap_or(&self.inbox.dir)
    }

    /// The inboxes that are open to somebody, each with the setting that names it.
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

    /// The settings as a configuration file that would set them all.
    pub fn to_toml(&self) -> String {
        // every type above has a TOML form, and tables come after plain values
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
    /// What reads whatever it finds on the usual desktops: thumbnailers, indexers, `updatedb`.
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
    /// The times of the older programs themselves; the lookup outlasts their ten seconds.
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
