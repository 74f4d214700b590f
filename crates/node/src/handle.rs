//! The handle of a running node. It returns the parts of the interface, one for each subject.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::NodeError;
use super::api::{
    DropTotals, FileAccess, FolderTotals, Messenger, NameLookup, NodeBuilder, NodeCache,
    NodeHealth, NodeKeeper, NodeMembership, NodePeers, NodePins, NodeShares, NodeStatus,
    NodeTraffic, OpenReads, Resignation,
};
use super::config::NodeConfig;
use super::deletions::Deletions;
use super::events::{Audience, EventLog};
use super::foreign::ForeignPeers;
use super::published::Outdated;
use super::run::LoopCommand;
use super::sockets::Sockets;
use super::start::NodeStart;
use super::store::StoreError;
use p2pfs_membership::Leave;
use p2pfs_proto::trust::TrustError;
use p2pfs_transfer::net::lan::Lan;
use p2pfs_types::id::{NodeId, NodeName};

/// Maximum time that [`Node::stop`] waits until the farewell is sent (three times within 120 ms) and
/// the last changes are on the disk. A disk that hangs must not prevent the end. A service manager
/// kills the daemon after 20 s (`TimeoutStopSec=` of its unit).
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// Part of a stop that failed. The node has stopped all the same.
#[derive(Debug, thiserror::Error)]
pub enum StopProblem {
    /// The node is about to leave for good, and could not state it.
    #[error("the others take this node for a member until it is expelled: {0}")]
    NotResigned(NodeError),
    /// The disk refused the last changes.
    #[error("what changed last is not stored: {0}")]
    NotStored(StoreError),
    /// The disk did not answer in time.
    #[error(
        "the last changes may be lost: a disk did not answer within {} s",
        STOP_LIMIT.as_secs()
    )]
    SilentDisk,
}

/// The connections of the handle to the event loop and to the mDNS task.
pub(super) struct LoopControl {
    /// Becomes true when the event loop has ended.
    pub(super) stopping: watch::Receiver<bool>,
    /// Why the event loop could not store the last changes.
    pub(super) unstored: Arc<Mutex<Option<StoreError>>>,
    /// The mDNS announcement of this node, withdrawn when the node stops.
    pub(super) lan: Mutex<Option<Lan>>,
    /// Fails when the thread that checks the cache has ended.
    pub(super) cache_check: Mutex<Option<oneshot::Receiver<()>>>,
    /// The namespace changes, until the owner of the mount takes them.
    pub(super) changes: Option<mpsc::Receiver<Outdated>>,
}

/// A running node. Dropping this handle stops the node without a farewell.
pub struct Node {
    pub(super) membership: NodeMembership,
    /// The pins, with the cache, the files and the names that they use.
    pub(super) pins: NodePins,
    pub(super) keeper: NodeKeeper,
    pub(super) shares: NodeShares,
    pub(super) deletions: Deletions,
    pub(super) peers: NodePeers,
    pub(super) traffic: NodeTraffic,
    pub(super) messenger: Messenger,
    pub(super) health: NodeHealth,
    pub(super) control: LoopControl,
}

impl Node {
    /// Returns a builder for a node that keeps its key, its secret and its cache beneath `dir`,
    /// which is created if it is missing. By default the node is called `name`, listens on any port
    /// of every IPv4 address, finds other nodes on the LAN, caches up to 10 GiB and shares nothing.
    pub fn builder(name: NodeName, dir: impl AsRef<Path>) -> NodeBuilder {
        NodeBuilder::new(name, dir.as_ref())
    }

