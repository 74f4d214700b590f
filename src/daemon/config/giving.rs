//! `[mesh]` and `[inbox]`: files and messages that other nodes send to this node.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fields::{absolute, listen_address, lossy, optional_absolute, optional_lossy, positive};
use super::seed::Seed;
use super::units;
use p2pfs_node::door::defaults;

/// `[mesh]`: the legacy peers' mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeshSettings {
    /// The address that its peers connect to; without it, the mesh is off.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_listen_address"
    )]
    pub listen: Option<SocketAddr>,
    /// Peers to connect to.
    pub peers: Vec<Seed>,
    /// Maximum number of connected peers.
    #[serde(deserialize_with = "positive")]
    pub max_peers: u32,
    /// The folder for files from mesh peers, if it is not the inbox of the other nodes.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_absolute",
        serialize_with = "optional_lossy"
    )]
    pub inbox: Option<PathBuf>,
}

/// `[inbox]`: files that other nodes push to this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InboxSettings {
    /// The folder for received files, which is shared like any other share.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub dir: PathBuf,
    /// The nodes that may send files, by name or key; `*` for all.
    pub from: Vec<String>,
    /// Maximum bytes that its files may use.
    #[serde(rename = "budget", with = "units::positive_size")]
    pub budget_bytes: u64,
    /// Bytes that it leaves free on its filesystem.
    #[serde(rename = "floor", with = "units::size")]
    pub floor_bytes: u64,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            listen: None,
            peers: Vec::new(),
            max_peers: defaults::FOREIGN_PEERS,
            inbox: None,
        }
    }
}

impl Default for InboxSettings {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/p2pfs-inbox"),
            from: Vec::new(),
            budget_bytes: defaults::INBOX_BYTES,
            floor_bytes: defaults::FLOOR_BYTES,
        }
    }
}

fn optional_listen_address<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    listen_address(from).map(Some)
}
