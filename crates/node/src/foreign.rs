//! Peers that speak another protocol than nodes do.
//!
//! A node has at most one [`ForeignPeers`], which may speak several protocols. The node does not
//! know these protocols. Through [`ForeignPeers`] it reads the files of the peers and sends them
//! files, messages and lines of chat. Through [`ForeignHost`] the peers read the node's files and
//! push files to it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::events::EventLog;
use super::inbox::InboxHandle;
use super::mailbox::Mailbox;
use super::parcel::{Parcel, PushError};
use super::published::Outdated;
use super::traffic::ForeignThrottle;
use p2pfs_catalogue::{Change, View};
use p2pfs_content::{ContentOpener, ContentStore};
use p2pfs_fs::ForeignFiles;
use p2pfs_transfer::net::gossip::UdpPort;
use p2pfs_transfer::net::peer::PeerNet;
use p2pfs_types::id::{NodeId, NodeName};

/// Number of digits of a node's key in its ID among foreign peers.
const ID_DIGITS: usize = 32;

/// A result that arrives later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All peers of other protocols, and what they have.
pub trait ForeignPeers: Any + Debug + Send + Sync {
    /// Starts to speak to the peers, in the runtime of the node. The node calls it once, before any
    /// other method. A part that cannot start stays off, with a warning in the event log. All tasks
    /// must end once [`ForeignHost::stopped`] returns.
    fn start(&self, host: ForeignHost);

    /// Returns the files that the peers offer for reading, or `None` if the peers only push files.
    fn files(&self) -> Option<&dyn ForeignFiles>;

    /// Returns the length of the longest datagram of the peers in bytes; 0 if they send none.
    fn datagram_max_bytes(&self) -> usize;

    /// Takes a datagram of any sender. Returns false if it is not of a protocol of the peers. It
    /// never blocks.
    fn take_datagram(&self, from: SocketAddr, datagram: &[u8]) -> bool;

    /// Returns how many datagrams were dropped, for any reason.
    fn dropped_datagrams(&self) -> u64;

    /// Receives the changes of the namespace, after they are published. It never blocks.
    fn namespace_changed(&self, changes: &[Change]);

    /// Returns the peers to which files can be sent now.
    fn recipients(&self) -> Later<'_, Vec<ForeignPeer>>;

    /// Returns whether a message of these bytes reaches a peer unchanged.
    fn carries(&self, message: &[u8]) -> bool;

    /// Sends a file to the peer with this ID and adds the bytes that were written to `sent`.
    fn send_file<'a>(
        &'a self,
        id: &'a str,
        parcel: &'a Parcel,
        sent: &'a AtomicU64,
    ) -> Later<'a, Result<(), PushError>>;

    /// Sends bytes that are not a file to the peer with this ID.
    fn send_bytes<'a>(&'a self, id: &'a str, bytes: Bytes) -> Later<'a, Result<(), PushError>>;

    /// Sends a line of chat to every peer except those with these IDs. Returns the names of the
    /// receivers.
    fn say(&self, text: String, skip: Vec<String>) -> Later<'_, Vec<String>>;
}

/// A peer, as it identifies itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignPeer {
    /// ID of the peer. A node of the cluster that speaks the protocol uses its [`foreign_id`].
    pub id: String,
    /// Name of the peer. It cannot prove its name.
    pub name: String,
    /// Address where it listens. If that is not known, the address it is connected from.
    pub address: SocketAddr,
}

/// Returns the ID of a node among foreign peers. By this ID, a node recognizes a foreign peer that
/// is also a node of its cluster.
pub fn foreign_id(node: &NodeId) -> String {
    node.short(ID_DIGITS)
}

/// The parts of a node that foreign peers use.
#[derive(Clone)]
pub struct ForeignHost {
    /// Public key of the node.
    pub me: NodeId,
    /// Name of the node.
    pub name: NodeName,
    /// Address at which others reach the node when it starts.
    pub address: SocketAddr,
    /// The socket for datagrams, shared with the native protocol.
    pub udp: UdpPort,
    /// Connections. Those that do not begin as TLS belong to foreign peers.
    pub net: PeerNet,
    /// The files that may be offered to the peers.
    pub offers: OfferSources,
    /// Reading files.
    pub reads: ForeignReads,
    /// Receiving files and messages.
    pub pushes: ForeignPushes,
    /// Rate limits and byte counters.
    pub traffic: ForeignTraffic,
    /// The log of events and warnings.
    pub events: EventLog,
    /// Changes of names for the kernel's caches.
    pub changes: mpsc::Sender<Outdated>,
    /// Becomes true, or loses its sender, when the node ends.
    pub stopping: watch::Receiver<bool>,
}

/// The parts of a node that decide which files are offered.
#[derive(Clone)]
pub struct OfferSources {
    /// The present namespace.
    pub view: Arc<ArcSwap<View>>,
    /// Addresses of the live nodes.
    pub addresses: Arc<ArcSwap<BTreeMap<NodeId, SocketAddr>>>,
    /// The contents of this machine, and the room for unverified bytes.
    pub contents: ContentStore,
}

/// The parts of a node for reading files.
#[derive(Clone)]
pub struct ForeignReads {
    /// Opens the offered files. Each open of a foreign file adds to its count of open versions.
    pub opener: ContentOpener,
    /// How long a read may wait without progress.
    pub deadline: Duration,
}

/// The parts of a node for files and messages that peers push to it.
#[derive(Clone)]
pub struct ForeignPushes {
    /// The folder for pushed files. Without a folder, pushed files are skipped.
    pub inbox: InboxHandle,
    /// The queue of pushed messages to their readers.
    pub mailbox: Mailbox,
}

/// Both directions of the traffic with foreign peers.
#[derive(Clone)]
pub struct ForeignTraffic {
    /// Files that arrive.
    pub taken: ForeignThrottle,
    /// Files that are sent.
    pub given: ForeignThrottle,
}

impl ForeignHost {
    /// Waits until the node ends.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.clone();
        async move {
            let _gone = stopping.wait_for(|stopping| *stopping).await;
        }
    }
}