    /// Starts a node. When this returns, the node gossips and serves, but shares nothing until the
    /// caller adds shares.
    ///
    /// # Errors
    /// [`NodeError`], which names the directory, address or file and the remedy. Then nothing keeps
    /// running.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        Self::start_on(config, Sockets::default()).await
    }

    /// Starts a node as [`Node::start`] does, on sockets that an earlier process has opened or that
    /// will outlive this node.
    ///
    /// # Errors
    /// Those of [`Node::start`].
    pub async fn start_on(config: NodeConfig, sockets: Sockets) -> Result<Self, NodeError> {
        let (start, inputs) = NodeStart::open(config, sockets)?;
        Ok(start.assemble(inputs))
    }

    /// Returns the public half of the node's key.
    pub fn id(&self) -> NodeId {
        self.membership.key.node_id()
    }

    /// Returns the name of the node.
    pub fn name(&self) -> &NodeName {
        &self.membership.name
    }

    /// Returns the address at which other nodes reach this one. Unless the settings name a specific
    /// address, it changes with the addresses of the machine.
    pub fn address(&self) -> SocketAddr {
        **self.membership.published.own_address.load()
    }

    /// Returns the names of the folder.
    pub fn names(&self) -> &NameLookup {
        &self.pins.files.names
    }

    /// Returns the bytes of files.
    pub fn files(&self) -> &FileAccess {
        &self.pins.files
    }

    /// Returns the cache.
    pub fn cache(&self) -> &NodeCache {
        &self.pins.cache
    }

    /// Returns the pins.
    pub fn pins(&self) -> &NodePins {
        &self.pins
    }

    /// Returns the keeping of the files of other nodes.
    pub fn keeper(&self) -> &NodeKeeper {
        &self.keeper
    }

    /// Returns the shared folders.
    pub fn shares(&self) -> &NodeShares {
        &self.shares
    }

    /// Returns the deletions of versions of other nodes, for the threads of a mount.
    pub fn deletions(&self) -> &Deletions {
        &self.deletions
    }

    /// Returns the other nodes.
    pub fn peers(&self) -> &NodePeers {
        &self.peers
    }

    /// Returns the traffic with other nodes.
    pub fn traffic(&self) -> &NodeTraffic {
        &self.traffic
    }

    /// Returns the membership of this node.
    pub fn membership(&self) -> &NodeMembership {
        &self.membership
    }

    /// Returns the sender of files, bytes and lines of chat.
    pub fn messenger(&self) -> &Messenger {
        &self.messenger
    }

    /// Returns the health of this node.
    pub fn health(&self) -> &NodeHealth {
        &self.health
    }

    /// Returns the log of events.
    pub fn events(&self) -> &EventLog {
        &self.health.events
    }

    /// Returns the peers of other protocols, if the node speaks to any.
    pub fn foreign(&self) -> Option<&Arc<dyn ForeignPeers>> {
        self.files().namespace.foreign.as_ref()
    }

    /// Sets the content of `.p2pfs/status.json`.
    pub fn publish_status(&self, json: Vec<u8>) {
        self.membership.published.status.store(Arc::new(json));
    }

    /// Takes the receiver of namespace changes, for the owner of the mount. Returns `None` after
    /// the first call.
    pub fn take_changes(&mut self) -> Option<mpsc::Receiver<Outdated>> {
        self.control.changes.take()
    }

    /// Returns the current status. Does not wait for the event loop, so that a busy loop does not
    /// delay the status. The list of members is the one that the loop published last.
    pub fn status(&self) -> NodeStatus {
        let (events, published) = (self.events(), &self.membership.published);
        let opener = &self.files().opener;
        let foreign = self
            .foreign()
            .map_or(0, |foreign| foreign.dropped_datagrams());
        let totals = published.view.load().totals();
        let shares = self.shares.list();
        let standing = events.standing();
        let of = |happenings: Vec<String>, audience| {
            let standing = standing.iter().cloned();
            let seen = standing.filter_map(|it| it.seen_by(audience));
            let said = seen.map(|it| it.sentence());
            happenings.into_iter().chain(said).collect()
        };
        NodeStatus {
            id: self.id(),
            name: self.name().clone(),
            address: self.address(),
            members: published.members.load().to_vec(),
            shares,
            cache: self.cache().usage(),
            folder: FolderTotals {
                entries: totals.entries,
                unique_bytes: totals.unique_bytes,
            },
            epoch: self.membership.view().epochs().sealing().id(),
            reads: OpenReads {
                waiting: opener.waiting_reads(),
                open_versions: opener.open_versions().count(),
            },
            dropped: DropTotals {
                datagrams: published.dropped_datagrams() + foreign,
                connections: self.membership.net.counters().dropped.iter().sum(),
            },
            warnings: of(events.warnings(), Audience::Owner),
            public_warnings: of(events.public_warnings(), Audience::Everybody),
        }
    }

    /// Sends the farewell, ends the event loop and stores the last changes. Returns when they are on
    /// the disk, or after 12 s if the disk does not answer. With [`Leave::Final`], the node first
    /// resigns from the cluster ([`NodeMembership::resign`]), unless it has done so. That takes up
    /// to 3 s. Returns what went wrong. A resignation that no other node received yet, and a failed
    /// write of the shares' ledger, which the ledger reports itself, are not in it.
    pub async fn stop(&self, leave: Leave) -> Vec<StopProblem> {
        let mut problems = Vec::new();
        if leave == Leave::Final {
            let not_resigned = match timeout(STOP_LIMIT, self.membership.resign()).await {
                Ok(Ok(Resignation::NotStated(error))) => Some(error.into()),
                Ok(Ok(Resignation::Received | Resignation::Unreceived)) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(TrustError::StandsStill.into()),
            };
            problems.extend(not_resigned.map(StopProblem::NotResigned));
        }
        let ended = async {
            tokio::join!(self.end_loop(leave), self.withdraw_from_lan());
            let cache_check = self.control.cache_check.lock().take();
            if let Some(end) = cache_check {
                let _it_only_fails = end.await;
            }
            let shares = self.shares.set.clone();
            // The ledger reports a failed write, and the panic hook a panic.
            let _panicked = tokio::task::spawn_blocking(move || shares.store()).await;
        };
        let is_silent = timeout(STOP_LIMIT, ended).await.is_err();
        let unstored = self.control.unstored.lock().take();
        problems.extend(unstored.map(StopProblem::NotStored));
        problems.extend(is_silent.then_some(StopProblem::SilentDisk));
        problems
    }

    /// Sends the farewell and waits until the event loop has stored everything and ended.
    async fn end_loop(&self, leave: Leave) {
        let mut stopping = self.control.stopping.clone();
        let commands = &self.membership.commands;
        if commands.send(LoopCommand::Leave(leave)).await.is_ok() {
            let _ended = stopping.wait_for(|stopped| *stopped).await;
        }
    }

    async fn withdraw_from_lan(&self) {
        let lan = self.control.lan.lock().take();
        if let Some(lan) = lan {
            lan.shutdown().await;
        }
    }
}
