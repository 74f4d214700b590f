//! The status of a node.

use std::net::SocketAddr;

use crate::MemberReport;
use p2pfs_content::cache::CacheUsage;
use p2pfs_content::shares::ShareStatus;
use p2pfs_types::id::{EpochId, NodeId, NodeName};

/// The status of a node at one moment.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Public half of the node's key.
    pub id: NodeId,
    /// The name of the node.
    pub name: NodeName,
    /// The address at which other nodes reach it.
    pub address: SocketAddr,
    /// Every other known node.
    pub members: Vec<MemberReport>,
    /// The shared folders and their progress.
    pub shares: Vec<ShareStatus>,
    /// The space that the cache takes and may take.
    pub cache: CacheUsage,
    /// The totals of the namespace.
    pub folder: FolderTotals,
    /// The epoch of the cluster's current secret.
    pub epoch: EpochId,
    /// The reads and the files that are open.
    pub reads: OpenReads,
    /// The dropped datagrams and connections.
    pub dropped: DropTotals,
    /// Recent warnings, oldest first, then the conditions that stand now.
    pub warnings: Vec<String>,
    /// The warnings that every user of this machine may see.
    pub public_warnings: Vec<String>,
}

/// The totals of the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FolderTotals {
    /// Number of listed files, links and directories.
    pub entries: u64,
    /// Total size in bytes of the different contents that live nodes have.
    pub unique_bytes: u64,
}

/// The reads and the files that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenReads {
    /// Number of reads that wait for other nodes.
    pub waiting: u64,
    /// Number of open versions.
    pub open_versions: usize,
}

/// The dropped datagrams and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropTotals {
    /// Number of datagrams dropped since the start, for any reason.
    pub datagrams: u64,
    /// Number of connections ended since the start, for any reason.
    pub connections: u64,
}
