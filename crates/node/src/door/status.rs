//! How a node is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::{MemberReport, Node};
use p2pfs_cache::CacheUsage;
use p2pfs_share::ShareStatus;
use p2pfs_types::id::{EpochId, NodeId, NodeName};

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
        let shares = self.shared();
        let warnings = self.warnings(&shares);
        NodeStatus {
            id: self.id(),
            name: self.name().clone(),
            address: self.address(),
            members: self.published.members.load().to_vec(),
            shares,
            cache: self.cache_usage(),
            entries: totals.entries,
            unique_bytes: totals.unique_bytes,
            epoch: self.keyring.current().id(),
            waiting_reads: self.content.waiting_reads(),
            open_versions: self.content.open_versions(),
            dropped_datagrams: self.published.dropped_datagrams() + legacy_datagrams,
            dropped_connections: self.net.counters().dropped.iter().sum(),
            warnings,
            public_warnings: self.running.events.public_warnings(),
        }
    }

    fn warnings(&self, shares: &[ShareStatus]) -> Vec<String> {
        let standing = self.standing_of(shares).into_iter();
        let standing = standing.map(|dir| {
            format!(
                "the disk of {} does not answer: its files are listed as they were, and who reads \
                 them waits in vain; look at it, or stop sharing it",
                dir.display()
            )
        });
        let warnings = self.running.events.warnings();
        warnings.into_iter().chain(standing).collect()
    }

    /// The shares whose disks do not answer, where they were looked at or others wait for them.
    pub fn standing_shares(&self) -> BTreeSet<PathBuf> {
        self.standing_of(&self.shared())
    }

    fn standing_of(&self, shares: &[ShareStatus]) -> BTreeSet<PathBuf> {
        let mut standing = self.running.server.standing_shares();
        let looked_at = shares.iter().filter(|share| share.stands_still);
        standing.extend(looked_at.map(|share| share.dir.clone()));
        standing
    }
}
