//! The plane of the mesh protocol, beside the native plane. [`Mesh`] is its handle for the rest of
//! the node.
//!
//! It has the task that drives [`MeshMachine`](crate::mesh::MeshMachine) (`run`), a reading and a
//! writing task for each connection (`session`), the writing of received files into the inbox
//! (`files`), the sending of files (`push`), and the counters of their bytes (`meter`). The mesh
//! exists only if it is configured.

mod files;
mod meter;
mod push;
mod run;
mod session;

use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot};

use crate::mesh::MeshPeer;
use p2pfs_node::{ForeignPeer, PushError};

pub use crate::mesh::Who;
pub use crate::wire::discovery::MemberName;
use push::PushTarget;
pub(super) use run::start;

/// Maximum number of commands queued for the plane.
const COMMANDS_MAX: usize = 64;
/// Maximum number of messages from connections queued for the plane.
pub const HEARD_MAX: usize = 1024;

/// Settings of the mesh; see `[mesh]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// IPv4 address to which mesh peers connect.
    pub listen: SocketAddr,
    /// The configured peers, which are dialled whenever they are not connected.
    pub peers: Vec<MemberName>,
    /// Maximum number of peers at once.
    pub max_peers: usize,
}

/// One peer with its transfer counters.
#[derive(Clone, Debug)]
pub struct MeshReport {
    /// State of the peer in the state machine.
    pub peer: MeshPeer,
    /// Bytes of files received from the peer.
    pub received_bytes: u64,
    /// Bytes of files sent to the peer.
    pub sent_bytes: u64,
    /// Receive rate in bytes per second when files last arrived on an open connection of the peer.
    pub rate_bytes_per_s: Option<f64>,
}

enum MeshCommand {
    Peers(oneshot::Sender<Vec<MeshReport>>),
    Known(oneshot::Sender<Vec<MemberName>>),
    Targets(oneshot::Sender<Vec<PushTarget>>),
    Say {
        text: String,
        skip: Vec<String>,
        reply: oneshot::Sender<Vec<String>>,
    },
    Connect(MemberName),
    Discover,
}

/// Handle of the plane for the rest of the node. Clones share their state.
#[derive(Clone)]
pub struct Mesh {
    commands: mpsc::Sender<MeshCommand>,
    address: SocketAddr,
}

impl Mesh {
    /// Returns the address to which mesh peers connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the peers, and those that broke the rules; empty if the node is stopping.
    pub async fn peers(&self) -> Vec<MeshReport> {
        self.ask(MeshCommand::Peers).await
    }

    /// Returns the known addresses that are not connected.
    pub async fn known(&self) -> Vec<MemberName> {
        self.ask(MeshCommand::Known).await
    }

    /// Connects to an address, now and whenever it is not connected.
    pub async fn connect(&self, address: MemberName) {
        let _stopping = self.commands.send(MeshCommand::Connect(address)).await;
    }

    /// Asks every peer for addresses.
    pub async fn discover(&self) {
        let _stopping = self.commands.send(MeshCommand::Discover).await;
    }

    /// Sends a chat message to every peer except those with an ID in `skip`. Returns the names of
    /// the recipients.
    pub(crate) async fn say(&self, text: String, skip: Vec<String>) -> Vec<String> {
        self.ask(|reply| MeshCommand::Say { text, skip, reply })
            .await
    }

    /// Returns the peers to which files can be pushed now.
    pub(crate) async fn recipients(&self) -> Vec<ForeignPeer> {
        let targets = self.targets().await.into_iter();
        targets.map(|target| run::shown(target.who)).collect()
    }

    /// Returns the peer with this ID.
    ///
    /// # Errors
    /// [`PushError::Gone`] if it is not connected.
    pub(crate) async fn target(&self, id: &str) -> Result<PushTarget, PushError> {
        let mut targets = self.targets().await.into_iter();
        targets
            .find(|target| target.who.id == id)
            .ok_or(PushError::Gone)
    }

    async fn targets(&self) -> Vec<PushTarget> {
        self.ask(MeshCommand::Targets).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Vec<T>>) -> MeshCommand) -> Vec<T> {
        let (reply, answer) = oneshot::channel();
        match self.commands.send(command(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}
