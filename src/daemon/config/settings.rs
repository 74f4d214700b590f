//! All settings: the keys above the first section, and the sections of the file. The file, the
//! daemon and the output of `--check-config` use the same types.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::fields::{absolute, listen_address, lossy, optional_absolute, optional_lossy};
use super::group::Group;
use super::place::Place;
use super::sections::*;
use super::seed::Seed;
use super::setting::{Section, Setting, SettingKind, settings};
use p2pfs_types::id::NodeName;

settings! {
    /// All settings.
    #[serde(default, deny_unknown_fields)]
    pub struct Config in "" {
        /// The name of this node: 1 to 63 letters, digits, '-', '_' or '.', not beginning with '-'
        /// or '.'.
        pub name: NodeName = NodeName::from_host(&standard().host),
            Setting::new("name", SettingKind::Text, "n")
                .refuses("-n")
                .by_default("the host's name");

        /// The address on which the node listens, for both UDP and TCP, `"ADDR:PORT"`.
        ///
        /// `"[::]:1378"` serves both families. `"0.0.0.0:1378"` serves IPv4 alone, and cannot use
        /// the IPv6 addresses of seeds. A machine that has addresses of both families announces its
        /// IPv4 address. Nodes that reach it by IPv6 alone use its IPv6 address. With port 0 the
        /// kernel chooses one.
        #[serde(deserialize_with = "listen_address")]
        pub listen: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, super::DEFAULT_PORT)),
            Setting::new("listen", SettingKind::Text, "127.0.0.1:9").refuses("127.0.0.1");

        /// Nodes to contact first, a list of `"HOST:PORT"`. A host name is resolved every 30
        /// seconds, and all its addresses are tried. Nodes on the same LAN find each other without
        /// seeds.
        pub seeds: Vec<Seed> = Vec::new(),
            Setting::new("seeds", SettingKind::List, "a:1, b:2").refuses("a").live();

        /// Names for several nodes together, for the readers of shares: a list of `"NAME=NODE
        /// NODE..."`, such as `"office=alice bob"`.
        ///
        /// Each name may occur once.
        pub groups: Vec<Group> = Vec::new(),
            Setting::new("groups", SettingKind::List, "office=alice bob, lab=carol")
                .refuses("office=alice, office=bob")
                .live();

        /// A regular file with the secret of the cluster, instead of invitations: 64 hexadecimal
        /// digits and a newline, mode 0600.
        ///
        /// The service reads _`/etc/p2pfs/secret`_ without this setting if that file exists.
        #[serde(
            skip_serializing_if = "Option::is_none",
            deserialize_with = "optional_absolute",
            serialize_with = "optional_lossy"
        )]
        pub secret_file: Option<PathBuf> = None,
            Setting::new("secret_file", SettingKind::Path, "/s").shown_as("\"/etc/p2pfs/secret\"");

        /// The directory for the node's key, its secrets and its catalogue.
        #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
        pub state_dir: PathBuf = standard().state_dir,
            Setting::new("state_dir", SettingKind::Path, "/t")
                .by_default("_`/var/lib/p2pfs`_, for a user _`~/.local/state/p2pfs`_");

        /// The directory of the cache.
        ///
        /// Any other directory than the default must belong to the user p2pfs, and the service
        /// needs a line in its unit (`ReadWritePaths=`, see Shared files in `p2pfs(8)`).
        #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
        pub cache_dir: PathBuf = standard().cache_dir,
            Setting::new("cache_dir", SettingKind::Path, "/c")
                .by_default("_`/var/cache/p2pfs`_, for a user _`~/.cache/p2pfs`_");

        /// The control socket, at most 107 bytes.
        #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
        pub socket: PathBuf = standard().socket,
            Setting::new("socket", SettingKind::Path, "/k").by_default(
                "_`/run/p2pfs/p2pfs.sock`_, for a user _`$XDG_RUNTIME_DIR/p2pfs/p2pfs.sock`_",
            );
    }
    sections {
        /// `[cache]`
        pub cache: CacheSettings,
        /// `[mount]`
        pub mount: MountSettings,
        /// `[write]`
        pub write: WriteSettings,
        /// `[keep]`
        pub keep: KeepSettings,
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
}

/// The descriptions of all sections, in the order of the file.
pub const SECTIONS: [Section; 15] = [
    Config::SECTION,
    CacheSettings::SECTION,
    MountSettings::SECTION,
    WriteSettings::SECTION,
    KeepSettings::SECTION,
    ReaderSettings::SECTION,
    LanSettings::SECTION,
    MembershipSettings::SECTION,
    LegacySettings::SECTION,
    MeshSettings::SECTION,
    InboxSettings::SECTION,
    LimitSettings::SECTION,
    MetricsSettings::SECTION,
    LogSettings::SECTION,
    ShareSettings::SECTION,
];

/// Returns the place that `Config::default` has its paths from.
fn standard() -> Place {
    Place::system("node")
}

impl Config {
    /// Returns the defaults of all settings.
    pub fn defaults(place: &Place) -> Self {
        Self {
            name: NodeName::from_host(&place.host),
            state_dir: place.state_dir.clone(),
            cache_dir: place.cache_dir.clone(),
            socket: place.socket.clone(),
            mount: MountSettings {
                dir: place.mount_dir.clone(),
                ..MountSettings::default()
            },
            inbox: InboxSettings {
                dir: place.inbox_dir.clone(),
                ..InboxSettings::default()
            },
            ..Self::default()
        }
    }

    /// Returns the folder for what programs write into the mount, if no other is named.
    pub fn files_dir(&self) -> PathBuf {
        self.state_dir.join("files")
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

    /// Returns the settings as TOML.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).unwrap_or_default()
    }

    /// Returns the settings as a configuration file that sets all of them that have a value.
    pub fn to_toml(&self) -> String {
        // This does not fail: all these types have a TOML form, and the fields that are tables
        // follow those that are plain values.
        toml::to_string(self).unwrap_or_else(|e| format!("# cannot be written: {e}\n"))
    }
}
