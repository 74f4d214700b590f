//! The peers of both legacy protocols, as a node sees them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::discovery_plane::{self, Legacy, LegacySettings};
use crate::mesh::{Mesh, MeshSettings};
use crate::wire::discovery::{MemberName, RECEIVED_MAX_BYTES, is_legacy_datagram};
use crate::wire::mesh::is_about_file;
use p2pfs_catalogue::Change;
use p2pfs_fs::ForeignFiles;
use p2pfs_node::api::defaults;
use p2pfs_node::{ForeignHost, ForeignPeer, ForeignPeers, Later, Node, Parcel, PushError};
use p2pfs_transfer::net::socket::{adopt_tcp, listen_tcp};

/// Both legacy protocols, each if it is configured. A node uses them as its [`ForeignPeers`].
pub struct LegacyPeers {
    settings: LegacyPeersSettings,
    /// Listening socket of the mesh, if it was opened before the mesh starts.
    listener: Mutex<Option<TcpListener>>,
    discovery: OnceLock<Legacy>,
    mesh: OnceLock<Mesh>,
}

/// Settings of both protocols; `None` turns one off.
#[derive(Clone, Debug, Default)]
pub struct LegacyPeersSettings {
    /// The discovery protocol: files on demand.
    pub discovery: Option<LegacySettings>,
    /// The mesh: chat and pushed files.
    pub mesh: Option<MeshSettings>,
}

impl LegacyPeers {
    /// Creates peers with these settings. They are inactive until a node calls
    /// [`ForeignPeers::start`].
    pub fn new(settings: LegacyPeersSettings) -> Self {
        Self {
            settings,
            listener: Mutex::default(),
            discovery: OnceLock::new(),
            mesh: OnceLock::new(),
        }
    }

    /// Creates the peers of a mesh that listens at the address `at` and connects to `peers`. Port 0
    /// stands for any free port. The mesh has no authentication: any program that can connect to
    /// the address can become a peer.
    pub fn of_mesh(at: SocketAddrV4, peers: &[SocketAddrV4]) -> Self {
        Self::new(LegacyPeersSettings {
            discovery: None,
            mesh: Some(MeshSettings {
                listen: at.into(),
                peers: peers.iter().copied().map(MemberName::Address).collect(),
                max_peers: defaults::FOREIGN_PEERS as usize,
            }),
        })
    }

    /// Returns the foreign peers of a running node if they are a [`LegacyPeers`].
    pub fn of_node(node: &Node) -> Option<&Self> {
        let peers: &dyn std::any::Any = &**node.foreign()?;
        peers.downcast_ref()
    }

    /// Returns the peers of the discovery protocol, if it is on.
    pub fn discovery(&self) -> Option<&Legacy> {
        self.discovery.get()
    }

    /// Returns the mesh, if it is on.
    pub fn mesh(&self) -> Option<&Mesh> {
        self.mesh.get()
    }

    /// Takes over the listening socket of the mesh from an earlier process. Needs a running tokio
    /// runtime.
    ///
    /// # Errors
    /// If the socket does not listen at this address.
    pub fn adopt_mesh(&self, socket: OwnedFd, at: SocketAddr) -> io::Result<()> {
        *self.listener.lock() = Some(adopt_tcp(socket, at)?);
        Ok(())
    }

    /// Opens the listening socket of the mesh and returns a duplicate of its descriptor. Needs a
    /// running tokio runtime.
    ///
    /// # Errors
    /// The error of the system.
    pub fn open_mesh(&self, at: SocketAddr) -> io::Result<OwnedFd> {
        let mut listener = self.listener.lock();
        let opened = listener.insert(listen_tcp(at)?);
        opened.as_fd().try_clone_to_owned()
    }

    fn start_discovery(&self, settings: LegacySettings, host: ForeignHost) -> Result<(), String> {
        let address = host.address;
        let SocketAddr::V4(own) = address else {
            return Err(format!(
                "they know IPv4 only, and this node is at {address}; set listen to an IPv4 address"
            ));
        };
        let started = discovery_plane::start(settings, own, host);
        let legacy =
            started.map_err(|error| format!("no folder for their files in the cache: {error}"))?;
        let _first = self.discovery.set(legacy);
        Ok(())
    }

    fn start_mesh(&self, settings: MeshSettings, host: ForeignHost) -> Result<(), String> {
        let at = settings.listen;
        let listener = self.listener.lock().take();
        let listener = listener.map_or_else(|| listen_tcp(at), Ok);
        let started = listener.and_then(|socket| Mesh::start(settings, socket, host));
        let started = started.map_err(|error| {
            format!("cannot listen on {at}: {error}; give another port as mesh.listen")
        })?;
        let _first = self.mesh.set(started);
        Ok(())
    }
}

impl ForeignPeers for LegacyPeers {
    fn start(&self, host: ForeignHost) {
        let events = host.events.clone();
        let LegacyPeersSettings { discovery, mesh } = self.settings.clone();
        if let Some(settings) = discovery
            && let Err(why) = self.start_discovery(settings, host.clone())
        {
            events.warn(format!("legacy peers are not spoken to: {why}"));
        }
        if let Some(settings) = mesh
            && let Err(why) = self.start_mesh(settings, host)
        {
            events.warn(format!("mesh peers are not spoken to: {why}"));
        }
    }

    fn files(&self) -> Option<&dyn ForeignFiles> {
        self.discovery().map(|legacy| legacy as &dyn ForeignFiles)
    }

    fn datagram_max_bytes(&self) -> usize {
        self.discovery().map_or(0, |_| RECEIVED_MAX_BYTES)
    }

    fn take_datagram(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        match self.discovery.get() {
            Some(legacy) if is_legacy_datagram(datagram) => {
                legacy.queue_datagram(from, datagram);
                true
            }
            _ => false,
        }
    }

    fn dropped_datagrams(&self) -> u64 {
        self.discovery().map_or(0, Legacy::dropped)
    }

    fn namespace_changed(&self, changes: &[Change]) {
        if let Some(legacy) = self.discovery.get() {
            legacy.namespace_changed(changes);
        }
    }

    fn recipients(&self) -> Later<'_, Vec<ForeignPeer>> {
        Box::pin(async { self.mesh().map(Mesh::recipients).unwrap_or_default() })
    }

    fn carries(&self, message: &[u8]) -> bool {
        !is_about_file(message)
    }

    fn send_file<'a>(
        &'a self,
        id: &'a str,
        parcel: &'a Parcel,
        sent: &'a AtomicU64,
    ) -> Later<'a, Result<(), PushError>> {
        Box::pin(async move {
            let mesh = self.mesh().ok_or(PushError::Gone)?;
            mesh.output(id)?.push(parcel, sent).await
        })
    }

    fn send_bytes<'a>(&'a self, id: &'a str, bytes: Bytes) -> Later<'a, Result<(), PushError>> {
        Box::pin(async move {
            let mesh = self.mesh().ok_or(PushError::Gone)?;
            mesh.output(id)?.message(&bytes).await
        })
    }

    fn say(&self, text: String, skip: Vec<String>) -> Later<'_, Vec<String>> {
        Box::pin(async move {
            let said = self.mesh().map(|mesh| mesh.say(&text, &skip));
            said.unwrap_or_default()
        })
    }
}

impl fmt::Debug for LegacyPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LegacyPeers");
        shown
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
