//! Beginning a node, with the settings that have no good default first.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::defaults;
use crate::inbox::{Accept, InboxSettings};
use crate::mesh::MeshSettings;
use crate::{GivingSettings, Node, NodeConfig, NodeError};
use p2pfs_cache::CacheConfig;
use p2pfs_legacy::wire::discovery::MemberName;
use p2pfs_types::id::NodeName;

/// A node about to begin. Made by [`Node::builder`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    config: NodeConfig,
    shares: Vec<PathBuf>,
    mesh_peers: Vec<SocketAddrV4>,
}

impl Node {
    /// A node that keeps its key, its secret and its cache beneath `dir`, which is made where it
    /// is missing. Unless told otherwise it is called `name`, listens on any port of every
    /// interface, looks for others on the LAN, caches up to 10 GiB and shares nothing.
    pub fn builder(name: NodeName, dir: impl AsRef<Path>) -> NodeBuilder {
        let dir = dir.as_ref();
        let config = NodeConfig {
            name,
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            advertise: None,
            seeds: Vec::new(),
            secret_file: None,
            state_dir: dir.join("state"),
            cache: CacheConfig {
                dir: dir.join("cache"),
                budget_bytes: defaults::CACHE_BYTES,
                floor_bytes: defaults::FLOOR_BYTES,
            },
            mdns: true,
            probe_period: defaults::PROBE_PERIOD,
            peer_connections: defaults::PEER_CONNECTIONS as usize,
            bulk_code_point: defaults::BULK_CODE_POINT,
            away_grace: defaults::AWAY_GRACE,
            read_deadline: defaults::READ_DEADLINE,
            legacy: None,
            giving: GivingSettings::default(),
            refuse_beneath: Vec::new(),
        };
        NodeBuilder {
            config,
            shares: Vec::new(),
            mesh_peers: Vec::new(),
        }
    }
}

impl NodeBuilder {
    /// Where it listens, by UDP and TCP alike; port 0 takes any.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.config.listen = address;
        self
    }

    /// An address of another node to join through; may be called again for more.
    #[must_use]
    pub fn seed(mut self, address: SocketAddr) -> Self {
        self.config.seeds.push(address);
        self
    }

    /// A file with the cluster's secret: 64 hexadecimal digits, mode 0600. Without one the node
    /// makes a secret of its own, and [`Node::join`] takes another's by invitation.
    #[must_use]
    pub fn secret_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.config.secret_file = Some(file.into());
        self
    }

    /// Whether it finds others on the LAN, and is found.
    #[must_use]
    pub fn lan(mut self, on: bool) -> Self {
        self.config.mdns = on;
        self
    }

    /// The most that its cache may take, and what it leaves free on the filesystem, in bytes.
    #[must_use]
    pub fn cache(mut self, budget_bytes: u64, floor_bytes: u64) -> Self {
        self.config.cache.budget_bytes = budget_bytes;
        self.config.cache.floor_bytes = floor_bytes;
        self
    }

    /// How long a read may wait without a byte of its file coming from anybody. It waits up to six
    /// times as long where somebody that has the file is at work for other reads of this node.
    #[must_use]
    pub fn read_deadline(mut self, deadline: Duration) -> Self {
        self.config.read_deadline = deadline;
        self
    }

    /// A folder to share from the start; may be called again for more.
    #[must_use]
    pub fn share(mut self, dir: impl Into<PathBuf>) -> Self {
        self.shares.push(dir.into());
        self
    }

    /// A folder for the files that others send, shared like any other: of every member of the
    /// cluster, and of peers of the mesh where that is on. It takes up to 10 GiB and leaves 1 GiB
    /// free on its filesystem.
    #[must_use]
    pub fn inbox(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.giving.inbox = Some(InboxSettings {
            dir: dir.into(),
            budget_bytes: defaults::INBOX_BYTES,
            floor_bytes: defaults::FLOOR_BYTES,
        });
        self.config.giving.accept = Accept::Members;
        self
    }

    /// Takes files only of these members, each the 64 hexadecimal digits of its key or the name
    /// that its certificate has. Means something beside [`Self::inbox`].
    #[must_use]
    pub fn inbox_from(mut self, members: impl IntoIterator<Item = String>) -> Self {
        self.config.giving.accept = Accept::Listed(members.into_iter().collect());
        self
    }

    /// Takes part in the legacy peers' mesh, listening at that address; port 0 takes any. Anybody
    /// who can connect is a peer of it.
    #[must_use]
    pub fn mesh(mut self, listen: SocketAddrV4) -> Self {
        self.config.giving.mesh = Some(MeshSettings {
            listen: listen.into(),
            peers: Vec::new(),
            max_peers: defaults::MESH_PEERS as usize,
        });
        self
    }

    /// A peer of the mesh to connect to; may be called again for more. Means something beside
    /// [`Self::mesh`].
    #[must_use]
    pub fn mesh_peer(mut self, address: SocketAddrV4) -> Self {
        self.mesh_peers.push(address);
        self
    }

    /// Begins it, without a mount: it gossips and serves when this returns, while its shares are
    /// still scanned.
    ///
    /// # Errors
    /// [`NodeError`] naming the directory, address or file and the remedy. Nothing keeps running.
    pub async fn start(mut self) -> Result<Node, NodeError> {
        let giving = &mut self.config.giving;
        if let Some(mesh) = &mut giving.mesh {
            let peers = self.mesh_peers.into_iter();
            mesh.peers.extend(peers.map(MemberName::Address));
            giving.mesh_inbox = giving.inbox.clone();
        }
        let inbox = giving.inbox.as_ref().map(|inbox| inbox.dir.clone());
        let mut node = Node::start(self.config).await?;
        // what would be told to a mount
        drop(node.take_changes());
        for dir in self.shares.into_iter().chain(inbox) {
            node.share(dir).await?;
        }
        node.all_shares_added();
        Ok(node)
    }
}
