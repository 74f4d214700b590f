//! How a node is.

use std::net::SocketAddr;

use crate::cache::CacheUsage;
use crate::id::{EpochId, NodeId, NodeName};
use crate::node::{MemberReport, Node};
use crate::share::ShareStatus;

/// How a node is, at one moment.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its key's public half.
    pub id: NodeId,
    /// What it calls itself.
    pub name: NodeName,
    /// Where others reach it.
    pub address: SocketAddr,
    /// Every other node that is known.
    pub members: Vec<MemberReport>,
    /// What it shares, and how far that is.
    pub shares: Vec<ShareStatus>,
    /// What its cache takes and may take.
    pub cache: CacheUsage,
    /// Listed files, links and directories.
    pub entries: u64,
    /// Bytes of the different contents that live nodes can give.
    pub unique_bytes: u64,
    /// Which of the cluster's secrets is in force.
    pub epoch: EpochId,
    /// Reads that wait for other nodes.
    pub waiting_reads: u64,
    /// Versions that are open.
    pub open_versions: usize,
    /// Datagrams that were dropped since the start, for whatever reason.
    pub dropped_datagrams: u64,
    /// Connections that ended since the start, for whatever reason.
    pub dropped_connections: u64,
    /// What a person should know, oldest first.
    pub warnings: Vec<String>,
    /// Those of them that every user of this machine may know.
    pub public_warnings: Vec<String>,
}

impl Node {
    /// How it is now, or was a tenth of a second ago. Asks no event loop, so it answers whatever
    /// the node has to do, and tells the last of one that has stopped.
    pub fn status(&self) -> NodeStatus {
        let legacy_datagrams = self.legacy().map_or(0, |legacy| legacy.dropped());
        let totals = self.view().totals();
        NodeStatus {
            id: self.id(),
            name: self.name().clone(),
            address: self.address(),
            members: self.published.members.load().to_vec(),
            shares: self.shared(),
            cache: self.cache_usage(),
            entries: totals.entries,
            unique_bytes: totals.unique_bytes,
            epoch: self.keyring.current().id(),
            waiting_reads: self.content.waiting_reads(),
            open_versions: self.content.open_versions(),
            dropped_datagrams: self.published.dropped_datagrams() + legacy_datagrams,
            dropped_connections: self.net.counters().dropped.iter().sum(),
            warnings: self.running.events.warnings(),
            public_warnings: self.running.events.public_warnings(),
        }
    }
}
