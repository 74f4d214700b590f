//! `[mesh]`: the legacy peers' mesh.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::super::fields::{optional_absolute, optional_listen_address, optional_lossy, positive};
use super::super::seed::Seed;
use super::super::setting::{Setting, SettingKind, settings};
use p2pfs_node::api::defaults;

settings! {
    /// `[mesh]`: the legacy peers' mesh.
    ///
    /// The legacy peers' mesh (see THE MESH in `p2pfs-legacy(7)`). It is enabled if there is an address to
    /// listen on.
    #[serde(default, deny_unknown_fields)]
    pub struct MeshSettings in "mesh" {
        /// The address for mesh peers, `"ADDRESS:PORT"`; IPv4.
        ///
        /// Nodes on one machine need different ports, and no port should end in the digits of
        /// another: the older program takes 8001 and 18001 for the same port.
        #[serde(
            skip_serializing_if = "Option::is_none",
            deserialize_with = "optional_listen_address"
        )]
        pub listen: Option<SocketAddr> = None,
            Setting::new("mesh.listen", SettingKind::Text, "0.0.0.0:7")
                .refuses("[::]:7")
                .shown_as("\"0.0.0.0:18001\"");

        /// Peers to connect to, a list of `"HOST:PORT"`; the node never stops trying them.
        pub peers: Vec<Seed> = Vec::new(),
            Setting::new("mesh.peers", SettingKind::List, "x:1").refuses("x");

        /// Maximum number of peers at one time; the next one receives MAX_PEERS.
        #[serde(deserialize_with = "positive")]
        pub max_peers: u32 = defaults::FOREIGN_PEERS,
            Setting::new("mesh.max_peers", SettingKind::Number, "3").refuses("0");

        /// The folder for files that mesh peers push, if it is not `dir` of `[inbox]`.
        ///
        /// Mesh peers push to every peer, so this folder accepts files from all of them, within
        /// `budget` and `floor`.
        #[serde(
            skip_serializing_if = "Option::is_none",
            deserialize_with = "optional_absolute",
            serialize_with = "optional_lossy"
        )]
        pub inbox: Option<PathBuf> = None,
            Setting::new("mesh.inbox", SettingKind::Path, "/i")
                .by_default("`dir` of `[inbox]`")
                .shown_as("\"/var/lib/p2pfs-inbox\"");
    }
}
