//! `[mesh]` and `[inbox]`: what others give this node unasked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fields::{absolute, listen_address, lossy, optional_absolute, optional_lossy, positive};
use super::seed::Seed;
use super::settings::Config;
use super::units;
use crate::node::door::defaults;

/// `[mesh]`: the legacy peers' mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeshSettings {
    /// Where its peers connect; it is off where nothing is said.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_listen_address"
    )]
    pub listen: Option<SocketAddr>,
    /// Peers to connect to.
    pub peers: Vec<Seed>,
    /// Peers at one time.
    #[serde(deserialize_with = "positive")]
    pub max_peers: u32,
    /// Where files of its peers go, if not where those of other nodes go.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_absolute",
        serialize_with = "optional_lossy"
    )]
    pub inbox: Option<PathBuf>,
}

/// `[inbox]`: what others push to this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InboxSettings {
    /// Where it goes: a folder that is shared like any other.
    #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
    pub dir: PathBuf,
    /// Nodes whose files are taken, by name or key; `*` for all.
    pub from: Vec<String>,
    /// The most that its files may take.
    #[serde(rename = "budget", with = "units::positive_size")]
    pub budget_bytes: u64,
    /// What is left free on its filesystem.
    #[serde(rename = "floor", with = "units::size")]
    pub floor_bytes: u64,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            listen: None,
            peers: Vec::new(),
            max_peers: defaults::MESH_PEERS,
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

impl Config {
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
}

fn optional_listen_address<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    listen_address(from).map(Some)
}
