//! The legacy peers' mesh beside the native plane: its state machine, fed and obeyed.
//!
//! Owns the task that drives [`p2pfs_legacy::mesh::MeshMachine`] (`run`), one task for each connection
//! (`session`), what of a pushed file goes where (`files`), and the pushing of files (`push`).
//! Files that come go into the inbox. Present only where the mesh is configured.

mod files;
mod meter;
mod push;
mod run;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use crate::traffic::Passage;
use p2pfs_legacy::mesh::{MeshPeer, Pace};
use p2pfs_legacy::net::mesh::MeshSender;

use meter::Meter;
pub use p2pfs_legacy::mesh::Who;
pub use p2pfs_legacy::wire::discovery::MemberName;
pub use push::{Parcel, PushError};
pub(super) use run::{MeshParts, start};

/// Commands that wait for the plane.
const COMMANDS_MAX: usize = 64;
/// Things that connections have to say and that wait for the plane.
pub const HEARD_MAX: usize = 1024;

/// How the mesh is set; see `[mesh]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Where its peers connect; IPv4.
    pub listen: SocketAddr,
    /// Peers to begin with.
    pub peers: Vec<MemberName>,
    /// Peers at one time.
    pub max_peers: usize,
}

/// One peer with what went to and fro.
#[derive(Clone, Debug)]
pub struct MeshReport {
    /// As the state machine knows it.
    pub peer: MeshPeer,
    /// Bytes of files that came from it.
    pub received_bytes: u64,
    /// Bytes of files that went to it.
    pub sent_bytes: u64,
    /// How fast files came from it the last time that some did, on the connection that it has.
    pub rate_bytes_per_s: Option<f64>,
}

/// How many bytes of files a connection moved.
#[derive(Debug, Default)]
pub(super) struct Moved {
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    meter: Mutex<Meter>,
}

impl Moved {
    fn received(&self, length: u64) {
        self.received_bytes.fetch_add(length, Ordering::Relaxed);
        self.meter.lock().add(Instant::now(), length);
    }

    fn sent(&self, length: u64) {
        self.sent_bytes.fetch_add(length, Ordering::Relaxed);
    }
}

/// A peer that files can be pushed to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) who: Who,
    sender: MeshSender,
    /// Held while a file goes, so that each follows the one before.
    pace: Arc<AsyncMutex<Pace>>,
    moved: Arc<Moved>,
    passage: Passage,
}

enum Command {
    Peers(oneshot::Sender<Vec<MeshReport>>),
    Known(oneshot::Sender<Vec<MemberName>>),
    Targets(oneshot::Sender<Vec<Target>>),
    Say {
        text: String,
        skip: Vec<String>,
        reply: oneshot::Sender<Vec<String>>,
    },
    Connect(MemberName),
    Discover,
}

/// The plane, as the rest of the node holds it. Clones are the same plane.
#[derive(Clone)]
pub struct Mesh {
    commands: mpsc::Sender<Command>,
    address: SocketAddr,
}

impl Mesh {
    /// Where its peers connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The peers, and those that broke the rules; empty where the node is stopping.
    pub async fn peers(&self) -> Vec<MeshReport> {
        self.ask(Command::Peers).await
    }

    /// Addresses that are known and not connected.
    pub async fn known(&self) -> Vec<MemberName> {
        self.ask(Command::Known).await
    }

    /// Connects to another address, now and whenever it is not connected.
    pub async fn connect(&self, address: MemberName) {
        let _stopping = self.commands.send(Command::Connect(address)).await;
    }

    /// Asks every peer for addresses.
    pub async fn discover(&self) {
        let _stopping = self.commands.send(Command::Discover).await;
    }

    /// Says something to every peer but those with these IDs; gives the names of those.
    pub(super) async fn say(&self, text: String, skip: Vec<String>) -> Vec<String> {
        self.ask(|reply| Command::Say { text, skip, reply }).await
    }

    pub(super) async fn targets(&self) -> Vec<Target> {
        self.ask(Command::Targets).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Vec<T>>) -> Command) -> Vec<T> {
        let (reply, answer) = oneshot::channel();
        match self.commands.send(command(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}
