//! How a node is.

use std::net::SocketAddr;

use crate::cache::CacheUsage;
use crate::id::{NodeId, NodeName};
use crate::node::{MemberReport, Node, NodeError};
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
    /// What a person should know, oldest first.
    pub warnings: Vec<String>,
}

impl Node {
    /// How it is now.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn status(&self) -> Result<NodeStatus, NodeError> {
        Ok(NodeStatus {
            id: self.id(),
            name: self.name().clone(),
            address: self.address(),
            members: self.members().await?,
            shares: self.shares().list(),
            cache: self.cache_usage(),
            entries: self.view().totals().entries,
            warnings: self.events().warnings(),
        })
    }
}
