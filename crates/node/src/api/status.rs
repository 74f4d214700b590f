//! The status of a node.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::{Audience, MemberReport, Node};
use p2pfs_cache::CacheUsage;
use p2pfs_share::ShareStatus;
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
    /// The totals of the folder.
    pub folder: FolderTotals,
    /// The epoch of the cluster's current secret.
    pub epoch: EpochId,
    /// The reads and the files that are open.
    pub reads: OpenReads,
    /// The dropped datagrams and connections.
    pub dropped: DropTotals,
    /// Warnings, oldest first, then the conditions that stand.
    pub warnings: Vec<String>,
    /// The warnings that every user of this machine may see.
    pub public_warnings: Vec<String>,
}

/// The totals of the folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FolderTotals {
    /// Number of listed files, links and directories.
    pub entries: u64,
    /// Bytes of the different contents that live nodes can give.
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

impl Node {
    /// Returns the current status, at most a tenth of a second old. It does not ask the event loop,
    /// so it answers however busy the node is. For a stopped node it returns the last status.
    pub fn status(&self) -> NodeStatus {
        let foreign = self
            .foreign()
            .map_or(0, |foreign| foreign.dropped_datagrams());
        let totals = self.view().totals();
        let shares = self.shared();
        let standing = self.handles.events.standing();
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
            members: self.handles.published.members.load().to_vec(),
            shares,
            cache: self.cache_usage(),
            folder: FolderTotals {
                entries: totals.entries,
                unique_bytes: totals.unique_bytes,
            },
            epoch: self.identity.keyring.current().id(),
            reads: OpenReads {
                waiting: self.content.waiting_reads(),
                open_versions: self.content.open_versions(),
            },
            dropped: DropTotals {
                datagrams: self.handles.published.dropped_datagrams() + foreign,
                connections: self.handles.net.counters().dropped.iter().sum(),
            },
            warnings: of(self.handles.events.warnings(), Audience::Owner),
            public_warnings: of(self.handles.events.public_warnings(), Audience::Everybody),
        }
    }

    /// Returns the shares whose disks do not answer, according to the scanner or to requests that
    /// are waiting for them.
    pub fn standing_shares(&self) -> BTreeSet<PathBuf> {
        self.standing_of(&self.shared())
    }

    fn standing_of(&self, shares: &[ShareStatus]) -> BTreeSet<PathBuf> {
        let mut standing = self.handles.server.standing_shares();
        let looked_at = shares.iter().filter(|share| share.stands_still);
        standing.extend(looked_at.map(|share| share.dir.clone()));
        standing
    }
}
